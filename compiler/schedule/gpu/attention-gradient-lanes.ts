// Attention's derivative for small subgroups, which drivers run as vectors of a CPU: as attention-lanes.ts, a workgroup is one
// subgroup, an invocation has four rows from beginning to end, and nothing is shared but by exchange. Does not decide what
// kernel it is for.
//
// Columns are taken as many at a time as there are lanes, one a lane: what a lane reads of its column is exchanged, and meets
// the four rows of every lane. Rows and their sums are in private memory, [feature][row]. A feature at a time, and one loop for
// columns that all rows see and others: such drivers take seconds for long code, and no longer to run short code.

import { dim } from "../../ir/dim.ts";
import { add, advance, at, binary, fma, int, lane as laneOf, load, lt, mul, splat, sub, vector } from "../../ir/imp/build.ts";
import type { ImpExpr, ImpScratch } from "../../ir/imp/types.ts";
import { branch, each, lowest, put, set, stepping } from "../attention-parts.ts";
import type { Block } from "../emit.ts";
import { laneName } from "../finish.ts";
import type { Gradient, OfOne, Operand, Place, Summed } from "./attention-gradient-parts.ts";
import { gathered4, least, queriesOfLane as rowsOfLane, taken, uniform, type Exchanging } from "./attention-lanes.ts";
import { exp, variable } from "./parts.ts";

const own = { rows: "rows", slopes: "slope_rows", sums: "sums" } as const;

export function gradientLaneScratch(g: Gradient): readonly ImpScratch[] {
  const f32 = (name: string, size: number): ImpScratch => ({ name, dtype: "f32", size: dim(rowsOfLane * size), space: "private" });
  return [
    f32(own.rows, g.score.depth),
    ...(g.slope === undefined ? [] : [f32(own.slopes, g.slope.depth)]),
    ...(g.sum === undefined ? [] : [f32(own.sums, g.sum.features)]),
  ];
}

/** The four rows of a lane. */
interface Rows {
  readonly places: readonly ImpExpr[];
  /** By row: where its columns begin and end. */
  readonly from: ImpExpr;
  readonly to: ImpExpr;
}

/** The rows from `first` on, four a lane. */
export function gradientByLanes(g: Gradient, lanes: number, first: ImpExpr, block: Block): void {
  const q: Exchanging = { c: g, lanes, unknown: g.unknown };
  const name = (hint: string, value: ImpExpr): ImpExpr => g.emitter.name(block, hint, value);
  const mine = name("mine", add(first, mul(variable(laneName), int(rowsOfLane))));
  // Rows beyond the last one stand for it, and are not stored.
  const places = [0, 1, 2, 3].map((n) => name("t", binary("min", add(mine, int(n)), sub(g.rows, int(1)))));
  takeRows(g, block, g.score, own.rows, places);
  if (g.slope !== undefined) takeRows(g, block, g.slope, own.slopes, places);
  const [from, to] = [g.from, g.to].map((bound) => places.map((t) => bound(block, t)));
  if (from === undefined || to === undefined) throw new Error("columns have two ends");
  const low = uniform(q, block, least(q, block, from, "min"));
  const high = uniform(q, block, least(q, block, to, "max"));
  const rows: Rows = { places, from: name("from", gathered4(from)), to: name("to", gathered4(to)) };
  const here = (inside: Block, s: ImpExpr): ImpExpr =>
    g.emitter.name(inside, "here", binary("min", add(s, variable(laneName)), sub(high, int(1))));
  if (g.sum === undefined) {
    const top = g.emitter.name(block, "top", vector("f32x4", lowest), true);
    const total = g.emitter.name(block, "total", vector("f32x4", 0), true);
    stepping(g, block, "s", low, high, (inside, s) => {
      logarithms(q, g, inside, s, here(inside, s), rows, top, total);
      return int(lanes);
    });
    const log: ImpExpr = { k: "unary", op: "log", a: total, type: "f32x4" };
    const value = name("log", { k: "select", cond: lt(rows.from, rows.to), a: add(top, log), b: vector("f32x4", 0), type: "f32x4" });
    for (const [n, t] of places.entries())
      branch(block, lt(add(mine, int(n)), g.rows), (inside) => put(inside, g.result(inside, t), laneOf(value, n)));
    return;
  }
  const { sum } = g;
  each(g, block, "i", int(0), g.unknown(sum.features), 1, (inside, i) =>
    put(inside, at(own.sums, mul(i, int(rowsOfLane))), vector("f32x4", 0)),
  );
  const logs = valuesOf(g, block, sum.log, places);
  const deltas = sum.delta === undefined ? undefined : valuesOf(g, block, sum.delta, places);
  stepping(g, block, "s", low, high, (inside, s) => {
    const column = here(inside, s);
    let weights = dots(q, g, inside, g.score, own.rows, column).map((score, j) =>
      g.emitter.name(inside, "w", exp(sub(score, logs(q, inside, column)(j)))),
    );
    if (g.slope !== undefined && deltas !== undefined) {
      const delta = deltas(q, inside, column);
      weights = dots(q, g, inside, g.slope, own.slopes, column).map((slope, j) =>
        g.emitter.name(inside, "w", mul(weights[j] ?? slope, sub(slope, delta(j)))),
      );
    }
    const value = sum.value(inside, column);
    const seen = seenBy(g, inside, s, rows, lanes);
    products(q, inside, value, sum.features, (step, i, values) => {
      const place = g.emitter.name(step, "p", at(own.sums, mul(i, int(rowsOfLane))));
      const total = g.emitter.name(step, "sum", load(place, "f32x4"), true);
      for (const [j, weight] of weights.entries()) {
        // What is not seen is not multiplied: 0 · NaN is NaN.
        const more = fma(splat(values(j)), weight, total);
        set(step, total, { k: "select", cond: seen[j] ?? total, a: more, b: total, type: "f32x4" });
      }
      put(step, place, total);
    });
    return int(lanes);
  });
  write(g, block, sum, mine, places);
}

function takeRows(g: Gradient, block: Block, operand: Operand, to: string, places: readonly ImpExpr[]): void {
  const from = places.map((t) => operand.row(block, t));
  each(g, block, "i", int(0), g.unknown(operand.depth), 1, (inside, i) => {
    const four = gathered4(from.map((p) => load(advance(p, i), "f32")));
    put(inside, at(to, mul(i, int(rowsOfLane))), operand.scale === 1 ? four : mul(four, vector("f32x4", operand.scale)));
  });
}

/** Products of the lane's four rows with the columns of all lanes. */
function dots(q: Exchanging, g: Gradient, block: Block, operand: Operand, from: string, column: ImpExpr): readonly ImpExpr[] {
  const sums = Array.from({ length: q.lanes }, () => g.emitter.name(block, "dot", vector("f32x4", 0), true));
  products(q, block, operand.column(block, column), operand.depth, (inside, i, values) => {
    const rows = g.emitter.name(inside, "q", load(at(from, mul(i, int(rowsOfLane))), "f32x4"));
    for (const [j, sum] of sums.entries()) set(inside, sum, fma(splat(values(j)), rows, sum));
  });
  return sums;
}

/** For features i of `count` at each lane's `place`: `step` is given what lane j has. */
function products(
  q: Exchanging,
  block: Block,
  place: ImpExpr,
  count: number,
  step: (inside: Block, i: ImpExpr, values: (lane: number) => ImpExpr) => void,
): void {
  each(q.c, block, "i", int(0), q.unknown(count), 1, (inside, i) => {
    const mine = q.c.emitter.name(inside, "x", load(advance(place, i), "f32"));
    step(inside, i, (j) => taken(q, inside, mine, j));
  });
}

type ByColumn = (q: Exchanging, block: Block, column: ImpExpr) => (j: number) => ImpExpr;

/** A number of each row, or of each lane's column. */
function valuesOf(g: Gradient, block: Block, value: OfOne, places: readonly ImpExpr[]): ByColumn {
  const one = (into: Block, place: Place, index: ImpExpr): ImpExpr => load(place(into, index), "f32");
  if (value.ofRow) {
    const four = g.emitter.name(block, "own", gathered4(places.map((t) => one(block, value.place, t))));
    return () => () => four;
  }
  return (q, inside, column) => {
    const mine = g.emitter.name(inside, "own", one(inside, value.place, column));
    return (j) => splat(taken(q, inside, mine, j));
  };
}

/** By lane: which of the four rows see its column. */
function seenBy(g: Gradient, block: Block, s: ImpExpr, rows: Rows, lanes: number): readonly ImpExpr[] {
  return Array.from({ length: lanes }, (_, j) => {
    const column = splat(add(s, int(j)));
    return g.emitter.name(block, "seen", binary("bitand", binary("le", rows.from, column), binary("lt", column, rows.to)));
  });
}

/** Largest scores and sums of powers of four rows, with the columns of all lanes. */
function logarithms(q: Exchanging, g: Gradient, block: Block, s: ImpExpr, column: ImpExpr, rows: Rows, top: ImpExpr, total: ImpExpr): void {
  const scores = dots(q, g, block, g.score, own.rows, column);
  const seen = seenBy(g, block, s, rows, q.lanes);
  const pick = (j: number, a: ImpExpr, b: number): ImpExpr => ({
    k: "select",
    cond: seen[j] ?? a,
    a,
    b: vector("f32x4", b),
    type: "f32x4",
  });
  const before = g.emitter.name(block, "before", top);
  for (const [j, score] of scores.entries()) set(block, top, binary("max", top, pick(j, score, lowest)));
  set(block, total, mul(total, exp(sub(before, top))));
  for (const [j, score] of scores.entries()) set(block, total, add(total, pick(j, exp(sub(score, top)), 0)));
}

function write(g: Gradient, block: Block, sum: Summed, mine: ImpExpr, places: readonly ImpExpr[]): void {
  const whole = sum.features - (sum.features % 4);
  const scaled = (v: ImpExpr, by: ImpExpr): ImpExpr => (sum.scale === 1 ? v : mul(v, by));
  for (const [n, t] of places.entries())
    branch(block, lt(add(mine, int(n)), g.rows), (inside) => {
      const to = g.result(inside, t);
      const total = (i: ImpExpr): ImpExpr => load(at(own.sums, add(mul(i, int(rowsOfLane)), int(n))), "f32");
      if (whole > 0)
        each(g, inside, "i", int(0), g.unknown(whole), 4, (four, i) => {
          const values = gathered4([0, 1, 2, 3].map((k) => total(add(i, int(k)))));
          put(four, advance(to, i), scaled(values, vector("f32x4", sum.scale)));
        });
      for (let i = whole; i < sum.features; i++) put(inside, to, scaled(total(int(i)), { k: "const", type: "f32", value: sum.scale }), i);
    });
}
