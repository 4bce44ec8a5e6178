// Writes a checkpoint, whatever it came from, as one safetensors file: a piece at a time, so that it may be larger than
// memory. Floats may change their dtype on the way, and matrices of them be packed; everything else stays as it is.

import { bytesOf, type DType } from "../../compiler/ir/dtype.ts";
import { blockElements, packedName, type Packed, type PackedFormat } from "../../compiler/ir/plan/packed.ts";
import { WeightsError } from "../errors.ts";
import { elementCount } from "../tensor.ts";
import { accepted } from "./convert.ts";
import { packedKey, partShape, partsOf } from "./packed-file.ts";
import { readPart } from "./packed.ts";
import { encodeHeader, writeParts, type PlannedTensor } from "./safetensors.ts";
import { listed, readAs, renamer, type Renaming, type StoredTensor } from "./stored.ts";

interface RewriteOptions {
  /** What floats become; without it they stay what they are (blocks become f32). */
  readonly dtype?: "f32" | "f16" | "bf16" | undefined;
  /** The form that a matrix is packed in, whose rows are whole blocks; undefined for those that are not. */
  readonly quantise?: ((name: string) => PackedFormat | undefined) | undefined;
  /** What names begin with, and what that becomes in the new file. */
  readonly rename?: Renaming | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onBytes?: ((done: number, total: number) => void) | undefined;
}

interface Rewritten {
  readonly tensors: number;
  /** Elements of all of them. */
  readonly elements: number;
  /** Bytes of the tensors in the new file. */
  readonly bytes: number;
  /** Tensors that became f16 and have infinities now: mostly values beyond 65504. */
  readonly infinite: readonly string[];
}

interface Move extends PlannedTensor {
  readonly from: StoredTensor;
  /** A dtype, or a part of the packed form; undefined: the bytes as they are. */
  readonly to: DType | Packed | undefined;
  readonly elements: number;
}

/** Elements, or bytes, at once. */
const piece = 1 << 20;

/** Throws WeightsError when two tensors get one name, SafetensorsError when the file cannot be written; leaves no file then. */
export async function rewrite(path: string, tensors: ReadonlyMap<string, StoredTensor>, options: RewriteOptions = {}): Promise<Rewritten> {
  const { dtype, quantise, rename = [], metadata = {}, signal, onBytes } = options;
  const renamed = renamer(rename);
  const taken = new Set<string>();
  const twice: string[] = [];
  const forms: Record<string, PackedFormat> = {};
  const moves = [...tensors].flatMap(([own, from]): Move | readonly Move[] => {
    const name = renamed(own) ?? own;
    if (taken.has(name)) twice.push(name);
    taken.add(name);
    const elements = elementCount(from.shape);
    const format = mayPack(from) ? quantise?.(own) : undefined;
    if (format !== undefined) {
      forms[name] = format;
      return partsOf(format).map((part): Move => {
        const to: Packed = { of: name, shape: from.shape, format, part };
        const [own4, shape] = [part === "values", partShape(from.shape, format, part)];
        const width = own4 ? 4 : 2;
        // The elements count once.
        const counted = own4 ? elements : 0;
        const whole = packedName(name, part);
        if (taken.has(whole)) twice.push(whole);
        taken.add(whole);
        return { name: whole, dtype: own4 ? "I32" : "F16", shape, bytes: elementCount(shape) * width, from, to, elements: counted };
      });
    }
    const to = dtype !== undefined && accepted[dtype].includes(from.dtype) ? dtype : from.dtype === from.type ? undefined : "f32";
    const bytes = to === undefined ? from.bytes : elements * bytesOf(to);
    return { name, dtype: to?.toUpperCase() ?? from.dtype, shape: from.shape, bytes, from, to, elements };
  });
  if (twice.length > 0) {
    throw new WeightsError(`two tensors would have one name: ${listed(twice)}`, { missing: [], extra: [], misshapen: twice });
  }
  const total = moves.reduce((n, m) => n + m.bytes, 0);
  const infinite: string[] = [];
  const all = Object.keys(forms).length === 0 ? metadata : { ...metadata, [packedKey]: JSON.stringify(forms) };
  const { head, order } = encodeHeader(moves, all);

  async function* parts(): AsyncGenerator<Uint8Array> {
    yield* head;
    const buffer = new Uint8Array(piece * 8);
    let done = 0;
    for (const move of order) {
      let beyond = false;
      const width = move.to === undefined ? 1 : typeof move.to === "string" ? bytesOf(move.to) : move.dtype === "I32" ? 4 : 2;
      for (let at = 0; at < move.bytes; at += piece * width) {
        signal?.throwIfAborted();
        const part = buffer.subarray(0, Math.min(piece * width, move.bytes - at));
        if (move.to === undefined) await move.from.read(at, part);
        else if (typeof move.to !== "string") await readPart(move.from, move.to, at / width, part);
        else await readAs(move.from, move.to, at / width, part, move.name);
        if (move.to === "f16" && move.from.dtype !== "F16") beyond ||= hasInfinity(part);
        yield part;
        onBytes?.((done += part.byteLength), total);
      }
      if (beyond) infinite.push(move.name);
    }
    signal?.throwIfAborted();
  }
  await writeParts(path, parts());
  return { tensors: tensors.size, elements: moves.reduce((n, m) => n + m.elements, 0), bytes: total, infinite };
}

/** A matrix of floats whose rows are whole blocks. */
function mayPack({ dtype, shape }: StoredTensor): boolean {
  const row = shape[1] ?? 0;
  return accepted.f32.includes(dtype) && shape.length === 2 && row > 0 && row % blockElements === 0;
}

function hasInfinity(bytes: Uint8Array): boolean {
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  return halves.some((half) => (half & 0x7fff) === 0x7c00);
}
