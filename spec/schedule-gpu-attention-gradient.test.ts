// The builder of attention's derivative for GPUs against the float64 evaluator, on the emulator, for each size of subgroups;
// and on an adapter where there is one.

import * as fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { compileGraph, type WebGpuCompiled } from "../compiler/compile.ts";
import { evalGraph, type ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import { referenceOf } from "../ops/index.ts";
import { Session } from "../runtime/session.ts";
import { attentionGradient, gradientInputs, same, type GradientCase } from "./attention-gradient-graph.ts";
import { systemGpu } from "./conformance/devices.ts";
import { runs, seed } from "./conformance/property.ts";
import { fromRuntime, toRuntime } from "./conformance/tensors.ts";
import { emulated, type Tensors } from "./gpu-emulator.ts";

const sizes = [4, 8, 32, 0] as const;
const results = ["y", "d.q", "d.k", "d.v"];

const known = new Map<string, { readonly graph: ReturnType<typeof attentionGradient>; readonly compiled: WebGpuCompiled }>();

/** Variants in the order of `sizes`. */
function compiledFor({ heads, features, causal }: Pick<GradientCase, "heads" | "features" | "causal">) {
  const key = JSON.stringify([heads, features, causal]);
  const before = known.get(key);
  if (before !== undefined) return before;
  const graph = attentionGradient({ heads, features, causal });
  const wanted = sizes.map((subgroups) => ({ subgroups, f16: false }));
  const made = { graph, compiled: compileGraph(graph, { target: "webgpu", features: wanted }) };
  known.set(key, made);
  return made;
}

type Values = Readonly<Record<string, ConcreteTensor>>;

const largestOf = (t: ConcreteTensor | undefined): number =>
  (t?.data ?? new Float64Array()).reduce((m, x) => (Number.isFinite(x) ? Math.max(m, Math.abs(x)) : m), 0);

/**
 * Cotangents of q and k are differences of products of d.y and v, times k or q; where a query sees one key they are nothing but
 * what rounding leaves of that: a few units in the last place of a product.
 */
function unitOf(name: string, inputs: Values): number {
  const other = name === "d.q" ? inputs["k"] : name === "d.k" ? inputs["q"] : undefined;
  const width = inputs["v"]?.shape.at(-1) ?? 0;
  return 4 * 2 ** -24 * width * largestOf(inputs["d.y"]) * largestOf(inputs["v"]) * largestOf(other);
}

function agree(what: string, found: Tensors, expected: Values, inputs: Values): void {
  for (const name of results) {
    const [want, got] = [expected[name]?.data ?? new Float64Array(), found[name]?.data ?? []];
    expect(got.length, `${what}, ${name}`).toBe(want.length);
    const most = Math.max(3e-6 * largestOf(expected[name]), unitOf(name, inputs));
    for (const [i, x] of want.entries()) {
      const own = got[i] ?? NaN;
      if (Number.isFinite(x)) expect(Math.abs(own - x), `${what}, ${name}[${i}]`).toBeLessThanOrEqual(most);
      else expect(own, `${what}, ${name}[${i}]`).toBeNaN();
    }
  }
}

async function check(c: GradientCase, change: (inputs: Readonly<Record<string, ConcreteTensor>>) => void = () => undefined) {
  const { graph, compiled } = compiledFor(c);
  expect(compiled.plainLoops).toEqual([]);
  const inputs = gradientInputs(c);
  change(inputs);
  const expected = evalGraph(graph, referenceOf, { inputs }).outputs;
  for (const [variant, subgroups] of sizes.entries())
    agree(`subgroups of ${subgroups}`, await emulated(compiled, variant, inputs), expected, inputs);
}

const counts = fc.oneof(
  { weight: 5, arbitrary: fc.integer({ min: 0, max: 11 }) },
  { weight: 1, arbitrary: fc.integer({ min: 12, max: 40 }) },
);
const cases: fc.Arbitrary<GradientCase> = fc.record({
  heads: fc.constantFrom([1, 1] as const, [2, 1] as const, [2, 2] as const),
  features: fc.constantFrom([8, 4] as const, [5, 3] as const, [3, 12] as const, [12, 2] as const),
  causal: fc.boolean(),
  segments: fc.array(fc.tuple(counts, counts), { minLength: 1, maxLength: 4 }),
});

describe("the builder of attention's derivative for GPUs", () => {
  test("gives the evaluator's cotangents for random ragged segments", { timeout: 240_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(cases, (c) => check(c)),
      { numRuns: Math.min(runs, 8), seed },
    );
  });

  test.each([
    ["several blocks of rows and columns", same(70)],
    [
      "rows and columns of different numbers, also none",
      [
        [0, 4],
        [7, 0],
        [11, 70],
        [3, 1],
        [0, 0],
        [40, 9],
      ],
    ],
  ] as const)("%s", async (_, segments) => {
    for (const causal of [false, true]) await check({ heads: [1, 1], features: [6, 4], causal, segments });
  });

  test("heads of 128 features", { timeout: 240_000 }, async () => {
    await check({ heads: [1, 1], features: [128, 128], causal: true, segments: [[9, 12]] });
  });

  test("NaN reaches what sees it, and nothing else", async () => {
    // Query 3 and key 3 are of the first segment.
    const c: GradientCase = { heads: [1, 1], features: [8, 4], causal: true, segments: same(6, 5) };
    for (const [name, width] of [
      ["q", 8],
      ["k", 8],
      ["v", 4],
      ["d.y", 4],
    ] as const)
      await check(c, (inputs) => void ((inputs[name]?.data ?? [])[3 * width] = NaN));
  });

  test("shares at most 16 KiB in a workgroup of at most 256 invocations, and has the same units in all variants", () => {
    for (const d of [8, 64, 256]) {
      const { compiled } = compiledFor({ heads: [1, 1], features: [d, d], causal: true });
      expect(compiled.plainLoops).toEqual([]);
      for (const fn of compiled.imp.variants.flat()) {
        const shared = fn.scratch.filter((s) => s.space === "workgroup");
        expect(shared.reduce((n, s) => n + 4 * Number(s.size.text), 0)).toBeLessThanOrEqual(16384);
        expect(fn.lanes).toBeLessThanOrEqual(256);
      }
    }
  });

  test("leaves more features than invocations can hold to plain loops, and says so", () => {
    expect(compiledFor({ heads: [1, 1], features: [8, 300], causal: false }).compiled.plainLoops).not.toEqual([]);
  });
});

const gpu = await systemGpu();
afterAll(async () => {
  if (typeof gpu !== "string") await gpu.close();
}, 60_000);

// Without features alone the emulator checks it: a software driver takes minutes to compile loops with barriers.
test("on an adapter", { timeout: 240_000 }, async (context) => {
  if (typeof gpu === "string") {
    context.skip(`not run: ${gpu}`);
    return;
  }
  const c: GradientCase = { heads: [2, 1], features: [8, 4], causal: true, segments: [...same(70, 3), [9, 40]] };
  const graph = attentionGradient(c);
  const compiled = compileGraph(graph, { target: "webgpu", features: gpu.features });
  const inputs = gradientInputs(c);
  const given = Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, toRuntime(t)]));
  await using session = await Session.create(compiled, { device: gpu });
  const { outputs } = await session.run(given);
  const found = Object.fromEntries(Object.entries(outputs).map(([name, t]) => [name, fromRuntime(t)]));
  agree(gpu.description, found, evalGraph(graph, referenceOf, { inputs }).outputs, inputs);
});
