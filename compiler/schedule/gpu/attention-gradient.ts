// Attention's derivative on GPUs: the kernels that attention-gradient-parts.ts of the CPU's schedules recognises, by the same
// recognition, one workgroup for a head and a block of rows. Rows are queries and columns keys, or the other way round; no
// matrix of weights is ever in memory. Declines what is not recognised and more features of a sum than invocations can hold;
// the loops of points.ts are right for everything.
//
// Note [Gradients by workgroups]. A block is of eight rows, fewer where their features would not fit in the 16 KiB that
// workgroups share. The columns that any row sees are gone over in blocks of one column an invocation:
// 1. an invocation has a column and makes its scores and slopes with all rows, whose features are shared, and of them the
//    weights. Unlike attention itself this needs no look at other columns: the logarithms are known;
// 2. an invocation has four features of what is summed and some of the rows, and adds up weights times values.
// A column that a row does not see is left out, not multiplied by 0: 0 · NaN is NaN. That is asked only in blocks where some
// row does not see some column. For logarithms each invocation keeps the largest score and the sum of powers of its own
// columns, by row; they are put together in the end. Small subgroups go another way: attention-gradient-lanes.ts.

import { dim, dimAdd, dimDiv, dimMul } from "../../ir/dim.ts";
import { add, advance, at, binary, fastMinMax, float, fma, int, load, lt, mul, splat, sub, vector } from "../../ir/imp/build.ts";
import type { ImpExpr, ImpFunction, ImpScratch } from "../../ir/imp/types.ts";
import type { Kernel } from "../../ir/kernel/types.ts";
import { gradientFacts } from "../attention-gradient-parts.ts";
import { branch, each, lowest, put, set, stepping } from "../attention-parts.ts";
import type { GpuCapabilities } from "../capabilities.ts";
import { Block, Emitter } from "../emit.ts";
import { finish, laneName, unitName } from "../finish.ts";
import {
  addSeen,
  divide,
  endsOf,
  joinGroups,
  products,
  rowsThatFit,
  sharedArray,
  storeFeatures,
  uniformly,
  type Division,
  type Ends,
  type Workgroup,
} from "./attention-blocks.ts";
import { gradientByLanes, gradientLaneScratch } from "./attention-gradient-lanes.ts";
import { gradientOf, type Gradient, type Operand, type Summed } from "./attention-gradient-parts.ts";
import { queriesOfLane as rowsOfLane } from "./attention-lanes.ts";
import { exp, variable } from "./parts.ts";

/** Most rows of a block. */
const mostRows = 8;
/** Invocations of a workgroup. */
const lanes = 64;

/** Memory that a workgroup shares. */
const shared = {
  /** Features of rows, of the scores times the scale, [row][depth]. */
  rows: "rows",
  slopes: "slope_rows",
  /** By row and lane: weights; in the end the largest scores. */
  weights: "weights",
  /** By row and lane: sums of powers. */
  totals: "totals",
  /** By row: where its columns begin and end, and what weights are made with. */
  from: "from_columns",
  to: "to_columns",
  log: "logs",
  delta: "deltas",
  /** Sums of lanes that divide columns among themselves. */
  sums: "sums",
} as const;

export function lowerGpuAttentionGradient(kernel: Kernel, gpu: GpuCapabilities): ImpFunction | undefined {
  const emitter = new Emitter(kernel.buffers, true);
  const facts = gradientFacts(kernel, emitter);
  if (facts === undefined) return undefined;
  const { sum } = facts;
  const rows = rowsThatFit(mostRows, (n) => scratchOf(n, facts.score.depth, sum?.slope?.dot.depth ?? 0, sum !== undefined));
  if (rows === undefined || Math.ceil((sum?.features ?? 0) / 4) > lanes) return undefined;
  const root = new Block();
  const heads = emitter.name(root, "heads", emitter.size(facts.heads));
  const block = emitter.name(root, "block", binary("div", variable(unitName), heads));
  const head = emitter.name(root, facts.head, sub(variable(unitName), mul(block, heads)));
  root.remember(emitter.interner.intern({ k: "var", name: facts.head, type: "i32" }), false, head);
  const first = emitter.name(root, "first", mul(block, int(rows)));
  const g = gradientOf(facts, emitter, root);
  const units = dimMul(dimDiv(dimAdd(facts.rows, dim(rows - 1)), dim(rows)), facts.heads);
  const { subgroups } = gpu;
  if (subgroups > 0 && subgroups <= 8) {
    // One workgroup does the work of several units; the others do nothing.
    const ofGroup = subgroups * rowsOfLane;
    const [together, parts] = [Math.max(1, ofGroup / rows), Math.max(1, rows / ofGroup)];
    branch(root, binary("eq", binary("mod", block, int(together)), int(0)), (inside) =>
      each(g, inside, "part", int(0), g.unknown(parts), 1, (part, p) => {
        gradientByLanes(g, subgroups, emitter.name(part, "first", add(first, mul(p, int(ofGroup)))), part);
      }),
    );
    return finish(kernel, emitter, units, root.statements, gradientLaneScratch(g), { lanes: subgroups, subgroup: subgroups });
  }
  new Rows(g, root, rows, first).write();
  const scratch = scratchOf(rows, g.score.depth, g.slope?.depth ?? 0, g.sum !== undefined);
  return finish(kernel, emitter, units, root.statements, scratch, { lanes });
}

function scratchOf(rows: number, depth: number, slopes: number, sums: boolean): readonly ImpScratch[] {
  return [
    sharedArray(shared.rows, rows * depth),
    ...(slopes > 0 ? [sharedArray(shared.slopes, rows * slopes)] : []),
    sharedArray(shared.weights, rows * lanes),
    sharedArray(shared.from, rows, "i32"),
    sharedArray(shared.to, rows, "i32"),
    ...(sums
      ? [sharedArray(shared.log, rows), sharedArray(shared.delta, rows), sharedArray(shared.sums, 4 * lanes)]
      : [sharedArray(shared.totals, rows * lanes)]),
  ];
}

/** The rows from `first` on: writes the code of one block. */
class Rows {
  private readonly g: Gradient;
  private readonly block: Block;
  private readonly rows: number;
  private readonly first: ImpExpr;
  private readonly w: Workgroup;
  private readonly lane = variable(laneName);

  constructor(g: Gradient, block: Block, rows: number, first: ImpExpr) {
    this.g = g;
    this.block = block;
    this.rows = rows;
    this.first = first;
    this.w = { emitter: g.emitter, unknown: g.unknown, rows, lanes };
  }

  private name(block: Block, hint: string, value: ImpExpr, mutable = false): ImpExpr {
    return this.g.emitter.name(block, hint, value, mutable);
  }

  private barrier(block: Block): void {
    block.statements.push({ k: "barrier" });
  }

  /** Rows beyond the last one stand for it, and are not stored. */
  private row(block: Block, r: ImpExpr): ImpExpr {
    return this.name(block, "t", binary("min", add(this.first, r), sub(this.g.rows, int(1))));
  }

  write(): void {
    const { g, block } = this;
    this.takeRows();
    this.barrier(block);
    const range = this.range();
    if (g.sum === undefined) this.logarithms(range);
    else this.sums(range, g.sum);
  }

  private takeRows(): void {
    const { g, block, lane, rows } = this;
    const take = (operand: Operand, to: string): void =>
      each(g, block, "i", lane, g.unknown(rows * operand.depth), lanes, (inside, i) => {
        const r = this.name(inside, "row", binary("div", i, int(operand.depth)));
        const from = operand.row(inside, this.row(inside, r));
        const value = load(advance(from, sub(i, mul(r, int(operand.depth)))), "f32");
        put(inside, at(to, i), operand.scale === 1 ? value : mul(value, float(operand.scale)));
      });
    take(g.score, shared.rows);
    if (g.slope !== undefined) take(g.slope, shared.slopes);
    branch(block, lt(lane, int(rows)), (inside) => {
      const t = this.row(inside, lane);
      put(inside, at(shared.from, lane), g.from(inside, t));
      put(inside, at(shared.to, lane), g.to(inside, t));
      for (const [name, value] of [
        [shared.log, g.sum?.log],
        [shared.delta, g.sum?.delta],
      ] as const)
        if (value?.ofRow === true) put(inside, at(name, lane), load(value.place(inside, t), "f32"));
    });
  }

  /** The same in all lanes. */
  private range(): Ends {
    const { w, block } = this;
    const { low, high, last, least } = endsOf(w, block, shared.from, shared.to);
    const one = (hint: string, value: ImpExpr): ImpExpr => uniformly(w, block, hint, value);
    return { low: one("low", low), high: one("high", high), last: one("last", last), least: one("least", least) };
  }

  private products(block: Block, operand: Operand, from: string, column: ImpExpr): readonly ImpExpr[] {
    return products(this.w, block, this.rows, operand.depth, from, column);
  }

  // ---- Sums ----

  private sums(range: Ends, sum: Summed): void {
    const { g, block, lane, rows } = this;
    const vectors = Math.ceil(sum.features / 4);
    const division = divide(rows, lanes, vectors);
    const { width, rowGroups, columnGroups } = division;
    const ofLane = rows / rowGroups;
    const group = this.name(block, "group", binary("div", lane, int(width)));
    const within = this.name(block, "within", sub(lane, mul(group, int(width))));
    const mine: Mine = {
      division,
      vectors,
      within,
      feature: this.name(block, "feature", mul(binary("min", within, int(vectors - 1)), int(4))),
      part: this.name(block, "part", columnGroups === 1 ? int(0) : binary("mod", group, int(columnGroups))),
      first: this.name(block, "of_rows", mul(columnGroups === 1 ? group : binary("div", group, int(columnGroups)), int(ofLane))),
      values: Array.from({ length: ofLane }, () => this.name(block, "sum", vector("f32x4", 0), true)),
    };
    stepping(g, block, "s", range.low, range.high, (inside, s) => {
      this.weights(inside, s, range.high, sum);
      this.barrier(inside);
      this.addUp(inside, s, range, sum, mine);
      this.barrier(inside);
      return int(lanes);
    });
    this.store(sum, mine);
  }

  /** The weights of the lane's column, by row. Columns beyond the last one stand for it, and nobody reads them. */
  private weights(block: Block, s: ImpExpr, high: ImpExpr, sum: Summed): void {
    const { g, lane } = this;
    const here = this.name(block, "here", binary("min", add(s, lane), sub(high, int(1))));
    const one = (value: Summed["log"], name: string): ((r: number) => ImpExpr) => {
      if (value.ofRow) return (r) => load(at(name, int(r)), "f32");
      const own = this.name(block, "own", load(value.place(block, here), "f32"));
      return () => own;
    };
    const log = one(sum.log, shared.log);
    let weights = this.products(block, g.score, shared.rows, g.score.column(block, here)).map((score, r) =>
      this.name(block, "w", exp(sub(score, log(r)))),
    );
    if (g.slope !== undefined && sum.delta !== undefined) {
      const delta = one(sum.delta, shared.delta);
      const slopes = this.products(block, g.slope, shared.slopes, g.slope.column(block, here));
      weights = weights.map((w, r) => mul(w, sub(slopes[r] ?? w, delta(r))));
    }
    for (const [r, w] of weights.entries()) put(block, at(shared.weights, add(lane, int(r * lanes))), w);
  }

  /** sums += weights · values, over the columns of this block. */
  private addUp(block: Block, s: ImpExpr, range: Ends, sum: Summed, mine: Mine): void {
    const { g } = this;
    const here = this.name(block, "here", binary("min", int(lanes), sub(range.high, s)));
    const weight = (q: number, j: ImpExpr): ImpExpr => at(shared.weights, add(mul(add(mine.first, int(q)), int(lanes)), j));
    const value = (inside: Block, j: ImpExpr): ImpExpr =>
      this.name(inside, "v", load(advance(sum.value(inside, this.name(inside, "s", add(s, j))), mine.feature), "f32x4"));
    const seen = binary("and", binary("le", range.last, s), binary("le", add(s, here), range.least));
    branch(
      block,
      seen,
      (all) => addSeen(this.w, all, mine.division, mine, here, weight, value),
      (some) => {
        const ends = mine.values.map((_, q) =>
          [shared.from, shared.to].map((name) => this.name(some, "end", sub(load(at(name, add(mine.first, int(q))), "i32"), s))),
        );
        each(g, some, "j", mine.part, here, mine.division.columnGroups, (inside, j) => {
          const v = value(inside, j);
          for (const [q, total] of mine.values.entries()) {
            const [from = int(0), to = int(0)] = ends[q] ?? [];
            const more = fma(splat(load(weight(q, j), "f32")), v, total);
            set(inside, total, { k: "select", cond: binary("and", binary("le", from, j), lt(j, to)), a: more, b: total, type: "f32x4" });
          }
        });
      },
    );
  }

  /** Adds up what lanes with other columns have, and writes the sums. */
  private store(sum: Summed, mine: Mine): void {
    const { g, block } = this;
    for (const [q, total] of mine.values.entries()) {
      joinGroups(this.w, block, mine.division, total, shared.sums);
      const t = this.name(block, "t", add(this.first, add(mine.first, int(q))));
      const stores = binary("and", lt(t, g.rows), binary("and", lt(mine.within, int(mine.vectors)), binary("eq", mine.part, int(0))));
      branch(block, this.name(block, "stores", stores), (inside) => {
        const value = this.name(inside, "value", sum.scale === 1 ? total : mul(total, vector("f32x4", sum.scale)));
        const to = this.name(inside, "to", advance(g.result(inside, t), mine.feature));
        storeFeatures(inside, to, value, sum.features, binary("eq", mine.within, int(mine.vectors - 1)));
      });
    }
  }

  // ---- Logarithms ----

  /** Largest scores and sums of powers of the lane's columns, then of all lanes' together. */
  private logarithms(range: Ends): void {
    const { g, block, lane, rows } = this;
    const numbers = Array.from({ length: rows }, (_, r) => r);
    const tops = numbers.map(() => this.name(block, "top", float(lowest), true));
    const totals = numbers.map(() => this.name(block, "total", float(0), true));
    const ends = numbers.map((r) => [shared.from, shared.to].map((name) => this.name(block, "end", load(at(name, int(r)), "i32"))));
    stepping(g, block, "s", range.low, range.high, (inside, s) => {
      const mine = this.name(inside, "mine", add(s, lane));
      const here = this.name(inside, "here", binary("min", mine, sub(range.high, int(1))));
      for (const [r, score] of this.products(inside, g.score, shared.rows, g.score.column(inside, here)).entries()) {
        const [from = mine, to = mine] = ends[r] ?? [];
        const [top = score, total = score] = [tops[r], totals[r]];
        branch(inside, binary("and", binary("le", from, mine), lt(mine, to)), (some) => {
          const before = this.name(some, "before", top);
          // NaN is never taken: it shows in the sum.
          set(some, top, fastMinMax("max", top, score));
          set(some, total, fma(total, exp(sub(before, top)), exp(sub(score, top))));
        });
      }
      return int(lanes);
    });
    for (const r of numbers) {
      const place = this.name(block, "p", add(lane, int(r * lanes)));
      put(block, at(shared.weights, place), tops[r] ?? float(0));
      put(block, at(shared.totals, place), totals[r] ?? float(0));
    }
    this.barrier(block);
    const t = this.name(block, "t", add(this.first, lane));
    branch(block, binary("and", lt(lane, int(rows)), lt(t, g.rows)), (inside) => {
      const base = this.name(inside, "base", mul(lane, int(lanes)));
      const top = this.name(inside, "top", float(lowest), true);
      const total = this.name(inside, "total", float(0), true);
      const from = (name: string, i: ImpExpr): ImpExpr => load(at(name, add(base, i)), "f32");
      each(g, inside, "i", int(0), g.unknown(lanes), 1, (one, i) => set(one, top, fastMinMax("max", top, from(shared.weights, i))));
      each(g, inside, "i", int(0), g.unknown(lanes), 1, (one, i) =>
        set(one, total, fma(from(shared.totals, i), exp(sub(from(shared.weights, i), top)), total)),
      );
      const log: ImpExpr = { k: "unary", op: "log", a: total, type: "f32" };
      const sees = lt(load(at(shared.from, lane), "i32"), load(at(shared.to, lane), "i32"));
      const value = this.name(inside, "log", add(top, log));
      put(inside, g.result(inside, t), { k: "select", cond: sees, a: value, b: float(0), type: "f32" });
    });
  }
}

/** What a lane adds up. */
interface Mine {
  readonly division: Division;
  /** Vectors of features. */
  readonly vectors: number;
  /** Which of the vectors, perhaps beyond the last; its first feature, within. */
  readonly within: ImpExpr;
  readonly feature: ImpExpr;
  /** Which of the columns; the first row. */
  readonly part: ImpExpr;
  readonly first: ImpExpr;
  readonly values: readonly ImpExpr[];
}
