// What is fused behind a matrix product: the sums of some rows and columns lie in scratch, and every store of the kernel is
// made of them. Does not compute sums (matmul.ts, quantised.ts, gpu/matmul.ts).

import { dimConstant } from "../ir/dim.ts";
import { add, at, binary, int, load, mul, store, sub } from "../ir/imp/build.ts";
import type { ImpExpr } from "../ir/imp/types.ts";
import { operandsOf, typeOfExpr } from "../ir/kernel/build.ts";
import { substitute } from "../ir/kernel/intern.ts";
import type { Axis, Expr, Stage } from "../ir/kernel/types.ts";
import type { Block, Emitter } from "./emit.ts";
import { coefficient } from "./merge.ts";

export type Store = Extract<Stage, { k: "store" }>;

// Note [The sum as an expression]: in the epilogue the sum varies along m and n, which a plain variable does not say.
// It is replaced by an expression over both axes that is never computed, because every block in which it occurs
// knows its value. The space in its name keeps it apart from every expression of a program.
export function sumExpression(name: string, m: string, n: string): Expr {
  const variable = (axis: string): Expr => ({ k: "var", name: axis, type: "i32" });
  const place: Expr = { k: "binary", op: "add", a: variable(m), b: variable(n), type: "i32" };
  return {
    k: "binary",
    op: "add",
    a: { k: "var", name: `${name} at`, type: "f32" },
    b: { k: "cast", a: place, type: "f32" },
    type: "f32",
  };
}

/** The stores, with the sum and later lets written into them; undefined when one has axes of its own. */
export function storesOf(stages: readonly Stage[], sumName: string, sum: Expr): readonly Store[] | undefined {
  const lets: (readonly [string, Expr])[] = [[sumName, sum]];
  const stores: Store[] = [];
  const inlined = (e: Expr): Expr => lets.reduceRight((value, [name, by]) => substitute(value, name, by), e);
  for (const s of stages) {
    if (s.k === "let") lets.push([s.name, inlined(s.value)]);
    else if (s.axes.length > 0) return undefined;
    else stores.push({ ...s, index: inlined(s.index), value: inlined(s.value) });
  }
  return stores;
}

/** The product whose sums are in scratch. */
interface Sums {
  readonly m: Axis;
  readonly n: Axis;
  /** Stands for the sum in the stores: see Note [The sum as an expression]. Interned. */
  readonly sum: Expr;
  /** Scratch with the sums, row by row, `width` columns each. */
  readonly scratch: string;
  readonly width: number;
}

/** Which sums are there, and which of them are stored. */
interface Part {
  /** The row that scratch begins with. */
  readonly start: ImpExpr;
  /** Rows `from` … `to`-1 are stored, of the columns from `column` on. */
  readonly from: ImpExpr;
  readonly to: ImpExpr;
  readonly column: ImpExpr;
}

/** Stores a part of the result. Expressions of the store are interned. */
export function epilogue(emitter: Emitter, p: Sums, s: Store, block: Block, { start, from, to, column }: Part): void {
  const { width } = p;
  const [m, n] = [p.m.name, p.n.name];
  const variable = (name: string): Expr => emitter.interner.intern({ k: "var", name, type: "i32" });
  const stride = coefficient(s.index, n, emitter);
  const vector = typeOfExpr(s.value) !== "bool" && stride !== undefined && dimConstant(stride) === 1 && emitter.canVector(s.value, n);
  const fixed = dimConstant(p.n.extent);
  const aligned = (by: number): boolean => fixed !== undefined && fixed % by === 0;
  const past = add(column, int(width));
  const last = aligned(width) ? past : emitter.name(block, "last", binary("min", past, emitter.size(p.n.extent)));
  const many = aligned(4) ? last : emitter.name(block, "many", add(column, binary("bitand", sub(last, column), int(-4))));
  const columns = (first: ImpExpr, end: ImpExpr, axis: string | undefined): void => {
    emitter.loop(block, n, first, end, axis === undefined ? 1 : 4, [], (inside) => {
      const at0 = known(inside, variable(n));
      const offset = emitter.name(inside, "offset", sub(sub(at0, column), mul(start, int(width))));
      hoist(emitter, m, s.value, inside, axis);
      emitter.loop(inside, m, from, to, 1, [], (cell) => {
        const row = known(cell, variable(m));
        const place = at(p.scratch, add(mul(row, int(width)), offset));
        cell.remember(p.sum, axis !== undefined, emitter.name(cell, "sum", load(place, axis === undefined ? "f32" : "f32x4")));
        const value = emitter.emit(s.value, cell, axis);
        cell.statements.push(store(emitter.place(s.buffer, s.index, cell), value));
      });
    });
  };
  if (vector) columns(column, many, n);
  if (!vector || !aligned(4)) columns(vector ? many : column, last, undefined);
}

/** Computes in `block` the largest parts of `e` that are the same in every row `m` and certain to be needed. */
function hoist(emitter: Emitter, m: string, e: Expr, block: Block, axis: string | undefined): void {
  if (!emitter.reads.of(e).has(m)) {
    if (e.k !== "const" && e.k !== "var" && e.k !== "dim") emitter.emit(e, block, axis);
  } else if (e.k === "select") hoist(emitter, m, e.cond, block, axis);
  else if (e.k !== "load" && e.k !== "fold" && e.k !== "iterate") for (const c of operandsOf(e)) hoist(emitter, m, c, block, axis);
}

function known(block: Block, e: Expr): ImpExpr {
  const value = block.known(e, false);
  if (value === undefined) throw new Error("a loop's variable is not in sight");
  return value;
}
