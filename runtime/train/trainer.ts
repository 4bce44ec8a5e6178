// Training steps on a device: parameters and the optimiser's states live there between steps, and each step is given
// its rate and corrections. Reads no data and writes no files.

import type { PlanParam } from "../../compiler/ir/plan/types.ts";
import { ArtefactError, InputError, TrainingError, WeightsError } from "../errors.ts";
import type { Inputs } from "../inputs.ts";
import { Session, weightsOptions, type RunResult } from "../session.ts";
import { elementCount, tensorFromBytes, typeText, type Tensor } from "../tensor.ts";
import { openParams, type WeightsOptions } from "../weights/load.ts";
import { needsTotal, rateFactor } from "./schedule.ts";
import type { Recipe, StepInputs, StepOptions, StepResult, TrainerApi, TrainerOptions, TrainingArtefact } from "./types.ts";

/** The name under which checkpoints keep how many steps were done, and how many of them changed nothing. */
const stepName = "optimiser.step";
const skippedName = "optimiser.skipped";

/** What a trainer needs of a session: runs, and states between them. */
export type StepSession = Pick<Session, "plan" | "run" | "readState" | "writeState" | "close">;

/** Opens it; `weights` has what the parameters that are not trained begin from, and perhaps more. */
export type OpenStepSession = (weights: WeightsOptions | undefined) => Promise<StepSession>;

export class Trainer implements TrainerApi {
  readonly recipe: Recipe;
  readonly steps: number | undefined;
  /** Names of the parameters that were made from a seed. */
  readonly untrained: readonly string[];
  readonly session: StepSession;
  #done = 0;
  /** Steps whose gradients were not finite at the scale that the loss had. */
  #skipped = 0;
  #tail: Promise<unknown> = Promise.resolve();

  private constructor(recipe: Recipe, session: StepSession, steps: number | undefined, untrained: readonly string[]) {
    this.recipe = recipe;
    this.session = session;
    this.steps = steps;
    this.untrained = untrained;
  }

  /** Loads kernels and parameters. Throws what Session.create throws, and InputError when nothing says how many steps there are. */
  static create(artefact: TrainingArtefact, options: TrainerOptions = {}): Promise<Trainer> {
    const { device, threads, simd, init, signal, onProgress } = options;
    return Trainer.over(artefact, options, (weights) =>
      Session.create(artefact, { device, threads, simd, init, signal, onProgress, weights }),
    );
  }

  /** The same over a session that `open` gives, whatever computes in it. */
  static async over(
    artefact: Pick<TrainingArtefact, "plan" | "training">,
    options: Omit<TrainerOptions, "device" | "threads" | "simd" | "onProgress">,
    open: OpenStepSession,
  ): Promise<Trainer> {
    const recipe = artefact.training;
    const steps = options.steps ?? recipe.steps;
    if (steps === undefined && needsTotal(recipe.schedule))
      throw new InputError(`${recipe.graph}: a ${recipe.schedule.kind} schedule needs to know how many steps there are`);
    const seed = options.init?.seed;
    const weights = weightsOptions(options.weights);
    const trained = recipe.parameters.map((p): PlanParam => {
      const state = artefact.plan.states.find((s) => s.name === p.name);
      if (state === undefined) throw new ArtefactError(`plan ${artefact.plan.name} keeps no state ${p.name}, which is trained`);
      return { name: p.name, dtype: "f32", shape: p.shape, buffer: state.buffer, ...(p.init === undefined ? {} : { init: p.init }) };
    });
    const added = new Set(recipe.parameters.filter((p) => p.added === true).map((p) => p.name));
    // What is added to a model is in no checkpoint of it.
    const own = await openParams(
      trained.filter((p) => added.has(p.name)),
      undefined,
      seed ?? 0,
    );
    const params = await openParams([...artefact.plan.params, ...trained.filter((p) => !added.has(p.name))], weights, seed);
    try {
      const rest: WeightsOptions | undefined = weights === undefined ? undefined : { ...weights, extra: "ignore" };
      const session = await open(rest);
      try {
        for (const p of trained) {
          options.signal?.throwIfAborted();
          const bytes = new Uint8Array(elementCount(p.shape) * 4);
          await (added.has(p.name) ? own : params).read(p, 0, bytes);
          await session.writeState(p.name, tensorFromBytes("f32", p.shape, bytes));
        }
        if (recipe.scaling !== undefined) await session.writeState(recipe.scaling.scale, scalar(recipe.scaling.initial));
        return new Trainer(recipe, session, steps, params.untrained);
      } catch (error) {
        await session.close();
        throw error;
      }
    } finally {
      await params[Symbol.asyncDispose]();
    }
  }

  get stepsDone(): number {
    return this.#done;
  }

  /**
   * One step of the optimiser. Steps of one trainer follow each other. Throws TrainingError when the loss or the gradient
   * is not finite (see TrainerApi for a loss that is scaled) or all steps are done, and what a session's run throws; the
   * parameters are then those of before.
   */
  step(inputs: StepInputs, options: StepOptions = {}): Promise<StepResult> {
    return this.#inOrder(() => this.#step(isList(inputs) ? inputs : [inputs], options));
  }

  tensors(): Promise<ReadonlyMap<string, Tensor>> {
    return this.#inOrder(async () => {
      const found = new Map<string, Tensor>();
      for (const [name] of this.#states()) found.set(name, await this.session.readState(name));
      if (this.recipe.scaling !== undefined) found.set(skippedName, integer(this.#skipped));
      return found.set(stepName, integer(this.#done));
    });
  }

  restore(tensors: ReadonlyMap<string, Tensor>): Promise<void> {
    return this.#inOrder(async () => {
      const shapes = new Map(this.#states());
      const wanted = [...shapes].map(([name, shape]) => ({ name, text: typeText("f32", shape) }));
      const { scaling } = this.recipe;
      const counts = [stepName, ...(scaling === undefined ? [] : [skippedName])];
      const all = [...wanted, ...counts.map((name) => ({ name, text: typeText("i32", []) }))];
      const textOf = (t: Tensor): string => typeText(t.dtype, t.shape);
      const missing = all.filter(({ name }) => !tensors.has(name)).map(({ name }) => name);
      const misshapen = all.flatMap(({ name, text }) => {
        const tensor = tensors.get(name);
        return tensor === undefined || textOf(tensor) === text ? [] : [`${name}: expected ${text}, found ${textOf(tensor)}`];
      });
      const extra = [...tensors.keys()].filter((name) => !all.some((w) => w.name === name));
      if (missing.length + misshapen.length + extra.length > 0) {
        const parts = [...missing.map((n) => `${n} is missing`), ...misshapen, ...extra.map((n) => `${n} is not of this training`)];
        throw new WeightsError(`the checkpoint is not of the training of ${this.recipe.graph}: ${parts.slice(0, 5).join("; ")}`, {
          missing,
          extra,
          misshapen,
        });
      }
      for (const name of shapes.keys()) {
        const tensor = tensors.get(name);
        if (tensor !== undefined) await this.session.writeState(name, tensor);
      }
      await this.#clearSums();
      this.#done = tensors.get(stepName)?.data[0] ?? 0;
      this.#skipped = tensors.get(skippedName)?.data[0] ?? 0;
    });
  }

  close(): Promise<void> {
    return this.session.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #inOrder<R>(work: () => Promise<R>): Promise<R> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => undefined);
    return result;
  }

  /** Those that checkpoints keep, with their shapes. */
  #states(): readonly (readonly [string, readonly number[]])[] {
    const { parameters, scaling } = this.recipe;
    const own = parameters.flatMap((p) => [p.name, p.first, p.second].map((name) => [name, p.shape] as const));
    return scaling === undefined ? own : [...own, [scaling.scale, []], [scaling.good, []]];
  }

  async #step(runs: readonly Inputs[], { signal }: StepOptions): Promise<StepResult> {
    const { recipe, steps } = this;
    const begin = performance.now();
    if (runs.length === 0 || runs.length > recipe.accumulate)
      throw new InputError(`${recipe.graph}: a step is 1 to ${recipe.accumulate} runs, found ${runs.length}`);
    if (steps !== undefined && this.#done >= steps) throw new TrainingError(`${recipe.graph}: all ${steps} steps are done`);
    const factor = rateFactor(recipe.schedule, this.#done, steps ?? Infinity);
    const [beta1, beta2] = recipe.optimiser.betas;
    const t = this.#done + 1;
    // How often the moments have changed with this step: the corrections are of their means.
    const changes = t - this.#skipped;
    const { inputs: names, outputs } = recipe;
    let [loss, last]: [number, RunResult | undefined] = [0, undefined];
    try {
      for (const [i, run] of runs.entries()) {
        signal?.throwIfAborted();
        const given: Record<string, Tensor> = {
          [names.factor]: scalar(factor),
          [names.firstCorrection]: scalar(1 / (1 - beta1 ** changes)),
          [names.secondCorrection]: scalar(1 / Math.sqrt(1 - beta2 ** changes)),
        };
        if (names.share !== undefined) given[names.share] = scalar(1 / runs.length);
        if (names.ends !== undefined) given[names.ends] = scalar(i === runs.length - 1 ? 1 : 0);
        last = await this.session.run({ ...run, ...given });
        const own = last.outputs[outputs.loss]?.data[0] ?? NaN;
        if (!Number.isFinite(own)) throw new TrainingError(`${recipe.graph}: the loss of step ${t} is ${own}`);
        loss += own / runs.length;
      }
      const gradientNorm = last?.outputs[outputs.gradientNorm]?.data[0] ?? NaN;
      const scale = outputs.scale === undefined ? undefined : (last?.outputs[outputs.scale]?.data[0] ?? NaN);
      const skipped = !Number.isFinite(gradientNorm);
      if (skipped && (scale === undefined || scale <= 1)) {
        const at = scale === undefined ? "" : ", with the loss as it is";
        throw new TrainingError(`${recipe.graph}: the gradient of step ${t} is ${gradientNorm}${at}`);
      }
      this.#done = t;
      if (skipped) this.#skipped++;
      return {
        loss,
        gradientNorm,
        learningRate: factor * recipe.optimiser.rate,
        ...(scale === undefined ? {} : { scaling: { scale, skipped } }),
        step: t,
        milliseconds: performance.now() - begin,
        memory: last?.memory ?? { weights: 0, arena: 0 },
        outputs: Object.fromEntries(Object.entries(last?.outputs ?? {}).filter(([name]) => !Object.values(outputs).includes(name))),
      };
    } catch (error) {
      // What a part of the runs added up is of no step. Where this fails too, the first error is the one to tell.
      await this.#clearSums().catch(() => undefined);
      throw error;
    }
  }

  async #clearSums(): Promise<void> {
    for (const { sum, shape } of this.recipe.parameters) {
      if (sum !== undefined) await this.session.writeState(sum, { dtype: "f32", shape, data: new Float32Array(elementCount(shape)) });
    }
  }
}

function isList(inputs: StepInputs): inputs is readonly Inputs[] {
  return Array.isArray(inputs);
}

const integer = (value: number): Tensor => ({ dtype: "i32", shape: [], data: Int32Array.of(value) });

function scalar(value: number): Tensor {
  return { dtype: "f32", shape: [], data: Float32Array.of(value) };
}
