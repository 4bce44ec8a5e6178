// The tolerances that ops share, each with its reason. `unit` is half the distance between neighbouring f32
// numbers near 1: the error of one correctly rounded operation.

import type { Tolerance } from "./define.ts";

export const unit = 2 ** -24;

export const exact: Tolerance = {
  absolute: 0,
  relative: 0,
  why: "The result is one of the inputs, an integer or a bool: nothing is rounded.",
};

export const rounded: Tolerance = {
  absolute: 1e-45,
  relative: unit,
  why: "One operation, correctly rounded to f32; below the normal numbers the spacing is 1.4e-45.",
};

/** A few roundings more than one. */
export function few(roundings: number, why: string, absolute = 1e-38): Tolerance {
  return { absolute, relative: roundings * unit, why };
}

/** For sums whose terms cancel: the error scales with the terms, not with the result. */
export function ofLargest(relative: number, absolute: number, why: string): Tolerance {
  return { absolute, relative, ofMax: true, why };
}
