// Text from a language model's graph (graphs/llama.uhd): a conversation in, pieces of the answer out, as they come. The
// likeliest token each time, chosen on the device, so that only ids cross to the host. Turns that continue a
// conversation reuse the key-value cache. Does not sample, and takes no pictures.

import { InputError, TextError } from "./errors.ts";
import type { Session } from "./session.ts";
import type { Tensor } from "./tensor.ts";
import type { ChatTemplate, Message } from "./text/chat.ts";
import { streamText } from "./text/stream.ts";
import { checkVocabulary, type Tokenizer } from "./text/tokenizer.ts";

export interface GenerateOptions {
  /** Most tokens of the answer. Default 1024; the context's end is an end too. */
  readonly maximumTokens?: number | undefined;
  /** The answer ends before the first of these. */
  readonly stop?: readonly string[] | undefined;
  /** Looked at before each token and while one is computed: the iteration then throws `signal.reason`. */
  readonly signal?: AbortSignal | undefined;
  /** Told after each token: how many there are, and the milliseconds the last one took. The first is the prompt's. */
  readonly onToken?: ((count: number, milliseconds: number) => void) | undefined;
}

/** What the graph must have, by name. */
const inputs = { rows: "rows", given: "given", past: "past" } as const;

export class LanguageModel implements AsyncDisposable {
  readonly session: Session;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  /** Tokens that the cache can hold. */
  readonly context: number;
  readonly #width: number;
  /** The tokens whose keys and values are in the cache, in order. */
  #cached: number[] = [];
  #busy = false;

  private constructor(session: Session, tokenizer: Tokenizer, template: ChatTemplate, context: number, width: number) {
    this.session = session;
    this.tokenizer = tokenizer;
    this.template = template;
    this.context = context;
    this.#width = width;
  }

  /** Takes the session over: it is closed with the model. Throws InputError for another graph, TextError for another vocabulary. */
  static create(session: Session, tokenizer: Tokenizer, template: ChatTemplate): LanguageModel {
    const { plan } = session;
    const past = plan.symbols.find((s) => s.name === inputs.past && s.argument === true);
    const given = plan.inputs.find((i) => i.name === inputs.given);
    const width = Number(given === undefined ? NaN : plan.buffers[given.buffer]?.shape[1]);
    const logits = plan.outputs.find((o) => o.name === "logits");
    const rows = Number(logits === undefined ? NaN : plan.buffers[logits.buffer]?.shape[1]);
    const fits = plan.inputs.some((i) => i.name === inputs.rows) && plan.outputs.some((o) => o.name === "next");
    if (past?.upper === undefined || !fits || !Number.isInteger(width) || !Number.isInteger(rows))
      throw new InputError(
        `${plan.name} is not a language model's graph: it must be one like graphs/llama.uhd, with rows, given and past, logits and next`,
      );
    checkVocabulary(tokenizer, rows);
    return new LanguageModel(session, tokenizer, template, past.upper, width);
  }

  /** Forgets the conversation so far. */
  reset(): void {
    this.#cached = [];
  }

  /**
   * The assistant's next turn, in pieces that are not empty. Throws TextError when the conversation is longer than the
   * context, or when another answer is still being made.
   */
  async *generate(messages: readonly Message[], options: GenerateOptions = {}): AsyncGenerator<string, void, undefined> {
    const ids = this.tokenizer.encode(this.template.render(messages));
    if (ids.length >= this.context)
      throw new TextError(`the conversation is ${ids.length} tokens long, and the context holds ${this.context}: leave out its beginning`);
    if (ids.length === 0) throw new TextError("the conversation is empty");
    yield* streamText(this.tokenizer, this.#tokens(ids, options), { stop: options.stop });
  }

  async close(): Promise<void> {
    await this.session.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Ids of the answer; the end's own id is not among them. */
  async *#tokens(
    ids: readonly number[],
    { maximumTokens = 1024, signal, onToken }: GenerateOptions,
  ): AsyncGenerator<number, void, undefined> {
    if (this.#busy) throw new TextError("an answer is still being made: finish or leave its loop first");
    this.#busy = true;
    try {
      // What the cache has already is not computed again; the last token always is, since its logits are wanted.
      let past = 0;
      while (past < ids.length - 1 && this.#cached[past] === ids[past]) past++;
      this.#cached.length = past;
      let rows = ids.slice(past);
      for (let count = 0; count < maximumTokens && this.#cached.length + rows.length <= this.context; count++) {
        signal?.throwIfAborted();
        const begin = performance.now();
        const next = await this.#step(rows, signal);
        this.#cached.push(...rows);
        onToken?.(count + 1, performance.now() - begin);
        if (this.tokenizer.ends.includes(next)) return;
        yield next;
        rows = [next];
      }
    } finally {
      this.#busy = false;
    }
  }

  async #step(rows: readonly number[], signal: AbortSignal | undefined): Promise<number> {
    const ids: Tensor = { dtype: "i32", shape: [rows.length], data: Int32Array.from(rows) };
    const given: Tensor = { dtype: "f32", shape: [0, this.#width], data: new Float32Array(0) };
    const run = { [inputs.rows]: ids, [inputs.given]: given, [inputs.past]: this.#cached.length };
    const { outputs } = await this.session.run(run, { signal });
    const next = outputs["next"]?.data[0];
    if (next === undefined) throw new InputError(`${this.session.plan.name} gave no next token`);
    return next;
  }
}
