// The types of training at run time: what a step is given and what it tells. Does nothing.

import type { Recipe } from "../../compiler/ir/plan/training.ts";
import type { Artefact } from "../artefact.ts";
import type { Device } from "../device.ts";
import type { Inputs } from "../inputs.ts";
import type { SessionOptions } from "../session.ts";
import type { Tensor } from "../tensor.ts";

export type { Recipe, Schedule, TrainedParameter } from "../../compiler/ir/plan/training.ts";

/** A compiled training step: what `compileTraining` of compiler/train/index.ts gives. */
export interface TrainingArtefact extends Artefact {
  readonly training: Recipe;
}

export interface TrainerOptions {
  /** Default: a WebAssembly device of its own, closed with the trainer. */
  readonly device?: Device | undefined;
  readonly threads?: number | undefined;
  readonly simd?: SessionOptions["simd"];
  /** Parameters, trained and frozen, and how those that it lacks are made: as of a session. */
  readonly weights?: SessionOptions["weights"];
  readonly init?: SessionOptions["init"];
  /** T of the schedule: all steps of the training. Default: what the file says; one of the two must, unless the rate is constant. */
  readonly steps?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: SessionOptions["onProgress"];
}

export interface StepOptions {
  /** Stops between the runs of a step; the parameters are then those of before the step. */
  readonly signal?: AbortSignal | undefined;
}

export interface StepResult {
  /** Mean over the step's runs. */
  readonly loss: number;
  /** Of all gradients together, before clipping. Not finite in a step that was skipped. */
  readonly gradientNorm: number;
  /** Where the loss is scaled: the factor of this step, and whether its gradients were not finite, so that no parameter changed. */
  readonly scaling?: { readonly scale: number; readonly skipped: boolean };
  /** The rate of this step at the optimiser's own rate. */
  readonly learningRate: number;
  /** How many steps were done, this one included. */
  readonly step: number;
  readonly milliseconds: number;
  /** Bytes on the device while it ran: what stays, and the arena. */
  readonly memory: { readonly weights: number; readonly arena: number };
  /** Outputs of the graph besides the loss, of the last run. */
  readonly outputs: Readonly<Record<string, Tensor>>;
}

/** Runs that make one step: one, or as many as `accumulate` says (fewer at the end of an epoch). */
export type StepInputs = Inputs | readonly Inputs[];

/**
 * What trainer.ts implements. A step whose loss or gradient is not finite rejects with TrainingError and changes nothing.
 * Where the loss is scaled, such a gradient halves the scale and the step counts as done, until the scale is 1.
 */
export interface TrainerApi extends AsyncDisposable {
  readonly recipe: Recipe;
  /** T. */
  readonly steps: number | undefined;
  readonly stepsDone: number;
  step(inputs: StepInputs, options?: StepOptions): Promise<StepResult>;
  /** What goes into a checkpoint, by name: parameters under their own names, the optimiser's states, `optimiser.step`. Exact. */
  tensors(): Promise<ReadonlyMap<string, Tensor>>;
  /** Goes on from what `tensors` gave. Throws WeightsError, before anything is changed, when a tensor is missing or misshapen. */
  restore(tensors: ReadonlyMap<string, Tensor>): Promise<void>;
  close(): Promise<void>;
}
