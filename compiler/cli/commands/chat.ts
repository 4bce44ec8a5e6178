// uhdc chat: a language model answers, with photos where its checkpoint has a projector. One question with --prompt, or a
// conversation, one line a turn. The graph is graphs/llama.uhd, graphs/llama-chat.uhd where tokens are drawn or searched, or
// graphs/llava-uhd-chat.uhd for photos, at the checkpoint's sizes. Ctrl-C stops the answer; at the prompt it ends the program.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline/promises";
import type { Artefact } from "../../../runtime/artefact.ts";
import { ImageError, messageOf, TextError } from "../../../runtime/errors.ts";
import { pixelsOf, type Picture } from "../../../runtime/images/picture.ts";
import { load, type Model } from "../../../runtime/model/load.ts";
import { continuationCount } from "../../../runtime/generate/beams.ts";
import type { Message } from "../../../runtime/text/chat.ts";
import { loadProgram } from "../../check/index.ts";
import { printAnswer, tellUntrained } from "../answering.ts";
import { assignments } from "../assignments.ts";
import { compileFor, type TargetOptions } from "../compiling.ts";
import { openDevice, targetOf, tellDevice, type RealDevice } from "../device.ts";
import { CliError, usageError } from "../errors.ts";
import { chooseTemplate, describeModel, hasProjector, packagedGraph, turnWith } from "../language-model.ts";
import { asInFile, quantisingOf, type QuantisingOptions } from "../quantising.ts";
import { asksForMore, generateOptionsOf, type SamplingOptions } from "../sampling.ts";
import { prefixOf, seedOf } from "../weights.ts";
import { type Terminal } from "../terminal.ts";
import { bytesText } from "../../ir/text.ts";

export interface ChatOptions extends QuantisingOptions, SamplingOptions {
  readonly prompt?: string;
  readonly image?: readonly string[];
  readonly system?: string;
  readonly template?: string;
  readonly maxTokens: number;
  readonly context?: number;
  /** Checkpoints of the vision encoder and the projector. */
  readonly vision?: readonly string[];
  readonly weightsPrefix: readonly string[];
  /** `seeded:N` */
  readonly init?: string;
  readonly set: readonly string[];
  readonly threads?: number;
  readonly device: RealDevice;
  readonly ignoreExtra: boolean;
  readonly json: boolean;
}

export async function chat(model: string, options: ChatOptions, terminal: Terminal): Promise<void> {
  if (options.threads === 0) throw usageError("--threads takes 1 or more");
  const seed = seedOf(options.init);
  const { config, tokenizer, context: trained } = await describeModel(model);
  const template = await chooseTemplate(tokenizer, options.template);
  // The cache is as long as the context and made at the start, so it is short unless more is asked for.
  const context = options.context ?? Math.min(trained, 2048);
  if (context > trained) throw usageError(`--context ${context} is more than the model was trained for, ${trained}`);
  const sees = await withPictures(model, options);
  const { beams = 1 } = options;
  if (beams > 1 && (options.temperature ?? 0) > 0)
    throw usageError("--beams searches for the likeliest answer: it goes without --temperature");
  // What draws and searches takes room and time to compile, so it is there only where it is asked for.
  const kind = sees ? "photos" : asksForMore(options) ? "chosen" : "text";
  const sequences = { sequences: String(beams), candidates: String(continuationCount(beams, tokenizer.ends.length)) };
  const chosen = await openDevice(options.device, options.threads);
  await using device = chosen.device;
  const target = targetOf(device);
  const packed = options.quantise === undefined ? { quantise: await asInFile(model) } : {};
  const quantising = { ...quantisingOf(options), ...packed };
  const sizes = { ...config, context: String(context), ...(kind === "text" ? {} : sequences), ...assignments(options.set, "--set") };
  const compiled = compiledGraph(kind, sizes, target, quantising);
  if (!options.json) tellDevice(options.device, chosen, terminal);
  await using language = await load({
    graph: compiled,
    model,
    vision: options.vision,
    prefix: prefixOf(options.weightsPrefix),
    // A tensor that the graph has no use for may be one that the model does not work without.
    extra: options.ignoreExtra ? "ignore" : "refuse",
    init: seed === undefined ? undefined : { seed },
    tokenizer,
    template,
    device,
    onProgress: ({ done, total }) => terminal.progress(`weights ${bytesText(done)} of ${bytesText(total)}`),
  });
  terminal.done();
  tellUntrained(language, terminal);
  const conversation = new Conversation(language, options, terminal);
  if (options.prompt !== undefined) await conversation.say(options.prompt, options.image ?? []);
  else await converse(conversation, terminal);
}

/** Whether photos can be shown: they are, or their parameters are given. */
async function withPictures(model: string, options: ChatOptions): Promise<boolean> {
  if (options.vision !== undefined || (await hasProjector(model))) return true;
  if (options.image === undefined) return false;
  if (options.init === undefined)
    throw new CliError(
      1,
      `${model} has no projector, so its language model does not see\n` +
        "  help: give the vision encoder and the projector with --vision FILE…, or try random ones: --init seeded:1 (answers then mean nothing)",
    );
  return true;
}

const graphs = {
  text: ["llama.uhd", "llama"],
  chosen: ["llama-chat.uhd", "llama_chat"],
  photos: ["llava-uhd-chat.uhd", "llava_uhd_chat"],
} as const;

function compiledGraph(
  kind: keyof typeof graphs,
  config: Readonly<Record<string, string>>,
  target: TargetOptions,
  quantising: Parameters<typeof compileFor>[2],
): Artefact {
  const [name, graphName] = graphs[kind];
  const file = packagedGraph(name);
  const program = loadProgram(file, { readText: (at) => readFileSync(at, "utf8"), config });
  const graph = program.graphs.get(graphName);
  if (graph === undefined)
    throw new CliError(1, `${file}: ${program.diagnostics.map((d) => d.message).join("; ") || `it has no graph ${graphName}`}`);
  return compileFor(graph, target, quantising);
}

const helpText = `/image PATH  shows a photo with what you say next; several may follow each other
/reset       begins a new conversation
/help        this`;

/** A line a turn. On a terminal a photo or a turn that is refused is told, and the conversation goes on. */
async function converse(conversation: Conversation, terminal: Terminal): Promise<void> {
  const live = process.stdin.isTTY === true;
  const lines = createInterface({ input: process.stdin, output: live ? process.stderr : undefined, prompt: "> ", terminal: live });
  if (live) lines.prompt();
  let shown: Picture[] = [...conversation.first];
  for await (const line of lines) {
    try {
      const command = /^\/(\w+)(?:\s+(.*\S))?\s*$/.exec(line);
      switch (command?.[1]) {
        case undefined:
          if (line.trim() === "") break;
          await conversation.say(line, shown);
          shown = [];
          break;
        case "image":
          if (command?.[2] === undefined) throw new TextError("/image takes a path");
          // Read now, so that a bad one is told at once.
          shown.push(await pixelsOf(command[2]));
          terminal.err(`${shown.length} to be shown with what you say next`);
          break;
        case "reset":
          conversation.reset();
          shown = [];
          break;
        case "help":
          terminal.err(helpText);
          break;
        default:
          throw new TextError(`there is no /${command?.[1] ?? ""}\n${helpText}`);
      }
    } catch (error) {
      if (!live || !(error instanceof TextError || error instanceof ImageError)) throw error;
      terminal.err(messageOf(error));
    }
    if (live) lines.prompt();
  }
}

class Conversation {
  readonly #model: Model;
  readonly #options: ChatOptions;
  readonly #terminal: Terminal;
  #messages: Message[] = [];
  #images: Picture[] = [];

  constructor(model: Model, options: ChatOptions, terminal: Terminal) {
    this.#model = model;
    this.#options = options;
    this.#terminal = terminal;
    this.reset();
  }

  /** Photos of the first turn. */
  get first(): readonly Picture[] {
    return this.#options.image ?? [];
  }

  reset(): void {
    const { system } = this.#options;
    this.#messages = system === undefined ? [] : [{ role: "system", content: system }];
    this.#images = [];
  }

  /** One turn and its answer. A turn that is refused, or has no answer, leaves the conversation as it was. */
  async say(text: string, pictures: readonly Picture[]): Promise<void> {
    const { message, images } = turnWith(text, pictures);
    const messages = [...this.#messages, message];
    const shown = [...this.#images, ...images];
    const request = { messages, images: shown, maximumTokens: this.#options.maxTokens, ...generateOptionsOf(this.#options) };
    const answer = await printAnswer(this.#model, request, this.#options, this.#terminal);
    if (answer.text === "") return;
    this.#messages = [...messages, { role: "assistant", content: answer.text }];
    this.#images = shown;
  }
}
