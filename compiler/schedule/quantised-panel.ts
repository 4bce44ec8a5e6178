// Unpacks eight columns of a packed weight to scratch, as the tile of matrix products reads them: [K][8]. Four columns at a
// time: the same byte of each of four words is four elements of a column, and four columns of these are turned into four
// elements of all four columns. The numbers are exactly those of op `unpack`.

import { add, advance, at, binary, fma, int, load, loadSplat, mul, store, vector } from "../ir/imp/build.ts";
import type { ImpExpr } from "../ir/imp/types.ts";
import type { Pattern } from "../ir/kernel/types.ts";
import { blockElements } from "../ir/plan/packed.ts";
import { four, transposed } from "./panel.ts";
import type { Statements } from "./statements.ts";
import { tileColumns } from "./tile.ts";

interface Panel {
  readonly pattern: Extract<Pattern, { k: "quantised" }>;
  readonly depth: number;
  /** First column. Those behind the last of `n` get the numbers of the last, and nobody stores their sums. */
  readonly first: ImpExpr;
  readonly n: ImpExpr;
  /** Scratch for the panel. */
  readonly panel: string;
}

export function unpackPanel(out: Statements, { pattern, depth, first, n, panel }: Panel): void {
  const { bits } = pattern;
  const [words, blocks] = [(depth * bits) / 32, depth / blockElements];
  out.loop("half", int(0), int(tileColumns), 4, (half, group) => {
    const columns = four((c) => group.keep("n", binary("min", add(add(first, half), int(c)), add(n, int(-1)))));
    const values = columns.map((c) => group.mutable("w", at(pattern.values, mul(c, int(words)))));
    const places = columns.map((c) => group.keep("s", mul(c, int(blocks))));
    const into = group.mutable("into", at(panel, half));
    group.loop("b", int(0), int(blocks), 1, (b, block) => {
      const splat = (buffer: string): readonly ImpExpr[] =>
        places.map((p) => block.keep("scale", loadSplat(at(buffer, add(p, b)), "f32x4")));
      const scales = splat(pattern.scales);
      const minima = pattern.minima === undefined ? undefined : splat(pattern.minima);
      const number = (c: number, word: ImpExpr, shift: number): ImpExpr => {
        const shifted = (by: number, op: "shl" | "shr" | "shru", x: ImpExpr): ImpExpr =>
          by === 0 ? x : binary(op, x, vector("i32x4", by));
        const q =
          bits === 8
            ? shifted(24, "shr", shifted(24 - shift, "shl", word))
            : binary("bitand", shifted(shift, "shru", word), vector("i32x4", 15));
        const whole: ImpExpr = { k: "convert", a: q, type: "f32x4" };
        const scale = scales[c] ?? whole;
        const minimum = minima?.[c];
        // Products of an f16 and 8 bits are exact, so it does not matter whether they are rounded before the sum.
        if (minimum !== undefined) return fma(scale, whole, minimum);
        return mul(scale, bits === 4 ? add(whole, vector("f32x4", -8)) : whole);
      };
      // Four words: 16 elements of 8 bits, or 16 in the low and 16 in the high halves of their bytes.
      for (let part = 0; part < bits / 4; part++) {
        const w = four((c) => block.keep("w", load(values[c] ?? into, "i32x4", part * 4)));
        for (let shift = 0; shift < 32; shift += bits === 8 ? 8 : 4) {
          const byte = Math.floor(shift / 8);
          const start = bits === 8 ? part * 16 + byte : byte + ((shift & 4) === 0 ? 0 : 16);
          const x = four((c) => block.keep("x", number(c, w[c] ?? into, shift)));
          transposed(block, x).forEach((row, i) => block.push(store(into, row, (start + 4 * i) * tileColumns)));
        }
      }
      for (const v of values) block.set(v, advance(v, int(bits)));
      block.set(into, advance(into, int(blockElements * tileColumns)));
    });
  });
}
