// Tensors as callers see them: a dtype, a shape, and the elements in a typed array. Does not compute.

import { bytesOf, type DType } from "../compiler/ir/dtype.ts";

/** The array that holds elements of each dtype. f16 and bf16 are their 16 bits; bool is 0 or 1. */
export interface ArrayOf {
  f32: Float32Array;
  f16: Uint16Array;
  bf16: Uint16Array;
  u8: Uint8Array;
  i8: Int8Array;
  i32: Int32Array;
  bool: Uint8Array;
}

/** Row-major; `data.length` is the product of `shape`. */
export interface Tensor<D extends DType = DType> {
  readonly dtype: D;
  readonly shape: readonly number[];
  readonly data: ArrayOf[D];
}

/** Makes the array of a dtype over bytes of a buffer. */
export const arrays: { readonly [D in DType]: new (buffer: ArrayBufferLike, offset: number, length: number) => ArrayOf[D] } = {
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  u8: Uint8Array,
  i8: Int8Array,
  i32: Int32Array,
  bool: Uint8Array,
};

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((n, d) => n * d, 1);
}

/** `f32[4, 3]` */
export function typeText(dtype: string, shape: readonly (number | string)[]): string {
  return `${dtype}[${shape.join(", ")}]`;
}

/** The tensor's elements as bytes, without a copy. */
export function bytesOfTensor(tensor: Tensor): Uint8Array {
  return new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
}

/** A tensor over `bytes`, which must be aligned to the element and hold exactly the shape's elements. */
export function tensorFromBytes<D extends DType>(dtype: D, shape: readonly number[], bytes: Uint8Array): Tensor<D> {
  const count = elementCount(shape);
  if (bytes.byteLength !== count * bytesOf(dtype)) throw new RangeError(`${typeText(dtype, shape)} does not fit ${bytes.byteLength} bytes`);
  return { dtype, shape, data: new arrays[dtype](bytes.buffer, bytes.byteOffset, count) };
}
