// The element types of tensors. Knows sizes and kinds; does not convert values
// (see ops/reference for exact conversion, targets for generated conversion).

/** Element types a tensor may have, in the order of the language definition. */
export const dtypes = ["f32", "f16", "bf16", "u8", "i8", "i32", "bool"] as const;
export type DType = (typeof dtypes)[number];

const bytes: Readonly<Record<DType, number>> = {
  f32: 4,
  f16: 2,
  bf16: 2,
  u8: 1,
  i8: 1,
  i32: 4,
  bool: 1,
};

/** Bytes one element occupies in a dense buffer. `bool` is one byte, 0 or 1. */
export function bytesOf(dtype: DType): number {
  return bytes[dtype];
}

export function isFloat(dtype: DType): dtype is "f32" | "f16" | "bf16" {
  return dtype === "f32" || dtype === "f16" || dtype === "bf16";
}

export function isDType(text: string): text is DType {
  return (dtypes as readonly string[]).includes(text);
}
