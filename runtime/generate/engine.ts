// One run of a language model's graph for several sequences: what the host knows (tokens, rows of the cache, settings)
// becomes the graph's inputs, and ids come back. The sizes of a step's inputs are the same from token to token, so that
// nothing is allocated or compiled after the first. Knows graphs/llama-chat.uhd, and graphs/llama.uhd, which has one
// sequence and gives the likeliest token alone. Decides nothing.

import { InputError, TextError } from "../errors.ts";
import type { Session } from "../session.ts";
import type { Tensor } from "../tensor.ts";
import type { Settings } from "./options.ts";
import type { GivenRows } from "./prompt.ts";
import type { Sequence } from "./rows.ts";

/** A sequence whose last token's successor is wanted. Its tokens behind `computed` are new. */
export interface Ask {
  readonly sequence: Sequence;
  readonly computed: number;
  /** Tokens of the answer so far, and which conversation of a batch it is: the random number depends on both. */
  readonly counter: readonly [number, number];
}

/** Candidates of a row, likeliest first: ids and the logarithms of their probabilities. */
export interface Candidates {
  readonly ids: readonly number[];
  readonly scores: readonly number[];
}

export interface Engine {
  /** Elements of a row of embeddings. */
  readonly width: number;
  /** The rows of negative ids. */
  given: GivenRows;
  /** Rows of the cache. */
  readonly capacity: number;
  /** Rows of the logits: tokens of the vocabulary. */
  readonly vocabulary: number;
  /** Most sequences of a step. */
  readonly sequences: number;
  /** Candidates of a row, for a search; 0 where the graph gives none. */
  readonly candidates: number;
  /** Whether tokens can be drawn, and the penalty for repetition be given. */
  readonly samples: boolean;
  /** The next token of each. */
  next(asks: readonly Ask[], settings: Settings): Promise<readonly number[]>;
  /** The likeliest next tokens of each. */
  best(asks: readonly Ask[], settings: Settings): Promise<readonly Candidates[]>;
}

type Plan = Session["plan"];

function sizeOf(plan: Plan, list: Plan["inputs"], name: string, axis: number): number {
  const found = list.find((entry) => entry.name === name);
  return Number(found === undefined ? NaN : plan.buffers[found.buffer]?.shape[axis]);
}

/** What drives the graph of a session. Throws InputError when it is none of a language model. */
export function engineOf(session: Session): Engine {
  const { plan } = session;
  const width = sizeOf(plan, plan.inputs, "given", 1);
  const vocabulary = sizeOf(plan, plan.outputs, "logits", 1);
  const has = (name: string): boolean => plan.inputs.some((i) => i.name === name) && plan.outputs.some((o) => o.name === "next");
  const past = plan.symbols.find((s) => s.name === "past" && s.argument === true)?.upper;
  const whole = Number.isInteger(width) && Number.isInteger(vocabulary) && has("rows");
  if (whole && past !== undefined) return new OneSequence(session, past, vocabulary, width);
  const most = (name: string): number => plan.symbols.find((s) => s.name === name)?.upper ?? NaN;
  const [sequences, capacity] = [most("sampled"), most("N")];
  const candidates = sizeOf(plan, plan.outputs, "places", 1);
  if (whole && has("cached") && [sequences, capacity, candidates].every((n) => Number.isInteger(n)))
    return new SharedCache(session, { capacity, vocabulary, width, sequences, candidates });
  throw new InputError(
    `${plan.name} is not a language model's graph: it must be one like graphs/llama.uhd, with rows, given and past, logits and next, or graphs/llama-chat.uhd`,
  );
}

const ints = (data: ArrayLike<number>, shape: readonly number[] = [data.length]): Tensor => ({
  dtype: "i32",
  shape,
  data: Int32Array.from(data),
});
const floats = (data: ArrayLike<number>, shape: readonly number[]): Tensor => ({ dtype: "f32", shape, data: Float32Array.from(data) });

/** New rows as the graphs take them: a token's id, or vocabulary + j for row j of `given`. */
class NewRows {
  readonly rows: number[] = [];
  readonly #given: Float32Array[] = [];
  readonly #engine: Engine;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  push(id: number): void {
    const row = id < 0 ? this.#engine.given.get(id) : undefined;
    if (id < 0 && row === undefined) throw new InputError(`there is no row ${id}`);
    this.rows.push(row === undefined ? id : this.#engine.vocabulary + this.#given.length);
    if (row !== undefined) this.#given.push(row);
  }

  get given(): Tensor {
    const { width } = this.#engine;
    const data = new Float32Array(this.#given.length * width);
    for (const [i, row] of this.#given.entries()) data.set(row, i * width);
    return { dtype: "f32", shape: [this.#given.length, width], data };
  }
}

class OneSequence implements Engine {
  readonly capacity: number;
  readonly vocabulary: number;
  readonly sequences = 1;
  readonly candidates = 0;
  readonly samples = false;
  readonly width: number;
  given: GivenRows = new Map();
  readonly #session: Session;

  constructor(session: Session, capacity: number, vocabulary: number, width: number) {
    this.#session = session;
    this.capacity = capacity;
    this.vocabulary = vocabulary;
    this.width = width;
  }

  async next(asks: readonly Ask[], { signal }: Settings): Promise<readonly number[]> {
    const tokens: number[] = [];
    for (const { sequence, computed } of asks) {
      const fresh = new NewRows(this);
      for (const id of sequence.ids.slice(computed)) fresh.push(id);
      const inputs = { rows: ints(fresh.rows), given: fresh.given, past: computed };
      const { outputs } = await this.#session.run(inputs, { signal, outputs: ["next"] });
      tokens.push(chosen(this.#session, outputs["next"]?.data[0]));
    }
    return tokens;
  }

  best(): Promise<readonly Candidates[]> {
    throw new InputError(`${this.#session.plan.name} has no candidates for a search`);
  }
}

interface SharedSizes {
  readonly capacity: number;
  readonly vocabulary: number;
  readonly width: number;
  readonly sequences: number;
  readonly candidates: number;
}

class SharedCache implements Engine {
  readonly capacity: number;
  readonly vocabulary: number;
  readonly sequences: number;
  readonly candidates: number;
  readonly samples = true;
  readonly width: number;
  given: GivenRows = new Map();
  readonly #session: Session;
  /** Another number in every run. */
  #stamp = 0;

  constructor(session: Session, { capacity, vocabulary, width, sequences, candidates }: SharedSizes) {
    this.#session = session;
    this.capacity = capacity;
    this.vocabulary = vocabulary;
    this.sequences = sequences;
    this.candidates = candidates;
    this.width = width;
  }

  async next(asks: readonly Ask[], settings: Settings): Promise<readonly number[]> {
    const name = settings.sample ? "choices" : "next";
    const inputs = { ...this.#inputs(asks, settings), sampled: settings.sample ? asks.length : 0, beams: 0 };
    const { outputs } = await this.#session.run(inputs, { signal: settings.signal, outputs: [name] });
    return asks.map((_, i) => chosen(this.#session, outputs[name]?.data[i]));
  }

  async best(asks: readonly Ask[], settings: Settings): Promise<readonly Candidates[]> {
    const inputs = { ...this.#inputs(asks, settings), sampled: 0, beams: asks.length };
    const { outputs } = await this.#session.run(inputs, { signal: settings.signal, outputs: ["places", "scores"] });
    const { candidates } = this;
    return asks.map((_, i) => {
      const row = (name: string): number[] => Array.from(outputs[name]?.data.subarray(i * candidates, (i + 1) * candidates) ?? []);
      const [ids, scores] = [row("places"), row("scores")];
      chosen(this.#session, ids[0]);
      return { ids: ids.filter((id) => id >= 0), scores: scores.filter((_, n) => (ids[n] ?? -1) >= 0) };
    });
  }

  #inputs(asks: readonly Ask[], settings: Settings): Record<string, Tensor> {
    const fresh = new NewRows(this);
    const { rows } = fresh;
    const position: number[] = [];
    const place: number[] = [];
    const segment: number[] = [];
    const offsets = [0];
    const cached: number[] = [];
    const rowOffsets = [0];
    const read: number[] = [];
    const numbers: number[] = [];
    const choice: number[] = [];
    const history: number[] = [];
    const { seed, temperature, topP, minP, repetitionPenalty, topK } = settings;
    for (const [p, { sequence, computed, counter }] of asks.entries()) {
      for (let i = computed; i < sequence.ids.length; i++) {
        fresh.push(sequence.ids[i] ?? 0);
        position.push(i);
        place.push(sequence.rows[i] ?? 0);
        segment.push(p);
      }
      offsets.push(rows.length);
      for (const row of sequence.rows) cached.push(row);
      rowOffsets.push(cached.length);
      read.push(rows.length - 1);
      numbers.push(temperature, topP, minP, repetitionPenalty);
      choice.push(Math.min(topK, this.vocabulary), ...seed, ...counter);
      if (repetitionPenalty !== 1) for (const id of sequence.ids) if (id >= 0) history.push(p * this.vocabulary + id);
    }
    const each = asks.length;
    this.#stamp = (this.#stamp + 1) | 0;
    return {
      rows: ints(rows),
      given: fresh.given,
      position: ints(position),
      place: ints(place),
      segment: ints(segment),
      offsets: ints(offsets),
      cached: this.#padded(cached),
      row_offsets: ints(rowOffsets),
      read: ints(read),
      read_segment: ints(read.map((_, i) => i)),
      read_offsets: ints([...read.map((_, i) => i), each]),
      settings: floats(numbers, [each, 4]),
      choice: ints(choice, [each, 5]),
      history: history.length === 0 ? ints([]) : this.#padded(history),
      stamp: ints([this.#stamp]),
    };
  }

  /** As long as the cache, or several times that: its size stays while a sequence grows. The first number is repeated. */
  #padded(list: readonly number[]): Tensor {
    const data = new Int32Array(this.capacity * Math.ceil(list.length / this.capacity)).fill(list[0] ?? 0);
    data.set(list);
    return { dtype: "i32", shape: [data.length], data };
  }
}

function chosen(session: Session, id: number | undefined): number {
  if (id === undefined) throw new InputError(`${session.plan.name} gave no next token`);
  if (id < 0) throw new TextError("the model's logits are not numbers (NaN or infinity): no token can be chosen");
  return id;
}
