// What the paths of the attention builder share: the facts of the kernel, positions of its rows, loops over Imp
// blocks, and the softmax of one row of scores. Does not decide which path a row takes (attention.ts).

import {
  across,
  add,
  advance,
  assign,
  at,
  binary,
  bitcast,
  fastMinMax,
  float,
  fma,
  gathered,
  int,
  lane,
  load,
  local,
  mul,
  splat,
  store,
  sub,
  typeOfImp,
  vector,
} from "../ir/imp/build.ts";
import type { ImpExpr } from "../ir/imp/types.ts";
import { substitute } from "../ir/kernel/intern.ts";
import type { Expr } from "../ir/kernel/types.ts";
import { Block, nameOf, type Emitter } from "./emit.ts";

/** Scratch of a unit; the same in every variant, since the plan reserves it once. */
export const scratch = {
  /** Queries of a run, [row][inner], times the scale. */
  queries: "queries",
  /** A block of keys, [keys/8][inner][8]. */
  keys: "keys_packed",
  /** The same block's values, [features/8][keys][8]. */
  values: "values_packed",
  /** Scores, then weights, of a few rows: [row][scoreStride]. */
  scores: "scores",
  /** Weighted sums of values so far, [row][features, in eights]. */
  sums: "mixed",
  /** The largest score so far and the sum of weights so far, by row. */
  top: "top",
  total: "total",
  /** What this block's larger maximum does to the sums so far, by row. */
  shrink: "shrink",
  /** Where the keys of a row end, and how many of this block it sees. */
  ends: "ends",
  seen: "seen",
} as const;

/** Most queries of one unit: enough to pay for packing, few enough to share out. See Note [Blocks of attention]. */
export const queryBlock = 192;
/** Most keys of one block: K and V of a block (64 features) are 128 KiB, and the scores of `scoreRows` rows 24 KiB. */
export const keyBlock = 256;
/** Rows whose scores are held at once; a multiple of every tile's rows. */
export const scoreRows = 24;
/** A row of scores, with room for what the last vectors of a row read past its end. */
export const scoreStride = keyBlock + 8;
/** Runs of fewer queries go without packing: a tile would compute four rows or more anyway. */
export const directBelow = 4;

/** Everything that is known when code is made. */
export interface Attention {
  readonly emitter: Emitter;
  readonly root: Block;
  /** Features of queries and keys, and of values. */
  readonly inner: number;
  readonly features: number;
  /** `features` rounded up to eights. */
  readonly width: number;
  /** The op's scale times log2 e: powers are of two. */
  readonly scale: number;
  /** Rows of a tile; divides scoreRows. */
  readonly rows: number;
  /** Position of query t's first feature, and of the result's. */
  readonly query: (block: Block, t: ImpExpr) => ImpExpr;
  readonly result: (block: Block, t: ImpExpr) => ImpExpr;
  /** The same of the unit's head and of those behind it that read the same keys and values. */
  readonly group: readonly Pick<Attention, "query" | "result">[];
  readonly from: (block: Block, t: ImpExpr) => ImpExpr;
  readonly to: (block: Block, t: ImpExpr) => ImpExpr;
  /** Position of key s's first feature, and of value s's. */
  readonly key: (block: Block, s: ImpExpr) => ImpExpr;
  readonly value: (block: Block, s: ImpExpr) => ImpExpr;
  /** How far apart the values of neighbouring keys are; undefined where each is looked up. */
  readonly valueStride: ImpExpr | undefined;
  /** The unit's part of the keys: of the runs of `keys` keys every `count`-th. What is stored is then not divided yet. */
  readonly part?: { readonly number: ImpExpr; readonly count: ImpExpr; readonly keys: number };
}

/** What makes code needs no more than the emitter. */
export type Emitting = Pick<Attention, "emitter">;

/** `e` where `axis` is `value`. The block must not be asked for `e` at another place. */
export function emitAt(emitter: Emitter, block: Block, e: Expr, axis: string, value: ImpExpr): ImpExpr {
  // A block of its own, so that what was computed for one place is not taken for another.
  const inside = new Block(block);
  inside.remember(emitter.interner.intern({ k: "var", name: axis, type: "i32" }), false, value);
  const result = emitter.emit(emitter.interner.intern(e), inside, undefined);
  block.statements.push(...inside.statements);
  return result;
}

export function zeroed(e: Expr, axis: string): Expr {
  return substitute(e, axis, { k: "const", type: "i32", value: 0 });
}

/** `for` i = from, from+step … before `to`. */
export function each(
  c: Emitting,
  block: Block,
  hint: string,
  from: ImpExpr,
  to: ImpExpr,
  step: number,
  body: (inside: Block, i: ImpExpr) => void,
): void {
  const name = c.emitter.fresh(hint);
  const inside = new Block(block);
  body(inside, local(name, "i32"));
  block.statements.push({ k: "for", name, from, to, step, body: inside.statements });
}

/** `body` while start < end; `body` says by how much start grows. */
export function stepping(
  c: Emitting,
  block: Block,
  hint: string,
  start: ImpExpr,
  end: ImpExpr,
  body: (inside: Block, i: ImpExpr) => ImpExpr,
): void {
  const i = c.emitter.name(block, hint, start, true);
  const inside = new Block(block);
  const by = body(inside, i);
  inside.statements.push(assign(nameOf(i), add(i, by)));
  block.statements.push({ k: "while", cond: binary("lt", i, end), body: inside.statements });
}

export function branch(block: Block, cond: ImpExpr, then: (inside: Block) => void, otherwise?: (inside: Block) => void): void {
  const [yes, no] = [new Block(block), new Block(block)];
  then(yes);
  otherwise?.(no);
  block.statements.push({ k: "if", cond, then: yes.statements, else: no.statements });
}

export function set(block: Block, variable: ImpExpr, value: ImpExpr): void {
  block.statements.push(assign(nameOf(variable), value));
}

export function put(block: Block, ptr: ImpExpr, value: ImpExpr, offset = 0): void {
  block.statements.push(store(ptr, value, offset));
}

/** `index · size` as a position of a scratch array. */
export function slot(c: Emitting, block: Block, name: string, index: ImpExpr, size = 1, offset: ImpExpr = int(0)): ImpExpr {
  return c.emitter.name(block, "p", at(name, add(mul(index, int(size)), offset)));
}

/** Copies `count` consecutive floats through `change`, four at a time. */
export function copy(
  c: Emitting,
  block: Block,
  from: ImpExpr,
  to: ImpExpr,
  count: number,
  change: (value: ImpExpr) => ImpExpr = (v) => v,
): void {
  const whole = count - (count % 4);
  const step = whole % 16 === 0 ? 16 : 4;
  each(c, block, "i", int(0), int(whole), step, (inside, i) => {
    const [a, b] = [c.emitter.name(inside, "a", advance(from, i)), c.emitter.name(inside, "b", advance(to, i))];
    for (let n = 0; n < step; n += 4) put(inside, b, change(load(a, "f32x4", n)), n);
  });
  for (let i = whole; i < count; i++) put(block, to, change(load(from, "f32", i)), i);
}

/** Element `i` of each of four rows. */
export function column(rows: readonly ImpExpr[], i: number): ImpExpr {
  const [a, b, d, e] = rows.map((r) => load(r, "f32", i));
  if (a === undefined || b === undefined || d === undefined || e === undefined) throw new Error("a column is of four rows");
  return gathered(a, b, d, e);
}

/** Below every score; not -infinity, so that a block of scores of -infinity takes nothing from the blocks around it. */
export const lowest = -3.4028234663852886e38;

/**
 * 2^x for x ≤ 0, four lanes. 2^n · p(x - n) with n = round(x) found by adding 1.5·2^23, whose low bits then are n.
 * p is the polynomial of degree 5 with p(0) = 1 and the least relative error on |r| ≤ ½, 9.2e-8. Below 2^-126 the
 * result is 0; NaN stays NaN.
 */
export function power(c: Emitting, block: Block, x: ImpExpr): ImpExpr {
  const v = (value: number): ImpExpr => vector("f32x4", value);
  const keep = (hint: string, value: ImpExpr): ImpExpr => c.emitter.name(block, hint, value);
  // With NaN on its left the maximum is NaN.
  const clamped = keep("x", fastMinMax("max", x, v(-127)));
  const shifted = keep("n", add(clamped, v(12582912)));
  const r = keep("r", sub(clamped, sub(shifted, v(12582912))));
  const p = [0.00967151263965369, 0.05550733743251499, 0.2402224208537497, 0.6931469775991644, 1].reduce(
    (sum, coefficient) => fma(sum, r, v(coefficient)),
    v(0.0013264727197387798),
  );
  const exponent = add(binary("shl", bitcast(shifted, "i32x4"), vector("i32x4", 23)), vector("i32x4", 127 << 23));
  return mul(p, bitcast(exponent, "f32x4"));
}

/** 2^x of one f32 x ≤ 0. */
function powerOfOne(c: Emitting, block: Block, x: ImpExpr): ImpExpr {
  const wide = c.emitter.name(block, "w", power(c, block, splat(x)));
  return lane(wide, 0);
}

/**
 * Turns the first `count` scores at `row` into weights 2^(score - top), with `top` the largest of them and of the
 * scores before, and updates the row's top, total and shrink. Eight columns behind `count` are overwritten.
 */
export function softmaxRow(c: Emitting, block: Block, row: ImpExpr, count: ImpExpr, at_: ImpExpr): void {
  const { emitter } = c;
  const end = emitter.name(block, "end", advance(row, count));
  for (const half of [0, 4]) put(block, end, vector("f32x4", -Infinity), half);
  const before = emitter.name(block, "before", load(at(scratch.top, at_), "f32"));
  const best = [0, 1].map(() => emitter.name(block, "best", splat(before), true));
  each(c, block, "i", int(0), count, 8, (inside, i) => {
    const p = emitter.name(inside, "p", advance(row, i));
    // NaN is never taken: it shows in the sum.
    for (const [n, b] of best.entries()) set(inside, b, fastMinMax("max", b, load(p, "f32x4", 4 * n)));
  });
  const [left = before, right = before] = best;
  const top = emitter.name(block, "top", across("max", emitter.name(block, "best", fastMinMax("max", left, right))));
  const tops = emitter.name(block, "tops", splat(top));
  const sums = [0, 1].map(() => emitter.name(block, "sum", vector("f32x4", 0), true));
  each(c, block, "i", int(0), count, 8, (inside, i) => {
    const p = emitter.name(inside, "p", advance(row, i));
    for (const [n, s] of sums.entries()) {
      const w = emitter.name(inside, "w", power(c, inside, sub(load(p, "f32x4", 4 * n), tops)));
      put(inside, p, w, 4 * n);
      set(inside, s, add(s, w));
    }
  });
  const [one = top, two = top] = sums;
  const shrink = emitter.name(block, "shrink", powerOfOne(c, block, sub(before, top)));
  const total = at(scratch.total, at_);
  put(block, total, fma(load(total, "f32"), shrink, across("add", emitter.name(block, "sum", add(one, two)))));
  put(block, at(scratch.top, at_), top);
  put(block, at(scratch.shrink, at_), shrink);
}

/** Keys of a unit: those from … to-1, or the runs of them that are its part. `first` is the first one, at or behind `to` if none. */
export interface KeyRuns {
  readonly first: ImpExpr;
  readonly each: (into: Block, body: (inside: Block, from: ImpExpr, to: ImpExpr) => void) => void;
}

export function keyRuns(c: Attention, block: Block, from: ImpExpr, to: ImpExpr): KeyRuns {
  if (c.part === undefined) return { first: from, each: (into, body) => body(into, from, to) };
  const { emitter } = c;
  const { number, count, keys } = c.part;
  // A part that is the only one has all keys in one run.
  const whole = binary("max", to, int(1));
  const size = emitter.name(block, "size", { k: "select", cond: binary("eq", count, int(1)), a: whole, b: int(keys), type: "i32" });
  const before = emitter.name(block, "before", binary("div", from, size));
  const start = emitter.name(block, "start", mul(add(before, binary("mod", sub(number, before), count)), size));
  return {
    first: emitter.name(block, "first", binary("max", start, from)),
    each: (into, body) =>
      stepping(c, into, "run", start, to, (inside, run) => {
        const end = binary("min", add(run, size), to);
        body(inside, emitter.name(inside, "from", binary("max", run, from)), emitter.name(inside, "to", end));
        return mul(size, count);
      }),
  };
}

/** Nothing seen yet. */
export function beginRow(c: Attention, block: Block, row: ImpExpr): void {
  put(block, at(scratch.top, row), float(lowest));
  put(block, at(scratch.total, row), float(0));
  put(block, at(scratch.shrink, row), float(0));
  const sums = slot(c, block, scratch.sums, row, c.width);
  each(c, block, "i", int(0), int(c.width), 8, (inside, i) => {
    for (const half of [0, 4]) put(inside, advance(sums, i), vector("f32x4", 0), half);
  });
}

/** Writes the mean that `row` holds to `to`; zeros when it saw no key. Of a part, its sums, the largest score and the sum of weights. */
export function endRow(c: Attention, block: Block, row: ImpExpr, seesKeys: ImpExpr, to: ImpExpr): void {
  if (c.part !== undefined) {
    copy(c, block, slot(c, block, scratch.sums, row, c.width), to, c.features);
    const top: ImpExpr = { k: "select", cond: seesKeys, a: load(at(scratch.top, row), "f32"), b: float(-Infinity), type: "f32" };
    putEnds(c, block, to, top, load(at(scratch.total, row), "f32"));
    return;
  }
  branch(
    block,
    seesKeys,
    (inside) => {
      const part = c.emitter.name(inside, "part", binary("div", float(1), load(at(scratch.total, row), "f32")));
      const parts = c.emitter.name(inside, "parts", splat(part));
      const sums = slot(c, inside, scratch.sums, row, c.width);
      copy(c, inside, sums, to, c.features, (v) => mul(v, typeOfImp(v) === "f32x4" ? parts : part));
    },
    (inside) => zeroRow(c, inside, to),
  );
}

/** A row that sees no key. */
export function emptyRow(c: Attention, block: Block, to: ImpExpr): void {
  zeroRow(c, block, to);
  if (c.part !== undefined) putEnds(c, block, to, float(-Infinity), float(0));
}

/** What stands behind the sums of a part. */
function putEnds(c: Attention, block: Block, to: ImpExpr, top: ImpExpr, total: ImpExpr): void {
  put(block, to, top, c.features);
  put(block, to, total, c.features + 1);
}

function zeroRow(c: Attention, block: Block, to: ImpExpr): void {
  const whole = c.features - (c.features % 4);
  each(c, block, "i", int(0), int(whole), 4, (inside, i) => put(inside, advance(to, i), vector("f32x4", 0)));
  for (let i = whole; i < c.features; i++) put(block, to, float(0), i);
}
