// How property tests run: how many cases, from which seed, and what a failure says. `UHD_PROPERTY_RUNS` sets the
// number of cases (at least 200 otherwise) and `UHD_PROPERTY_SEED` repeats a run.

import * as fc from "fast-check";

/** Cases for each property. */
export const runs = Math.max(1, Number(process.env.UHD_PROPERTY_RUNS ?? 200) || 200);

/** The seed of every property of this run; fast-check prints it, with the path to the shrunk case, when one fails. */
export const seed = Number(process.env.UHD_PROPERTY_SEED ?? Date.now() & 0x7fffffff) | 0;

/** Checks `holds` on generated values; `atMost` bounds the cases of costly properties. Shrinking is on. */
export function property<T>(values: fc.Arbitrary<T>, holds: (value: T) => void, atMost = Infinity): void {
  fc.assert(fc.property(values, holds), { numRuns: Math.min(runs, atMost), seed });
}
