// What is fused means what the graph says: generated graphs that make fusion decide, compiled with fusion, without,
// and with every fusion after the first few declined, run on the WebAssembly device and compared with the reference.
// What is fused runs on the evaluator of Kernel IR too, which refuses to read out of range.

import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compileGraph, type Compiled, type CompileOptions } from "../compiler/compile.ts";
import { isFloat } from "../compiler/ir/dtype.ts";
import { evalGraph, type ReferenceFunction } from "../compiler/ir/graph/eval.ts";
import { parseGraph } from "../compiler/ir/graph/parse.ts";
import { verifyGraph } from "../compiler/ir/graph/verify.ts";
import type { RefTensor } from "../ops/define.ts";
import { referenceOf, typeRule } from "../ops/index.ts";
import { tensor } from "../ops/reference/tensor.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";
import { Session } from "../runtime/session.ts";
import { difference } from "./conformance/compare.ts";
import { deviceRows, type DeviceRow } from "./conformance/devices.ts";
import { runs, seed } from "./conformance/property.ts";
import { fromRuntime, toRuntime } from "./conformance/tensors.ts";
import { fusionGraphs, isNarrow, type FusionGraph } from "./fusion-graphs.ts";

type Tensors = Readonly<Record<string, RefTensor>>;

interface Mode {
  readonly name: string;
  readonly options: CompileOptions;
  /** Where it runs: undefined for the WebAssembly device. */
  readonly row?: DeviceRow<Compiled>;
}

const [evaluator] = deviceRows;
const modes: readonly Mode[] = [
  { name: "fused", options: {} },
  ...(evaluator === undefined ? [] : [{ name: `fused, on the ${evaluator.name}`, options: {}, row: evaluator }]),
  { name: "unfused", options: { fuse: false } },
  ...[0, 1, 3, 6].map((fusionGas) => ({ name: `gas ${fusionGas}`, options: { fusionGas } })),
];

let device: WasmDevice;
beforeAll(async () => {
  device = await WasmDevice.create({ threads: 1, simd: "plain" });
});
afterAll(async () => {
  await device.close();
});

/** The outputs of one run after the other, states carried along. */
function meaning(g: FusionGraph, reference: ReferenceFunction): readonly Tensors[] {
  let { states } = g;
  return g.runs.map((inputs) => {
    const result = evalGraph(g.graph, reference, { inputs, params: g.params, states });
    states = { ...states, ...result.states };
    return result.outputs;
  });
}

const rounded: ReferenceFunction = (op, operands, attrs, out) => {
  const result = referenceOf(op, operands, attrs, out);
  return isFloat(out.dtype) ? { ...result, data: result.data.map(Math.fround) } : result;
};

/** Every value of a narrow type one step up or down, and everything rounded to f32. */
const stepped: ReferenceFunction = (op, operands, attrs, out) => {
  const result = rounded(op, operands, attrs, out);
  const step = out.dtype === "f16" ? 2 ** -10 : 2 ** -7;
  return isNarrow(out.dtype) ? { ...result, data: result.data.map((x, i) => x * (1 + (i % 3 === 0 ? step : -step))) } : result;
};

function apart(a: RefTensor | undefined, b: RefTensor | undefined): number {
  let most = 0;
  for (const [i, x] of (a?.data ?? []).entries()) {
    const distance = Math.abs(x - (b?.data[i] ?? NaN));
    if (Number.isFinite(distance)) most = Math.max(most, distance);
  }
  return most;
}

/** What results may be off by: what rounding every value of the reference does, with room. */
function allowed(exact: RefTensor, once: RefTensor | undefined, twice: RefTensor | undefined): number {
  const largest = exact.data.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 1);
  return 64 * apart(exact, once) + 4 * apart(once, twice) + 1e-5 * largest;
}

async function runsOf(g: FusionGraph, mode: Mode): Promise<readonly Tensors[]> {
  // Parameters of steps that came to nothing are not part of the graph.
  const weights = { from: new Map(Object.entries(g.params).map(([name, t]) => [name, toRuntime(t)])), extra: "ignore" as const };
  const compiled = compileGraph(g.graph, mode.options);
  const on = (await mode.row?.open(compiled)) ?? device;
  const session = await Session.create(compiled, { device: on, weights });
  try {
    const all: Tensors[] = [];
    for (const inputs of g.runs) {
      const { outputs } = await session.run(Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, toRuntime(t)])));
      all.push(Object.fromEntries(Object.entries(outputs).map(([name, t]) => [name, fromRuntime(t)])));
    }
    return all;
  } finally {
    await session.close();
    await mode.row?.close(on);
  }
}

/** Fails where a mode gives something else than the reference. */
async function check(g: FusionGraph): Promise<void> {
  const [exact, once, twice] = [meaning(g, referenceOf), meaning(g, rounded), meaning(g, stepped)];
  for (const mode of modes) {
    const found = await runsOf(g, mode);
    for (const [run, outputs] of exact.entries()) {
      for (const [name, want] of Object.entries(outputs)) {
        const absolute = allowed(want, once[run]?.[name], twice[run]?.[name]);
        const tolerance = { absolute, relative: 0, why: "What rounding every value of the reference does, with room." };
        const got = found[run]?.[name];
        const message = got === undefined ? "there is no result" : difference(want, got, tolerance, false);
        if (message !== undefined) throw new Error(`${mode.name}, run ${run}: ${name}: ${message}`);
      }
    }
  }
}

describe("generated layers, fused, unfused and in between", () => {
  test("are what their references say, run after run", { timeout: 600_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(fusionGraphs(), async (g) => {
        await check(g);
      }),
      { numRuns: Math.max(10, Math.floor(runs / 4)), seed },
    );
  });

  test("are fused for the most part", () => {
    const sample = fc.sample(fusionGraphs(), { numRuns: 40, seed: 1 });
    const kernels = (options: CompileOptions): number => sample.reduce((n, g) => n + compileGraph(g.graph, options).plan.steps.length, 0);
    expect(kernels({})).toBeLessThan(0.6 * kernels({ fuse: false }));
  });
});

/** A graph over x and y: f32[T, 3], run twice. */
function caseOf(body: string, states: Tensors = {}): FusionGraph {
  const graph = parseGraph(`graph "case" {
  symbol T: 0..9
  %0 = input "x" : f32[T, 3]
  %1 = input "y" : f32[T, 3]
${body}
}`);
  expect(verifyGraph(graph, typeRule)).toEqual([]);
  const inputs = (t: number): Tensors => {
    const of = (from: number): RefTensor =>
      tensor(
        "f32",
        [t, 3],
        Array.from({ length: 3 * t }, (_, i) => Math.fround(Math.sin(from + i))),
      );
    return { x: of(1), y: of(50) };
  };
  return { [fc.toStringMethod]: () => body, graph, params: {}, states, runs: [inputs(5), inputs(2)] };
}

describe("particular graphs, fused, unfused and in between", () => {
  const cases: readonly (readonly [string, FusionGraph])[] = [
    [
      "constants of any size as results, themselves and reshaped",
      caseOf(`  %2 = constant [0.25] : f32[2, T]
  %3 = reshape(%2) {shape: dims[2*T]} : f32[2*T]
  %4 = neg(%3) : f32[2*T]
  %5 = constant [-0] : f32[3]
  %6 = constant [0.5] : f32[T, 2]
  %7 = reshape(%6) {shape: dims[2*T]} : f32[2*T]
  %8 = neg(%7) : f32[2*T]
  output "a" = %2
  output "b" = %3
  output "c" = %4
  output "d" = %5
  output "e" = %2
  output "f" = %8`),
    ],
    [
      "a state that becomes a constant, and one that becomes a reshaped value",
      caseOf(
        `  %2 = state "s" : f32[2, 3]
  %3 = state "r" : f32[6]
  %4 = constant [3] : f32[2, 3]
  %5 = add(%2, %4) : f32[2, 3]
  %6 = exp(%5) : f32[2, 3]
  %7 = reshape(%6) {shape: dims[6]} : f32[6]
  output "s" = %2
  output "r" = %3
  update "s" = %4
  update "r" = %7`,
        { s: tensor("f32", [2, 3], new Array<number>(6).fill(0)), r: tensor("f32", [6], new Array<number>(6).fill(0)) },
      ),
    ],
    [
      "states that move on, each to the next",
      caseOf(
        `  %2 = state "new" : f32[2]
  %3 = state "old" : f32[2]
  %4 = cos(%2) : f32[2]
  output "old" = %3
  update "new" = %4
  update "old" = %2`,
        { new: tensor("f32", [2], [0, 0]), old: tensor("f32", [2], [0, 0]) },
      ),
    ],
    [
      "two products alike, where one makes its right operand and the other reads it",
      caseOf(`  %2 = tanh(%0) : f32[T, 3]
  %3 = matmul(%0, %2) {transpose_a: false, transpose_b: true} : f32[T, T]
  %4 = tanh(%1) : f32[T, 3]
  %5 = matmul(%1, %4) {transpose_a: false, transpose_b: true} : f32[T, T]
  output "a" = %3
  output "b" = %5`),
    ],
    [
      "a quotient of whole numbers that are negative",
      caseOf(`  %2 = iota() {shape: dims[T, 4], axis: 0, dtype: "i32"} : i32[T, 4]
  %3 = iota() {shape: dims[T, 4], axis: 1, dtype: "i32"} : i32[T, 4]
  %4 = constant [4] : i32[T, 4]
  %5 = mul(%2, %4) : i32[T, 4]
  %6 = add(%5, %3) : i32[T, 4]
  %7 = sub(%6, %4) : i32[T, 4]
  %8 = div(%7, %4) : i32[T, 4]
  output "quotient" = %8`),
    ],
  ];

  test.each(cases)("%s", async (_, g) => {
    await check(g);
  });
});
