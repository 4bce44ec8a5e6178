// A training from its first step to its last: batches into the trainer, metrics, checkpoints, and going on from one. What
// it leaves in its folder:
//   checkpoint-00000100.safetensors   parameters, optimiser, place in the data: see checkpoint.ts
//   model.safetensors                 the trained parameters alone, when the last step is done
//   metrics.jsonl, loss.png           of every step
//   skipped.jsonl                     records that could not be used, where there are any
// Does not compile, choose data or print. Node only.

import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import path from "node:path";
import { messageOf } from "../errors.ts";
import { isRecord } from "../json.ts";
import type { Inputs } from "../inputs.ts";
import { writeSafetensors } from "../weights/safetensors.ts";
import { checkSettings, latestCheckpoint, writeTrainingCheckpoint, type TrainingState } from "./checkpoint.ts";
import { lossCurve } from "./curve.ts";
import { TrainingCheckpointError, TrainingDataError } from "./errors.ts";
import type { Feed } from "./feed.ts";
import { Loader, type Batch, type LoaderOptions } from "./loader.ts";
import { MetricsFile, type StepMetrics } from "./metrics.ts";
import type { BadRecord, RecordFile } from "./records.ts";
import type { StepResult, TrainerApi } from "./types.ts";

export interface TrainingRun {
  readonly trainer: Pick<TrainerApi, "step" | "tensors" | "restore" | "recipe">;
  readonly feed: Feed;
  readonly records: RecordFile;
  readonly loader: LoaderOptions;
  /** The folder. Made when there is none. */
  readonly out: string;
  /** Steps of the whole training, those before a resumption included. */
  readonly steps: number;
  /** Steps between checkpoints. */
  readonly every: number;
  readonly keep?: number | undefined;
  /** Go on from the newest checkpoint of the folder, if there is one. Without it the folder must have none. */
  readonly resume: boolean;
  /** See TrainingState. */
  readonly settings: Readonly<Record<string, string>>;
  /** Stops between kernels; what is done is saved. */
  readonly signal?: AbortSignal | undefined;
  readonly on?: TrainingEvents | undefined;
}

export interface TrainingEvents {
  /** `damaged` says of newer checkpoints why they were passed over. */
  resumed?(from: { readonly file: string | undefined; readonly step: number; readonly damaged: readonly string[] }): void;
  step?(metrics: StepMetrics, result: StepResult): void;
  skipped?(bad: BadRecord): void;
  saved?(file: string, step: number): void;
  /** A step failed; what is done is saved, and the parameters are those of before. The error is thrown afterwards. */
  failed?(error: unknown, inputs: readonly Inputs[]): Promise<void> | void;
}

export interface TrainingOutcome {
  readonly step: number;
  /** It was told to stop before its last step. */
  readonly stopped: boolean;
  readonly skipped: number;
  readonly checkpoint: string | undefined;
  /** Where the trained parameters are, when the training is over. */
  readonly model: string | undefined;
  readonly metrics: readonly StepMetrics[];
}

/** Milliseconds between two drawings of the loss. */
const redraw = 15_000;

export async function runTraining(run: TrainingRun): Promise<TrainingOutcome> {
  await makeFolder(run.out);
  let state = await startingState(run);
  const metrics = await MetricsFile.open(path.join(run.out, "metrics.jsonl"), state.step);
  const skips = await Skips.open(path.join(run.out, "skipped.jsonl"), run.resume);
  for (const bad of run.records.bad) await skips.add(bad);
  const loader = new Loader(run.records, run.loader, state.position);
  let saved: string | undefined;
  let savedStep = -1;
  let drawn = performance.now();
  const save = async (): Promise<void> => {
    if (savedStep === state.step) return;
    saved = await writeTrainingCheckpoint(run.out, state, await run.trainer.tensors(), { keep: run.keep });
    savedStep = state.step;
    run.on?.saved?.(saved, state.step);
  };
  const aborted = (): boolean => run.signal?.aborted === true;
  let stopped = false;
  while (state.step < run.steps) {
    if (aborted()) {
      stopped = true;
      break;
    }
    const batch = await loader.next();
    for (const bad of batch.skipped) {
      await skips.add(bad);
      run.on?.skipped?.(bad);
    }
    const { perRun } = run.loader;
    const count = Math.ceil(batch.samples.length / perRun);
    const inputs = Array.from({ length: count }, (_, i) => run.feed.inputs(batch.samples.slice(i * perRun, (i + 1) * perRun)));
    let result: StepResult;
    try {
      result = await run.trainer.step(inputs, { signal: run.signal });
    } catch (error) {
      stopped = aborted();
      if (stopped) break;
      // What was done until here is good, and it is what the reason is looked for with.
      await save();
      await run.on?.failed?.(error, inputs);
      throw error;
    }
    state = { ...state, step: state.step + 1, position: batch.position, skipped: state.skipped + batch.skipped.length };
    const line = metricsOf(state.step, batch, result, run);
    await metrics.add(line);
    run.on?.step?.(line, result);
    if (state.step % run.every === 0 && state.step < run.steps) {
      await save();
      if (performance.now() - drawn > redraw) {
        await drawCurve(run.out, metrics.steps);
        drawn = performance.now();
      }
    }
  }
  // A training that was stopped before its first step has nothing to save.
  if (state.step > 0) await save();
  if (metrics.steps.length > 0) await drawCurve(run.out, metrics.steps);
  const model = stopped ? undefined : await writeModel(run);
  return { step: state.step, stopped, skipped: skips.count, checkpoint: saved, model, metrics: metrics.steps };
}

async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (cause) {
    throw new TrainingCheckpointError(`${folder} cannot be made: ${messageOf(cause)}`, { cause });
  }
}

async function startingState(run: TrainingRun): Promise<TrainingState> {
  const { found, damaged } = await latestCheckpoint(run.out);
  if (!run.resume) {
    if (found !== undefined || damaged.length > 0)
      throw new TrainingCheckpointError(`${run.out} has checkpoints of a training: go on from them (resume), or choose another folder`);
    return { step: 0, position: 0, skipped: 0, settings: run.settings };
  }
  if (found === undefined && damaged.length > 0)
    throw new TrainingCheckpointError(`no checkpoint of ${run.out} can be used:\n${damaged.map((d) => `  ${d}`).join("\n")}`);
  if (found !== undefined) {
    checkSettings(found, run.settings);
    await run.trainer.restore(found.tensors);
  }
  run.on?.resumed?.({ file: found?.file, step: found?.state.step ?? 0, damaged });
  return found?.state ?? { step: 0, position: 0, skipped: 0, settings: run.settings };
}

function metricsOf(step: number, batch: Batch, result: StepResult, run: TrainingRun): StepMetrics {
  const count = (of: (sample: Batch["samples"][number]) => number): number => batch.samples.reduce((sum, s) => sum + of(s), 0);
  return {
    step,
    epoch: batch.position / run.records.lengths.length,
    loss: result.loss,
    gradientNorm: result.scaling?.skipped === true ? null : result.gradientNorm,
    ...(result.scaling === undefined ? {} : { lossScale: result.scaling.scale }),
    learningRate: result.learningRate,
    samples: batch.samples.length,
    tokens: count((s) => s.ids.length),
    supervised: count((s) => s.supervised),
    milliseconds: result.milliseconds,
  };
}

async function drawCurve(folder: string, steps: readonly StepMetrics[]): Promise<void> {
  const file = path.join(folder, "loss.png");
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    await writeFile(temporary, await lossCurve(steps));
    await rename(temporary, file);
  } catch (cause) {
    throw new TrainingCheckpointError(`${file} cannot be written: ${messageOf(cause)}`, { cause });
  }
}

async function writeModel({ trainer, out }: TrainingRun): Promise<string> {
  const file = path.join(out, "model.safetensors");
  const names = new Set(trainer.recipe.parameters.map((p) => p.name));
  const trained = new Map([...(await trainer.tensors())].filter(([name]) => names.has(name)));
  await writeSafetensors(file, trained, { graph: trainer.recipe.graph });
  return file;
}

/** The report of what was left out. A record stands in it once, however often its turn comes. */
class Skips {
  readonly #file: string;
  readonly #known = new Map<number, BadRecord>();

  private constructor(file: string) {
    this.#file = file;
  }

  static async open(file: string, resume: boolean): Promise<Skips> {
    const skips = new Skips(file);
    const text = resume ? await readFile(file, "utf8").catch(() => "") : "";
    for (const line of text.split("\n")) {
      try {
        const bad: unknown = JSON.parse(line);
        if (isRecord(bad) && typeof bad.index === "number") skips.#known.set(bad.index, bad as unknown as BadRecord);
      } catch {
        continue; // The last line of a process that was killed.
      }
    }
    return skips;
  }

  get count(): number {
    return this.#known.size;
  }

  async add(bad: BadRecord): Promise<void> {
    if (this.#known.has(bad.index)) return;
    this.#known.set(bad.index, bad);
    try {
      await writeFile(this.#file, [...this.#known.values()].map((b) => `${JSON.stringify(b)}\n`).join(""));
    } catch (cause) {
      throw new TrainingDataError(`${this.#file} cannot be written: ${messageOf(cause)}`, { cause });
    }
  }
}
