// A conversation as what the model reads, in order: tokens, and photos among them. Says what of it a cache has already,
// and cuts the rest into pieces with one photo at most, which is what a run of graphs/llava-uhd-chat.uhd takes. Does not
// know sessions.

import { TextError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import { imagePlaceholder } from "../text/prompt.ts";

/** A photo and the rows that its visual sequence takes. */
export interface Shown {
  readonly photo: Tensor<"u8">;
  readonly rows: number;
}

/** A token's id, or a photo. */
export type Entry = number | Shown;

/** What one run is given: ids, and a photo whose rows stand before id `at`. */
export interface Piece {
  readonly ids: readonly number[];
  readonly shown: Shown | undefined;
  readonly at: number;
}

/** Puts the photos in the places of their placeholders. Throws TextError when there are not as many. */
export function entriesOf(ids: readonly number[], shown: readonly Shown[]): readonly Entry[] {
  let next = 0;
  const entries = ids.map((id): Entry => {
    if (id !== imagePlaceholder) return id;
    const photo = shown[next++];
    if (photo === undefined) throw new TextError(`an image token without an image: there are only ${shown.length} images`);
    return photo;
  });
  if (next !== shown.length) throw new TextError(`an image without an image token: ${shown.length} images and ${next} image tokens`);
  return entries;
}

export function rowsOf(entries: readonly Entry[]): number {
  return entries.reduce<number>((sum, entry) => sum + (typeof entry === "number" ? 1 : entry.rows), 0);
}

/** How many of `wanted` the cache begins with. The last is never among them, since what follows it is asked for. */
export function commonPrefix(cached: readonly Entry[], wanted: readonly Entry[]): number {
  let count = 0;
  while (count < wanted.length - 1 && same(cached[count], wanted[count])) count++;
  return count;
}

function same(a: Entry | undefined, b: Entry | undefined): boolean {
  if (typeof a !== "object" || typeof b !== "object") return a === b;
  return a === b || samePhoto(a.photo, b.photo);
}

/** By their pixels: the same file decoded twice is one photo. */
function samePhoto(a: Tensor<"u8">, b: Tensor<"u8">): boolean {
  if (a.data === b.data) return a.shape.join() === b.shape.join();
  return a.shape.join() === b.shape.join() && a.data.every((value, i) => value === b.data[i]);
}

/** A photo goes with the ids before it; those behind the last photo go with it too. Pieces are not empty. */
export function piecesOf(entries: readonly Entry[]): readonly Piece[] {
  const pieces: Piece[] = [];
  let ids: number[] = [];
  let shown: Shown | undefined;
  let at = 0;
  for (const entry of entries) {
    if (typeof entry === "number") {
      ids.push(entry);
      continue;
    }
    // The ids between two photos go with the second.
    if (shown !== undefined) {
      pieces.push({ ids: ids.slice(0, at), shown, at });
      ids = ids.slice(at);
    }
    shown = entry;
    at = ids.length;
  }
  if (ids.length > 0 || shown !== undefined) pieces.push({ ids, shown, at });
  return pieces;
}
