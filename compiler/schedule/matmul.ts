// Matrix products whose second operand is packed in panels of eight columns, or is any matrix: register tiles over full K, and
// what was fused behind the product as an epilogue. Declines (undefined) what it cannot address; the generic loops are
// right for everything. Does not choose which operand is packed in memory.
//
// Note [Units of a matrix product]. A unit is one panel of eight columns for one block of about 96 rows: 20-150 µs, so
// that threads share the work evenly and new, faster code is picked up soon. Within a group of blocks the panel is
// the outer loop: a panel (32 KB at K = 1024) stays in the second-level cache while the group's rows pass by in
// order, which engines of hardware prefetch like. A group is as many blocks as make 4 MiB of A, which stay in the
// third-level cache from one panel to the next. Measured on one thread, GFLOPS (plain on Node 20, relaxed on Node 24):
//   577×1024×4096:  panels inside each block of rows 43, 50;  groups of 2 to 16 MiB 44, 50-53
//   4046×1024×3072: panels inside each block of rows 43, 50;  groups of 2, 4, 8, 16 MiB 42, 42, 39, 31 and 53, 53, 47, 36
// Blocks are the same in every variant, so a plan's units do not depend on which one a device takes.
//
// Note [Panels in scratch]. Where columns do not lie side by side, or rows far apart, a unit first copies its panel to scratch:
// what a kernel that packs the whole operand would do, without the kernel and without its memory. Blocks of rows are four
// times as high then, since each copies the panel again: two moves of four elements beside 384·8 products of one.
//
// Note [Sums through memory]. The tile leaves its sums in scratch and the epilogue is a loop over rows. That costs 24
// vector moves a tile, nothing beside K steps; it ends the accumulators' lives right behind the loop over k, keeps an
// epilogue's code to one copy of it for four columns, and lets one piece of code store any part of a tile.

import { dim, dimAdd, dimConstant, dimDiv, dimMul, type Dim } from "../ir/dim.ts";
import { add, at, binary, constantOf, int, loop, lt, mul, store, sub, when } from "../ir/imp/build.ts";
import type { ImpExpr, ImpFunction, ImpStmt } from "../ir/imp/types.ts";
import type { Expr, Kernel } from "../ir/kernel/types.ts";
import { substitute } from "../ir/kernel/intern.ts";
import type { Capabilities } from "./capabilities.ts";
import { Block, Emitter } from "./emit.ts";
import { epilogue } from "./epilogue.ts";
import { finish, unitName } from "./finish.ts";
import { copyColumns } from "./panel.ts";
import { productOf, type Load, type Product } from "./product.ts";
import { Statements } from "./statements.ts";
import { tile, tileColumns } from "./tile.ts";

/** Most rows of a block, a multiple of every variant's tile. See Note [Units of a matrix product]. */
const blockRows = 96;
/** The same where a unit copies its panel. See Note [Panels in scratch]. */
const copiedBlockRows = 384;
/** Every variant's tile divides it. */
const rowsStep = 12;
/** Most elements of A in a group of blocks. */
const groupElements = 2 ** 20;
/** Steps of k in the loop's body: 4 lose 5% on Node 20, 16 gain nothing. */
const unroll = 8;

export function lowerMatmul(kernel: Kernel, capabilities: Capabilities): ImpFunction | undefined {
  const emitter = new Emitter(kernel.buffers, true);
  const product = capabilities.vector === 4 ? productOf(kernel, tileColumns, emitter, { unpacked: true }) : undefined;
  return product === undefined ? undefined : new Builder(kernel, product, capabilities, emitter).build();
}

class Builder {
  private readonly kernel: Kernel;
  private readonly p: Product;
  private readonly emitter: Emitter;
  /** Rows of a tile. */
  private readonly rows: number;
  /** Scratch for the sums of a tile, row by row. */
  private readonly sums: string;
  private readonly blockRows: number;

  constructor(kernel: Kernel, product: Product, capabilities: Capabilities, emitter: Emitter) {
    this.kernel = kernel;
    this.p = product;
    this.emitter = emitter;
    this.sums = this.scratchName("sums");
    this.blockRows = product.copied === undefined ? blockRows : copiedBlockRows;
    const fixed = dimConstant(product.m.extent);
    this.rows = fixed === undefined ? capabilities.matmulRows : Math.max(1, Math.min(fixed, capabilities.matmulRows));
  }

  /** A name that no buffer has. */
  private scratchName(hint: string): string {
    return this.kernel.buffers.reduce((name, b) => (b.name.startsWith(name) ? `${b.name}_${hint}` : name), hint);
  }

  build(): ImpFunction {
    const { emitter, p, rows } = this;
    const root = new Block();
    const blocks = dimDiv(dimAdd(p.m.extent, dim(this.blockRows - 1)), dim(this.blockRows));
    const panels = dimDiv(dimAdd(p.n.extent, dim(tileColumns - 1)), dim(tileColumns));
    const places = this.places(root, [...p.batch.map((x) => x.extent), dimMul(blocks, panels)]);
    for (const [i, x] of p.batch.entries()) root.remember(this.variable(x.name), false, places[i] ?? int(0));
    const count = emitter.emit(p.count, root, undefined);
    const [block, panel] = this.grouped(root, places.at(-1) ?? int(0), emitter.size(blocks), emitter.size(panels), count);

    const m = emitter.size(p.m.extent);
    const height = this.blockHeight(root, m, blocks);
    const from = emitter.name(root, "from", mul(block, height));
    const to = emitter.name(root, "to", binary("min", m, add(from, height)));
    const column = emitter.name(root, "column", mul(panel, int(tileColumns)));
    const b = p.copied === undefined ? this.position(root, p.b, [[p.n.name, column]]) : this.copyPanel(root, p.copied, column, count);
    const pointer = emitter.name(root, "b", b);

    const inside = new Block(root);
    const row: ImpExpr = { k: "var", name: emitter.fresh("m"), type: "i32" };
    // The last tile of a matrix ends with its last row; rows it has in common with the tile before are not stored again.
    const start = emitter.name(inside, "start", binary("max", int(0), binary("min", row, sub(m, int(rows)))));
    inside.statements.push(...this.sumsOf(start, m, pointer, count, root));
    const end = emitter.name(inside, "end", binary("min", to, add(row, int(rows))));
    const all = { m: p.m, n: p.n, sum: p.sum, scratch: this.sums, width: tileColumns };
    for (const s of p.stores) epilogue(emitter, all, s, inside, { start, from: row, to: end, column });
    root.statements.push(loop(row.name, from, to, rows, inside.statements));

    const units = [...p.batch.map((x) => x.extent), blocks, panels].reduce(dimMul, dim(1));
    const scratch: ImpFunction["scratch"] = [
      { name: this.sums, dtype: "f32", size: dim(rows * tileColumns), space: "private" },
      ...(p.copied === undefined
        ? []
        : [
            {
              name: this.scratchName("panel"),
              dtype: "f32" as const,
              size: dimMul(p.copied.depth, dim(tileColumns)),
              space: "private" as const,
            },
          ]),
    ];
    return finish(this.kernel, emitter, units, root.statements, scratch);
  }

  /** See Note [Panels in scratch]. Where the panel begins. */
  private copyPanel(root: Block, { columnStep }: NonNullable<Product["copied"]>, column: ImpExpr, count: ImpExpr): ImpExpr {
    const { emitter, p } = this;
    const panel = this.scratchName("panel");
    const n = emitter.size(p.n.extent);
    const pointer = (c: number): ImpExpr => {
      const own = binary("min", add(column, int(c)), sub(n, int(1)));
      return this.position(root, p.b, [[p.n.name, emitter.name(root, "n", own)]]);
    };
    const whole = (constantOf(n) ?? 1) % tileColumns === 0;
    const columns = columnStep === 1 && whole ? [pointer(0)] : Array.from({ length: tileColumns }, (_, c) => pointer(c));
    const out = new Statements((hint) => emitter.fresh(hint));
    copyColumns(out, { columns, step: p.bStep, count, panel });
    root.statements.push(...out.list);
    return at(panel, int(0));
  }

  private variable(name: string): Expr {
    return this.emitter.interner.intern({ k: "var", name, type: "i32" });
  }

  /** The unit's place in each of `extents`, the last varying fastest. */
  private places(root: Block, extents: readonly Dim[]): readonly ImpExpr[] {
    const { emitter } = this;
    const out: ImpExpr[] = [];
    let rest: ImpExpr = { k: "var", name: unitName, type: "i32" };
    for (const [i, extent] of [...extents.entries()].reverse()) {
      const by = emitter.size(extent);
      out.unshift(i === 0 ? rest : emitter.name(root, "place", binary("mod", rest, by)));
      if (i > 0) rest = emitter.name(root, "rest", binary("div", rest, by));
    }
    return out;
  }

  /** The block of rows and the panel of place `at` of a matrix: Note [Units of a matrix product]. */
  private grouped(root: Block, at: ImpExpr, blocks: ImpExpr, panels: ImpExpr, count: ImpExpr): readonly [ImpExpr, ImpExpr] {
    const name = (hint: string, value: ImpExpr): ImpExpr => this.emitter.name(root, hint, value);
    const elements = constantOf(count);
    const most = Math.floor(groupElements / this.blockRows);
    const size =
      elements === undefined
        ? name("size", binary("max", int(1), binary("div", int(most), count)))
        : int(Math.max(1, Math.floor(most / Math.max(1, elements))));
    const whole = name("whole", mul(size, panels));
    const group = name("group", binary("div", at, whole));
    const first = name("first", mul(group, size));
    const here = name("here", binary("min", size, sub(blocks, first)));
    const within = name("within", sub(at, mul(group, whole)));
    const panel = name("panel", binary("div", within, here));
    return [name("block", add(first, sub(within, mul(panel, here)))), panel];
  }

  /** Blocks are of one height, a multiple of every variant's tile, so that the last one is not much shorter. */
  private blockHeight(root: Block, m: ImpExpr, blocks: Dim): ImpExpr {
    const constant = constantOf(m);
    const count = dimConstant(blocks);
    if (constant !== undefined && count !== undefined) return int(rowsStep * Math.ceil(constant / (rowsStep * Math.max(1, count))));
    const least = this.emitter.name(root, "least", mul(this.emitter.size(blocks), int(rowsStep)));
    return this.emitter.name(root, "height", mul(binary("div", add(m, sub(least, int(1))), least), int(rowsStep)));
  }

  /** Where a load begins at k = 0 with the given axes; what that takes is computed in `into` and known nowhere else. */
  private position(into: Block, of: Load, axes: readonly (readonly [string, ImpExpr])[], parent = into): ImpExpr {
    const { emitter, p } = this;
    const own = new Block(parent);
    for (const [name, value] of axes) own.remember(this.variable(name), false, value);
    const index = emitter.interner.intern(substitute(of.index, p.kAxis, { k: "const", type: "i32", value: 0 }));
    const ptr = at(of.buffer, emitter.emit(index, own, undefined));
    into.statements.push(...own.statements);
    return ptr;
  }

  /** Leaves the sums of the rows from `start` on in scratch. */
  private sumsOf(start: ImpExpr, m: ImpExpr, b: ImpExpr, count: ImpExpr, root: Block): readonly ImpStmt[] {
    const { rows } = this;
    const all = this.tileOf(rows, start, int(0), b, count, root);
    if (constantOf(m) !== undefined) return all;
    // Fewer rows than a tile has: one at a time.
    const name = this.emitter.fresh("r");
    const r: ImpExpr = { k: "var", name, type: "i32" };
    const one = this.tileOf(1, r, mul(r, int(tileColumns)), b, count, root);
    return [when(lt(m, int(rows)), [loop(name, int(0), m, 1, one)], all)];
  }

  /** `rows` rows of A from row `first` times the panel; the sums go to scratch from place `into`. */
  private tileOf(rows: number, first: ImpExpr, into: ImpExpr, b: ImpExpr, count: ImpExpr, root: Block): readonly ImpStmt[] {
    const { emitter, p } = this;
    const out = new Block(root);
    const position = (r: number): ImpExpr => this.position(out, p.a, [[p.m.name, add(first, int(r))]], root);
    const a = p.rowStride === undefined ? Array.from({ length: rows }, (_, r) => position(r)) : [position(0)];
    const made = tile({
      rows,
      fresh: (hint) => emitter.fresh(hint),
      a,
      rowStride: p.rowStride ?? 0,
      aStep: p.aStep,
      b,
      bStep: int(p.copied === undefined ? p.bStep : tileColumns),
      count,
      unroll,
    });
    const stores = made.sums.flatMap((halves, r) => halves.map((value, h) => store(at(this.sums, into), value, r * tileColumns + 4 * h)));
    return [...out.statements, ...made.statements, ...stores];
  }
}
