// Elements between float64, which the references compute with, and the arrays that hold them in memory. Exact: the values
// are elements of their dtype already, except where f16 and bf16 round to nearest even.

import type { DType } from "../../compiler/ir/dtype.ts";
import { toBf16, toF16 } from "./numbers.ts";

/** f16 and bf16 are their 16 bits; bool is 0 or 1. */
export type Elements = Float32Array | Uint16Array | Int32Array | Int8Array | Uint8Array;

const view = new DataView(new ArrayBuffer(4));

/** The bits of the bf16 nearest to `x`. */
export function bf16Bits(x: number): number {
  view.setFloat32(0, toBf16(x));
  return view.getUint16(0);
}

export function bf16Value(bits: number): number {
  view.setUint16(0, bits);
  view.setUint16(2, 0);
  return view.getFloat32(0);
}

/** The bits of the f16 nearest to `x`. */
export function f16Bits(x: number): number {
  const value = toF16(x);
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (magnitude === Infinity) return sign | 0x7c00;
  if (magnitude < 2 ** -14) return sign | (magnitude / 2 ** -24);
  view.setFloat32(0, magnitude);
  const exponent = (view.getUint32(0) >>> 23) - 127;
  return sign | ((exponent + 15) << 10) | ((magnitude / 2 ** exponent - 1) * 1024);
}

export function f16Value(bits: number): number {
  const sign = (bits & 0x8000) !== 0 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

/** The array a device holds for these elements. */
export function encodeElements(dtype: DType, data: ArrayLike<number>): Elements {
  switch (dtype) {
    case "f32":
      return Float32Array.from(data);
    case "f16":
      return Uint16Array.from(data, f16Bits);
    case "bf16":
      return Uint16Array.from(data, bf16Bits);
    case "i32":
      return Int32Array.from(data);
    case "i8":
      return Int8Array.from(data);
    case "u8":
    case "bool":
      return Uint8Array.from(data);
    default:
      return dtype satisfies never;
  }
}

export function decodeElements(dtype: DType, data: ArrayLike<number>): Float64Array {
  if (dtype === "f16") return Float64Array.from(data, f16Value);
  return dtype === "bf16" ? Float64Array.from(data, bf16Value) : Float64Array.from(data);
}
