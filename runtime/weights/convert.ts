// Changes elements from the dtype a checkpoint stores to the dtype a graph declares, a chunk at a time.
// Floats convert to floats (to nearest, ties to even) and integers to wider integers; nothing turns
// floats into integers or the other way, since a checkpoint that needs that is the wrong checkpoint.

import { type DType } from "../../compiler/ir/dtype.ts";

/** Reads element i of a chunk as a number. */
type Reader = (bytes: Uint8Array, count: number) => ArrayLike<number | bigint>;

function over<T>(make: new (buffer: ArrayBufferLike, offset: number, length: number) => T): (bytes: Uint8Array, count: number) => T {
  return (bytes, count) => new make(bytes.buffer, bytes.byteOffset, count);
}

const floats: Readonly<Record<string, Reader>> = {
  F64: over(Float64Array),
  F32: over(Float32Array),
  F16: (bytes, count) => floatsOfHalves(over(Uint16Array)(bytes, count)),
  BF16: (bytes, count) => floatsOfBf16(over(Uint16Array)(bytes, count)),
};

const integers: Readonly<Record<string, Reader>> = {
  I64: over(BigInt64Array),
  I32: over(Int32Array),
  I16: over(Int16Array),
  U16: over(Uint16Array),
  I8: over(Int8Array),
  U8: over(Uint8Array),
};

const widths: Readonly<Record<string, number>> = { F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, I16: 2, U16: 2, I8: 1, U8: 1, BOOL: 1 };

/** The stored dtypes that each declared dtype accepts. */
export const accepted: Readonly<Record<DType, readonly string[]>> = {
  f32: ["F32", "F16", "BF16", "F64"],
  f16: ["F16", "F32", "BF16", "F64"],
  bf16: ["BF16", "F32", "F16", "F64"],
  i32: ["I32", "I64", "I16", "U16", "I8", "U8"],
  u8: ["U8"],
  i8: ["I8"],
  bool: ["BOOL"],
};

/** Bytes of an element of a stored dtype that some declared dtype accepts. */
export function storedWidth(stored: string): number {
  const width = widths[stored];
  if (width === undefined) throw new RangeError(`elements of ${stored} cannot be converted`);
  return width;
}

/** True when the bytes can be taken as they are. */
export function sameBytes(stored: string, dtype: DType): boolean {
  return stored.toLowerCase() === dtype && dtype !== "bool";
}

/**
 * Fills `target` with elements of `dtype`. `bytes` holds the same number of elements of `stored`, aligned to 8.
 * Throws RangeError for an integer that does not fit.
 */
export function convertElements(stored: string, bytes: Uint8Array, dtype: DType, target: Uint8Array): void {
  if (sameBytes(stored, dtype)) {
    target.set(bytes);
    return;
  }
  const count = bytes.byteLength / storedWidth(stored);
  switch (dtype) {
    case "f32":
    case "f16":
    case "bf16": {
      const values = (floats[stored] ?? refuse(stored, dtype))(bytes, count) as ArrayLike<number>;
      if (dtype === "f32") {
        over(Float32Array)(target, count).set(values);
        return;
      }
      const out = over(Uint16Array)(target, count);
      if (dtype === "f16" && values instanceof Float32Array) {
        const bits = over(Uint32Array)(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), count);
        for (let i = 0; i < count; i++) out[i] = halfOfBits(bits[i] ?? 0);
        return;
      }
      const round = dtype === "f16" ? halfOfFloat : bf16OfFloat;
      for (let i = 0; i < count; i++) out[i] = round(values[i] ?? 0);
      return;
    }
    case "i32": {
      const values = (integers[stored] ?? refuse(stored, dtype))(bytes, count);
      const out = over(Int32Array)(target, count);
      for (let i = 0; i < count; i++) {
        const value = Number(values[i] ?? 0);
        out[i] = value;
        if (out[i] !== value) throw new RangeError(`${String(values[i])} does not fit i32`);
      }
      return;
    }
    case "bool":
      for (let i = 0; i < count; i++) target[i] = bytes[i] === 0 ? 0 : 1;
      return;
    case "u8":
    case "i8":
      return refuse(stored, dtype);
    default:
      dtype satisfies never;
  }
}

function refuse(stored: string, dtype: DType): never {
  throw new RangeError(`elements of ${stored} cannot become ${dtype}`);
}

const floatCell = new Float32Array(1);
const bitsCell = new Uint32Array(floatCell.buffer);

/** The value of an IEEE half. */
export function floatOfHalf(half: number): number {
  const sign = (half & 0x8000) === 0 ? 1 : -1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

let halves: Float32Array | undefined;

/** The value of each of the 65536 halves. */
export function halfValues(): Float32Array {
  halves ??= Float32Array.from({ length: 65536 }, (_, half) => floatOfHalf(half));
  return halves;
}

function floatsOfHalves(values: Uint16Array): Float32Array {
  const table = halfValues();
  const out = new Float32Array(values.length);
  for (let i = 0; i < out.length; i++) out[i] = table[values[i] ?? 0] ?? 0;
  return out;
}

/** The nearest half, ties to even; above 65504 by half a step or more: infinity. */
export function halfOfFloat(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const a = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (a >= 65520) return sign | 0x7c00;
  if (a < 2 ** -14) return sign | roundEven(a * 2 ** 24);
  const exponent = Math.min(15, Math.floor(Math.log2(a)));
  // log2 may round up across a power of two.
  const e = 2 ** exponent > a ? exponent - 1 : exponent;
  // A carry out of the fraction runs into the exponent, as it should.
  return sign | (((e + 15) << 10) + roundEven((a / 2 ** e - 1) * 1024));
}

/** As `halfOfFloat`, for an f32 given as its bits: some thirty times faster in Node 20. */
function halfOfBits(b: number): number {
  const sign = (b >>> 16) & 0x8000;
  const a = b & 0x7fffffff;
  if (a > 0x7f800000) return 0x7e00;
  if (a >= 0x477ff000) return sign | 0x7c00;
  // The exponent's bias goes from 127 to 15; a carry out of the fraction runs into the exponent.
  if (a >= 0x38800000) return sign | ((a - 0x38000000 + 0xfff + ((a >>> 13) & 1)) >>> 13);
  if (a < 0x33000000) return sign;
  // A subnormal half counts 2^-24.
  const shift = 126 - (a >>> 23);
  const fraction = (a & 0x7fffff) | 0x800000;
  const half = fraction >>> shift;
  const rest = fraction - half * 2 ** shift;
  const middle = 2 ** (shift - 1);
  return sign | (rest > middle || (rest === middle && (half & 1) === 1) ? half + 1 : half);
}

function roundEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}

/** The nearest bfloat16 of `value` rounded to f32, ties to even. */
export function bf16OfFloat(value: number): number {
  floatCell[0] = value;
  const b = bitsCell[0] ?? 0;
  if ((b & 0x7fffffff) > 0x7f800000) return ((b >>> 16) | 0x40) & 0xffff;
  return ((b + 0x7fff + ((b >>> 16) & 1)) >>> 16) & 0xffff;
}

function floatsOfBf16(values: Uint16Array): Float32Array {
  const bits = new Uint32Array(values.length);
  for (let i = 0; i < values.length; i++) bits[i] = (values[i] ?? 0) << 16;
  return new Float32Array(bits.buffer);
}
