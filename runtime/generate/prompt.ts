// A prompt of tokens and of rows that are no tokens: embeddings that come from elsewhere, as the visual sequence of a
// picture does. Such a row has a negative number in place of an id, the same for the same tensor, so that the cache knows
// it again.

import { InputError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";

/** A token's id, or rows of embeddings: f32[rows, width]. */
export type PromptPart = number | Tensor<"f32">;

/** By its number, the elements of a row. */
export type GivenRows = ReadonlyMap<number, Float32Array>;

export class Given {
  readonly #width: number;
  readonly #rows = new Map<number, Float32Array>();
  readonly #numbers = new WeakMap<Tensor, readonly number[]>();
  #next = -1;

  constructor(width: number) {
    this.#width = width;
  }

  get rows(): GivenRows {
    return this.#rows;
  }

  /** The numbers that stand for the prompt. Throws InputError for a tensor of another shape. */
  idsOf(prompt: readonly PromptPart[]): readonly number[] {
    return prompt.flatMap((part) => (typeof part === "number" ? [part] : this.#numbersOf(part)));
  }

  /** Forgets the rows that none of these sequences has. */
  keep(ids: readonly number[]): void {
    const kept = new Set(ids);
    for (const id of this.#rows.keys()) if (!kept.has(id)) this.#rows.delete(id);
  }

  #numbersOf(tensor: Tensor<"f32">): readonly number[] {
    const [count = 0, width] = tensor.shape;
    if (tensor.dtype !== "f32" || tensor.shape.length !== 2 || width !== this.#width)
      throw new InputError(`rows of a prompt are f32[rows, ${this.#width}], not ${tensor.dtype}[${tensor.shape.join(", ")}]`);
    const known = this.#numbers.get(tensor) ?? Array.from({ length: count }, () => this.#next--);
    this.#numbers.set(tensor, known);
    for (const [i, id] of known.entries()) this.#rows.set(id, tensor.data.subarray(i * width, (i + 1) * width));
    return known;
  }
}
