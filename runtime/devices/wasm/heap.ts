// Hands out address ranges of one linear memory: best fit, neighbours merged when freed. Keeps books
// only; it never touches the memory, so a range costs nothing until somebody writes to it.

import { formatBytes, ResourceError } from "../../errors.ts";

/** Every range starts on a cache line, and ends with this much readable space that belongs to nobody. */
export const alignment = 64;
const slack = 64;

export function alignUp(value: number): number {
  return Math.ceil(value / alignment) * alignment;
}

interface Gap {
  readonly start: number;
  readonly size: number;
}

export class Heap {
  readonly #base: number;
  readonly #limit: number;
  /** Free ranges below #top, by address, never adjacent to each other or to #top. */
  #gaps: Gap[] = [];
  /** Everything from here to the limit is free. */
  #top: number;
  readonly #sizes = new Map<number, number>();
  #used = 0;

  /** Addresses in [base, limit). */
  constructor(base: number, limit: number) {
    this.#base = alignUp(base);
    this.#limit = limit;
    this.#top = this.#base;
  }

  /** Bytes in use, rounding and slack included. */
  get used(): number {
    return this.#used;
  }

  /** The end of the highest range in use. */
  get top(): number {
    return this.#top;
  }

  /** The address of `bytes` bytes. Throws ResourceError when no range is long enough. */
  alloc(bytes: number): number {
    if (!Number.isSafeInteger(bytes) || bytes < 0) throw new RangeError(`cannot allocate ${bytes} bytes`);
    const size = alignUp(bytes + slack);
    let best = -1;
    for (const [i, gap] of this.#gaps.entries()) {
      if (gap.size >= size && (best < 0 || gap.size < (this.#gaps[best]?.size ?? Infinity))) best = i;
    }
    const gap = this.#gaps[best];
    let start: number;
    if (gap !== undefined) {
      start = gap.start;
      if (gap.size === size) this.#gaps.splice(best, 1);
      else this.#gaps[best] = { start: gap.start + size, size: gap.size - size };
    } else {
      start = this.#top;
      const free = this.#limit - start;
      if (size > free) {
        throw new ResourceError(
          `${formatBytes(bytes)} cannot be allocated: ${formatBytes(free)} of ${formatBytes(this.#limit)} are left`,
          size,
          free,
        );
      }
      this.#top += size;
    }
    this.#sizes.set(start, size);
    this.#used += size;
    return start;
  }

  /** Returns a range that `alloc` gave. */
  free(start: number): void {
    const size = this.#sizes.get(start);
    if (size === undefined) throw new RangeError(`nothing is allocated at ${start}`);
    this.#sizes.delete(start);
    this.#used -= size;
    let at = this.#gaps.findIndex((gap) => gap.start > start);
    if (at < 0) at = this.#gaps.length;
    const before = this.#gaps[at - 1];
    const after = this.#gaps[at];
    const joinsBefore = before !== undefined && before.start + before.size === start;
    const joinsAfter = after !== undefined && start + size === after.start;
    const from = joinsBefore ? before.start : start;
    const to = joinsAfter ? after.start + after.size : start + size;
    this.#gaps.splice(joinsBefore ? at - 1 : at, Number(joinsBefore) + Number(joinsAfter), { start: from, size: to - from });
    if (to === this.#top) {
      this.#gaps.pop();
      this.#top = from;
    }
  }
}
