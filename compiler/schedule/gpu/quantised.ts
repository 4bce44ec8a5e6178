// Products by packed weights on GPUs: each invocation unpacks what it needs, in registers. Rows are never rounded to integers,
// as CPUs may do. Declines (undefined) what it cannot address; the plain loops are right for everything.
//
// Note [Units of a GPU product by packed weights]. A row of the weight is a column of the result, and its blocks of 32 lie one
// behind the other. A team of eight invocations makes four columns: each takes every eighth block of the four, so that
// neighbours read neighbouring blocks, and a number of A that is read meets four columns. A workgroup is eight teams, which
// have 32 columns and 16 rows. Rows are taken four at a time, so that a block is unpacked once for four; fewer (a step of
// generation has one) are taken one at a time. In the end a team adds up its sums: by exchanges where subgroups have at least
// eight invocations, else through workgroup memory.

import { dim, dimAdd, dimConstant, dimDiv, dimMul } from "../../ir/dim.ts";
import { across, add, at, binary, fma, int, load, lt, mul, splat, store, sub, vector, when } from "../../ir/imp/build.ts";
import type { ImpExpr, ImpFunction, ImpScratch } from "../../ir/imp/types.ts";
import { substitute } from "../../ir/kernel/intern.ts";
import type { Kernel } from "../../ir/kernel/types.ts";
import { blockElements } from "../../ir/plan/packed.ts";
import type { GpuCapabilities } from "../capabilities.ts";
import { Block, Emitter, nameOf } from "../emit.ts";
import { epilogue } from "../epilogue.ts";
import { finish, laneName, unitName } from "../finish.ts";
import { packedProductOf, type PackedProduct } from "../quantised-product.ts";
import { unusedName, variable } from "./parts.ts";

const lanes = 64;
const team = 8;
/** Columns of a team, and of a workgroup. */
const columns = 4;
const blockColumns = (lanes / team) * columns;
/** Rows of a tile, and of a workgroup. */
const tileRows = 4;
const blockRows = 16;

export function lowerGpuQuantised(kernel: Kernel, gpu: GpuCapabilities): ImpFunction | undefined {
  const emitter = new Emitter(kernel.buffers, true);
  const product = packedProductOf(kernel, emitter);
  return product?.aStep !== 1 ? undefined : new Builder(kernel, product, gpu, emitter).build();
}

class Builder {
  private readonly kernel: Kernel;
  private readonly p: PackedProduct;
  private readonly emitter: Emitter;
  /** A team is within a subgroup. */
  private readonly exchanges: boolean;
  private readonly subgroups: GpuCapabilities["subgroups"];
  private readonly blocks: number;
  private readonly sums: string;
  private readonly parts: string;

  constructor(kernel: Kernel, product: PackedProduct, { subgroups }: GpuCapabilities, emitter: Emitter) {
    this.kernel = kernel;
    this.p = product;
    this.emitter = emitter;
    this.subgroups = subgroups;
    this.exchanges = subgroups >= team;
    this.blocks = product.depth / blockElements;
    this.sums = unusedName(kernel.buffers, "sums");
    this.parts = unusedName(kernel.buffers, "parts");
  }

  build(): ImpFunction {
    const { emitter, p } = this;
    const [m, n] = [p.m.extent, p.n.extent];
    const rowBlocks = dimDiv(dimAdd(m, dim(blockRows - 1)), dim(blockRows));
    const units = dimMul(rowBlocks, dimDiv(dimAdd(n, dim(blockColumns - 1)), dim(blockColumns)));
    const root = new Block();
    const lane = variable(laneName);
    const right = emitter.name(root, "right", binary("div", variable(unitName), emitter.size(rowBlocks)));
    const from = emitter.name(root, "from", mul(sub(variable(unitName), mul(right, emitter.size(rowBlocks))), int(blockRows)));
    const size = emitter.name(root, "rows", emitter.size(m));
    const to = emitter.name(root, "to", binary("min", size, add(from, int(blockRows))));
    const mine = emitter.name(root, "mine", binary("bitand", lane, int(team - 1)));
    const teams = binary("shr", lane, int(Math.log2(team)));
    const column = emitter.name(root, "column", add(mul(right, int(blockColumns)), mul(teams, int(columns))));
    const fixed = dimConstant(m);
    const loop = (rows: number): readonly ImpFunction["body"][number][] => {
      const name = emitter.fresh("row");
      const inside = new Block(root);
      this.tile(inside, rows, { start: variable(name), size, column, mine });
      return [{ k: "for", name, from, to, step: rows, body: inside.statements }];
    };
    if (fixed !== undefined) root.statements.push(...loop(fixed < tileRows ? 1 : tileRows));
    else root.statements.push(when(lt(size, int(tileRows)), loop(1), loop(tileRows)));
    const most = fixed !== undefined && fixed < tileRows ? 1 : tileRows;
    const scratch: ImpScratch[] = [
      { name: this.sums, dtype: "f32", size: dim(columns * most), space: "private" },
      ...(this.exchanges ? [] : [{ name: this.parts, dtype: "f32", size: dim(lanes * columns * most), space: "workgroup" } as const]),
    ];
    const subgroup = this.exchanges ? { subgroup: this.subgroups } : {};
    return finish(this.kernel, emitter, units, root.statements, scratch, { lanes, ...subgroup });
  }

  /** `rows` rows from `start` on, times the team's columns; and what is stored of them. */
  private tile(
    block: Block,
    rows: number,
    given: { readonly start: ImpExpr; readonly size: ImpExpr; readonly column: ImpExpr; readonly mine: ImpExpr },
  ): void {
    const { emitter } = this;
    const { start, size, column, mine } = given;
    const last = emitter.name(block, "last", sub(size, int(1)));
    // Rows and columns behind the last are the last again, and not stored.
    const a = Array.from({ length: rows }, (_, r) => this.row(block, rows === 1 ? start : binary("min", add(start, int(r)), last)));
    const final = emitter.name(block, "final", sub(emitter.size(this.p.n.extent), int(1)));
    const weights = Array.from({ length: columns }, (_, c) => emitter.name(block, "n", binary("min", add(column, int(c)), final)));
    const sums = a.map(() => weights.map(() => emitter.name(block, "sum", vector("f32x4", 0), true)));
    const b = emitter.fresh("b");
    const inside = new Block(block);
    this.multiplied(inside, variable(b), a, weights, sums);
    block.statements.push({ k: "for", name: b, from: mine, to: int(this.blocks), step: team, body: inside.statements });
    const totals = sums.map((row) => row.map((sum) => emitter.name(block, "total", across("add", sum))));
    this.combined(block, totals, mine);
    const end = emitter.name(block, "end", binary("min", size, add(start, int(rows))));
    const stored = new Block(block);
    const place = { m: this.p.m, n: this.p.n, sum: this.p.sum, scratch: this.sums, width: columns };
    for (const s of this.p.stores) epilogue(emitter, place, s, stored, { start, from: start, to: end, column });
    const mayStore = when(lt(column, emitter.size(this.p.n.extent)), stored.statements);
    block.statements.push(when(lt(mine, int(1)), [mayStore]));
    // Nobody writes his parts of the next rows before these are read.
    if (!this.exchanges) block.statements.push({ k: "barrier" });
  }

  /** Where row `row` of A begins. */
  private row(block: Block, row: ImpExpr): ImpExpr {
    const { emitter, p } = this;
    const own = new Block(block);
    own.remember(emitter.interner.intern({ k: "var", name: p.m.name, type: "i32" }), false, emitter.name(own, "m", row));
    const index = emitter.interner.intern(substitute(p.a.index, p.kAxis, { k: "const", type: "i32", value: 0 }));
    const place = emitter.emit(index, own, undefined);
    block.statements.push(...own.statements);
    return emitter.name(block, "a", place);
  }

  /** sums += A · weights, for block `b` of the weights' rows. */
  private multiplied(
    block: Block,
    b: ImpExpr,
    a: readonly ImpExpr[],
    weights: readonly ImpExpr[],
    sums: readonly (readonly ImpExpr[])[],
  ): void {
    const { emitter, p } = this;
    const { bits, values, scales, minima } = p.pattern;
    const places = weights.map((n) => emitter.name(block, "place", add(mul(n, int(this.blocks)), b)));
    const splats = (buffer: string): readonly ImpExpr[] =>
      places.map((place) => emitter.name(block, "scale", splat(load(at(buffer, place), "f32"))));
    const [scale, minimum] = [splats(scales), minima === undefined ? undefined : splats(minima)];
    const first = emitter.name(block, "k", mul(b, int(blockElements)));
    const word = emitter.fresh("word");
    const inside = new Block(block);
    const words = places.map((place) =>
      emitter.name(inside, "w", splat(load(at(values, add(mul(place, int(bits)), variable(word))), "i32"))),
    );
    // Four bytes: four elements of 8 bits, or four in the low and four in the high halves, 16 elements further on.
    for (let half = 0; half < 8 / bits; half++) {
      const from = emitter.name(inside, "from", add(add(first, mul(variable(word), int(4))), int(16 * half)));
      const w = words.map((all, c) => emitter.name(inside, "x", this.number(all, half, scale[c] ?? all, minimum?.[c])));
      for (const [r, row] of a.entries()) {
        const four = emitter.name(inside, "four", load(at(p.a.buffer, add(row, from)), "f32x4"));
        for (const [c, x] of w.entries()) {
          const sum = sums[r]?.[c] ?? x;
          inside.statements.push({ k: "assign", name: nameOf(sum), value: fma(four, x, sum) });
        }
      }
    }
    block.statements.push({ k: "for", name: word, from: int(0), to: int(bits), step: 1, body: inside.statements });
  }

  /** Four neighbours that a word holds. Exactly what op `unpack` says, since a scale times 8 bits is exact. */
  private number(word: ImpExpr, half: number, scale: ImpExpr, minimum: ImpExpr | undefined): ImpExpr {
    const { bits } = this.p.pattern;
    const by = (lane: number): number => (bits === 8 ? 24 - 8 * lane : 8 * lane + 4 * half);
    const shift = vector("i32x4", [by(0), by(1), by(2), by(3)]);
    const q =
      bits === 8
        ? binary("shr", binary("shl", word, shift), vector("i32x4", 24))
        : binary("bitand", binary("shru", word, shift), vector("i32x4", 15));
    const whole: ImpExpr = { k: "convert", a: q, type: "f32x4" };
    if (minimum !== undefined) return fma(scale, whole, minimum);
    return mul(scale, bits === 4 ? add(whole, vector("f32x4", -8)) : whole);
  }

  /** The team's sums to scratch, in its first invocation at least. */
  private combined(block: Block, totals: readonly (readonly ImpExpr[])[], mine: ImpExpr): void {
    const { emitter } = this;
    const all = totals.flat();
    if (this.exchanges) {
      const whole = all.map((total) => {
        let sum = total;
        for (let bit = 1; bit < team; bit *= 2) {
          const name = emitter.fresh("other");
          block.statements.push({ k: "exchange", name, type: "f32", op: "xor", value: sum, lane: int(bit) });
          sum = emitter.name(block, "total", add(sum, { k: "var", name, type: "f32" }));
        }
        return sum;
      });
      block.statements.push(...whole.map((sum, i) => store(at(this.sums, int(i)), sum)));
      return;
    }
    const lane = variable(laneName);
    block.statements.push(...all.map((total, i) => store(at(this.parts, add(lane, int(lanes * i))), total)), { k: "barrier" });
    const first = new Block(block);
    for (const i of all.keys()) {
      const part = (offset: number): ImpExpr => load(at(this.parts, add(lane, int(lanes * i + offset))), "f32x4");
      first.statements.push(store(at(this.sums, int(i)), across("add", add(part(0), part(4)))));
    }
    block.statements.push(when(lt(mine, int(1)), first.statements));
  }
}
