// The memory that the emulator runs functions on: typed arrays of each element type.

import type { DType } from "../dtype.ts";

export type ImpMemory = Float32Array | Int32Array | Uint16Array | Uint8Array | Int8Array;

/** A read or write outside a buffer, or a function that does not fit what it is run on. */
export class ImpError extends Error {
  override readonly name = "ImpError";
}

/** f16 and bf16 are their bits (Uint16Array); bool is one byte. */
function impMemory(dtype: DType, elements: number): ImpMemory {
  switch (dtype) {
    case "f32":
      return new Float32Array(elements);
    case "i32":
      return new Int32Array(elements);
    case "f16":
    case "bf16":
      return new Uint16Array(elements);
    case "i8":
      return new Int8Array(elements);
    case "u8":
    case "bool":
      return new Uint8Array(elements);
    default:
      return dtype satisfies never;
  }
}

/** Scratch begins with contents that are wrong for any use. */
export function poisoned(dtype: DType, elements: number): ImpMemory {
  const memory = impMemory(dtype, elements);
  if (memory instanceof Float32Array) memory.fill(NaN);
  else memory.fill(0x55);
  return memory;
}
