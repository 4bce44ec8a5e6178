// What the runtime must know of a training step besides its plan: which states are parameters, which inputs and outputs
// carry the step's numbers, and how the rate goes. JSON-able. The arithmetic is in the plan; nothing here is executed
// on a device.

/** How the rate of step t of T goes, as a factor of the optimiser's rate; the first step is 0. */
export interface Schedule {
  /** constant: 1. linear: down to 0 at T. cosine: ½(1 + cos π·), down to 0 at T. All of them behind the warm-up, in which it is t/w. */
  readonly kind: "constant" | "linear" | "cosine";
  /** Steps of the warm-up: a share of T (rounded up), or a number of steps. */
  readonly warmup: { readonly k: "share"; readonly of: number } | { readonly k: "steps"; readonly count: number };
}

/**
 * The factor of the loss in mixed precision: a power of two, doubled after `every` steps in a row whose gradients were
 * finite, halved after one whose were not; that step changes no parameter.
 */
export interface LossScaling {
  readonly initial: number;
  readonly every: number;
}

/** The largest factor of a loss: halves have little room above it for what is not small. */
export const largestScale = 2 ** 24;

/** A parameter that is trained: a state of the plan, with its two moments as states of their own. */
export interface TrainedParameter {
  /** The state's name, which is the parameter's public name. */
  readonly name: string;
  readonly shape: readonly number[];
  readonly init?: { readonly kind: "constant"; readonly value: number } | { readonly kind: "normal"; readonly std: number };
  /** States of the optimiser. */
  readonly first: string;
  readonly second: string;
  /** The gradient so far, where gradients of several runs make a step. */
  readonly sum?: string;
  /** It is no parameter of the graph but was added to it (low-rank additions): no checkpoint of the model has it. */
  readonly added?: true;
  /** Its own rate at schedule factor 1. */
  readonly rate: number;
  readonly decay: number;
}

/** What `compileTraining` writes beside the plan. */
export interface Recipe {
  readonly format: "uhd-training";
  readonly version: 1;
  /** The graph that is trained. */
  readonly graph: string;
  /** Names of the plan's outputs. */
  readonly outputs: {
    readonly loss: string;
    readonly gradientNorm: string;
    /** The factor of this run; where the loss is scaled. */
    readonly scale?: string;
  };
  /**
   * f32[] inputs that each run is given: the schedule's factor; 1/(1-β₁ᵗ) and 1/√(1-β₂ᵗ) of the step; the share of this
   * run's gradient in the step's; and 1 for the run that ends a step, else 0. The last two only where steps have several runs.
   */
  readonly inputs: {
    readonly factor: string;
    readonly firstCorrection: string;
    readonly secondCorrection: string;
    readonly share?: string;
    readonly ends?: string;
  };
  readonly optimiser: {
    readonly name: "adamw";
    readonly rate: number;
    readonly betas: readonly [number, number];
    readonly eps: number;
    readonly decay: number;
  };
  readonly schedule: Schedule;
  /** Largest norm of all gradients together; what is above is scaled down to it. */
  readonly clip?: number;
  /** Runs that make a step. */
  readonly accumulate: number;
  /** T, where the file says it. */
  readonly steps?: number;
  readonly parameters: readonly TrainedParameter[];
  /** Of what products are computed, where it is not f32. */
  readonly compute?: "f16" | "bf16";
  /** f32[] states: the factor, and how many steps in a row were good. The first begins at `initial`. */
  readonly scaling?: LossScaling & { readonly scale: string; readonly good: string };
}
