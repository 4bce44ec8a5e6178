// The training step of a graph: forward, backward and the optimiser as one graph, compiled as any other. Parameters
// that are trained become states; the rest stay parameters, packed once. Runs nothing.

import { gradient } from "../autodiff/reverse.ts";
import type { Program } from "../check/index.ts";
import { compileGraph, webgpuLimits, type Compiled, type CompileOptions, type WebGpuCompiled, type WebGpuOptions } from "../compile.ts";
import { GraphBuilder } from "../ir/graph/build.ts";
import type { Graph, GraphNode, ParamNode, ValueId } from "../ir/graph/types.ts";
import type { Recipe } from "../ir/plan/training.ts";
import type { FuseOptions } from "../fuse/groups.ts";
import { mergeTrained } from "../passes/merge-trained.ts";
import { typeRule } from "../../ops/index.ts";
import { adamw, goodName, scaleName, type Trained } from "./adamw.ts";
import { withinBudget, type MemoryBudget, type Recomputation } from "./budget.ts";
import { computeIn } from "./compute.ts";
import { early } from "./early.ts";
import { addLora } from "./lora.ts";
import { matches, matchesAny, type TrainSettings } from "./settings.ts";

/** WebGPU's offsets of storage buffers, on every adapter. */
const webGpuAlignment = 256;

/** A training step cannot be made of the graph. */
export class TrainingCompileError extends Error {
  override readonly name = "TrainingCompileError";
}

export interface TrainingOptions {
  /** What a step may hold on the device. Default: every value that the backward pass reads is kept. */
  readonly memory?: MemoryBudget | undefined;
}

interface Trains {
  readonly training: Recipe;
  /** What is computed again; where a budget was given. */
  readonly recomputation?: Recomputation;
}

export interface CompiledTraining extends Compiled, Trains {}

/** The same step as WGSL. */
export interface WebGpuCompiledTraining extends WebGpuCompiled, Trains {}

/** Compiles the training step that the file's train section asks for. Throws TrainingCompileError, AutodiffError and MemoryBudgetError. */
export function compileTraining(program: Program, options: WebGpuOptions & TrainingOptions): WebGpuCompiledTraining;
export function compileTraining(program: Program, options?: CompileOptions & TrainingOptions): CompiledTraining;
export function compileTraining(
  program: Program,
  { memory, ...options }: (CompileOptions | WebGpuOptions) & TrainingOptions = {},
): CompiledTraining | WebGpuCompiledTraining {
  const { train } = program;
  if (train === undefined) throw new TrainingCompileError("the file has no train section, or it has errors");
  const graph = program.graphs.get(train.graph);
  if (graph === undefined) throw new TrainingCompileError(`the file has no graph ${train.graph}, or it has errors`);
  const {
    graph: built,
    optimiser,
    recipe,
  } = trainingGraph(graph, train, options.target === "webgpu" ? (options.limits ?? webgpuLimits).bytes : Infinity);
  const whole = memory === undefined ? built : early(built, optimiser);
  let recomputation: Recomputation | undefined;
  const last = (passed: Graph, fusion: FuseOptions): Graph => {
    if (memory === undefined) return passed;
    const alignment = memory.alignment ?? (options.target === "webgpu" ? webGpuAlignment : undefined);
    const fitted = withinBudget(passed, fusion, new Set(graph.outputs.map((o) => o.name)), { ...memory, alignment });
    recomputation = fitted.report;
    return fitted.graph;
  };
  const compiled =
    options.target === "webgpu"
      ? { ...compileGraph(whole, { ...options, last }), training: recipe }
      : { ...compileGraph(whole, { ...options, last }), training: recipe };
  return recomputation === undefined ? compiled : { ...compiled, recomputation };
}

/**
 * The graph of one run: outputs of `original`, the norm of the gradients, and new values of the states. Layers of one operand
 * become one where their weights have `joined` bytes at most together; by default none do, and every op is of its own line.
 */
export function trainingGraph(
  original: Graph,
  settings: TrainSettings,
  joined = 0,
): {
  readonly graph: Graph;
  /** Values from this one on are of the backward pass, and behind it the optimiser's. */
  readonly backward: ValueId;
  /** Values from this one on are the optimiser's. */
  readonly optimiser: ValueId;
  readonly recipe: Recipe;
} {
  const { lora, compute, scaling } = settings;
  const {
    graph: whole,
    added,
    problem,
  } = lora === undefined ? { graph: original, added: new Set<string>(), problem: undefined } : addLora(original, lora);
  if (problem !== undefined) throw new TrainingCompileError(`a low-rank addition goes to the matrix of a layer, and ${problem}`);
  const merged = mergeTrained(whole, (name) => added.has(name) || isTrained(settings, name), joined);
  const source = compute === undefined ? merged : computeIn(merged, compute);
  const kept = source.nodes.find((n) => n.kind === "state");
  if (kept?.kind === "state")
    throw new TrainingCompileError(`the graph ${source.name} has the state ${kept.name}: a graph that is trained has none`);
  const trained = source.nodes.filter((n): n is ParamNode => n.kind === "param" && (added.has(n.name) || isTrained(settings, n.name)));
  if (trained.length === 0) throw new TrainingCompileError(`no parameter of ${source.name} is trained`);
  const integer = trained.find((n) => n.type.dtype !== "f32");
  if (integer !== undefined)
    throw new TrainingCompileError(`${integer.name} is ${integer.type.dtype}; parameters that are trained are f32`);
  const ids = new Set(trained.map((n) => n.id));
  const stateful: Graph = {
    ...source,
    nodes: source.nodes.map((n): GraphNode => {
      if (n.kind !== "param" || !ids.has(n.id)) return n;
      const { id, type, loc, name } = n;
      return { kind: "state", id, type, loc, name };
    }),
  };
  const loss = source.outputs.find((o) => o.name === settings.loss)?.value;
  if (loss === undefined) throw new TrainingCompileError(`the graph ${source.name} has no output ${settings.loss}`);
  const forward: Forward = scaling === undefined ? { graph: stateful, differentiated: settings.loss } : scaled(stateful, loss);
  const backward = gradient(forward.graph, { outputs: [forward.differentiated], wrt: [...ids], seed: "one" });
  const gradients = backward.outputs.slice(forward.graph.outputs.length);
  const b = new GraphBuilder(source.name, typeRule, backward);
  b.clearOutputs();
  for (const o of source.outputs) b.output(o.name, o.value);
  if (forward.scale !== undefined) b.output(scaleOutput, forward.scale);
  const { optimiser } = settings;
  const optimiserFrom = b.nextId;
  const step = adamw(
    b,
    loss,
    trained.map((n, i): Trained => {
      const found = gradients[i];
      if (found === undefined) throw new TrainingCompileError(`${n.name} has no gradient`);
      return {
        name: n.name,
        value: n.id,
        gradient: found.value,
        type: n.type,
        ...(n.init === undefined ? {} : { init: n.init }),
        rate: added.has(n.name)
          ? (lora?.rate ?? optimiser.rate)
          : (optimiser.rates.find(([pattern]) => matches(pattern, n.name))?.[1] ?? optimiser.rate),
        added: added.has(n.name),
        decay: matchesAny(optimiser.undecayed, n.name) ? 0 : optimiser.decay,
      };
    }),
    {
      ...{ betas: optimiser.betas, eps: optimiser.eps, clip: settings.clip, accumulate: settings.accumulate },
      scaling: scaling === undefined || forward.scale === undefined ? undefined : { every: scaling.every, scale: forward.scale },
    },
  );
  return {
    graph: b.build(),
    backward: stateful.nodes.reduce((most, n) => Math.max(most, n.id), -1) + 1,
    optimiser: optimiserFrom,
    recipe: {
      format: "uhd-training",
      version: 1,
      graph: source.name,
      outputs: {
        ...{ loss: settings.loss, gradientNorm: step.gradientNorm },
        ...(forward.scale === undefined ? {} : { scale: scaleOutput }),
      },
      inputs: step.inputs,
      optimiser: { name: "adamw", rate: optimiser.rate, betas: optimiser.betas, eps: optimiser.eps, decay: optimiser.decay },
      schedule: settings.schedule,
      ...(settings.clip === undefined ? {} : { clip: settings.clip }),
      accumulate: settings.accumulate,
      ...(settings.steps === undefined ? {} : { steps: settings.steps }),
      parameters: step.parameters,
      ...(compute === undefined ? {} : { compute }),
      ...(scaling === undefined ? {} : { scaling: { ...scaling, scale: scaleName, good: goodName } }),
    },
  };
}

const scaleOutput = "train.scale";

interface Forward {
  readonly graph: Graph;
  /** The output that is differentiated. */
  readonly differentiated: string;
  readonly scale?: ValueId;
}

/** The graph with the loss times the scale, which is a state, as one more output. */
function scaled(graph: Graph, loss: ValueId): Forward {
  const b = new GraphBuilder(graph.name, typeRule, graph);
  const scale = b.state(scaleName, { dtype: "f32", shape: [] });
  const differentiated = "train.scaled_loss";
  b.output(differentiated, b.op("mul", [loss, scale]));
  return { graph: b.build(), differentiated, scale };
}

export function isTrained(settings: TrainSettings, name: string): boolean {
  return matchesAny(settings.trainable, name) && !matchesAny(settings.frozen, name);
}
