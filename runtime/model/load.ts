// The front door for conversations: a compiled graph, a checkpoint and its tokenizer become a model that answers, with
// photos where the graph takes them. The compiler is not here: a graph is compiled before (`uhdc compile`), or given in
// memory.

import { artefactInMemory, loadArtefact, type Artefact } from "../artefact.ts";
import type { Device } from "../device.ts";
import type { SimdChoice } from "../devices/wasm/module.ts";
import { TextError } from "../errors.ts";
import { LanguageModel, type BatchPiece, type GenerateOptions, type Prompt } from "../generate.ts";
import { pixelsOf, withChannels, type Picture } from "../images/picture.ts";
import { Session, type Progress } from "../session.ts";
import { chatTemplates, imagesOf, templateOf, type ChatTemplate, type JinjaLibrary, type Message } from "../text/chat.ts";
import { encodePrompt, imagePlaceholder } from "../text/prompt.ts";
import type { Tokenizer, TokenizersLibrary } from "../text/tokenizer.ts";
import type { Checkpoint } from "../weights/checkpoint.ts";
import type { WeightsOptions } from "../weights/load.ts";
import { openTokenizer } from "./tokenizer.ts";

type OneOf<T> = T extends readonly (infer E)[] ? E : T;

export interface ModelOptions {
  /**
   * graphs/llama.uhd, graphs/llama-chat.uhd or graphs/llava-uhd-chat.uhd at the checkpoint's sizes: the folder or URL of an
   * artefact, or one in memory. Default: `model`, where that is a folder which an artefact was written into.
   */
  readonly graph?: string | URL | Artefact | undefined;
  /** The language model, with its tokenizer and chat template: a GGUF file (also bytes or a Blob), or a Hugging Face folder. */
  readonly model?: string | Uint8Array | Blob | undefined;
  /** Further checkpoints with tensors of other names: the vision encoder, the projector. */
  readonly vision?: Checkpoint | undefined;
  /** What checkpoints put before the graph's names, and what becomes of tensors it does not use: see WeightsOptions. */
  readonly prefix?: WeightsOptions["prefix"];
  readonly extra?: WeightsOptions["extra"];
  /** Makes the parameters that no checkpoint gives from `seed`; `untrained` then names them, and answers mean nothing. */
  readonly init?: { readonly seed: number } | undefined;
  /** Another tokenizer than the model's: one, or where it is (a GGUF file, a folder, a tokenizer.json in it). */
  readonly tokenizer?: Tokenizer | string | Uint8Array | Blob | undefined;
  /** Another chat template than the model's: one, or the name of one that is built in ("vicuna_v1", "plain"). */
  readonly template?: ChatTemplate | string | undefined;
  /** For bundlers that have to see the imports: the packages `@huggingface/tokenizers` and `@huggingface/jinja`. */
  readonly libraries?: { readonly tokenizers?: TokenizersLibrary | undefined; readonly jinja?: JinjaLibrary | undefined } | undefined;
  /** Default: a WebAssembly device of its own, closed with the model. A given device stays open. */
  readonly device?: Device | undefined;
  readonly threads?: number | undefined;
  readonly simd?: SimdChoice | undefined;
  /** Stops loading: `load` then rejects with `signal.reason`, and nothing stays allocated. */
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

/** A conversation to be answered. */
export interface Conversation {
  /**
   * The conversation so far; the user has spoken last. Photos are parts of messages, or "<image>" in their text and
   * `images`, in order.
   */
  readonly messages: readonly Message[];
  readonly images?: readonly Picture[] | undefined;
}

export type GenerateRequest = Conversation & GenerateOptions;

export class Model implements AsyncDisposable {
  readonly session: Session;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  /** Tokens that the cache can hold, of all conversations that are answered together; a photo takes several. */
  readonly context: number;
  readonly #talk: LanguageModel;

  constructor(talk: LanguageModel) {
    this.session = talk.session;
    this.#talk = talk;
    this.tokenizer = talk.tokenizer;
    this.template = talk.template;
    this.context = talk.context;
  }

  /** Whether messages can have photos. */
  get takesPictures(): boolean {
    return this.#talk.channels !== undefined;
  }

  /** Most beams of a search; 1 where the graph has none. */
  get mostBeams(): number {
    return this.#talk.mostBeams;
  }

  /** Names of the parameters that were made from a seed. When there are some, answers mean nothing. */
  get untrained(): readonly string[] {
    return this.session.untrained;
  }

  /** Forgets the conversation so far: the next one begins with an empty cache. */
  reset(): void {
    this.#talk.reset();
  }

  /**
   * The assistant's next turn, in pieces that are not empty. What the conversation has in common with the one before is
   * not computed again, photos included. Throws TextError when images and image tokens are not as many, when the
   * conversation does not fit the context, and when another answer is still being made; InputError for options that the
   * graph does not have; ImageError for a bad photo; an abort throws `signal.reason` within one token. Whatever it throws,
   * the model can be used again.
   */
  async *generate({ messages, images, ...options }: GenerateRequest): AsyncGenerator<string, void, undefined> {
    options.signal?.throwIfAborted();
    yield* this.#talk.generate(await this.#prompt({ messages, images }), options);
  }

  /**
   * The assistant's next turns in several conversations, in pieces as they are made, each with the number of its
   * conversation. As many go through the weights together as the graph has `sequences` and the cache has room for with
   * `maximumTokens` each; when one is done the next begins. Each answer is as it would be alone, but for rounding; the same
   * seed draws another answer in each. Searches follow each other. All conversations are read before the first is computed,
   * and what is wrong with one is thrown then, as `generate` does. `onToken` is told of steps, which bring a token to each
   * conversation in turn. An abort ends all of them; the cache keeps none.
   */
  async *generateAll(conversations: readonly Conversation[], options: GenerateOptions = {}): AsyncGenerator<BatchPiece, void, undefined> {
    options.signal?.throwIfAborted();
    const prompts: Prompt[] = [];
    for (const conversation of conversations) prompts.push(await this.#prompt(conversation));
    yield* this.#talk.generateAll(prompts, options);
  }

  close(): Promise<void> {
    return this.session.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** A conversation as the model reads it: where the graph takes photos, tokens and the photos among them. */
  async #prompt({ messages, images }: Conversation): Promise<Prompt> {
    const shown = picturesOf(messages, images);
    const { channels } = this.#talk;
    if (channels === undefined) {
      if (shown.length > 0) throw new TextError(`${this.session.plan.name} takes no images: it is a graph of text alone`);
      return messages;
    }
    const photos = await Promise.all(shown.map(async (picture) => withChannels(await pixelsOf(picture), channels)));
    const ids = encodePrompt(this.tokenizer, this.template.render(messages), photos.length);
    let next = 0;
    return ids.map((id) => (id === imagePlaceholder ? (photos[next++] ?? id) : id));
  }
}

function picturesOf(messages: readonly Message[], images: readonly Picture[] | undefined): readonly Picture[] {
  const parts = imagesOf(messages);
  if (images === undefined) return parts;
  if (parts.length > 0)
    throw new TextError("images are parts of the messages, or a list for the image tokens in their text, and here are both");
  return images;
}

/**
 * Throws ArtefactError, TextError, WeightsError, SafetensorsError, GgufError, PickleError, ResourceError, InputError (a graph of
 * another kind) or DeviceError; whatever it throws, nothing stays allocated.
 */
export async function load(options: ModelOptions): Promise<Model> {
  const { signal } = options;
  signal?.throwIfAborted();
  const artefact = await graphOf(options);
  const tokenizer = await tokenizerOf(options);
  const template = await chooseTemplate(tokenizer, options.template, options.libraries?.jinja);
  signal?.throwIfAborted();
  const session = await Session.create(artefact, {
    device: options.device,
    threads: options.threads,
    simd: options.simd,
    weights: weightsOf(options),
    init: options.init,
    signal,
    onProgress: options.onProgress,
  });
  try {
    signal?.throwIfAborted();
    return new Model(LanguageModel.create(session, tokenizer, template));
  } catch (error) {
    await session.close();
    throw error;
  }
}

async function graphOf({ graph, model }: ModelOptions): Promise<Artefact> {
  if (typeof graph === "object" && !(graph instanceof URL)) return artefactInMemory(graph);
  const from = graph ?? (typeof model === "string" ? model : undefined);
  if (from === undefined) throw new TextError("load needs a compiled graph: the folder that uhdc compile wrote, or an artefact in memory");
  return loadArtefact(from);
}

async function tokenizerOf({ tokenizer, model, libraries }: ModelOptions): Promise<Tokenizer> {
  if (typeof tokenizer === "object" && "encode" in tokenizer) return tokenizer;
  const from = tokenizer ?? model;
  if (from === undefined) throw new TextError("load needs a model to take the tokenizer from, or a tokenizer");
  return openTokenizer(from, { library: libraries?.tokenizers });
}

function weightsOf({ model, vision, prefix, extra }: ModelOptions): WeightsOptions | undefined {
  const list: OneOf<Checkpoint>[] = model === undefined ? [] : [model];
  if (vision !== undefined)
    list.push(...(Array.isArray(vision) ? (vision as readonly OneOf<Checkpoint>[]) : [vision as OneOf<Checkpoint>]));
  return list.length === 0 ? undefined : { from: list, prefix, extra };
}

/** The template given or named, or the tokenizer's own. Throws TextError when there is none. */
export async function chooseTemplate(
  tokenizer: Tokenizer,
  template: ChatTemplate | string | undefined,
  library?: JinjaLibrary,
): Promise<ChatTemplate> {
  if (typeof template === "object") return template;
  const names = Object.keys(chatTemplates).join(", ");
  if (template !== undefined) {
    const named = Object.hasOwn(chatTemplates, template) ? chatTemplates[template] : undefined;
    if (named === undefined) throw new TextError(`there is no chat template "${template}"; there are ${names}`);
    return named;
  }
  const own = await templateOf(tokenizer, { library });
  if (own === undefined) throw new TextError(`the model brings no chat template: choose one of ${names}`);
  return own;
}
