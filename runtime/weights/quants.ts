// The element types of GGUF files, with their sizes, and the block formats' values as f32. The layouts are ggml's
// (https://github.com/ggml-org/ggml, ggml-common.h); every result is what ggml computes in f32, to the bit, since all
// products here are exact in f32 and only the last sum rounds. Does not read files.

import { halfValues } from "./convert.ts";

/** Fills `out` with the elements of whole blocks. `out.length` is a multiple of the block. */
type Decode = (bytes: Uint8Array, out: Float32Array) => void;

export interface GgmlType {
  readonly name: string;
  /** Elements of a block; 1 for plain numbers. */
  readonly block: number;
  /** Bytes of a block. */
  readonly bytes: number;
  /** Plain numbers: safetensors' name of the same bytes. */
  readonly plain?: string;
  /** Block formats that can be read. Those without either can be listed only. */
  readonly decode?: Decode;
}

const plain = (name: string, bytes: number): GgmlType => ({ name, block: 1, bytes, plain: name });
const blocks = (name: string, block: number, bytes: number, decode?: Decode): GgmlType => ({
  name,
  block,
  bytes,
  ...(decode === undefined ? {} : { decode }),
});

const at = (bytes: Uint8Array, i: number): number => bytes[i] ?? 0;
const half = (halves: Float32Array, bytes: Uint8Array, i: number): number => halves[at(bytes, i) | (at(bytes, i + 1) << 8)] ?? 0;
const signed = (byte: number): number => (byte << 24) >> 24;

/** Calls `decode` for each block with where its bytes and its elements begin. */
function each(
  block: number,
  size: number,
  decode: (bytes: Uint8Array, b: number, out: Float32Array, o: number, halves: Float32Array) => void,
): Decode {
  return (bytes, out) => {
    const halves = halfValues();
    for (let b = 0, o = 0; o < out.length; b += size, o += block) decode(bytes, b, out, o, halves);
  };
}

// Blocks of 32. Nibbles: the low ones are elements 0…15, the high ones 16…31. Fifth bits: bit i belongs to element i.

const q4_0 = each(32, 18, (bytes, b, out, o, halves) => {
  const d = half(halves, bytes, b);
  for (let i = 0; i < 16; i++) {
    const q = at(bytes, b + 2 + i);
    out[o + i] = d * ((q & 15) - 8);
    out[o + 16 + i] = d * ((q >> 4) - 8);
  }
});

const q4_1 = each(32, 20, (bytes, b, out, o, halves) => {
  const d = half(halves, bytes, b);
  const m = half(halves, bytes, b + 2);
  for (let i = 0; i < 16; i++) {
    const q = at(bytes, b + 4 + i);
    out[o + i] = d * (q & 15) + m;
    out[o + 16 + i] = d * (q >> 4) + m;
  }
});

const q5_0 = each(32, 22, (bytes, b, out, o, halves) => {
  const d = half(halves, bytes, b);
  const high = word(bytes, b + 2);
  for (let i = 0; i < 16; i++) {
    const q = at(bytes, b + 6 + i);
    out[o + i] = d * (((q & 15) | (((high >>> i) & 1) << 4)) - 16);
    out[o + 16 + i] = d * (((q >> 4) | (((high >>> (i + 16)) & 1) << 4)) - 16);
  }
});

const q5_1 = each(32, 24, (bytes, b, out, o, halves) => {
  const d = half(halves, bytes, b);
  const m = half(halves, bytes, b + 2);
  const high = word(bytes, b + 4);
  for (let i = 0; i < 16; i++) {
    const q = at(bytes, b + 8 + i);
    out[o + i] = d * ((q & 15) | (((high >>> i) & 1) << 4)) + m;
    out[o + 16 + i] = d * ((q >> 4) | (((high >>> (i + 16)) & 1) << 4)) + m;
  }
});

const q8_0 = each(32, 34, (bytes, b, out, o, halves) => {
  const d = half(halves, bytes, b);
  for (let i = 0; i < 32; i++) out[o + i] = d * signed(at(bytes, b + 2 + i));
});

function word(bytes: Uint8Array, i: number): number {
  return at(bytes, i) | (at(bytes, i + 1) << 8) | (at(bytes, i + 2) << 16) | (at(bytes, i + 3) << 24);
}

// Blocks of 256, of 8 or 16 sub-blocks with scales of their own.

/** Scales 0…15 with 4 bits of scale and 4 of minimum each, 64 bytes of 2 bits, d, dmin. */
const q2_k = each(256, 84, (bytes, b, out, o, halves) => {
  const d = half(halves, bytes, b + 80);
  const dmin = half(halves, bytes, b + 82);
  for (let s = 0; s < 16; s++) {
    const scale = at(bytes, b + s);
    // Sub-blocks 0…7 lie in the first 32 bytes, two for each pair of bits; 8…15 in the others.
    const from = b + 16 + (s >> 3) * 32 + (s & 1) * 16;
    const shift = ((s >> 1) & 3) * 2;
    const dl = d * (scale & 15);
    const ml = dmin * (scale >> 4);
    for (let i = 0; i < 16; i++) out[o + s * 16 + i] = dl * ((at(bytes, from + i) >> shift) & 3) - ml;
  }
});

/** 32 bytes of third bits (0 means −4), 64 of 2 bits, 12 of sixteen 6-bit scales, d. */
const q3_k = each(256, 110, (bytes, b, out, o, halves) => {
  const d = half(halves, bytes, b + 108);
  for (let s = 0; s < 16; s++) {
    const low = (at(bytes, b + 96 + (s & 7)) >> (s >> 3 === 0 ? 0 : 4)) & 15;
    const top = (at(bytes, b + 104 + (s & 3)) >> ((s >> 2) * 2)) & 3;
    const dl = d * ((low | (top << 4)) - 32);
    const from = b + 32 + (s >> 3) * 32 + (s & 1) * 16;
    const shift = ((s >> 1) & 3) * 2;
    const mask = b + (s & 1) * 16;
    const bit = s >> 1;
    for (let i = 0; i < 16; i++) {
      const q = ((at(bytes, from + i) >> shift) & 3) - (((at(bytes, mask + i) >> bit) & 1) === 0 ? 4 : 0);
      out[o + s * 16 + i] = dl * q;
    }
  }
});

/**
 * The 6-bit scale (`from` 0) or minimum (`from` 4) of sub-block `s` in the 12 bytes at `b`. Those of 0…3 are the low bits
 * of bytes `from`…`from` + 3, whose two high bits are those of 4…7; their low bits are the nibbles of bytes 8…11.
 */
function scale6(bytes: Uint8Array, b: number, s: number, from: 0 | 4): number {
  if (s < 4) return at(bytes, b + from + s) & 63;
  return ((at(bytes, b + 4 + s) >> from) & 15) | ((at(bytes, b + from + s - 4) >> 6) << 4);
}

/** d, dmin, 12 bytes of 6-bit scales and minima, 128 of nibbles: each 32 bytes hold two sub-blocks of 32. */
const q4_k = each(256, 144, (bytes, b, out, o, halves) => {
  const d = half(halves, bytes, b);
  const dmin = half(halves, bytes, b + 2);
  for (let s = 0; s < 8; s++) {
    const dl = d * scale6(bytes, b + 4, s, 0);
    const ml = dmin * scale6(bytes, b + 4, s, 4);
    const from = b + 16 + (s >> 1) * 32;
    const shift = (s & 1) * 4;
    for (let i = 0; i < 32; i++) out[o + s * 32 + i] = dl * ((at(bytes, from + i) >> shift) & 15) - ml;
  }
});

/** As Q4_K, with 32 bytes of fifth bits before the nibbles: bit s of byte i is element i of sub-block s. */
const q5_k = each(256, 176, (bytes, b, out, o, halves) => {
  const d = half(halves, bytes, b);
  const dmin = half(halves, bytes, b + 2);
  for (let s = 0; s < 8; s++) {
    const dl = d * scale6(bytes, b + 4, s, 0);
    const ml = dmin * scale6(bytes, b + 4, s, 4);
    const from = b + 48 + (s >> 1) * 32;
    const shift = (s & 1) * 4;
    for (let i = 0; i < 32; i++) {
      const q = ((at(bytes, from + i) >> shift) & 15) | (((at(bytes, b + 16 + i) >> s) & 1) << 4);
      out[o + s * 32 + i] = dl * q - ml;
    }
  }
});

/** 128 bytes of low nibbles, 64 of two high bits, 16 signed scales, d. Each half of the block is four runs of 32. */
const q6_k = each(256, 210, (bytes, b, out, o, halves) => {
  const d = half(halves, bytes, b + 208);
  for (let run = 0; run < 8; run++) {
    const side = run >> 2;
    const low = b + side * 64 + (run & 1) * 32;
    const lowShift = ((run >> 1) & 1) * 4;
    const high = b + 128 + side * 32;
    const highShift = (run & 3) * 2;
    for (let part = 0; part < 2; part++) {
      const dl = d * signed(at(bytes, b + 192 + run * 2 + part));
      for (let i = part * 16; i < part * 16 + 16; i++) {
        const q = ((at(bytes, low + i) >> lowShift) & 15) | (((at(bytes, high + i) >> highShift) & 3) << 4);
        out[o + run * 32 + i] = dl * (q - 32);
      }
    }
  }
});

/** By ggml's number. Numbers that are not here never were, or no longer are, types. */
export const ggmlTypes: ReadonlyMap<number, GgmlType> = new Map([
  [0, plain("F32", 4)],
  [1, plain("F16", 2)],
  [2, blocks("Q4_0", 32, 18, q4_0)],
  [3, blocks("Q4_1", 32, 20, q4_1)],
  [6, blocks("Q5_0", 32, 22, q5_0)],
  [7, blocks("Q5_1", 32, 24, q5_1)],
  [8, blocks("Q8_0", 32, 34, q8_0)],
  [9, blocks("Q8_1", 32, 36)],
  [10, blocks("Q2_K", 256, 84, q2_k)],
  [11, blocks("Q3_K", 256, 110, q3_k)],
  [12, blocks("Q4_K", 256, 144, q4_k)],
  [13, blocks("Q5_K", 256, 176, q5_k)],
  [14, blocks("Q6_K", 256, 210, q6_k)],
  [15, blocks("Q8_K", 256, 292)],
  [16, blocks("IQ2_XXS", 256, 66)],
  [17, blocks("IQ2_XS", 256, 74)],
  [18, blocks("IQ3_XXS", 256, 98)],
  [19, blocks("IQ1_S", 256, 50)],
  [20, blocks("IQ4_NL", 32, 18)],
  [21, blocks("IQ3_S", 256, 110)],
  [22, blocks("IQ2_S", 256, 82)],
  [23, blocks("IQ4_XS", 256, 136)],
  [24, plain("I8", 1)],
  [25, plain("I16", 2)],
  [26, plain("I32", 4)],
  [27, plain("I64", 8)],
  [28, plain("F64", 8)],
  [29, blocks("IQ1_M", 256, 56)],
  [30, plain("BF16", 2)],
  [34, blocks("TQ1_0", 256, 54)],
  [35, blocks("TQ2_0", 256, 66)],
  [39, blocks("MXFP4", 32, 17)],
]);
