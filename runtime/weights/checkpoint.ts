// Opens a checkpoint whatever it is: a safetensors file, GGUF, a PyTorch archive, an index of such files, a Hugging Face
// folder, bytes or a Blob of one file, tensors in memory. What a file is, its first bytes say, not its name. Does not
// match names with a graph's parameters (load.ts).

import { messageOf, PickleError, SafetensorsError } from "../errors.ts";
import { isRecord, repeatedKeys } from "../json.ts";
import { importNode } from "../platform.ts";
import { bytesOfTensor, type Tensor } from "../tensor.ts";
import { openBytes, readAll, withBytes, type ByteSource } from "./bytes.ts";
import { ggufCheckpoint } from "./gguf-tensors.ts";
import { openGguf } from "./gguf.ts";
import { joinedParts } from "./packed-file.ts";
import { openSafetensors } from "./safetensors.ts";
import { listed, type OpenCheckpoint, type StoredTensor } from "./stored.ts";
import { torchCheckpoint } from "./torch.ts";

/** A path (Node), the bytes or Blob of one file, tensors by name; or several that hold different tensors. */
export type Checkpoint = OneCheckpoint | readonly OneCheckpoint[];
type OneCheckpoint = string | Uint8Array | Blob | ReadonlyMap<string, Tensor>;

/**
 * Throws SafetensorsError, GgufError or PickleError for a file that breaks its format, and SafetensorsError for indexes,
 * folders without a checkpoint, and files of no known format.
 */
export async function openCheckpoint(from: Checkpoint): Promise<OpenCheckpoint> {
  return isList(from) ? openAll(from) : openOne(from);
}

function isList(from: Checkpoint): from is readonly OneCheckpoint[] {
  return Array.isArray(from);
}

/** Throws when two of them have a tensor of one name. */
async function openAll(list: readonly OneCheckpoint[]): Promise<OpenCheckpoint> {
  const open: OpenCheckpoint[] = [];
  const close = (): Promise<void> => closeAll(open);
  try {
    const tensors = new Map<string, StoredTensor>();
    for (const from of list) {
      const one = await openOne(from);
      open.push(one);
      const twice = [...one.tensors.keys()].filter((name) => tensors.has(name));
      if (twice.length > 0) throw new SafetensorsError(`${one.name} has tensors that a file before it has too: ${listed(twice)}`);
      for (const [name, stored] of one.tensors) tensors.set(name, stored);
    }
    const [first, ...others] = open;
    const metadata = others.length === 0 ? first?.metadata : undefined;
    return {
      name: open.map((one) => one.name).join(" and "),
      format: first?.format ?? "tensors",
      tensors,
      metadata: metadata ?? new Map(),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function closeAll(open: Iterable<OpenCheckpoint>): Promise<void> {
  for (const one of open) await one.close();
}

async function openOne(from: OneCheckpoint): Promise<OpenCheckpoint> {
  if (typeof from === "string") return openPath(from);
  if (from instanceof Uint8Array || from instanceof Blob) return openFile(from);
  const tensors = new Map<string, StoredTensor>();
  for (const [name, tensor] of from) {
    const bytes = bytesOfTensor(tensor);
    const dtype = tensor.dtype.toUpperCase();
    tensors.set(name, {
      dtype,
      type: dtype,
      shape: tensor.shape,
      bytes: bytes.byteLength,
      read: async (begin, target) => target.set(bytes.subarray(begin, begin + target.byteLength)),
    });
  }
  return { name: "the given tensors", format: "tensors", tensors, metadata: new Map(), close: async () => undefined };
}

/** What a folder may hold, in the order of preference. */
const known = ["model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin"] as const;

async function openPath(path: string): Promise<OpenCheckpoint> {
  const fs = await importNode<typeof import("node:fs/promises")>("fs/promises");
  const { join } = await importNode<typeof import("node:path")>("path");
  const isFolder = await fs.stat(path).then(
    (stat) => stat.isDirectory(),
    () => false,
  );
  if (!isFolder) return (await isIndex(path)) ? openSharded(path) : openFile(path);
  const names = await fs.readdir(path);
  const name = known.find((candidate) => names.includes(candidate));
  if (name !== undefined) return openPath(join(path, name));
  const [gguf, ...others] = names.filter((candidate) => candidate.endsWith(".gguf"));
  if (gguf !== undefined && others.length === 0) return openFile(join(path, gguf));
  const also = gguf === undefined ? ", and no GGUF file" : `, and ${1 + others.length} GGUF files: name one of them`;
  throw new SafetensorsError(`${path} holds neither ${known.join(" nor ")}${also}`);
}

/**
 * Whether a file is JSON: it begins with a brace, and not with the length of a safetensors header. One that cannot be read
 * is not; whoever opens it next says why.
 */
async function isIndex(path: string): Promise<boolean> {
  const start = await withBytes(path, beginning).catch(() => new Uint8Array());
  const length = start.length >= 9 && start.subarray(4, 8).every((byte) => byte === 0);
  return /^\s*\{/.test(new TextDecoder().decode(start)) && !length;
}

async function beginning(source: ByteSource): Promise<Uint8Array> {
  const bytes = new Uint8Array(Math.min(16, source.size));
  await source.read(0, bytes);
  return bytes;
}

/** One file, by what it begins with. What is nothing else is taken for safetensors, whose reader says what is wrong. */
async function openFile(from: string | Uint8Array | Blob): Promise<OpenCheckpoint> {
  let start: Uint8Array;
  try {
    start = await withBytes(from, beginning);
  } catch (cause) {
    const what = typeof from === "string" ? from : "the checkpoint";
    throw new SafetensorsError(`${what} cannot be opened: ${messageOf(cause)}`, { cause });
  }
  const begins = (...bytes: readonly number[]): boolean => bytes.every((byte, i) => start[i] === byte);
  if (begins(0x47, 0x47, 0x55, 0x46)) {
    const file = await openGguf(from);
    return closingOnError(file.source, async () => ggufCheckpoint(file));
  }
  if (begins(0x50, 0x4b, 3, 4) && start[8] !== 0x7b) {
    const source = await openBytes(from);
    return closingOnError(source, () => torchCheckpoint(source));
  }
  const name = typeof from === "string" ? from : "the checkpoint";
  if (begins(0x80) && (start[1] ?? 9) <= 5 && start[8] !== 0x7b) {
    throw new PickleError(`${name} is a pickle of PyTorch before 1.6, which is not read: load it there and save it again`);
  }
  const file = await openSafetensors(from);
  const tensors = new Map<string, StoredTensor>();
  for (const [own, { dtype, shape, begin, end }] of file.tensors) {
    tensors.set(own, { dtype, type: dtype, shape, bytes: end - begin, read: (at, target) => file.source.read(begin + at, target) });
  }
  const { metadata, source } = file;
  return closingOnError(source, async () => {
    const joined = joinedParts(source.name, tensors, metadata);
    return { name: source.name, format: "safetensors", tensors: joined, metadata, close: () => file[Symbol.asyncDispose]() };
  });
}

async function closingOnError(source: ByteSource, open: () => Promise<OpenCheckpoint>): Promise<OpenCheckpoint> {
  try {
    return await open();
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
}

/** The limit of a safetensors header serves for indexes too. */
const maximumIndex = 100_000_000;

async function openSharded(path: string): Promise<OpenCheckpoint> {
  const { dirname, join } = await importNode<typeof import("node:path")>("path");
  const shardOf = await readIndex(path);
  const files = new Map<string, OpenCheckpoint>();
  const close = (): Promise<void> => closeAll(files.values());
  try {
    for (const shard of new Set(shardOf.values())) files.set(shard, await openFile(join(dirname(path), shard)));
    const tensors = new Map<string, StoredTensor>();
    for (const [shard, file] of files) {
      for (const [name, stored] of file.tensors) {
        if (shardOf.get(name) === shard) tensors.set(name, stored);
      }
    }
    const absent = [...shardOf].filter(([name]) => !tensors.has(name)).map(([name, shard]) => `${name} (${shard})`);
    if (absent.length > 0) throw new SafetensorsError(`${path} names tensors that its files do not have: ${listed(absent)}`);
    const [first] = files.values();
    return { name: path, format: first?.format ?? "safetensors", tensors, metadata: first?.metadata ?? new Map(), close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Tensor → file. Throws SafetensorsError for anything but names of files beside the index. */
async function readIndex(path: string): Promise<ReadonlyMap<string, string>> {
  let map: unknown;
  try {
    const bytes = await withBytes(path, (source) => {
      if (source.size > maximumIndex) throw new Error(`its ${source.size} bytes are over the limit of ${maximumIndex}`);
      return readAll(source);
    });
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    const index: unknown = JSON.parse(text);
    const [repeated] = repeatedKeys(text);
    if (repeated !== undefined) throw new Error(`the key ${JSON.stringify(repeated)} occurs twice`);
    map = isRecord(index) ? index["weight_map"] : undefined;
  } catch (cause) {
    throw new SafetensorsError(`${path} cannot be read as an index: ${messageOf(cause)}`, { cause });
  }
  if (!isRecord(map)) throw new SafetensorsError(`${path} is not an index: it has no object "weight_map"`);
  const out = new Map<string, string>();
  for (const [tensor, file] of Object.entries(map)) {
    if (typeof file !== "string" || !/^[^/\\\0]+$/.test(file) || file === "." || file === "..") {
      throw new SafetensorsError(`${path} places ${tensor} in ${JSON.stringify(file)}, which is not a file beside it`);
    }
    out.set(tensor, file);
  }
  return out;
}
