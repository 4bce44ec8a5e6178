// Attention's derivative on the device: kernels that hold no scores, over segments of many lengths, in blocks of rows and
// columns, heads that share keys, causal or not; against the float64 evaluator.

import { describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { evalGraph } from "../compiler/ir/graph/eval.ts";
import { bindPlan } from "../compiler/ir/plan/bind.ts";
import { referenceOf } from "../ops/index.ts";
import { Session } from "../runtime/session.ts";
import { attentionGradient, gradientInputs, same, type GradientCase } from "./attention-gradient-graph.ts";
import { fromRuntime, toRuntime } from "./conformance/tensors.ts";

const cases: readonly (readonly [string, GradientCase])[] = [
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
  const graph = attentionGradient(c);
  const compiled = compileGraph(graph);
  const inputs = gradientInputs(c);

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
  const { plan } = compileGraph(attentionGradient({ heads: [2, 2], features: [8, 8], causal: true }));
  const arena = (t: number): number =>
    bindPlan(plan, { q: [t, 2, 8], k: [t, 2, 8], v: [t, 2, 8], "d.y": [t, 2, 8], segment: [t], q_offsets: [2], k_offsets: [2] }).arenaBytes;
  expect(arena(20000) / arena(10000)).toBeLessThan(2.1);
});
