// Attention of a single query, for runs too short to pay for packing: four keys at a time from where they lie, then
// the softmax of a block of scores, then the values from where they lie. Uses row 0 of the unit's scratch.

import { add, advance, assign, at, binary, fma, int, load, loadSplat, mul, shuffle, splat, sub, vector } from "../ir/imp/build.ts";
import type { ImpExpr } from "../ir/imp/types.ts";
import {
  beginRow,
  column,
  each,
  endRow,
  keyBlock,
  put,
  scratch,
  set,
  slot,
  softmaxRow,
  stepping,
  type Attention,
} from "./attention-parts.ts";
import { nameOf, type Block } from "./emit.ts";

/** The row of query `t`, which sees keys from … to-1, at least one. */
export function directRow(c: Attention, block: Block, t: ImpExpr, from: ImpExpr, to: ImpExpr): void {
  const { emitter } = c;
  const query = c.query(block, t);
  const row = int(0);
  beginRow(c, block, row);
  const scores = slot(c, block, scratch.scores, row);
  stepping(c, block, "s", from, to, (inside, s) => {
    const left = emitter.name(inside, "left", sub(to, s));
    const count = emitter.name(inside, "count", binary("min", left, int(keyBlock)));
    each(c, inside, "j", int(0), count, 4, (four, j) => dots(c, four, query, add(s, j), sub(to, int(1)), advance(scores, j)));
    softmaxRow(c, inside, scores, count, row);
    mix(c, inside, scores, s, count);
    return count;
  });
  endRow(c, block, row, binary("lt", from, to), c.result(block, t));
}

/** The scores of keys s … s+3; keys behind `last` are taken to be `last`. */
function dots(c: Attention, block: Block, query: ImpExpr, s: ImpExpr, last: ImpExpr, to: ImpExpr): void {
  const { emitter } = c;
  const first = emitter.name(block, "s", s);
  const keys = [0, 1, 2, 3].map((n) => emitter.name(block, "k", c.key(block, binary("min", add(first, int(n)), last))));
  const sums = keys.map(() => emitter.name(block, "dot", vector("f32x4", 0), true));
  const whole = c.inner - (c.inner % 4);
  each(c, block, "i", int(0), int(whole), 4, (inside, i) => {
    const q = emitter.name(inside, "q", load(advance(query, i), "f32x4"));
    for (const [n, sum] of sums.entries()) set(inside, sum, fma(q, load(advance(keys[n] ?? query, i), "f32x4"), sum));
  });
  // Rows of four partial sums to one vector of four sums.
  const [a, b, d, e] = sums;
  if (a === undefined || b === undefined || d === undefined || e === undefined) throw new Error("four keys at a time");
  const fold = (x: ImpExpr, y: ImpExpr): ImpExpr =>
    emitter.name(block, "pair", add(shuffle(x, y, [0, 1, 4, 5]), shuffle(x, y, [2, 3, 6, 7])));
  const [low, high] = [fold(a, b), fold(d, e)];
  let sum = add(shuffle(low, high, [0, 2, 4, 6]), shuffle(low, high, [1, 3, 5, 7]));
  for (let i = whole; i < c.inner; i++) sum = fma(splat(load(query, "f32", i)), column(keys, i), sum);
  put(block, to, mul(sum, vector("f32x4", c.scale)));
}

/** Vectors of features that are summed at once. */
const atOnce = 8;

/** mixed = mixed · shrink + weights · values, for keys s … s+count-1. */
function mix(c: Attention, block: Block, weights: ImpExpr, s: ImpExpr, count: ImpExpr): void {
  const { emitter } = c;
  const sums = slot(c, block, scratch.sums, int(0));
  const shrink = emitter.name(block, "shrink", load(at(scratch.shrink, int(0)), "f32"));
  const values = c.valueStride === undefined ? undefined : emitter.name(block, "v", c.value(block, s));
  const some = (into: Block, start: ImpExpr, vectors: number, ones: number): void => {
    const shrinks = emitter.name(into, "shrink", splat(shrink));
    const to = emitter.name(into, "to", advance(sums, start));
    const wide = Array.from({ length: vectors }, (_, n) => emitter.name(into, "sum", mul(load(to, "f32x4", 4 * n), shrinks), true));
    const single = Array.from({ length: ones }, (_, n) => emitter.name(into, "sum", mul(load(to, "f32", 4 * vectors + n), shrink), true));
    const walked = values === undefined ? undefined : emitter.name(into, "v", advance(values, start), true);
    each(c, into, "j", int(0), count, 1, (inside, j) => {
      const value = walked ?? emitter.name(inside, "v", advance(c.value(inside, add(s, j)), start));
      const w = emitter.name(inside, "w", loadSplat(advance(weights, j), "f32x4"));
      for (const [n, sum] of wide.entries()) set(inside, sum, fma(w, load(value, "f32x4", 4 * n), sum));
      for (const [n, sum] of single.entries())
        set(inside, sum, fma(load(advance(weights, j), "f32"), load(value, "f32", 4 * vectors + n), sum));
      if (walked !== undefined && c.valueStride !== undefined)
        inside.statements.push(assign(nameOf(walked), advance(walked, c.valueStride)));
    });
    for (const [n, sum] of wide.entries()) put(into, to, sum, 4 * n);
    for (const [n, sum] of single.entries()) put(into, to, sum, 4 * vectors + n);
  };
  const step = 4 * atOnce;
  const whole = c.features - (c.features % step);
  if (whole > 0) each(c, block, "e", int(0), int(whole), step, (inside, e) => some(inside, e, atOnce, 0));
  const rest = c.features - whole;
  if (rest > 0) some(block, int(whole), Math.floor(rest / 4), rest % 4);
}
