// The packed form that a checkpoint's own block formats have, or come nearest to, for graphs that keep weights packed as
// their file has them. Reads no tensors' contents.

import type { PackedFormat } from "../../compiler/ir/plan/packed.ts";
import type { StoredTensor } from "./stored.ts";

/**
 * Q8_0, Q4_0 and Q4_1 are taken byte for byte. The others are rounded to a form with at least their bits, but for Q4_K,
 * whose blocks of 32 are Q4_1's with scales of more bits than f16 has, and Q6_K's 16 numbers a scale.
 */
const forms: Readonly<Record<string, PackedFormat>> = {
  Q8_0: "q8_0",
  Q4_0: "q4_0",
  Q4_1: "q4_1",
  Q2_K: "q4_1",
  Q3_K: "q4_1",
  Q4_K: "q4_1",
  Q5_0: "q8_0",
  Q5_1: "q8_0",
  Q5_K: "q8_0",
  Q6_K: "q8_0",
};

/** By the name of each tensor that its file holds in blocks. */
export function packedFormats(tensors: ReadonlyMap<string, StoredTensor>): ReadonlyMap<string, PackedFormat> {
  return new Map([...tensors].flatMap(([name, { type }]) => (forms[type] === undefined ? [] : [[name, forms[type]] as const])));
}
