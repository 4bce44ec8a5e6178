// uhdc train: compiles the training step of a file, and trains on conversations about images. Everything that can be
// refused is refused before the first step. Ctrl-C saves what is done and ends; --resume goes on.

import type { Device } from "../../../runtime/device.ts";
import { InputError, TrainingError } from "../../../runtime/errors.ts";
import { Session } from "../../../runtime/session.ts";
import type { Tensor } from "../../../runtime/tensor.ts";
import { openTokenizer } from "../../../runtime/model/tokenizer.ts";
import { chatTemplates, templateOf, type ChatTemplate } from "../../../runtime/text/chat.ts";
import { checkVocabulary, type Tokenizer } from "../../../runtime/text/tokenizer.ts";
import { TrainingDataError } from "../../../runtime/train/errors.ts";
import { feedOf } from "../../../runtime/train/feed.ts";
import { stepsAnEpoch } from "../../../runtime/train/loader.ts";
import type { StepMetrics } from "../../../runtime/train/metrics.ts";
import { RecordFile } from "../../../runtime/train/records.ts";
import type { SampleOptions } from "../../../runtime/train/sample.ts";
import { runTraining, type TrainingOutcome } from "../../../runtime/train/run.ts";
import type { TrainerApi, TrainingArtefact } from "../../../runtime/train/types.ts";
import type { Inputs } from "../../../runtime/inputs.ts";
import type { Program } from "../../check/index.ts";
import { compileGraph, type Compiled } from "../../compile.ts";
import type { MemoryBudget } from "../../train/budget.ts";
import { trainingGraph } from "../../train/index.ts";
import { loadChecked, type CommonOptions } from "../common.ts";
import type { DeviceName } from "../device.ts";
import { CliError, usageError } from "../errors.ts";
import { countText, millisecondsText, type Terminal } from "../terminal.ts";
import { bytesText } from "../../ir/text.ts";
import { openTrainingPlace } from "../train-device.ts";
import { givenSizes } from "../sizes.ts";

export interface TrainOptions extends CommonOptions {
  readonly data: string;
  readonly images?: string;
  readonly out: string;
  readonly resume: boolean;
  readonly steps?: number;
  readonly epochs?: number;
  /** Samples of one run of the graph. */
  readonly batch: number;
  readonly seed: number;
  /** Most tokens of a sample's text. */
  readonly maxLength: number;
  readonly tokenizer: string;
  readonly template?: string;
  readonly onBad: "skip" | "stop";
  readonly save: number;
  readonly keep: number;
  readonly weights?: readonly string[];
  readonly ignoreExtra: boolean;
  /** `seeded:N` */
  readonly init?: string;
  readonly threads?: number;
  readonly device: DeviceName;
  /** Bytes that a step may hold. */
  readonly memory?: number;
  /** The sizes for which that must hold, in place of the largest batches of the data. */
  readonly size: readonly string[];
}

export async function train(file: string, options: TrainOptions, terminal: Terminal): Promise<void> {
  const init = seedOf(options.init);
  for (const [flag, value] of Object.entries({
    steps: options.steps,
    batch: options.batch,
    save: options.save,
    keep: options.keep,
    threads: options.threads,
  }))
    if (value === 0) throw usageError(`--${flag} takes 1 or more`);
  if (options.steps !== undefined && options.epochs !== undefined) throw usageError("give --steps or --epochs, not both");
  const program = loadChecked(file, options, terminal);
  if (program.train === undefined) throw new CliError(1, `${file} has no train section: it does not say what is trained, and how`);
  await using records = await RecordFile.open(options.data, { images: options.images });
  reportBad(records, options, terminal);
  const tokenizer = await openTokenizer(options.tokenizer);
  const template = await templateNamed(tokenizer, options.template);
  const memory = await budgetOf(program, file, records, options, { tokenizer, template, maximum: options.maxLength }, terminal);
  await using place = await openTrainingPlace(program, options, memory, terminal);
  const { compiled } = place;
  const { training, plan } = compiled;
  if (init === undefined && options.weights === undefined) throw noWeights(compiled);
  const feed = feedOf(plan, training);
  checkTable(compiled, tokenizer);
  const [perRun, runs] = [options.batch, training.accumulate];
  const epoch = stepsAnEpoch(records, perRun * runs);
  const steps = options.steps ?? (options.epochs === undefined ? (training.steps ?? epoch) : options.epochs * epoch);

  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  const weights =
    options.weights === undefined
      ? undefined
      : { from: options.weights, extra: options.ignoreExtra ? ("ignore" as const) : ("refuse" as const) };
  const from = { weights, init: init === undefined ? undefined : { seed: init } };
  try {
    await using cutter = await Cutter.create(program, file);
    await using trainer = await place.trainer({ ...from, steps, signal: abort.signal });
    const meter = new Meter(steps, terminal);
    const over = new OverBudget(options.memory, terminal);
    const outcome = await runTraining({
      trainer,
      feed,
      records,
      loader: {
        template,
        tokenizer,
        maximum: options.maxLength,
        cut: (image) => cutter.cut(image),
        images: options.images,
        seed: options.seed,
        perRun,
        runs,
        onBad: options.onBad,
      },
      out: options.out,
      steps,
      every: options.save,
      keep: options.keep,
      resume: options.resume,
      settings: settingsOf(compiled, records, options, { steps, runs, template: template.name, device: place.kind }),
      signal: abort.signal,
      on: {
        resumed({ file: found, step, damaged }) {
          for (const what of damaged) terminal.err(`passed over: ${what}`);
          terminal.err(
            found === undefined ? `${options.out} has no checkpoint: the training begins` : `goes on after step ${step}, from ${found}`,
          );
          meter.begin(step);
        },
        step(metrics, { memory: { weights, arena } }) {
          if (metrics.gradientNorm === null)
            terminal.err(
              `step ${metrics.step} changes nothing: gradients of the loss times ${metrics.lossScale} are not finite; half of that comes next`,
            );
          meter.step(metrics);
          over.tell(metrics.step, weights + arena);
        },
        skipped: (bad) => terminal.err(`left out: ${bad.place}: ${bad.reason}`),
        saved: (path, step) => terminal.progress(`step ${step} saved in ${path}`),
        async failed(error, runs) {
          if (!(error instanceof TrainingError)) return;
          terminal.err(`${error.message}; looking for where it began`);
          terminal.err(`  ${await whereFrom(program, trainer, runs, { ...from, device: place.device, threads: options.threads })}`);
        },
      },
    });
    terminal.done();
    terminal.out(options.json ? JSON.stringify(report(outcome, compiled, options, steps), null, 2) : reportText(outcome, options, steps));
    if (outcome.stopped)
      throw new CliError(
        1,
        `stopped after step ${outcome.step} of ${steps}; ${outcome.checkpoint === undefined ? "nothing was done" : "--resume goes on"}`,
      );
  } finally {
    terminal.done();
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  }
}

function seedOf(init: string | undefined): number | undefined {
  if (init === undefined) return undefined;
  const match = /^seeded:(\d{1,9})$/.exec(init);
  if (match === null) throw usageError(`--init takes seeded:N with a whole number N, found "${init}"`);
  return Number(match[1]);
}

function noWeights({ training }: TrainingArtefact): CliError {
  return new CliError(
    1,
    `${training.graph} has parameters, and nothing says where they begin\n  help: from nothing with --init seeded:1, or from a checkpoint with --weights FILE… (both: what the checkpoint lacks is made)`,
  );
}

/** All records that cannot be used, before anything is computed. */
function reportBad(records: RecordFile, options: TrainOptions, terminal: Terminal): void {
  const shown = records.bad.slice(0, 20).map((b) => `${b.place}: ${b.reason}`);
  const more = records.bad.length - shown.length;
  if (more > 0) shown.push(`and ${more} more`);
  if (records.bad.length > 0 && options.onBad === "stop")
    throw new TrainingDataError(`${shown.join("\n")}\n  help: --on-bad skip leaves them out`);
  for (const line of shown) terminal.err(`left out: ${line}`);
  if (records.lengths.length === 0) throw new TrainingDataError(`${records.name} has no record that can be trained on`);
}

async function templateNamed(tokenizer: Tokenizer, name: string | undefined): Promise<ChatTemplate> {
  const named = name === undefined ? await templateOf(tokenizer) : Object.hasOwn(chatTemplates, name) ? chatTemplates[name] : undefined;
  if (named !== undefined) return named;
  const known = Object.keys(chatTemplates).join(", ");
  throw usageError(
    name === undefined
      ? `the tokenizer brings no chat template; choose one with --template: ${known}`
      : `there is no chat template "${name}"; there are ${known}`,
  );
}

/** Every id needs a row of the table that ids choose from. */
function checkTable({ plan, training }: TrainingArtefact, tokenizer: Tokenizer): void {
  const tables = [...plan.params, ...training.parameters].filter((p) => p.name.endsWith("embed_tokens.weight"));
  for (const { shape } of tables) checkVocabulary(tokenizer, shape[0] ?? 0);
}

/** What must stay as it was for a training to go on equal to the bit. */
function settingsOf(
  { training, plan }: TrainingArtefact,
  records: RecordFile,
  options: TrainOptions,
  more: { readonly steps: number; readonly runs: number; readonly template: string; readonly device: string },
): Readonly<Record<string, string>> {
  const { parameters, graph, ...recipe } = training;
  return {
    graph,
    parameters: String(parameters.length),
    inputs: plan.inputs.map((i) => i.name).join(" "),
    recipe: JSON.stringify({ optimiser: recipe.optimiser, schedule: recipe.schedule, clip: recipe.clip ?? null }),
    ...(recipe.compute === undefined ? {} : { compute: JSON.stringify({ products: recipe.compute, scaling: recipe.scaling ?? null }) }),
    data: records.sha256,
    seed: String(options.seed),
    "bad records": options.onBad,
    steps: String(more.steps),
    batch: `${options.batch} in each of ${more.runs} runs`,
    template: more.template,
    device: more.device,
    ...(options.memory === undefined ? {} : { memory: [`${options.memory} bytes`, ...options.size].join(" ") }),
  };
}

/** The budget of --memory, for the sizes of --size or of the data's largest batches. */
async function budgetOf(
  program: Program,
  file: string,
  records: RecordFile,
  options: TrainOptions,
  sample: SampleOptions,
  terminal: Terminal,
): Promise<MemoryBudget | undefined> {
  const { memory: bytes, size, images, batch } = options;
  if (bytes === undefined) {
    if (size.length > 0) throw usageError("--size says for which sizes --memory holds: give --memory too");
    return undefined;
  }
  if (options.device === "reference") throw usageError("--memory is of devices; the evaluator keeps every value");
  if (size.length > 0) return { bytes, sizes: (plan) => [givenSizes(plan, { size })] };
  const { largestBatches } = await import("../train-sizes.ts");
  const cutter = cutterOf(program, file).plan;
  const onProgress = (done: number, total: number): void => terminal.progress(`sizes of ${done} of ${total} records`);
  const sizes = await largestBatches(records, { ...sample, images, perRun: batch, cutter, onProgress });
  terminal.done();
  return { bytes, sizes };
}

/** Says once that a step holds more than was planned: its batch is larger than those that the budget was made for. */
class OverBudget {
  #bytes: number;
  readonly #terminal: Terminal;

  constructor(bytes: number | undefined, terminal: Terminal) {
    this.#bytes = bytes ?? Infinity;
    this.#terminal = terminal;
  }

  tell(step: number, held: number): void {
    if (held <= this.#bytes) return;
    this.#terminal.err(`step ${step} holds ${bytesText(held)}, more than --memory: its batch is larger than those it was planned for`);
    this.#bytes = Infinity;
  }
}

function cutterOf(program: Program, file: string): Compiled {
  const graph = program.graphs.get("pictures");
  if (graph === undefined)
    throw new CliError(1, `${file} has no graph pictures(image: u8[H, W, 3]) -> patches: u8[N, 3, 14, 14], which cuts the images`);
  const compiled = compileGraph(graph);
  const [input, ...others] = compiled.plan.inputs.map((i) => i.name);
  if (input !== "image" || others.length > 0 || compiled.plan.params.length > 0 || compiled.plan.outputs[0]?.name !== "patches")
    throw new CliError(1, `the graph pictures of ${file} must take an image alone, have no parameters and give patches`);
  return compiled;
}

/** The file's graph `pictures`, which cuts images into patches, on a thread of its own device. */
class Cutter implements AsyncDisposable {
  readonly #session: Session;

  private constructor(session: Session) {
    this.#session = session;
  }

  static async create(program: Program, file: string): Promise<Cutter> {
    return new Cutter(await Session.create(cutterOf(program, file), { threads: 1 }));
  }

  async cut(image: Tensor<"u8">): Promise<Tensor<"u8">> {
    const { patches } = (await this.#session.run({ image })).outputs;
    if (patches?.dtype !== "u8") throw new InputError("the graph pictures gives no u8 patches");
    return { dtype: "u8", shape: patches.shape, data: new Uint8Array(patches.data) };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#session.close();
  }
}

async function whereFrom(
  program: Program,
  trainer: TrainerApi,
  runs: readonly Inputs[],
  from: {
    readonly device: Device | undefined;
    readonly threads: number | undefined;
    readonly weights: { readonly from: readonly string[]; readonly extra: "ignore" | "refuse" } | undefined;
    readonly init: { readonly seed: number } | undefined;
  },
): Promise<string> {
  const { findNonFinite } = await import("../nonfinite.ts");
  const source = program.train === undefined ? undefined : program.graphs.get(program.train.graph);
  if (source === undefined || program.train === undefined) return "the graph is not to be had";
  const { graph, backward, recipe } = trainingGraph(source, program.train);
  return findNonFinite({
    graph,
    recipe,
    backward,
    tensors: await trainer.tensors(),
    runs,
    session: { ...from, ...(from.weights === undefined ? {} : { weights: { ...from.weights, extra: "ignore" } }) },
  });
}

/** The line of progress: on a terminal at each step, elsewhere now and then. */
class Meter {
  readonly #steps: number;
  readonly #terminal: Terminal;
  #from = 0;
  #started = performance.now();
  #tokens = 0;
  #mean: number | undefined;
  #said = 0;

  constructor(steps: number, terminal: Terminal) {
    this.#steps = steps;
    this.#terminal = terminal;
  }

  begin(step: number): void {
    this.#from = step;
    this.#started = performance.now();
  }

  step(m: StepMetrics): void {
    this.#tokens += m.tokens;
    this.#mean = this.#mean === undefined ? m.loss : this.#mean + (m.loss - this.#mean) * 0.1;
    const seconds = (performance.now() - this.#started) / 1000;
    const left = (seconds / (m.step - this.#from)) * (this.#steps - m.step);
    const bar = "█".repeat(Math.round((m.step / this.#steps) * 20)).padEnd(20, "░");
    const text =
      `${bar} step ${m.step} of ${this.#steps}, loss ${m.loss.toFixed(4)} (mean ${this.#mean.toFixed(4)}), rate ${m.learningRate.toExponential(2)}, ` +
      `${countText(Math.round(this.#tokens / seconds))} tokens/s, ${millisecondsText(m.milliseconds)} a step, ${timeText(left)} left`;
    if (this.#terminal.live === true) this.#terminal.progress(text);
    else if (m.step === this.#steps || seconds - this.#said >= 10) {
      this.#said = seconds;
      this.#terminal.err(text);
    }
  }
}

/** 3725 → "1:02:05". */
function timeText(seconds: number): string {
  const s = Math.round(seconds);
  const parts = [Math.floor(s / 3600), Math.floor(s / 60) % 60, s % 60];
  return parts.map((n, i) => (i === 0 ? String(n) : String(n).padStart(2, "0"))).join(":");
}

const unchanged = (metrics: readonly StepMetrics[]): number => metrics.filter((m) => m.gradientNorm === null).length;

function meanLoss(metrics: readonly StepMetrics[]): number | undefined {
  const last = metrics.slice(-Math.max(1, Math.ceil(metrics.length / 20)));
  return last.length === 0 ? undefined : last.reduce((sum, m) => sum + m.loss, 0) / last.length;
}

function report(outcome: TrainingOutcome, { training }: TrainingArtefact, options: TrainOptions, steps: number) {
  return {
    ok: !outcome.stopped,
    graph: training.graph,
    step: outcome.step,
    steps,
    loss: meanLoss(outcome.metrics) ?? null,
    skipped: outcome.skipped,
    /** Steps that changed nothing because their gradients were not finite at the scale of the loss. */
    stepsWithoutChange: unchanged(outcome.metrics),
    checkpoint: outcome.checkpoint ?? null,
    model: outcome.model ?? null,
    out: options.out,
  };
}

function reportText(outcome: TrainingOutcome, options: TrainOptions, steps: number): string {
  const loss = meanLoss(outcome.metrics);
  const lines: [string, string][] = [
    ["steps", `${outcome.step} of ${steps}`],
    ["loss", loss === undefined ? "none" : `${loss.toFixed(4)}, mean of the last twentieth of the steps`],
  ];
  const idle = unchanged(outcome.metrics);
  if (idle > 0) lines.push(["unchanged", `${idle} steps: their gradients were not finite at the scale of the loss`]);
  if (outcome.skipped > 0) lines.push(["left out", `${outcome.skipped} records, listed in ${options.out}/skipped.jsonl`]);
  if (outcome.checkpoint !== undefined) lines.push(["saved", outcome.checkpoint]);
  if (outcome.model !== undefined) lines.push(["model", outcome.model]);
  lines.push(["figures", `${options.out}/metrics.jsonl, ${options.out}/loss.png`]);
  return lines.map(([name, value]) => `${name.padEnd(9)} ${value}`).join("\n");
}
