// Attention of a run of queries that see the same keys, or begin to: keys and values of a block are packed into
// panels once for all queries of the run, then a few rows at a time go through scores, softmax and values.
// The sizes of the blocks are explained in Note [Blocks of attention] of attention.ts.

import { add, advance, at, binary, fma, float, int, load, loadSplat, lt, mul, shuffle, sub, vector } from "../ir/imp/build.ts";
import type { ImpExpr } from "../ir/imp/types.ts";
import {
  beginRow,
  branch,
  column,
  copy,
  each,
  endRow,
  keyBlock,
  keyRuns,
  put,
  scoreRows,
  scoreStride,
  scratch,
  set,
  slot,
  softmaxRow,
  stepping,
  type Attention,
  type Emitting,
} from "./attention-parts.ts";
import type { Block } from "./emit.ts";
import { tile } from "./tile.ts";

/** Steps of a product's inner loop that are written out. */
const unroll = 8;

/** Queries t … t+count-1, which see keys from … to ends[row]-1; `to` is the largest of the ends and is above `from`. */
export function tiledRun(c: Attention, block: Block, t: ImpExpr, count: ImpExpr, from: ImpExpr, to: ImpExpr): void {
  const { emitter } = c;
  const padded = emitter.name(block, "padded", mul(binary("div", add(count, int(c.rows - 1)), int(c.rows)), int(c.rows)));
  takeQueries(c, block, t, count, padded);
  const runs = keyRuns(c, block, from, to);
  runs.each(block, (run, begin, last) => {
    // Blocks of equal size: a last one of a few keys would cost as much as many.
    const keys = emitter.name(run, "keys", sub(last, begin));
    const blocks = emitter.name(run, "blocks", binary("div", add(keys, int(keyBlock - 1)), int(keyBlock)));
    const even = binary("div", add(keys, sub(blocks, int(1))), blocks);
    const size = emitter.name(run, "size", binary("bitand", add(even, int(7)), int(-8)));
    stepping(c, run, "s", begin, last, (inside, s) => {
      const here = emitter.name(inside, "here", binary("min", size, sub(last, s)));
      packKeys(c, inside, s, here);
      packValues(c, inside, s, here);
      each(c, inside, "r", int(0), padded, scoreRows, (some, r) => {
        const rows = emitter.name(some, "rows", binary("min", int(scoreRows), sub(padded, r)));
        const real = emitter.name(some, "real", binary("min", rows, sub(count, r)));
        const columns = countSeen(c, some, r, rows, s, here);
        branch(some, lt(int(0), columns), (work) => {
          scoreTiles(c, work, r, rows, columns);
          each(c, work, "i", int(0), real, 1, (row, i) => {
            const seen = emitter.name(row, "seen", load(at(scratch.seen, i), "i32"));
            softmaxRow(c, row, slot(c, row, scratch.scores, i, scoreStride), seen, emitter.name(row, "at", add(r, i)));
          });
          valueTiles(c, work, r, rows);
        });
      });
      return here;
    });
  });
  each(c, block, "r", int(0), count, 1, (inside, r) => {
    const end = emitter.name(inside, "end", load(at(scratch.ends, r), "i32"));
    endRow(c, inside, r, lt(runs.first, end), c.result(inside, emitter.name(inside, "t", add(t, r))));
  });
}

/** Queries of the run, scaled, and rows that repeat the last one up to a whole tile. */
function takeQueries(c: Attention, block: Block, t: ImpExpr, count: ImpExpr, padded: ImpExpr): void {
  each(c, block, "r", int(0), padded, 1, (inside, r) => {
    const real = c.emitter.name(inside, "real", binary("min", r, sub(count, int(1))));
    const from = c.query(inside, c.emitter.name(inside, "t", add(t, real)));
    copy(c, inside, from, slot(c, inside, scratch.queries, r, c.inner), c.inner, (v) => scaled(c, v));
    put(inside, at(scratch.ends, r), load(at(scratch.ends, real), "i32"));
    beginRow(c, inside, r);
  });
}

function scaled(c: Attention, v: ImpExpr): ImpExpr {
  return mul(v, v.k === "load" && v.type === "f32" ? float(c.scale) : vector("f32x4", c.scale));
}

/** Keys s … s+count-1 as [count/8][inner][8]; the last panel repeats the last key. */
function packKeys(c: Attention, block: Block, s: ImpExpr, count: ImpExpr): void {
  const { emitter } = c;
  const last = emitter.name(block, "last", add(s, sub(count, int(1))));
  each(c, block, "j", int(0), count, 4, (inside, j) => {
    const first = emitter.name(inside, "s", add(s, j));
    const keys = [0, 1, 2, 3].map((n) => emitter.name(inside, "k", c.key(inside, binary("min", add(first, int(n)), last))));
    // Panel j/8, columns j%8 on.
    const panel = mul(binary("bitand", j, int(-8)), int(c.inner));
    const to = emitter.name(inside, "to", at(scratch.keys, add(panel, binary("bitand", j, int(4)))));
    const whole = c.inner - (c.inner % 4);
    each(c, inside, "i", int(0), int(whole), 4, (square, i) => {
      const rows = keys.map((k) => emitter.name(square, "row", load(advance(k, i), "f32x4")));
      const columns = transpose(c, square, rows);
      const place = emitter.name(square, "to", advance(to, mul(i, int(8))));
      for (const [n, x] of columns.entries()) put(square, place, x, 8 * n);
    });
    for (let i = whole; i < c.inner; i++) put(inside, to, column(keys, i), 8 * i);
  });
}

export function transpose(c: Emitting, block: Block, rows: readonly ImpExpr[]): readonly ImpExpr[] {
  const [a, b, d, e] = rows;
  if (a === undefined || b === undefined || d === undefined || e === undefined) throw new Error("four rows are transposed");
  const keep = (x: ImpExpr): ImpExpr => c.emitter.name(block, "x", x);
  const [ab, AB] = [keep(shuffle(a, b, [0, 4, 1, 5])), keep(shuffle(a, b, [2, 6, 3, 7]))];
  const [de, DE] = [keep(shuffle(d, e, [0, 4, 1, 5])), keep(shuffle(d, e, [2, 6, 3, 7]))];
  return [shuffle(ab, de, [0, 1, 4, 5]), shuffle(ab, de, [2, 3, 6, 7]), shuffle(AB, DE, [0, 1, 4, 5]), shuffle(AB, DE, [2, 3, 6, 7])];
}

/** Values s … s+count-1 as [features/8][keyBlock][8], zeros behind the last feature. */
function packValues(c: Attention, block: Block, s: ImpExpr, count: ImpExpr): void {
  const { emitter } = c;
  const whole = c.features - (c.features % 8);
  each(c, block, "j", int(0), count, 1, (inside, j) => {
    const from = emitter.name(inside, "v", c.value(inside, add(s, j)));
    const to = slot(c, inside, scratch.values, j, 8);
    each(c, inside, "e", int(0), int(whole), 8, (eight, e) => {
      const [a, b] = [emitter.name(eight, "a", advance(from, e)), emitter.name(eight, "b", advance(to, mul(e, int(keyBlock))))];
      for (const half of [0, 4]) put(eight, b, load(a, "f32x4", half), half);
    });
    const rest = c.features - whole;
    if (rest === 0) return;
    const end = emitter.name(inside, "end", advance(to, int(whole * keyBlock)));
    for (const half of [0, 4]) put(inside, end, half < rest - 3 ? load(from, "f32x4", whole + half) : vector("f32x4", 0), half);
    for (let i = rest - (rest % 4); i < rest; i++) put(inside, end, load(from, "f32", whole + i), i);
  });
}

/** How many keys of the block that begins at `s` each of the rows r … sees (into scratch), and the most of them. */
function countSeen(c: Attention, block: Block, r: ImpExpr, rows: ImpExpr, s: ImpExpr, here: ImpExpr): ImpExpr {
  const most = c.emitter.name(block, "columns", int(0), true);
  each(c, block, "i", int(0), rows, 1, (inside, i) => {
    const left = c.emitter.name(inside, "left", sub(load(at(scratch.ends, add(r, i)), "i32"), s));
    const seen = c.emitter.name(inside, "seen", binary("max", int(0), binary("min", left, here)));
    put(inside, at(scratch.seen, i), seen);
    set(inside, most, binary("max", most, seen));
  });
  return most;
}

/** scores[i][j] = queries[r + i] · key j, for whole tiles of rows and panels of keys. */
function scoreTiles(c: Attention, block: Block, r: ImpExpr, rows: ImpExpr, columns: ImpExpr): void {
  const { emitter } = c;
  each(c, block, "j", int(0), columns, 8, (panel, j) => {
    const b = slot(c, panel, scratch.keys, j, c.inner);
    each(c, panel, "i", int(0), rows, c.rows, (inside, i) => {
      const made = tile({
        rows: c.rows,
        fresh: (hint) => emitter.fresh(hint),
        a: [slot(c, inside, scratch.queries, add(r, i), c.inner)],
        rowStride: c.inner,
        aStep: 1,
        b,
        bStep: int(8),
        count: int(c.inner),
        unroll,
      });
      inside.statements.push(...made.statements);
      const to = slot(c, inside, scratch.scores, i, scoreStride, j);
      for (const [n, pair] of made.sums.entries())
        for (const [half, sum] of pair.entries()) put(inside, to, sum, n * scoreStride + 4 * half);
    });
  });
}

/** mixed[r + i] = mixed[r + i] · shrink + weights[i] · values, over the keys that each row sees. */
function valueTiles(c: Attention, block: Block, r: ImpExpr, rows: ImpExpr): void {
  const { emitter } = c;
  each(c, block, "e", int(0), int(c.width), 8, (panel, e) => {
    const b = slot(c, panel, scratch.values, e, keyBlock);
    each(c, panel, "i", int(0), rows, c.rows, (inside, i) => {
      const seen = emitter.name(inside, "seen", at(scratch.seen, i));
      const counts = Array.from({ length: c.rows }, (_, n) => load(seen, "i32", n));
      const count = emitter.name(
        inside,
        "count",
        counts.reduce((x, y) => emitter.name(inside, "least", binary("min", x, y))),
      );
      const row = emitter.name(inside, "row", add(r, i));
      const to = slot(c, inside, scratch.sums, row, c.width, e);
      const shrink = emitter.name(inside, "shrink", at(scratch.shrink, row));
      const weights = slot(c, inside, scratch.scores, i, scoreStride);
      const made = tile({
        rows: c.rows,
        fresh: (hint) => emitter.fresh(hint),
        a: [weights],
        rowStride: scoreStride,
        aStep: 1,
        b,
        bStep: int(8),
        count,
        unroll,
        initial: (n, half) => mul(load(to, "f32x4", n * c.width + 4 * half), loadSplat(shrink, "f32x4", n)),
      });
      inside.statements.push(...made.statements);
      for (const [n, pair] of made.sums.entries()) for (const [half, sum] of pair.entries()) put(inside, to, sum, n * c.width + 4 * half);
      each(c, inside, "n", int(0), int(c.rows), 1, (tail, n) => {
        const end = emitter.name(tail, "end", load(advance(seen, n), "i32"));
        branch(tail, lt(count, end), (more) =>
          oneRow(c, more, count, end, b, advance(weights, mul(n, int(scoreStride))), advance(to, mul(n, int(c.width)))),
        );
      });
    });
  });
}

/** to += weights · values for keys from … end-1: where one row sees keys that others of its tile do not. */
function oneRow(c: Attention, block: Block, from: ImpExpr, end: ImpExpr, b: ImpExpr, weights: ImpExpr, to: ImpExpr): void {
  const { emitter } = c;
  const place = emitter.name(block, "to", to);
  const weight = emitter.name(block, "weights", weights);
  const sums = [0, 4].map((half) => emitter.name(block, "sum", load(place, "f32x4", half), true));
  each(c, block, "j", from, end, 1, (inside, j) => {
    const w = emitter.name(inside, "w", loadSplat(advance(weight, j), "f32x4"));
    const v = emitter.name(inside, "v", advance(b, mul(j, int(8))));
    for (const [half, sum] of sums.entries()) set(inside, sum, fma(w, load(v, "f32x4", 4 * half), sum));
  });
  for (const [half, sum] of sums.entries()) put(block, place, sum, 4 * half);
}
