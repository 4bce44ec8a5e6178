// Products by packed weights for tests: graphs with their inputs, and what they give in float64 with how far each element may be
// from that. Runs nothing.

import * as fc from "fast-check";
import { dim } from "../compiler/ir/dim.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import type { RefTensor } from "../ops/define.ts";
import { referenceOf, typeRule } from "../ops/index.ts";
import { toF16 } from "../ops/reference/numbers.ts";

export interface Case {
  readonly m: number;
  /** M is known only at run time. */
  readonly symbolic: boolean;
  readonly n: number;
  readonly blocks: number;
  readonly bits: 4 | 8;
  readonly minima: boolean;
  readonly epilogue: "none" | "bias" | "relu";
  /** Rows of A are looked up. */
  readonly gathered: boolean;
  /** An element of A that is not finite, if any. */
  readonly odd: number | undefined;
}

export const cases: fc.Arbitrary<Case> = fc.record({
  m: fc.oneof({ weight: 3, arbitrary: fc.constantFrom(0, 1, 2, 5, 7, 8, 9, 13) }, { weight: 1, arbitrary: fc.constantFrom(96, 97, 130) }),
  symbolic: fc.boolean(),
  n: fc.oneof({ weight: 4, arbitrary: fc.constantFrom(0, 1, 3, 4, 8, 31, 32, 33, 70) }, { weight: 1, arbitrary: fc.constantFrom(1030) }),
  blocks: fc.constantFrom(1, 2, 3, 4, 5, 9),
  bits: fc.constantFrom(4, 8),
  minima: fc.boolean(),
  epilogue: fc.constantFrom("none", "bias", "relu"),
  gathered: fc.boolean(),
  odd: fc.oneof({ weight: 4, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: fc.constantFrom(NaN, Infinity, -Infinity) }),
});

export interface Made {
  readonly graph: ReturnType<GraphBuilder["build"]>;
  readonly inputs: Readonly<Record<string, RefTensor>>;
  readonly weight: RefTensor;
  readonly x: RefTensor;
  readonly bias: RefTensor;
}

/** Numbers that are the same for the same seed. */
function random(start: number): () => number {
  let state = start | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 4294967296;
  };
}

export function make(c: Case, start: number): Made {
  const next = random(start);
  const k = c.blocks * 32;
  const of = (dtype: RefTensor["dtype"], shape: readonly number[], element: (i: number) => number): RefTensor => ({
    dtype,
    shape,
    data: Float64Array.from({ length: shape.reduce((p, d) => p * d, 1) }, (_, i) => element(i)),
  });
  const words = of("i32", [c.n, c.blocks * c.bits], () => (next() * 4294967296) | 0);
  const scales = of("f16", [c.n, c.blocks], () => toF16(0.02 * (next() - 0.3)));
  const minima = of("f16", [c.n, c.blocks], () => toF16(-0.1 * next()));
  // Blocks of very different sizes, and of zeros.
  const x = of("f32", [c.m, k], (i) => Math.fround((next() - 0.5) * ([1, 100, 1e-3, 0][Math.floor(i / 32) % 4] ?? 0)));
  if (c.odd !== undefined && x.data.length > 0) x.data[Math.floor(next() * x.data.length)] = c.odd;
  const bias = of("f32", [c.n], () => Math.fround(next() - 0.5));
  const index = of("i32", [c.m], (i) => c.m - 1 - i);
  const g = new GraphBuilder("product", typeRule);
  const rows = c.symbolic ? g.symbol("M", 0, 4096) : dim(c.m);
  const type = (t: RefTensor, first = dim(t.shape[0] ?? 0)): { dtype: RefTensor["dtype"]; shape: readonly ReturnType<typeof dim>[] } => ({
    dtype: t.dtype,
    shape: [first, ...t.shape.slice(1).map(dim)],
  });
  const given = {
    x,
    words,
    scales,
    ...(c.minima ? { minima } : {}),
    ...(c.gathered ? { index } : {}),
    ...(c.epilogue === "bias" ? { bias } : {}),
  };
  let a = g.input("x", type(x, rows));
  if (c.gathered) a = g.op("gather", [a, g.input("index", type(index, rows))]);
  const parts = [g.input("words", type(words)), g.input("scales", type(scales)), ...(c.minima ? [g.input("minima", type(minima))] : [])];
  const w = g.op("unpack", parts, { bits: c.bits });
  let y = g.op("matmul", [a, w], { transpose_a: false, transpose_b: true });
  if (c.epilogue === "bias") y = g.op("add", [y, g.op("broadcast", [g.input("bias", type(bias))], { shape: [rows, dim(c.n)] })]);
  if (c.epilogue === "relu") y = g.op("maximum", [y, g.constant("f32", [rows, dim(c.n)], [0])]);
  g.output("y", y);
  const unpacked = c.minima ? [words, scales, minima] : [words, scales];
  const weight = referenceOf("unpack", unpacked, { bits: c.bits }, { dtype: "f32", shape: [c.n, k] });
  return { graph: g.build(), inputs: given, weight, x, bias };
}

/** The result in float64, and how far from it each element may be. */
export function expected(
  c: Case,
  { weight, x, bias }: Made,
  rounded: boolean,
): { readonly value: Float64Array; readonly allowed: Float64Array } {
  const k = c.blocks * 32;
  const value = new Float64Array(c.m * c.n);
  const allowed = new Float64Array(c.m * c.n);
  const at = (t: RefTensor, i: number): number => t.data[i] ?? NaN;
  for (let m = 0; m < c.m; m++) {
    const row = (c.gathered ? c.m - 1 - m : m) * k;
    const largest = Array.from({ length: c.blocks }, (_, block) =>
      Math.max(...x.data.subarray(row + block * 32, row + block * 32 + 32).map(Math.abs)),
    );
    for (let n = 0; n < c.n; n++) {
      const start = c.epilogue === "bias" ? at(bias, n) : 0;
      let [sum, terms, bound] = [start, Math.abs(start), 0];
      for (let i = 0; i < k; i++) {
        const w = at(weight, n * k + i);
        sum += at(x, row + i) * w;
        // Minima are added apart: what they cancel counts too.
        terms += Math.abs(largest[Math.floor(i / 32)] ?? 0) * (Math.abs(w) + (c.minima || c.bits === 4 ? 0.3 : 0));
        if (rounded) bound += ((largest[Math.floor(i / 32)] ?? 0) / 65000) * Math.abs(w);
      }
      const y = c.epilogue === "relu" ? (Number.isNaN(sum) ? NaN : Math.max(sum, 0)) : sum;
      value[m * c.n + n] = y;
      // What is not finite is not rounded.
      allowed[m * c.n + n] = Number.isFinite(sum) ? bound + 2e-6 * terms + 1e-30 : 0;
    }
  }
  return { value, allowed };
}
