// Finds the entries of a zip archive, as PyTorch writes them: stored, with or without the zip64 records. An entry is
// read by ranges where it lies. Compressed entries can only be taken whole, up to a limit. Does not check CRCs (reading
// by ranges never has a whole entry) and does not write.

import { messageOf, PickleError } from "../errors.ts";
import type { ByteSource } from "./bytes.ts";

export interface ZipEntry {
  readonly name: string;
  /** Bytes when it is taken out. */
  readonly size: number;
  /** Bytes from the beginning of the file: [begin, end). */
  readonly begin: number;
  readonly end: number;
  readonly compressed: boolean;
}

/** Bytes of the table of entries. */
const maximumDirectory = 64 << 20;
/** The record at the end, and the longest comment that may follow it. */
const tail = 22 + 65535;

const signatures = { local: 0x04034b50, central: 0x02014b50, end: 0x06054b50, end64: 0x06064b50, locator64: 0x07064b50 } as const;

/** Every entry, checked against the file's size and against each other. Throws PickleError. */
export async function readZip(source: ByteSource): Promise<ReadonlyMap<string, ZipEntry>> {
  const fail = (what: string): never => {
    throw new PickleError(`${source.name} is not a valid zip archive: ${what}`);
  };
  const directory = await findDirectory(source, fail);
  const bytes = new Uint8Array(directory.size);
  await source.read(directory.begin, bytes);
  const view = new DataView(bytes.buffer);
  const entries = new Map<string, ZipEntry>();
  const places: ZipEntry[] = [];
  let at = 0;
  for (let i = 0; i < directory.count; i++) {
    if (at + 46 > bytes.length || view.getUint32(at, true) !== signatures.central) fail(`entry ${i} of its table is damaged`);
    const [nameLength, extraLength, commentLength] = [28, 30, 32].map((o) => view.getUint16(at + o, true)) as [number, number, number];
    const next = at + 46 + nameLength + extraLength + commentLength;
    if (next > bytes.length) fail(`entry ${i} of its table is cut`);
    const name = nameOf(bytes.subarray(at + 46, at + 46 + nameLength), i, fail);
    const what = JSON.stringify(name);
    if (entries.has(name)) fail(`it has ${what} twice`);
    if ((view.getUint16(at + 8, true) & 1) !== 0) fail(`${what} is encrypted`);
    const method = view.getUint16(at + 10, true);
    if (method !== 0 && method !== 8) fail(`${what} is compressed with method ${method}`);
    const extra = new DataView(bytes.buffer, at + 46 + nameLength, extraLength);
    const long = zip64Fields(view, at, extra, () => fail(`the zip64 record of ${what} is cut`));
    const begin = await dataStart(source, long.offset, name, directory.begin, fail);
    const end = begin + long.packed;
    if (end > directory.begin) fail(`${what} has ${long.packed} bytes, and ${directory.begin - begin} follow`);
    if (method === 0 && long.packed !== long.size) fail(`${what} is stored, and its two sizes are ${long.packed} and ${long.size}`);
    const entry = { name, size: long.size, begin, end, compressed: method === 8 };
    entries.set(name, entry);
    places.push(entry);
    at = next;
  }
  let before: ZipEntry | undefined;
  for (const entry of places.filter((e) => e.end > e.begin).sort((a, b) => a.begin - b.begin)) {
    if (before !== undefined && entry.begin < before.end) fail(`${JSON.stringify(before.name)} and ${JSON.stringify(entry.name)} overlap`);
    before = entry;
  }
  return entries;
}

function nameOf(bytes: Uint8Array, i: number, fail: (what: string) => never): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return fail(`the name of entry ${i} is not UTF-8`);
  }
}

interface Directory {
  readonly begin: number;
  readonly size: number;
  readonly count: number;
}

async function findDirectory(source: ByteSource, fail: (what: string) => never): Promise<Directory> {
  const length = Math.min(source.size, tail);
  const start = source.size - length;
  const bytes = new Uint8Array(length);
  await source.read(start, bytes);
  const view = new DataView(bytes.buffer);
  let at = length - 22;
  // A comment could hold the signature: the record's own length of the comment must lead to the file's end.
  while (at >= 0 && !(view.getUint32(at, true) === signatures.end && at + 22 + view.getUint16(at + 20, true) === length)) at--;
  if (at < 0) fail("the record at its end is missing; it may be cut");
  let directory = { count: view.getUint16(at + 10, true), size: view.getUint32(at + 12, true), begin: view.getUint32(at + 16, true) };
  if (view.getUint16(at + 4, true) !== 0 && view.getUint16(at + 4, true) !== 0xffff) fail("it is one of several disks");
  let end = start + at;
  if (directory.count === 0xffff || directory.size === 0xffffffff || directory.begin === 0xffffffff) {
    if (at < 20 || view.getUint32(at - 20, true) !== signatures.locator64) fail("its zip64 locator is missing");
    const where = longAt(view, at - 12);
    if (where > start + at - 20 - 56) fail(`its zip64 record is said to be at byte ${where}, which cannot be`);
    const record = new DataView(new ArrayBuffer(56));
    await source.read(where, new Uint8Array(record.buffer));
    if (record.getUint32(0, true) !== signatures.end64) fail("its zip64 record is missing");
    directory = { count: longAt(record, 32), size: longAt(record, 40), begin: longAt(record, 48) };
    end = where;
  }
  const { begin, size, count } = directory;
  if (size > end || begin > end - size) fail(`its table of entries is said to be at bytes ${begin}…${begin + size}, and ends at ${end}`);
  if (size > maximumDirectory) fail(`its table of entries has ${size} bytes, over the limit of ${maximumDirectory}`);
  if (count * 46 > size) fail(`it says it has ${count} entries, and their table has ${size} bytes`);
  return directory;
}

/** 64 bits as a number, exact up to 2^53; what is larger is too large for every comparison here. */
function longAt(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

/** Sizes and offset, from the zip64 field where the short ones are full of ones. */
function zip64Fields(
  view: DataView,
  at: number,
  extra: DataView,
  cut: () => never,
): { readonly size: number; readonly packed: number; readonly offset: number } {
  const short = { packed: view.getUint32(at + 20, true), size: view.getUint32(at + 24, true), offset: view.getUint32(at + 42, true) };
  let field: DataView | undefined;
  for (let i = 0; i + 4 <= extra.byteLength;) {
    const length = extra.getUint16(i + 2, true);
    if (i + 4 + length > extra.byteLength) break;
    if (extra.getUint16(i, true) === 1) field = new DataView(extra.buffer, extra.byteOffset + i + 4, length);
    i += 4 + length;
  }
  let used = 0;
  const long = (value: number): number => {
    if (value !== 0xffffffff) return value;
    if (field === undefined || used + 8 > field.byteLength) return cut();
    used += 8;
    return longAt(field, used - 8);
  };
  // The order of the field: size, packed size, offset.
  const size = long(short.size);
  const packed = long(short.packed);
  return { size, packed, offset: long(short.offset) };
}

/** Where an entry's bytes begin: behind its own header, which repeats the name. */
async function dataStart(source: ByteSource, offset: number, name: string, limit: number, fail: (what: string) => never): Promise<number> {
  const what = JSON.stringify(name);
  if (offset + 30 > limit) fail(`${what} is said to be at byte ${offset}, behind the entries`);
  const header = new DataView(new ArrayBuffer(30));
  await source.read(offset, new Uint8Array(header.buffer));
  if (header.getUint32(0, true) !== signatures.local) fail(`${what} has no header at byte ${offset}`);
  const begin = offset + 30 + header.getUint16(26, true) + header.getUint16(28, true);
  if (begin > limit) fail(`the header of ${what} is cut`);
  return begin;
}

/** The bytes of one entry, when they are at most `limit`. */
export async function readEntry(source: ByteSource, entry: ZipEntry, limit: number): Promise<Uint8Array> {
  const what = `${JSON.stringify(entry.name)} of ${source.name}`;
  if (entry.size > limit) throw new PickleError(`${what} has ${entry.size} bytes, over the limit of ${limit}`);
  if (entry.end - entry.begin > limit) throw new PickleError(`${what} has ${entry.end - entry.begin} bytes, over the limit of ${limit}`);
  const packed = new Uint8Array(entry.end - entry.begin);
  await source.read(entry.begin, packed);
  return entry.compressed ? inflate(packed, entry.size, what) : packed;
}

/** Takes out exactly `size` bytes and stops as soon as there are more. */
async function inflate(packed: Uint8Array<ArrayBuffer>, size: number, what: string): Promise<Uint8Array> {
  const out = new Uint8Array(size);
  let at = 0;
  try {
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const reader = stream.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (at + value.byteLength > size) {
        await reader.cancel();
        throw new Error(`it has more than the ${size} bytes it says`);
      }
      out.set(value, at);
      at += value.byteLength;
    }
    if (at < size) throw new Error(`it has ${at} bytes and says ${size}`);
  } catch (cause) {
    throw new PickleError(`${what} cannot be decompressed: ${messageOf(cause)}`, { cause });
  }
  return out;
}
