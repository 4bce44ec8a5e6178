// uhdc explain: what a run with inputs of given sizes will do: kernels in order with the lines they come from,
// operations, bytes, the places of values in memory, and why neighbours were not fused. Runs nothing on a device;
// sizes and places come from the same function that the runtime uses.

import { Layout } from "../../../runtime/layout.ts";
import type { Compiled, Declined } from "../../compile.ts";
import { usefulFlops } from "../../fuse/work.ts";
import { dimEval, dimParse, type DimEnv } from "../../ir/dim.ts";
import { bytesOf } from "../../ir/dtype.ts";
import { weightsMemory } from "../../ir/plan/memory.ts";
import type { Plan, PlanBuffer, PlanParam, Step } from "../../ir/plan/types.ts";
import type { LossScaling, Recipe } from "../../ir/plan/training.ts";
import type { Recomputation } from "../../train/budget.ts";
import { compileTraining, type CompiledTraining } from "../../train/index.ts";
import { loadChecked } from "../common.ts";
import { compileFile, type CompilingOptions } from "../compiling.ts";
import { usageError } from "../errors.ts";
import { explanationText } from "../explanation.ts";
import { layoutOf, type LayoutSummary } from "../layout.ts";
import { givenSizes, shapeOf } from "../sizes.ts";
import type { Terminal } from "../terminal.ts";

export interface ExplainOptions extends CompilingOptions {
  /** The training step that the file's train section asks for, in place of a graph. */
  readonly train?: boolean;
  /** Bytes that a training step may hold. */
  readonly memory?: number;
  readonly imageSize?: string;
  readonly size: readonly string[];
}

/** One step of a run. */
export interface ExplainedKernel {
  /** Its number among the plan's steps. */
  readonly step: number;
  /** "copy" for a copy. */
  readonly name: string;
  readonly stage: string;
  /** Of each value it computes, `file:line:column`, the innermost place first, then the calls and uses around it: `a < b`. */
  readonly sources: readonly string[];
  readonly flops: number;
  /** Read and written. */
  readonly bytes: number;
  /** Why it is not part of the kernel before it. */
  readonly unfused?: string;
}

export interface ExplainedBuffer {
  readonly name: string;
  readonly type: string;
  readonly offset: number;
  readonly bytes: number;
  /** Steps between which it keeps its contents, inclusive. */
  readonly first: number;
  readonly last: number;
}

/** What a training step trains, and what it keeps for that. */
export interface ExplainedTraining {
  /** How many parameters, and their elements. */
  readonly trained: { readonly parameters: number; readonly elements: number };
  /** Bytes of moments, and of gradients that are added up. */
  readonly optimiser: number;
  /** Runs that make a step. */
  readonly accumulate: number;
  readonly schedule: Recipe["schedule"];
  readonly rate: number;
  /** Of what products are computed. */
  readonly compute: "f32" | "f16" | "bf16";
  /** Null where the loss is differentiated as it is. */
  readonly scaling: LossScaling | null;
}

export interface Explanation {
  readonly name: string;
  /** Every symbolic size, and the integers of the run. */
  readonly sizes: DimEnv;
  /** Elements of all parameters; of packed weights, of the weights. */
  readonly parameters: number;
  /** Null unless a training step is explained. */
  readonly training: ExplainedTraining | null;
  /** Null unless a budget was given for the memory of a training step. */
  readonly recomputation: Recomputation | null;
  /** Weights that are held packed, by their form: how many, their elements, and the bytes of all their parts. */
  readonly packed: readonly { readonly format: string; readonly weights: number; readonly elements: number; readonly bytes: number }[];
  /** Matrices that were to be packed and are not, with the reasons. */
  readonly unquantised: Compiled["unquantised"];
  /** Null when the graph has no slicing layout. */
  readonly tokens: number | null;
  readonly pictures: number | null;
  readonly layout: LayoutSummary | null;
  readonly kernels: readonly ExplainedKernel[];
  /** What is done once, when weights are loaded. */
  readonly prepare: readonly ExplainedKernel[];
  /** useful: by the op table, over the values a run computes. executed: by the kernels. */
  readonly flops: { readonly useful: number; readonly executed: number };
  /**
   * Bytes. weights: what stays on the device between runs; state: what of that are states. arena: inputs, outputs, tables and values of a run. peak: the most
   * that is held at a time, loading included.
   */
  readonly memory: { readonly weights: number; readonly state: number; readonly arena: number; readonly peak: number };
  /** Values in the arena, by offset. */
  readonly arena: readonly ExplainedBuffer[];
  readonly declined: readonly Declined[];
  /** Multiplies and attentions that run as plain loops, because no builder takes their operands. */
  readonly plainLoops: readonly string[];
  /** States that are copied whole at the end of each run; the others are written in place or stay as they are. */
  readonly copiedStates: readonly { readonly name: string; readonly bytes: number }[];
}

export function explain(file: string, options: ExplainOptions, terminal: Terminal): void {
  if (options.memory !== undefined && options.train !== true) throw usageError("--memory is of a training step: give --train too");
  const { compiled, recipe, recomputation } =
    options.train === true
      ? trainingFile(file, options, terminal)
      : { ...compileFile(file, options, terminal), recipe: undefined, recomputation: undefined };
  const { plan } = compiled;
  const { shapes, given } = givenSizes(plan, options);
  const layout = new Layout(plan, shapes, given);
  const { env } = layout.bound;
  const weights = weightsMemory(plan);
  const slicing = layoutOf(layout.host);
  const kernels = plan.steps.map((step, i) => explained(step, i, plan, env));
  const explanation: Explanation = {
    name: plan.name,
    sizes: env,
    parameters:
      plan.params.reduce((sum, p) => sum + ownElements(p), 0) + (recipe?.parameters ?? []).reduce((sum, p) => sum + elementsOf(p.shape), 0),
    training: recipe === undefined ? null : trainingOf(recipe),
    recomputation: recomputation ?? null,
    packed: packedOf(plan),
    unquantised: compiled.unquantised,
    tokens: slicing?.tokens ?? null,
    pictures: slicing?.pictures.length ?? null,
    layout: slicing ?? null,
    kernels,
    prepare: plan.prepare.map((step, i) => explained(step, i, plan, env)),
    flops: { useful: usefulFlops(compiled.graph, env), executed: kernels.reduce((sum, k) => sum + k.flops, 0) },
    memory: {
      weights: weights.kept,
      state: stateBytes(plan, layout),
      arena: layout.bytes,
      peak: Math.max(weights.peak, weights.kept + layout.bytes),
    },
    arena: arenaOf(plan, layout),
    declined: compiled.declined,
    plainLoops: compiled.plainLoops,
    copiedStates: plan.states.flatMap((s) =>
      s.update === undefined || s.update === s.buffer || recipe !== undefined
        ? []
        : [{ name: s.name, bytes: bytesOfBuffer(plan.buffers[s.buffer], env) }],
    ),
  };
  terminal.out(options.json ? JSON.stringify(explanation, null, 2) : explanationText(explanation));
}

/** The training step of the file's train section. */
function trainingFile(
  file: string,
  options: ExplainOptions,
  terminal: Terminal,
): { readonly compiled: CompiledTraining; readonly recipe: Recipe; readonly recomputation: Recomputation | undefined } {
  const program = loadChecked(file, options, terminal);
  if (program.train === undefined) throw usageError(`${file} has no train section`);
  const { memory: bytes, fuse, fusionGas } = options;
  const memory = bytes === undefined ? undefined : { bytes, sizes: (plan: Plan) => [givenSizes(plan, options)] };
  const compiled = compileTraining(program, { fuse, fusionGas, memory });
  return { compiled, recipe: compiled.training, recomputation: compiled.recomputation };
}

function trainingOf(recipe: Recipe): ExplainedTraining {
  const elements = recipe.parameters.reduce((sum, p) => sum + elementsOf(p.shape), 0);
  const kept = recipe.parameters.some((p) => p.sum !== undefined) ? 3 : 2;
  return {
    trained: { parameters: recipe.parameters.length, elements },
    optimiser: kept * elements * bytesOf("f32"),
    accumulate: recipe.accumulate,
    schedule: recipe.schedule,
    rate: recipe.optimiser.rate,
    compute: recipe.compute ?? "f32",
    scaling: recipe.scaling === undefined ? null : { initial: recipe.scaling.initial, every: recipe.scaling.every },
  };
}

const elementsOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Elements of a parameter of the checkpoint; those of a packed weight count with its values. */
function ownElements({ shape, packed }: PlanParam): number {
  return packed === undefined ? elementsOf(shape) : packed.part === "values" ? elementsOf(packed.shape) : 0;
}

function packedOf(plan: Plan): Explanation["packed"] {
  const formats = new Map<string, { weights: number; elements: number; bytes: number }>();
  for (const p of plan.params) {
    if (p.packed === undefined) continue;
    const known = formats.get(p.packed.format) ?? { weights: 0, elements: 0, bytes: 0 };
    formats.set(p.packed.format, known);
    if (p.packed.part === "values") known.weights++;
    known.elements += ownElements(p);
    known.bytes += elementsOf(p.shape) * bytesOf(p.dtype);
  }
  return [...formats].map(([format, counted]) => ({ format, ...counted }));
}

function stateBytes(plan: Plan, layout: Layout): number {
  return plan.states.reduce((sum, s) => sum + layout.allocatedBytes(s.buffer), 0);
}

function bytesOfBuffer(buffer: PlanBuffer | undefined, env: DimEnv): number {
  return buffer === undefined ? 0 : shapeOf(buffer, env).reduce((a, b) => a * b, bytesOf(buffer.dtype));
}

function explained(step: Step, number: number, plan: Plan, env: DimEnv): ExplainedKernel {
  switch (step.k) {
    case "copy": {
      return { step: number, name: "copy", stage: "copies", sources: [], flops: 0, bytes: 2 * bytesOfBuffer(plan.buffers[step.from], env) };
    }
    case "dispatch":
      return {
        step: number,
        name: step.kernel,
        stage: step.stage,
        sources: step.sources,
        flops: dimEval(dimParse(step.flops), env),
        bytes: dimEval(dimParse(step.bytes), env),
        ...(step.unfused === undefined ? {} : { unfused: step.unfused }),
      };
    default:
      return step satisfies never;
  }
}

function arenaOf(plan: Plan, layout: Layout): readonly ExplainedBuffer[] {
  const last = Math.max(0, plan.steps.length - 1);
  return plan.buffers
    .flatMap((buffer, id): ExplainedBuffer[] => {
      const { place } = buffer;
      if (place.k !== "arena" && place.k !== "input" && place.k !== "output" && place.k !== "table") return [];
      return [
        {
          name: buffer.name,
          type: `${buffer.dtype}[${layout.shape(id).join(", ")}]`,
          offset: layout.offset(id),
          bytes: layout.allocatedBytes(id),
          ...(place.k === "arena" ? { first: place.first, last: place.last } : { first: 0, last }),
        },
      ];
    })
    .toSorted((a, b) => a.offset - b.offset || a.first - b.first);
}
