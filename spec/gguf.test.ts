// GGUF files: their metadata, and every way a file can lie.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { GgufError, UhdError, WeightsError } from "../runtime/errors.ts";
import { openCheckpoint } from "../runtime/weights/checkpoint.ts";
import { isGgufArray, openGguf, readGgufArray } from "../runtime/weights/gguf.ts";
import { runs, seed } from "./conformance/property.ts";
import { f32, floats } from "./gguf-support.ts";
import { arrayPair, Bytes, gguf, pair, stringPair, u32Pair, type TensorSpec } from "./gguf-writer.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-gguf-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("metadata", () => {
  test("of every type is read; arrays when they are asked for", async () => {
    await using file = await openGguf(
      gguf({
        version: 2,
        pairs: [
          pair("u8", "u8", (o) => o.u8(200)),
          pair("i8", "i8", (o) => o.u8(200)),
          pair("u16", "u16", (o) => o.u8(1, 255)),
          pair("i16", "i16", (o) => o.u8(1, 255)),
          pair("u32", "u32", (o) => o.u32(4_000_000_000)),
          pair("i32", "i32", (o) => o.u32(-5)),
          pair("f32", "f32", (o) => o.f32(0.1)),
          pair("f64", "f64", (o) => o.f64(0.1)),
          pair("no", "bool", (o) => o.u8(0)),
          pair("yes", "bool", (o) => o.u8(1)),
          pair("small", "u64", (o) => o.u64(7)),
          pair("large", "u64", (o) => o.u64(2n ** 64n - 1n)),
          pair("negative", "i64", (o) => o.u64(-(2n ** 60n))),
          stringPair("text", "Größe 🦙"),
          arrayPair("words", "string", 3, (o) => o.text("a").text("").text("Ġb")),
          arrayPair("numbers", "i32", 2, (o) => o.u32(1).u32(-1)),
          arrayPair("nested", "array", 2, (o) => o.u32(0).u64(2).u8(1, 2).u32(8).u64(1).text("x")),
          arrayPair("none", "f64", 0, () => undefined),
          stringPair("last", "is found behind the arrays"),
        ],
      }),
    );
    const array = async (key: string) => {
      const value = file.metadata.get(key);
      return isGgufArray(value) ? readGgufArray(file, value) : undefined;
    };
    expect(file.version).toBe(2);
    const scalars = Object.fromEntries([...file.metadata].filter(([, v]) => !isGgufArray(v)));
    expect(scalars).toEqual({
      ...{ u8: 200, i8: -56, u16: 65281, i16: -255, u32: 4_000_000_000, i32: -5, f32: Math.fround(0.1), f64: 0.1, no: false, yes: true },
      ...{ small: 7, large: 2n ** 64n - 1n, negative: -(2n ** 60n), text: "Größe 🦙", last: "is found behind the arrays" },
    });
    expect(await array("words")).toEqual(["a", "", "Ġb"]);
    expect(await array("numbers")).toEqual([1, -1]);
    expect(await array("none")).toEqual([]);
    const nested = (await array("nested")) ?? [];
    expect(await Promise.all(nested.map((inner) => (isGgufArray(inner) ? readGgufArray(file, inner) : undefined)))).toEqual([
      [1, 2],
      ["x"],
    ]);
  });

  test("says the alignment of tensors", async () => {
    const tensors = [f32("a", [1], [1]), f32("b", [1], [2])];
    const pairs = [u32Pair("general.alignment", 256)];
    const checkpoint = await openCheckpoint(gguf({ alignment: 256, pairs, tensors }));
    expect([...(await floats(checkpoint.tensors.get("b")))]).toEqual([2]);
    await expect(openGguf(gguf({ alignment: 32, pairs, tensors }))).rejects.toThrow(
      'tensor "b" begins at byte 32 of the data, which is not a multiple of 256',
    );
  });

  test("longer than what is read at once is whole", async () => {
    const words = Array.from({ length: 40_000 }, (_, i) => `word ${i}`);
    const long = "x".repeat(600_000);
    const out = new Bytes();
    const on = path.join(folder, "long.gguf");
    out.u8(0x47, 0x47, 0x55, 0x46).u32(3).u64(0).u64(3);
    arrayPair("words", "string", words.length, (o) => words.forEach((word) => o.text(word)))(out);
    const head = out.done();
    const tail = new Bytes();
    tail.text("long").u32(8).u64(long.length);
    const end = new Bytes();
    stringPair("end", "here")(end);
    writeFileSync(on, Buffer.concat([head, tail.done(), Buffer.from(long), end.done()]));
    await using file = await openGguf(on);
    expect(file.metadata.get("long")).toBe(long);
    expect(file.metadata.get("end")).toBe("here");
    const value = file.metadata.get("words");
    expect(isGgufArray(value) ? await readGgufArray(file, value) : undefined).toEqual(words);
  });
});

const huge = 2n ** 60n;
const plainTensor = f32("a", [4], [1, 2, 3, 4]);

describe("a GGUF file", () => {
  const withTensor = (change: Partial<TensorSpec>): Uint8Array => gguf({ tensors: [{ ...plainTensor, ...change }] });
  const refused: Readonly<Record<string, readonly [Uint8Array, RegExp]>> = {
    "of four bytes": [new TextEncoder().encode("GGUF"), /ends inside its first 24 bytes/],
    "of another kind": [gguf({ magic: "GGML" }), /does not begin with GGUF/],
    "of version 1": [gguf({ version: 1 }), /its version is 1; 2 and 3 are read/],
    "of version 4": [gguf({ version: 4 }), /its version is 4/],
    "of the other byte order": [gguf({ version: 0x03000000 }), /big-endian/],
    "with 2^60 pairs": [gguf({ pairCount: huge }), /says it has 11529215046068\d{5} metadata pairs, and only/],
    "with 2^64 - 1 pairs": [gguf({ pairCount: 2n ** 64n - 1n }), /metadata pairs, and only/],
    "with 2^60 tensors": [gguf({ tensorCount: huge }), /says it has 11529215046068\d{5} tensors, and only/],
    "with more pairs than it holds": [gguf({ pairs: [stringPair("a", "b".repeat(40))], pairCount: 3 }), /ends inside|unknown type|follow/],
    "with a key longer than it": [
      gguf({ pairs: [(o) => o.text("ab", 1000).u32(4).u32(1)] }),
      /the key of pair 0 has 1000 bytes, and \d+ follow/,
    ],
    "with a key of 2^63 bytes": [
      gguf({
        pairs: [
          (o) =>
            o
              .text("ab", 2n ** 63n)
              .u32(4)
              .u32(1),
        ],
      }),
      /the key of pair 0 has 9223372036854\d{6} bytes/,
    ],
    "with a key over the limit": [gguf({ pairs: [stringPair("k".repeat(70_000), "v")] }), /over the limit of 65535/],
    "with the same key twice": [gguf({ pairs: [u32Pair("k", 1), u32Pair("k", 2)] }), /the key "k" occurs twice/],
    "with a key that is not UTF-8": [gguf({ pairs: [(o) => o.text([0xff, 0xfe]).u32(4).u32(1)] }), /the key of pair 0 is not UTF-8/],
    "with text that is not UTF-8": [gguf({ pairs: [pair("k", "string", (o) => o.text([0xc3, 0x28]))] }), /k is not UTF-8/],
    "with text longer than it": [gguf({ pairs: [pair("k", "string", (o) => o.text("v", 99))] }), /k has 99 bytes/],
    "with a value of an unknown type": [gguf({ pairs: [pair("k", 13, (o) => o.u32(1))] }), /k has the unknown type 13/],
    "with a truth value of 2": [gguf({ pairs: [pair("k", "bool", (o) => o.u8(2))] }), /a truth value is 2/],
    "with an array of 2^60 numbers": [
      gguf({ pairs: [arrayPair("k", "u8", huge, (o) => o.u8(1))] }),
      /k has 11529215046068\d{5} values of u8, and \d+ bytes follow/,
    ],
    "with an array whose size wraps": [gguf({ pairs: [arrayPair("k", "u64", 2n ** 61n, (o) => o.u8(1))] }), /values of u64/],
    "with an array of 2^60 texts": [gguf({ pairs: [arrayPair("k", "string", huge, (o) => o.text("a"))] }), /values of string/],
    "with an array of an unknown type": [gguf({ pairs: [pair("k", "array", (o) => o.u32(77).u64(1).u8(1))] }), /k has the unknown type 77/],
    "with a text in an array that is longer than it": [
      gguf({ pairs: [arrayPair("k", "string", 2, (o) => o.text("a").text("b", huge))] }),
      /text 1 of k has 11529215046068\d{5} bytes/,
    ],
    "with arrays in arrays without an end": [
      gguf({ pairs: [arrayPair("k", "array", 1, (o) => Array.from({ length: 50 }, () => o.u32(9).u64(1)))] }),
      /arrays in arrays, more than 4 deep/,
    ],
    "with an alignment of 0": [gguf({ pairs: [u32Pair("general.alignment", 0)] }), /general\.alignment is 0/],
    "with an alignment of 24": [gguf({ pairs: [u32Pair("general.alignment", 24)] }), /not a power of two/],
    "with an alignment of 2^31": [gguf({ pairs: [u32Pair("general.alignment", 2 ** 31)] }), /not a power of two/],
    "with an alignment that is text": [gguf({ pairs: [stringPair("general.alignment", "32")] }), /not a power of two/],
    "with the same tensor twice": [gguf({ tensors: [plainTensor, plainTensor] }), /the tensor "a" occurs twice/],
    "with a tensor of five axes": [withTensor({ shape: [1, 1, 1, 1, 4] }), /"a" has 5 axes/],
    "with a tensor of 2^60 elements": [withTensor({ shape: [huge] }), /more elements than can be counted/],
    "with a shape whose product wraps": [withTensor({ shape: [2n ** 33n, 2n ** 33n] }), /more elements than can be counted/],
    "with a size that is negative": [withTensor({ shape: [-1n] }), /more elements than can be counted/],
    "with a tensor larger than it": [withTensor({ shape: [2 ** 40] }), /"a" ends at byte 4398046511104 of the data, and the file has 32/],
    "with a tensor of an unknown type": [withTensor({ type: 4 }), /"a" has the unknown type 4/],
    "with a tensor of type 2^32 - 1": [withTensor({ type: 0xffffffff }), /unknown type 4294967295/],
    "with rows that are not whole blocks": [
      withTensor({ type: 8, shape: [2, 33], data: new Uint8Array(70) }),
      /rows of 33 elements, which are not whole blocks of Q8_0/,
    ],
    "with an offset behind its end": [withTensor({ offset: 4096 }), /ends at byte 4112 of the data/],
    "with an offset of 2^64 - 32": [withTensor({ offset: 2n ** 64n - 32n }), /"a" ends at byte/],
    "with an offset that is not aligned": [withTensor({ offset: 4 }), /not a multiple of 32/],
    "with overlapping tensors": [
      gguf({ tensors: [f32("a", [12], Array<number>(12).fill(1)), { ...f32("b", [4], [1, 2, 3, 4]), offset: 32 }] }),
      /tensors "a" and "b" overlap/,
    ],
    "with the same bytes twice": [gguf({ tensors: [plainTensor, { ...plainTensor, name: "b", offset: 0 }] }), /overlap/],
    "cut inside its data": [
      gguf({ tensors: [f32("a", [64], Array<number>(64).fill(1))] }).subarray(0, -200),
      /"a" ends at byte 256 of the data, and the file has 56/,
    ],
    "cut inside a description": [gguf({ tensors: [plainTensor] }).subarray(0, 40), /ends inside|only \d+ bytes follow/],
  };
  for (const [what, [bytes, message]] of Object.entries(refused)) {
    test(`${what} is refused`, async () => {
      await expect(openGguf(bytes)).rejects.toThrow(GgufError);
      await expect(openGguf(bytes)).rejects.toThrow(message);
      const on = path.join(folder, "hostile.gguf");
      writeFileSync(on, bytes);
      await expect(openGguf(on)).rejects.toThrow(message);
    });
  }

  test("that does not exist is named", async () => {
    await expect(openGguf(path.join(folder, "none.gguf"))).rejects.toThrow(/none\.gguf cannot be opened/);
  });

  test("may have unused bytes between its tensors, scalars and empty tensors", async () => {
    const checkpoint = await openCheckpoint(
      gguf({
        tensors: [
          { ...plainTensor, offset: 0 },
          { ...f32("s", [], [9]), offset: 32 },
          { ...f32("e", [0, 7], []), offset: 0 },
        ],
      }),
    );
    expect(checkpoint.tensors.get("s")?.shape).toEqual([]);
    expect([...(await floats(checkpoint.tensors.get("s")))]).toEqual([9]);
    expect(checkpoint.tensors.get("e")?.shape).toEqual([0, 7]);
  });

  test("changed or cut at random is refused or read, and nothing else", async () => {
    const good = gguf({
      pairs: [
        stringPair("general.architecture", "llama"),
        u32Pair("llama.attention.head_count", 2),
        arrayPair("w", "string", 2, (o) => o.text("a").text("bc")),
      ],
      tensors: [
        f32("blk.0.attn_q.weight", [4, 2], [1, 2, 3, 4, 5, 6, 7, 8]),
        { name: "b", shape: [32], type: 8, data: new Uint8Array(34) },
      ],
    });
    const change = fc.array(fc.record({ at: fc.nat(good.length - 1), value: fc.nat(255) }), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(change, fc.nat(40), async (changes, cut) => {
        const bytes = good.slice(0, good.length - (cut < 20 ? 0 : cut));
        for (const { at, value } of changes) if (at < bytes.length) bytes[at] = value;
        try {
          const file = await openGguf(bytes);
          const checkpoint = await openCheckpoint(bytes);
          for (const stored of checkpoint.tensors.values()) {
            if (stored.bytes < 10_000) await floats(stored);
          }
          for (const value of file.metadata.values()) if (isGgufArray(value)) await readGgufArray(file, value);
        } catch (error) {
          // Without its first four bytes it is taken for another format.
          const magic = new TextDecoder().decode(bytes.subarray(0, 4)) === "GGUF";
          if (magic && !(error instanceof WeightsError)) expect(error).toBeInstanceOf(GgufError);
          else expect(error).toBeInstanceOf(UhdError);
        }
      }),
      { numRuns: Math.max(runs, 2000), seed },
    );
  });
});
