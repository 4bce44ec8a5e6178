// Reads a pickle as far as it describes tensors. A pickle is a program: this runs only the operations that make plain
// data, knows a handful of names (torch._utils._rebuild_tensor_v2, collections.OrderedDict, the storage types), calls
// nothing else, and refuses every other name and operation by its name. It uses no recursion, and each value takes at
// least a byte of the pickle, so a small pickle cannot become large. Does not read storages (torch.ts).

import { PickleError } from "../errors.ts";
import { elementCount } from "../tensor.ts";

/** What a pickle may hold. Text is a string, None is null; lists and tuples are both lists. */
export type PickleValue =
  null | boolean | number | bigint | string | Uint8Array | PickleValue[] | PickleDict | PickleStorage | PickleTensor | PickleName;

export class PickleDict {
  readonly entries = new Map<PickleValue, PickleValue>();
}

/** The tensor's numbers: an entry of the archive. */
class PickleStorage {
  /** safetensors' name of the element's type. */
  readonly dtype: string;
  readonly key: string;
  /** Elements. */
  readonly count: number;
  constructor(dtype: string, key: string, count: number) {
    this.dtype = dtype;
    this.key = key;
    this.count = count;
  }
}

export class PickleTensor {
  readonly storage: PickleStorage;
  /** In elements. */
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  constructor(storage: PickleStorage, offset: number, shape: readonly number[], strides: readonly number[]) {
    this.storage = storage;
    this.offset = offset;
    this.shape = shape;
    this.strides = strides;
  }
}

/** A name that the pickle may use. */
class PickleName {
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}

const storageTypes: Readonly<Record<string, string>> = {
  ...{ DoubleStorage: "F64", FloatStorage: "F32", HalfStorage: "F16", BFloat16Storage: "BF16" },
  ...{ LongStorage: "I64", IntStorage: "I32", ShortStorage: "I16", CharStorage: "I8", ByteStorage: "U8", BoolStorage: "BOOL" },
};

type Call = (args: readonly PickleValue[], fail: (what: string) => never) => PickleValue;

/** Everything that a pickle may call. */
const calls: Readonly<Record<string, Call>> = {
  "collections OrderedDict": (args, fail) => {
    if (args.length !== 0) fail("collections.OrderedDict is called with arguments");
    return new PickleDict();
  },
  "torch._utils _rebuild_tensor_v2": rebuildTensor,
  // A parameter is its tensor: (data, requires_grad, backward_hooks).
  "torch._utils _rebuild_parameter": ([data], fail) =>
    data instanceof PickleTensor ? data : fail("torch._utils._rebuild_parameter is not given a tensor"),
  "torch Size": ([sizes], fail) => (Array.isArray(sizes) ? sizes : fail("torch.Size is not given a tuple")),
};

function isKnown(name: string): boolean {
  return Object.hasOwn(calls, name) || storageTypeOf(name) !== undefined;
}

function storageTypeOf(name: string): string | undefined {
  const type = name.startsWith("torch ") ? name.slice("torch ".length) : "";
  return Object.hasOwn(storageTypes, type) ? storageTypes[type] : undefined;
}

/** (storage, offset, size, stride, requires_grad, backward_hooks[, metadata]) */
function rebuildTensor(args: readonly PickleValue[], fail: (what: string) => never): PickleTensor {
  const [storage, offset, shape, strides] = args;
  if (!(storage instanceof PickleStorage)) return fail("a tensor is made of something that is not a storage");
  if (!isCount(offset) || !isCounts(shape) || !isCounts(strides) || shape.length !== strides.length || shape.length > 64)
    return fail(
      `a tensor of storage ${JSON.stringify(storage.key)} has offset, sizes and strides that are not one, and as many, whole numbers`,
    );
  const count = elementCount(shape);
  const last = shape.reduce((at, d, i) => at + Math.max(0, d - 1) * (strides[i] ?? 0), offset);
  const where = `the tensor [${shape.join(", ")}] of storage ${JSON.stringify(storage.key)}`;
  if (count > storage.count) fail(`${where} has more elements than the storage's ${storage.count}`);
  if (count > 0 && last >= storage.count) fail(`${where} reaches element ${last}, and the storage has ${storage.count}`);
  return new PickleTensor(storage, offset, shape, strides);
}

function isCount(value: PickleValue | undefined): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function isCounts(value: PickleValue | undefined): value is number[] {
  return Array.isArray(value) && value.every(isCount);
}

/** Names of the operations that are refused, for messages. */
// prettier-ignore
const refused: Readonly<Record<number, string>> = {
  0x49: "INT", 0x4c: "LONG", 0x46: "FLOAT", 0x53: "STRING", 0x56: "UNICODE", 0x50: "PERSID", 0x67: "GET", 0x70: "PUT",
  0x69: "INST", 0x6f: "OBJ", 0x81: "NEWOBJ", 0x92: "NEWOBJ_EX", 0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4",
  0x8f: "EMPTY_SET", 0x90: "ADDITEMS", 0x91: "FROZENSET", 0x96: "BYTEARRAY8", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
};

/** Values that a pickle may make: a checkpoint has a few for each tensor. */
const maximumValues = 1 << 22;
/** Dicts, lists, tuples and marks among them: they take the most memory. */
const maximumContainers = 1 << 20;

/** The value of a pickle. Throws PickleError that names what is not plain data. `name` is for messages. */
export function readPickle(bytes: Uint8Array, name: string): PickleValue {
  return new Machine(bytes, name).run();
}

class Machine {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #name: string;
  readonly #memo = new Map<number, PickleValue>();
  #at = 0;
  #values = 0;
  #containers = 0;
  #stack: PickleValue[] = [];
  /** Stacks below the open marks. */
  readonly #below: PickleValue[][] = [];

  constructor(bytes: Uint8Array, name: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#name = name;
  }

  readonly #fail = (what: string): never => {
    throw new PickleError(`${this.#name} is refused: ${what}`);
  };

  run(): PickleValue {
    for (;;) {
      const op = this.#bytes[this.#move(1)] ?? 0;
      if (op === 0x2e) {
        const value = this.#pop();
        if (this.#stack.length > 0 || this.#below.length > 0) this.#fail("it ends with values left over");
        return value;
      }
      this.#step(op);
    }
  }

  /** One operation, by its byte: pickletools.py of Python lists them. */
  #step(op: number): void {
    switch (op) {
      case 0x80: {
        const version = this.#u8();
        if (version > 5) this.#fail(`its protocol is ${version}`);
        return;
      }
      case 0x95: // FRAME: only says how much can be read ahead.
        this.#move(8);
        return;
      case 0x28: // MARK
        this.#below.push(this.#stack);
        this.#stack = [];
        return this.#count(true);
      case 0x30: // POP: a mark, when nothing is above it.
        if (this.#stack.length > 0) this.#pop();
        else this.#mark();
        return;
      case 0x31: // POP_MARK
        this.#mark();
        return;
      case 0x32: // DUP
        return this.#push(this.#top());
      case 0x4e:
        return this.#push(null);
      case 0x88:
        return this.#push(true);
      case 0x89:
        return this.#push(false);
      case 0x4a: // BININT
        return this.#push(this.#view.getInt32(this.#move(4), true));
      case 0x4b: // BININT1
        return this.#push(this.#u8());
      case 0x4d: // BININT2
        return this.#push(this.#view.getUint16(this.#move(2), true));
      case 0x8a: // LONG1
        return this.#push(this.#long(this.#u8()));
      case 0x8b: // LONG4
        return this.#push(this.#long(this.#view.getInt32(this.#move(4), true)));
      case 0x47: // BINFLOAT
        return this.#push(this.#view.getFloat64(this.#move(8), false));
      case 0x58: // BINUNICODE
        return this.#push(this.#text(this.#u32()));
      case 0x8c: // SHORT_BINUNICODE
        return this.#push(this.#text(this.#u8()));
      case 0x8d: // BINUNICODE8
        return this.#push(this.#text(this.#u64()));
      case 0x54: // BINSTRING: text of Python 2
        return this.#push(this.#text(this.#u32()));
      case 0x55: // SHORT_BINSTRING
        return this.#push(this.#text(this.#u8()));
      case 0x42: // BINBYTES
        return this.#push(this.#raw(this.#u32()));
      case 0x43: // SHORT_BINBYTES
        return this.#push(this.#raw(this.#u8()));
      case 0x8e: // BINBYTES8
        return this.#push(this.#raw(this.#u64()));
      case 0x5d: // EMPTY_LIST
      case 0x29: // EMPTY_TUPLE
        return this.#push([]);
      case 0x6c: // LIST
      case 0x74: // TUPLE
        return this.#push(this.#mark());
      case 0x85:
      case 0x86:
      case 0x87: // TUPLE1, 2, 3
        return this.#push(this.#popMany(op - 0x84));
      case 0x61: // APPEND
        return this.#append([this.#pop()]);
      case 0x65: // APPENDS
        return this.#append(this.#mark());
      case 0x7d: // EMPTY_DICT
        return this.#push(new PickleDict());
      case 0x64: {
        // DICT
        const items = this.#mark();
        this.#push(new PickleDict());
        return this.#set(items);
      }
      case 0x73: // SETITEM
        return this.#set(this.#popMany(2));
      case 0x75: // SETITEMS
        return this.#set(this.#mark());
      case 0x71: // BINPUT
        return this.#remember(this.#u8());
      case 0x72: // LONG_BINPUT
        return this.#remember(this.#u32());
      case 0x94: // MEMOIZE
        return this.#remember(this.#memo.size);
      case 0x68: // BINGET
        return this.#recall(this.#u8());
      case 0x6a: // LONG_BINGET
        return this.#recall(this.#u32());
      case 0x63: // GLOBAL
        return this.#global(this.#line(), this.#line());
      case 0x93: {
        // STACK_GLOBAL
        const [module, name] = this.#popMany(2);
        if (typeof module !== "string" || typeof name !== "string") return this.#fail("it asks for a name that is not text");
        return this.#global(module, name);
      }
      case 0x52: // REDUCE
        return this.#call();
      case 0x62: // BUILD
        return this.#build();
      case 0x51: // BINPERSID
        return this.#storage();
      default: {
        const hex = `0x${op.toString(16).padStart(2, "0")}`;
        this.#fail(`it has the operation ${refused[op] ?? "unknown"} (${hex}) at byte ${this.#at - 1}, which tensors do not need`);
      }
    }
  }

  #move(bytes: number): number {
    const at = this.#at;
    if (bytes > this.#bytes.length - at) this.#fail(`it ends inside an operation that needs ${bytes} more bytes at byte ${at}`);
    this.#at += bytes;
    return at;
  }

  #u8(): number {
    return this.#bytes[this.#move(1)] ?? 0;
  }

  #u32(): number {
    return this.#view.getUint32(this.#move(4), true);
  }

  #u64(): number {
    return this.#u32() + this.#u32() * 2 ** 32;
  }

  #raw(length: number): Uint8Array {
    const at = this.#move(length);
    return this.#bytes.subarray(at, at + length);
  }

  #text(length: number): string {
    try {
      return utf8.decode(this.#raw(length));
    } catch (error) {
      if (error instanceof PickleError) throw error;
      return this.#fail("it has text that is not UTF-8");
    }
  }

  #line(): string {
    const end = this.#bytes.indexOf(10, this.#at);
    if (end < 0 || end - this.#at > 1000) this.#fail(`it has a name without an end at byte ${this.#at}`);
    const text = this.#text(end - this.#at);
    this.#at = end + 1;
    return text;
  }

  /** Little-endian two's complement of up to 64 bits. */
  #long(length: number): number | bigint {
    if (length < 0 || length > 8) this.#fail(`it has an integer of ${length} bytes`);
    let value = 0n;
    const bytes = this.#raw(length);
    for (const byte of [...bytes].reverse()) value = (value << 8n) | BigInt(byte);
    value = BigInt.asIntN(length * 8, value);
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }

  #count(container: boolean): void {
    if (++this.#values > maximumValues) this.#fail(`it makes more than ${maximumValues} values`);
    if (container && ++this.#containers > maximumContainers) this.#fail(`it makes more than ${maximumContainers} lists and dicts`);
  }

  #push(value: PickleValue): void {
    this.#count(value instanceof PickleDict || Array.isArray(value));
    this.#stack.push(value);
  }

  #pop(): PickleValue {
    const [value] = this.#popMany(1);
    return value ?? null;
  }

  #popMany(count: number): PickleValue[] {
    if (this.#stack.length < count) this.#missing();
    return this.#stack.splice(this.#stack.length - count, count);
  }

  #top(): PickleValue {
    const top = this.#stack.at(-1);
    return top === undefined ? this.#missing() : top;
  }

  #missing(): never {
    return this.#fail("it takes a value that is not there");
  }

  /** What lies above the last mark. */
  #mark(): PickleValue[] {
    const above = this.#stack;
    this.#stack = this.#below.pop() ?? this.#fail("it goes back to a mark that is not there");
    return above;
  }

  #append(items: readonly PickleValue[]): void {
    const list = this.#top();
    if (!Array.isArray(list)) return this.#fail("it appends to something that is not a list");
    for (const item of items) list.push(item);
  }

  #set(items: readonly PickleValue[]): void {
    const dict = this.#top();
    if (!(dict instanceof PickleDict)) return this.#fail("it sets an item of something that is not a dict");
    if (items.length % 2 !== 0) this.#fail("it sets a key without a value");
    for (let i = 0; i < items.length; i += 2) dict.entries.set(items[i] ?? null, items[i + 1] ?? null);
  }

  #remember(place: number): void {
    this.#memo.set(place, this.#top());
  }

  #recall(place: number): void {
    const value = this.#memo.get(place);
    if (value === undefined) return this.#fail(`it recalls value ${place}, which it did not keep`);
    this.#push(value);
  }

  #global(module: string, name: string): void {
    const both = `${module} ${name}`;
    if (!isKnown(both)) this.#fail(`it asks for ${module}.${name}, which is not a part of a tensor; nothing of it was run`);
    this.#push(new PickleName(both));
  }

  #call(): void {
    const [callee, args] = this.#popMany(2);
    const call = callee instanceof PickleName && Object.hasOwn(calls, callee.name) ? calls[callee.name] : undefined;
    if (call === undefined) return this.#fail(`it calls ${callee instanceof PickleName ? callee.name.replace(" ", ".") : "a value"}`);
    if (!Array.isArray(args)) return this.#fail("it calls with arguments that are not a tuple");
    this.#push(call(args, this.#fail));
  }

  /** Attributes of an object: a state dict has its modules' versions there. They are not needed, so only looked past. */
  #build(): void {
    const [object] = this.#popMany(2);
    if (!(object instanceof PickleDict)) return this.#fail("it sets attributes of something that is not a dict");
    this.#push(object);
  }

  /** ("storage", type, key, location, elements) */
  #storage(): void {
    const id = this.#pop();
    const [kind, type, key, , count] = Array.isArray(id) ? id : [];
    const dtype = type instanceof PickleName ? storageTypeOf(type.name) : undefined;
    if (kind !== "storage" || dtype === undefined || typeof key !== "string" || !isCount(count))
      return this.#fail("it refers to something outside that is not a storage");
    this.#push(new PickleStorage(dtype, key, count));
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
