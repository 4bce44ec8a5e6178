// What drives a language model's graph, and what the drivers share: the host knows tokens, rows of the cache and settings;
// they become the graph's inputs, and ids come back. Which graph has which driver is in engines.ts.

import { InputError, TextError } from "../errors.ts";
import type { Session } from "../session.ts";
import type { Tensor } from "../tensor.ts";
import type { Settings } from "./options.ts";
import type { GivenRows, Photo, Takes } from "./prompt.ts";
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

/** A run has one photo at most, among the new rows of all that it is asked about, and that one whole. */
export interface Engine extends Takes {
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
  /** Brings the new rows of one into the cache; nothing is chosen. */
  advance(ask: Ask, settings: Settings): Promise<void>;
}

export type Plan = Session["plan"];

/** Size `axis` of an input or output; NaN where there is none, or it is no number. */
export function sizeOf(plan: Plan, list: Plan["inputs"], name: string, axis: number): number {
  const found = list.find((entry) => entry.name === name);
  return Number(found === undefined ? NaN : plan.buffers[found.buffer]?.shape[axis]);
}

export const ints = (data: ArrayLike<number>, shape: readonly number[] = [data.length]): Tensor => ({
  dtype: "i32",
  shape,
  data: Int32Array.from(data),
});
export const floats = (data: ArrayLike<number>, shape: readonly number[]): Tensor => ({
  dtype: "f32",
  shape,
  data: Float32Array.from(data),
});

/** Name of the input for a photo, and of the size that shape code gives its visual sequence. */
export const photoNames = { image: "image", rows: "S" } as const;

/** What a graph takes of photos: undefined where it has no input for one. `shapes`, `integers`: the other inputs, smallest. */
export function photosOf(
  session: Session,
  shapes: Readonly<Record<string, readonly number[]>>,
  integers: Readonly<Record<string, number>>,
): Takes["photos"] {
  const { plan } = session;
  const channels = sizeOf(plan, plan.inputs, photoNames.image, 2);
  if (!Number.isInteger(channels) || !plan.symbols.some((s) => s.name === photoNames.rows)) return undefined;
  const known = new Map<string, number>();
  const rowsOf = ({ shape }: Tensor<"u8">): number => {
    const key = shape.join();
    const rows = known.get(key) ?? session.layout({ ...shapes, [photoNames.image]: shape }, integers).env[photoNames.rows];
    if (rows === undefined) throw new InputError(`${plan.name} does not say how many rows a photo takes`);
    known.set(key, rows);
    return rows;
  };
  return { channels, rowsOf };
}

/** New rows of a run: tokens, embeddings, and the rows of one photo. */
export class NewRows {
  /** A token's id, or a negative number. */
  readonly ids: number[] = [];
  readonly #engine: Engine;
  #photo: Photo | undefined;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  push(id: number): void {
    const row = id < 0 ? this.#engine.given.get(id) : undefined;
    if (id < 0 && row === undefined) throw new InputError(`there is no row ${id}`);
    if (row !== undefined && "photo" in row) {
      if (this.#photo !== undefined && this.#photo !== row.photo) throw new InputError("a run takes one photo");
      this.#photo = row.photo;
    }
    this.ids.push(id);
  }

  /**
   * As the graphs take them: a token's id; vocabulary + j for row j of `given`; behind these the rows of the photo.
   */
  get rows(): readonly number[] {
    const { vocabulary, given } = this.#engine;
    const embeddings = this.#embeddings.length;
    let next = 0;
    return this.ids.map((id) => {
      if (id >= 0) return id;
      const row = given.get(id);
      return row !== undefined && "photo" in row ? vocabulary + embeddings + row.row : vocabulary + next++;
    });
  }

  get given(): Tensor {
    const { width = 0 } = this.#engine;
    const rows = this.#embeddings;
    const data = new Float32Array(rows.length * width);
    for (const [i, row] of rows.entries()) data.set(row, i * width);
    return { dtype: "f32", shape: [rows.length, width], data };
  }

  /** The photo, or an image of no pixels, which is no picture. */
  get image(): Tensor<"u8"> {
    const shape = [0, 0, this.#engine.photos?.channels ?? 0];
    return this.#photo?.pixels ?? { dtype: "u8", shape, data: new Uint8Array(0) };
  }

  get #embeddings(): readonly Float32Array[] {
    return this.ids.flatMap((id) => {
      const row = id < 0 ? this.#engine.given.get(id) : undefined;
      return row !== undefined && "data" in row ? [row.data] : [];
    });
  }
}

/** A token that a run gave. Throws TextError when there is none because the logits are no numbers. */
export function chosen(session: Session, id: number | undefined): number {
  if (id === undefined) throw new InputError(`${session.plan.name} gave no next token`);
  if (id < 0) throw new TextError("the model's logits are not numbers (NaN or infinity): no token can be chosen");
  return id;
}
