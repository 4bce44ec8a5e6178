// Beam search, as Hugging Face's generate does it with num_beams and do_sample false: scores are sums of logarithms of
// probabilities; an answer that ends is kept with its score divided by its length to the power of the length penalty. The
// beams share rows of the cache, so that going on from another beam moves nothing on the device.

import type { Candidates } from "./engine.ts";
import type { Settings } from "./options.ts";

export interface Beam<T> {
  readonly state: T;
  readonly score: number;
}

/** A beam's continuation by one token. */
export interface Step {
  readonly beam: number;
  readonly id: number;
  readonly score: number;
}

export interface Answer<T> {
  readonly state: T;
  /** The sum over the length's power. */
  readonly score: number;
}

/** Answers that have ended, the `numBeams` best of them. */
export class Answers<T> {
  readonly #settings: Settings;
  readonly #list: Answer<T>[] = [];

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  get count(): number {
    return this.#list.length;
  }

  get best(): Answer<T> | undefined {
    return this.#list.reduce<Answer<T> | undefined>((best, a) => (best === undefined || a.score >= best.score ? a : best), undefined);
  }

  /** `length` is in tokens of the answer, its end included. True when it is among the best so far. */
  add(state: T, sum: number, length: number): boolean {
    const score = this.#over(sum, length);
    const { numBeams } = this.#settings;
    if (this.#list.length >= numBeams && score <= this.#worst) return false;
    this.#list.push({ state, score });
    if (this.#list.length > numBeams)
      this.#list.splice(
        this.#list.findIndex((a) => a.score === this.#worst),
        1,
      );
    return true;
  }

  /** Whether no beam can be better any more: `best` is the largest sum of the step, at `length` tokens. */
  isDone(best: number, length: number): boolean {
    const { numBeams, earlyStopping, lengthPenalty, maximumTokens } = this.#settings;
    if (this.#list.length < numBeams) return false;
    if (earlyStopping === true) return true;
    const longest = earlyStopping === "never" && lengthPenalty > 0 ? maximumTokens : length;
    return this.#worst >= this.#over(best, longest);
  }

  get #worst(): number {
    return this.#list.reduce((least, a) => Math.min(least, a.score), Infinity);
  }

  #over(sum: number, length: number): number {
    return sum / length ** this.#settings.lengthPenalty;
  }
}

/**
 * The likeliest continuations of all beams together, likeliest first: twice as many as there will be beams, or more where
 * several tokens end an answer, so that enough go on.
 */
export function continuations(beams: readonly Beam<unknown>[], candidates: readonly Candidates[], count: number): readonly Step[] {
  const all = beams.flatMap(({ score }, beam) =>
    (candidates[beam]?.ids ?? []).map((id, i): Step => ({ beam, id, score: score + (candidates[beam]?.scores[i] ?? -Infinity) })),
  );
  // Of equal scores the one of the earlier beam, then the lower id.
  return all.sort((a, b) => b.score - a.score || a.beam - b.beam || a.id - b.id).slice(0, count);
}

/** How many continuations a step looks at. */
export const continuationCount = (numBeams: number, ends: number): number => Math.max(2, 1 + ends) * numBeams;
