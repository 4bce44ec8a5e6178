// Sums of rows by an index, as the derivative of a gather has them. The kernel pulls: each row of the result looks at every
// index. Where a unit has the memory to itself, the rows are pushed instead: each index is looked at once, and its row is
// added to where it belongs. Knows one form of body; what follows the sum in the same kernel is done in a last round.
//
// Note [Pushed sums]
//   out[r, c] = f(Σᵢ select(index[i] == r, x[i, c], 0)) costs rows · indices comparisons when it is pulled, which for the
//   positions of eight pictures was a third of a training step. Pushed it costs the additions. A unit has some columns of all
//   rows, so that no two units write one element and every sum is in the order of i, as in the pulled form: with one loop the
//   result is the same to the bit. An index out of range adds nothing, as there.

import { dim, dimAdd, dimDiv } from "../ir/dim.ts";
import type { ImpExpr, ImpFunction } from "../ir/imp/types.ts";
import type { Axis, Expr, Kernel, Stage } from "../ir/kernel/types.ts";
import { mapOperands, operandsOf } from "../ir/kernel/build.ts";
import { strideOf } from "../ir/kernel/intern.ts";
import type { Capabilities } from "./capabilities.ts";
import { binary, Block, Emitter, int } from "./emit.ts";
import { finish, unitName } from "./finish.ts";

type Fold = Extract<Expr, { k: "fold" }>;

/** Columns of a unit: a line of the cache, so that two threads never write to one. */
const unitColumns = 16;

interface Scatter {
  readonly stage: Extract<Stage, { k: "store" }>;
  readonly rows: Axis;
  readonly columns: Axis;
  /** From the outermost to the innermost, the sum's loops. */
  readonly folds: readonly Fold[];
  /** The row that a place of the loops adds to, and what it adds. */
  readonly row: Expr;
  readonly added: Expr;
  /** What becomes of the sums, which it loads from where they are; undefined where they are the result. */
  readonly after: Expr | undefined;
}

/** Undefined for a kernel that is no sum of rows by an index. */
export function lowerScatter(kernel: Kernel, capabilities: Capabilities): ImpFunction | undefined {
  if (capabilities.vector === 1) return undefined;
  const emitter = new Emitter(kernel.buffers, true);
  const found = scatterOf(kernel, emitter);
  if (found === undefined) return undefined;
  const { stage, rows, columns, folds, row, added, after } = found;
  const { interner } = emitter;
  const variable = (name: string): Expr => interner.intern({ k: "var", name, type: "i32" });
  const root = new Block();
  const width = emitter.size(columns.extent);
  const from = emitter.name(root, "from", binary("mul", { k: "var", name: unitName, type: "i32" }, int(unitColumns), "i32"));
  const end = emitter.name(root, "to", binary("min", binary("add", from, int(unitColumns), "i32"), width, "i32"));
  const count = binary("bitand", binary("sub", end, from, "i32"), int(-4), "i32");
  const many = emitter.name(root, "many", binary("add", from, count, "i32"));
  const height = emitter.name(root, "rows", emitter.size(rows.extent));

  /** Four columns at a time, and what is left one by one. */
  const across = (block: Block, hoist: readonly Expr[], body: (inside: Block, axis: string | undefined) => void): void => {
    emitter.loop(block, columns.name, from, many, 4, hoist, (inside) => body(inside, columns.name));
    emitter.loop(block, columns.name, many, end, 1, [], (inside) => body(inside, undefined));
  };
  const place = (inside: Block): ImpExpr => emitter.place(stage.buffer, stage.index, inside);
  const typeAlong = (axis: string | undefined): "f32" | "f32x4" => (axis === undefined ? "f32" : "f32x4");
  const store = (inside: Block, value: ImpExpr, ptr = place(inside)): void => {
    inside.statements.push({ k: "store", ptr, offset: 0, value });
  };

  emitter.loop(root, rows.name, int(0), height, 1, [], (inside) => {
    across(inside, [], (at, axis) => store(at, { k: "const", type: typeAlong(axis), value: 0 }));
  });
  const sum = (block: Block, depth: number): void => {
    const fold = folds[depth];
    if (fold !== undefined) {
      const [first, last] = [emitter.emit(fold.from, block, undefined), emitter.emit(fold.to, block, undefined)];
      emitter.loop(block, fold.axis, first, last, 1, [], (inside) => sum(inside, depth + 1));
      return;
    }
    const to = emitter.emit(row, block, undefined);
    const within = new Block(block);
    within.remember(variable(rows.name), false, to);
    across(within, [added], (at, axis) => {
      const ptr = place(at);
      const before: ImpExpr = { k: "load", ptr, offset: 0, type: typeAlong(axis) };
      store(at, binary("add", before, emitter.emit(added, at, axis), typeAlong(axis)), ptr);
    });
    const inRange: ImpExpr = {
      k: "select",
      cond: binary("ge", to, int(0), "bool"),
      a: binary("lt", to, height, "bool"),
      b: { k: "const", type: "bool", value: 0 },
      type: "bool",
    };
    block.statements.push({ k: "if", cond: inRange, then: within.statements, else: [] });
  };
  sum(root, 0);
  if (after !== undefined)
    emitter.loop(root, rows.name, int(0), height, 1, [], (inside) => {
      across(inside, [after], (at, axis) => store(at, emitter.emit(after, at, axis)));
    });
  const fn = finish(kernel, emitter, dimDiv(dimAdd(columns.extent, dim(unitColumns - 1)), dim(unitColumns)), root.statements);
  return { ...fn, buffers: fn.buffers.map((b) => (b.name === stage.buffer ? { ...b, access: "readwrite" } : b)) };
}

function scatterOf(kernel: Kernel, emitter: Emitter): Scatter | undefined {
  const [stage] = kernel.stages;
  const [rows, columns] = kernel.axes;
  if (kernel.stages.length !== 1 || stage?.k !== "store" || stage.axes.length > 0) return undefined;
  if (kernel.axes.length !== 2 || rows === undefined || columns === undefined) return undefined;
  if (kernel.buffers.some((b) => b.name === stage.buffer && b.dtype !== "f32")) return undefined;
  const { interner, reads } = emitter;
  const [value, index] = [interner.intern(stage.value), interner.intern(stage.index)];
  const places = new Set([rows.name, columns.name]);
  const fixed = (e: Expr): boolean => ![...reads.of(e)].some((name) => places.has(name));
  const sum = outermostSum(value);
  if (sum === undefined) return undefined;
  const folds: Fold[] = [];
  let body: Expr = sum;
  while (body.k === "fold") {
    if (body.op !== "sum" || body.type !== "f32" || !fixed(body.from) || !fixed(body.to)) return undefined;
    folds.push(body);
    body = body.body;
  }
  if (body.k !== "select" || body.cond.k !== "binary" || body.cond.op !== "eq" || body.b.k !== "const" || body.b.value !== 0)
    return undefined;
  const isRow = (e: Expr): boolean => e.k === "var" && e.name === rows.name;
  const { a, b } = body.cond;
  const row = isRow(b) && fixed(a) ? a : isRow(a) && fixed(b) ? b : undefined;
  if (row === undefined || strideOf(index, columns.name, reads) !== 1 || !emitter.canVector(value, columns.name)) return undefined;
  const after = sum === value ? undefined : replaced(value, sum, { k: "load", buffer: stage.buffer, index, type: "f32" });
  return {
    stage: { ...stage, value, index },
    rows,
    columns,
    folds,
    row,
    added: body.a,
    after: after === undefined ? undefined : interner.intern(after),
  };
}

/** The first fold of an expression that is in no other. */
function outermostSum(e: Expr): Fold | undefined {
  // What is shared is looked at once: the random numbers of an op are millions of paths to few parts.
  const seen = new Set<Expr>();
  const within = (x: Expr): Fold | undefined => {
    if (x.k === "fold") return x;
    if (seen.has(x)) return undefined;
    seen.add(x);
    for (const part of operandsOf(x)) {
      const found = within(part);
      if (found !== undefined) return found;
    }
    return undefined;
  };
  return within(e);
}

function replaced(e: Expr, what: Expr, by: Expr): Expr {
  const done = new Map<Expr, Expr>([[what, by]]);
  const within = (x: Expr): Expr => {
    const known = done.get(x) ?? mapOperands(x, within);
    done.set(x, known);
    return known;
  };
  return within(e);
}
