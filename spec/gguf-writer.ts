// Writes GGUF files for tests, right ones and wrong ones: any count, length, type or offset can be said to be another.

export class Bytes {
  readonly #parts: number[] = [];

  u8(...values: readonly number[]): this {
    return this.bytes(values);
  }
  bytes(values: Iterable<number>): this {
    for (const value of values) this.#parts.push(value);
    return this;
  }
  u32(value: number): this {
    return this.u8(value & 255, (value >>> 8) & 255, (value >>> 16) & 255, (value >>> 24) & 255);
  }
  u64(value: bigint | number): this {
    const wide = BigInt.asUintN(64, BigInt(value));
    return this.u32(Number(wide & 0xffffffffn)).u32(Number(wide >> 32n));
  }
  f32(value: number): this {
    return this.u8(...new Uint8Array(Float32Array.of(value).buffer));
  }
  f64(value: number): this {
    return this.u8(...new Uint8Array(Float64Array.of(value).buffer));
  }
  text(text: string | readonly number[], length?: bigint | number): this {
    const bytes = typeof text === "string" ? new TextEncoder().encode(text) : text;
    return this.u64(length ?? bytes.length).bytes(bytes);
  }
  pad(to: number): this {
    while (this.#parts.length % to !== 0) this.u8(0);
    return this;
  }
  get length(): number {
    return this.#parts.length;
  }
  done(): Uint8Array {
    return Uint8Array.from(this.#parts);
  }
}

export interface TensorSpec {
  readonly name: string;
  /** As elsewhere in uhd, slowest axis first. */
  readonly shape: readonly (number | bigint)[];
  /** ggml's number. */
  readonly type: number;
  readonly data: Uint8Array;
  readonly offset?: number | bigint;
}

export interface GgufSpec {
  readonly version?: number;
  readonly magic?: string;
  readonly pairs?: readonly ((out: Bytes) => void)[];
  readonly tensors?: readonly TensorSpec[];
  readonly pairCount?: number | bigint;
  readonly tensorCount?: number | bigint;
  readonly alignment?: number;
}

const numbers = { u8: 0, i8: 1, u16: 2, i16: 3, u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9, u64: 10, i64: 11, f64: 12 };

/** A pair whose key, type and value are these; `value` writes what follows the type. */
export function pair(key: string, type: keyof typeof numbers | number, value: (out: Bytes) => void): (out: Bytes) => void {
  return (out) => value(out.text(key).u32(typeof type === "number" ? type : numbers[type]) as Bytes);
}

export const stringPair = (key: string, text: string): ((out: Bytes) => void) => pair(key, "string", (out) => out.text(text));
export const u32Pair = (key: string, value: number): ((out: Bytes) => void) => pair(key, "u32", (out) => out.u32(value));
export const arrayPair = (
  key: string,
  items: keyof typeof numbers,
  length: number | bigint,
  values: (out: Bytes) => void,
): ((out: Bytes) => void) => pair(key, "array", (out) => values(out.u32(numbers[items]).u64(length)));

export function gguf(spec: GgufSpec): Uint8Array {
  const { pairs = [], tensors = [], alignment = 32 } = spec;
  const out = new Bytes().u8(...new TextEncoder().encode(spec.magic ?? "GGUF")).u32(spec.version ?? 3);
  out.u64(spec.tensorCount ?? tensors.length).u64(spec.pairCount ?? pairs.length);
  for (const write of pairs) write(out);
  let at = 0;
  for (const { name, shape, type, data, offset } of tensors) {
    out.text(name).u32(shape.length);
    for (const size of [...shape].reverse()) out.u64(size);
    out.u32(type).u64(offset ?? at);
    at = Math.ceil((at + data.length) / alignment) * alignment;
  }
  out.pad(alignment);
  for (const { data } of tensors) out.bytes(data).pad(alignment);
  return out.done();
}
