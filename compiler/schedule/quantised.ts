// Matrix products by packed weights on CPUs. Many rows: panels of eight columns are unpacked to scratch, and the tile of
// every product does the rest, exactly as for unpacked weights. Few rows, where the schedule lets them be rounded: integer
// products (quantised-integers.ts). Declines (undefined) what it cannot address; the plain loops are right for everything.
//
// Note [Units of a product by packed weights]. A unit is `width` columns for a block of at most 96 rows. Reading and
// rounding a row costs about 2 instructions an element in every unit, its products 0.7 for each column: 64 columns make
// that 4%, and narrow matrices take 32, so that two threads have even shares.

import { dim, dimAdd, dimConstant, dimDiv, dimMul } from "../ir/dim.ts";
import { add, at, binary, constantOf, int, loop, lt, mul, store, sub, when } from "../ir/imp/build.ts";
import type { ImpExpr, ImpFunction, ImpStmt } from "../ir/imp/types.ts";
import type { Expr, Kernel } from "../ir/kernel/types.ts";
import { substitute } from "../ir/kernel/intern.ts";
import type { Capabilities } from "./capabilities.ts";
import { Block, Emitter } from "./emit.ts";
import { epilogue } from "./epilogue.ts";
import { finish, unitName } from "./finish.ts";
import { packedProductOf, type PackedProduct } from "./quantised-product.ts";
import { fewRows, IntegerProduct } from "./quantised-integers.ts";
import { unpackPanel } from "./quantised-panel.ts";
import { Statements } from "./statements.ts";
import { tile, tileColumns } from "./tile.ts";

/** Most rows of a block, a multiple of every variant's tile. */
const blockRows = 96;
const rowsStep = 12;
/** Steps of k in the tile's loop. */
const unroll = 8;

/** The kernel, with its left operand rounded where that pays: see Note [Error of rounded rows]. */
export function withRoundedRows(kernel: Kernel): Kernel {
  if (kernel.pattern?.k !== "quantised") return kernel;
  return { ...kernel, schedule: [...kernel.schedule, { k: "rounded", buffer: kernel.pattern.a.buffer }] };
}

export function lowerQuantised(kernel: Kernel, capabilities: Capabilities): ImpFunction | undefined {
  const emitter = new Emitter(kernel.buffers, true);
  const product = capabilities.vector === 4 && capabilities.gpu === undefined ? packedProductOf(kernel, emitter) : undefined;
  return product === undefined ? undefined : new Builder(kernel, product, capabilities, emitter).build();
}

class Builder {
  private readonly kernel: Kernel;
  private readonly p: PackedProduct;
  private readonly emitter: Emitter;
  private readonly rows: number;
  /** Columns of a unit. */
  private readonly width: number;
  private readonly integers: IntegerProduct | undefined;

  constructor(kernel: Kernel, product: PackedProduct, capabilities: Capabilities, emitter: Emitter) {
    this.kernel = kernel;
    this.p = product;
    this.emitter = emitter;
    const fixed = dimConstant(product.m.extent);
    this.rows = fixed === undefined ? capabilities.matmulRows : Math.max(1, Math.min(fixed, capabilities.matmulRows));
    this.width = (dimConstant(product.n.extent) ?? 0) >= 1024 ? 64 : 32;
    const rounded = kernel.schedule.some((s) => s.k === "rounded" && s.buffer === product.a.buffer);
    const may = rounded && product.aStep === 1 && (fixed === undefined || fixed < fewRows);
    const { pattern, depth } = product;
    const most = Math.min(fixed ?? fewRows, fewRows);
    this.integers = may ? new IntegerProduct({ pattern, depth, rows: most, width: this.width, scratch: this.scratch("rows") }) : undefined;
  }

  /** A name for scratch that no buffer has. */
  private scratch(hint: string): string {
    return this.kernel.buffers.reduce((name, b) => (b.name.startsWith(name) ? `${b.name}_${hint}` : name), hint);
  }

  build(): ImpFunction {
    const { emitter, p, width } = this;
    const root = new Block();
    const blocks = dimDiv(dimAdd(p.m.extent, dim(blockRows - 1)), dim(blockRows));
    const parts = dimDiv(dimAdd(p.n.extent, dim(width - 1)), dim(width));
    const unit: ImpExpr = { k: "var", name: unitName, type: "i32" };
    // A part of the weight stays in the caches while the blocks of rows pass by.
    const block = emitter.name(root, "block", binary("mod", unit, emitter.size(blocks)));
    const column = emitter.name(root, "column", mul(binary("div", unit, emitter.size(blocks)), int(width)));
    const m = emitter.size(p.m.extent);
    const [from, to] = this.blockOf(root, block, m, blocks);
    const n = emitter.size(p.n.extent);
    const last = emitter.name(root, "end", binary("min", n, add(column, int(width))));
    const all = this.panels(root, { from, to, m, column, last });
    if (this.integers === undefined) root.statements.push(...all);
    else root.statements.push(...this.fewOr(all, root, { m, n, column, last }));

    const sums = Math.max(this.rows * tileColumns, this.integers === undefined ? 0 : this.integers.sums);
    const scratch: ImpFunction["scratch"] = [
      { name: this.scratch("sums"), dtype: "f32", size: dim(sums), space: "private" },
      { name: this.scratch("panel"), dtype: "f32", size: dim(p.depth * tileColumns), space: "private" },
      ...(this.integers?.scratches() ?? []),
    ];
    return finish(this.kernel, emitter, dimMul(blocks, parts), root.statements, scratch);
  }

  /** First row of a block and the one behind its last; blocks are of one height, a multiple of every variant's tile. */
  private blockOf(root: Block, block: ImpExpr, m: ImpExpr, blocks: ReturnType<typeof dim>): readonly [ImpExpr, ImpExpr] {
    const name = (hint: string, value: ImpExpr): ImpExpr => this.emitter.name(root, hint, value);
    const least = name("least", mul(this.emitter.size(blocks), int(rowsStep)));
    const height = name("height", mul(binary("div", add(m, sub(least, int(1))), least), int(rowsStep)));
    const from = name("from", mul(block, height));
    return [from, name("to", binary("min", m, add(from, height)))];
  }

  private variable(name: string): Expr {
    return this.emitter.interner.intern({ k: "var", name, type: "i32" });
  }

  /** Where row `row` of A begins; what that takes is computed in `into`. */
  private row(into: Block, row: ImpExpr, parent: Block): ImpExpr {
    const { emitter, p } = this;
    const own = new Block(parent);
    own.remember(this.variable(p.m.name), false, row);
    const index = emitter.interner.intern(substitute(p.a.index, p.kAxis, { k: "const", type: "i32", value: 0 }));
    const ptr = at(p.a.buffer, emitter.emit(index, own, undefined));
    into.statements.push(...own.statements);
    return ptr;
  }

  /** Integer products of few rows, unless a number of them is not finite; else `all`. */
  private fewOr(
    all: readonly ImpStmt[],
    root: Block,
    { m, n, column, last }: { readonly m: ImpExpr; readonly n: ImpExpr; readonly column: ImpExpr; readonly last: ImpExpr },
  ): readonly ImpStmt[] {
    const { emitter, integers, p } = this;
    if (integers === undefined) return all;
    const out = new Statements((hint) => emitter.fresh(hint));
    // The bits of the largest number of all rows; those of what is not finite are the largest there are.
    const largest = out.mutable("largest", int(0x7f800000));
    const round = out.nested();
    round.set(largest, int(0));
    round.loop("r", int(0), m, 1, (r, inside) => {
      const own = new Block(root);
      const ptr = this.row(own, r, root);
      inside.push(...own.statements);
      integers.round(inside, r, ptr, largest);
    });
    out.push(...(constantOf(m) === undefined ? [when(lt(m, int(fewRows)), round.list)] : round.list));
    const few = new Block(root);
    const products = out.nested();
    const sums = this.scratch("sums");
    products.loop("r", int(0), m, 1, (r, inside) => integers.products(inside, { row: r, column, last, n, sums }));
    few.statements.push(...products.list);
    const part = { start: int(0), from: int(0), to: m, column };
    for (const s of p.stores) epilogue(emitter, { m: p.m, n: p.n, sum: p.sum, scratch: sums, width: this.width }, s, few, part);
    out.push(when(lt(largest, int(0x7f800000)), few.statements, all));
    return out.list;
  }

  /** Every panel of the unit's columns, unpacked, times the rows of the block. */
  private panels(
    root: Block,
    {
      from,
      to,
      m,
      column,
      last,
    }: { readonly from: ImpExpr; readonly to: ImpExpr; readonly m: ImpExpr; readonly column: ImpExpr; readonly last: ImpExpr },
  ): readonly ImpStmt[] {
    const { emitter, p, rows } = this;
    const name = emitter.fresh("panel");
    const first: ImpExpr = { k: "var", name, type: "i32" };
    const inside = new Block(root);
    const unpacked = new Statements((hint) => emitter.fresh(hint));
    const panel = this.scratch("panel");
    unpackPanel(unpacked, { pattern: p.pattern, depth: p.depth, first, n: emitter.size(p.n.extent), panel });
    inside.statements.push(...unpacked.list);
    const fixed = constantOf(m);
    if (fixed === undefined || fixed >= rows) {
      const tiles = this.tiles(inside, { from, to, m, column: first });
      if (fixed !== undefined) inside.statements.push(...tiles);
      else inside.statements.push(when(lt(m, int(rows)), this.single(inside, to, first), tiles));
    } else inside.statements.push(...this.single(inside, to, first));
    return [loop(name, column, last, tileColumns, inside.statements)];
  }

  private tiles(
    parent: Block,
    { from, to, m, column }: { readonly from: ImpExpr; readonly to: ImpExpr; readonly m: ImpExpr; readonly column: ImpExpr },
  ): readonly ImpStmt[] {
    const { emitter, rows } = this;
    const row: ImpExpr = { k: "var", name: emitter.fresh("m"), type: "i32" };
    const inside = new Block(parent);
    // The last tile ends with the last row; rows it has in common with the tile before are not stored again.
    const start = emitter.name(inside, "start", binary("max", int(0), binary("min", row, sub(m, int(rows)))));
    inside.statements.push(...this.tileOf(rows, start, int(0), inside));
    const end = emitter.name(inside, "end", binary("min", to, add(row, int(rows))));
    this.store(inside, { start, from: row, to: end, column });
    return [loop(row.name, from, to, rows, inside.statements)];
  }

  /** Fewer rows than a tile has: one at a time. There is one block then. */
  private single(parent: Block, to: ImpExpr, column: ImpExpr): readonly ImpStmt[] {
    const r: ImpExpr = { k: "var", name: this.emitter.fresh("r"), type: "i32" };
    const inside = new Block(parent);
    const one = this.tileOf(1, r, mul(r, int(tileColumns)), inside);
    inside.statements.push(loop(r.name, int(0), to, 1, one));
    this.store(inside, { start: int(0), from: int(0), to, column });
    return inside.statements;
  }

  private store(block: Block, part: Parameters<typeof epilogue>[4]): void {
    const { p } = this;
    const sums = { m: p.m, n: p.n, sum: p.sum, scratch: this.scratch("sums"), width: tileColumns };
    for (const s of p.stores) epilogue(this.emitter, sums, s, block, part);
  }

  /** `rows` rows of A from row `first` times the panel; the sums go to scratch from place `into`. */
  private tileOf(rows: number, first: ImpExpr, into: ImpExpr, parent: Block): readonly ImpStmt[] {
    const { emitter, p } = this;
    const out = new Block(parent);
    const position = (r: number): ImpExpr => this.row(out, add(first, int(r)), parent);
    const a = p.rowStride === undefined ? Array.from({ length: rows }, (_, r) => position(r)) : [position(0)];
    const made = tile({
      rows,
      fresh: (hint) => emitter.fresh(hint),
      a,
      rowStride: p.rowStride ?? 0,
      aStep: p.aStep,
      b: at(this.scratch("panel"), int(0)),
      bStep: int(tileColumns),
      count: int(p.depth),
      unroll,
    });
    const stores = made.sums.flatMap((halves, r) =>
      halves.map((value, h) => store(at(this.scratch("sums"), into), value, r * tileColumns + 4 * h)),
    );
    return [...out.statements, ...made.statements, ...stores];
  }
}
