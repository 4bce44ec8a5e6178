// Matrix products on GPUs, recognised and finished as on CPUs (product.ts, epilogue.ts), with another tile. Declines
// (undefined) what product.ts does not recognise; the loops of points.ts are right for everything.
//
// Note [Units of a GPU product]. A workgroup makes 40 rows of 128 columns. An invocation has four columns (one vector of
// B a step) and ten rows: a value of A meets four columns and a vector of B ten rows, which is 40 multiplications for what
// is read of B and one for each word of A. Where nothing is known of the device (no subgroups) it has eight columns, since
// what it reads may be dear. Rows of A are read four steps at a time by all neighbours alike, from where
// they lie: every driver reads such a value once for all. B is in panels of 32 columns, so neighbours read what lies
// together. Two ways to go over the 40 rows, with the same units, since variants share a plan:
// - in groups: four groups of invocations have ten rows each at the same time, and B is read from near caches four times;
//   for GPUs, which want many invocations;
// - in turn: 32 invocations go over the rows, ten at a time; each lane of a subgroup reads one step of A, and the others take
//   it from there. For drivers that run a subgroup as a vector of a CPU (small ones), where each read of a vector is many.
//
// Note [Few rows]. One or two rows (a step of generation) would leave nine tenths of the tile empty, and what counts is
// how fast B is read: a workgroup takes one panel of 32 columns, its invocations divide the steps among themselves and
// add up their sums in the end. There are more panels than blocks of 128 columns, so there are as many units as either
// way needs; those beyond do nothing.

import { dim, dimAdd, dimConstant, dimDiv, dimMax, dimMul, type Dim } from "../../ir/dim.ts";
import {
  add,
  advance,
  at,
  binary,
  constantOf,
  fma,
  int,
  lane as laneOf,
  load,
  lt,
  mul,
  splat,
  store,
  sub,
  vector,
  when,
} from "../../ir/imp/build.ts";
import type { ImpExpr, ImpFunction, ImpScratch, ImpStmt } from "../../ir/imp/types.ts";
import { substitute } from "../../ir/kernel/intern.ts";
import { Simplifier } from "../../ir/kernel/simplify.ts";
import type { Expr, Kernel } from "../../ir/kernel/types.ts";
import { gpuPanel, type GpuCapabilities } from "../capabilities.ts";
import { Block, Emitter, nameOf } from "../emit.ts";
import { epilogue } from "../epilogue.ts";
import { finish, laneName, unitName } from "../finish.ts";
import { productOf, type Load, type Product } from "../product.ts";
import { placesOf, unusedName, variable } from "./parts.ts";

/** Rows of an invocation's tile, and of a workgroup's. */
const tileRows = 10;
const groups = 4;
const blockRows = tileRows * groups;
const blockColumns = 128;
/** Invocations side by side in a panel. */
const inPanel = gpuPanel / 4;
/** So many rows at most are made panel by panel. */
const fewRows = 2;

export function lowerGpuMatmul(kernel: Kernel, gpu: GpuCapabilities): ImpFunction | undefined {
  const emitter = new Emitter(kernel.buffers, true);
  const product = productOf(kernel, gpuPanel, emitter, { halves: true });
  return product === undefined ? undefined : new Builder(kernel, product, gpu, emitter).build();
}

/** Four columns of the result, and where they begin in B. */
interface Columns {
  readonly column: ImpExpr;
  readonly b: ImpExpr;
}

class Builder {
  private readonly kernel: Kernel;
  private readonly p: Product;
  private readonly emitter: Emitter;
  /** All rows of a block at once, by groups of invocations. */
  private readonly grouped: boolean;
  private readonly lanes: number;
  /** Vectors of columns of an invocation, and invocations side by side. */
  private readonly vectors: number;
  private readonly across: number;
  /** Steps of A that a subgroup reads at once and exchanges; 0 where every invocation reads all. */
  private readonly exchanged: number;
  private readonly sums: string;
  private readonly parts: string;

  constructor(kernel: Kernel, product: Product, gpu: GpuCapabilities, emitter: Emitter) {
    this.kernel = kernel;
    this.p = product;
    this.emitter = emitter;
    this.grouped = gpu.subgroups === 0 || gpu.subgroups > 8;
    this.vectors = gpu.subgroups === 0 ? 2 : 1;
    this.across = blockColumns / (4 * this.vectors);
    this.lanes = this.grouped ? this.across * groups : this.across;
    this.exchanged = this.grouped ? 0 : gpu.subgroups;
    this.sums = unusedName(kernel.buffers, "sums");
    this.parts = unusedName(kernel.buffers, "parts");
  }

  build(): ImpFunction {
    const { emitter, p } = this;
    const { m, n } = { m: p.m.extent, n: p.n.extent };
    const up = (d: Dim, by: number): Dim => dimDiv(dimAdd(d, dim(by - 1)), dim(by));
    const [blocks, columns, panels] = [up(m, blockRows), up(n, blockColumns), up(n, gpuPanel)];
    const rows = dimConstant(m);
    // Whether there are few rows is known when code is made, or at a run.
    const few = rows === undefined ? undefined : rows <= fewRows;
    const tiles = dimMul(blocks, columns);
    const each = few === undefined ? dimMax(tiles, panels) : few ? panels : tiles;
    const root = new Block();
    const places = placesOf(emitter, root, variable(unitName), [...p.batch.map((x) => x.extent), each]);
    for (const [i, x] of p.batch.entries()) root.remember(this.axis(x.name), false, places[i] ?? int(0));
    const unit = places.at(-1) ?? int(0);
    const count = emitter.emit(p.count, root, undefined);
    const size = emitter.name(root, "rows", emitter.size(m));
    const lastPanel = emitter.name(root, "last", sub(emitter.size(panels), int(1)));
    const [tiled, single] = [new Block(root), new Block(root)];
    if (few !== true) this.tiles(tiled, unit, emitter.size(blocks), size, count, lastPanel);
    if (few !== false) this.panel(single, unit, size, count);
    const isTile = lt(unit, emitter.size(tiles));
    const isPanel = binary("le", unit, lastPanel);
    if (few === undefined)
      root.statements.push(when(lt(int(fewRows), size), [when(isTile, tiled.statements)], [when(isPanel, single.statements)]));
    else root.statements.push(...(few ? single.statements : tiled.statements));
    const scratch: ImpScratch[] = [
      { name: this.sums, dtype: "f32", size: dim(4 * tileRows), space: "private" },
      ...(few === false ? [] : [{ name: this.parts, dtype: "f32", size: dim(4 * this.lanes), space: "workgroup" } as const]),
    ];
    const units = [...p.batch.map((x) => x.extent), each].reduce(dimMul, dim(1));
    return finish(this.kernel, emitter, units, root.statements, scratch, {
      lanes: this.lanes,
      ...(this.exchanged > 0 ? { subgroup: this.exchanged } : {}),
    });
  }

  private axis(name: string): Expr {
    return this.emitter.interner.intern({ k: "var", name, type: "i32" });
  }

  /** Where a load begins at k = 0 with the given axes; what that takes is computed in `into` and known nowhere else. */
  private position(into: Block, of: Load, axes: readonly (readonly [string, ImpExpr])[]): ImpExpr {
    const { emitter, p } = this;
    const own = new Block(into);
    for (const [name, value] of axes) own.remember(this.axis(name), false, value);
    const index = emitter.interner.intern(substitute(of.index, p.kAxis, { k: "const", type: "i32", value: 0 }));
    const place = emitter.emit(index, own, undefined);
    into.statements.push(...own.statements);
    return place;
  }

  /** Where four columns of B begin: `within` of a panel. */
  private columnsOf(block: Block, panel: ImpExpr, within: ImpExpr, count: ImpExpr): ImpExpr {
    // At column 0 nothing is left of the panels: what remains is a multiple of whole vectors, as renderers like to know.
    const zero: Expr = { k: "const", type: "i32", value: 0 };
    const first = new Simplifier([]).simplify(substitute(substitute(this.p.b.index, this.p.n.name, zero), this.p.kAxis, zero));
    const matrix = this.emitter.emit(this.emitter.interner.intern(first), block, undefined);
    const rows = mul(panel, count);
    return this.emitter.name(block, "b", at(this.p.b.buffer, add(add(matrix, mul(rows, int(gpuPanel))), within)));
  }

  /** The rows and columns of place `unit` among the tiles. */
  private tiles(block: Block, unit: ImpExpr, blocks: ImpExpr, size: ImpExpr, count: ImpExpr, lastPanel: ImpExpr): void {
    const { emitter } = this;
    const lane = variable(laneName);
    const right = emitter.name(block, "right", binary("div", unit, blocks));
    const first = emitter.name(block, "first", mul(sub(unit, mul(right, blocks)), int(blockRows)));
    const inRow = this.grouped ? emitter.name(block, "in_row", binary("bitand", lane, int(this.across - 1))) : lane;
    const within = emitter.name(block, "within", mul(binary("bitand", inRow, int(inPanel - 1)), int(4)));
    const columns = Array.from({ length: this.vectors }, (_, v): Columns => {
      const column = emitter.name(block, "column", add(mul(right, int(blockColumns)), mul(add(inRow, int(v * this.across)), int(4))));
      // Panels beyond the last one are not stored.
      const panel = emitter.name(block, "panel", binary("min", binary("shr", column, int(Math.log2(gpuPanel))), lastPanel));
      return { column, b: this.columnsOf(block, panel, within, count) };
    });
    if (this.grouped) {
      const group = binary("shr", lane, int(Math.log2(this.across)));
      const start = emitter.name(block, "start", add(first, mul(group, int(tileRows))));
      const mine = new Block(block);
      this.tile(mine, start, size, columns, count);
      block.statements.push(when(lt(start, size), mine.statements));
      return;
    }
    const end = emitter.name(block, "end", binary("min", size, add(first, int(blockRows))));
    const row = emitter.fresh("row");
    const inside = new Block(block);
    this.tile(inside, variable(row), size, columns, count);
    block.statements.push({ k: "for", name: row, from: first, to: end, step: tileRows, body: inside.statements });
  }

  /** The rows from `start` on, as many as there are, times the lane's columns; and what is stored of them. */
  private tile(block: Block, start: ImpExpr, size: ImpExpr, columns: readonly Columns[], count: ImpExpr): void {
    const { emitter, p } = this;
    const a = Array.from({ length: tileRows }, (_, r) => {
      const row = emitter.name(block, "m", binary("min", add(start, int(r)), sub(size, int(1))));
      return emitter.name(block, "a", at(p.a.buffer, this.position(block, p.a, [[p.m.name, row]])));
    });
    const sums = columns.map(() => a.map(() => emitter.name(block, "sum", vector("f32x4", 0), true)));
    const b = columns.map((c) => c.b);
    if (this.exchanged > 0) this.exchanging(block, a, sums, b, count);
    else this.steps(block, a, sums, b, int(0), count, 4, 1);
    const end = emitter.name(block, "end", binary("min", size, add(start, int(tileRows))));
    for (const [v, { column }] of columns.entries()) {
      for (const [r, sum] of (sums[v] ?? []).entries()) block.statements.push(store(at(this.sums, int(4 * r)), sum));
      this.stores(block, start, end, column);
    }
  }

  /** sums += A · B: each lane of a subgroup reads one step of A's rows, and all take it from there. */
  private exchanging(
    block: Block,
    a: readonly ImpExpr[],
    sums: readonly (readonly ImpExpr[])[],
    b: readonly ImpExpr[],
    count: ImpExpr,
  ): void {
    const { emitter, p, exchanged } = this;
    const known = constantOf(count);
    const whole =
      known === undefined ? emitter.name(block, "whole", binary("bitand", count, int(-exchanged))) : int(known - (known % exchanged));
    const own = emitter.name(block, "own", binary("bitand", variable(laneName), int(exchanged - 1)));
    const k = emitter.fresh("k");
    const inside = new Block(block);
    const step = emitter.name(inside, "step", mul(add(variable(k), own), int(p.aStep)));
    const mine = a.map((from) => emitter.name(inside, "mine", load(advance(from, step), "f32")));
    for (let j = 0; j < exchanged; j++) {
      const columns = this.columnsAt(inside, b, k, j);
      for (const [r, value] of mine.entries()) {
        const name = emitter.fresh("one");
        inside.statements.push({ k: "exchange", name, type: "f32", op: "from", value, lane: int(j) });
        this.multiplied(inside, { k: "var", name, type: "f32" }, columns, sums, r);
      }
    }
    block.statements.push({ k: "for", name: k, from: int(0), to: whole, step: exchanged, body: inside.statements });
    if (known === undefined || known % exchanged !== 0) this.steps(block, a, sums, b, whole, count, 1, 1);
  }

  /** Four columns of B each, `j` steps after step `k`. */
  private columnsAt(block: Block, b: readonly ImpExpr[], k: string, j: number): readonly ImpExpr[] {
    return b.map((from) => this.emitter.name(block, "col", load(advance(from, mul(variable(k), int(gpuPanel))), "f32x4", j * gpuPanel)));
  }

  private multiplied(block: Block, one: ImpExpr, columns: readonly ImpExpr[], sums: readonly (readonly ImpExpr[])[], row: number): void {
    for (const [v, column] of columns.entries()) {
      const sum = sums[v]?.[row] ?? column;
      block.statements.push({ k: "assign", name: nameOf(sum), value: fma(splat(one), column, sum) });
    }
  }

  /** sums += A · B for k = from, from + stride, … before `to`, `unroll` of them a round; A's rows begin at `a`, columns of B at `b`. */
  private steps(
    block: Block,
    a: readonly ImpExpr[],
    sums: readonly (readonly ImpExpr[])[],
    b: readonly ImpExpr[],
    from: ImpExpr,
    to: ImpExpr,
    unroll: 1 | 4,
    stride: number,
  ): void {
    const { emitter, p } = this;
    const round = (many: number, begin: ImpExpr, end: ImpExpr): void => {
      const k = emitter.fresh("k");
      const inside = new Block(block);
      const columns = Array.from({ length: many }, (_, j) => this.columnsAt(inside, b, k, j));
      for (const [r, start] of a.entries()) {
        const place = advance(start, p.aStep === 1 ? variable(k) : mul(variable(k), int(p.aStep)));
        const four = many === 4 && p.aStep === 1 ? emitter.name(inside, "row", load(place, "f32x4")) : undefined;
        for (const [j, some] of columns.entries()) {
          const one = emitter.name(inside, "one", four === undefined ? load(place, "f32", j * p.aStep) : laneOf(four, j));
          this.multiplied(inside, one, some, sums, r);
        }
      }
      block.statements.push({ k: "for", name: k, from: begin, to: end, step: many * stride, body: inside.statements });
    };
    const known = constantOf(to);
    if (unroll === 1) return round(1, from, to);
    const whole = known === undefined ? emitter.name(block, "whole", binary("bitand", to, int(-4))) : int(known - (known % 4));
    round(4, from, whole);
    if (known === undefined || known % 4 !== 0) round(1, whole, to);
  }

  private stores(block: Block, start: ImpExpr, end: ImpExpr, column: ImpExpr): void {
    const { emitter, p } = this;
    const inside = new Block(block);
    const sums = { m: p.m, n: p.n, sum: p.sum, scratch: this.sums, width: 4 };
    for (const s of p.stores) epilogue(emitter, sums, s, inside, { start, from: start, to: end, column });
    block.statements.push(when(lt(column, emitter.size(p.n.extent)), inside.statements));
  }

  /** One panel of columns for each of few rows: see Note [Few rows]. */
  private panel(block: Block, panel: ImpExpr, size: ImpExpr, count: ImpExpr): void {
    const { emitter, p } = this;
    const lane = variable(laneName);
    const within = emitter.name(block, "within", mul(binary("bitand", lane, int(inPanel - 1)), int(4)));
    const part = emitter.name(block, "part", binary("shr", lane, int(Math.log2(inPanel))));
    const b = this.columnsOf(block, panel, within, count);
    const column = emitter.name(block, "column", add(mul(panel, int(gpuPanel)), within));
    const strides = this.lanes / inPanel;
    const row = emitter.fresh("row");
    const inside = new Block(block);
    const a = emitter.name(inside, "a", at(p.a.buffer, this.position(inside, p.a, [[p.m.name, variable(row)]])));
    const sum = emitter.name(inside, "sum", vector("f32x4", 0), true);
    this.steps(inside, [a], [[sum]], [b], part, count, 1, strides);
    inside.statements.push(store(at(this.parts, mul(lane, int(4))), sum), { k: "barrier" });
    const total = emitter.name(inside, "total", load(at(this.parts, within), "f32x4"), true);
    const i = emitter.fresh("i");
    const next = load(at(this.parts, add(mul(variable(i), int(4 * inPanel)), within)), "f32x4");
    const body: ImpStmt[] = [{ k: "assign", name: nameOf(total), value: add(total, next) }];
    inside.statements.push({ k: "for", name: i, from: int(1), to: int(strides), step: 1, body });
    inside.statements.push(store(at(this.sums, int(0)), total));
    const alone = new Block(inside);
    this.stores(alone, variable(row), add(variable(row), int(1)), column);
    inside.statements.push(when(lt(lane, int(inPanel)), alone.statements), { k: "barrier" });
    block.statements.push({ k: "for", name: row, from: int(0), to: size, step: 1, body: inside.statements });
  }
}
