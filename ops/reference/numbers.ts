// Scalar meanings in float64 and in 32-bit integers, where JavaScript's own operators differ from ours.
// Nothing here approximates beyond the last bits of a double.

import type { DType } from "../../compiler/ir/dtype.ts";

/** To the nearest integer, halves to even; keeps -0 and the sign of what rounds to zero. */
export function roundHalfEven(x: number): number {
  if (!Number.isFinite(x) || Math.abs(x) >= 2 ** 52) return x;
  const below = Math.floor(x);
  const rest = x - below;
  const up = rest > 0.5 || (rest === 0.5 && below % 2 !== 0);
  const result = up ? below + 1 : below;
  return result === 0 ? (Object.is(x, -0) || x < 0 ? -0 : 0) : result;
}

/** Remainder with the sign of the divisor; exact. NaN for a divisor of 0. */
export function floorMod(a: number, b: number): number {
  const r = a % b;
  return r !== 0 && r < 0 !== b < 0 ? r + b : r;
}

/** IEEE 754 pow: unlike JavaScript's, 1 to any power and anything to the power 0 is 1, and (-1)^±infinity is 1. */
export function power(a: number, b: number): number {
  if (a === 1 || b === 0) return 1;
  if (a === -1 && Math.abs(b) === Infinity) return 1;
  return a ** b;
}

/** i32 division toward zero; 0 for a divisor of 0; -2^31 / -1 wraps. */
export function divI32(a: number, b: number): number {
  return b === 0 ? 0 : Math.trunc(a / b) | 0;
}

/** i32 floor remainder; 0 for a divisor of 0. */
export function modI32(a: number, b: number): number {
  return b === 0 ? 0 : floorMod(a, b) | 0;
}

const view = new DataView(new ArrayBuffer(4));

/** Nearest bf16, ties to even. The argument is first rounded to f32. */
export function toBf16(x: number): number {
  if (Number.isNaN(x)) return NaN;
  view.setFloat32(0, x);
  const bits = view.getUint32(0);
  const up = ((bits >>> 16) & 1) + 0x7fff;
  view.setUint32(0, ((bits + up) & 0xffff0000) >>> 0);
  return view.getFloat32(0);
}

/** Nearest f16, ties to even: 10 bits of fraction, exponents -14 … 15, subnormals kept, overflow to infinity. */
export function toF16(x: number): number {
  const f = Math.fround(x);
  if (!Number.isFinite(f) || f === 0) return f;
  const magnitude = Math.abs(f);
  const exponent = Math.max(Math.floor(Math.log2(magnitude)), -14);
  // log2 may be one off next to a power of two; the quantum is then twice or half, so settle it by comparison.
  const settled = Math.max(magnitude < 2 ** exponent ? exponent - 1 : magnitude >= 2 ** (exponent + 1) ? exponent + 1 : exponent, -14);
  const quantum = 2 ** (settled - 10);
  const result = roundHalfEven(magnitude / quantum) * quantum;
  return Math.sign(f) * (result > 65504 ? Infinity : result);
}

/** Truncates toward zero and saturates to 32 bits; NaN gives 0. */
export function toI32(x: number): number {
  if (Number.isNaN(x)) return 0;
  return Math.max(-2147483648, Math.min(2147483647, Math.trunc(x))) + 0;
}

/** The value of `x`, of dtype `from`, as an element of dtype `to`. */
export function convert(x: number, from: DType, to: DType): number {
  const float = from === "f32" || from === "f16" || from === "bf16";
  switch (to) {
    case "f32":
      return float ? x : Math.fround(x);
    case "f16":
      return toF16(x);
    case "bf16":
      return toBf16(x);
    case "i32":
      return float ? toI32(x) : x;
    case "u8":
      return (float ? toI32(x) : x) & 255;
    case "i8":
      return ((float ? toI32(x) : x) << 24) >> 24;
    case "bool":
      return x !== 0 ? 1 : 0;
    default:
      return to satisfies never;
  }
}
