// Our side of the benches: a graph of a .uhd file compiled in memory, with random weights that the peers get too.

import { readFileSync } from "node:fs";
import path from "node:path";
import { loadProgram } from "../../compiler/check/index.ts";
import { compileGraph, type Compiled, type CompileOptions } from "../../compiler/compile.ts";
import { renderDiagnostics } from "../../compiler/diagnostics/index.ts";
import type { Graph } from "../../compiler/ir/graph/types.ts";
import type { HostValue } from "../../compiler/ir/plan/host.ts";
import { callHostFunction } from "../../compiler/ir/plan/host-eval.ts";
import type { PlanParam } from "../../compiler/ir/plan/types.ts";
import { relaxedProbe } from "../../compiler/targets/wasm/capabilities.ts";
import { Session } from "../../runtime/session.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import { root } from "./place.ts";
import { normals } from "./random.ts";

export type Config = Readonly<Record<string, string | number>>;
type Made = Pick<PlanParam, "name" | "shape" | "init">;
export type RandomWeights = ReadonlyMap<string, Tensor<"f32">>;

export function compileBench(file: string, graph: string, config: Config = {}, options: CompileOptions = {}): Compiled {
  return compileGraph(graphOf(file, graph, config), options);
}

/** `file` is a path in the project. Throws with the rendered diagnostics. */
export function graphOf(file: string, graph: string, config: Config = {}): Graph {
  const texts = Object.fromEntries(Object.entries(config).map(([name, value]) => [name, String(value)]));
  const program = loadProgram(path.join(root, file), { readText: (name) => readFileSync(name, "utf8"), config: texts });
  if (program.diagnostics.some((d) => d.severity === "error"))
    throw new Error(renderDiagnostics(program.diagnostics, program.sources, { color: false }));
  const found = program.graphs.get(graph);
  if (found === undefined) throw new Error(`${file} has no graph ${graph}`);
  return found;
}

/** The value of a shape function of a file. */
export function shapeFunction(file: string, name: string, args: readonly HostValue[]): HostValue {
  const found = loadProgram(path.join(root, file), { readText: (at) => readFileSync(at, "utf8") }).functions.get(name);
  if (found === undefined) throw new Error(`${file} has no shape function ${name}`);
  return callHostFunction(found.program, found.name, args);
}

/** Which kernels this engine runs: the relaxed variant where it can. */
export function variant(): "relaxed" | "plain" {
  return WebAssembly.validate(relaxedProbe()) ? "relaxed" : "plain";
}

/** Around the value each parameter is made with, so that biases and scales count in the comparison too. */
export function randomWeights(params: readonly Made[]): RandomWeights {
  return new Map(params.map((param) => [param.name, { dtype: "f32", shape: param.shape, data: randomParam(param) }]));
}

function randomParam({ name, shape, init }: Made): Float32Array {
  const count = shape.reduce((n, d) => n * d, 1);
  if (init?.kind === "constant") return normals(name, count, 0.05, init.value);
  return normals(name, count, init?.std);
}

export function openSession(compiled: Compiled, threads: number, weights: RandomWeights = new Map()): Promise<Session> {
  return Session.create(compiled, { threads, weights });
}

/** Runs once and gives the only output, copied: the next run does not change it. */
export async function outputOf(session: Session, inputs: Readonly<Record<string, Tensor>>): Promise<Float32Array> {
  const [tensor] = Object.values((await session.run(inputs)).outputs);
  if (tensor?.dtype !== "f32") throw new Error(`${session.plan.name} gave no f32 output`);
  return Float32Array.from(tensor.data);
}

export function f32(shape: readonly number[], data: Float32Array): Tensor<"f32"> {
  return { dtype: "f32", shape, data };
}

export function u8(shape: readonly number[], data: Uint8Array): Tensor<"u8"> {
  return { dtype: "u8", shape, data };
}
