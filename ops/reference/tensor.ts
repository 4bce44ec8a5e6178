// Concrete tensors of the float64 reference: counting, strides and tabulation. Written for clarity, not speed.

import type { DType } from "../../compiler/ir/dtype.ts";
import type { RefTensor } from "../define.ts";

export function countOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

/** Row-major strides in elements. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = (strides[i + 1] ?? 1) * (shape[i + 1] ?? 1);
  return strides;
}

/** Element `i` of a list that has it. */
export function item<T>(list: ArrayLike<T>, i: number): T {
  const value = list[i];
  if (value === undefined || i < 0) throw new RangeError(`index ${i} is outside 0 … ${list.length - 1}`);
  return value;
}

/** A tensor from its elements in row-major order. */
export function tensor(dtype: DType, shape: readonly number[], data: ArrayLike<number>): RefTensor {
  if (data.length !== countOf(shape)) throw new RangeError(`${data.length} elements do not fill [${shape.join(", ")}]`);
  return { dtype, shape, data: Float64Array.from(data) };
}

/** Calls `visit` for every position, row-major. The index array is reused between calls. */
export function forEachIndex(shape: readonly number[], visit: (index: readonly number[], linear: number) => void): void {
  const total = countOf(shape);
  const index = new Array<number>(shape.length).fill(0);
  for (let linear = 0; linear < total; linear++) {
    visit(index, linear);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const next = item(index, axis) + 1;
      if (next < item(shape, axis)) {
        index[axis] = next;
        break;
      }
      index[axis] = 0;
    }
  }
}

/** The tensor whose element at each position is `f(index)`. */
export function tabulate(dtype: DType, shape: readonly number[], f: (index: readonly number[], linear: number) => number): RefTensor {
  const data = new Float64Array(countOf(shape));
  forEachIndex(shape, (index, linear) => {
    data[linear] = f(index, linear);
  });
  return { dtype, shape, data };
}

/** The element at `index`, which must be inside. */
export function elementAt(t: RefTensor, index: readonly number[]): number {
  let linear = 0;
  for (let axis = 0; axis < t.shape.length; axis++) {
    const size = item(t.shape, axis);
    const at = item(index, axis);
    if (at < 0 || at >= size || !Number.isInteger(at))
      throw new RangeError(`position [${index.join(", ")}] is outside [${t.shape.join(", ")}]`);
    linear = linear * size + at;
  }
  return item(t.data, linear);
}

/** Splits a shape at `axis` into the counts before, at and after it. */
export function around(shape: readonly number[], axis: number): { readonly outer: number; readonly size: number; readonly inner: number } {
  return { outer: countOf(shape.slice(0, axis)), size: item(shape, axis), inner: countOf(shape.slice(axis + 1)) };
}
