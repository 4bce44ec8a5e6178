// Writes zip archives and pickles for tests, right ones and wrong ones.

import { deflateRawSync } from "node:zlib";

export interface ZipSpec {
  readonly name: string;
  readonly data: Uint8Array;
  readonly compressed?: boolean;
  /** Says another size than the data's. */
  readonly size?: number;
  readonly packedSize?: number;
  readonly offset?: number;
  readonly flags?: number;
  readonly method?: number;
}

/** `count` and `cut` lie about the number of entries and the length of their table; zip64 writes its records always. */
export function zip(
  entries: readonly ZipSpec[],
  lie: { readonly count?: number; readonly table?: number; readonly zip64?: boolean } = {},
): Uint8Array {
  const parts: Buffer[] = [];
  const table: Buffer[] = [];
  let at = 0;
  const add = (part: Buffer): void => {
    parts.push(part);
    at += part.length;
  };
  for (const { name, data, compressed = false, size, packedSize, offset, flags = 0, method } of entries) {
    const packed = compressed ? deflateRawSync(data) : Buffer.from(data);
    const text = Buffer.from(name);
    const begin = offset ?? at;
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(text.length, 26);
    add(local);
    add(text);
    add(packed);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt16LE(flags, 8);
    central.writeUInt16LE(method ?? (compressed ? 8 : 0), 10);
    const sizes = { size: size ?? data.length, packed: packedSize ?? packed.length, begin };
    let extra = Buffer.alloc(0);
    if (lie.zip64 === true) {
      extra = Buffer.alloc(4 + 24);
      extra.writeUInt16LE(1, 0);
      extra.writeUInt16LE(24, 2);
      extra.writeBigUInt64LE(BigInt(sizes.size), 4);
      extra.writeBigUInt64LE(BigInt(sizes.packed), 12);
      extra.writeBigUInt64LE(BigInt(sizes.begin), 20);
    }
    const short = (value: number): number => (lie.zip64 === true ? 0xffffffff : value);
    central.writeUInt32LE(short(sizes.packed), 20);
    central.writeUInt32LE(short(sizes.size), 24);
    central.writeUInt16LE(text.length, 28);
    central.writeUInt16LE(extra.length, 30);
    central.writeUInt32LE(short(sizes.begin), 42);
    table.push(central, text, extra);
  }
  const start = at;
  for (const part of table) add(part);
  const count = lie.count ?? entries.length;
  const length = lie.table ?? at - start;
  if (lie.zip64 === true) {
    const where = at;
    const record = Buffer.alloc(56);
    record.writeUInt32LE(0x06064b50, 0);
    record.writeBigUInt64LE(BigInt(count), 32);
    record.writeBigUInt64LE(BigInt(length), 40);
    record.writeBigUInt64LE(BigInt(start), 48);
    add(record);
    const locator = Buffer.alloc(20);
    locator.writeUInt32LE(0x07064b50, 0);
    locator.writeBigUInt64LE(BigInt(where), 8);
    add(locator);
  }
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(lie.zip64 === true ? 0xffff : count, 10);
  end.writeUInt32LE(lie.zip64 === true ? 0xffffffff : length, 12);
  end.writeUInt32LE(lie.zip64 === true ? 0xffffffff : start, 16);
  add(end);
  return new Uint8Array(Buffer.concat(parts));
}

/** A pickle from operations: text is as it is, numbers are bytes. */
export function pickle(...parts: readonly (string | number | Uint8Array)[]): Uint8Array {
  return new Uint8Array(
    Buffer.concat(
      parts.map((part) => (typeof part === "number" ? Buffer.of(part) : typeof part === "string" ? Buffer.from(part, "latin1") : part)),
    ),
  );
}

export function u32(value: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(value).buffer);
}

/** BINUNICODE */
export const text = (value: string): Uint8Array => pickle("X", u32(Buffer.byteLength(value)), Buffer.from(value));
/** BININT */
export const int = (value: number): Uint8Array => pickle("J", u32(value >>> 0));
export const global = (module: string, name: string): string => `c${module}\n${name}\n`;

/** A tensor of a storage: what torch.save writes for it. */
export function tensor(
  key: string,
  count: number,
  offset: number,
  shape: readonly number[],
  strides: readonly number[],
  type = "FloatStorage",
): Uint8Array {
  const ints = (values: readonly number[]): Uint8Array => pickle("(", ...values.map(int), "t");
  return pickle(
    ...[global("torch._utils", "_rebuild_tensor_v2"), "("],
    ...["(", text("storage"), global("torch", type), text(key), text("cpu"), int(count), "tQ"],
    ...[int(offset), ints(shape), ints(strides), "\x89", global("collections", "OrderedDict"), ")R", "tR"],
  );
}

/** A dict of these. */
export function dict(entries: Readonly<Record<string, Uint8Array>>): Uint8Array {
  return pickle("}", ...Object.entries(entries).flatMap(([key, value]) => [text(key), value, "s"]));
}
