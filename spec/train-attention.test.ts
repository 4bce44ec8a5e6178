// Attention's derivative on the device: kernels that hold no scores, over segments of many lengths, in blocks of rows and
// columns, heads that share keys, causal or not; against the float64 evaluator.

import { describe, expect, test } from "vitest";
import { gradient } from "../compiler/autodiff/reverse.ts";
import { compileGraph } from "../compiler/compile.ts";
import { dim } from "../compiler/ir/dim.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import { evalGraph, type ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import { bindPlan } from "../compiler/ir/plan/bind.ts";
import { referenceOf, typeRule } from "../ops/index.ts";
import { Session } from "../runtime/session.ts";
import { fromRuntime, toRuntime } from "./conformance/tensors.ts";
import { weight } from "./generator.ts";

interface Case {
  readonly heads: readonly [number, number];
  readonly features: readonly [number, number];
  readonly causal: boolean;
  /** Queries and keys of each segment. */
  readonly segments: readonly (readonly [number, number])[];
}

function build({ heads: [hq, hk], features: [d, dv], causal }: Case) {
  const b = new GraphBuilder("attend", typeRule);
  const [tq, tk, p] = [b.symbol("Tq", 0, 100000), b.symbol("Tk", 0, 100000), b.symbol("P1", 1, 10000)];
  const f32 = (name: string, t: typeof tq, h: number, n: number) => b.input(name, { dtype: "f32", shape: [t, dim(h), dim(n)] });
  const [q, k, v] = [f32("q", tq, hq, d), f32("k", tk, hk, d), f32("v", tk, hk, dv)];
  const list = (name: string, t: typeof tq) => b.input(name, { dtype: "i32", shape: [t] });
  const tables = [list("segment", tq), list("q_offsets", p), list("k_offsets", p)];
  b.output("y", b.op("attention", [q, k, v, ...tables], { scale: d ** -0.5, causal }));
  return gradient(b.build(), { wrt: [q, k, v] });
}

function inputsOf({ heads: [hq, hk], features: [d, dv], segments }: Case): Readonly<Record<string, ConcreteTensor>> {
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

const same = (...lengths: readonly number[]): readonly (readonly [number, number])[] => lengths.map((n) => [n, n]);

const cases: readonly (readonly [string, Case])[] = [
  ["one long segment", { heads: [1, 1], features: [8, 4], causal: false, segments: same(211) }],
  ["causal, several blocks of rows and columns", { heads: [2, 2], features: [4, 4], causal: true, segments: same(200) }],
  ["many short segments", { heads: [3, 3], features: [4, 12], causal: true, segments: same(1, 5, 2, 17, 1, 1, 40, 3, 9, 100) }],
  ["heads that share keys, features that fill no vector", { heads: [4, 2], features: [6, 5], causal: true, segments: same(33, 7, 90) }],
  [
    "queries and keys of different numbers, also none",
    {
      heads: [2, 1],
      features: [8, 3],
      causal: false,
      segments: [
        [0, 4],
        [7, 0],
        [64, 150],
        [3, 1],
        [0, 0],
        [130, 9],
      ],
    },
  ],
  [
    "causal with keys that were there before",
    {
      heads: [1, 1],
      features: [16, 8],
      causal: true,
      segments: [
        [5, 140],
        [100, 200],
        [2, 1],
      ],
    },
  ],
];

describe.each(cases)("%s", (_, c) => {
  const graph = build(c);
  const compiled = compileGraph(graph);
  const inputs = inputsOf(c);

  test("the cotangents are the evaluator's, on kernels of their own", async () => {
    expect(compiled.plainLoops).toEqual([]);
    const expected = evalGraph(graph, referenceOf, { inputs }).outputs;
    for (const simd of ["plain", "relaxed"] as const) {
      await using session = await Session.create(compiled, { threads: 2, simd });
      const { outputs } = await session.run(Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, toRuntime(t)])));
      for (const name of ["y", "d.q", "d.k", "d.v"]) {
        const want = expected[name]?.data ?? new Float64Array();
        const found = outputs[name] === undefined ? [] : fromRuntime(outputs[name]).data;
        expect(found.length, name).toBe(want.length);
        const largest = want.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
        const worst = want.reduce((m, x, i) => Math.max(m, Math.abs(x - (found[i] ?? NaN))), 0);
        expect(worst, `${name}, ${simd}`).toBeLessThanOrEqual(3e-6 * largest);
      }
    }
  });
});

test("the memory of forward and backward grows with the tokens, not with their square", () => {
  const { plan } = compileGraph(build({ heads: [2, 2], features: [8, 8], causal: true, segments: [] }));
  const arena = (t: number): number =>
    bindPlan(plan, { q: [t, 2, 8], k: [t, 2, 8], v: [t, 2, 8], "d.y": [t, 2, 8], segment: [t], q_offsets: [2], k_offsets: [2] }).arenaBytes;
  expect(arena(20000) / arena(10000)).toBeLessThan(2.1);
});
