// The attention builder for GPUs: softmax(scale · q·kᵀ) · v over ragged segments, recognised as on CPUs, one workgroup for
// a head and a block of queries. Declines (undefined) what attention.ts does not recognise and more features of values than
// invocations can hold; the loops of points.ts are right for everything.
//
// Note [Attention by workgroups]. A block is of eight queries, fewer where their features would not fit in the 16 KiB
// that workgroups share. The keys that any of its queries sees are gone over in blocks of one key an invocation:
// 1. an invocation has a key and makes its scores with all queries, whose features are shared;
// 2. a few invocations for each query turn its scores into weights e^(score - top), top being the largest so far;
// 3. an invocation has four features of values and some of the queries, and adds up weights times values.
// A query that does not see a key (it is of another segment, or later) has the weight -1, which is skipped, not multiplied:
// 0 · NaN is NaN. Where all queries of the block see the same keys nothing is asked. Small subgroups go another way:
// attention-lanes.ts.

import { dim, dimAdd, dimDiv, dimMul } from "../../ir/dim.ts";
import { add, advance, at, binary, fastMinMax, float, fma, int, load, lt, mul, splat, sub, vector } from "../../ir/imp/build.ts";
import type { ImpExpr, ImpFunction, ImpScratch } from "../../ir/imp/types.ts";
import type { Kernel } from "../../ir/kernel/types.ts";
import { context, recognise } from "../attention.ts";
import { branch, each, lowest, put, set, stepping, type Attention } from "../attention-parts.ts";
import type { Capabilities, GpuCapabilities } from "../capabilities.ts";
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
  type Workgroup,
} from "./attention-blocks.ts";
import { attendByLanes, laneScratch, queriesOfLane } from "./attention-lanes.ts";
import { exp, variable } from "./parts.ts";

/** Most queries of a block. */
const mostQueries = 8;
/** Invocations at most, which a block's size must allow for: it is the same in all variants. */
const mostLanes = 64;
/** Of so few queries (a step of generation) no more than these are computed with. */
const fewQueries = 2;

/** Memory that a workgroup shares. */
const shared = {
  /** Features of queries times the scale, [query][inner]. */
  queries: "queries",
  /** Scores, then weights, [query][lane]. */
  scores: "scores",
  /** What invocations of one query have each. */
  parts: "parts",
  /** By query: what a larger maximum does to the sums so far; in the end what they are divided by. */
  shrink: "shrink",
  /** Where the keys of a query begin and end. */
  from: "from_keys",
  to: "to_keys",
  /** Sums of values, of invocations that divide keys among themselves. */
  sums: "mixed",
} as const;

/** How the work of one block is divided. */
interface Parts extends Division {
  readonly rows: number;
  readonly lanes: number;
  /** Lanes of a subgroup; 0 where there are none. */
  readonly subgroups: number;
  /** Vectors of features of values. */
  readonly columns: number;
}

export function lowerGpuAttention(kernel: Kernel, capabilities: Capabilities, gpu: GpuCapabilities): ImpFunction | undefined {
  const emitter = new Emitter(kernel.buffers, true);
  const facts = recognise(kernel, emitter);
  if (facts === undefined || facts.part !== undefined) return undefined;
  const columns = Math.ceil(facts.features / 4);
  const rows = rowsThatFit(mostQueries, (n) => scratchOf(n, mostLanes, facts.inner));
  if (columns > mostLanes || rows === undefined) return undefined;
  const root = new Block();
  const blocks = dimDiv(dimAdd(facts.queries, dim(rows - 1)), dim(rows));
  const heads = emitter.name(root, "heads", emitter.size(facts.heads));
  const block = emitter.name(root, "block", binary("div", variable(unitName), heads));
  const head = emitter.name(root, facts.pattern.head, sub(variable(unitName), mul(block, heads)));
  root.remember(emitter.interner.intern({ k: "var", name: facts.pattern.head, type: "i32" }), false, head);
  const all = emitter.name(root, "all", emitter.size(facts.queries));
  const first = emitter.name(root, "first", mul(block, int(rows)));
  const c = { ...context(facts, emitter, root, capabilities), scale: Math.fround(facts.pattern.scale) };
  const zero = emitter.name(root, "zero", binary("shr", variable(unitName), int(31)));
  const unknown = (value: number): ImpExpr => add(zero, int(value));
  const { subgroups } = gpu;
  const units = dimMul(blocks, facts.heads);
  const subgroup = subgroups > 0 ? { subgroup: subgroups } : {};
  if (subgroups > 0 && subgroups <= 8) {
    // One workgroup does the work of several units; the others do nothing.
    const together = Math.max(1, (subgroups * queriesOfLane) / rows);
    const each_ = Math.max(1, rows / (subgroups * queriesOfLane));
    branch(root, binary("eq", binary("mod", block, int(together)), int(0)), (inside) =>
      each(c, inside, "part", int(0), unknown(each_), 1, (part, p) => {
        const mine = emitter.name(part, "first", add(first, mul(p, int(subgroups * queriesOfLane))));
        attendByLanes({ c, lanes: subgroups, first: mine, all, unknown }, part);
      }),
    );
    const scratch = laneScratch(facts.inner, facts.features);
    return finish(kernel, emitter, units, root.statements, scratch, { lanes: subgroups, ...subgroup });
  }
  const lanes = Math.max(mostLanes, subgroups);
  new Rows(c, root, { ...divide(rows, lanes, columns), rows, lanes, subgroups, columns }, { first, all, unknown }).write();
  return finish(kernel, emitter, units, root.statements, scratchOf(rows, lanes, facts.inner), { lanes, ...subgroup });
}

function scratchOf(rows: number, lanes: number, inner: number): readonly ImpScratch[] {
  return [
    sharedArray(shared.queries, rows * inner),
    sharedArray(shared.scores, rows * lanes),
    sharedArray(shared.parts, 2 * lanes),
    sharedArray(shared.shrink, rows),
    sharedArray(shared.from, rows, "i32"),
    sharedArray(shared.to, rows, "i32"),
    sharedArray(shared.sums, 4 * lanes),
  ];
}

/** The queries from `first` on: writes the code of one block. */
class Rows {
  private readonly c: Attention;
  private readonly block: Block;
  private readonly d: Parts;
  private readonly w: Workgroup;
  private readonly first: ImpExpr;
  private readonly all: ImpExpr;
  private readonly lane = variable(laneName);
  private readonly unknown: (value: number) => ImpExpr;

  constructor(c: Attention, block: Block, division: Parts, queries: Queries) {
    this.c = c;
    this.block = block;
    this.d = division;
    this.first = queries.first;
    this.all = queries.all;
    this.unknown = queries.unknown;
    this.w = { emitter: c.emitter, unknown: queries.unknown, rows: division.rows, lanes: division.lanes };
  }

  private name(block: Block, hint: string, value: ImpExpr, mutable = false): ImpExpr {
    return this.c.emitter.name(block, hint, value, mutable);
  }

  private barrier(block: Block): void {
    block.statements.push({ k: "barrier" });
  }

  /** Queries beyond the last one stand for it, and are not stored. */
  private query(block: Block, row: ImpExpr): ImpExpr {
    return this.name(block, "t", binary("min", add(this.first, row), sub(this.all, int(1))));
  }

  write(): void {
    const { c, block, d } = this;
    this.takeQueries();
    this.barrier(block);
    const [low, high, alike] = this.range();
    // Of the query whose scores this lane helps to weigh.
    const lanesOfRow = d.lanes / d.rows;
    const row = this.name(block, "row", binary("div", this.lane, int(lanesOfRow)));
    const part = this.name(block, "part", sub(this.lane, mul(row, int(lanesOfRow))));
    const mine = {
      row,
      part,
      lanesOfRow,
      from: this.name(block, "from", load(at(shared.from, row), "i32")),
      to: this.name(block, "to", load(at(shared.to, row), "i32")),
      top: this.name(block, "top", float(lowest), true),
      total: this.name(block, "total", float(0), true),
    };
    // Four features of values, for these queries.
    const rows = d.rows / d.rowGroups;
    const group = this.name(block, "group", binary("div", this.lane, int(d.width)));
    const column = this.name(block, "column", binary("min", sub(this.lane, mul(group, int(d.width))), int(d.columns - 1)));
    const sums = {
      feature: this.name(block, "feature", mul(column, int(4))),
      part: this.name(block, "of_keys", d.columnGroups === 1 ? int(0) : binary("mod", group, int(d.columnGroups))),
      first: this.name(block, "of_rows", mul(d.columnGroups === 1 ? group : binary("div", group, int(d.columnGroups)), int(rows))),
      values: Array.from({ length: rows }, () => this.name(block, "mixed", vector("f32x4", 0), true)),
    };
    const few = this.name(block, "few", binary("le", sub(this.all, this.first), int(fewQueries)));
    stepping(c, block, "s", low, high, (inside, s) => {
      const key = this.name(inside, "key", c.key(inside, binary("min", add(s, this.lane), sub(high, int(1)))));
      branch(
        inside,
        few,
        (some) => this.scores(some, key, Math.min(d.rows, fewQueries)),
        (all) => this.scores(all, key, d.rows),
      );
      this.barrier(inside);
      this.weigh(inside, s, mine);
      this.barrier(inside);
      this.mix(inside, s, high, alike, few, sums);
      this.barrier(inside);
      return int(d.lanes);
    });
    // 1/total; 0 for a query that saw no key, whose sums are 0.
    const share: ImpExpr = { k: "select", cond: lt(mine.from, mine.to), a: binary("div", float(1), mine.total), b: float(0), type: "f32" };
    branch(block, binary("eq", part, int(0)), (one) => put(one, at(shared.shrink, row), share));
    this.barrier(block);
    this.store(sums);
    // The next query of the loop around finds nothing of this one.
    this.barrier(block);
  }

  private takeQueries(): void {
    const { c, block, d, lane } = this;
    each(c, block, "i", lane, this.unknown(d.rows * c.inner), d.lanes, (inside, i) => {
      const row = this.name(inside, "row", binary("div", i, int(c.inner)));
      const query = c.query(inside, this.query(inside, row));
      const value = load(advance(query, sub(i, mul(row, int(c.inner)))), "f32");
      put(inside, at(shared.queries, i), mul(value, float(c.scale)));
    });
    branch(block, lt(lane, int(d.rows)), (inside) => {
      const t = this.query(inside, lane);
      put(inside, at(shared.from, lane), c.from(inside, t));
      put(inside, at(shared.to, lane), c.to(inside, t));
    });
  }

  /** The first key that any query sees, the last one, and whether all see the same. */
  private range(): readonly [ImpExpr, ImpExpr, ImpExpr] {
    const { w, block } = this;
    const { low, high, last, least } = endsOf(w, block, shared.from, shared.to);
    const same: ImpExpr = { k: "convert", a: binary("eq", add(sub(last, low), sub(high, least)), int(0)), type: "i32" };
    return [uniformly(w, block, "low", low), uniformly(w, block, "high", high), uniformly(w, block, "alike", same)];
  }

  /** scores[query][lane] = query · the lane's key, for the first `rows` queries. */
  private scores(block: Block, key: ImpExpr, rows: number): void {
    const { c, d, lane } = this;
    const sums = products(this.w, block, rows, c.inner, shared.queries, key);
    for (const [q, sum] of sums.entries()) put(block, at(shared.scores, add(lane, int(q * d.lanes))), sum);
  }

  /** The weights of a query's scores of this block, shared by `lanesOfRow` lanes; the query's top, total and shrink. */
  private weigh(block: Block, s: ImpExpr, mine: Mine): void {
    const { c, d } = this;
    const { row, part, lanesOfRow, top, total } = mine;
    const scores = this.name(block, "scores", at(shared.scores, mul(row, int(d.lanes))));
    const step = 4 * lanesOfRow;
    const start = this.name(block, "start", mul(part, int(4)));
    const seen = (inside: Block, j: ImpExpr): ImpExpr => {
      const keys = this.name(inside, "keys", add(splat(add(s, j)), vector("i32x4", [0, 1, 2, 3])));
      return this.name(inside, "seen", binary("bitand", binary("le", splat(mine.from), keys), binary("lt", keys, splat(mine.to))));
    };
    const best = this.name(block, "best", splat(top), true);
    each(c, block, "j", start, this.unknown(d.lanes), step, (inside, j) => {
      const masked: ImpExpr = {
        k: "select",
        cond: seen(inside, j),
        a: load(advance(scores, j), "f32x4"),
        b: vector("f32x4", lowest),
        type: "f32x4",
      };
      // NaN is never taken: it shows in the sum.
      set(inside, best, fastMinMax("max", best, masked));
    });
    const before = this.name(block, "before", top);
    const most = this.name(block, "most", { k: "across", op: "max", a: best, type: "f32" });
    set(
      block,
      top,
      this.ofRow(block, most, mine, 0, (a, b) => fastMinMax("max", a, b)),
    );
    const tops = this.name(block, "tops", splat(top));
    const sum = this.name(block, "sum", vector("f32x4", 0), true);
    each(c, block, "j", start, this.unknown(d.lanes), step, (inside, j) => {
      const mask = seen(inside, j);
      const weight = this.name(inside, "w", exp(sub(load(advance(scores, j), "f32x4"), tops)));
      const chosen = (other: number): ImpExpr => ({ k: "select", cond: mask, a: weight, b: vector("f32x4", other), type: "f32x4" });
      put(inside, advance(scores, j), chosen(-1));
      set(inside, sum, add(sum, chosen(0)));
    });
    const shrink = this.name(block, "shrink", exp(sub(before, top)));
    branch(block, binary("eq", part, int(0)), (one) => put(one, at(shared.shrink, row), shrink));
    const own = this.name(block, "own", { k: "across", op: "add", a: sum, type: "f32" });
    set(block, total, fma(total, shrink, this.ofRow(block, own, mine, d.lanes, add)));
  }

  /** What all lanes of a query have, combined; through `parts` from place `region` on where a subgroup does not hold them. */
  private ofRow(
    block: Block,
    own: ImpExpr,
    { row, lanesOfRow }: Mine,
    region: number,
    combine: (a: ImpExpr, b: ImpExpr) => ImpExpr,
  ): ImpExpr {
    const { c, d, lane } = this;
    const all = this.name(block, "all", own, true);
    if (lanesOfRow <= d.subgroups) {
      for (let bit = 1; bit < lanesOfRow; bit *= 2) {
        const name = c.emitter.fresh("other");
        block.statements.push({ k: "exchange", name, type: "f32", op: "xor", value: all, lane: int(bit) });
        set(block, all, combine(all, { k: "var", name, type: "f32" }));
      }
      return all;
    }
    put(block, at(shared.parts, add(lane, int(region))), own);
    this.barrier(block);
    const first = this.name(block, "first", add(mul(row, int(lanesOfRow)), int(region)));
    set(block, all, load(at(shared.parts, first), "f32"));
    each(c, block, "p", int(1), this.unknown(lanesOfRow), 1, (inside, p) =>
      set(inside, all, combine(all, load(at(shared.parts, add(first, p)), "f32"))),
    );
    return all;
  }

  /** sums = sums · shrink + weights · values, over the keys of this block. */
  private mix(block: Block, s: ImpExpr, high: ImpExpr, alike: ImpExpr, few: ImpExpr, sums: Sums): void {
    const { c, d } = this;
    const here = this.name(block, "here", binary("min", int(d.lanes), sub(high, s)));
    for (const [q, sum] of sums.values.entries()) {
      const shrink = load(at(shared.shrink, add(sums.first, int(q))), "f32");
      set(block, sum, mul(sum, splat(shrink)));
    }
    branch(
      block,
      binary("eq", alike, int(1)),
      (inside) => {
        const some = { ...sums, values: sums.values.slice(0, fewQueries) };
        if (some.values.length === sums.values.length) this.addUp(inside, s, here, sums);
        else
          branch(
            inside,
            few,
            (one) => this.addUp(one, s, here, some),
            (all) => this.addUp(all, s, here, sums),
          );
      },
      (inside) =>
        each(c, inside, "j", sums.part, here, d.columnGroups, (one, j) => {
          const value = this.name(one, "v", load(advance(c.value(one, add(s, j)), sums.feature), "f32x4"));
          for (const [q, sum] of sums.values.entries()) {
            const weight = this.name(one, "w", load(this.weight(sums, q, j), "f32"));
            set(one, sum, { k: "select", cond: lt(weight, float(0)), a: sum, b: fma(splat(weight), value, sum), type: "f32x4" });
          }
        }),
    );
  }

  private weight(sums: Sums, q: number, j: ImpExpr): ImpExpr {
    return at(shared.scores, add(mul(add(sums.first, int(q)), int(this.d.lanes)), j));
  }

  /** sums += weights · values, where every query sees every key. */
  private addUp(block: Block, s: ImpExpr, here: ImpExpr, sums: Sums): void {
    const value = (inside: Block, j: ImpExpr): ImpExpr =>
      this.name(inside, "v", load(advance(this.c.value(inside, add(s, j)), sums.feature), "f32x4"));
    addSeen(this.w, block, this.d, sums, here, (q, j) => this.weight(sums, q, j), value);
  }

  /** Adds up what lanes with other keys have, and writes the means. */
  private store(sums: Sums): void {
    const { c, block, d, lane } = this;
    for (const [q, sum] of sums.values.entries()) {
      joinGroups(this.w, block, d, sum, shared.sums);
      const row = this.name(block, "row", add(sums.first, int(q)));
      const t = this.name(block, "t", add(this.first, row));
      const column = this.name(block, "c", binary("bitand", lane, int(d.width - 1)));
      const inside = this.name(
        block,
        "stores",
        binary("and", lt(t, this.all), binary("and", lt(column, int(d.columns)), binary("eq", sums.part, int(0)))),
      );
      branch(block, inside, (some) => {
        const mean = this.name(some, "mean", mul(sum, splat(load(at(shared.shrink, row), "f32"))));
        const to = this.name(some, "to", advance(c.result(some, t), sums.feature));
        storeFeatures(some, to, mean, c.features, binary("eq", column, int(d.columns - 1)));
      });
    }
  }
}

interface Queries {
  /** The first of the block, and how many there are in all. */
  readonly first: ImpExpr;
  readonly all: ImpExpr;
  /** A number that drivers do not know: they would write out loops with it, which takes them long. */
  readonly unknown: (value: number) => ImpExpr;
}

interface Mine {
  readonly row: ImpExpr;
  readonly part: ImpExpr;
  readonly lanesOfRow: number;
  readonly from: ImpExpr;
  readonly to: ImpExpr;
  /** Largest score and sum of weights so far: the same in all lanes of the query. */
  readonly top: ImpExpr;
  readonly total: ImpExpr;
}

interface Sums {
  /** The first of four features, the group of keys, the first query. */
  readonly feature: ImpExpr;
  readonly part: ImpExpr;
  readonly first: ImpExpr;
  readonly values: readonly ImpExpr[];
}
