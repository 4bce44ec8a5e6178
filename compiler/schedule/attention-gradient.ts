// The builder of attention's derivative: kernels that make the weights of a few rows and a block of columns again from the
// logarithms, and use them at once, so that no matrix of weights is ever in memory. Rows are queries and columns keys, or
// the other way round. A unit is a head and a block of rows; it goes over runs of rows whose columns overlap (those of one
// segment), and over blocks of columns, packed once for all rows of the run. Declines what attention-gradient-parts.ts does
// not know; the kernel's own loops are right for everything, and slower by as many times as there are features.

import { dim, dimAdd, dimConstant, dimDiv, dimMul } from "../ir/dim.ts";
import { add, advance, at, binary, float, int, load, loadSplat, local, lt, mul, sub, vector } from "../ir/imp/build.ts";
import type { ImpExpr, ImpFunction, ImpScratch } from "../ir/imp/types.ts";
import type { Expr, Kernel } from "../ir/kernel/types.ts";
import { gradientFacts, type Dot, type GradientFacts } from "./attention-gradient-parts.ts";
import {
  branch,
  column as columnOf,
  copy,
  each,
  emitAt,
  lowest,
  power,
  put,
  scoreRows,
  scratch,
  set,
  slot,
  softmaxRow,
  stepping,
  zeroed,
} from "./attention-parts.ts";
import { transpose } from "./attention-tiled.ts";
import type { Capabilities } from "./capabilities.ts";
import { Block, Emitter } from "./emit.ts";
import { finish, unitName } from "./finish.ts";
import { coefficient } from "./merge.ts";
import { tile } from "./tile.ts";

/** Most rows of a unit: a multiple of every tile's rows. */
const rowBlock = 96;
/** Most columns of a block: three packed blocks of 64 features are 96 KiB, the weights of `scoreRows` rows 13 KiB each. */
const columnBlock = 128;
/** A row of weights, with room for what the last vectors of a row go past its end. */
const stride = columnBlock + 8;
/** Steps of a product's inner loop that are written out. */
const unroll = 8;

/** Scratch of a unit besides that of attention-parts.ts. */
const own = {
  /** Rows of the scores, times the scale, and of the slopes: [row][depth]. */
  rows: "rows_scaled",
  slopes: "slope_rows",
  /** Columns of both, [columns/8][depth][8], and what is summed, [features/8][columnBlock][8]. */
  columns: "columns_packed",
  slopeColumns: "slope_columns",
  values: "values_packed",
  weights: "weights",
  steep: "steep",
  sums: "sums",
  /** By row or by column. */
  log: "logs",
  delta: "deltas",
  starts: "starts",
  ends: "ends",
} as const;

export function lowerAttentionGradient(kernel: Kernel, capabilities: Capabilities): ImpFunction | undefined {
  if (capabilities.vector !== 4) return undefined;
  const emitter = new Emitter(kernel.buffers, true);
  const facts = gradientFacts(kernel, emitter);
  return facts === undefined ? undefined : new Builder(kernel, facts, capabilities, emitter).build();
}

/** The position of a column. */
type Place = (block: Block, s: ImpExpr) => ImpExpr;

class Builder {
  readonly emitter: Emitter;
  private readonly kernel: Kernel;
  private readonly f: GradientFacts;
  /** Rows of a tile. */
  private readonly tileRows: number;
  private readonly root = new Block();
  /** Features that are summed, in eights. */
  private readonly width: number;

  constructor(kernel: Kernel, facts: GradientFacts, capabilities: Capabilities, emitter: Emitter) {
    this.kernel = kernel;
    this.f = facts;
    this.emitter = emitter;
    this.tileRows = scoreRows % capabilities.matmulRows === 0 ? capabilities.matmulRows : 4;
    this.width = 8 * Math.ceil((facts.sum?.features ?? 0) / 8);
  }

  build(): ImpFunction {
    const { emitter, f, root } = this;
    const blocks = dimDiv(dimAdd(f.rows, dim(rowBlock - 1)), dim(rowBlock));
    const unit = local(unitName, "i32");
    // Heads of one block follow each other: they lie side by side in memory.
    const heads = emitter.name(root, "heads", emitter.size(f.heads));
    const block = emitter.name(root, "block", binary("div", unit, heads));
    const head = emitter.name(root, f.head, sub(unit, mul(block, heads)));
    root.remember(emitter.interner.intern({ k: "var", name: f.head, type: "i32" }), false, head);
    const first = emitter.name(root, "first", mul(block, int(rowBlock)));
    const end = emitter.name(root, "end", binary("min", add(first, int(rowBlock)), emitter.name(root, "rows", emitter.size(f.rows))));
    const places = this.places();
    stepping(this, root, "t", first, end, (inside, t) => {
      const run = this.findRun(inside, t, end);
      this.takeRows(inside, t, run.count, places);
      const padded = this.padded(inside, run.count);
      stepping(this, inside, "s", run.from, run.to, (columns, s) => {
        const here = emitter.name(columns, "here", binary("min", int(columnBlock), sub(run.to, s)));
        this.takeColumns(columns, s, here, places);
        each(this, columns, "r", int(0), padded, scoreRows, (some, r) => {
          const rows = emitter.name(some, "rows", binary("min", int(scoreRows), sub(padded, r)));
          this.scores(some, r, rows, here);
          if (f.sum === undefined) this.logRows(some, r, rows, s, here);
          else {
            this.weigh(some, r, rows, s, here);
            this.addValues(some, r, rows, here);
          }
        });
        return here;
      });
      each(this, inside, "r", int(0), run.count, 1, (row, r) => this.writeRow(row, r, emitter.name(row, "t", add(t, r))));
      return run.count;
    });
    return finish(this.kernel, emitter, dimMul(blocks, f.heads), root.statements, this.scratch());
  }

  /** Where the head's columns lie. */
  private places(): {
    readonly columns: Place;
    readonly slopes?: Place;
    readonly values?: Place;
    readonly log?: Place;
    readonly delta?: Place;
  } {
    const { f } = this;
    const { sum } = f;
    return {
      columns: this.column(f.score.column, f.score.axis),
      ...(sum === undefined ? {} : { values: this.column(sum.value, sum.feature) }),
      ...(sum?.slope === undefined ? {} : { slopes: this.column(sum.slope.dot.column, sum.slope.dot.axis) }),
      ...(sum === undefined || this.ofRow(sum.log) ? {} : { log: this.column(sum.log) }),
      ...(sum?.slope === undefined || this.ofRow(sum.slope.delta) ? {} : { delta: this.column(sum.slope.delta) }),
    };
  }

  private ofRow(l: Extract<Expr, { k: "load" }>): boolean {
    return !this.emitter.reads.of(this.emitter.interner.intern(l.index)).has(this.f.column);
  }

  /** Columns lie a stride apart, or anywhere where an index looks them up. */
  private column(l: Extract<Expr, { k: "load" }>, neighbours?: string): Place {
    const { emitter, root } = this;
    const start = emitter.interner.intern(neighbours === undefined ? l.index : zeroed(l.index, neighbours));
    const step = coefficient(start, this.f.column, emitter);
    if (step === undefined) return (block, s) => emitter.name(block, "p", at(l.buffer, emitAt(emitter, block, start, this.f.column, s)));
    const base = emitter.emit(emitter.interner.intern(zeroed(start, this.f.column)), root, undefined);
    const from = emitter.name(root, "base", at(l.buffer, base));
    const constant = dimConstant(step);
    const by = constant === undefined ? emitter.name(root, "stride", emitter.size(step)) : int(constant);
    return (_, s) => advance(from, mul(s, by));
  }

  /** The position of a row's element, its neighbours from the first. */
  private rowPlace(block: Block, buffer: string, index: Expr, t: ImpExpr, neighbours?: string): ImpExpr {
    const start = neighbours === undefined ? index : zeroed(index, neighbours);
    return this.emitter.name(block, "p", at(buffer, emitAt(this.emitter, block, start, this.f.row, t)));
  }

  /**
   * How many rows from `t` on have columns that overlap, and the range of all of them; rows without columns go along. The
   * range of each row is left in scratch.
   */
  private findRun(block: Block, t: ImpExpr, end: ImpExpr): { readonly count: ImpExpr; readonly from: ImpExpr; readonly to: ImpExpr } {
    const { emitter, f } = this;
    const range = (inside: Block, row: ImpExpr): readonly [ImpExpr, ImpExpr] => [
      emitter.name(inside, "from", emitAt(emitter, inside, f.from, f.row, row)),
      emitter.name(inside, "to", emitAt(emitter, inside, f.to, f.row, row)),
    ];
    const [one, other] = range(block, t);
    const from = emitter.name(block, "from", one, true);
    const to = emitter.name(block, "to", other, true);
    const keep = (inside: Block, r: ImpExpr, a: ImpExpr, b: ImpExpr): void => {
      put(inside, at(own.starts, r), a);
      put(inside, at(own.ends, r), b);
    };
    keep(block, int(0), one, other);
    const count = emitter.name(block, "count", int(1), true);
    each(this, block, "r", int(1), sub(end, t), 1, (inside, r) => {
      // Still in the run: every row before was.
      branch(inside, binary("eq", count, r), (near) => {
        const [a, b] = range(near, emitter.name(near, "t", add(t, r)));
        const take = (mine: Block): void => {
          keep(mine, r, a, b);
          set(mine, count, add(r, int(1)));
        };
        const join = (mine: Block): void => {
          set(mine, from, binary("min", from, a));
          set(mine, to, binary("max", to, b));
          take(mine);
        };
        // A row without columns.
        branch(
          near,
          lt(a, b),
          (some) => {
            branch(
              some,
              lt(from, to),
              (both) => branch(both, lt(a, to), (left) => branch(left, lt(from, b), join)),
              (first) => {
                set(first, from, a);
                set(first, to, b);
                take(first);
              },
            );
          },
          take,
        );
      });
    });
    return { count, from, to };
  }

  private padded(block: Block, count: ImpExpr): ImpExpr {
    const rows = int(this.tileRows);
    return this.emitter.name(block, "padded", mul(binary("div", add(count, int(this.tileRows - 1)), rows), rows));
  }

  /** Rows of the run, and copies of the last one up to a whole tile; nothing is summed yet. */
  private takeRows(block: Block, t: ImpExpr, count: ImpExpr, places: ReturnType<Builder["places"]>): void {
    const { emitter, f } = this;
    const { sum } = f;
    const scale = Math.fround(f.scale * Math.LOG2E);
    each(this, block, "r", int(0), this.padded(block, count), 1, (inside, r) => {
      const real = emitter.name(inside, "real", binary("min", r, sub(count, int(1))));
      const row = emitter.name(inside, "t", add(t, real));
      for (const name of [own.starts, own.ends]) put(inside, at(name, r), load(at(name, real), "i32"));
      const take = (dot: Dot, to: string, by: number): void => {
        const from = this.rowPlace(inside, dot.row.buffer, dot.row.index, row, dot.axis);
        copy(this, inside, from, slot(this, inside, to, r, dot.depth), dot.depth, (v) => (by === 1 ? v : mul(v, like(v, by))));
      };
      take(f.score, own.rows, scale);
      if (sum === undefined) {
        put(inside, at(scratch.top, r), float(lowest));
        put(inside, at(scratch.total, r), float(0));
        return;
      }
      if (sum.slope !== undefined) take(sum.slope.dot, own.slopes, 1);
      if (places.log === undefined)
        put(inside, at(own.log, r), mul(load(this.rowPlace(inside, sum.log.buffer, sum.log.index, row), "f32"), float(Math.LOG2E)));
      if (sum.slope !== undefined && places.delta === undefined)
        put(inside, at(own.delta, r), load(this.rowPlace(inside, sum.slope.delta.buffer, sum.slope.delta.index, row), "f32"));
      const sums = slot(this, inside, own.sums, r, this.width);
      each(this, inside, "i", int(0), int(this.width), 4, (four, i) => put(four, advance(sums, i), vector("f32x4", 0)));
    });
  }

  private takeColumns(block: Block, s: ImpExpr, here: ImpExpr, places: ReturnType<Builder["places"]>): void {
    const { f } = this;
    const { sum } = f;
    this.pack(block, places.columns, own.columns, f.score.depth, s, here);
    if (sum === undefined || places.values === undefined) return;
    if (sum.slope !== undefined && places.slopes !== undefined)
      this.pack(block, places.slopes, own.slopeColumns, sum.slope.dot.depth, s, here);
    this.packValues(block, places.values, s, here);
    const { log, delta } = places;
    each(this, block, "j", int(0), here, 1, (inside, j) => {
      const at_ = this.emitter.name(inside, "s", add(s, j));
      if (log !== undefined) put(inside, at(own.log, j), mul(load(log(inside, at_), "f32"), float(Math.LOG2E)));
      if (delta !== undefined) put(inside, at(own.delta, j), load(delta(inside, at_), "f32"));
    });
  }

  /** Columns s … s+count-1 as [count/8][depth][8]; the last panel repeats the last column. */
  private pack(block: Block, place: Place, name: string, depth: number, s: ImpExpr, count: ImpExpr): void {
    const { emitter } = this;
    const last = emitter.name(block, "last", add(s, sub(count, int(1))));
    each(this, block, "j", int(0), count, 4, (inside, j) => {
      const first = emitter.name(inside, "s", add(s, j));
      const columns = [0, 1, 2, 3].map((n) =>
        emitter.name(inside, "k", place(inside, emitter.name(inside, "s", binary("min", add(first, int(n)), last)))),
      );
      const panel = mul(binary("bitand", j, int(-8)), int(depth));
      const to = emitter.name(inside, "to", at(name, add(panel, binary("bitand", j, int(4)))));
      const whole = depth - (depth % 4);
      each(this, inside, "i", int(0), int(whole), 4, (square, i) => {
        const rows = columns.map((k) => emitter.name(square, "row", load(advance(k, i), "f32x4")));
        const there = emitter.name(square, "to", advance(to, mul(i, int(8))));
        for (const [n, x] of transpose(this, square, rows).entries()) put(square, there, x, 8 * n);
      });
      for (let i = whole; i < depth; i++) put(inside, to, columnOf(columns, i), 8 * i);
    });
  }

  /** What is summed of columns s … s+count-1 as [features/8][columnBlock][8], zeros behind the last feature. */
  private packValues(block: Block, place: Place, s: ImpExpr, count: ImpExpr): void {
    const { emitter } = this;
    const features = this.f.sum?.features ?? 0;
    const whole = features - (features % 8);
    each(this, block, "j", int(0), count, 1, (inside, j) => {
      const from = emitter.name(inside, "v", place(inside, emitter.name(inside, "s", add(s, j))));
      const to = slot(this, inside, own.values, j, 8);
      each(this, inside, "e", int(0), int(whole), 8, (eight, e) => {
        const [a, b] = [emitter.name(eight, "a", advance(from, e)), emitter.name(eight, "b", advance(to, mul(e, int(columnBlock))))];
        for (const half of [0, 4]) put(eight, b, load(a, "f32x4", half), half);
      });
      const rest = features - whole;
      if (rest === 0) return;
      const end = emitter.name(inside, "end", advance(to, int(whole * columnBlock)));
      for (const half of [0, 4]) put(inside, end, half < rest - 3 ? load(from, "f32x4", whole + half) : vector("f32x4", 0), half);
      for (let i = rest - (rest % 4); i < rest; i++) put(inside, end, load(from, "f32", whole + i), i);
    });
  }

  /** Scores, and slopes where there are any, of rows r … and all columns of the block. */
  private scores(block: Block, r: ImpExpr, rows: ImpExpr, here: ImpExpr): void {
    const { f } = this;
    this.product(block, own.rows, own.columns, f.score.depth, own.weights, r, rows, here);
    if (f.sum?.slope !== undefined) this.product(block, own.slopes, own.slopeColumns, f.sum.slope.dot.depth, own.steep, r, rows, here);
  }

  private product(block: Block, a: string, b: string, depth: number, out: string, r: ImpExpr, rows: ImpExpr, here: ImpExpr): void {
    const { emitter } = this;
    each(this, block, "j", int(0), here, 8, (panel, j) => {
      const columns = slot(this, panel, b, j, depth);
      each(this, panel, "i", int(0), rows, this.tileRows, (inside, i) => {
        const made = tile({
          rows: this.tileRows,
          fresh: (hint) => emitter.fresh(hint),
          a: [slot(this, inside, a, add(r, i), depth)],
          rowStride: depth,
          aStep: 1,
          b: columns,
          bStep: int(8),
          count: int(depth),
          unroll,
        });
        inside.statements.push(...made.statements);
        const to = slot(this, inside, out, i, stride, j);
        for (const [n, pair] of made.sums.entries()) for (const [half, sum] of pair.entries()) put(inside, to, sum, n * stride + 4 * half);
      });
    });
  }

  /** Scores to weights: powers of what is left of the logarithm, times the slopes, and 0 for columns that are not the row's. */
  private weigh(block: Block, r: ImpExpr, rows: ImpExpr, s: ImpExpr, here: ImpExpr): void {
    const { emitter, f } = this;
    const { sum } = f;
    if (sum === undefined) return;
    const steep = sum.slope;
    const [logOfRow, deltaOfRow] = [this.ofRow(sum.log), steep === undefined || this.ofRow(steep.delta)];
    each(this, block, "i", int(0), rows, 1, (row, i) => {
      const at_ = emitter.name(row, "at", add(r, i));
      const weights = slot(this, row, own.weights, i, stride);
      const slopes = slot(this, row, own.steep, i, stride);
      const one = (name: string): ImpExpr => emitter.name(row, "own", loadSplat(at(name, at_), "f32x4"));
      const log = logOfRow ? one(own.log) : undefined;
      const delta = steep !== undefined && deltaOfRow ? one(own.delta) : undefined;
      each(this, row, "j", int(0), here, 4, (four, j) => {
        const p = emitter.name(four, "p", advance(weights, j));
        const less = log ?? load(emitter.name(four, "log", at(own.log, j)), "f32x4");
        let w = emitter.name(four, "w", power(this, four, emitter.name(four, "x", sub(load(p, "f32x4"), less))));
        if (steep !== undefined) {
          const d = delta ?? load(emitter.name(four, "delta", at(own.delta, j)), "f32x4");
          w = mul(w, sub(load(emitter.name(four, "slope", advance(slopes, j)), "f32x4"), d));
        }
        put(four, p, w);
      });
      const within = (name: string): ImpExpr =>
        emitter.name(row, name, binary("max", int(0), binary("min", here, sub(load(at(name, at_), "i32"), s))));
      const [start, end] = [within(own.starts), within(own.ends)];
      each(this, row, "j", int(0), start, 1, (none, j) => put(none, advance(weights, j), float(0)));
      each(this, row, "j", end, here, 1, (none, j) => put(none, advance(weights, j), float(0)));
    });
  }

  /** sums[r + i] += weights[i] · values */
  private addValues(block: Block, r: ImpExpr, rows: ImpExpr, here: ImpExpr): void {
    const { emitter, width } = this;
    each(this, block, "e", int(0), int(width), 8, (panel, e) => {
      const b = slot(this, panel, own.values, e, columnBlock);
      each(this, panel, "i", int(0), rows, this.tileRows, (inside, i) => {
        const to = slot(this, inside, own.sums, emitter.name(inside, "row", add(r, i)), width, e);
        const made = tile({
          rows: this.tileRows,
          fresh: (hint) => emitter.fresh(hint),
          a: [slot(this, inside, own.weights, i, stride)],
          rowStride: stride,
          aStep: 1,
          b,
          bStep: int(8),
          count: here,
          unroll,
          initial: (n, half) => load(to, "f32x4", n * width + 4 * half),
        });
        inside.statements.push(...made.statements);
        for (const [n, pair] of made.sums.entries()) for (const [half, sum] of pair.entries()) put(inside, to, sum, n * width + 4 * half);
      });
    });
  }

  /** The largest score and the sum of powers so far. Rows of a run that see anything begin at the same column. */
  private logRows(block: Block, r: ImpExpr, rows: ImpExpr, s: ImpExpr, here: ImpExpr): void {
    const { emitter } = this;
    each(this, block, "i", int(0), rows, 1, (row, i) => {
      const at_ = emitter.name(row, "at", add(r, i));
      const seen = emitter.name(row, "seen", binary("min", here, sub(load(at(own.ends, at_), "i32"), s)));
      branch(row, lt(int(0), seen), (some) => softmaxRow(this, some, slot(this, some, own.weights, i, stride), seen, at_));
    });
  }

  private writeRow(block: Block, r: ImpExpr, t: ImpExpr): void {
    const { emitter, f } = this;
    const { sum, out } = f;
    if (sum !== undefined) {
      const to = this.rowPlace(block, out.buffer, out.index, t, sum.feature);
      copy(this, block, slot(this, block, own.sums, r, this.width), to, sum.features, (v) =>
        sum.scale === 1 ? v : mul(v, like(v, Math.fround(sum.scale))),
      );
      return;
    }
    const to = this.rowPlace(block, out.buffer, out.index, t);
    const top = mul(load(at(scratch.top, r), "f32"), float(Math.LN2));
    const total: ImpExpr = { k: "unary", op: "log", a: load(at(scratch.total, r), "f32"), type: "f32" };
    const sees = lt(load(at(own.starts, r), "i32"), load(at(own.ends, r), "i32"));
    branch(
      block,
      sees,
      (some) => put(some, to, emitter.name(some, "log", add(top, total))),
      (none) => put(none, to, float(0)),
    );
  }

  private scratch(): readonly ImpScratch[] {
    const { f, width } = this;
    const f32 = (name: string, size: number): ImpScratch => ({ name, dtype: "f32", size: dim(size), space: "private" });
    const i32 = (name: string, size: number): ImpScratch => ({ ...f32(name, size), dtype: "i32" });
    const ranges = [i32(own.starts, rowBlock), i32(own.ends, rowBlock)];
    const scores = [
      f32(own.rows, rowBlock * f.score.depth),
      f32(own.columns, columnBlock * f.score.depth),
      f32(own.weights, scoreRows * stride),
    ];
    if (f.sum === undefined)
      return [...ranges, ...scores, f32(scratch.top, rowBlock), f32(scratch.total, rowBlock), f32(scratch.shrink, rowBlock)];
    const depth = f.sum.slope?.dot.depth;
    return [
      ...ranges,
      ...scores,
      ...(depth === undefined
        ? []
        : [f32(own.slopes, rowBlock * depth), f32(own.slopeColumns, columnBlock * depth), f32(own.delta, stride)]),
      f32(own.steep, depth === undefined ? 4 : scoreRows * stride),
      f32(own.values, columnBlock * width),
      f32(own.sums, rowBlock * width),
      f32(own.log, stride),
    ];
  }
}

/** The number in the type of `v`. */
function like(v: ImpExpr, value: number): ImpExpr {
  return v.k === "load" && v.type === "f32" ? float(value) : vector("f32x4", value);
}
