// Attention of a single query, for runs too short to pay for packing: four keys at a time from where they lie, then
// the softmax of a block of scores, then the values from where they lie. Uses row 0 of the unit's scratch; several heads that
// read the same keys a row each.
//
// Note [Heads that share keys]. A token that looks at thousands of others reads the cache, and little else: 2 MB for each of
// SmolLM2's key heads at 4000 tokens. Head by head that was three times as much, from the third-level cache at best. So one
// unit does all heads of a key head, and each vector of keys and values is loaded once for three of them; what it costs is
// that there are fewer units to share out. Rows of values are read whole, four at a time, with the sums in memory (the
// first-level cache): keeping sums in variables would walk over all rows once for each line of them.

import { add, advance, assign, at, binary, fma, int, load, loadSplat, lt, mul, shuffle, splat, sub, vector } from "../ir/imp/build.ts";
import type { ImpExpr } from "../ir/imp/types.ts";
import {
  beginRow,
  branch,
  column,
  each,
  emptyRow,
  endRow,
  keyBlock,
  keyRuns,
  put,
  scoreStride,
  scratch,
  set,
  slot,
  softmaxRow,
  stepping,
  type Attention,
  type KeyRuns,
} from "./attention-parts.ts";
import { nameOf, type Block } from "./emit.ts";

/** `count` keys from `s` on at a time, of a run that ends before `end`. */
function keyBlocks(
  c: Attention,
  block: Block,
  runs: KeyRuns,
  body: (inside: Block, s: ImpExpr, count: ImpExpr, end: ImpExpr) => void,
): void {
  runs.each(block, (run, begin, end) =>
    stepping(c, run, "s", begin, end, (inside, s) => {
      const left = c.emitter.name(inside, "left", sub(end, s));
      const count = c.emitter.name(inside, "count", binary("min", left, int(keyBlock)));
      body(inside, s, count, end);
      return count;
    }),
  );
}

/** Rows that see keys from … to-1, at least one: `body` where one of these is in the unit's part, else rows of none. */
function withKeys(
  c: Attention,
  block: Block,
  [from, to]: readonly [ImpExpr, ImpExpr],
  results: readonly ImpExpr[],
  body: (inside: Block, runs: KeyRuns) => void,
): void {
  const runs = keyRuns(c, block, from, to);
  if (c.part === undefined) body(block, runs);
  else
    branch(
      block,
      lt(runs.first, to),
      (some) => body(some, runs),
      (none) => {
        for (const result of results) emptyRow(c, none, result);
      },
    );
}

/** The row of query `t`, which sees keys from … to-1, at least one. */
export function directRow(c: Attention, block: Block, t: ImpExpr, from: ImpExpr, to: ImpExpr): void {
  const query = c.query(block, t);
  const result = c.result(block, t);
  const row = int(0);
  withKeys(c, block, [from, to], [result], (some, runs) => {
    beginRow(c, some, row);
    const scores = slot(c, some, scratch.scores, row);
    keyBlocks(c, some, runs, (inside, s, count, end) => {
      each(c, inside, "j", int(0), count, 4, (four, j) => dots(c, four, query, add(s, j), sub(end, int(1)), advance(scores, j)));
      softmaxRow(c, inside, scores, count, row);
      mix(c, inside, scores, s, count);
    });
    endRow(c, some, row, lt(from, to), result);
  });
}

/** Heads whose sums with four keys are twelve variables. */
const headsAtOnce = 3;

/** The rows of query `t` of all heads of the group, which see keys from … to-1, at least one. */
export function directGroup(c: Attention, block: Block, t: ImpExpr, from: ImpExpr, to: ImpExpr): void {
  const { group } = c;
  const heads = group.map(({ query, result }, n) => ({ row: int(n), query: query(block, t), result: result(block, t) }));
  const results = heads.map((h) => h.result);
  withKeys(c, block, [from, to], results, (some, runs) => {
    const scores = heads.map(({ row }) => slot(c, some, scratch.scores, row, scoreStride));
    for (const { row } of heads) beginRow(c, some, row);
    keyBlocks(c, some, runs, (inside, s, count, end) => groupBlock(c, inside, heads, scores, { s, count, end }));
    for (const { row, result } of heads) endRow(c, some, row, lt(from, to), result);
  });
}

/** What a block of keys adds to the rows of the group's heads. */
function groupBlock(
  c: Attention,
  block: Block,
  heads: readonly { readonly row: ImpExpr; readonly query: ImpExpr }[],
  scores: readonly ImpExpr[],
  { s, count, end }: { readonly s: ImpExpr; readonly count: ImpExpr; readonly end: ImpExpr },
): void {
  const { emitter } = c;
  const parts = Math.ceil(heads.length / headsAtOnce);
  const some = Array.from({ length: parts }, (_, i) =>
    heads.map((_head, n) => n).slice(Math.floor((i * heads.length) / parts), Math.floor(((i + 1) * heads.length) / parts)),
  );
  const of = <T>(list: readonly T[], places: readonly number[]): readonly T[] => places.flatMap((n) => list.slice(n, n + 1));
  each(c, block, "j", int(0), count, 4, (four, j) => {
    const keys = fourOf(c, four, c.key, add(s, j), sub(end, int(1)));
    for (const places of some) {
      const queries = of(heads, places).map((h) => h.query);
      const sums = dotsOf(c, four, queries, keys);
      for (const [i, n] of places.entries()) put(four, advance(scores[n] ?? s, j), sums[i] ?? s);
    }
  });
  for (const [n, { row }] of heads.entries()) {
    softmaxRow(c, block, scores[n] ?? s, count, row);
    shrinkSums(c, block, row);
  }
  // Each value once: of one that is not finite a weight of 0 is not nothing.
  const fours = emitter.name(block, "fours", sub(count, binary("mod", count, int(4))));
  each(c, block, "j", int(0), fours, 4, (four, j) => {
    const values = fourOf(c, four, c.value, add(s, j));
    for (const places of some) mixOf(c, four, places, of(scores, places), j, values);
  });
  each(c, block, "j", fours, count, 1, (one, j) => {
    const value = emitter.name(one, "v", c.value(one, add(s, j)));
    for (const places of some) mixOf(c, one, places, of(scores, places), j, [value]);
  });
}

/** Where keys or values s … s+3 are; those behind `last` are taken to be `last`. */
function fourOf(c: Attention, block: Block, place: Attention["key"], s: ImpExpr, last?: ImpExpr): readonly ImpExpr[] {
  const first = c.emitter.name(block, "s", s);
  const each4 = [0, 1, 2, 3].map((n) => add(first, int(n)));
  return each4.map((at4) => c.emitter.name(block, "k", place(block, last === undefined ? at4 : binary("min", at4, last))));
}

/** For each query its scores with four keys. */
function dotsOf(c: Attention, block: Block, queries: readonly ImpExpr[], keys: readonly ImpExpr[]): readonly ImpExpr[] {
  const { emitter } = c;
  const sums = queries.map(() => keys.map(() => emitter.name(block, "dot", vector("f32x4", 0), true)));
  const whole = c.inner - (c.inner % 4);
  const step = stepOf(whole);
  each(c, block, "i", int(0), int(whole), step, (inside, i) => {
    const from = queries.map((query) => emitter.name(inside, "p", advance(query, i)));
    const at4 = keys.map((key) => emitter.name(inside, "p", advance(key, i)));
    for (let v = 0; v < step; v += 4) {
      const q = from.map((ptr) => emitter.name(inside, "q", load(ptr, "f32x4", v)));
      for (const [n, ptr] of at4.entries()) {
        const k = emitter.name(inside, "k", load(ptr, "f32x4", v));
        for (const [h, own] of sums.entries()) {
          const sum = own[n];
          if (sum !== undefined) set(inside, sum, fma(q[h] ?? k, k, sum));
        }
      }
    }
  });
  return sums.map((own, h) => {
    let sum = folded(c, block, own);
    for (let i = whole; i < c.inner; i++) sum = fma(splat(load(queries[h] ?? sum, "f32", i)), column(keys, i), sum);
    return mul(sum, vector("f32x4", c.scale));
  });
}

/** The sums of a row are times what a larger maximum makes of them. */
function shrinkSums(c: Attention, block: Block, row: ImpExpr): void {
  const shrink = c.emitter.name(block, "shrink", splat(load(at(scratch.shrink, row), "f32")));
  const sums = slot(c, block, scratch.sums, row, c.width);
  each(c, block, "e", int(0), int(c.width), 8, (inside, e) => {
    const p = c.emitter.name(inside, "p", advance(sums, e));
    for (const half of [0, 4]) put(inside, p, mul(load(p, "f32x4", half), shrink), half);
  });
}

/** How many features a loop over `whole` of them takes at a time: addresses are computed once for these. */
const stepOf = (whole: number): number => (whole % 16 === 0 ? 16 : whole % 8 === 0 ? 8 : 4);

/** Adds some values, each times its weight, to the sums of some rows. */
function mixOf(
  c: Attention,
  block: Block,
  rows: readonly number[],
  weights: readonly ImpExpr[],
  j: ImpExpr,
  values: readonly ImpExpr[],
): void {
  const { emitter } = c;
  const own = weights.map((w) => emitter.name(block, "w", advance(w, j)));
  const splats = own.map((w) => values.map((_, n) => emitter.name(block, "w", loadSplat(w, "f32x4", n))));
  const sums = rows.map((row) => slot(c, block, scratch.sums, int(row), c.width));
  const whole = c.features - (c.features % 4);
  const step = stepOf(whole);
  each(c, block, "e", int(0), int(whole), step, (inside, e) => {
    const to = sums.map((sum) => emitter.name(inside, "to", advance(sum, e)));
    const from = values.map((value) => emitter.name(inside, "p", advance(value, e)));
    for (let i = 0; i < step; i += 4) {
      const v = from.map((ptr) => emitter.name(inside, "v", load(ptr, "f32x4", i)));
      for (const [h, ptr] of to.entries()) {
        const mixed = v.reduce((sum, value, n) => fma(splats[h]?.[n] ?? value, value, sum), load(ptr, "f32x4", i));
        put(inside, ptr, mixed, i);
      }
    }
  });
  for (let e = whole; e < c.features; e++)
    for (const [h, sum] of sums.entries()) {
      const w = own[h] ?? sum;
      const mixed = values.reduce((all, value, n) => fma(load(w, "f32", n), load(value, "f32", e), all), load(sum, "f32", e));
      put(block, sum, mixed, e);
    }
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
  let sum = folded(c, block, sums);
  for (let i = whole; i < c.inner; i++) sum = fma(splat(load(query, "f32", i)), column(keys, i), sum);
  put(block, to, mul(sum, vector("f32x4", c.scale)));
}

/** Four vectors of partial sums to one vector of four sums. */
function folded(c: Attention, block: Block, sums: readonly ImpExpr[]): ImpExpr {
  const [a, b, d, e] = sums;
  if (a === undefined || b === undefined || d === undefined || e === undefined) throw new Error("four keys at a time");
  const fold = (x: ImpExpr, y: ImpExpr): ImpExpr =>
    c.emitter.name(block, "pair", add(shuffle(x, y, [0, 1, 4, 5]), shuffle(x, y, [2, 3, 6, 7])));
  const [low, high] = [fold(a, b), fold(d, e)];
  return add(shuffle(low, high, [0, 2, 4, 6]), shuffle(low, high, [1, 3, 5, 7]));
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
