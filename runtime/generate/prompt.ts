// A prompt of tokens and of rows that are no tokens: embeddings that come from elsewhere, and photos, which the graph turns
// into rows itself. Such a row has a negative number in place of an id, the same for the same tensor of embeddings and for
// the same pixels, so that the cache knows it again. Does not know what the cache holds.

import { InputError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";

/** A token's id; rows of embeddings, f32[rows, width]; or, where the graph takes photos, one: u8[height, width, channels]. */
export type PromptPart = number | Tensor<"f32"> | Tensor<"u8">;

/** A photo and the rows that its visual sequence takes. */
export interface Photo {
  readonly pixels: Tensor<"u8">;
  readonly rows: number;
}

/** What a negative number stands for: the elements of a row, or row `row` of a photo. */
export type GivenRow = { readonly data: Float32Array } | { readonly photo: Photo; readonly row: number };

export type GivenRows = ReadonlyMap<number, GivenRow>;

/** What a graph takes beside tokens. */
export interface Takes {
  /** Elements of a row of embeddings; undefined where the graph takes none. */
  readonly width: number | undefined;
  /** Undefined where the graph takes no photos. */
  readonly photos: { readonly channels: number; readonly rowsOf: (pixels: Tensor<"u8">) => number } | undefined;
}

export class Given {
  readonly #takes: Takes;
  readonly #rows = new Map<number, GivenRow>();
  readonly #numbers = new WeakMap<Tensor, readonly number[]>();
  /** Those whose rows are there. */
  #photos: { readonly photo: Photo; readonly ids: readonly number[] }[] = [];
  #next = -1;

  constructor(takes: Takes) {
    this.#takes = takes;
  }

  get rows(): GivenRows {
    return this.#rows;
  }

  /** The numbers that stand for the prompt. Throws InputError for a tensor of another shape, or of a kind that the graph does not take. */
  idsOf(prompt: readonly PromptPart[]): readonly number[] {
    return prompt.flatMap((part) => {
      if (typeof part === "number") return [part];
      return part.dtype === "u8" ? this.#photo(part as Tensor<"u8">) : this.#embeddings(part as Tensor<"f32">);
    });
  }

  /** Forgets the rows that none of these sequences has. */
  keep(ids: readonly number[]): void {
    const kept = new Set(ids);
    // A photo stays as a whole, also where a sequence has been cut within it.
    this.#photos = this.#photos.filter((photo) => photo.ids.some((id) => kept.has(id)));
    for (const id of this.#photos.flatMap((photo) => photo.ids)) kept.add(id);
    for (const id of this.#rows.keys()) if (!kept.has(id)) this.#rows.delete(id);
  }

  /** Which row of a photo a number is; 0 for everything else. */
  rowOfPhoto(id: number | undefined): number {
    const row = id === undefined || id >= 0 ? undefined : this.#rows.get(id);
    return row !== undefined && "photo" in row ? row.row : 0;
  }

  /** How many of these numbers are rows of photos. */
  photoRows(ids: readonly number[]): number {
    return ids.filter((id) => id < 0 && "photo" in (this.#rows.get(id) ?? {})).length;
  }

  #embeddings(tensor: Tensor<"f32">): readonly number[] {
    const [count = 0, own] = tensor.shape;
    const { width } = this.#takes;
    if (width === undefined) throw new InputError("the graph takes no rows of embeddings");
    if (tensor.dtype !== "f32" || tensor.shape.length !== 2 || own !== width)
      throw new InputError(`rows of a prompt are f32[rows, ${width}], not ${tensor.dtype}[${tensor.shape.join(", ")}]`);
    const known = this.#numbers.get(tensor) ?? this.#fresh(count);
    this.#numbers.set(tensor, known);
    for (const [i, id] of known.entries()) this.#rows.set(id, { data: tensor.data.subarray(i * width, (i + 1) * width) });
    return known;
  }

  #photo(pixels: Tensor<"u8">): readonly number[] {
    const { photos } = this.#takes;
    if (photos === undefined) throw new InputError("the graph takes no photos");
    if (pixels.shape.length !== 3 || pixels.shape[2] !== photos.channels)
      throw new InputError(`a photo is u8[height, width, ${photos.channels}], not u8[${pixels.shape.join(", ")}]`);
    const known = this.#photos.find(({ photo }) => samePixels(photo.pixels, pixels));
    if (known !== undefined) return known.ids;
    const photo: Photo = { pixels, rows: photos.rowsOf(pixels) };
    const ids = this.#fresh(photo.rows);
    for (const [row, id] of ids.entries()) this.#rows.set(id, { photo, row });
    this.#photos.push({ photo, ids });
    return ids;
  }

  #fresh(count: number): readonly number[] {
    return Array.from({ length: count }, () => this.#next--);
  }
}

/** The same file decoded twice is one photo. */
function samePixels(a: Tensor<"u8">, b: Tensor<"u8">): boolean {
  if (a.shape.join() !== b.shape.join()) return false;
  return a.data === b.data || a.data.every((value, i) => value === b.data[i]);
}

/** Where the photos among `ids` end: the places behind their last rows, in order. */
export function photoEnds(ids: readonly number[], given: GivenRows): readonly number[] {
  return ids.flatMap((id, i) => {
    const row = id < 0 ? given.get(id) : undefined;
    return row !== undefined && "photo" in row && row.row === row.photo.rows - 1 ? [i + 1] : [];
  });
}
