// Text from a language model's graph: conversations in, pieces of the answers out, as they come. Tokens are chosen on the
// device, so that only ids cross to the host. Turns that continue a conversation reuse the key-value cache; several
// conversations go through the weights together; a search follows several beams. Photos are pixels here; their files, and
// where they stand in a conversation, are runtime/model's.

import { InputError, TextError } from "./errors.ts";
import { batch, type BatchPiece } from "./generate/batch.ts";
import { continuationCount } from "./generate/beams.ts";
import type { Engine } from "./generate/engine.ts";
import { engineOf } from "./generate/engines.ts";
import { settingsOf, type GenerateOptions, type Settings } from "./generate/options.ts";
import { Given, type PromptPart } from "./generate/prompt.ts";
import { Sequence } from "./generate/rows.ts";
import { Runner } from "./generate/runner.ts";
import { search } from "./generate/search.ts";
import type { Session } from "./session.ts";
import type { ChatTemplate, Message } from "./text/chat.ts";
import { streamText, TextStream } from "./text/stream.ts";
import { checkVocabulary, type Tokenizer } from "./text/tokenizer.ts";

export type { BatchPiece } from "./generate/batch.ts";
export type { GenerateOptions } from "./generate/options.ts";
export type { PromptPart } from "./generate/prompt.ts";

/** A conversation, or what the model reads as it is. */
export type Prompt = readonly Message[] | readonly PromptPart[];

function isConversation(prompt: Prompt): prompt is readonly Message[] {
  const [first] = prompt;
  return first === undefined || (typeof first === "object" && "role" in first);
}

export class LanguageModel implements AsyncDisposable {
  readonly session: Session;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  /** Tokens that the cache can hold. */
  readonly context: number;
  readonly #runner: Runner;
  readonly #given: Given;
  /** The last conversation: the tokens whose keys and values are in the cache. */
  #kept = new Sequence();
  #busy = false;

  private constructor(session: Session, tokenizer: Tokenizer, template: ChatTemplate, engine: Engine) {
    this.session = session;
    this.tokenizer = tokenizer;
    this.template = template;
    this.context = engine.capacity;
    this.#runner = new Runner(engine);
    this.#given = new Given(engine);
    engine.given = this.#given.rows;
  }

  /** Takes the session over: it is closed with the model. Throws InputError for another graph, TextError for another vocabulary. */
  static create(session: Session, tokenizer: Tokenizer, template: ChatTemplate): LanguageModel {
    const engine = engineOf(session);
    checkVocabulary(tokenizer, engine.vocabulary);
    return new LanguageModel(session, tokenizer, template, engine);
  }

  /** Channels of a photo; undefined where the graph takes none. */
  get channels(): number | undefined {
    return this.#runner.engine.photos?.channels;
  }

  /** Most beams of a search. */
  get mostBeams(): number {
    const { sequences, candidates } = this.#runner.engine;
    return Math.max(1, Math.min(sequences, Math.floor(candidates / continuationCount(1, this.tokenizer.ends.length))));
  }

  /** Forgets the conversation so far. */
  reset(): void {
    this.#runner.rows.cut(this.#kept, 0);
  }

  /**
   * The assistant's next turn, in pieces that are not empty: of a conversation without pictures, or behind tokens, rows of
   * embeddings (a picture's visual sequence) and photos as they are. Throws InputError for options that are out of range or that
   * the graph does not have, TextError when the conversation is longer than the context, or when another answer is
   * still being made.
   */
  async *generate(prompt: Prompt, options: GenerateOptions = {}): AsyncGenerator<string, void, undefined> {
    const settings = this.#settings(options);
    const ids = this.#encode(prompt);
    const tokens = settings.numBeams > 1 ? this.#search(ids, settings) : this.#tokens(ids, settings);
    yield* streamText(this.tokenizer, this.#alone(tokens), { stop: settings.stop });
  }

  /**
   * The assistant's next turns in several conversations, which go through the weights together; pieces come as they are
   * made. There may be more conversations than the graph has sequences, or than the cache has room for with
   * `maximumTokens` each: one that is done makes room for the next. Each answer is as it would be alone, but for
   * rounding. Searches follow each other. Throws as `generate` does; the cache keeps none of them.
   */
  async *generateAll(conversations: readonly Prompt[], options: GenerateOptions = {}): AsyncGenerator<BatchPiece, void, undefined> {
    const settings = this.#settings(options);
    const prompts = conversations.map((prompt) => this.#encode(prompt));
    yield* this.#alone(settings.numBeams > 1 ? this.#searches(prompts, settings) : this.#batch(prompts, settings));
  }

  async close(): Promise<void> {
    await this.session.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #encode(prompt: Prompt): readonly number[] {
    const ids = isConversation(prompt) ? this.tokenizer.encode(this.template.render(prompt)) : this.#given.idsOf(prompt);
    if (ids.length >= this.context) {
      const shown = this.#given.photoRows(ids);
      const images = shown > 0 ? `, ${shown} of them for its images` : "";
      throw new TextError(
        `the conversation is ${ids.length} tokens long${images}, and the context holds ${this.context}: leave out its beginning`,
      );
    }
    if (ids.length === 0) throw new TextError("the conversation is empty");
    return ids;
  }

  #settings(options: GenerateOptions): Settings {
    const settings = settingsOf(options);
    const { samples } = this.#runner.engine;
    const lacks = (what: string): InputError =>
      new InputError(`${this.session.plan.name} has no ${what}: it takes a graph like graphs/llama-chat.uhd or graphs/llava-uhd-chat.uhd`);
    if (settings.sample && !samples) throw lacks("sampling");
    if (settings.repetitionPenalty !== 1 && !samples) throw lacks("penalty for repetition");
    if (settings.numBeams > this.mostBeams)
      throw new InputError(
        `numBeams is ${settings.numBeams}, and ${this.session.plan.name} has ${this.mostBeams}: compile graphs/llama-chat.uhd or graphs/llava-uhd-chat.uhd with sequences and candidates for more`,
      );
    return settings;
  }

  /** One answer, or one batch, at a time: they share the cache. */
  async *#alone<T>(made: AsyncGenerator<T, void, undefined>): AsyncGenerator<T, void, undefined> {
    if (this.#busy) throw new TextError("an answer is still being made: finish or leave its loop first");
    this.#busy = true;
    try {
      yield* made;
    } finally {
      this.#busy = false;
    }
  }

  /** The kept conversation, cut to what `ids` begins with, with the rest of them. The last is always new: it is asked about. */
  #continued(ids: readonly number[]): Sequence {
    const kept = this.#kept;
    let common = 0;
    while (common < Math.min(ids.length - 1, kept.rows.length) && kept.ids[common] === ids[common]) common++;
    // A photo is computed as a whole.
    common -= this.#given.rowOfPhoto(ids[common]);
    this.#runner.rows.cut(kept, common);
    kept.ids.push(...ids.slice(common));
    return kept;
  }

  /** Ids of the answer; the end's own id is not among them. */
  async *#tokens(ids: readonly number[], settings: Settings): AsyncGenerator<number, void, undefined> {
    const { signal, onToken } = settings;
    this.#given.keep(ids);
    const sequence = this.#continued(ids);
    for (let count = 0; count < settings.maximumTokens && sequence.ids.length <= this.context; count++) {
      signal?.throwIfAborted();
      const begin = performance.now();
      const [next] = await this.#runner.next([sequence], [[count, 0]], settings);
      onToken?.(count + 1, performance.now() - begin);
      if (next === undefined || this.tokenizer.ends.includes(next)) return;
      sequence.ids.push(next);
      yield next;
    }
  }

  async *#search(ids: readonly number[], settings: Settings): AsyncGenerator<number, void, undefined> {
    this.#given.keep(ids);
    yield* await search(this.#runner, this.#continued(ids), settings, this.tokenizer.ends);
  }

  /** The searches of several conversations, one after the other. */
  async *#searches(prompts: readonly (readonly number[])[], settings: Settings): AsyncGenerator<BatchPiece, void, undefined> {
    this.#given.keep(prompts.flat());
    for (const [conversation, ids] of prompts.entries()) {
      const found = await search(this.#runner, this.#continued(ids), settings, this.tokenizer.ends);
      for await (const text of streamText(this.tokenizer, found, { stop: settings.stop })) yield { conversation, text };
    }
  }

  #batch(prompts: readonly (readonly number[])[], settings: Settings): AsyncGenerator<BatchPiece, void, undefined> {
    this.reset();
    this.#given.keep(prompts.flat());
    const stream = (): TextStream => new TextStream(this.tokenizer, { stop: settings.stop });
    return batch(this.#runner, prompts, settings, this.tokenizer.ends, stream);
  }
}
