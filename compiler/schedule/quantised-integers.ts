// Products of a few rows and packed weights, in integers: each block of 32 numbers of a row is rounded to 16 bits, its sum
// of products with a column's block is exact, and the sums of blocks are added in f32 times both scales. Several times
// faster than unpacking, since each weight is used once for each row only.
//
// Note [Error of rounded rows]. For a row x and a column w, and X the largest |x| of a block of 32, the sum of products
// differs from the exact one by at most Σ over blocks of X/65000·Σ|w|: each number is rounded to a multiple of X/32767.
// Beside that there are the roundings of f32 sums. Blocks whose X is below 2⁻¹⁰⁰ count as zeros. Rows with a NaN or an
// infinity are not rounded, so what such numbers give is what they give everywhere.
//
// Note [What bounds integer products]. One row, Zen 4, one thread, weights in the caches: 1.75 ns a block of 32 and column
// for 4 bits (relaxed SIMD, Node 24), 1.6 for 8. The loop for 4 bits has 16 vector instructions a block and column, seven of
// them for two of the four units: 4 cycles and more, 1.2 ns at 3.5 GHz. Native code has vectors of 512 bits and one
// instruction for four products of bytes and their sum. Weights beyond the caches (8 bits, 2048×8192) came at 10 GB/s on a
// busy machine, which is what one thread then got of memory at all.

import {
  across,
  add,
  advance,
  at,
  binary,
  bitcast,
  fma,
  halves,
  int,
  lane,
  load,
  loadSplat,
  lt,
  mul,
  shuffle,
  store,
  sub,
  vector,
} from "../ir/imp/build.ts";
import { dim } from "../ir/dim.ts";
import type { ImpExpr, ImpScratch } from "../ir/imp/types.ts";
import type { Pattern } from "../ir/kernel/types.ts";
import { blockElements } from "../ir/plan/packed.ts";
import type { Local, Statements } from "./statements.ts";

/** From this many rows on, unpacking a panel for all of them costs less. */
export const fewRows = 8;

/** Columns that share the loads of a row. */
const columns = 4;

/** Added to a number below 2^22, leaves it rounded in the lowest bits. */
const magic = 1.5 * 2 ** 23;
const magicBits = 0x4b400000;

interface Options {
  readonly pattern: Extract<Pattern, { k: "quantised" }>;
  /** Terms of the sum. */
  readonly depth: number;
  /** Most rows there are. */
  readonly rows: number;
  /** Columns of a unit. */
  readonly width: number;
  /** What names of scratch begin with. */
  readonly scratch: string;
}

export class IntegerProduct {
  readonly #o: Options;
  readonly #blocks: number;
  /** Blocks, up to a whole vector. */
  readonly #padded: number;
  readonly #names: { readonly numbers: string; readonly steps: string; readonly totals: string; readonly scales: string };

  constructor(options: Options) {
    this.#o = options;
    this.#blocks = options.depth / blockElements;
    this.#padded = Math.ceil(this.#blocks / 4) * 4;
    const { scratch } = options;
    this.#names = { numbers: scratch, steps: `${scratch}_steps`, totals: `${scratch}_totals`, scales: `${scratch}_scales` };
  }

  /** Elements of the scratch for sums: `width` columns for each row. */
  get sums(): number {
    return this.#o.rows * this.#o.width;
  }

  scratches(): readonly ImpScratch[] {
    const { rows, depth } = this.#o;
    const { numbers, steps, totals, scales } = this.#names;
    const f32 = (name: string, size: number): ImpScratch => ({ name, dtype: "f32", size: dim(size), space: "private" });
    return [
      // Two 16-bit numbers a word.
      { name: numbers, dtype: "i32", size: dim((rows * depth) / 2), space: "private" },
      f32(steps, rows * this.#padded),
      f32(totals, rows * this.#padded),
      f32(scales, columns * this.#padded),
    ];
  }

  /** Does the sum of a block's numbers count beside the products: for minima, or for the 8 that 4 bits stand above? */
  get #totalled(): boolean {
    const { pattern } = this.#o;
    return pattern.minima !== undefined || pattern.bits === 4;
  }

  /** Rounds the row at `ptr` into scratch as row `r`; `largest` becomes at least the bits of each |number|. */
  round(out: Statements, r: ImpExpr, ptr: ImpExpr, largest: Local): void {
    const { depth, pattern } = this.#o;
    const { numbers, steps, totals } = this.#names;
    const from = out.mutable("x", ptr);
    const into = out.mutable("q", at(numbers, mul(r, int(depth / 2))));
    const step = out.mutable("step", at(steps, mul(r, int(this.#padded))));
    const total = out.mutable("total", at(totals, mul(r, int(this.#padded))));
    out.loop("b", int(0), int(this.#blocks), 1, (_, block) => {
      const x = Array.from({ length: 8 }, (_unused, i) => block.keep("x", load(from, "f32x4", 4 * i)));
      const bits = x.map((v) => binary("bitand", bitcast(v, "i32x4"), vector("i32x4", 0x7fffffff)));
      const most = (a: ImpExpr, b: ImpExpr): ImpExpr => block.keep("most", binary("max", a, b));
      const four = bits.reduce(most);
      const two = most(four, shuffle(four, four, [2, 3, 0, 1]));
      const all = most(two, shuffle(two, two, [1, 0, 3, 2]));
      block.set(largest, binary("max", largest, lane(all, 0)));
      const size = block.keep("size", bitcast(all, "f32x4"));
      const inverse = block.keep("inverse", {
        k: "select",
        cond: lt(vector("f32x4", 2 ** -100), size),
        a: binary("div", vector("f32x4", 32767), size),
        b: vector("f32x4", 0),
        type: "f32x4",
      });
      const rounded = x.map((v) => sub(bitcast(fma(v, inverse, vector("f32x4", magic)), "i32x4"), vector("i32x4", magicBits)));
      const eights = this.#ordered(block, rounded);
      for (const [i, eight] of eights.entries()) block.push(store(into, eight, 4 * i));
      const sum = eights.map((eight) => halves("dot16", eight, vector("i32x4", 0x00010001))).reduce(add);
      const one = block.keep("one", mul(lane(size, 0), { k: "const", type: "f32", value: Math.fround(1 / 32767) }));
      block.push(store(step, one));
      if (this.#totalled) {
        const whole: ImpExpr = { k: "convert", a: across("add", block.keep("sum", sum)), type: "f32" };
        block.push(store(total, mul(whole, pattern.minima === undefined ? { k: "const", type: "f32", value: -8 } : one)));
      }
      block.set(from, advance(from, int(blockElements)));
      block.set(into, advance(into, int(blockElements / 2)));
      block.set(step, advance(step, int(1)));
      block.set(total, advance(total, int(1)));
    });
    const zero: ImpExpr = { k: "const", type: "f32", value: 0 };
    for (let i = this.#blocks; i < this.#padded; i++) out.push(store(step, zero, i - this.#blocks), store(total, zero, i - this.#blocks));
  }

  /** A block's rounded numbers in 16 bits, eight at a time, in the order in which weights are taken out of their words. */
  #ordered(out: Statements, rounded: readonly ImpExpr[]): readonly ImpExpr[] {
    const eight = (a: ImpExpr, b: ImpExpr): ImpExpr => out.keep("eight", halves("narrow16", a, b));
    const at4 = (i: number): ImpExpr => rounded[i] ?? int(0);
    if (this.#o.pattern.bits === 8) return [0, 2, 4, 6].map((i) => eight(at4(i), at4(i + 1)));
    const whole = rounded.map((x) => out.keep("rounded", x));
    const every = (first: number, odd: 0 | 1): ImpExpr => {
      const [a, b, c, d] = whole.slice(first, first + 4);
      if (a === undefined || b === undefined || c === undefined || d === undefined) throw new Error("16 numbers are four vectors");
      const lanes = [odd, 2 + odd, 4 + odd, 6 + odd] as const;
      return eight(shuffle(a, b, lanes), shuffle(c, d, lanes));
    };
    return [every(0, 0), every(4, 0), every(0, 1), every(4, 1)];
  }

  /** The sums of rounded row `row` and columns `column` … `last`-1, to row `row` of scratch `sums`. */
  products(
    out: Statements,
    given: { readonly row: ImpExpr; readonly column: ImpExpr; readonly last: ImpExpr; readonly n: ImpExpr; readonly sums: string },
  ): void {
    const { row, column, last, n, sums } = given;
    out.loop("c", column, last, columns, (c, group) => {
      // Behind the last column there is the last one again; nobody stores these sums.
      const each = Array.from({ length: columns }, (_, i) => group.keep("n", binary("min", add(c, int(i)), add(n, int(-1)))));
      const acc = each.map(() => group.mutable("acc", vector("f32x4", 0)));
      this.#scaled(group, row, each, acc);
      this.#blocksOf(group, row, each, acc);
      const [x, y, z, w] = acc;
      if (x === undefined || y === undefined || z === undefined || w === undefined) throw new Error("four columns have four sums");
      const halved = (a: ImpExpr, b: ImpExpr): ImpExpr => group.keep("sum", add(shuffle(a, b, [0, 4, 1, 5]), shuffle(a, b, [2, 6, 3, 7])));
      const [xy, zw] = [halved(x, y), halved(z, w)];
      const all = add(shuffle(xy, zw, [0, 1, 4, 5]), shuffle(xy, zw, [2, 3, 6, 7]));
      group.push(store(at(sums, add(mul(row, int(this.#o.width)), sub(c, column))), all));
    });
  }

  /** Both scales of each block multiplied, to scratch; what sums of a block's numbers give is in the accumulators then. */
  #scaled(out: Statements, row: ImpExpr, each: readonly ImpExpr[], acc: readonly Local[]): void {
    const { pattern } = this.#o;
    const { steps, totals, scales } = this.#names;
    const base = out.keep("base", mul(row, int(this.#padded)));
    const places = each.map((c) => out.keep("s", mul(c, int(this.#blocks))));
    const four = (block: Statements, g: ImpExpr, valid: number): void => {
      const mask = vector("i32x4", [0, 1, 2, 3].map((i) => (i < valid ? -1 : 0)) as unknown as [number, number, number, number]);
      const inside = (v: ImpExpr): ImpExpr => (valid === 4 ? v : { k: "select", cond: mask, a: v, b: vector("f32x4", 0), type: "f32x4" });
      const step = block.keep("step", load(at(steps, add(base, g)), "f32x4"));
      const total = this.#totalled ? block.keep("total", load(at(totals, add(base, g)), "f32x4")) : undefined;
      for (const [i, sum] of acc.entries()) {
        const place = add(places[i] ?? int(0), g);
        // Behind the last block there are others' scales, or nothing: they must not count.
        const scale = block.keep("scale", mul(inside(load(at(pattern.scales, place), "f32x4")), step));
        block.push(store(at(scales, add(g, int(i * this.#padded))), scale));
        if (total === undefined) continue;
        const factor = pattern.minima === undefined ? scale : inside(load(at(pattern.minima, place), "f32x4"));
        block.set(sum, fma(factor, total, sum));
      }
    };
    const whole = this.#blocks - (this.#blocks % 4);
    if (whole > 0) out.loop("g", int(0), int(whole), 4, (g, block) => four(block, g, 4));
    if (whole < this.#blocks) four(out, int(whole), this.#blocks - whole);
  }

  #blocksOf(out: Statements, row: ImpExpr, each: readonly ImpExpr[], acc: readonly Local[]): void {
    const { pattern, depth } = this.#o;
    const { numbers, scales } = this.#names;
    const { bits } = pattern;
    const values = each.map((c) => out.mutable("w", at(pattern.values, mul(c, int(this.#blocks * bits)))));
    const from = out.mutable("q", at(numbers, mul(row, int(depth / 2))));
    const scale = out.mutable("scale", at(scales, int(0)));
    const keep = acc.map((a) => a.name);
    const masks = [0x000f000f, 0x0f000f00].map((mask) => out.keep("mask", vector("i32x4", mask)));
    out.loop("b", int(0), int(this.#blocks), 1, (_, block) => {
      const x = Array.from({ length: 4 }, (_unused, i) => block.keep("x", load(from, "i32x4", 4 * i)));
      for (const [i, ptr] of values.entries()) {
        const parts = bits === 8 ? bytesOf(ptr) : nibblesOf(block, ptr, masks);
        const products = parts.map((w, j) => halves("dot16", w, x[j] ?? w));
        const [low, high] = [products.slice(0, 2).reduce(add), products.slice(2).reduce(add)];
        const whole = add(low, bits === 8 ? high : binary("shr", high, vector("i32x4", 8)));
        const sum: ImpExpr = { k: "convert", a: whole, type: "f32x4" };
        const to = acc[i];
        if (to !== undefined) block.set(to, fma(sum, loadSplat(scale, "f32x4", i * this.#padded), to));
        block.set(ptr, advance(ptr, int(bits)));
        // See Note [One k-step a basic block] in tile.ts.
        block.push({ k: "fence", ptr: ptr.name, keep });
      }
      block.set(from, advance(from, int(blockElements / 2)));
      block.set(scale, advance(scale, int(1)));
    });
  }
}

/** A block's 32 numbers of 8 bits, eight at a time. */
function bytesOf(ptr: ImpExpr): readonly ImpExpr[] {
  // Loaded twice: loading and widening are one instruction where nothing else reads what was loaded.
  const words = (offset: number): ImpExpr => load(ptr, "i32x4", offset);
  return [halves("low_i8", words(0)), halves("high_i8", words(0)), halves("low_i8", words(4)), halves("high_i8", words(4))];
}

/**
 * A block's 32 numbers of 4 bits, eight at a time: by Note [Words of packed weights] in ops/quantised/unpack.ts, the even
 * ones of 0 … 15, those of 16 … 31, the odd ones of 0 … 15, those of 16 … 31. The first two each in 16 bits as it is, the
 * others 256 times as large, which saves a shift: sums of their products stay below 2^29, and a shift at the end is exact.
 */
function nibblesOf(out: Statements, ptr: ImpExpr, masks: readonly ImpExpr[]): readonly ImpExpr[] {
  const w = out.keep("w", load(ptr, "i32x4"));
  const shifted = out.keep("w", binary("shru", w, vector("i32x4", 4)));
  return masks.flatMap((mask) => [binary("bitand", w, mask), binary("bitand", shifted, mask)]);
}
