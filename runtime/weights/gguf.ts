// Reads the header of GGUF files, versions 2 and 3 (https://github.com/ggml-org/ggml, docs/gguf.md): metadata and where
// each tensor lies. A file is not trusted: every count, length and offset is compared with what is left of the file
// before anything is allocated or looped for it. Long arrays (vocabularies) stay in the file until they are asked for.
// Does not expand blocks (quants.ts) or know what names mean (gguf-tensors.ts).

import { GgufError, messageOf } from "../errors.ts";
import { elementCount } from "../tensor.ts";
import { openBytes, type ByteSource } from "./bytes.ts";
import { ggmlTypes, type GgmlType } from "./quants.ts";

type GgufScalar = number | bigint | boolean | string;
/** 64-bit integers are numbers where that is exact, else bigints. */
export type GgufValue = GgufScalar | GgufArray;

/** An array that is still in the file: see `readGgufArray`. */
export interface GgufArray {
  readonly items: GgufItemType;
  readonly length: number;
  /** Bytes from the beginning of the file: [begin, end). */
  readonly begin: number;
  readonly end: number;
}

const itemTypes = ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"] as const;
type GgufItemType = (typeof itemTypes)[number];

/** Fewest bytes of a value of each type. A string has its length before it, an array its type and length. */
const fewest: Readonly<Record<GgufItemType, number>> = {
  ...{ u8: 1, i8: 1, bool: 1, u16: 2, i16: 2, u32: 4, i32: 4, f32: 4, u64: 8, i64: 8, f64: 8 },
  ...{ string: 8, array: 12 },
};

export interface GgufTensor {
  readonly type: GgmlType;
  /** Slowest axis first, as everywhere here; the file has it the other way round. */
  readonly shape: readonly number[];
  /** Bytes from the beginning of the file: [begin, end). */
  readonly begin: number;
  readonly end: number;
}

export interface GgufFile extends AsyncDisposable {
  readonly source: ByteSource;
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** The format's limit for keys; ggml's own for tensor names is lower. */
const maximumKey = 65535;
/** Bytes of all keys, names and string values together; vocabularies are not among them. */
const maximumText = 256 << 20;
const maximumTensors = 1 << 20;
const maximumPairs = 1 << 20;
/** Axes, as in ggml. */
const maximumRank = 4;
/** Arrays of arrays of … */
const maximumDepth = 4;
/** Values an array may have to be read as a whole. */
const maximumArray = 1 << 24;

/** Opens a path, bytes or a Blob. Throws GgufError when the file breaks the format. */
export async function openGguf(from: string | Uint8Array | Blob, name?: string): Promise<GgufFile> {
  let source: ByteSource;
  try {
    source = await openBytes(from, name);
  } catch (cause) {
    throw new GgufError(`${typeof from === "string" ? from : (name ?? "GGUF")} cannot be opened: ${messageOf(cause)}`, { cause });
  }
  try {
    return { source, ...(await readHeader(source)), [Symbol.asyncDispose]: () => source[Symbol.asyncDispose]() };
  } catch (error) {
    await source[Symbol.asyncDispose]();
    throw error;
  }
}

/** Reads an array of `file`. Throws GgufError for one of more than 2^24 values, and for text that is not UTF-8. */
export async function readGgufArray(file: Pick<GgufFile, "source">, array: GgufArray): Promise<readonly GgufValue[]> {
  const cursor = new Cursor(file.source, array.begin, array.end);
  if (array.length > maximumArray) cursor.fail(`an array has ${array.length} values, over the limit of ${maximumArray}`);
  const out: GgufValue[] = [];
  for (let i = 0; i < array.length; i++) out.push(await readValue(cursor, array.items, 1));
  return out;
}

export function isGgufArray(value: GgufValue | undefined): value is GgufArray {
  return typeof value === "object";
}

/** Walks a part of a file through a window. `load` waits for the file; the other methods need what was loaded. */
class Cursor {
  readonly source: ByteSource;
  readonly end: number;
  /** Of the next byte, from the beginning of the file. */
  at: number;
  /** Bytes of text that were kept. */
  #text = 0;
  readonly #window: DataView<ArrayBuffer>;
  #start = 0;
  #loaded = 0;

  constructor(source: ByteSource, at: number, end: number) {
    this.source = source;
    this.at = at;
    this.end = end;
    this.#window = new DataView(new ArrayBuffer(Math.min(1 << 18, end - at)));
  }

  get left(): number {
    return this.end - this.at;
  }

  fail(what: string): never {
    throw new GgufError(`${this.source.name} is not a valid GGUF file: ${what}`);
  }

  has(bytes: number): boolean {
    return this.at >= this.#start && this.at + bytes <= this.#start + this.#loaded;
  }

  /** Afterwards `bytes` (few) can be taken. */
  async load(bytes: number, what: string): Promise<void> {
    if (bytes > this.left) this.fail(`it ends inside ${what}`);
    if (this.has(bytes)) return;
    this.#loaded = Math.min(this.#window.byteLength, this.left);
    this.#start = this.at;
    await this.source.read(this.at, new Uint8Array(this.#window.buffer, 0, this.#loaded));
  }

  /** Moves over `bytes` and gives where they are in the window. */
  #take(bytes: number): number {
    const at = this.at - this.#start;
    this.at += bytes;
    return at;
  }

  u32(): number {
    return this.#window.getUint32(this.#take(4), true);
  }

  /** Exact up to 2^53, and never smaller than that for what is larger: good for comparing with sizes. */
  count(): number {
    const low = this.u32();
    return low + this.u32() * 2 ** 32;
  }

  scalar(type: Exclude<GgufItemType, "string" | "array">): number | bigint | boolean {
    const view = this.#window;
    const at = this.#take(fewest[type]);
    switch (type) {
      case "u8":
        return view.getUint8(at);
      case "i8":
        return view.getInt8(at);
      case "u16":
        return view.getUint16(at, true);
      case "i16":
        return view.getInt16(at, true);
      case "u32":
        return view.getUint32(at, true);
      case "i32":
        return view.getInt32(at, true);
      case "f32":
        return view.getFloat32(at, true);
      case "f64":
        return view.getFloat64(at, true);
      case "u64":
        return exact(view.getBigUint64(at, true));
      case "i64":
        return exact(view.getBigInt64(at, true));
      case "bool": {
        const byte = view.getUint8(at);
        if (byte > 1) this.fail(`a truth value is ${byte}`);
        return byte === 1;
      }
      default:
        return type satisfies never;
    }
  }

  /** A length and that many bytes of UTF-8. */
  async text(what: string, limit = maximumText): Promise<string> {
    await this.load(8, what);
    const length = this.count();
    if (length > this.left) this.fail(`${what} has ${length} bytes, and ${this.left} follow`);
    if (length > limit) this.fail(`${what} has ${length} bytes, over the limit of ${limit}`);
    this.#text += length;
    if (this.#text > maximumText) this.fail(`its texts have more than ${maximumText} bytes`);
    let bytes: Uint8Array;
    if (length <= this.#window.byteLength) {
      await this.load(length, what);
      const at = this.#take(length);
      bytes = new Uint8Array(this.#window.buffer, at, length);
    } else {
      bytes = new Uint8Array(length);
      await this.source.read(this.at, bytes);
      this.at += length;
    }
    try {
      return utf8.decode(bytes);
    } catch {
      return this.fail(`${what} is not UTF-8`);
    }
  }
}

// A byte order mark is text like any other: keys and vocabularies are exact.
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function exact(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

async function readHeader(source: ByteSource): Promise<Pick<GgufFile, "version" | "metadata" | "tensors">> {
  const cursor = new Cursor(source, 0, source.size);
  const fail = (what: string): never => cursor.fail(what);
  await cursor.load(24, "its first 24 bytes");
  if (cursor.u32() !== 0x46554747) fail("it does not begin with GGUF");
  const version = cursor.u32();
  if (version === 0x02000000 || version === 0x03000000) fail("its numbers are big-endian, which is not read");
  if (version !== 2 && version !== 3) fail(`its version is ${version}; 2 and 3 are read`);
  const tensorCount = cursor.count();
  const pairCount = cursor.count();
  // A pair has at least a length, a type and a byte; a tensor a length, a rank, a type and an offset.
  limit("metadata pairs", pairCount, maximumPairs, 13);
  limit("tensors", tensorCount, maximumTensors, 24);

  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < pairCount; i++) {
    const key = await cursor.text(`the key of pair ${i}`, maximumKey);
    if (metadata.has(key)) fail(`the key ${JSON.stringify(key)} occurs twice`);
    await cursor.load(4, `the type of ${key}`);
    metadata.set(key, await readValue(cursor, itemType(cursor, key), 0, key));
  }
  const alignment = metadata.get("general.alignment") ?? 32;
  if (typeof alignment !== "number" || !Number.isInteger(alignment) || alignment < 1 || alignment > 2 ** 30 || !isPowerOfTwo(alignment)) {
    return fail(`general.alignment is ${String(alignment)}, which is not a power of two`);
  }
  const infos = new Map<string, Info>();
  for (let i = 0; i < tensorCount; i++) {
    const name = await cursor.text(`the name of tensor ${i}`, maximumKey);
    if (infos.has(name)) fail(`the tensor ${JSON.stringify(name)} occurs twice`);
    infos.set(name, await readInfo(cursor, name, alignment));
  }
  return { version, metadata, tensors: placed(infos, Math.ceil(cursor.at / alignment) * alignment, cursor) };

  function limit(what: string, count: number, maximum: number, bytes: number): void {
    if (count * bytes > cursor.left) fail(`it says it has ${count} ${what}, and only ${cursor.left} bytes follow`);
    if (count > maximum) fail(`it has ${count} ${what}, over the limit of ${maximum}`);
  }
}

function isPowerOfTwo(n: number): boolean {
  return (n & (n - 1)) === 0;
}

function itemType(cursor: Cursor, what: string): GgufItemType {
  const number = cursor.u32();
  return itemTypes[number] ?? cursor.fail(`${what} has the unknown type ${number}`);
}

/** `what` is the key, for messages. */
async function readValue(cursor: Cursor, type: GgufItemType, depth: number, what = "a value"): Promise<GgufValue> {
  switch (type) {
    case "string":
      return cursor.text(what);
    case "array":
      return passArray(cursor, depth, what);
    default:
      if (!cursor.has(fewest[type])) await cursor.load(fewest[type], what);
      return cursor.scalar(type);
  }
}

/** Notes where an array is and moves behind it. */
async function passArray(cursor: Cursor, depth: number, what: string): Promise<GgufArray> {
  if (depth >= maximumDepth) cursor.fail(`${what} has arrays in arrays, more than ${maximumDepth} deep`);
  await cursor.load(12, what);
  const items = itemType(cursor, what);
  const length = cursor.count();
  if (length * fewest[items] > cursor.left) cursor.fail(`${what} has ${length} values of ${items}, and ${cursor.left} bytes follow`);
  const begin = cursor.at;
  if (items === "string") {
    for (let i = 0; i < length; i++) {
      if (!cursor.has(8)) await cursor.load(8, what);
      const bytes = cursor.count();
      if (bytes > cursor.left) cursor.fail(`text ${i} of ${what} has ${bytes} bytes, and ${cursor.left} follow`);
      cursor.at += bytes;
    }
  } else if (items === "array") {
    for (let i = 0; i < length; i++) await passArray(cursor, depth + 1, what);
  } else {
    cursor.at += length * fewest[items];
  }
  return { items, length, begin, end: cursor.at };
}

/** A tensor before it is known where the data begins. */
interface Info extends Pick<GgufTensor, "type" | "shape"> {
  readonly offset: number;
  readonly bytes: number;
}

async function readInfo(cursor: Cursor, name: string, alignment: number): Promise<Info> {
  const wrong = (what: string): never => cursor.fail(`tensor ${JSON.stringify(name)} ${what}`);
  const described = `the description of tensor ${JSON.stringify(name)}`;
  await cursor.load(4, described);
  const rank = cursor.u32();
  if (rank > maximumRank) wrong(`has ${rank} axes; the format has at most ${maximumRank}`);
  await cursor.load(rank * 8 + 12, described);
  const shape: number[] = [];
  for (let i = 0; i < rank; i++) shape.unshift(cursor.count());
  const elements = elementCount(shape);
  if (!shape.every(Number.isSafeInteger) || !Number.isSafeInteger(elements)) {
    wrong(`has more elements than can be counted (shape [${shape.join(", ")}])`);
  }
  const number = cursor.u32();
  const type = ggmlTypes.get(number) ?? wrong(`has the unknown type ${number}`);
  const row = shape.at(-1) ?? 1;
  if (row % type.block !== 0) wrong(`has rows of ${row} elements, which are not whole blocks of ${type.name} (${type.block})`);
  const offset = cursor.count();
  if (offset % alignment !== 0) wrong(`begins at byte ${offset} of the data, which is not a multiple of ${alignment}`);
  return { type, shape, offset, bytes: (elements / type.block) * type.bytes };
}

/** Adds where the data begins. Tensors may not overlap or end behind the file; padding and unused bytes may lie between. */
function placed(infos: ReadonlyMap<string, Info>, start: number, cursor: Cursor): ReadonlyMap<string, GgufTensor> {
  const room = Math.max(0, cursor.end - start);
  const out = new Map<string, GgufTensor>();
  for (const [name, { type, shape, offset, bytes }] of infos) {
    if (bytes > room || offset > room - bytes) {
      cursor.fail(`tensor ${JSON.stringify(name)} ends at byte ${offset + bytes} of the data, and the file has ${room}`);
    }
    out.set(name, { type, shape, begin: start + offset, end: start + offset + bytes });
  }
  let before: readonly [string, GgufTensor] | undefined;
  for (const one of [...out].filter(([, t]) => t.end > t.begin).sort(([, a], [, b]) => a.begin - b.begin)) {
    if (before !== undefined && one[1].begin < before[1].end) {
      cursor.fail(`tensors ${JSON.stringify(before[0])} and ${JSON.stringify(one[0])} overlap`);
    }
    before = one;
  }
  return out;
}
