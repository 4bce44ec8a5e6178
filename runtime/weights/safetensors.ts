// Reads and writes safetensors files (https://github.com/huggingface/safetensors): 8 bytes of header length,
// a JSON header, the tensors' bytes. A file is not trusted: everything the header says is checked against the
// file's size before anything is allocated for it. Does not convert numbers (convert.ts) or match names with
// a graph's parameters (load.ts).

import type { DType } from "../../compiler/ir/dtype.ts";
import { messageOf, SafetensorsError } from "../errors.ts";
import { isRecord, repeatedKeys } from "../json.ts";
import { importNode } from "../platform.ts";
import { bytesOfTensor, elementCount, type Tensor } from "../tensor.ts";
import { openBytes, type ByteSource } from "./bytes.ts";

/** Bits of an element of each dtype the format knows. Those we do not compute with may still lie beside those we do. */
// prettier-ignore
const bits: Readonly<Record<string, number>> = {
  BOOL: 8, U8: 8, I8: 8, F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8,
  U16: 16, I16: 16, F16: 16, BF16: 16,
  U32: 32, I32: 32, F32: 32,
  U64: 64, I64: 64, F64: 64, C64: 64,
};

const names: Readonly<Record<DType, string>> = { f32: "F32", f16: "F16", bf16: "BF16", u8: "U8", i8: "I8", i32: "I32", bool: "BOOL" };

/** The format's own limit for the header. */
const maximumHeader = 100_000_000;
/** Elements a tensor may have: far beyond any file, and exact in float64. */
const maximumRank = 64;

export interface TensorEntry {
  /** The format's name: "F32", "BF16", … */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Bytes from the beginning of the file: [begin, end). */
  readonly begin: number;
  readonly end: number;
}

/** One open file. */
export interface SafetensorsFile extends AsyncDisposable {
  readonly source: ByteSource;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: ReadonlyMap<string, string>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Opens a path, bytes or a Blob. Throws SafetensorsError when the file breaks the format. */
export async function openSafetensors(from: string | Uint8Array | Blob, name?: string): Promise<SafetensorsFile> {
  let source: ByteSource;
  try {
    source = await openBytes(from, name);
  } catch (cause) {
    throw new SafetensorsError(`${typeof from === "string" ? from : (name ?? "safetensors")} cannot be opened: ${messageOf(cause)}`, {
      cause,
    });
  }
  try {
    const { tensors, metadata } = await readHeader(source);
    return { source, tensors, metadata, [Symbol.asyncDispose]: () => source[Symbol.asyncDispose]() };
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
}

async function readHeader(source: ByteSource): Promise<Pick<SafetensorsFile, "tensors" | "metadata">> {
  const fail = (what: string, options?: ErrorOptions): never => {
    throw new SafetensorsError(`${source.name} is not a valid safetensors file: ${what}`, options);
  };
  if (source.size < 8) fail(source.size === 0 ? "it is empty" : `it has ${source.size} bytes, fewer than the 8 of the header's length`);
  const prefix = new Uint8Array(8);
  await source.read(0, prefix);
  const length64 = new DataView(prefix.buffer).getBigUint64(0, true);
  const room = source.size - 8;
  if (length64 > BigInt(room)) fail(`it says its header has ${length64} bytes, and only ${room} follow`);
  const length = Number(length64);
  if (length > maximumHeader) fail(`its header of ${length} bytes is over the format's limit of ${maximumHeader}`);
  const raw = new Uint8Array(length);
  await source.read(8, raw);
  let text = "";
  let header: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(raw);
    header = JSON.parse(text);
  } catch (cause) {
    fail(`its header is not JSON (${messageOf(cause)})`, { cause });
  }
  if (!isRecord(header)) return fail("its header is not a JSON object");
  for (const key of repeatedKeys(text)) fail(`its header has the key ${JSON.stringify(key)} twice`);
  const tensors = new Map<string, TensorEntry>();
  const metadata = new Map<string, string>();
  for (const [key, value] of Object.entries(header)) {
    if (key === "__metadata__") {
      if (!isRecord(value)) return fail("__metadata__ is not an object");
      for (const [k, v] of Object.entries(value)) {
        if (typeof v !== "string") return fail(`__metadata__.${k} is not a string`);
        metadata.set(k, v);
      }
    } else {
      tensors.set(key, entryOf(key, value, 8 + length, source.size, fail));
    }
  }
  checkCover(tensors, 8 + length, source.size, fail);
  return { tensors, metadata };
}

function entryOf(name: string, value: unknown, dataStart: number, fileSize: number, fail: (what: string) => never): TensorEntry {
  const wrong = (what: string): never => fail(`tensor ${JSON.stringify(name)} ${what}`);
  if (!isRecord(value)) return wrong("is not described by an object");
  const { dtype, shape, data_offsets: offsets } = value;
  const width = typeof dtype === "string" && Object.hasOwn(bits, dtype) ? bits[dtype] : undefined;
  if (typeof dtype !== "string" || width === undefined) return wrong(`has the unknown dtype ${JSON.stringify(dtype)}`);
  if (!Array.isArray(shape) || shape.length > maximumRank || !shape.every(isCount)) {
    return wrong(`has the shape ${JSON.stringify(shape)}, which is not a list of at most ${maximumRank} sizes`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    return wrong(`has the offsets ${JSON.stringify(offsets)}, which are not two positions`);
  }
  const [begin, end] = offsets as [number, number];
  const room = fileSize - dataStart;
  if (begin > end) wrong(`begins at ${begin}, behind its end at ${end}`);
  if (end > room) wrong(`ends at byte ${end} of the data, and the file has ${room}`);
  const elements = elementCount(shape as number[]);
  if (!Number.isSafeInteger(elements)) wrong(`has more elements than can be counted (shape [${shape.join(", ")}])`);
  const needed = (elements * width) / 8;
  if (needed !== end - begin) wrong(`of ${dtype}[${shape.join(", ")}] needs ${needed} bytes, and its offsets hold ${end - begin}`);
  return { dtype, shape: shape as number[], begin: dataStart + begin, end: dataStart + end };
}

/** The tensors must fill the data section: no overlap, no hole, nothing left over. */
function checkCover(tensors: ReadonlyMap<string, TensorEntry>, dataStart: number, fileSize: number, fail: (what: string) => never): void {
  let at = dataStart;
  let before = "";
  const byPlace = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  for (const [name, { begin, end }] of byPlace) {
    if (begin < at) fail(`tensors ${JSON.stringify(before)} and ${JSON.stringify(name)} overlap`);
    if (begin > at) fail(`there are ${begin - at} unused bytes before tensor ${JSON.stringify(name)}`);
    at = end;
    before = name;
  }
  if (at < fileSize) fail(`${fileSize - at} bytes follow the last tensor`);
}

function isCount(value: unknown): boolean {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

/** A tensor that a file will hold. */
export interface PlannedTensor {
  readonly name: string;
  /** The format's name: "F32", "BF16", … */
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/**
 * What comes before the tensors' bytes: the header's length and the header. The bytes follow in the order of `order`,
 * which is by alignment and name, as the format's own writer has it.
 */
export function encodeHeader<T extends PlannedTensor>(
  tensors: readonly T[],
  metadata: Readonly<Record<string, string>>,
): { readonly head: readonly Uint8Array<ArrayBuffer>[]; readonly order: readonly T[] } {
  const order = tensors.toSorted((a, b) => (bits[b.dtype] ?? 0) - (bits[a.dtype] ?? 0) || (a.name < b.name ? -1 : 1));
  const header: [string, unknown][] = [];
  if (Object.keys(metadata).length > 0) header.push(["__metadata__", metadata]);
  let at = 0;
  for (const { name, dtype, shape, bytes } of order) header.push([name, { dtype, shape, data_offsets: [at, (at += bytes)] }]);
  // fromEntries, and not assignment, so that a tensor named __proto__ is a key like any other.
  let json = JSON.stringify(Object.fromEntries(header));
  const encoder = new TextEncoder();
  // The data begins at a multiple of 8; spaces may follow the header.
  json += " ".repeat((8 - (encoder.encode(json).byteLength % 8)) % 8);
  const text = encoder.encode(json);
  const prefix = new Uint8Array(8);
  new DataView(prefix.buffer).setBigUint64(0, BigInt(text.byteLength), true);
  return { head: [prefix, text], order };
}

/** The bytes of a safetensors file that holds `tensors`. `metadata` is stored in the header. */
export function encodeSafetensors(
  tensors: ReadonlyMap<string, Tensor>,
  metadata: Readonly<Record<string, string>> = {},
): readonly Uint8Array[] {
  const planned = [...tensors].map(([name, tensor]) => {
    const data = bytesOfTensor(tensor);
    return { name, dtype: names[tensor.dtype], shape: tensor.shape, bytes: data.byteLength, data };
  });
  const { head, order } = encodeHeader(planned, metadata);
  return [...head, ...order.map((tensor) => tensor.data)];
}

/** Writes a file under a temporary name and renames it when it is complete (Node). */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, Tensor>,
  metadata?: Readonly<Record<string, string>>,
): Promise<void> {
  return writeParts(path, encodeSafetensors(tensors, metadata));
}

/**
 * Writes parts one after another, as they come, under a temporary name that is renamed when all are there (Node). Throws
 * SafetensorsError when that fails, the parts' own error when they do, and leaves no file then.
 */
export async function writeParts(path: string, parts: Iterable<Uint8Array> | AsyncIterable<Uint8Array>): Promise<void> {
  const { open, rename, rm } = await importNode<typeof import("node:fs/promises")>("fs/promises");
  const temporary = `${path}.${process.pid}.tmp`;
  const writing = async <R>(work: Promise<R>): Promise<R> => {
    try {
      return await work;
    } catch (cause) {
      throw new SafetensorsError(`${path} cannot be written: ${messageOf(cause)}`, { cause });
    }
  };
  const handle = await writing(open(temporary, "w"));
  try {
    try {
      for await (const part of parts) {
        for (let at = 0; at < part.byteLength;) at += (await writing(handle.write(part, at, part.byteLength - at))).bytesWritten;
      }
    } finally {
      await handle.close();
    }
    await writing(rename(temporary, path));
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
