// WebAssembly's binary format, as far as kernels need it: one memory, functions, exports. An encoder of ours
// because it costs milliseconds where Binaryen costs 400 ms to load, and the code is no worse (measured for 50
// kernels of 108 KB: 7-67 ms against 1.3 s). Knows no Imp IR; does not validate (engines do).

/** A growable byte buffer. */
export class Bytes {
  private data = new Uint8Array(256);
  length = 0;

  byte(value: number): this {
    if (this.length === this.data.length) this.grow(1);
    this.data[this.length++] = value;
    return this;
  }

  all(values: Uint8Array | readonly number[]): this {
    this.grow(values.length);
    this.data.set(values, this.length);
    this.length += values.length;
    return this;
  }

  /** Unsigned LEB128. */
  u32(value: number): this {
    let rest = value >>> 0;
    do {
      const low = rest & 127;
      rest >>>= 7;
      this.byte(rest === 0 ? low : low | 128);
    } while (rest !== 0);
    return this;
  }

  /** Signed LEB128 of a 32-bit integer. */
  s32(value: number): this {
    let rest = value | 0;
    for (;;) {
      const low = rest & 127;
      rest >>= 7;
      if ((rest === 0 && (low & 64) === 0) || (rest === -1 && (low & 64) !== 0)) return this.byte(low);
      this.byte(low | 128);
    }
  }

  f32(value: number): this {
    const view = new DataView(new ArrayBuffer(4));
    view.setFloat32(0, value, true);
    return this.all(new Uint8Array(view.buffer));
  }

  f64(value: number): this {
    const view = new DataView(new ArrayBuffer(8));
    view.setFloat64(0, value, true);
    return this.all(new Uint8Array(view.buffer));
  }

  name(text: string): this {
    const encoded = new TextEncoder().encode(text);
    return this.u32(encoded.length).all(encoded);
  }

  done(): Uint8Array {
    return this.data.slice(0, this.length);
  }

  private grow(by: number): void {
    if (this.length + by <= this.data.length) return;
    const larger = new Uint8Array(Math.max(this.data.length * 2, this.length + by));
    larger.set(this.data.subarray(0, this.length));
    this.data = larger;
  }
}

export const i32 = 0x7f;
export const f32 = 0x7d;
export const f64 = 0x7c;
export const v128 = 0x7b;
export type ValueType = typeof i32 | typeof f32 | typeof f64 | typeof v128;

/** One function's code: instructions appended in order, locals declared on the way. */
export class Code {
  readonly bytes = new Bytes();
  private readonly params: number;
  private readonly locals: ValueType[] = [];
  private readonly free = new Map<ValueType, number[]>();

  constructor(params: number) {
    this.params = params;
  }

  /** A local of this type: one that was released, or a new one. Its content is unspecified. */
  local(type: ValueType): number {
    const reused = this.free.get(type)?.pop();
    return reused ?? this.unused(type);
  }

  /** A local that nothing has used: what is put there at the function's entry stays. */
  unused(type: ValueType): number {
    this.locals.push(type);
    return this.params + this.locals.length - 1;
  }

  release(local: number, type: ValueType): void {
    const list = this.free.get(type) ?? [];
    list.push(local);
    this.free.set(type, list);
  }

  op(opcode: number): this {
    this.bytes.byte(opcode);
    return this;
  }

  /** An instruction behind the SIMD prefix. */
  simd(opcode: number): this {
    this.bytes.byte(0xfd).u32(opcode);
    return this;
  }

  get(local: number): this {
    this.bytes.byte(0x20).u32(local);
    return this;
  }

  set(local: number): this {
    this.bytes.byte(0x21).u32(local);
    return this;
  }

  tee(local: number): this {
    this.bytes.byte(0x22).u32(local);
    return this;
  }

  i32(value: number): this {
    this.bytes.byte(0x41).s32(value);
    return this;
  }

  f32(value: number): this {
    this.bytes.byte(0x43).f32(value);
    return this;
  }

  f64(value: number): this {
    this.bytes.byte(0x44).f64(value);
    return this;
  }

  v128(bytes: Uint8Array): this {
    this.simd(0x0c);
    this.bytes.all(bytes);
    return this;
  }

  /** A load or store with its alignment (log2) and offset. */
  memory(opcode: number, align: number, offset: number): this {
    this.bytes.byte(opcode).u32(align).u32(offset);
    return this;
  }

  simdMemory(opcode: number, align: number, offset: number): this {
    this.simd(opcode);
    this.bytes.u32(align).u32(offset);
    return this;
  }

  call(index: number): this {
    this.bytes.byte(0x10).u32(index);
    return this;
  }

  block(): this {
    return this.op(0x02).op(0x40);
  }

  loop(): this {
    return this.op(0x03).op(0x40);
  }

  if(result?: ValueType): this {
    return this.op(0x04).op(result ?? 0x40);
  }

  else(): this {
    return this.op(0x05);
  }

  end(): this {
    return this.op(0x0b);
  }

  br(depth: number): this {
    this.bytes.byte(0x0c).u32(depth);
    return this;
  }

  brIf(depth: number): this {
    this.bytes.byte(0x0d).u32(depth);
    return this;
  }

  /** The function body as the code section wants it: locals in runs, then the instructions. */
  body(): Uint8Array {
    return this.bodyWith(this.bytes.done());
  }

  /** The same with other instructions, which use this function's locals. */
  bodyWith(instructions: Uint8Array): Uint8Array {
    const runs: { type: ValueType; count: number }[] = [];
    for (const type of this.locals) {
      const last = runs.at(-1);
      if (last?.type === type) last.count++;
      else runs.push({ type, count: 1 });
    }
    const out = new Bytes().u32(runs.length);
    for (const r of runs) out.u32(r.count).byte(r.type);
    return out.all(instructions).byte(0x0b).done();
  }
}

export interface WasmFunction {
  /** Exported under this name; internal functions have none. */
  readonly name?: string;
  readonly params: readonly ValueType[];
  readonly results: readonly ValueType[];
  readonly body: Uint8Array;
}

/** A module that imports `env.memory` (shared with at most 65536 pages, or unshared) and exports the named functions. */
export function encodeModule(functions: readonly WasmFunction[], shared: boolean): Uint8Array {
  const types = new Map<string, number>();
  const typeBytes = new Bytes();
  const typeOf = (f: WasmFunction): number => {
    const key = `${f.params.join(",")}:${f.results.join(",")}`;
    const known = types.get(key);
    if (known !== undefined) return known;
    types.set(key, types.size);
    typeBytes.byte(0x60).u32(f.params.length).all(f.params).u32(f.results.length).all(f.results);
    return types.size - 1;
  };
  const indices = functions.map(typeOf);
  const out = new Bytes().all([0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00]);
  const section = (id: number, content: Bytes): void => {
    out.byte(id).u32(content.length).all(content.done());
  };
  section(1, new Bytes().u32(types.size).all(typeBytes.done()));
  const imports = new Bytes().u32(1).name("env").name("memory").byte(0x02);
  if (shared) imports.byte(0x03).u32(1).u32(65536);
  else imports.byte(0x00).u32(1);
  section(2, imports);
  const functionTypes = new Bytes().u32(functions.length);
  for (const i of indices) functionTypes.u32(i);
  section(3, functionTypes);
  const exported = functions.map((f, i) => ({ name: f.name, i })).filter((f) => f.name !== undefined);
  const exports = new Bytes().u32(exported.length);
  for (const e of exported)
    exports
      .name(e.name ?? "")
      .byte(0x00)
      .u32(e.i);
  section(7, exports);
  const code = new Bytes().u32(functions.length);
  for (const f of functions) code.u32(f.body.length).all(f.body);
  section(10, code);
  return out.done();
}
