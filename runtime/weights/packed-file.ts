// Packed weights in a safetensors file, as `uhdc convert --quantise` writes them: tensors NAME.values (I32), NAME.scales
// and, for q4_1, NAME.minima (F16), and in the metadata "uhd.packed", which gives the form of each NAME as JSON. Read back,
// NAME is one tensor again, in GGUF's blocks. Does not round numbers (packed.ts).

import {
  blockElements,
  hasMinima,
  isPackedFormat,
  packedBits,
  packedName,
  type PackedFormat,
  type PackedPart,
} from "../../compiler/ir/plan/packed.ts";
import { messageOf, SafetensorsError } from "../errors.ts";
import { isRecord, repeatedKeys } from "../json.ts";
import { blocksAsFloats } from "./gguf-tensors.ts";
import { ggmlTypes } from "./quants.ts";
import type { StoredTensor } from "./stored.ts";

/** The key of the metadata. */
export const packedKey = "uhd.packed";

export function partsOf(format: PackedFormat): readonly PackedPart[] {
  return hasMinima(format) ? ["values", "scales", "minima"] : ["values", "scales"];
}

/** Shape of a part of a weight with this shape, whose rows are whole blocks. */
export function partShape(shape: readonly number[], format: PackedFormat, part: PackedPart): readonly number[] {
  const blocks = (shape.at(-1) ?? 0) / blockElements;
  return [...shape.slice(0, -1), part === "values" ? blocks * packedBits(format) : blocks];
}

/** The tensors of a file, each packed weight as one. Throws SafetensorsError where the parts are not what the metadata says. */
export function joinedParts(
  file: string,
  tensors: ReadonlyMap<string, StoredTensor>,
  metadata: ReadonlyMap<string, unknown>,
): ReadonlyMap<string, StoredTensor> {
  const text = metadata.get(packedKey);
  if (typeof text !== "string") return tensors;
  const joined = new Map(tensors);
  for (const [name, format] of formsIn(file, text)) {
    const parts = new Map(partsOf(format).map((part) => [part, tensors.get(packedName(name, part))]));
    const scales = parts.get("scales");
    const blocks = scales?.shape.at(-1);
    const shape = blocks === undefined ? undefined : [...(scales?.shape.slice(0, -1) ?? []), blocks * blockElements];
    for (const [part, stored] of parts) {
      const dtype = part === "values" ? "I32" : "F16";
      const fits = shape !== undefined && stored?.dtype === dtype && stored.shape.join() === partShape(shape, format, part).join();
      if (!fits) throw new SafetensorsError(`${file} has no ${dtype} ${packedName(name, part)} that fits ${name} packed as ${format}`);
      joined.delete(packedName(name, part));
    }
    if (tensors.has(name)) throw new SafetensorsError(`${file} has ${name} both packed and as it is`);
    if (shape !== undefined) joined.set(name, whole(shape, format, parts));
  }
  return joined;
}

function formsIn(file: string, text: string): readonly (readonly [string, PackedFormat])[] {
  let forms: unknown;
  try {
    forms = JSON.parse(text);
  } catch (cause) {
    throw new SafetensorsError(`${file}: its metadata ${packedKey} is no JSON: ${messageOf(cause)}`, { cause });
  }
  const [repeated] = repeatedKeys(text);
  if (!isRecord(forms) || repeated !== undefined)
    throw new SafetensorsError(`${file}: its metadata ${packedKey} is no object of one form for each name`);
  return Object.entries(forms).map(([name, format]) => {
    if (typeof format === "string" && isPackedFormat(format)) return [name, format] as const;
    throw new SafetensorsError(`${file}: ${name} is packed as ${JSON.stringify(format)}, which is no form that is read`);
  });
}

/** One tensor of GGUF's blocks, each put together from its parts. */
function whole(shape: readonly number[], format: PackedFormat, parts: ReadonlyMap<PackedPart, StoredTensor | undefined>): StoredTensor {
  const type = [...ggmlTypes.values()].find((t) => t.name === format.toUpperCase());
  if (type === undefined) throw new Error(`${format} is no block format`);
  // The order in a block: scale, minimum, values.
  const order = (["scales", "minima", "values"] as const).flatMap((part) => {
    const stored = parts.get(part);
    return stored === undefined ? [] : [{ stored, bytes: part === "values" ? packedBits(format) * 4 : 2 }];
  });
  const read = async (first: number, target: Uint8Array): Promise<void> => {
    const count = target.byteLength / type.bytes;
    let at = 0;
    for (const { stored, bytes } of order) {
      const part = new Uint8Array(count * bytes);
      await stored.read(first * bytes, part);
      for (let b = 0; b < count; b++) target.set(part.subarray(b * bytes, (b + 1) * bytes), b * type.bytes + at);
      at += bytes;
    }
  };
  return {
    dtype: "F32",
    type: type.name,
    shape,
    bytes: order.reduce((sum, { stored }) => sum + stored.bytes, 0),
    blocks: { bytes: type.bytes, read },
    read: blocksAsFloats(type, read),
  };
}
