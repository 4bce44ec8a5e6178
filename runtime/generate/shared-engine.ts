// The driver of graphs/llama-chat.uhd and graphs/llava-uhd-chat.uhd: several sequences in one run, which share a cache, and
// tokens that are drawn, searched, or the likeliest. The sizes of a step's inputs are the same from token to token, so that
// nothing is allocated or compiled after the first. Decides nothing.

import type { Session } from "../session.ts";
import type { Tensor } from "../tensor.ts";
import { chosen, floats, ints, NewRows, photoNames, photosOf, type Ask, type Candidates, type Engine } from "./engine.ts";
import type { Settings } from "./options.ts";
import type { GivenRows, Takes } from "./prompt.ts";

interface SharedSizes {
  readonly capacity: number;
  readonly vocabulary: number;
  readonly width: number;
  readonly sequences: number;
  readonly candidates: number;
}

export class SharedCache implements Engine {
  readonly capacity: number;
  readonly vocabulary: number;
  readonly sequences: number;
  readonly candidates: number;
  readonly samples = true;
  readonly width: number;
  readonly photos: Takes["photos"];
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
    this.photos = photosOf(session, smallest(width), { sampled: 0, beams: 0 });
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

  async advance(ask: Ask, settings: Settings): Promise<void> {
    const inputs = { ...this.#inputs([ask], settings), sampled: 0, beams: 0 };
    await this.#session.run(inputs, { signal: settings.signal, outputs: [] });
  }

  #inputs(asks: readonly Ask[], settings: Settings): Record<string, Tensor> {
    const fresh = new NewRows(this);
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
      offsets.push(fresh.ids.length);
      for (const row of sequence.rows) cached.push(row);
      rowOffsets.push(cached.length);
      read.push(fresh.ids.length - 1);
      numbers.push(temperature, topP, minP, repetitionPenalty);
      choice.push(Math.min(topK, this.vocabulary), ...seed, ...counter);
      if (repetitionPenalty !== 1) for (const id of sequence.ids) if (id >= 0) history.push(p * this.vocabulary + id);
    }
    const each = asks.length;
    this.#stamp = (this.#stamp + 1) | 0;
    return {
      ...(this.photos === undefined ? {} : { [photoNames.image]: fresh.image }),
      rows: ints(fresh.rows),
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

/** Shapes of the inputs where one row of one sequence is new. */
const smallest = (width: number): Readonly<Record<string, readonly number[]>> => ({
  rows: [1],
  given: [0, width],
  position: [1],
  place: [1],
  segment: [1],
  offsets: [2],
  cached: [1],
  row_offsets: [2],
  read: [1],
  read_segment: [1],
  read_offsets: [2],
  settings: [1, 4],
  choice: [1, 5],
  history: [0],
  stamp: [1],
});
