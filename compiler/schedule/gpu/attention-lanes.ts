// Attention for small subgroups, which drivers run as vectors of a CPU: a workgroup is one subgroup, an invocation has four
// queries from beginning to end, and nothing is shared but by exchange. (With workgroup memory and barriers as in
// attention.ts such drivers need seconds to compile the kernel and gather every value from memory.) Does not decide what
// attention it is for.
//
// Keys are taken as many at a time as there are lanes, one a lane: what a lane reads of its key or value is exchanged, and
// meets the four queries of every lane. Queries, scaled, and sums of values are in private memory, [feature][query].

import {
  add,
  advance,
  at,
  binary,
  fma,
  gathered,
  int,
  lane as laneOf,
  load,
  lt,
  mul,
  splat,
  store,
  sub,
  vector,
} from "../../ir/imp/build.ts";
import type { ImpExpr, ImpScratch } from "../../ir/imp/types.ts";
import { dim } from "../../ir/dim.ts";
import { branch, each, lowest, put, set, stepping, type Attention, type Emitting } from "../attention-parts.ts";
import type { Block } from "../emit.ts";
import { laneName } from "../finish.ts";
import { exp, variable } from "./parts.ts";

/** Queries of one invocation: a vector. */
export const queriesOfLane = 4;

const own = { queries: "queries", sums: "mixed" } as const;

export function laneScratch(inner: number, features: number): readonly ImpScratch[] {
  const f32 = (name: string, size: number): ImpScratch => ({ name, dtype: "f32", size: dim(4 * size), space: "private" });
  return [f32(own.queries, inner), f32(own.sums, features)];
}

/** What code for lanes that exchange needs to know. */
export interface Exchanging {
  readonly c: Emitting;
  readonly lanes: number;
  /** `value` as a number that drivers do not know. */
  readonly unknown: (value: number) => ImpExpr;
}

export interface LaneQueries extends Exchanging {
  readonly c: Attention;
  /** The first query of the workgroup, and how many there are in all. */
  readonly first: ImpExpr;
  readonly all: ImpExpr;
}

export function attendByLanes(q: LaneQueries, block: Block): void {
  const { c, all } = q;
  const name = (hint: string, value: ImpExpr, mutable = false): ImpExpr => c.emitter.name(block, hint, value, mutable);
  const mine = name("mine", add(q.first, mul(variable(laneName), int(queriesOfLane))));
  // Queries beyond the last one stand for it, and are not stored.
  const queries = [0, 1, 2, 3].map((n) => name("t", binary("min", add(mine, int(n)), sub(all, int(1)))));
  takeQueries(q, block, queries);
  const [from, to] = [c.from, c.to].map((bound) => queries.map((t) => name("end", bound(block, t))));
  if (from === undefined || to === undefined) throw new Error("keys have two ends");
  const low = uniform(q, block, least(q, block, from, "min"));
  const high = uniform(q, block, least(q, block, to, "max"));
  // All see the same where the last beginning is the first one, and the first end the last one.
  const apart = add(sub(least(q, block, from, "max"), low), sub(high, least(q, block, to, "min")));
  const alike = name("alike", binary("eq", uniform(q, block, apart), int(0)));
  const rows: Rows = {
    from: name("from", gathered4(from)),
    to: name("to", gathered4(to)),
    top: name("top", vector("f32x4", lowest), true),
    total: name("total", vector("f32x4", 0), true),
  };
  stepping(c, block, "s", low, high, (inside, s) => {
    keys(q, inside, s, high, alike, rows);
    return int(q.lanes);
  });
  write(q, block, rows, mine, queries);
}

/** By query of the lane. */
interface Rows {
  readonly from: ImpExpr;
  readonly to: ImpExpr;
  readonly top: ImpExpr;
  readonly total: ImpExpr;
}

export function gathered4([a, b, d, e]: readonly ImpExpr[]): ImpExpr {
  if (a === undefined || b === undefined || d === undefined || e === undefined) throw new Error("four queries a lane");
  return gathered(a, b, d, e);
}

/** The least or largest of what all queries of all lanes have. */
export function least(q: Exchanging, block: Block, values: readonly ImpExpr[], op: "min" | "max"): ImpExpr {
  let all = q.c.emitter.name(
    block,
    "of_all",
    values.reduce((a, b) => binary(op, a, b)),
  );
  for (let bit = 1; bit < q.lanes; bit *= 2) {
    const name = q.c.emitter.fresh("other");
    block.statements.push({ k: "exchange", name, type: "i32", op: "xor", value: all, lane: int(bit) });
    all = q.c.emitter.name(block, "of_all", binary(op, all, variable(name)));
  }
  return all;
}

export function uniform(q: Exchanging, block: Block, value: ImpExpr): ImpExpr {
  const name = q.c.emitter.fresh("all");
  block.statements.push({ k: "uniform", name, type: "i32", value });
  return variable(name);
}

function takeQueries(q: LaneQueries, block: Block, queries: readonly ImpExpr[]): void {
  const { c } = q;
  const places = queries.map((t) => c.query(block, t));
  each(c, block, "i", int(0), q.unknown(c.inner), 1, (inside, i) => {
    const four = places.map((p) => load(advance(p, i), "f32"));
    put(inside, at(own.queries, mul(i, int(4))), mul(gathered4(four), vector("f32x4", c.scale)));
  });
  each(c, block, "i", int(0), q.unknown(c.features), 1, (inside, i) => put(inside, at(own.sums, mul(i, int(4))), vector("f32x4", 0)));
}

/** The keys from `s` on, one a lane. */
function keys(q: LaneQueries, block: Block, s: ImpExpr, high: ImpExpr, alike: ImpExpr, rows: Rows): void {
  const { c, lanes } = q;
  const name = (hint: string, value: ImpExpr, mutable = false): ImpExpr => c.emitter.name(block, hint, value, mutable);
  const here = name("here", binary("min", add(s, variable(laneName)), sub(high, int(1))));
  const key = name("key", c.key(block, here));
  const scores = Array.from({ length: lanes }, () => name("score", vector("f32x4", 0), true));
  products(q, block, key, c.inner, (inside, i, values) => {
    const query = c.emitter.name(inside, "q", load(at(own.queries, mul(i, int(4))), "f32x4"));
    for (const [j, sum] of scores.entries()) set(inside, sum, fma(splat(values(j)), query, sum));
  });
  const seen = scores.map((_, j) => {
    const at_ = splat(add(s, int(j)));
    return name("seen", binary("bitand", binary("le", rows.from, at_), binary("lt", at_, rows.to)));
  });
  const pick = (cond: ImpExpr, a: ImpExpr, b: number): ImpExpr => ({ k: "select", cond, a, b: vector("f32x4", b), type: "f32x4" });
  const before = name("before", rows.top);
  // Unlike the cheapest maximum this one keeps NaN, wherever it stands: then all of the row is NaN.
  for (const [j, score] of scores.entries()) set(block, rows.top, binary("max", rows.top, pick(seen[j] ?? score, score, lowest)));
  const shrink = name("shrink", exp(sub(before, rows.top)));
  const weights = scores.map((score, j) => name("w", pick(seen[j] ?? score, exp(sub(score, rows.top)), 0)));
  set(
    block,
    rows.total,
    fma(
      rows.total,
      shrink,
      weights.reduce((a, b) => add(a, b)),
    ),
  );
  const value = name("value", c.value(block, here));
  const mix = (into: Block, change: (sum: ImpExpr, more: ImpExpr, j: number) => ImpExpr): void =>
    products(q, into, value, c.features, (inside, i, values) => {
      const place = c.emitter.name(inside, "p", at(own.sums, mul(i, int(4))));
      const sum = c.emitter.name(inside, "sum", mul(load(place, "f32x4"), shrink), true);
      for (const [j, weight] of weights.entries()) set(inside, sum, change(sum, fma(splat(values(j)), weight, sum), j));
      inside.statements.push(store(place, sum));
    });
  branch(
    block,
    binary("and", alike, lt(add(s, int(lanes - 1)), high)),
    (all) => mix(all, (_, more) => more),
    // What is not seen is not multiplied: 0 · NaN is NaN.
    (some) => mix(some, (sum, more, j) => ({ k: "select", cond: seen[j] ?? sum, a: more, b: sum, type: "f32x4" })),
  );
}

/** What lane `lane` has. */
export function taken(q: Exchanging, block: Block, value: ImpExpr, lane: number): ImpExpr {
  const name = q.c.emitter.fresh("one");
  block.statements.push({ k: "exchange", name, type: "f32", op: "from", value, lane: int(lane) });
  return { k: "var", name, type: "f32" };
}

/** For features i of `count` at each lane's `place`: `step` is given what lane j has. */
function products(
  q: Exchanging,
  block: Block,
  place: ImpExpr,
  count: number,
  step: (inside: Block, i: ImpExpr, values: (lane: number) => ImpExpr) => void,
): void {
  const { c } = q;
  const of =
    (inside: Block, value: ImpExpr) =>
    (j: number): ImpExpr =>
      taken(q, inside, value, j);
  const whole = count - (count % 4);
  if (whole > 0)
    each(c, block, "i", int(0), q.unknown(whole), 4, (inside, i) => {
      const four = c.emitter.name(inside, "four", load(advance(place, i), "f32x4"));
      for (let n = 0; n < 4; n++) step(inside, add(i, int(n)), of(inside, c.emitter.name(inside, "x", laneOf(four, n))));
    });
  for (let i = whole; i < count; i++) step(block, int(i), of(block, c.emitter.name(block, "x", load(place, "f32", i))));
}

/** The means: sums over totals, 0 for a query that saw no key. */
function write(q: LaneQueries, block: Block, rows: Rows, mine: ImpExpr, queries: readonly ImpExpr[]): void {
  const { c, all } = q;
  const name = (hint: string, value: ImpExpr): ImpExpr => c.emitter.name(block, hint, value);
  const some = name("some", binary("lt", rows.from, rows.to));
  const share = name("share", {
    k: "select",
    cond: some,
    a: binary("div", vector("f32x4", 1), rows.total),
    b: vector("f32x4", 0),
    type: "f32x4",
  });
  const whole = c.features - (c.features % 4);
  for (const [n, t] of queries.entries())
    branch(block, lt(add(mine, int(n)), all), (inside) => {
      const to = c.result(inside, t);
      const part = c.emitter.name(inside, "part", laneOf(share, n));
      const sum = (i: ImpExpr): ImpExpr => load(at(own.sums, add(mul(i, int(4)), int(n))), "f32");
      if (whole > 0)
        each(c, inside, "i", int(0), q.unknown(whole), 4, (four, i) => {
          const means = gathered4([0, 1, 2, 3].map((k) => sum(add(i, int(k)))));
          put(four, advance(to, i), mul(means, splat(part)));
        });
      for (let i = whole; i < c.features; i++) put(inside, to, mul(sum(int(i)), part), i);
    });
}
