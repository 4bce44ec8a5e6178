// What the tests of the graphs share: a graph of a file with its configuration, generated weights, and runs of it on
// the float64 evaluator and, compiled, on the WebAssembly device.
// Does not compare anything with an oracle: the tests do.

import { readFileSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { loadProgram, type Program } from "../compiler/check/index.ts";
import { dimConstant, dimEval, dimSymbols, type DimEnv } from "../compiler/ir/dim.ts";
import { evalGraph, type ConcreteTensor, type GraphResult } from "../compiler/ir/graph/eval.ts";
import type { Graph, ParamNode, TableNode } from "../compiler/ir/graph/types.ts";
import type { HostValue } from "../compiler/ir/plan/host.ts";
import { callHostFunction, runHostProgram, tableData, type HostRun } from "../compiler/ir/plan/host-eval.ts";
import { compileGraph } from "../compiler/compile.ts";
import { relaxedProbe } from "../compiler/targets/wasm/capabilities.ts";
import { referenceOf } from "../ops/index.ts";
import { Session } from "../runtime/session.ts";
import type { Tensor } from "../runtime/tensor.ts";
import type { Checkpoint } from "../runtime/weights/checkpoint.ts";
import { fromRuntime, toRuntime } from "./conformance/tensors.ts";
import { image, weight } from "./generator.ts";

export type Config = Readonly<Record<string, string | number | boolean>>;

/** A file of the repository, checked. `texts` stands for files that are not on disk, by path. */
export function programOf(path: string, config: Config = {}, texts: Readonly<Record<string, string>> = {}): Program {
  const program = loadProgram(path, {
    readText: (file) => texts[file] ?? readFileSync(new URL(`../${file}`, import.meta.url), "utf8"),
    config: Object.fromEntries(Object.entries(config).map(([name, value]) => [name, String(value)])),
  });
  const [first] = program.diagnostics;
  if (first !== undefined) throw new Error(`${path}: ${first.message} (${program.diagnostics.length} problems)`);
  return program;
}

export function graphOf(path: string, name: string, config: Config = {}, texts: Readonly<Record<string, string>> = {}): Graph {
  const graph = programOf(path, config, texts).graphs.get(name);
  if (graph === undefined) throw new Error(`${path} has no graph ${name}`);
  return graph;
}

/** A shape function of a file, to call often. */
export function shapeFunction(path: string, name: string): (...args: readonly HostValue[]) => HostValue {
  const f = programOf(path).functions.get(name);
  if (f === undefined) throw new Error(`${path} has no shape function ${name}`);
  return (...args) => callHostFunction(f.program, f.name, args);
}

/** Parameters with their shapes, by name, in the order of the graph. */
export function paramShapes(graph: Graph): ReadonlyMap<string, readonly number[]> {
  const params = graph.nodes.filter((node): node is ParamNode => node.kind === "param");
  return new Map(params.map((node) => [node.name, node.type.shape.map((d) => dimConstant(d) ?? NaN)]));
}

/** The generator's weights for every parameter. */
export function generatedParams(graph: Graph): Readonly<Record<string, ConcreteTensor>> {
  return Object.fromEntries(
    [...paramShapes(graph)].map(([name, shape]) => [name, { dtype: "f32", shape, data: Float64Array.from(weight(name, shape)) }]),
  );
}

/** The same as the runtime takes them: half the memory. */
export function generatedWeights(graph: Graph): ReadonlyMap<string, Tensor> {
  return new Map([...paramShapes(graph)].map(([name, shape]) => [name, { dtype: "f32", shape, data: weight(name, shape) }]));
}

/** The generator's image as a tensor. */
export function imageTensor(width: number, height: number, channels = 3): ConcreteTensor {
  return { dtype: "u8", shape: [height, width, channels], data: Float64Array.from(image(width, height, channels)) };
}

export function f32Tensor(shape: readonly number[], at: (i: number) => number): ConcreteTensor {
  return { dtype: "f32", shape, data: Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.fround(at(i))) };
}

/** Host code of a graph for inputs of these sizes and these integers: symbols, values and tables. */
export function hostRun(
  graph: Graph,
  inputs: Readonly<Record<string, ConcreteTensor>>,
  integers: DimEnv = {},
  given: Readonly<Record<string, HostValue>> = {},
): HostRun {
  const sizes: Record<string, number> = { ...integers };
  for (const node of graph.nodes) {
    if (node.kind !== "input") continue;
    for (const [i, size] of node.type.shape.entries()) {
      const found = inputs[node.name]?.shape[i];
      if (dimSymbols(size)[0] === size.text && found !== undefined && !graph.host.bindings.some((b) => b.symbol && b.name === size.text))
        sizes[size.text] = found;
    }
  }
  return runHostProgram(graph.host, sizes, given);
}

function tableTensor(node: TableNode, run: HostRun): ConcreteTensor {
  const { dtype } = node.type;
  const data = tableData({ name: node.name, dtype, shape: node.type.shape.map((d) => d.text), value: node.value }, run);
  return { dtype, shape: node.type.shape.map((d) => dimEval(d, run.symbols)), data: Float64Array.from(data) };
}

/** Outputs and new states on the float64 evaluator. */
function evaluateWith(
  graph: Graph,
  given: { readonly inputs: Tensors; readonly params: Tensors; readonly states: Tensors; readonly integers: DimEnv },
): GraphResult {
  const run = hostRun(graph, given.inputs, given.integers);
  const table = (node: TableNode): ConcreteTensor => tableTensor(node, run);
  return evalGraph(graph, referenceOf, { ...given, table, symbols: run.symbols });
}

/** Outputs on the float64 evaluator. */
export function evaluate(graph: Graph, inputs: Tensors, params: Tensors = {}): Tensors {
  return evaluateWith(graph, { inputs, params, states: {}, integers: {} }).outputs;
}

/** States as they are before the first run. */
function emptyStates(graph: Graph): Tensors {
  return Object.fromEntries(
    graph.nodes.flatMap((n) => {
      if (n.kind !== "state") return [];
      const shape = n.type.shape.map((d) => dimConstant(d) ?? NaN);
      return [[n.name, { dtype: n.type.dtype, shape, data: new Float64Array(shape.reduce((a, b) => a * b, 1)) }]];
    }),
  );
}

/** How a graph is run: the float64 evaluator, or compiled for the WebAssembly device. */
export type How = "reference" | "wasm" | "wasm, relaxed SIMD" | "wasm, one kernel for each operation";

/** The compiled ways this engine has, with fusion. Without it nothing is packed, which takes minutes at full width. */
export const fusedHows: readonly How[] = ["wasm", ...(WebAssembly.validate(relaxedProbe()) ? (["wasm, relaxed SIMD"] as const) : [])];
export const compiledHows: readonly How[] = [...fusedHows, "wasm, one kernel for each operation"];
export const hows: readonly How[] = ["reference", ...compiledHows];

type Tensors = Readonly<Record<string, ConcreteTensor>>;

/** A graph ready to be run several times; states go from each run to the next. */
export interface Runner extends AsyncDisposable {
  run(inputs: Tensors, integers?: DimEnv): Promise<Tensors>;
}

export async function openRunner(graph: Graph, params: Tensors, how: How): Promise<Runner> {
  if (how === "reference") {
    let states = emptyStates(graph);
    return {
      run: async (inputs, integers = {}) => {
        // The evaluator is slow: between its runs the test runner gets its turn.
        await setImmediate();
        const result = evaluateWith(graph, { inputs, params, states, integers });
        states = { ...states, ...result.states };
        return result.outputs;
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  }
  const session = await openSession(graph, new Map(Object.entries(params).map(([name, value]) => [name, toRuntime(value)])), how);
  return {
    run: async (inputs, integers = {}) => {
      const given = Object.fromEntries(Object.entries(inputs).map(([name, value]) => [name, toRuntime(value)]));
      const { outputs } = await session.run({ ...given, ...integers });
      return Object.fromEntries(Object.entries(outputs).map(([name, value]) => [name, fromRuntime(value)]));
    },
    [Symbol.asyncDispose]: () => session.close(),
  };
}

/** A session on two threads. */
export function openSession(graph: Graph, weights: Checkpoint, how: How): Promise<Session> {
  return Session.create(compileGraph(graph, { fuse: how !== "wasm, one kernel for each operation" }), {
    threads: 2,
    simd: how === "wasm, relaxed SIMD" ? "relaxed" : "plain",
    weights,
  });
}

/** Outputs of one run. */
export async function runGraph(graph: Graph, inputs: Tensors, params: Tensors, how: How): Promise<Tensors> {
  const runner = await openRunner(graph, params, how);
  try {
    return await runner.run(inputs);
  } finally {
    await runner[Symbol.asyncDispose]();
  }
}

type Pair = readonly [number, number];

/** spec/fixtures/llava-uhd-tiny.json, written by spec/oracle/llava_uhd_torch.py. */
interface TinyFixture {
  readonly model: Readonly<Record<string, number>>;
  readonly cases: readonly {
    readonly policy: "paper" | "v1";
    readonly side: number;
    readonly size: Pair;
    readonly shape: Pair;
    /** float32, base64. */
    readonly visual: string;
  }[];
  readonly resized: readonly { readonly to: Pair; readonly values: readonly number[] }[];
  readonly positions: readonly { readonly side: number; readonly width: number; readonly values: readonly number[] }[];
  readonly roi: readonly { readonly size: Pair; readonly samples: Pair; readonly values: readonly number[] }[];
}

export function tinyFixture(): TinyFixture {
  return JSON.parse(readFileSync(new URL("fixtures/llava-uhd-tiny.json", import.meta.url), "utf8")) as TinyFixture;
}

/** spec/fixtures/llava-uhd-full.json: every `stride`-th value of the sequence, and the sum of every row. */
interface FullFixture {
  readonly model: Readonly<Record<string, number>>;
  readonly stride: number;
  readonly cases: readonly (Omit<TinyFixture["cases"][number], "visual"> & { readonly samples: string; readonly rows: string })[];
}

export function fullFixture(): FullFixture {
  return JSON.parse(readFileSync(new URL("fixtures/llava-uhd-full.json", import.meta.url), "utf8")) as FullFixture;
}

/** Largest distance and cosine of two lists of one length. */
export function agreement(found: ArrayLike<number>, expected: ArrayLike<number>): { readonly error: number; readonly cosine: number } {
  if (found.length !== expected.length) throw new Error(`${found.length} numbers, not ${expected.length}`);
  let [error, dot, a, b] = [0, 0, 0, 0];
  for (let i = 0; i < found.length; i++) {
    const [x, y] = [found[i] ?? NaN, expected[i] ?? NaN];
    // Not Math.max: NaN must stay.
    if (!(Math.abs(x - y) <= error)) error = Math.abs(x - y);
    dot += x * y;
    a += x * x;
    b += y * y;
  }
  return { error, cosine: dot / Math.sqrt(a * b) };
}

/** The numbers of little-endian float32 bytes in base64. */
export function decodeF32(text: string): Float32Array {
  return new Float32Array(Uint8Array.from(Buffer.from(text, "base64")).buffer);
}
