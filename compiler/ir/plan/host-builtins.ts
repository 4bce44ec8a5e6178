// The built-in functions of shape code, with their static signatures in a small notation that the checker
// reads: int, float, bool, string; `num` (int or float, the wider of the arguments); `T`, `U` (any type);
// [X] lists, (X, Y) tuples, {a: X} records; a trailing `…` repeats the last parameter.

import type { HostValue } from "./host.ts";

export interface HostBuiltin {
  readonly signature: string;
  readonly doc: string;
  readonly run: (...args: readonly HostValue[]) => HostValue;
}

type Numbers = (...args: readonly number[]) => number;

const numeric = (signature: string, doc: string, f: Numbers): HostBuiltin => ({
  signature,
  doc,
  run: (...args) => f(...(args as readonly number[])),
});

/** To an integer; beyond float64's exact integers there is none. */
function whole(f: (x: number) => number): Numbers {
  return (x) => {
    const value = f(x ?? NaN);
    if (!Number.isSafeInteger(value)) throw new RangeError(`${String(x)} has no exact integer`);
    // -0 has no place among integers.
    return value + 0;
  };
}

/** Nearest integer, halves to the even one. */
export function roundHalfEven(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  return rest < 0.5 || (rest === 0.5 && down % 2 === 0) ? down : down + 1;
}

function list(value: HostValue | undefined): readonly HostValue[] {
  if (!Array.isArray(value)) throw new RangeError("expected a list");
  return value as readonly HostValue[];
}

function numbers(args: readonly HostValue[], what: string): readonly number[] {
  const all = (args.length === 1 && Array.isArray(args[0]) ? args[0] : args) as readonly number[];
  if (all.length === 0) throw new RangeError(`${what} of an empty list`);
  return all;
}

/** Pillow's BICUBIC (a = -0.5) at `x`. */
function pillowKernel(x: number): number {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

/** Bits after the point of Pillow's fixed-point weights (Resample.c: 32 − 8 − 2). */
const pillowBits = 22;

/**
 * Taps of Pillow's 8-bit bicubic resize of `input` samples to `output`, for output positions from … to-1:
 * first source sample and 22-bit fixed-point weights of each. Source: Pillow src/libImaging/Resample.c,
 * precompute_coeffs and normalize_coeffs_8bpc.
 */
export function pillowTaps(
  input: number,
  output: number,
  from: number,
  to: number,
): { start: number[]; weight: number[][]; count: number } {
  if (!(input >= 1 && output >= 1 && from >= 0 && to <= output && to - from <= 1_000_000)) {
    throw new RangeError(`pillow_taps(${input}, ${output}, ${from}, ${to}): sizes must be at least 1 and 0 ≤ from ≤ to ≤ output`);
  }
  const scale = input / output;
  const filterScale = Math.max(scale, 1);
  const support = 2 * filterScale;
  const start: number[] = [];
  const weight: number[][] = [];
  let count = 0;
  for (let i = from; i < to; i++) {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(input, Math.trunc(center + support + 0.5));
    const k: number[] = [];
    let sum = 0;
    for (let x = first; x < last; x++) {
      const w = pillowKernel((x - center + 0.5) / filterScale);
      k.push(w);
      sum += w;
    }
    start.push(first);
    weight.push(k.map((w) => Math.trunc((w / sum) * 2 ** pillowBits + (w / sum < 0 ? -0.5 : 0.5))));
    count = Math.max(count, k.length);
  }
  return { start, weight, count };
}

/** Cubic convolution (a = -0.75) of `input` samples at `output` positions: pixel centres, clamped border, no antialias (as PyTorch's bicubic). */
export function bicubicTaps(input: number, output: number): { index: number[][]; weight: number[][] } {
  if (!(input >= 1 && output >= 0 && output <= 1_000_000))
    throw new RangeError(`bicubic_taps(${input}, ${output}): sizes must be at least 1`);
  const a = -0.75;
  const near = (x: number): number => ((a + 2) * x - (a + 3)) * x * x + 1;
  const far = (x: number): number => ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  const index: number[][] = [];
  const weight: number[][] = [];
  for (let i = 0; i < output; i++) {
    const x = (i + 0.5) * (input / output) - 0.5;
    const base = Math.floor(x);
    const t = x - base;
    index.push([-1, 0, 1, 2].map((k) => Math.max(0, Math.min(input - 1, base + k))));
    weight.push([far(t + 1), near(t), near(1 - t), far(2 - t)]);
  }
  return { index, weight };
}

const taps = "{start: [int], weight: [[int]], count: int}";

export const hostBuiltins: Readonly<Record<string, HostBuiltin>> = {
  ceil: numeric("(num) -> int", "the least integer not below", whole(Math.ceil)),
  floor: numeric("(num) -> int", "the greatest integer not above", whole(Math.floor)),
  trunc: numeric("(num) -> int", "the integer part", whole(Math.trunc)),
  round: numeric("(num) -> int", "the nearest integer, halves to the even one", whole(roundHalfEven)),
  float: numeric("(num) -> float", "the same number as a float", (x) => x ?? NaN),
  abs: numeric("(num) -> num", "the magnitude", (x) => Math.abs(x ?? NaN)),
  sqrt: numeric("(num) -> float", "the square root", (x) => Math.sqrt(x ?? NaN)),
  exp: numeric("(num) -> float", "e to the power", (x) => Math.exp(x ?? NaN)),
  ln: numeric("(num) -> float", "the natural logarithm", (x) => Math.log(x ?? NaN)),
  sin: numeric("(num) -> float", "the sine", (x) => Math.sin(x ?? NaN)),
  cos: numeric("(num) -> float", "the cosine", (x) => Math.cos(x ?? NaN)),
  clamp: numeric("(num, num, num) -> num", "clamp(x, low, high)", (x, low, high) => Math.min(Math.max(x ?? NaN, low ?? NaN), high ?? NaN)),
  min: {
    signature: "(num…) -> num",
    doc: "the least of its arguments, or of a list",
    run: (...args) => numbers(args, "min").reduce((a, b) => Math.min(a, b)),
  },
  max: {
    signature: "(num…) -> num",
    doc: "the greatest of its arguments, or of a list",
    run: (...args) => numbers(args, "max").reduce((a, b) => Math.max(a, b)),
  },
  sum: {
    signature: "([num]) -> num",
    doc: "the sum of a list; 0 when empty",
    run: (xs) => (list(xs) as readonly number[]).reduce((a, b) => a + b, 0),
  },
  len: { signature: "([T]) -> int", doc: "how many elements", run: (xs) => list(xs).length },
  flatten: { signature: "([[T]]) -> [T]", doc: "the lists of a list, one after the other", run: (xs) => list(xs).flatMap((x) => list(x)) },
  zip: {
    signature: "([T], [U]) -> [(T, U)]",
    doc: "pairs of elements at the same place; the lists must be equally long",
    run: (xs, ys) => {
      const right = list(ys);
      if (list(xs).length !== right.length) throw new RangeError(`lists of ${list(xs).length} and ${right.length}`);
      return list(xs).map((x, i) => [x, right[i] as HostValue]);
    },
  },
  enumerate: { signature: "([T]) -> [(int, T)]", doc: "each element with its place, from 0", run: (xs) => list(xs).map((x, i) => [i, x]) },
  offsets: {
    signature: "([int]) -> [int]",
    doc: "running sums from 0: where each segment starts, and the total",
    run: (xs) => {
      const out = [0];
      for (const x of list(xs)) out.push((out.at(-1) ?? 0) + (x as number));
      return out;
    },
  },
  fill: {
    signature: "(int, T) -> [T]",
    doc: "n times the same",
    run: (n, value) => {
      if (!(typeof n === "number" && n >= 0 && n <= 20_000_000) || value === undefined)
        throw new RangeError(`a list of ${String(n)} elements`);
      return new Array<HostValue>(n).fill(value);
    },
  },
  pillow_taps: {
    signature: `(int, int, int, int) -> ${taps}`,
    doc: "pillow_taps(input, output, from, to): Pillow's 8-bit bicubic taps of output positions from … to-1, weights with 22 fractional bits",
    run: (a, b, c, d) => pillowTaps(a as number, b as number, c as number, d as number),
  },
  bicubic_taps: {
    signature: "(int, int) -> {index: [[int]], weight: [[float]]}",
    doc: "bicubic_taps(input, output): four taps a position, a = -0.75, clamped border, no antialias",
    run: (a, b) => bicubicTaps(a as number, b as number),
  },
};
