// Conversations with photos, on a session of graphs/llava-uhd-chat.uhd: each photo goes through the graph with the text
// before it, in pieces that follow each other through the key-value cache, so that a turn costs what is new in it. The
// likeliest token each time, chosen on the device. Does not decode files (picture.ts).

import { InputError, TextError } from "../errors.ts";
import type { Session } from "../session.ts";
import type { Tensor } from "../tensor.ts";
import type { ChatTemplate, Message } from "../text/chat.ts";
import { encodePrompt } from "../text/prompt.ts";
import { streamText } from "../text/stream.ts";
import { checkVocabulary, type Tokenizer } from "../text/tokenizer.ts";
import type { GenerateOptions } from "../generate.ts";
import { commonPrefix, entriesOf, piecesOf, rowsOf, type Entry, type Piece } from "./sequence.ts";

/** What the graph must have, by name. `rows` is the size that shape code gives a photo's visual sequence. */
const names = { image: "image", ids: "ids", at: "at", past: "past", rows: "S" } as const;

/** Whether a plan is one that takes a photo and a prompt. */
export function takesPictures(plan: Session["plan"]): boolean {
  const has = (list: readonly { readonly name: string }[], name: string): boolean => list.some((entry) => entry.name === name);
  return has(plan.inputs, names.image) && has(plan.inputs, names.ids) && has(plan.symbols, names.at) && has(plan.symbols, names.rows);
}

export class PictureModel {
  readonly session: Session;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  /** Rows that the cache can hold. */
  readonly context: number;
  /** Of a photo. */
  readonly channels: number;
  /** What the cache holds, in order. */
  #cached: Entry[] = [];
  #busy = false;

  private constructor(session: Session, tokenizer: Tokenizer, template: ChatTemplate, context: number, channels: number) {
    this.session = session;
    this.tokenizer = tokenizer;
    this.template = template;
    this.context = context;
    this.channels = channels;
  }

  /** Throws InputError for another graph, TextError for another vocabulary. Does not take the session over. */
  static create(session: Session, tokenizer: Tokenizer, template: ChatTemplate): PictureModel {
    const { plan } = session;
    const past = plan.symbols.find((s) => s.name === names.past && s.argument === true);
    const sizeOf = (list: typeof plan.inputs, name: string, axis: number): number => {
      const found = list.find((entry) => entry.name === name);
      return Number(found === undefined ? NaN : plan.buffers[found.buffer]?.shape[axis]);
    };
    const [channels, vocabulary] = [sizeOf(plan.inputs, names.image, 2), sizeOf(plan.outputs, "logits", 1)];
    const fits = takesPictures(plan) && plan.outputs.some((o) => o.name === "next");
    if (past?.upper === undefined || !fits || !Number.isInteger(channels) || !Number.isInteger(vocabulary))
      throw new InputError(`${plan.name} is not a graph of photos and text: it must be one like graphs/llava-uhd-chat.uhd`);
    checkVocabulary(tokenizer, vocabulary);
    return new PictureModel(session, tokenizer, template, past.upper, channels);
  }

  /** Forgets the conversation so far. */
  reset(): void {
    this.#cached = [];
  }

  /**
   * The assistant's next turn, in pieces that are not empty. `photos` are those of the image tokens, in order. Throws
   * TextError when they are not as many, when the conversation is longer than the context, and when another answer is
   * still being made; InputError for options of sampling and search, which the graph does not have.
   */
  async *generate(
    messages: readonly Message<unknown>[],
    photos: readonly Tensor<"u8">[],
    options: GenerateOptions = {},
  ): AsyncGenerator<string, void, undefined> {
    this.#checkOptions(options);
    const ids = encodePrompt(this.tokenizer, this.template.render(messages), photos.length);
    const entries = entriesOf(
      ids,
      photos.map((photo) => ({ photo, rows: this.#rowsOf(photo) })),
    );
    const rows = rowsOf(entries);
    if (rows === 0) throw new TextError("the conversation is empty");
    if (rows >= this.context)
      throw new TextError(
        `the conversation is ${rows} tokens long, ${rows - rowsOf(entries.filter((e) => typeof e === "number"))} of them for its images, and the context holds ${this.context}: leave out its beginning`,
      );
    yield* streamText(this.tokenizer, this.#tokens(entries, options), { stop: options.stop });
  }

  /** Options that would change which token is chosen are never passed over. */
  #checkOptions({ maximumTokens: _, stop: __, signal: ___, onToken: ____, ...others }: GenerateOptions): void {
    const neutral: Readonly<Record<string, unknown>> = { doSample: false, temperature: 0, numBeams: 1, repetitionPenalty: 1 };
    const asked = Object.entries(others).filter(([name, value]) => value !== undefined && value !== neutral[name]);
    if (asked.length > 0)
      throw new InputError(
        `${this.session.plan.name} gives the likeliest token alone, and has no ${asked.map(([name]) => name).join(", ")}`,
      );
  }

  /** The rows of a photo's visual sequence: shape code alone. */
  #rowsOf(photo: Tensor<"u8">): number {
    const { env } = this.session.layout({ [names.image]: photo.shape, [names.ids]: [0] }, { [names.at]: 0, [names.past]: 0 });
    const rows = env[names.rows];
    if (rows === undefined) throw new InputError(`${this.session.plan.name} does not say how many rows a photo takes`);
    return rows;
  }

  /** Ids of the answer; the end's own id is not among them. */
  async *#tokens(
    entries: readonly Entry[],
    { maximumTokens = 1024, signal, onToken }: GenerateOptions,
  ): AsyncGenerator<number, void, undefined> {
    if (this.#busy) throw new TextError("an answer is still being made: finish or leave its loop first");
    this.#busy = true;
    try {
      const known = commonPrefix(this.#cached, entries);
      this.#cached.length = known;
      let pieces = piecesOf(entries.slice(known));
      let begin = performance.now();
      for (let count = 0; count < maximumTokens; count++) {
        let next = 0;
        for (const piece of pieces) {
          signal?.throwIfAborted();
          next = await this.#step(piece, signal);
          this.#cached.push(
            ...piece.ids.slice(0, piece.at),
            ...(piece.shown === undefined ? [] : [piece.shown]),
            ...piece.ids.slice(piece.at),
          );
        }
        onToken?.(count + 1, performance.now() - begin);
        if (this.tokenizer.ends.includes(next)) return;
        yield next;
        if (rowsOf(this.#cached) >= this.context) return;
        begin = performance.now();
        pieces = [{ ids: [next], shown: undefined, at: 0 }];
      }
    } finally {
      this.#busy = false;
    }
  }

  async #step({ ids, shown, at }: Piece, signal: AbortSignal | undefined): Promise<number> {
    const run = {
      [names.image]: shown?.photo ?? noPhoto(this.channels),
      [names.ids]: { dtype: "i32", shape: [ids.length], data: Int32Array.from(ids) } satisfies Tensor,
      [names.at]: at,
      [names.past]: rowsOf(this.#cached),
    };
    const { outputs } = await this.session.run(run, { signal });
    const next = outputs["next"]?.data[0];
    if (next === undefined) throw new InputError(`${this.session.plan.name} gave no next token`);
    return next;
  }
}

/** An image of no pixels is no picture. */
function noPhoto(channels: number): Tensor<"u8"> {
  return { dtype: "u8", shape: [0, 0, channels], data: new Uint8Array(0) };
}
