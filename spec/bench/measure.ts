// Times several ways to do one thing, interleaved: ours, peer, ours, peer … so that a noisy machine is noisy for all.
// Knows nothing of what is timed.

import { setTimeout as sleep } from "node:timers/promises";

export interface Contestant {
  readonly name: string;
  readonly run: () => Promise<unknown>;
  /** Milliseconds of one run, where they are not those until `run` is done; then each round has one. */
  readonly timed?: () => Promise<number>;
}

export interface Effort {
  readonly rounds: number;
  /** No new round begins after this many milliseconds, once there were `least`. */
  readonly budget: number;
  readonly least: number;
  /** A round repeats what is shorter than this, in milliseconds. */
  readonly atLeast: number;
  /** Each runs for this many milliseconds before timing; 0 for what was slow and has run already. */
  readonly warmUp: number;
}

/** Median and quartiles. */
export interface Spread {
  readonly median: number;
  readonly lower: number;
  readonly upper: number;
}

/** Thread pools spin for a while after a run; what is timed next should not share the cores with them. */
const settle = 30;

/** Milliseconds of one run in each round, for each contestant in order. `now` is the clock, in milliseconds. */
export async function interleaved(
  contestants: readonly Contestant[],
  effort: Effort,
  onRound: (round: number) => void = () => undefined,
  now: () => number = () => performance.now(),
): Promise<readonly (readonly number[])[]> {
  const repeats: number[] = [];
  for (const { run } of contestants) {
    const begin = now();
    let last = Infinity;
    while (now() - begin < effort.warmUp) {
      const before = now();
      await run();
      last = now() - before;
    }
    repeats.push(Math.max(1, Math.ceil(effort.atLeast / Math.max(last, 1e-3))));
  }
  const times: number[][] = contestants.map(() => []);
  const begin = now();
  for (let round = 0; round < effort.rounds; round++) {
    if (round >= effort.least && now() - begin > effort.budget) break;
    onRound(round);
    for (const [i, { run, timed }] of contestants.entries()) {
      await sleep(settle);
      if (timed !== undefined) {
        times[i]?.push(await timed());
        continue;
      }
      const count = repeats[i] ?? 1;
      const before = now();
      for (let k = 0; k < count; k++) await run();
      times[i]?.push((now() - before) / count);
    }
  }
  return times;
}

/** Quantiles between neighbours are interpolated. */
export function spread(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (q: number): number => {
    const place = q * (sorted.length - 1);
    const below = sorted[Math.floor(place)] ?? NaN;
    const above = sorted[Math.ceil(place)] ?? NaN;
    return below + (above - below) * (place - Math.floor(place));
  };
  return { median: at(0.5), lower: at(0.25), upper: at(0.75) };
}

interface Difference {
  /** Largest absolute difference. */
  readonly largest: number;
  /** The largest magnitude among the expected values. */
  readonly scale: number;
}

/** NaN anywhere makes the difference infinite. */
export function difference(found: Float32Array, expected: Float32Array): Difference {
  if (found.length !== expected.length) throw new Error(`${found.length} elements instead of ${expected.length}`);
  let largest = 0;
  let scale = 0;
  for (let i = 0; i < found.length; i++) {
    const e = expected[i] ?? NaN;
    const d = Math.abs((found[i] ?? NaN) - e);
    if (Number.isNaN(d)) return { largest: Infinity, scale };
    if (d > largest) largest = d;
    if (Math.abs(e) > scale) scale = Math.abs(e);
  }
  return { largest, scale };
}

/** Throws when the two differ by more than `tolerance` of the largest value. */
export function mustAgree(what: string, found: Float32Array, expected: Float32Array, tolerance: number): Difference {
  const d = difference(found, expected);
  // An infinite value of ours would allow every difference.
  if (!(d.largest <= tolerance * d.scale) || d.scale === Infinity)
    throw new Error(
      `${what}: the results differ by ${d.largest.toExponential(2)}; values go up to ${d.scale.toPrecision(3)}, ${tolerance} of that is allowed`,
    );
  return d;
}
