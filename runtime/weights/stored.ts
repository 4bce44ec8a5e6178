// What every kind of checkpoint looks like once it is open: tensors by name, each read by ranges. Does not know any
// format, and does not match names with a graph's parameters (load.ts).

import { bytesOf, type DType } from "../../compiler/ir/dtype.ts";
import { messageOf, WeightsError } from "../errors.ts";
import { convertElements, sameBytes, storedWidth } from "./convert.ts";
import type { GgufValue } from "./gguf.ts";

/** A tensor of a checkpoint, wherever it lies. */
export interface StoredTensor {
  /** dtype of the elements that `read` gives, in safetensors' names: "F32", "BF16", … */
  readonly dtype: string;
  /** How the file holds them: the same name, or a block format such as "Q4_K", which `read` expands to F32. */
  readonly type: string;
  readonly shape: readonly number[];
  /** Bytes it takes in its file. */
  readonly bytes: number;
  /** Its name in its file, when that is another. */
  readonly nameInFile?: string;
  /** Where the file holds blocks that can be read: they as they are, `bytes` each, from block `first` on. */
  readonly blocks?: { readonly bytes: number; read(first: number, target: Uint8Array): Promise<void> };
  /** Fills `target` (aligned to 4) with bytes of the elements, from byte `begin` of them. Both are multiples of an element. */
  read(begin: number, target: Uint8Array): Promise<void>;
}

type Format = "safetensors" | "gguf" | "pytorch" | "tensors";

export interface OpenCheckpoint {
  /** For messages. */
  readonly name: string;
  readonly format: Format;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** What the file says beside its tensors: GGUF's keys, safetensors' `__metadata__`. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  close(): Promise<void>;
}

/** What names begin with, and what that becomes. */
export type Renaming = readonly (readonly [from: string, to: string])[];

/** The name that the longest rule which fits gives; undefined when none does. */
export function renamer(rules: Renaming): (name: string) => string | undefined {
  const longestFirst = rules.toSorted(([a], [b]) => b.length - a.length);
  return (name) => {
    const rule = longestFirst.find(([from]) => name.startsWith(from));
    return rule === undefined ? undefined : rule[1] + name.slice(rule[0].length);
  };
}

/** The first few, and how many more. */
export function listed(items: readonly string[], limit = 40): string {
  const rest = items.length - limit;
  return items.slice(0, limit).join(", ") + (rest > 0 ? `, and ${rest} more` : "");
}

/** Fills `target` with elements first, first + 1, … of `stored`, as `dtype`. Throws WeightsError where they do not convert. */
export async function readAs(stored: StoredTensor, dtype: DType, first: number, target: Uint8Array, name: string): Promise<void> {
  const width = storedWidth(stored.dtype);
  if (sameBytes(stored.dtype, dtype)) return stored.read(first * width, target);
  const bytes = new Uint8Array((target.byteLength / bytesOf(dtype)) * width);
  await stored.read(first * width, bytes);
  try {
    convertElements(stored.dtype, bytes, dtype, target);
  } catch (cause) {
    throw new WeightsError(`tensor ${name}: ${messageOf(cause)}`, { missing: [], extra: [], misshapen: [name] });
  }
}
