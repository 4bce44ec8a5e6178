// What the builders of attention and of its derivative by workgroups share: rows of a block in memory that all invocations
// see, columns gone over one an invocation, and sums of four features an invocation. Does not know what is made of scores.

import { dim } from "../../ir/dim.ts";
import { add, advance, at, binary, float, fma, int, lane as laneOf, load, mul, splat } from "../../ir/imp/build.ts";
import type { ImpExpr, ImpScratch } from "../../ir/imp/types.ts";
import { branch, each, put, set, type Emitting } from "../attention-parts.ts";
import type { Block } from "../emit.ts";
import { laneName } from "../finish.ts";
import { variable } from "./parts.ts";

/** Bytes that a workgroup may share. */
const sharedBytes = 16384;

export interface Workgroup extends Emitting {
  /** Rows of the block, and invocations. */
  readonly rows: number;
  readonly lanes: number;
  /** A number that drivers do not know: they would write out loops with it, which takes them long. */
  readonly unknown: (value: number) => ImpExpr;
}

export function sharedArray(name: string, size: number, dtype: "f32" | "i32" = "f32"): ImpScratch {
  return { name, dtype, size: dim(size), space: "workgroup" };
}

/** As many rows as fit in shared memory, a power of two; undefined when not even one does. */
export function rowsThatFit(most: number, scratch: (rows: number) => readonly ImpScratch[]): number | undefined {
  for (let rows = most; rows >= 1; rows /= 2)
    if (scratch(rows).reduce((n, s) => n + 4 * Number(s.size.text), 0) <= sharedBytes) return rows;
  return undefined;
}

/** Columns: the first that any row sees and the end of the last; where the last row begins to see, and the first one ends. */
export interface Ends {
  readonly low: ImpExpr;
  readonly high: ImpExpr;
  readonly last: ImpExpr;
  readonly least: ImpExpr;
}

/** `from` and `to` are shared arrays with the ends of each row's columns. */
export function endsOf(w: Workgroup, block: Block, from: string, to: string): Ends {
  const name = (inside: Block, hint: string, value: ImpExpr, mutable = false): ImpExpr => w.emitter.name(inside, hint, value, mutable);
  const begin = (array: string): ImpExpr => load(at(array, int(0)), "i32");
  const [low, high] = [name(block, "low", begin(from), true), name(block, "high", begin(to), true)];
  const [last, least] = [name(block, "last", low, true), name(block, "least", high, true)];
  each(w, block, "i", int(1), w.unknown(w.rows), 1, (inside, i) => {
    const [f, t] = [name(inside, "f", load(at(from, i), "i32")), name(inside, "t", load(at(to, i), "i32"))];
    set(inside, low, binary("min", low, f));
    set(inside, high, binary("max", high, t));
    set(inside, last, binary("max", last, f));
    set(inside, least, binary("min", least, t));
  });
  return { low, high, last, least };
}

/** The value, which is the same in all invocations, as one that conditions around barriers may use. */
export function uniformly({ emitter }: Emitting, block: Block, hint: string, value: ImpExpr): ImpExpr {
  const name = emitter.fresh(hint);
  block.statements.push({ k: "uniform", name, type: "i32", value });
  return variable(name);
}

/** A column's features times those of the first `rows` rows of the shared array, for each row. */
export function products(w: Workgroup, block: Block, rows: number, depth: number, shared: string, column: ImpExpr): readonly ImpExpr[] {
  const sums = Array.from({ length: rows }, () => w.emitter.name(block, "dot", float(0), true));
  const whole = depth - (depth % 4);
  if (whole > 0)
    each(w, block, "i", int(0), w.unknown(whole), 4, (inside, i) => {
      const own = w.emitter.name(inside, "k", load(advance(column, i), "f32x4"));
      const others = sums.map((_, r) => w.emitter.name(inside, "q", load(at(shared, add(i, int(r * depth))), "f32x4")));
      for (let j = 0; j < 4; j++)
        for (const [r, sum] of sums.entries()) set(inside, sum, fma(laneOf(others[r] ?? own, j), laneOf(own, j), sum));
    });
  for (let i = whole; i < depth; i++)
    for (const [r, sum] of sums.entries()) set(block, sum, fma(load(at(shared, int(r * depth + i)), "f32"), load(column, "f32", i), sum));
  return sums;
}

/** How the invocations divide sums of so many vectors of features: a power of two for each row, and what is left over by columns. */
export interface Division {
  readonly width: number;
  readonly rowGroups: number;
  readonly columnGroups: number;
}

export function divide(rows: number, lanes: number, vectors: number): Division {
  const width = 2 ** Math.ceil(Math.log2(vectors));
  const groups = lanes / width;
  const rowGroups = Math.min(groups, rows);
  return { width, rowGroups, columnGroups: groups / rowGroups };
}

/** What an invocation adds up: four features of some rows, of every `columnGroups`-th columns. */
export interface LaneSums {
  /** Which of the columns. */
  readonly part: ImpExpr;
  readonly values: readonly ImpExpr[];
}

/** sums += weights · values over the columns before `here`, all of which every row sees. Weights of a row lie one behind the other. */
export function addSeen(
  w: Workgroup,
  block: Block,
  { columnGroups }: Division,
  { part, values }: LaneSums,
  here: ImpExpr,
  weight: (row: number, column: ImpExpr) => ImpExpr,
  value: (inside: Block, column: ImpExpr) => ImpExpr,
): void {
  const whole = w.emitter.name(block, "whole", binary("bitand", here, int(-4)));
  const start = columnGroups === 1 ? int(0) : w.emitter.name(block, "start", mul(part, int(4)));
  each(w, block, "j", start, whole, 4 * columnGroups, (inside, j) => {
    const weights = values.map((_, q) => w.emitter.name(inside, "w", load(weight(q, j), "f32x4")));
    for (let i = 0; i < 4; i++) {
      const v = value(inside, add(j, int(i)));
      for (const [q, sum] of values.entries()) set(inside, sum, fma(splat(laneOf(weights[q] ?? v, i)), v, sum));
    }
  });
  each(w, block, "j", add(whole, part), here, columnGroups, (inside, j) => {
    const v = value(inside, j);
    for (const [q, sum] of values.entries()) set(inside, sum, fma(splat(load(weight(q, j), "f32")), v, sum));
  });
}

/** Adds what invocations with other columns have to the sum of the first group's; the others' are not to be stored. */
export function joinGroups(w: Workgroup, block: Block, { width, columnGroups }: Division, sum: ImpExpr, shared: string): void {
  if (columnGroups === 1) return;
  const lane = variable(laneName);
  put(block, at(shared, mul(lane, int(4))), sum);
  block.statements.push({ k: "barrier" });
  each(w, block, "p", int(1), w.unknown(columnGroups), 1, (inside, p) => {
    const other = binary("min", add(lane, mul(p, int(width))), int(w.lanes - 1));
    set(inside, sum, add(sum, load(at(shared, mul(other, int(4))), "f32x4")));
  });
  block.statements.push({ k: "barrier" });
}

/** Stores four features, or those that are left where they are the last of a row. */
export function storeFeatures(block: Block, to: ImpExpr, value: ImpExpr, features: number, isLast: ImpExpr): void {
  const rest = features % 4;
  if (rest === 0) put(block, to, value);
  else
    branch(
      block,
      isLast,
      (last) => last.statements.push({ k: "storeLanes", ptr: to, offset: 0, value, count: rest }),
      (all) => put(all, to, value),
    );
}
