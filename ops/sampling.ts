// Generators that the samples of many ops share. fast-check is passed in, so that the table can be loaded
// without it.

import type * as FastCheck from "fast-check";
import { dim } from "../compiler/ir/dim.ts";
import type { DType } from "../compiler/ir/dtype.ts";
import type { Attrs, TensorType } from "../compiler/ir/graph/types.ts";
import type { OpSample, RefTensor } from "./define.ts";
import { countOf, tensor } from "./reference/tensor.ts";

export type FC = typeof FastCheck;
export type Arb<T> = FastCheck.Arbitrary<T>;

/** Numbers between min and max, rounded to f32 as every input is. Shrinks toward 0 when 0 is inside. */
export function reals(fc: FC, min: number, max: number): Arb<number> {
  return fc.integer({ min: Math.ceil(min * 1000), max: Math.floor(max * 1000) }).map((i) => Math.fround(i / 1000));
}

/** Numbers between min and max in absolute value, of either sign: away from 0. */
export function awayFromZero(fc: FC, min: number, max: number): Arb<number> {
  return fc.tuple(fc.boolean(), reals(fc, min, max)).map(([negative, x]) => (negative ? -x : x));
}

/** NaN, infinities, signed zeros, the smallest and the largest magnitudes, and halves where rounding ties. */
export const specials: readonly number[] = [
  NaN,
  Infinity,
  -Infinity,
  0,
  -0,
  1,
  -1,
  0.5,
  -0.5,
  1.5,
  -2.5,
  Math.fround(1e-45),
  Math.fround(-1.2e-38),
  Math.fround(3.4e38),
  -4194304.5,
  16777216,
];

/** Ordinary numbers in a range mixed with special ones. */
export function edgy(fc: FC, min: number, max: number, special: readonly number[] = specials): Arb<number> {
  return fc.oneof({ weight: 2, arbitrary: reals(fc, min, max) }, { weight: 3, arbitrary: fc.constantFrom(...special) });
}

/** 32-bit integers: mostly small, sometimes the extremes. */
export function integers(fc: FC): Arb<number> {
  return fc.oneof(
    { weight: 4, arbitrary: fc.integer({ min: -100, max: 100 }) },
    { weight: 1, arbitrary: fc.constantFrom(-2147483648, 2147483647, -1, 0, 1, 65536, -46341) },
  );
}

/** Any element of a dtype that is not a float. */
export function exactElements(fc: FC, dtype: DType): Arb<number> {
  switch (dtype) {
    case "u8":
      return fc.integer({ min: 0, max: 255 });
    case "i8":
      return fc.integer({ min: -128, max: 127 });
    case "bool":
      return fc.integer({ min: 0, max: 1 });
    case "i32":
      return integers(fc);
    case "f32":
    case "f16":
    case "bf16":
      return fc.integer({ min: -64, max: 64 }).map((x) => x / 8);
    default:
      return dtype satisfies never;
  }
}

/** A tensor of a given shape from a generator of elements. */
export function tensorOf(fc: FC, dtype: DType, shape: readonly number[], element: Arb<number>): Arb<RefTensor> {
  const n = countOf(shape);
  return fc.array(element, { minLength: n, maxLength: n }).map((data) => tensor(dtype, shape, data));
}

/** Sizes from 0 up: 1 and small sizes often, 0 sometimes. */
export function size(fc: FC, max = 5, min = 0): Arb<number> {
  return min > 0
    ? fc.integer({ min, max })
    : fc.oneof(
        { weight: 1, arbitrary: fc.constant(0) },
        { weight: 3, arbitrary: fc.constant(1) },
        { weight: 12, arbitrary: fc.integer({ min: 1, max }) },
      );
}

/** Shapes of minRank to maxRank dimensions. */
export function shapes(fc: FC, minRank: number, maxRank: number, max = 5, min = 0): Arb<number[]> {
  return fc.array(size(fc, max, min), { minLength: minRank, maxLength: maxRank });
}

/** Shapes for elementwise ops: up to three small dimensions, or one long enough for vectors and their tails. */
export function elementwiseShapes(fc: FC): Arb<number[]> {
  return fc.oneof({ weight: 3, arbitrary: shapes(fc, 0, 3) }, { weight: 1, arbitrary: fc.integer({ min: 6, max: 37 }).map((n) => [n]) });
}

/** The symbolic type of a concrete tensor. */
export function typeOfTensor(t: RefTensor): TensorType {
  return { dtype: t.dtype, shape: t.shape.map(dim) };
}

/** A call at which the derivative exists and is compared. */
export function smooth(operands: readonly RefTensor[], attrs: Attrs = {}): OpSample {
  return { operands, attrs, smooth: true };
}

/** A call on a kink or beyond the finite numbers: values are compared, derivatives are not. */
export function rough(operands: readonly RefTensor[], attrs: Attrs = {}): OpSample {
  return { operands, attrs, smooth: false };
}
