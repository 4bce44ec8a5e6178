// uhdc run: a photo through a graph. Compiles the file (or loads the artefact), loads or makes weights, runs once, and
// writes the outputs and a contact sheet of the pictures; with --prompt, a graph with a language model answers instead
// (prompt.ts). Everything that can be refused is refused before weights
// are loaded. Ctrl-C stops it at any time and leaves no file.

import { statSync } from "node:fs";
import { loadArtefact, type Artefact } from "../../../runtime/artefact.ts";
import { WasmDevice } from "../../../runtime/devices/wasm/device.ts";
import { contactSheet } from "../../../runtime/images/contact-sheet.ts";
import { decodeImage } from "../../../runtime/images/decode.ts";
import { withChannels } from "../../../runtime/images/picture.ts";
import { Layout } from "../../../runtime/layout.ts";
import { checkMemory } from "../../../runtime/memory.ts";
import { machineMemory } from "../../../runtime/platform.ts";
import { weightsMemory } from "../../../runtime/prepare.ts";
import { Session, type RunResult } from "../../../runtime/session.ts";
import { typeText, type Tensor } from "../../../runtime/tensor.ts";
import type { WeightsOptions } from "../../../runtime/weights/load.ts";
import { encodeSafetensors } from "../../../runtime/weights/safetensors.ts";
import type { Plan } from "../../ir/plan/types.ts";
import type { CompilingOptions } from "../compiling.ts";
import { CliError, usageError } from "../errors.ts";
import { layoutOf, picturesText, type LayoutSummary } from "../layout.ts";
import { writeFiles } from "../output.ts";
import { bytesText, millisecondsText, type Terminal } from "../terminal.ts";
import { prefixOf, seedOf } from "../weights.ts";
import { answerPrompt } from "./prompt.ts";

export interface RunOptions extends CompilingOptions {
  readonly image?: readonly string[];
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
  readonly device: "auto" | "wasm";
}

export async function run(file: string, options: RunOptions, terminal: Terminal): Promise<void> {
  const seed = seedOf(options.init);
  const weights = weightsOf(options);
  if (options.threads === 0) throw usageError("--threads takes 1 or more");
  const times: Record<string, number> = {};
  const timed = async <R>(stage: string, work: () => Promise<R>): Promise<R> => {
    const begin = performance.now();
    const result = await work();
    times[stage] = performance.now() - begin;
    return result;
  };
  const path = options.prompt === undefined ? onlyImage(options) : undefined;
  const artefact = await loadOrCompile(file, options, times, terminal);
  const { plan } = artefact;
  if (path === undefined) {
    if (weights === undefined && seed === undefined && plan.params.length > 0) throw noWeights(plan);
    return answerPrompt(artefact, { ...options, weights, seed }, terminal);
  }
  const input = imageInput(plan);
  if (weights === undefined && seed === undefined && plan.params.length > 0) throw noWeights(plan);

  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  const { signal } = abort;
  // "auto" is the WebAssembly device, which every machine has.
  const device = await WasmDevice.create({ threads: options.threads });
  try {
    const photo = await timed("decode", () => decodeImage(path));
    const image = withChannels(photo, input.channels);
    const inputs = { [input.name]: image };
    const available = Math.min(await machineMemory(), device.capacity);
    checkMemory(plan, new Layout(plan, { [input.name]: image.shape }), weightsMemory(plan).kept, available);
    await using session = await timed("weights", () =>
      Session.create(artefact, {
        device,
        weights,
        init: seed === undefined ? undefined : { seed },
        signal,
        onProgress: ({ done, total }) => terminal.progress(`weights ${bytesText(done)} of ${bytesText(total)}`),
      }),
    );
    const result = await timed("run", () =>
      session.run(inputs, { signal, onProgress: ({ done, total }) => terminal.progress(`step ${done} of ${total}`) }),
    );
    terminal.done();
    const layout = layoutOf(result.host);
    const files = await timed("write", async () => {
      const outputs = new Map(Object.entries(result.outputs));
      const contents = new Map([[outputsFile(outputs), encodeSafetensors(outputs, metadata(plan, path, session.untrained))]]);
      if (layout !== undefined)
        contents.set("contact-sheet.png", [await contactSheet({ photo: withChannels(photo, 3), ...sheetOf(layout) })]);
      return writeFiles(options.out, contents, signal);
    });
    const report = {
      ok: true,
      name: plan.name,
      image: { path, width: photo.width, height: photo.height, format: photo.format },
      tokens: layout?.tokens ?? null,
      pictures: layout?.pictures.length ?? null,
      layout: layout ?? null,
      outputs: Object.fromEntries(Object.entries(result.outputs).map(([name, t]) => [name, { dtype: t.dtype, shape: t.shape }])),
      untrained: session.untrained.length > 0,
      parameters: { total: plan.params.length, untrained: session.untrained.length, ...(seed === undefined ? {} : { seed }) },
      device: { kind: device.kind, threads: device.threads },
      // performance.now() counts from the start of the process.
      milliseconds: { ...times, stages: result.stages, total: performance.now() },
      memory: { ...result.memory, peakRss: process.resourceUsage().maxRSS * 1024 },
      files,
    };
    terminal.out(options.json ? JSON.stringify(report, null, 2) : reportText(report, layout, result, times));
  } finally {
    terminal.done();
    await device.close();
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  }
}

/** The one photo of a run without a prompt. */
function onlyImage({ image = [], tokenizer, template, system, maxTokens }: RunOptions): string {
  if ([tokenizer, template, system, maxTokens].some((option) => option !== undefined))
    throw usageError("--tokenizer, --template, --system and --max-tokens go with --prompt");
  const [only, ...others] = image;
  if (only === undefined) throw usageError("give a photo with --image FILE, or ask something with --prompt TEXT");
  if (others.length > 0) throw usageError(`a run takes one photo, and here are ${image.length}; with --prompt there may be several`);
  return only;
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

async function loadOrCompile(file: string, options: RunOptions, times: Record<string, number>, terminal: Terminal): Promise<Artefact> {
  const begin = performance.now();
  if (statSync(file, { throwIfNoEntry: false })?.isDirectory() === true) {
    if (options.graph !== undefined || options.set.length > 0 || !options.fuse || options.fusionGas !== undefined)
      throw usageError(`${file} is compiled already: --graph, --set, --no-fuse and --fusion-gas are for .uhd files`);
    const artefact = await loadArtefact(file);
    times["load"] = performance.now() - begin;
    return artefact;
  }
  // The compiler is loaded for files only: an artefact runs without it.
  const { compileFile } = await import("../compiling.ts");
  const { compiled, milliseconds } = compileFile(file, options, terminal);
  Object.assign(times, milliseconds);
  return compiled;
}

/** The one input of the graph, which must hold a photo. */
function imageInput(plan: Plan): { readonly name: string; readonly channels: number } {
  const [only, ...others] = plan.inputs;
  const buffer = only === undefined ? undefined : plan.buffers[only.buffer];
  const channels = Number(buffer?.shape[2]);
  if (only === undefined || others.length > 0 || buffer?.dtype !== "u8" || buffer.shape.length !== 3 || ![3, 4].includes(channels)) {
    const found = plan.inputs.map(
      ({ name, buffer: id }) => `${name}: ${typeText(plan.buffers[id]?.dtype ?? "", plan.buffers[id]?.shape ?? [])}`,
    );
    throw new CliError(
      1,
      `uhdc run gives a graph one image, u8[height, width, 3 or 4], and ${plan.name} has ${found.join(", ") || "no input"}; ${
        plan.inputs.some(({ name }) => name === "ids" || name === "rows")
          ? "ask a language model with --prompt"
          : "use the runtime for other inputs"
      }`,
    );
  }
  return { name: only.name, channels };
}

/** `visual.safetensors` for a graph with that output; `outputs.safetensors` when there are several. */
function outputsFile(outputs: ReadonlyMap<string, Tensor>): string {
  const [only, ...others] = outputs.keys();
  return only !== undefined && others.length === 0 ? `${only}.safetensors` : "outputs.safetensors";
}

function metadata(plan: Plan, image: string, untrained: readonly string[]): Readonly<Record<string, string>> {
  return { graph: plan.name, image, ...(untrained.length > 0 ? { untrained: "true" } : {}) };
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

interface Report {
  readonly image: { readonly path: string; readonly width: number; readonly height: number };
  readonly parameters: { readonly total: number; readonly untrained: number; readonly seed?: number };
  readonly device: { readonly kind: string; readonly threads: number };
  readonly milliseconds: { readonly total: number };
  readonly memory: { readonly weights: number; readonly arena: number; readonly peakRss: number };
  readonly files: readonly string[];
}

function reportText(report: Report, layout: LayoutSummary | undefined, result: RunResult, times: Readonly<Record<string, number>>): string {
  const { image, parameters, device, memory } = report;
  const lines: [string, string][] = [["photo", `${image.path}, ${image.width}×${image.height}`]];
  if (layout !== undefined) {
    lines.push(["grid", `${layout.grid[0]}×${layout.grid[1]}${layout.pictures.length === 1 ? ", not sliced" : ""}`]);
    lines.push(["pictures", `${layout.pictures.length}: ${picturesText(layout.pictures)}`]);
    lines.push(["tokens", `${layout.tokens}, separators not counted`]);
  }
  for (const [name, tensor] of Object.entries(result.outputs)) lines.push([name, typeText(tensor.dtype, tensor.shape)]);
  if (parameters.untrained > 0) {
    const share = parameters.untrained === parameters.total ? "all" : `${parameters.untrained} of`;
    lines.push([
      "weights",
      `untrained: ${share} ${parameters.total} parameters are random, from seed ${parameters.seed ?? 0}; the numbers mean nothing`,
    ]);
  }
  const text = (entries: readonly (readonly [string, number])[]): string =>
    entries.map(([name, ms]) => `${name} ${millisecondsText(ms)}`).join(", ");
  lines.push(["times", `${text(Object.entries(times))}; ${millisecondsText(report.milliseconds.total)} since the process started`]);
  lines.push([
    "run",
    `${text(result.stages.map((s) => [s.stage, s.milliseconds]))}, on ${device.kind} with ${device.threads} thread${device.threads === 1 ? "" : "s"}`,
  ]);
  lines.push([
    "memory",
    `weights ${bytesText(memory.weights)}, arena ${bytesText(memory.arena)}, most resident ${bytesText(memory.peakRss)}`,
  ]);
  lines.push(["wrote", report.files.join(", ")]);
  return lines.map(([name, value]) => `${name.padEnd(9)} ${value}`).join("\n");
}
