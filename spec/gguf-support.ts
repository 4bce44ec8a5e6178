// What tests of GGUF share: tensors to write and the values that are read.

import { readAs, type StoredTensor } from "../runtime/weights/stored.ts";
import type { TensorSpec } from "./gguf-writer.ts";

const floatBytes = (...values: readonly number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);
/** A tensor of f32. */
export const f32 = (name: string, shape: readonly number[], values: readonly number[]): TensorSpec => ({
  name,
  shape,
  type: 0,
  data: floatBytes(...values),
});

/** Elements `first`… of a tensor, as f32. */
export async function floats(
  stored: StoredTensor | undefined,
  first = 0,
  count = stored?.shape.reduce((n, d) => n * d, 1) ?? 0,
): Promise<Float32Array> {
  if (stored === undefined) throw new Error("there is no such tensor");
  const out = new Float32Array(count);
  await readAs(stored, "f32", first, new Uint8Array(out.buffer), "it");
  return out;
}
