// Packed weights as the device holds them: the three tensors that one weight becomes. What they mean, ops/quantised says;
// a checkpoint's weight becomes them while it is loaded (runtime/weights/packed.ts).

import type { Cursor } from "../cursor.ts";

/** Elements that share a scale: neighbours along a row. */
export const blockElements = 32;

/** GGUF's blocks: 8 bits and a scale; 4 bits and a scale; 4 bits, a scale and a minimum. */
export const packedFormats = ["q8_0", "q4_0", "q4_1"] as const;
export type PackedFormat = (typeof packedFormats)[number];

export function isPackedFormat(text: string): text is PackedFormat {
  return (packedFormats as readonly string[]).includes(text);
}

export const packedBits = (format: PackedFormat): 4 | 8 => (format === "q8_0" ? 8 : 4);
export const hasMinima = (format: PackedFormat): boolean => format === "q4_1";

/** values: i32[.., K·bits/32]; scales and minima: f16[.., K/32]. */
export const packedParts = ["values", "scales", "minima"] as const;
export type PackedPart = (typeof packedParts)[number];

/** What a parameter holds that is a part of a packed weight. */
export interface Packed {
  /** The weight's own name and shape, as a checkpoint has it. */
  readonly of: string;
  readonly shape: readonly number[];
  readonly format: PackedFormat;
  readonly part: PackedPart;
}

export function packedName(of: string, part: PackedPart): string {
  return `${of}.${part}`;
}

/** `q4_0 values "w" [4096, 11008]` */
export function packedText({ of, shape, format, part }: Packed): string {
  return `${format} ${part} ${JSON.stringify(of)} [${shape.join(", ")}]`;
}

/** Reads what `packedText` writes. */
export function readPacked(c: Cursor): Packed {
  const format = c.word();
  if (!isPackedFormat(format)) return c.fail("a format of packed weights before this");
  const part = packedParts.find((p) => c.take(p)) ?? c.fail("a part of a packed weight");
  const of = c.string();
  c.need("[");
  return { of, shape: c.list("]", () => c.int()), format, part };
}
