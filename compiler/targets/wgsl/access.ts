// Loads and stores as WGSL, for every layout of places.ts: narrow elements are taken out of words and put into them.

import type { DType } from "../../ir/dtype.ts";
import { isVector } from "../../ir/imp/build.ts";
import type { ImpType } from "../../ir/imp/types.ts";
import type { Congruence } from "./congruence.ts";
import { multipleOf, type PlaceLayout } from "./places.ts";

/** What writing code needs of the code around it. */
export interface Writer {
  /** Adds a statement. */
  line(text: string): void;
  /** Gives `text` a name unless it has one, so that it may be repeated. */
  keep(text: string, hint: string): string;
  /** The name of a library function that is defined. */
  call(name: string): string;
}

/** Where an access begins: the array, the index of its element, and what is known of the index. */
export interface Position {
  readonly place: PlaceLayout;
  readonly array: string;
  readonly index: string;
  readonly at: Congruence | undefined;
}

const lanes = ["x", "y", "z", "w"] as const;
const isNarrowInt = (d: DType): boolean => d === "u8" || d === "i8" || d === "bool";
/** Bits of an element in a word. */
const bitsOf = (d: DType): 8 | 16 => (d === "f16" || d === "bf16" ? 16 : 8);

function plus(index: string, n: number): string {
  return n === 0 ? index : `(${index} ${n < 0 ? "-" : "+"} ${Math.abs(n)})`;
}

function component(p: Position): string {
  return p.at !== undefined && p.at.modulus % 4 === 0 ? `.${lanes[(p.at.rest % 4) as 0 | 1 | 2 | 3]}` : `[${p.index} & 3]`;
}

function word(p: Position, index: string): string {
  return p.place.view === "atomic words" ? `atomicLoad(&${p.array}[${index}])` : `${p.array}[${index}]`;
}

/** The value of a load; `splat` reads one element into four lanes. */
export function loadText(position: Position, type: ImpType, splat: boolean, w: Writer): string {
  if (splat) return `${type === "f32x4" ? "vec4f" : "vec4i"}(${loadText(position, type === "f32x4" ? "f32" : "i32", false, w)})`;
  if (!isVector(type)) {
    const value = scalar(position, w);
    return type === "bool" ? `(${value} != 0)` : value;
  }
  const { place, array, index, at } = position;
  const vector = type === "f32x4" ? "vec4f" : "vec4i";
  if (place.view === "four") {
    const value = `${array}[${index} >> 2u]`;
    return place.half ? `vec4f(${value})` : value;
  }
  const kept: Position = { ...position, index: w.keep(index, "i") };
  if (place.view !== "single") {
    const bits = bitsOf(place.dtype);
    if (bits === 16 && multipleOf(2, at)) {
      const first = w.keep(`${kept.index} >> 1u`, "w");
      const pair = (n: number): string => widenPair(word(kept, plus(first, n)), place.dtype, w);
      return `vec4f(${pair(0)}, ${pair(1)})`;
    }
    if (bits === 8 && multipleOf(4, at)) {
      const all = w.keep(word(kept, `${kept.index} >> 2u`), "w");
      const shifted = `vec4u(${[0, 8, 16, 24].map((n) => `${n}u`).join(", ")})`;
      if (place.dtype === "i8") return `((vec4i(bitcast<i32>(${all})) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u))`;
      return `vec4i((vec4u(${all}) >> ${shifted}) & vec4u(255u))`;
    }
  }
  const one = (n: number): string =>
    scalar({ ...kept, index: plus(kept.index, n), at: at && { modulus: at.modulus, rest: (at.rest + n) % at.modulus } }, w);
  return `${vector}(${[0, 1, 2, 3].map(one).join(", ")})`;
}

/** Two neighbours of 16 bits as vec2f. */
function widenPair(pair: string, dtype: DType, w: Writer): string {
  if (dtype === "f16") return `unpack2x16float(${pair})`;
  const kept = w.keep(pair, "w");
  return `vec2f(bitcast<f32>(${kept} << 16u), bitcast<f32>(${kept} & 0xffff0000u))`;
}

function scalar(p: Position, w: Writer): string {
  const { place, array, index, at } = p;
  if (place.view === "single") return place.half ? `f32(${array}[${index}])` : `${array}[${index}]`;
  if (place.view === "four") {
    const kept = { ...p, index: w.keep(index, "i") };
    const value = `${array}[${kept.index} >> 2u]${component(kept)}`;
    return place.half ? `f32(${value})` : value;
  }
  const kept = w.keep(index, "i");
  if (bitsOf(place.dtype) === 16) {
    const all = word(p, `${kept} >> 1u`);
    if (place.dtype === "f16") {
      const side = at !== undefined && at.modulus % 2 === 0 ? `.${at.rest % 2 === 0 ? "x" : "y"}` : `[${kept} & 1]`;
      return `unpack2x16float(${all})${side}`;
    }
    return `bitcast<f32>((${all} >> (u32(${kept} & 1) << 4u)) << 16u)`;
  }
  const all = word(p, `${kept} >> 2u`);
  if (place.dtype === "i8") return `((bitcast<i32>(${all}) << (u32(3 - (${kept} & 3)) << 3u)) >> 24u)`;
  return `i32((${all} >> (u32(${kept} & 3) << 3u)) & 255u)`;
}

/** Stores the first `count` lanes of a vector, or a scalar (`count` 1 and not `vector`). */
export function storeLines(position: Position, value: string, vector: boolean, count: number, w: Writer): void {
  const { place, array, at } = position;
  // What becomes several statements has its value before any of them writes.
  const kept = vector || place.view === "atomic words" ? w.keep(value, "v") : value;
  if (place.view === "four" && vector && count === 4) {
    w.line(`${array}[${position.index} >> 2u] = ${native4(kept, place, w)};`);
    return;
  }
  const index = w.keep(position.index, "i");
  if (place.view === "four" || place.view === "single") {
    for (let n = 0; n < count; n++) {
      const one = native1(vector ? `${kept}.${lanes[n as 0 | 1 | 2 | 3]}` : kept, place, w);
      const here = plus(index, n);
      if (place.view === "single") w.line(`${array}[${here}] = ${one};`);
      else w.line(`${array}[${here} >> 2u][${here} & 3] = ${one};`);
    }
    return;
  }
  const bits = bitsOf(place.dtype);
  const perWord = 32 / bits;
  const part = (n: number): string => packed1(vector ? `${kept}.${lanes[n as 0 | 1 | 2 | 3]}` : kept, place.dtype, w);
  const put = (where: string, all: string): void =>
    w.line(place.view === "words" ? `${array}[${where}] = ${all};` : `atomicStore(&${array}[${where}], ${all});`);
  if (count === 4 && multipleOf(perWord, at)) {
    const first = w.keep(`${index} >> ${bits === 8 ? 2 : 1}u`, "w");
    if (bits === 8) put(first, `${part(0)} | (${part(1)} << 8u) | (${part(2)} << 16u) | (${part(3)} << 24u)`);
    else for (const n of [0, 1]) put(plus(first, n), `${part(2 * n)} | (${part(2 * n + 1)} << 16u)`);
    return;
  }
  for (let n = 0; n < count; n++) {
    const here = w.keep(plus(index, n), "i");
    const shift = w.keep(`u32(${here} & ${perWord - 1}) << ${bits === 8 ? 3 : 4}u`, "s");
    const target = `&${array}[${here} >> ${bits === 8 ? 2 : 1}u]`;
    w.line(`atomicAnd(${target}, ~(${bits === 8 ? "255u" : "0xffffu"} << ${shift}));`);
    w.line(`atomicOr(${target}, ${part(n)} << ${shift});`);
  }
}

/** The bits of an element, in the low bits of a u32. */
function packed1(value: string, dtype: DType, w: Writer): string {
  if (dtype === "f16") return `${w.call("half1")}(${value})`;
  if (dtype === "bf16") return `${w.call("bfloat1")}(${value})`;
  return `(bitcast<u32>(${value}) & ${dtype === "bool" ? "1u" : "255u"})`;
}

/** A value as the element of an array that is not packed. */
function native1(value: string, place: PlaceLayout, w: Writer): string {
  if (place.half) return `bitcast<vec2h>(${w.call("half1")}(${value})).x`;
  if (place.dtype === "f16") return `unpack2x16float(${w.call("half1")}(${value})).x`;
  if (place.dtype === "bf16") return `bitcast<f32>(${w.call("bfloat1")}(${value}) << 16u)`;
  if (!isNarrowInt(place.dtype)) return value;
  if (place.dtype === "i8") return `((${value} << 24u) >> 24u)`;
  return `(${value} & ${place.dtype === "bool" ? 1 : 255})`;
}

function native4(v: string, place: PlaceLayout, w: Writer): string {
  if (place.dtype === "f32" || place.dtype === "i32") return v;
  const each = lanes.map((l) => native1(`${v}.${l}`, place, w)).join(", ");
  return `${place.half ? "vec4h" : isNarrowInt(place.dtype) ? "vec4i" : "vec4f"}(${each})`;
}
