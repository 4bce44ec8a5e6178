// What each Imp operation does to numbers: i32 wraps, f32 is rounded once by every operation (the
// transcendental ones are computed in float64 and rounded). Knows nothing of loops, buffers or vectors.

import type { HalvesOp, ImpBinary, ImpUnary } from "./types.ts";

/** Round half to even, keeping -0, infinities and NaN. */
export function roundEven(x: number): number {
  if (!Number.isFinite(x) || Math.abs(x) >= 4503599627370496) return x;
  const below = Math.floor(x);
  const rest = x - below;
  const rounded = rest < 0.5 ? below : rest > 0.5 ? below + 1 : below % 2 === 0 ? below : below + 1;
  return rounded === 0 && (x < 0 || Object.is(x, -0)) ? -0 : rounded;
}

/** f32 → i32 as casts do it: toward zero, saturating, NaN → 0. */
export function saturate(x: number): number {
  if (Number.isNaN(x)) return 0;
  return x >= 2147483647 ? 2147483647 : x <= -2147483648 ? -2147483648 : Math.trunc(x) | 0;
}

/** erf to float64 accuracy: the Taylor series of erf·exp(x²) below 3, a continued fraction of erfc above. */
export function erf(x: number): number {
  if (Number.isNaN(x)) return NaN;
  const a = Math.abs(x);
  if (a === 0) return x;
  if (a > 6) return Math.sign(x);
  if (a < 3) {
    let term = a;
    let sum = a;
    for (let n = 1; Math.abs(term) > 1e-17 * sum; n++) {
      term *= (2 * a * a) / (2 * n + 1);
      sum += term;
    }
    return Math.sign(x) * sum * Math.exp(-a * a) * (2 / Math.sqrt(Math.PI));
  }
  let fraction = 0;
  for (let n = 60; n >= 1; n--) fraction = n / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / ((a + fraction) * Math.sqrt(Math.PI)));
}

const round32 = Math.fround;

function floatUnary(op: ImpUnary): (a: number) => number {
  switch (op) {
    case "neg":
      return (a) => -a;
    case "abs":
      return Math.abs;
    case "sqrt":
      return (a) => round32(Math.sqrt(a));
    case "floor":
      return Math.floor;
    case "ceil":
      return Math.ceil;
    case "round":
      return roundEven;
    case "trunc":
      return Math.trunc;
    case "sign":
      return Math.sign;
    case "exp":
      return (a) => round32(Math.exp(a));
    case "log":
      return (a) => round32(Math.log(a));
    case "rsqrt":
      return (a) => round32(1 / Math.sqrt(a));
    case "sin":
      return (a) => round32(Math.sin(a));
    case "cos":
      return (a) => round32(Math.cos(a));
    case "tanh":
      return (a) => round32(Math.tanh(a));
    case "erf":
      return (a) => round32(erf(a));
    case "not":
      return (a) => (a === 0 ? 1 : 0);
    default:
      return op satisfies never;
  }
}

function intUnary(op: ImpUnary): (a: number) => number {
  switch (op) {
    case "neg":
      return (a) => -a | 0;
    case "abs":
      return (a) => Math.abs(a) | 0;
    case "sign":
      return (a) => Math.sign(a) | 0;
    default:
      return floatUnary(op);
  }
}

/** `not` is of a bool; on i32x4 masks it is written as an exclusive or. */
export function unaryFunction(op: ImpUnary, lane: "f32" | "i32"): (a: number) => number {
  return lane === "f32" ? floatUnary(op) : intUnary(op);
}

function remainder(a: number, b: number): number {
  const r = a % b;
  if (r !== 0 && r < 0 !== b < 0) return r + b;
  return r;
}

/** Comparisons give 1 or 0; the emulator makes masks of them for vectors. */
export function binaryFunction(op: ImpBinary, lane: "f32" | "i32"): (a: number, b: number) => number {
  const float = lane === "f32";
  switch (op) {
    case "add":
      return float ? (a, b) => round32(a + b) : (a, b) => (a + b) | 0;
    case "sub":
      return float ? (a, b) => round32(a - b) : (a, b) => (a - b) | 0;
    case "mul":
      return float ? (a, b) => round32(a * b) : Math.imul;
    case "div":
      return float ? (a, b) => round32(a / b) : (a, b) => (b === 0 ? 0 : Math.trunc(a / b) | 0);
    case "mod":
      return float ? (a, b) => round32(remainder(a, b)) : (a, b) => (b === 0 ? 0 : remainder(a, b) | 0);
    case "min":
      return Math.min;
    case "max":
      return Math.max;
    case "pow":
      // IEEE: 1 to any power is 1, and so is -1 to an infinite one; ECMAScript says NaN.
      return (a, b) => (a === 1 || (a === -1 && Math.abs(b) === Infinity) ? 1 : round32(Math.pow(a, b)));
    case "eq":
      return (a, b) => (a === b ? 1 : 0);
    case "ne":
      return (a, b) => (a !== b ? 1 : 0);
    case "lt":
      return (a, b) => (a < b ? 1 : 0);
    case "le":
      return (a, b) => (a <= b ? 1 : 0);
    case "gt":
      return (a, b) => (a > b ? 1 : 0);
    case "ge":
      return (a, b) => (a >= b ? 1 : 0);
    case "and":
    case "bitand":
      return (a, b) => a & b;
    case "or":
    case "bitor":
      return (a, b) => a | b;
    case "bitxor":
      return (a, b) => a ^ b;
    case "shl":
      return (a, b) => a << b;
    case "shr":
      return (a, b) => a >> b;
    case "shru":
      return (a, b) => (a >>> b) | 0;
    default:
      return op satisfies never;
  }
}

const f32View = new Float32Array(1);
const i32View = new Int32Array(f32View.buffer);

export function bitsOfFloat(x: number): number {
  f32View[0] = x;
  return i32View[0] ?? 0;
}

export function floatOfBits(x: number): number {
  i32View[0] = x;
  return f32View[0] ?? 0;
}

/** The number that 16 bits mean as IEEE half precision. */
export function fromHalf(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const sign = bits & 32768 ? -1 : 1;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

/** The nearest half-precision number's bits, ties to even. */
export function toHalf(x: number): number {
  const sign = x < 0 || Object.is(x, -0) ? 32768 : 0;
  const a = Math.abs(x);
  if (Number.isNaN(x)) return 0x7e00;
  if (a >= 65520) return sign | 0x7c00;
  const exponent = Math.max(-14, Math.floor(Math.log2(a === 0 ? 2 ** -30 : a)));
  // log2 may be off by one next to a power of two: a mantissa of 2048 moves into the next exponent by itself.
  const unit = 2 ** (exponent - 10);
  const mantissa = roundEven(a / unit);
  if (mantissa < 1024) return exponent === -14 ? sign | mantissa : toHalfAt(sign, a, exponent - 1);
  return sign | (((exponent + 14) << 10) + mantissa);
}

function toHalfAt(sign: number, a: number, exponent: number): number {
  return sign | (((exponent + 14) << 10) + roundEven(a / 2 ** (exponent - 10)));
}

export function fromBfloat(bits: number): number {
  return floatOfBits(bits << 16);
}

/** The nearest bfloat16's bits, ties to even. */
export function toBfloat(x: number): number {
  if (Number.isNaN(x)) return 0x7fc0;
  const bits = bitsOfFloat(x);
  return ((bits + 0x7fff + ((bits >> 16) & 1)) >>> 16) & 0xffff;
}

type Lanes = readonly [number, number, number, number];

const low16 = (x: number): number => (x << 16) >> 16;
const joined = (low: number, high: number): number => (low & 0xffff) | (high << 16);

/** What an operation on the bits of i32x4 gives. */
export function halvesFunction(op: HalvesOp): (a: Lanes, b: Lanes) => Lanes {
  switch (op) {
    case "dot16": {
      const dot = (x: number, y: number): number => (low16(x) * low16(y) + (x >> 16) * (y >> 16)) | 0;
      return (a, b) => [dot(a[0], b[0]), dot(a[1], b[1]), dot(a[2], b[2]), dot(a[3], b[3])];
    }
    case "narrow16": {
      const narrow = (x: number, y: number): number => {
        const saturated = (v: number): number => Math.max(-32768, Math.min(32767, v));
        return joined(saturated(x), saturated(y));
      };
      return (a, b) => [narrow(a[0], a[1]), narrow(a[2], a[3]), narrow(b[0], b[1]), narrow(b[2], b[3])];
    }
    case "low_i8":
    case "high_i8":
    case "low_u8":
    case "high_u8": {
      const [first, second] = op === "low_i8" || op === "low_u8" ? ([0, 1] as const) : ([2, 3] as const);
      const signed = op === "low_i8" || op === "high_i8";
      const byte = (x: number, i: number): number => (signed ? (x << (24 - 8 * i)) >> 24 : (x >>> (8 * i)) & 255);
      const pair = (x: number, i: number): number => joined(byte(x, i), byte(x, i + 1));
      return (a) => [pair(a[first], 0), pair(a[first], 2), pair(a[second], 0), pair(a[second], 2)];
    }
    default:
      return op satisfies never;
  }
}
