// uhdc run: a photo, or tensors, through a graph. Compiles the file (or loads the artefact), loads or makes weights, runs
// once, and writes the outputs and, of slices, a contact sheet; with --prompt, a graph with a language model answers instead
// (prompt.ts). Everything that can be refused is refused before weights are loaded. Ctrl-C stops it at any time and leaves
// no file.

import { statSync } from "node:fs";
import { basename, dirname } from "node:path";
import { loadArtefact, type Artefact } from "../../../runtime/artefact.ts";
import type { Device } from "../../../runtime/device.ts";
import type { ChosenDevice } from "../../../runtime/devices/choose.ts";
import type { Photo } from "../../../runtime/images/decode.ts";
import { contactSheet } from "../../../runtime/images/contact-sheet.ts";
import { withChannels } from "../../../runtime/images/picture.ts";
import { Layout } from "../../../runtime/layout.ts";
import { checkMemory } from "../../../runtime/memory.ts";
import { machineMemory } from "../../../runtime/platform.ts";
import { Session, type Progress } from "../../../runtime/session.ts";
import type { Tensor } from "../../../runtime/tensor.ts";
import type { WeightsOptions } from "../../../runtime/weights/load.ts";
import { encodeSafetensors } from "../../../runtime/weights/safetensors.ts";
import { weightsMemory } from "../../ir/plan/memory.ts";
import type { Graph } from "../../ir/graph/types.ts";
import type { Plan } from "../../ir/plan/types.ts";
import type { CompilingOptions } from "../compiling.ts";
import { openDevice, targetOf, targetsOf, tellDevice, type DeviceName } from "../device.ts";
import { CliError, usageError } from "../errors.ts";
import { layoutOf, type LayoutSummary } from "../layout.ts";
import { writeFiles } from "../output.ts";
import { profileRows, traceJson, type HostSpan } from "../profile.ts";
import { hasInputs, runInputs, type InputOptions, type RunInputs } from "../run-inputs.ts";
import { reportText, summaryOf, typesOf, type RunReport } from "../run-report.ts";
import { type Terminal } from "../terminal.ts";
import { bytesText } from "../../ir/text.ts";
import { isWrong } from "../verified.ts";
import { prefixOf, seedOf } from "../weights.ts";
import { unwatched } from "../../watched.ts";
import { answerPrompt } from "./prompt.ts";

export interface RunOptions extends CompilingOptions, InputOptions {
  /** What is asked of a graph with a language model. */
  readonly prompt?: string;
  readonly system?: string;
  readonly tokenizer?: string;
  readonly template?: string;
  readonly maxTokens?: number;
  readonly out: string;
  readonly weights?: readonly string[];
  /** `PREFIX` or `FROM=TO`, each. */
  readonly weightsPrefix: readonly string[];
  readonly ignoreExtra: boolean;
  /** `seeded:N` */
  readonly init?: string;
  readonly threads?: number;
  readonly device: DeviceName;
  /** Run twice, and measure each kernel of the second run. */
  readonly profile: boolean;
  /** Compare what each kernel wrote with the references. */
  readonly verify: boolean;
  /** The same as a file for Chrome's viewer. */
  readonly trace?: string;
}

export async function run(file: string, options: RunOptions, terminal: Terminal): Promise<void> {
  const seed = seedOf(options.init);
  const weights = weightsOf(options);
  if (options.threads === 0) throw usageError("--threads takes 1 or more");
  checkAsked(options);
  if (options.device === "reference") return runOnReference(file, { ...options, device: "reference", weights, seed }, terminal);
  const folder = statSync(file, { throwIfNoEntry: false })?.isDirectory() === true;
  if (folder) refuseCompiling(file, options);
  const compiling = { ...options, watch: options.verify };
  const clock = new Clock();
  const loaded = folder ? await clock.timed("load", () => loadArtefact(file)) : undefined;
  const chosen = await openDevice(options.device, options.threads, loaded === undefined ? undefined : targetsOf(loaded));
  const { device } = chosen;
  try {
    const artefact: Runnable = loaded ?? (await compiledFor(file, compiling, device, clock, terminal));
    const { plan } = artefact;
    if (weights === undefined && seed === undefined && plan.params.length > 0) throw noWeights(plan);
    if (options.prompt !== undefined) {
      if (options.profile || options.verify || options.trace !== undefined)
        throw usageError("--profile, --verify and --trace are for runs without a prompt");
      if (!options.json) tellDevice(options.device, chosen, terminal);
      return await answerPrompt(artefact, { ...options, device, weights, seed }, terminal);
    }
    const given = await clock.timed("inputs", () => runInputs(plan, options));
    if (!options.json) tellDevice(options.device, chosen, terminal);
    await runOnce(artefact, given, chosen, { ...options, weights, seed }, clock, terminal);
  } finally {
    terminal.done();
    await device.close();
  }
}

type RunSettings = Omit<RunOptions, "weights"> & { readonly weights: WeightsOptions | undefined; readonly seed: number | undefined };

/** Loads weights, runs, writes. */
async function runOnce(
  artefact: Runnable,
  given: RunInputs,
  { device, why }: ChosenDevice,
  options: RunSettings,
  clock: Clock,
  terminal: Terminal,
): Promise<void> {
  const { plan } = artefact;
  const { seed, weights } = options;
  const { inputs } = given;
  await untilStopped(async (signal) => {
    const available = device.hostMemory ? Math.min(await machineMemory(), device.capacity) : device.capacity;
    const layout = new Layout(plan, given.shapes, given.given, undefined, device.alignment);
    checkMemory(plan, layout, weightsMemory(plan).kept, available);
    await using session = await clock.timed("weights", () =>
      Session.create(artefact, {
        device,
        weights,
        init: seed === undefined ? undefined : { seed },
        signal,
        onProgress: ({ done, total }) => terminal.progress(`weights ${bytesText(done)} of ${bytesText(total)}`),
      }),
    );
    const onProgress = ({ done, total }: Progress): void => terminal.progress(`step ${done} of ${total}`);
    const profile = options.profile || options.trace !== undefined;
    // The first run of a kernel may include its compilation.
    if (profile) await clock.timed("first run", () => session.run(inputs, { signal, onProgress, profile }));
    const states = new Map<string, Tensor>();
    if (options.verify) for (const { name } of plan.states) states.set(name, await session.readState(name));
    const begin = performance.now();
    const result = await clock.timed("run", () => session.run(inputs, { signal, onProgress, profile }));
    const { own, values } = unwatched(result.outputs);
    const { graph } = artefact;
    const verified =
      graph === undefined || !options.verify
        ? undefined
        : await clock.timed("verify", async () => {
            const onProgress = (done: number, total: number): void => terminal.progress(`verified ${done} of ${total} values`);
            return (await import("../verifying.ts")).verify({ graph, plan, given, states, values, weights, seed, onProgress, signal });
          });
    terminal.done();
    const slicing = layoutOf(result.host);
    const trace = options.trace;
    if (trace !== undefined) {
      const text = traceJson(plan, result, device.description ?? device.kind, clock.spans, begin);
      await writeFiles(dirname(trace), new Map([[basename(trace), [new TextEncoder().encode(text)]]]), signal);
    }
    const files = await clock.timed("write", () => writeResults(plan.name, given, slicing, own, session.untrained, options, signal));
    const report: RunReport = {
      ...headOf(plan, given, slicing),
      outputs: summaryOf(own),
      untrained: session.untrained.length > 0,
      parameters: { total: plan.params.length, untrained: session.untrained.length, ...(seed === undefined ? {} : { seed }) },
      device: {
        kind: device.kind,
        threads: device.threads,
        ...(device.description === undefined ? {} : { description: device.description }),
        why,
      },
      // performance.now() counts from the start of the process.
      milliseconds: { ...clock.times, stages: result.stages, total: performance.now() },
      memory: { ...result.memory, peakRss: peakRss() },
      ...(options.profile ? { profile: profileRows(plan, result) } : {}),
      ...(verified === undefined ? {} : { verified }),
      files: trace === undefined ? files : [...files, trace],
    };
    terminal.out(options.json ? JSON.stringify(report, null, 2) : reportText(report));
    const wrong = verified?.filter(isWrong).length ?? 0;
    if (wrong > 0)
      throw new CliError(
        3,
        `${device.kind} computes ${wrong} of ${values.size} values wrongly\n` +
          "  help: --no-fuse and --fusion-gas N tell whether fusion makes them wrong, another --device whether this one does",
      );
  });
}

/** In float64, by the references of the op table. */
async function runOnReference(file: string, options: RunSettings, terminal: Terminal): Promise<void> {
  if (options.prompt !== undefined) throw usageError("--device reference runs a graph once: --prompt is for the others");
  if (options.profile || options.trace !== undefined) throw usageError("--device reference has no kernels to measure");
  if (options.verify) throw usageError("--device reference is what --verify compares the others with");
  if (statSync(file, { throwIfNoEntry: false })?.isDirectory() === true)
    throw usageError(`${file} is compiled: --device reference takes the .uhd file`);
  const clock = new Clock();
  const [{ compileFileFor }, { runReference }] = await Promise.all([import("../compiling.ts"), import("../reference.ts")]);
  const { graph, compiled, milliseconds } = compileFileFor(file, options, { target: "wasm" }, terminal);
  Object.assign(clock.times, milliseconds);
  const { plan } = compiled;
  const { seed, weights } = options;
  if (weights === undefined && seed === undefined && plan.params.length > 0) throw noWeights(plan);
  const given = await clock.timed("inputs", () => runInputs(plan, options));
  await untilStopped(async (signal) => {
    const result = await clock.timed("run", () => runReference(graph, plan, given, weights, seed, signal));
    const slicing = layoutOf(result.host);
    const files = await clock.timed("write", () =>
      writeResults(plan.name, given, slicing, result.outputs, result.untrained, options, signal),
    );
    const report: RunReport = {
      ...headOf(plan, given, slicing),
      outputs: summaryOf(result.outputs),
      untrained: result.untrained.length > 0,
      parameters: { total: plan.params.length, untrained: result.untrained.length, ...(seed === undefined ? {} : { seed }) },
      device: { kind: "reference", threads: 1, why: "reference, float64: as asked" },
      milliseconds: { ...clock.times, stages: [], total: performance.now() },
      memory: { weights: 0, arena: 0, peakRss: peakRss() },
      files,
    };
    terminal.out(options.json ? JSON.stringify(report, null, 2) : reportText(report));
  });
}

function headOf(
  plan: Plan,
  { inputs, photo }: RunInputs,
  layout: LayoutSummary | undefined,
): Pick<RunReport, "ok" | "name" | "image" | "inputs" | "tokens" | "pictures" | "layout"> {
  return {
    ok: true,
    name: plan.name,
    image: photo === undefined ? null : { path: photo.path, ...sizeOf(photo.picture) },
    inputs: typesOf(tensorsOf(plan, inputs)),
    tokens: layout?.tokens ?? null,
    pictures: layout?.pictures.length ?? null,
    layout: layout ?? null,
  };
}

function peakRss(): number {
  return process.resourceUsage().maxRSS * 1024;
}

const sizeOf = ({ width, height, format }: Photo) => ({ width, height, format });

function tensorsOf(plan: Plan, inputs: RunInputs["inputs"]): Readonly<Record<string, Tensor>> {
  // They are tensors: the inputs were checked.
  return Object.fromEntries(plan.inputs.map(({ name }) => [name, inputs[name] as Tensor]));
}

/** What was compiled just now has its graph still. */
type Runnable = Artefact & { readonly graph?: Graph };

/** Runs `work` with a signal that Ctrl-C and SIGTERM abort. */
async function untilStopped(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  try {
    await work(abort.signal);
  } finally {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  }
}

/** What the time went to, by what was done. */
class Clock {
  readonly times: Record<string, number> = {};
  readonly spans: HostSpan[] = [];
  async timed<R>(name: string, work: () => Promise<R>): Promise<R> {
    const begin = performance.now();
    const result = await work();
    const milliseconds = performance.now() - begin;
    this.times[name] = milliseconds;
    this.spans.push({ name, begin, milliseconds });
    return result;
  }
}

async function writeResults(
  graph: string,
  { photo }: RunInputs,
  layout: LayoutSummary | undefined,
  results: Readonly<Record<string, Tensor>>,
  untrained: readonly string[],
  options: RunSettings,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const outputs = new Map(Object.entries(results));
  const contents = new Map([[outputsFile(outputs), encodeSafetensors(outputs, metadata(graph, photo?.path, untrained))]]);
  if (layout !== undefined && photo !== undefined)
    contents.set("contact-sheet.png", [await contactSheet({ photo: withChannels(photo.picture, 3), ...sheetOf(layout) })]);
  return writeFiles(options.out, contents, signal);
}

/** What is asked fits together. */
function checkAsked(options: RunOptions): void {
  const { prompt, tokenizer, template, system, maxTokens, input = [], size } = options;
  if (prompt !== undefined) {
    if (input.length + size.length > 0)
      throw usageError("--input and --size are for runs without --prompt, whose inputs are the words and photos");
    return;
  }
  if ([tokenizer, template, system, maxTokens].some((option) => option !== undefined))
    throw usageError("--tokenizer, --template, --system and --max-tokens go with --prompt");
  if (!hasInputs(options))
    throw usageError("give a photo with --image FILE, tensors with --input FILE, or ask something with --prompt TEXT");
}

function weightsOf(options: RunOptions): WeightsOptions | undefined {
  if (options.weights === undefined) {
    if (options.weightsPrefix.length > 0 || options.ignoreExtra)
      throw usageError("--weights-prefix and --ignore-extra describe a checkpoint: give --weights too");
    return undefined;
  }
  return {
    from: options.weights,
    prefix: prefixOf(options.weightsPrefix),
    extra: options.ignoreExtra ? "ignore" : "refuse",
  };
}

function noWeights(plan: Plan): CliError {
  return new CliError(
    1,
    `${plan.name} has ${plan.params.length} parameters and no weights were given\n` +
      "  help: give a checkpoint with --weights FILE…, or try it with random ones: --init seeded:1 (what comes out then means nothing)",
  );
}

function refuseCompiling(folder: string, options: RunOptions): void {
  if (options.graph !== undefined || options.set.length > 0 || !options.fuse || options.fusionGas !== undefined)
    throw usageError(`${folder} is compiled already: --graph, --set, --no-fuse and --fusion-gas are for .uhd files`);
  if (options.verify) throw usageError(`${folder} is compiled already: --verify takes the .uhd file, which says what is meant`);
  if (options.quantise !== undefined || options.activations !== undefined)
    throw usageError(`${folder} is compiled already: --quantise and --activations are for .uhd files`);
}

/** With what the device's adapter has. */
async function compiledFor(file: string, options: CompilingOptions, device: Device, clock: Clock, terminal: Terminal): Promise<Runnable> {
  // The compiler is loaded for files only: an artefact runs without it.
  const { compileFileFor } = await import("../compiling.ts");
  const { compiled, milliseconds } = compileFileFor(file, options, targetOf(device), terminal);
  Object.assign(clock.times, milliseconds);
  return compiled;
}

/** `visual.safetensors` for a graph with that output; `outputs.safetensors` when there are several. */
function outputsFile(outputs: ReadonlyMap<string, Tensor>): string {
  const [only, ...others] = outputs.keys();
  return only !== undefined && others.length === 0 ? `${only}.safetensors` : "outputs.safetensors";
}

function metadata(graph: string, image: string | undefined, untrained: readonly string[]): Readonly<Record<string, string>> {
  return { graph, ...(image === undefined ? {} : { image }), ...(untrained.length > 0 ? { untrained: "true" } : {}) };
}

function sheetOf({ grid, pictures }: LayoutSummary): Omit<Parameters<typeof contactSheet>[0], "photo"> {
  const picture = (p: LayoutSummary["pictures"][number]) => ({ k: "crop", box: p.box, width: p.px[0], height: p.px[1] }) as const;
  const overview = pictures.find((p) => p.kind === "overview");
  return {
    grid: { columns: grid[0], rows: grid[1] },
    slices: pictures.filter((p) => p.kind === "slice").map(picture),
    overview: overview === undefined ? undefined : picture(overview),
  };
}
