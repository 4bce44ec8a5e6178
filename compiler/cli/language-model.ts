// What a checkpoint says of the language model it holds, as configuration of graphs/llama.uhd and graphs/llava-uhd-chat.uhd,
// with its tokenizer: from a GGUF file's metadata or from the config.json of a Hugging Face folder. Loads no weights.

import { existsSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { TextError } from "../../runtime/errors.ts";
import type { Picture } from "../../runtime/images/picture.ts";
import { chooseTemplate as templateFor } from "../../runtime/model/load.ts";
import { imageToken, type ChatTemplate, type Message } from "../../runtime/text/chat.ts";
import { ggufTokenizerArrays } from "../../runtime/text/gguf.ts";
import { loadTokenizer, tokenizerFromGguf, type Tokenizer } from "../../runtime/text/tokenizer.ts";
import { openCheckpoint, type Checkpoint } from "../../runtime/weights/checkpoint.ts";
import { isGgufArray, openGguf, readGgufArray } from "../../runtime/weights/gguf.ts";
import { codeOf } from "./common.ts";
import { CliError, usageError } from "./errors.ts";

export interface ModelDescription {
  /** Values for the config names of graphs/llama.uhd. */
  readonly config: Readonly<Record<string, string>>;
  readonly tokenizer: Tokenizer;
  /** Tokens the model was trained for. */
  readonly context: number;
}

/** A graph of this package: in one of the folders around this file, which differ between the sources and a build. */
export function packagedGraph(name: string): string {
  for (let at = path.dirname(fileURLToPath(import.meta.url)); ; at = path.dirname(at)) {
    const file = path.join(at, "graphs", name);
    if (existsSync(file)) return file;
    if (at === path.dirname(at)) throw new CliError(1, `graphs/${name} is missing from the installation`);
  }
}

/** Whether a checkpoint has a projector, so that its language model sees. */
export async function hasProjector(from: Checkpoint): Promise<boolean> {
  const checkpoint = await openCheckpoint(from);
  try {
    return [...checkpoint.tensors.keys()].some((name) => name.endsWith("mm_projector.query"));
  } finally {
    await checkpoint.close();
  }
}

/** What a user says with pictures: they stand where the text has "<image>", or come first. */
export function turnWith(text: string, pictures: readonly Picture[]): { readonly message: Message; readonly images: readonly Picture[] } {
  const marked = text.includes(imageToken) || pictures.length === 0;
  const content = marked ? text : `${`${imageToken}\n`.repeat(pictures.length)}${text}`;
  return { message: { role: "user", content }, images: pictures };
}

export async function describeModel(model: string): Promise<ModelDescription> {
  let folder: boolean;
  try {
    folder = statSync(model).isDirectory();
  } catch (cause) {
    throw new CliError(1, `${model}: cannot be read (${codeOf(cause)})`, { cause });
  }
  return folder ? fromFolder(model) : fromGguf(model);
}

async function fromGguf(file: string): Promise<ModelDescription> {
  await using gguf = await openGguf(file);
  const { metadata } = gguf;
  const architecture = metadata.get("general.architecture");
  if (architecture !== "llama")
    throw new CliError(1, `${file}: expected a model of the LLaMA family, found the architecture ${String(architecture)}`);
  const number = (key: string, fallback?: number): number => {
    const value = Number(metadata.get(`llama.${key}`) ?? fallback ?? NaN);
    if (!Number.isFinite(value)) throw new CliError(1, `${file}: its metadata has no number llama.${key}`);
    return value;
  };
  const values = new Map<string, unknown>();
  for (const [key, value] of metadata) {
    if (!isGgufArray(value)) values.set(key, value);
    else if ((ggufTokenizerArrays as readonly string[]).includes(key)) values.set(key, await readGgufArray(gguf, value));
  }
  const scaling = metadata.get("llama.rope.scaling.type");
  if (scaling !== undefined && scaling !== "none") throw unlike(file, "llama.rope.scaling.type", scaling, "none");
  const tokenizer = await tokenizerFromGguf(values);
  const [width, heads] = [number("embedding_length"), number("attention.head_count")];
  const vocabulary = gguf.tensors.get("token_embd.weight")?.shape[0] ?? tokenizer.vocabularySize;
  return describe(tokenizer, {
    width,
    heads,
    layers: number("block_count"),
    kvHeads: number("attention.head_count_kv", heads),
    headWidth: number("attention.key_length", width / heads),
    ffn: number("feed_forward_length"),
    vocabulary,
    theta: number("rope.freq_base", 10000),
    eps: number("attention.layer_norm_rms_epsilon"),
    context: number("context_length"),
    tied: !gguf.tensors.has("output.weight"),
  });
}

/** Values of config.json that graphs/llama.uhd stands for, where the file has the key. */
const assumed: Readonly<Record<string, readonly unknown[]>> = {
  model_type: ["llama"],
  hidden_act: ["silu"],
  rope_scaling: [],
  attention_bias: [false],
  mlp_bias: [false],
};

function unlike(file: string, key: string, found: unknown, expected: string): CliError {
  return new CliError(
    1,
    `${file}: graphs/llama.uhd does not compute models whose ${key} is ${JSON.stringify(found)}; expected ${expected || "none"}`,
  );
}

async function fromFolder(folder: string): Promise<ModelDescription> {
  const file = path.join(folder, "config.json");
  let config: Readonly<Record<string, unknown>>;
  try {
    config = JSON.parse(readFileSync(file, "utf8")) as Readonly<Record<string, unknown>>;
  } catch (cause) {
    throw new CliError(1, `${file}: cannot be read (${codeOf(cause)})`, { cause });
  }
  const number = (key: string, fallback?: number): number => {
    const value = config[key] ?? fallback;
    if (typeof value !== "number")
      throw new CliError(1, `${file}: expected a number as ${key}, found ${JSON.stringify(value) ?? "nothing"}`);
    return value;
  };
  // What would make another model of the same tensors: refused, never computed as if it were not there.
  for (const [key, fits] of Object.entries(assumed)) {
    const value = config[key];
    if (value !== undefined && value !== null && !fits.includes(value)) throw unlike(file, key, value, fits.join(" or "));
  }
  const [width, heads] = [number("hidden_size"), number("num_attention_heads")];
  return describe(await loadTokenizer(folder), {
    width,
    heads,
    layers: number("num_hidden_layers"),
    kvHeads: number("num_key_value_heads", heads),
    headWidth: number("head_dim", width / heads),
    ffn: number("intermediate_size"),
    vocabulary: number("vocab_size"),
    theta: number("rope_theta", 10000),
    eps: number("rms_norm_eps"),
    context: number("max_position_embeddings"),
    tied: config["tie_word_embeddings"] === true,
  });
}

interface Sizes {
  readonly width: number;
  readonly heads: number;
  readonly layers: number;
  readonly kvHeads: number;
  readonly headWidth: number;
  readonly ffn: number;
  readonly vocabulary: number;
  readonly theta: number;
  readonly eps: number;
  readonly context: number;
  readonly tied: boolean;
}

function describe(tokenizer: Tokenizer, s: Sizes): ModelDescription {
  const config = {
    width: String(s.width),
    llama_layers: String(s.layers),
    heads: String(s.heads),
    kv_heads: String(s.kvHeads),
    head_width: String(s.headWidth),
    ffn: String(s.ffn),
    vocabulary: String(s.vocabulary),
    theta: String(s.theta),
    eps: String(s.eps),
    tied: String(s.tied),
  };
  return { config, tokenizer, context: s.context };
}

/** The template named, or the model's own. */
export async function chooseTemplate(tokenizer: Tokenizer, name: string | undefined): Promise<ChatTemplate> {
  try {
    return await templateFor(tokenizer, name);
  } catch (cause) {
    throw cause instanceof TextError ? usageError(`--template: ${cause.message}`) : cause;
  }
}
