// In which order records are trained on: grouped by modality and length as the reference does it, so that the samples of
// one step take about equally long, and decided by a seed and the number of the epoch. Reads no records.

import { permutation, randomStream, type RandomStream } from "./random.ts";

export interface OrderOptions {
  readonly seed: number;
  /** Samples that one run of the graph takes. */
  readonly batch: number;
  /** Runs whose gradients make one step: the reference's devices times its accumulation. */
  readonly shards: number;
}

/** Length of a record: its words, negative when it has no picture. Never 0. */
export type ModalityLength = number;

/** Every record once. */
export function epochOrder(lengths: readonly ModalityLength[], epoch: number, options: OrderOptions): readonly number[] {
  const random = randomStream(options.seed, `order:${epoch}`);
  const places = lengths.map((_, i) => i);
  const withPicture = places.filter((i) => (lengths[i] ?? 0) > 0);
  const text = places.filter((i) => (lengths[i] ?? 0) <= 0);
  if (withPicture.length === 0 || text.length === 0) return grouped(places, lengths, options, random).flat();
  const size = options.batch * options.shards;
  // Every megabatch but the last of each modality has one modality; the two rests go together at the end.
  const pictures = chunks(grouped(withPicture, lengths, options, random).flat(), size);
  const texts = chunks(grouped(text, lengths, options, random).flat(), size);
  const rest = [...(pictures.at(-1) ?? []), ...(texts.at(-1) ?? [])].sort((a, b) => a - b);
  const full = [...pictures.slice(0, -1), ...texts.slice(0, -1)];
  return [...permutation(full.length, random).flatMap((i) => full[i] ?? []), ...rest];
}

/** Random megabatches, each sorted by length and dealt to the shards; the shards one after the other. */
function grouped(
  places: readonly number[],
  lengths: readonly ModalityLength[],
  { batch, shards }: OrderOptions,
  random: RandomStream,
): readonly (readonly number[])[] {
  const length = (i: number): number => Math.abs(lengths[i] ?? 0);
  const shuffled = permutation(places.length, random).map((i) => places[i] ?? 0);
  return chunks(shuffled, batch * shards).map((mega) =>
    dealt(
      mega.toSorted((a, b) => length(b) - length(a)),
      length,
      shards,
    ).flat(),
  );
}

/** Equally many to each shard, each to the one with the least words so far that is not full. */
function dealt(sorted: readonly number[], length: (i: number) => number, shards: number): readonly (readonly number[])[] {
  if (sorted.length % shards !== 0) return Array.from({ length: shards }, (_, s) => sorted.filter((_, i) => i % shards === s));
  const each = sorted.length / shards;
  const lists = Array.from({ length: shards }, (): number[] => []);
  const loads = lists.map(() => 0);
  for (const i of sorted) {
    const shortest = loads.indexOf(Math.min(...loads));
    lists[shortest]?.push(i);
    loads[shortest] = lists[shortest]?.length === each ? Infinity : (loads[shortest] ?? 0) + length(i);
  }
  return lists;
}

function chunks(list: readonly number[], size: number): readonly (readonly number[])[] {
  return Array.from({ length: Math.ceil(list.length / size) }, (_, i) => list.slice(i * size, (i + 1) * size));
}
