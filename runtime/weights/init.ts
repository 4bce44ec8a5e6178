// Weights made from a seed, for graphs without a checkpoint. Element i of a parameter depends on the
// seed, the parameter's name and i alone: not on the order of loading, on threads, or on the other
// parameters, so that any program can make the same numbers (spec/runtime.test.ts holds known values).
//
// Note [Seeded weights]
//   hash(basis) = FNV-1a, 32 bits, of the UTF-8 bytes of `${seed}:${name}`, starting from `basis`
//   a = mix(hash(0x811c9dc5)), b = mix(hash(0x01000193))
//   mix(x): x ^= x>>>16; x *= 0x7feb352d; x ^= x>>>15; x *= 0x846ca68b; x ^= x>>>16      (mod 2^32)
//   word(j) = mix(mix(j + a) ^ b);  k(i) = the low 16 bits of word(i>>1) for even i, the high 16 for odd i
//   normal(std): element i = f32(std · Φ⁻¹((k(i) + ½) / 65536)), Φ⁻¹ by Wichura's AS 241 in float64
//   constant(v): every element is v.  A parameter without an init is normal(0.02).
// A normal of 65536 equally likely values is coarse in its tails (|z| ≤ 4.33) and takes about a nanosecond.

import type { DType } from "../../compiler/ir/dtype.ts";
import { bf16OfFloat, halfOfFloat } from "./convert.ts";

export type Init = { readonly kind: "constant"; readonly value: number } | { readonly kind: "normal"; readonly std: number };

export const defaultInit: Init = { kind: "normal", std: 0.02 };

function mix(x: number): number {
  let h = x ^ (x >>> 16);
  h = Math.imul(h, 0x7feb352d);
  h ^= h >>> 15;
  h = Math.imul(h, 0x846ca68b);
  return h ^ (h >>> 16);
}

function hash(text: string, basis: number): number {
  let h = basis;
  for (const byte of new TextEncoder().encode(text)) h = Math.imul(h ^ byte, 0x01000193);
  return mix(h);
}

/** Φ⁻¹(p) for 0 < p < 1: M. J. Wichura, Algorithm AS 241 (PPND16), Applied Statistics 37 (1988), about 16 digits. */
export function normalQuantile(p: number): number {
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) {
    const r = 0.180625 - q * q;
    return (q * horner(central.above, r)) / horner(central.below, r);
  }
  const r = Math.sqrt(-Math.log(q < 0 ? p : 1 - p));
  const { above, below, shift } = r <= 5 ? middle : far;
  const z = horner(above, r - shift) / horner(below, r - shift);
  return q < 0 ? -z : z;
}

/** Coefficients from the highest power down. */
function horner(coefficients: readonly number[], x: number): number {
  return coefficients.reduce((sum, c) => sum * x + c, 0);
}

const central = {
  above: [
    2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125,
    1971.5909503065514427, 133.14166789178437745, 3.387132872796366608,
  ],
  below: [
    5226.495278852545925, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867, 5394.1960214247511077, 687.1870074920579083,
    42.313330701600911252, 1,
  ],
} as const;
const middle = {
  shift: 1.6,
  above: [
    7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258, 3.64784832476320460504,
    5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734,
  ],
  below: [
    1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459, 0.68976733498510000455,
    1.6763848301838038494, 2.05319162663775882187, 1,
  ],
} as const;
const far = {
  shift: 5,
  above: [
    2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093, 0.29656057182850489123,
    1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772,
  ],
  below: [
    2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4, 0.0148753612908506148525,
    0.13692988092273580531, 0.59983220655588793769, 1,
  ],
} as const;

let table: Float64Array | undefined;

function normals(): Float64Array {
  table ??= Float64Array.from({ length: 65536 }, (_, k) => normalQuantile((k + 0.5) / 65536));
  return table;
}

/** Fills `out` with elements first, first + 1, … of the parameter `name`, as f32. */
export function seededElements(seed: number, name: string, init: Init, first: number, out: Float32Array): void {
  switch (init.kind) {
    case "constant":
      out.fill(init.value);
      return;
    case "normal": {
      const z = normals();
      const std = init.std;
      const a = hash(`${seed}:${name}`, 0x811c9dc5);
      const b = hash(`${seed}:${name}`, 0x01000193);
      let i = 0;
      if ((first & 1) === 1 && out.length > 0) out[i++] = std * (z[mix(mix(((first - 1) / 2 + a) | 0) ^ b) >>> 16] ?? 0);
      let j = ((first + i) / 2 + a) | 0;
      for (; i + 1 < out.length; i += 2, j = (j + 1) | 0) {
        const word = mix(mix(j) ^ b);
        out[i] = std * (z[word & 0xffff] ?? 0);
        out[i + 1] = std * (z[word >>> 16] ?? 0);
      }
      if (i < out.length) out[i] = std * (z[mix(mix(j) ^ b) & 0xffff] ?? 0);
      return;
    }
    default:
      init satisfies never;
  }
}

/** The same elements in a parameter's dtype, into `target`. Integers take constants only. */
export function seededBytes(seed: number, name: string, init: Init, dtype: DType, first: number, target: Uint8Array): void {
  switch (dtype) {
    case "f32":
      seededElements(seed, name, init, first, new Float32Array(target.buffer, target.byteOffset, target.byteLength / 4));
      return;
    case "f16":
    case "bf16": {
      const out = new Uint16Array(target.buffer, target.byteOffset, target.byteLength / 2);
      const values = new Float32Array(out.length);
      seededElements(seed, name, init, first, values);
      const round = dtype === "f16" ? halfOfFloat : bf16OfFloat;
      for (let i = 0; i < out.length; i++) out[i] = round(values[i] ?? 0);
      return;
    }
    case "i32":
      new Int32Array(target.buffer, target.byteOffset, target.byteLength / 4).fill(init.kind === "constant" ? init.value : 0);
      return;
    case "u8":
    case "i8":
    case "bool":
      target.fill(init.kind === "constant" ? init.value : 0);
      return;
    default:
      dtype satisfies never;
  }
}
