// PyTorch archives (.bin, .pt, .pth): a zip with a pickle that describes tensors and an entry for each storage. Gives the
// pickle's tensors names and reads their elements by ranges, in row-major order whatever their strides are. What the
// pickle may say is pickle.ts's business.

import { PickleError } from "../errors.ts";
import type { ByteSource } from "./bytes.ts";
import { storedWidth } from "./convert.ts";
import { PickleDict, PickleTensor, readPickle, type PickleValue } from "./pickle.ts";
import type { OpenCheckpoint, StoredTensor } from "./stored.ts";
import { readEntry, readZip, type ZipEntry } from "./zip.ts";

/** Bytes of the pickle: it holds names and shapes only. */
const maximumPickle = 64 << 20;
/** Dicts in dicts around the tensors. */
const maximumDepth = 16;
/** Bytes of a storage that are looked at together when a tensor's elements are not in order. */
const window = 4 << 20;

/**
 * Note [Names in PyTorch archives]
 *   A tensor's name is the keys that lead to it, joined with dots: what the keys of a state dict are already. When all
 *   tensors are in one dict under one of these keys, that dict is the checkpoint and the key is no part of the names;
 *   other values beside it (an epoch) do not matter. When there are tensors beside it (an optimiser's), all keep their
 *   full names, and `prefix` picks.
 */
const wrappers: readonly string[] = ["state_dict", "model_state_dict", "model", "module"];

/** Opens an archive. Closes `source` with it. Throws PickleError. */
export async function torchCheckpoint(source: ByteSource): Promise<OpenCheckpoint> {
  const { name } = source;
  const entries = await readZip(source);
  const pickles = [...entries.keys()].filter((entry) => /^[^/]+\/data\.pkl$/.test(entry));
  const [pickle] = pickles;
  const entry = pickle === undefined ? undefined : entries.get(pickle);
  if (pickle === undefined || entry === undefined || pickles.length > 1) {
    throw new PickleError(`${name} is a zip archive, but not one of PyTorch: it has ${pickles.length} entries NAME/data.pkl`);
  }
  const root = pickle.slice(0, -"data.pkl".length);
  await checkOrder(source, entries.get(`${root}byteorder`), name);
  const bytes = await readEntry(source, entry, maximumPickle);
  const value = readPickle(bytes, `${pickle} of ${name}`);
  const tensors = new Map<string, StoredTensor>();
  for (const [own, tensor] of named(value, name)) {
    tensors.set(own, storedIn(source, entries.get(`${root}data/${tensor.storage.key}`), tensor, own, name));
  }
  return { name, format: "pytorch", tensors, metadata: new Map(), close: () => source[Symbol.asyncDispose]() };
}

async function checkOrder(source: ByteSource, entry: ZipEntry | undefined, name: string): Promise<void> {
  if (entry === undefined) return;
  const text = new TextDecoder().decode(await readEntry(source, entry, 64));
  if (text !== "little") throw new PickleError(`${name} says its byte order is ${JSON.stringify(text)}; only "little" is read`);
}

/** A dict, a list or a tuple. */
type Container = PickleDict | PickleValue[];

function isContainer(value: PickleValue): value is Container {
  return value instanceof PickleDict || Array.isArray(value);
}

/** Values that may be looked at to find the tensors: shared containers could otherwise cost more than they take. */
const maximumLooks = 1 << 26;

/** Knows which containers have a tensor somewhere in them. */
class Finder {
  readonly #file: string;
  readonly #barren = new Set<PickleValue>();
  #looks = 0;

  constructor(file: string) {
    this.#file = file;
  }

  holdsTensors(value: Container): boolean {
    const seen = new Set<Container>([value]);
    // A Set goes on with what is added while it is walked.
    for (const container of seen) {
      if (this.#barren.has(container)) continue;
      for (const item of container instanceof PickleDict ? container.entries.values() : container) {
        if (++this.#looks > maximumLooks) throw new PickleError(`${this.#file} is refused: its values refer to each other too often`);
        if (item instanceof PickleTensor) return true;
        if (isContainer(item)) seen.add(item);
      }
    }
    for (const container of seen) this.#barren.add(container);
    return false;
  }
}

/** The dict that is the checkpoint, as Note [Names in PyTorch archives] says. */
function unwrapped(value: PickleValue, finder: Finder): PickleValue {
  let inside = value;
  for (let depth = 0; depth < maximumDepth && inside instanceof PickleDict; depth++) {
    let only: readonly [PickleValue, PickleValue] | undefined;
    for (const entry of inside.entries) {
      const [, item] = entry;
      if (!(item instanceof PickleTensor) && !(isContainer(item) && finder.holdsTensors(item))) continue;
      if (only !== undefined) return inside;
      only = entry;
    }
    if (only === undefined || typeof only[0] !== "string" || !wrappers.includes(only[0]) || !(only[1] instanceof PickleDict)) break;
    inside = only[1];
  }
  return inside;
}

/** Every tensor with its name. */
function named(value: PickleValue, file: string): ReadonlyMap<string, PickleTensor> {
  const out = new Map<string, PickleTensor>();
  if (value instanceof PickleTensor) return out.set("tensor", value);
  const fail = (what: string): never => {
    throw new PickleError(`${file} cannot be read as a checkpoint: ${what}`);
  };
  const finder = new Finder(file);
  const root = unwrapped(value, finder);
  const seen = new Set<PickleValue>([root]);
  const open: { readonly container: PickleValue; readonly prefix: string; readonly depth: number }[] = [
    { container: root, prefix: "", depth: 0 },
  ];
  for (const { container, prefix, depth } of open) {
    const children = container instanceof PickleDict ? container.entries : Array.isArray(container) ? container.entries() : [];
    for (const [key, item] of children) {
      if (!(item instanceof PickleTensor) && !(isContainer(item) && finder.holdsTensors(item))) continue;
      if (typeof key !== "string" && typeof key !== "number") return fail("a tensor is under a key that is neither text nor a number");
      const name = prefix === "" ? String(key) : `${prefix}.${key}`;
      if (item instanceof PickleTensor) {
        if (out.has(name)) fail(`two tensors are called ${JSON.stringify(name)}`);
        out.set(name, item);
        continue;
      }
      if (seen.has(item)) fail(`the tensors at ${JSON.stringify(name)} are in it twice`);
      seen.add(item);
      if (depth >= maximumDepth) fail(`it has dicts in dicts, more than ${maximumDepth} deep`);
      open.push({ container: item, prefix: name, depth: depth + 1 });
    }
  }
  return out;
}

function storedIn(source: ByteSource, entry: ZipEntry | undefined, tensor: PickleTensor, name: string, file: string): StoredTensor {
  const { storage, shape, strides, offset } = tensor;
  const wrong = (what: string): never => {
    throw new PickleError(`${file}: the storage ${JSON.stringify(storage.key)} of ${name} ${what}`);
  };
  if (entry === undefined) return wrong("is not in the archive");
  if (entry.compressed) wrong("is compressed; PyTorch stores it as it is");
  const width = storedWidth(storage.dtype);
  const { begin } = entry;
  if (storage.count * width !== entry.size)
    wrong(`has ${entry.size} bytes, and ${storage.count} elements of ${storage.dtype} are said to be in it`);
  const about = { dtype: storage.dtype, type: storage.dtype, shape, bytes: shape.reduce((n, d) => n * d, width) };
  if (isContiguous(shape, strides)) {
    return { ...about, read: (at, target) => source.read(begin + offset * width + at, target) };
  }
  return { ...about, read: (at, target) => gather(source, begin, width, tensor, at / width, target) };
}

function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let expected = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    const size = shape[i] ?? 0;
    if (size === 0) return true;
    if (size !== 1 && strides[i] !== expected) return false;
    expected *= size;
  }
  return true;
}

/** Fills `target` with elements first, first + 1, … in row-major order, from a storage that has them in another order. */
async function gather(
  source: ByteSource,
  begin: number,
  width: number,
  { offset, shape, strides }: PickleTensor,
  first: number,
  target: Uint8Array,
): Promise<void> {
  const count = target.byteLength / width;
  const places = new Float64Array(count);
  const index = shape.map(() => 0);
  let rest = first;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const size = shape[axis] ?? 1;
    index[axis] = rest % size;
    rest = Math.floor(rest / size);
  }
  let place = index.reduce((n, i, axis) => n + i * (strides[axis] ?? 0), offset);
  let low = Infinity;
  let high = 0;
  for (let i = 0; i < count; i++) {
    places[i] = place;
    low = Math.min(low, place);
    high = Math.max(high, place);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const next = (index[axis] ?? 0) + 1;
      place += strides[axis] ?? 0;
      if (next < (shape[axis] ?? 1)) {
        index[axis] = next;
        break;
      }
      index[axis] = 0;
      place -= next * (strides[axis] ?? 0);
    }
  }
  const elements = Math.floor(window / width);
  for (let from = low; from <= high; from += elements) {
    const to = Math.min(high + 1, from + elements);
    const bytes = new Uint8Array((to - from) * width);
    await source.read(begin + from * width, bytes);
    for (let i = 0; i < count; i++) {
      const at = ((places[i] ?? 0) - from) * width;
      if (at < 0 || at >= bytes.length) continue;
      for (let b = 0; b < width; b++) target[i * width + b] = bytes[at + b] ?? 0;
    }
  }
}
