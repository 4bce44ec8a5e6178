// The graph of attention's derivative over ragged segments, and inputs for it, for the tests of its kernels.

import { gradient } from "../compiler/autodiff/reverse.ts";
import { dim } from "../compiler/ir/dim.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import type { ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import type { Graph } from "../compiler/ir/graph/types.ts";
import { typeRule } from "../ops/index.ts";
import { weight } from "./generator.ts";

export interface GradientCase {
  readonly heads: readonly [number, number];
  readonly features: readonly [number, number];
  readonly causal: boolean;
  /** Queries and keys of each segment. */
  readonly segments: readonly (readonly [number, number])[];
}

export function attentionGradient({
  heads: [hq, hk],
  features: [d, dv],
  causal,
}: Pick<GradientCase, "heads" | "features" | "causal">): Graph {
  const b = new GraphBuilder("attend", typeRule);
  const [tq, tk, p] = [b.symbol("Tq", 0, 100000), b.symbol("Tk", 0, 100000), b.symbol("P1", 1, 10000)];
  const f32 = (name: string, t: typeof tq, h: number, n: number) => b.input(name, { dtype: "f32", shape: [t, dim(h), dim(n)] });
  const [q, k, v] = [f32("q", tq, hq, d), f32("k", tk, hk, d), f32("v", tk, hk, dv)];
  const list = (name: string, t: typeof tq) => b.input(name, { dtype: "i32", shape: [t] });
  const tables = [list("segment", tq), list("q_offsets", p), list("k_offsets", p)];
  b.output("y", b.op("attention", [q, k, v, ...tables], { scale: d ** -0.5, causal }));
  return gradient(b.build(), { wrt: [q, k, v] });
}

export function gradientInputs({
  heads: [hq, hk],
  features: [d, dv],
  segments,
}: Pick<GradientCase, "heads" | "features" | "segments">): Readonly<Record<string, ConcreteTensor>> {
  const running = (side: 0 | 1): number[] => segments.reduce<number[]>((all, s) => [...all, (all.at(-1) ?? 0) + s[side]], [0]);
  const [qs, ks] = [running(0), running(1)];
  const [tq, tk] = [qs.at(-1) ?? 0, ks.at(-1) ?? 0];
  const f32 = (name: string, shape: readonly number[], by: number): ConcreteTensor => ({
    dtype: "f32",
    shape,
    data: Float64Array.from(weight(`${name}.bias`, shape), (x) => Math.fround(10 * by * x)),
  });
  const list = (values: readonly number[]): ConcreteTensor => ({ dtype: "i32", shape: [values.length], data: Float64Array.from(values) });
  return {
    q: f32("q", [tq, hq, d], 2),
    k: f32("k", [tk, hk, d], 2),
    v: f32("v", [tk, hk, dv], 1),
    "d.y": f32("g", [tq, hq, dv], 1),
    segment: list(segments.flatMap(([n], i) => new Array<number>(n).fill(i))),
    q_offsets: list(qs),
    k_offsets: list(ks),
  };
}

export const same = (...lengths: readonly number[]): readonly (readonly [number, number])[] => lengths.map((n) => [n, n]);
