// From a .uhd file to compiled kernels, as compile, run and explain all do it: the options they share, and what
// the time went to.

import { compileGraph, type Compiled, type CompileOptions, type WebGpuCompiled, type WebGpuOptions } from "../compile.ts";
import type { Graph } from "../ir/graph/types.ts";
import { chooseGraph, loadChecked, type CommonOptions } from "./common.ts";
import { quantisingOf, type QuantisingOptions } from "./quantising.ts";
import type { Terminal } from "./terminal.ts";

export interface CompilingOptions extends CommonOptions, QuantisingOptions {
  readonly graph?: string;
  /** False with --no-fuse. */
  readonly fuse: boolean;
  readonly fusionGas?: number;
  /** What every kernel writes is a result. */
  readonly watch?: boolean;
}

interface CompiledFile {
  /** As the checker made it, before any pass. */
  readonly graph: Graph;
  readonly compiled: Compiled;
  readonly milliseconds: { readonly check: number; readonly compile: number };
}

/** Prints diagnostics; throws CliError when one is an error or the graph cannot be chosen. */
export function compileFile(
  file: string,
  options: CompilingOptions,
  terminal: Terminal,
  dump?: (pass: string, text: () => string) => void,
): CompiledFile {
  const begin = performance.now();
  const graph = chooseGraph(loadChecked(file, options, terminal), file, options.graph);
  const checked = performance.now();
  const compiled = compileGraph(graph, { fuse: options.fuse, fusionGas: options.fusionGas, ...quantisingOf(options), dump });
  return { graph, compiled, milliseconds: { check: checked - begin, compile: performance.now() - checked } };
}

/** What a device runs: compiled for its target. */
export type TargetOptions = Pick<CompileOptions, "target"> | Pick<WebGpuOptions, "target" | "features">;

/** The same for a device's target. */
export function compileFileFor(
  file: string,
  options: CompilingOptions,
  target: TargetOptions,
  terminal: Terminal,
  dump?: (pass: string, text: () => string) => void,
): { readonly graph: Graph; readonly compiled: Compiled | WebGpuCompiled; readonly milliseconds: CompiledFile["milliseconds"] } {
  const begin = performance.now();
  const graph = chooseGraph(loadChecked(file, options, terminal), file, options.graph);
  const checked = performance.now();
  const { fuse, fusionGas, watch } = options;
  const compiled = compileFor(graph, target, { fuse, fusionGas, watch, ...quantisingOf(options), dump });
  return { graph, compiled, milliseconds: { check: checked - begin, compile: performance.now() - checked } };
}

export function compileFor(
  graph: Graph,
  target: TargetOptions,
  options: Pick<CompileOptions, "fuse" | "fusionGas" | "quantise" | "activations" | "watch" | "dump"> = {},
): Compiled | WebGpuCompiled {
  return target.target === "webgpu" ? compileGraph(graph, { ...options, ...target }) : compileGraph(graph, options);
}
