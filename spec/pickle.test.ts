// PyTorch archives: what torch.save writes is read with the names, dtypes and values it has there; a pickle that calls
// anything, and every way in which an archive or a pickle can lie, is refused with the name of what is wrong.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import type { PlanParam } from "../compiler/ir/plan/types.ts";
import { PickleError, UhdError } from "../runtime/errors.ts";
import { openCheckpoint } from "../runtime/weights/checkpoint.ts";
import { openParams } from "../runtime/weights/load.ts";
import { PickleDict, readPickle } from "../runtime/weights/pickle.ts";
import { writeSafetensors } from "../runtime/weights/safetensors.ts";
import type { StoredTensor } from "../runtime/weights/stored.ts";
import { runs, seed } from "./conformance/property.ts";
import { gguf } from "./gguf-writer.ts";
import { dict, global, int, pickle, tensor, text, u32, zip, type ZipSpec } from "./zip-writer.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-pickle-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const base64 = (data: string): Uint8Array<ArrayBuffer> => new Uint8Array(Buffer.from(data, "base64"));

interface Fixture {
  readonly archives: Readonly<
    Record<
      string,
      {
        readonly bytes: string;
        readonly tensors: Readonly<Record<string, { readonly dtype: string; readonly shape: readonly number[]; readonly bytes: string }>>;
      }
    >
  >;
  readonly refused: Readonly<Record<string, { readonly bytes: string; readonly says: string }>>;
}

const fixture = JSON.parse(readFileSync(path.join(import.meta.dirname, "fixtures/torch-archives.json"), "utf8")) as Fixture;

async function bytesOf(
  stored: StoredTensor,
  width: number,
  first = 0,
  count = stored.shape.reduce((n, d) => n * d, 1),
): Promise<Uint8Array> {
  const out = new Uint8Array(count * width);
  await stored.read(first * width, out);
  return out;
}

const f32s = (...values: readonly number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);

/** An archive whose pickle is `program`, with storages. */
function archive(program: Uint8Array, storages: Readonly<Record<string, Uint8Array>> = {}, more: readonly ZipSpec[] = []): Uint8Array {
  return zip([
    { name: "archive/data.pkl", data: program },
    ...Object.entries(storages).map(([key, data]) => ({ name: `archive/data/${key}`, data })),
    ...more,
  ]);
}

const ends = (...parts: readonly (string | number | Uint8Array)[]): Uint8Array => pickle("\x80\x02", ...parts, ".");
const four = { 0: f32s(1, 2, 3, 4) };
const good = archive(ends(dict({ w: tensor("0", 4, 0, [2, 2], [2, 1]) })), four);

describe("an archive of torch.save", () => {
  test.each(Object.entries(fixture.archives))("with %s has its names, dtypes, shapes and values", async (_, { bytes, tensors }) => {
    const checkpoint = await openCheckpoint(base64(bytes));
    expect(checkpoint.format).toBe("pytorch");
    expect([...checkpoint.tensors.keys()].sort()).toEqual(Object.keys(tensors).sort());
    for (const [name, stored] of checkpoint.tensors) {
      const expected = tensors[name];
      const data = base64(expected?.bytes ?? "");
      expect([name, stored.dtype, stored.shape, stored.bytes]).toEqual([name, expected?.dtype, expected?.shape, data.length]);
      const count = stored.shape.reduce((n, d) => n * d, 1);
      const width = count === 0 ? 4 : data.length / count;
      expect(await bytesOf(stored, width)).toEqual(data);
      if (count > 3) expect(await bytesOf(stored, width, 2, count - 3)).toEqual(data.subarray(2 * width, (count - 1) * width));
    }
    await checkpoint.close();
  });

  test.each(Object.entries(fixture.refused))("with %s is refused by name", async (_, { bytes, says }) => {
    await expect(openCheckpoint(base64(bytes))).rejects.toThrow(PickleError);
    await expect(openCheckpoint(base64(bytes))).rejects.toThrow(says);
  });

  test("is a checkpoint like any other", async () => {
    const on = path.join(folder, "any-name.txt");
    writeFileSync(on, good);
    const param: PlanParam = { name: "w", dtype: "bf16", shape: [2, 2], buffer: 0 };
    await using source = await openParams([param], { from: on }, undefined);
    const out = new Uint8Array(8);
    await source.read(param, 0, out);
    expect([...new Uint16Array(out.buffer)]).toEqual([0x3f80, 0x4000, 0x4040, 0x4080]);
  });

  test("with a compressed pickle, and with zip64 records, is read", async () => {
    const program = ends(dict({ w: tensor("0", 4, 0, [4], [1]) }));
    const entries: readonly ZipSpec[] = [
      { name: "x/data.pkl", data: program, compressed: true },
      { name: "x/byteorder", data: new TextEncoder().encode("little") },
      { name: "x/data/0", data: four[0] },
    ];
    for (const bytes of [zip(entries), zip(entries, { zip64: true })]) {
      const { tensors } = await openCheckpoint(bytes);
      expect([...tensors.keys()]).toEqual(["w"]);
      for (const stored of tensors.values()) expect(await bytesOf(stored, 4)).toEqual(four[0]);
    }
  });
});

describe("strides", () => {
  test("of any kind give the elements in row-major order, whichever part is read", async () => {
    const axes = fc.array(fc.record({ size: fc.integer({ min: 1, max: 4 }), step: fc.integer({ min: 0, max: 3 }) }), { maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(axes, fc.nat(3), fc.nat(), async (list, offset, pick) => {
        const shape = list.map((a) => a.size);
        const strides = list.map((a, i) => a.step * ([1, 4, 2, 7][i] ?? 1));
        const count = shape.reduce((n, d) => n * d, 1);
        const indexes = Array.from({ length: count }, (_, at) => {
          let rest = at;
          let place = offset;
          for (let axis = shape.length - 1; axis >= 0; axis--) {
            place += (rest % (shape[axis] ?? 1)) * (strides[axis] ?? 0);
            rest = Math.floor(rest / (shape[axis] ?? 1));
          }
          return place;
        });
        const size = Math.max(count, ...indexes.map((i) => i + 1));
        const storage = f32s(...Array.from({ length: size }, (_, i) => i));
        const { tensors } = await openCheckpoint(archive(ends(dict({ w: tensor("0", size, offset, shape, strides) })), { 0: storage }));
        const first = pick % count;
        const part = 1 + (Math.floor(pick / 5) % (count - first));
        for (const stored of tensors.values()) {
          const read = await bytesOf(stored, 4, first, part);
          expect([...new Float32Array(read.buffer)]).toEqual(indexes.slice(first, first + part));
        }
      }),
      { numRuns: runs, seed },
    );
  });

  test("of a transposed tensor that is larger than what is looked at once are read", async () => {
    const rows = 1100;
    const columns = 1000;
    const storage = Float32Array.from({ length: rows * columns }, (_, i) => i);
    const program = ends(dict({ w: tensor("0", rows * columns, 0, [columns, rows], [1, columns]) }));
    const { tensors } = await openCheckpoint(archive(program, { 0: new Uint8Array(storage.buffer) }));
    for (const stored of tensors.values()) {
      const values = new Float32Array((await bytesOf(stored, 4)).buffer);
      expect(values.every((value, i) => value === (i % rows) * columns + Math.floor(i / rows))).toBe(true);
    }
  });
});

describe("a pickle", () => {
  const call = (module: string, name: string, ...args: readonly (string | Uint8Array)[]): Uint8Array =>
    ends(global(module, name), "(", ...args, "tR");
  const refused: Readonly<Record<string, readonly [Uint8Array, RegExp]>> = {
    "that calls os.system": [call("os", "system", text("echo no")), /asks for os\.system/],
    "that calls posix.system": [call("posix", "system", text("echo no")), /asks for posix\.system/],
    "that calls builtins.eval": [call("builtins", "eval", text("1")), /asks for builtins\.eval/],
    "that calls getattr": [call("__builtin__", "getattr", text("1")), /asks for __builtin__\.getattr/],
    "that names constructor": [call("Object", "constructor"), /asks for Object\.constructor/],
    "that names a storage called __proto__": [call("torch", "__proto__"), /asks for torch\.__proto__/],
    "that asks for a name on the stack": [ends(text("os"), text("system"), 0x93, ")R"), /asks for os\.system/],
    "that asks for a name that is a number": [ends(int(1), int(2), 0x93), /a name that is not text/],
    "that calls a storage type": [ends(global("torch", "FloatStorage"), ")R"), /calls torch\.FloatStorage/],
    "that calls a string": [ends(text("x"), ")R"), /calls a value/],
    "that calls OrderedDict with arguments": [call("collections", "OrderedDict", int(1)), /OrderedDict is called with arguments/],
    "with INST": [ends("(ios\nsystem\n"), /operation INST \(0x69\) at byte 3/],
    "with OBJ": [ends("(", 0x6f), /operation OBJ/],
    "with NEWOBJ": [ends(")", ")", 0x81), /operation NEWOBJ/],
    "with NEWOBJ_EX": [ends(")", ")", ")", 0x92), /operation NEWOBJ_EX/],
    "with EXT1": [ends(0x82, 1), /operation EXT1/],
    "with PERSID": [ends("Pfile\n"), /operation PERSID/],
    "with STRING": [ends("S'x'\n"), /operation STRING/],
    "with NEXT_BUFFER": [ends(0x97), /operation NEXT_BUFFER/],
    "with a byte that is no operation": [ends(0xff), /operation unknown \(0xff\)/],
    "of protocol 9": [pickle(0x80, 9, "N."), /its protocol is 9/],
    "that is empty": [new Uint8Array(), /ends inside an operation that needs 1 more bytes at byte 0/],
    "without an end": [pickle("\x80\x02", "N"), /ends inside an operation/],
    "with text of 4 GiB": [ends("X", u32(0xffffffff), "ab"), /needs 4294967295 more bytes/],
    "with text of 2^63 bytes": [ends(0x8d, u32(0), u32(0x80000000), "ab"), /needs 9223372036854\d+ more bytes/],
    "with bytes of 4 GiB": [ends("B", u32(0xffffffff)), /needs 4294967295 more bytes/],
    "with an integer of 2 GiB": [ends(0x8b, u32(0x7fffffff), "ab"), /an integer of 2147483647 bytes/],
    "with an integer of minus one byte": [ends(0x8b, u32(0xffffffff), "ab"), /an integer of -1 bytes/],
    "with an integer of 255 bytes": [ends(0x8a, 255, new Uint8Array(255)), /an integer of 255 bytes/],
    "with text that is not UTF-8": [ends("X", u32(1), 0xff), /text that is not UTF-8/],
    "with a name without an end": [pickle("c", "a".repeat(2000)), /a name without an end/],
    "that takes what is not there": [ends("0"), /goes back to a mark that is not there/],
    "that appends to nothing": [ends("N", "a"), /takes a value that is not there/],
    "that appends to a dict": [ends("}", "N", "a"), /not a list/],
    "that sets an item of a list": [ends("]", "N", "N", "s"), /not a dict/],
    "that sets a key without a value": [ends("}", "(", "N", "u"), /a key without a value/],
    "that goes back to a mark that is not there": [ends("t"), /a mark that is not there/],
    "that recalls what it did not keep": [ends("h", 7), /recalls value 7, which it did not keep/],
    "that recalls far away": [ends("j", u32(0xfffffff0)), /recalls value 4294967280/],
    "that leaves values over": [ends("N", "N"), /values left over/],
    "that leaves a mark open": [ends("(", "N"), /values left over/],
    "that sets attributes of a tensor": [ends(tensor("0", 4, 0, [4], [1]), "}", "b"), /sets attributes of something that is not a dict/],
    "that refers to a file": [ends("(", text("file"), text("/etc/passwd"), "tQ"), /outside that is not a storage/],
    "that refers to a storage of no type": [
      ends("(", text("storage"), text("FloatStorage"), text("0"), text("cpu"), int(4), "tQ"),
      /not a storage/,
    ],
    "with a tensor of no storage": [
      call("torch._utils", "_rebuild_tensor_v2", int(0), int(0), ")", ")"),
      /a tensor is made of something that is not a storage/,
    ],
    "with a parameter of no tensor": [call("torch._utils", "_rebuild_parameter", int(0)), /is not given a tensor/],
    "with a tensor behind its storage": [ends(tensor("0", 4, 2, [4], [1])), /reaches element 5, and the storage has 4/],
    "with strides behind its storage": [ends(tensor("0", 4, 0, [2], [1 << 30])), /reaches element 1073741824/],
    "with a negative stride": [ends(tensor("0", 4, 3, [4], [-1])), /not one, and as many, whole numbers/],
    "with a negative offset": [ends(tensor("0", 4, -1, [4], [1])), /whole numbers/],
    "with fewer strides than sizes": [ends(tensor("0", 4, 0, [2, 2], [1])), /as many/],
    "with a tensor larger than its storage": [ends(tensor("0", 4, 0, [1 << 30], [0])), /more elements than the storage's 4/],
    "with a size that cannot be": [ends(tensor("0", 4, 0, [1 << 30, 1 << 30, 1 << 30], [0, 0, 0])), /more elements/],
  };
  test.each(Object.entries(refused))("%s is refused", async (_, [program, message]) => {
    expect(() => readPickle(program, "it")).toThrow(PickleError);
    expect(() => readPickle(program, "it")).toThrow(message);
    await expect(openCheckpoint(archive(program, four))).rejects.toThrow(message);
  });

  test("that makes more values than a checkpoint has is refused before memory ends", () => {
    expect(() => readPickle(new Uint8Array((1 << 22) + 10).fill(0x4e), "it")).toThrow(/makes more than 4194304 values/);
    for (const op of ["}", "]", "("]) {
      expect(() => readPickle(pickle(op.repeat((1 << 20) + 10)), "it")).toThrow(/makes more than 1048576 lists and dicts/);
    }
  });

  test("nested a million deep is refused, and so is one that refers to itself", async () => {
    const deep = ends("]".repeat(1_000_000), "a".repeat(999_999));
    expect((await openCheckpoint(archive(deep))).tensors.size).toBe(0);
    const wrapped = Array.from({ length: 40 }).reduce<Uint8Array>((inside) => dict({ x: inside }), tensor("0", 4, 0, [4], [1]));
    await expect(openCheckpoint(archive(ends(wrapped), four))).rejects.toThrow(/more than 16 deep/);
    const self = ends("}", "q", 0, text("w"), tensor("0", 4, 0, [4], [1]), "s", text("me"), "h", 0, "s");
    await expect(openCheckpoint(archive(self, four))).rejects.toThrow(/the tensors at "me" are in it twice/);
  });

  test("of lists that double fifty times (2^50 values) takes no time", async () => {
    const doubled = pickle("]q", 0, ...Array.from({ length: 50 }, (_, i) => pickle("](h", i, "h", i, "eq", i + 1)));
    // Each list stays on the stack below the next; a tuple takes them all.
    const bomb = ends("}", text("x"), "(", doubled, "t", "s", text("w"), tensor("0", 4, 0, [4], [1]), "s");
    const begin = performance.now();
    expect([...(await openCheckpoint(archive(bomb, four))).tensors.keys()]).toEqual(["w"]);
    expect(performance.now() - begin).toBeLessThan(1000);
  });

  test("of plain values is those values", () => {
    const value = readPickle(
      ends(
        ...["}(", text("a"), int(-5), text("b"), "G", Buffer.from([0x3f, 0xf8, 0, 0, 0, 0, 0, 0]), text("c"), "\x88"],
        ...[text("d"), "\x8a\x02\x00\xff", text("e"), "N", text("f"), "K\x07\x85", "u"],
      ),
      "it",
    );
    expect(value).toBeInstanceOf(PickleDict);
    expect(value instanceof PickleDict ? [...value.entries] : []).toEqual([
      ["a", -5],
      ["b", 1.5],
      ["c", true],
      ["d", -256],
      ["e", null],
      ["f", [7]],
    ]);
  });

  test("changed at random is refused or read, and nothing else", async () => {
    const program = ends(dict({ w: tensor("0", 4, 0, [2, 2], [1, 2]), v: tensor("0", 4, 1, [3], [1]), n: int(3) }));
    const change = fc.array(fc.record({ at: fc.nat(program.length - 1), value: fc.nat(255) }), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(change, async (changes) => {
        const bytes = program.slice();
        for (const { at, value } of changes) bytes[at] = value;
        const result = await openCheckpoint(archive(bytes, four)).catch((e: unknown) => e);
        if (result instanceof Error) expect(result).toBeInstanceOf(PickleError);
      }),
      { numRuns: Math.max(runs, 2000), seed },
    );
  });
});

describe("an archive", () => {
  const program = ends(dict({ w: tensor("0", 4, 0, [4], [1]) }));
  const pkl: ZipSpec = { name: "a/data.pkl", data: program };
  const storage: ZipSpec = { name: "a/data/0", data: four[0] };
  const refused: Readonly<Record<string, readonly [Uint8Array, RegExp]>> = {
    "cut at its end": [good.subarray(0, -30), /the record at its end is missing; it may be cut/],
    "without a pickle": [zip([storage]), /has 0 entries NAME\/data\.pkl/],
    "with two pickles": [zip([pkl, { ...pkl, name: "b/data.pkl" }]), /has 2 entries/],
    "with an entry twice": [zip([pkl, storage, storage]), /it has "a\/data\/0" twice/],
    "that says it has more entries": [zip([pkl, storage], { count: 60_000 }), /says it has 60000 entries/],
    "that says it has 2^50 entries": [zip([pkl, storage], { count: 2 ** 50, zip64: true }), /says it has 1125899906842624 entries/],
    "with a table behind its end": [zip([pkl, storage], { table: 1 << 30 }), /its table of entries is said to be at bytes/],
    "with a table of 2^60 bytes": [zip([pkl, storage], { table: 2 ** 60, zip64: true }), /its table of entries is said to be at bytes/],
    "with a table that is cut": [zip([pkl, storage], { table: 100 }), /entry 1 of its table is (damaged|cut)|says it has 2 entries/],
    "with an entry behind its end": [zip([pkl, { ...storage, offset: 1 << 30 }]), /"a\/data\/0" is said to be at byte 1073741824/],
    "with an entry where there is none": [zip([pkl, { ...storage, offset: 7 }]), /"a\/data\/0" has no header at byte 7/],
    "with an entry longer than it": [
      zip([pkl, { ...storage, size: 1 << 30, packedSize: 1 << 30 }]),
      /has 1073741824 bytes, and \d+ follow/,
    ],
    "with two sizes": [zip([pkl, { ...storage, size: 1 << 30 }]), /is stored, and its two sizes are 16 and 1073741824/],
    "with overlapping entries": [zip([{ ...storage, packedSize: 64, size: 64 }, pkl]), /overlap/],
    "that is encrypted": [zip([{ ...pkl, flags: 1 }, storage]), /is encrypted/],
    "of another compression": [zip([{ ...pkl, method: 12 }, storage]), /compressed with method 12/],
    "with a compressed storage": [zip([pkl, { ...storage, data: new Uint8Array(16), compressed: true }]), /storage "0" of w is compressed/],
    "with a pickle that becomes larger than it says": [
      zip([{ ...pkl, data: new Uint8Array(100_000), compressed: true, size: 10 }, storage]),
      /has more than the 10 bytes it says/,
    ],
    "with a pickle that says it becomes 3 GiB": [
      zip([{ ...pkl, compressed: true, size: 3_000_000_000 }, storage]),
      /3000000000 bytes, over the limit/,
    ],
    "with a damaged compression": [zip([{ ...pkl, data: new Uint8Array([255, 255, 255]), method: 8 }, storage]), /cannot be decompressed/],
    "of big-endian numbers": [
      zip([pkl, storage, { name: "a/byteorder", data: new TextEncoder().encode("big") }]),
      /its byte order is "big"/,
    ],
    "without a storage": [zip([pkl]), /the storage "0" of w is not in the archive/],
    "with a short storage": [zip([pkl, { ...storage, data: f32s(1, 2) }]), /has 8 bytes, and 4 elements of F32 are said to be in it/],
    "with a tensor under a tuple": [archive(ends("}", ")", tensor("0", 4, 0, [4], [1]), "s"), four), /neither text nor a number/],
  };
  test.each(Object.entries(refused))("%s is refused", async (_, [bytes, message]) => {
    await expect(openCheckpoint(bytes)).rejects.toThrow(PickleError);
    await expect(openCheckpoint(bytes)).rejects.toThrow(message);
  });

  test("changed or cut at random is refused or read, and nothing else", async () => {
    const change = fc.array(fc.record({ at: fc.integer({ min: 4, max: good.length - 1 }), value: fc.nat(255) }), { maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(change, fc.nat(60), async (changes, cut) => {
        const bytes = good.slice(0, good.length - (cut < 30 ? 0 : cut));
        for (const { at, value } of changes) if (at < bytes.length) bytes[at] = value;
        const result = await openCheckpoint(bytes).catch((e: unknown) => e);
        if (result instanceof Error) expect(result).toBeInstanceOf(UhdError);
      }),
      { numRuns: Math.max(runs, 2000), seed },
    );
  });
});

describe("a folder of Hugging Face", () => {
  const param: PlanParam = { name: "w", dtype: "f32", shape: [2], buffer: 0 };
  const values = { dtype: "f32", shape: [2], data: Float32Array.of(7, 8) } as const;
  const made = (name: string): string => {
    const on = path.join(folder, name);
    mkdirSync(on, { recursive: true });
    writeFileSync(path.join(on, "config.json"), '{"model_type": "llama"}');
    return on;
  };
  async function read(from: string): Promise<number[]> {
    await using source = await openParams([param], { from }, undefined);
    const out = new Float32Array(2);
    await source.read(param, 0, new Uint8Array(out.buffer));
    return [...out];
  }
  const bin = (...numbers: readonly number[]): Uint8Array =>
    archive(ends(dict({ w: tensor("0", numbers.length, 0, [numbers.length], [1]) })), { 0: f32s(...numbers) });

  test("is read from pytorch_model.bin, from its index, from GGUF, and first of all from safetensors", async () => {
    const on = made("hf");
    await expect(read(on)).rejects.toThrow(/holds neither .*pytorch_model\.bin, and no GGUF file/);
    writeFileSync(path.join(on, "one.gguf"), gguf({ tensors: [{ name: "w", shape: [2], type: 0, data: f32s(1, 2) }] }));
    expect(await read(on)).toEqual([1, 2]);
    writeFileSync(path.join(on, "pytorch_model.bin"), bin(3, 4));
    expect(await read(on)).toEqual([3, 4]);
    writeFileSync(path.join(on, "pytorch_model-00001-of-00001.bin"), bin(5, 6));
    writeFileSync(
      path.join(on, "pytorch_model.bin.index.json"),
      JSON.stringify({ metadata: {}, weight_map: { w: "pytorch_model-00001-of-00001.bin" } }),
    );
    expect(await read(on)).toEqual([5, 6]);
    await writeSafetensors(path.join(on, "model.safetensors"), new Map([["w", values]]));
    expect(await read(on)).toEqual([7, 8]);
  });

  test("with several GGUF files asks for one of them", async () => {
    const on = made("two");
    for (const name of ["a.gguf", "b.gguf"]) writeFileSync(path.join(on, name), gguf({}));
    await expect(read(on)).rejects.toThrow("2 GGUF files: name one of them");
  });

  test("is known by its files' contents, not by their names", async () => {
    const on = made("names");
    writeFileSync(path.join(on, "x.safetensors"), bin(1, 2));
    expect(await read(path.join(on, "x.safetensors"))).toEqual([1, 2]);
    await writeSafetensors(path.join(on, "x.gguf"), new Map([["w", values]]));
    expect(await read(path.join(on, "x.gguf"))).toEqual([7, 8]);
    writeFileSync(path.join(on, "x.index"), '\n{"weight_map": {"w": "x.gguf"}}');
    expect(await read(path.join(on, "x.index"))).toEqual([7, 8]);
    writeFileSync(path.join(on, "again.json"), '{"weight_map": {"w": "again.json"}}');
    await expect(read(path.join(on, "again.json"))).rejects.toBeInstanceOf(UhdError);
  });
});
