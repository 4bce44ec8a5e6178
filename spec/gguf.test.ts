// GGUF checkpoints: every block format against the package `gguf`, a real model against the same, the names and the order
// of rows of Hugging Face, every way a file can lie, and how much memory loading takes.

import { spawn } from "node:child_process";
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import zlib from "node:zlib";
import fc from "fast-check";
import { build } from "esbuild";
import { afterAll, describe, expect, test } from "vitest";
import { GgufError, WeightsError } from "../runtime/errors.ts";
import { openCheckpoint } from "../runtime/weights/checkpoint.ts";
import { huggingFaceName } from "../runtime/weights/gguf-tensors.ts";
import { isGgufArray, openGguf, readGgufArray } from "../runtime/weights/gguf.ts";
import { ggmlTypes } from "../runtime/weights/quants.ts";
import { readAs, type StoredTensor } from "../runtime/weights/stored.ts";
import { runs, seed } from "./conformance/property.ts";
import { arrayPair, Bytes, gguf, pair, stringPair, u32Pair, type TensorSpec } from "./gguf-writer.ts";
import { hasSmollm2, smollm2Path } from "./smollm2.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-gguf-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const root = path.resolve(import.meta.dirname, "..");

const fixture = (name: string): unknown => JSON.parse(readFileSync(path.join(root, "spec/fixtures", name), "utf8"));
const floatBytes = (...values: readonly number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);
const f32 = (name: string, shape: readonly number[], values: readonly number[]): TensorSpec => ({
  name,
  shape,
  type: 0,
  data: floatBytes(...values),
});

/** Elements `first`… of a tensor, as f32. */
async function floats(
  stored: StoredTensor | undefined,
  first = 0,
  count = stored?.shape.reduce((n, d) => n * d, 1) ?? 0,
): Promise<Float32Array> {
  if (stored === undefined) throw new Error("there is no such tensor");
  const out = new Float32Array(count);
  await readAs(stored, "f32", first, new Uint8Array(out.buffer), "it");
  return out;
}

describe("a block format", () => {
  interface Blocks {
    readonly type: number;
    readonly block: number;
    readonly bytes: string;
    readonly values: string;
  }
  const formats = Object.entries(fixture("gguf-blocks.json") as Readonly<Record<string, Blocks>>);

  test.each(formats)(
    "%s has the values the package gguf gives, to the bit, wherever reading begins",
    async (name, { type, block, bytes, values }) => {
      const data = new Uint8Array(Buffer.from(bytes, "base64"));
      const expected = new Float32Array(new Uint8Array(Buffer.from(values, "base64")).buffer);
      expect(ggmlTypes.get(type)).toMatchObject({ name, block });
      const file = gguf({ tensors: [{ name: "a", shape: [expected.length / block, block], type, data }] });
      const checkpoint = await openCheckpoint(file);
      const stored = checkpoint.tensors.get("a");
      expect(stored).toMatchObject({ dtype: "F32", type: name, bytes: data.length });
      expect(await floats(stored)).toEqual(expected);
      // Not even at the edges of blocks.
      for (const [first, count] of [
        [0, 1],
        [1, block],
        [block - 1, 2],
        [block, block],
        [block + 7, expected.length - block - 9],
      ] as const) {
        expect(await floats(stored, first, count)).toEqual(expected.subarray(first, first + count));
      }
      await checkpoint.close();
    },
  );

  test("is there for every format that the issue names", () => {
    const readable = [...ggmlTypes.values()].filter((t) => t.decode !== undefined || t.plain !== undefined).map((t) => t.name);
    expect(readable).toEqual(expect.arrayContaining(["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"]));
    expect(formats.map(([name]) => name).sort()).toEqual(
      [...ggmlTypes.values()]
        .filter((t) => t.decode !== undefined)
        .map((t) => t.name)
        .sort(),
    );
  });

  test("that is only known by its size is listed, and refused when it is read", async () => {
    const checkpoint = await openCheckpoint(gguf({ tensors: [{ name: "a", shape: [32], type: 20, data: new Uint8Array(18) }] }));
    const stored = checkpoint.tensors.get("a");
    expect(stored?.type).toBe("IQ4_NL");
    await expect(floats(stored)).rejects.toThrow(GgufError);
    await expect(floats(stored)).rejects.toThrow("tensor a of bytes in memory is IQ4_NL, which cannot be read");
  });
});

describe("plain numbers", () => {
  test("of F16, BF16, F64 and integers are read as they are", async () => {
    const checkpoint = await openCheckpoint(
      gguf({
        tensors: [
          { name: "h", shape: [2], type: 1, data: new Uint8Array(Uint16Array.of(0x3c00, 0xc100).buffer) },
          { name: "b", shape: [2], type: 30, data: new Uint8Array(Uint16Array.of(0x3f80, 0xc020).buffer) },
          { name: "d", shape: [1], type: 28, data: new Uint8Array(Float64Array.of(0.5).buffer) },
          { name: "i", shape: [2], type: 26, data: new Uint8Array(Int32Array.of(5, -6).buffer) },
        ],
      }),
    );
    expect([...checkpoint.tensors].map(([name, t]) => [name, t.dtype])).toEqual([
      ["h", "F16"],
      ["b", "BF16"],
      ["d", "F64"],
      ["i", "I32"],
    ]);
    expect([...(await floats(checkpoint.tensors.get("h")))]).toEqual([1, -2.5]);
    expect([...(await floats(checkpoint.tensors.get("b")))]).toEqual([1, -2.5]);
    expect([...(await floats(checkpoint.tensors.get("d")))]).toEqual([0.5]);
    await expect(floats(checkpoint.tensors.get("i"))).rejects.toThrow(WeightsError);
  });
});

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
          if (
            bytes[0] === 0x47 &&
            bytes[1] === 0x47 &&
            bytes[2] === 0x55 &&
            bytes[3] === 0x46 &&
            !(error instanceof WeightsError || error instanceof RangeError)
          ) {
            expect(error).toBeInstanceOf(GgufError);
          }
        }
      }),
      { numRuns: Math.max(runs, 2000), seed },
    );
  });
});

describe("names and rows of LLaMA-family files", () => {
  test("become those of Hugging Face", () => {
    const pairs = [
      ["token_embd.weight", "model.embed_tokens.weight"],
      ["output_norm.weight", "model.norm.weight"],
      ["output.weight", "lm_head.weight"],
      ["blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"],
      ["blk.12.attn_q.weight", "model.layers.12.self_attn.q_proj.weight"],
      ["blk.1.attn_k.bias", "model.layers.1.self_attn.k_proj.bias"],
      ["blk.1.attn_v.weight", "model.layers.1.self_attn.v_proj.weight"],
      ["blk.1.attn_output.weight", "model.layers.1.self_attn.o_proj.weight"],
      ["blk.1.ffn_norm.weight", "model.layers.1.post_attention_layernorm.weight"],
      ["blk.1.ffn_gate.weight", "model.layers.1.mlp.gate_proj.weight"],
      ["blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj.weight"],
      ["blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"],
      ["rope_freqs.weight", undefined],
      ["blk.1.ffn_gate_exps.weight", undefined],
      ["blk.1.constructor.weight", undefined],
      ["blk.x.attn_q.weight", undefined],
    ] as const;
    for (const [own, name] of pairs) expect([own, huggingFaceName(own)]).toEqual([own, name]);
  });

  /** What llama.cpp's converter does to q and k: reshape(heads, 2, D/2, …).swapaxes(1, 2). */
  function moved(rows: readonly (readonly number[])[], heads: number): readonly (readonly number[])[] {
    const head = rows.length / heads;
    return rows.map((_, row) => {
      const within = row % head;
      return rows[row - within + (within % 2) * (head / 2) + Math.floor(within / 2)] ?? [];
    });
  }

  const llama = (architecture: string, heads: number, kvHeads: number | undefined, tensors: readonly TensorSpec[]): Uint8Array =>
    gguf({
      pairs: [
        stringPair("general.architecture", architecture),
        u32Pair(`${architecture}.attention.head_count`, heads),
        ...(kvHeads === undefined ? [] : [u32Pair(`${architecture}.attention.head_count_kv`, kvHeads)]),
      ],
      tensors,
    });

  test("the rows of queries and keys of llama go back, in weights and biases, whichever part is read", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 1, max: 5 }),
        fc.nat(),
        async (heads, half, columns, pick) => {
          const rows = Array.from({ length: heads * half * 2 }, (_, r) => Array.from({ length: columns }, (_, c) => r * 100 + c));
          const flat = moved(rows, heads).flat();
          const bias = rows.map(([x]) => x ?? 0);
          const file = llama("llama", heads * 2, heads, [
            f32("blk.0.attn_k.weight", [rows.length, columns], flat),
            f32(
              "blk.0.attn_k.bias",
              [rows.length],
              moved(rows, heads).map(([x]) => x ?? 0),
            ),
            f32("blk.0.attn_v.weight", [rows.length, columns], flat),
          ]);
          const { tensors } = await openCheckpoint(file);
          const k = tensors.get("model.layers.0.self_attn.k_proj.weight");
          expect(k?.nameInFile).toBe("blk.0.attn_k.weight");
          expect([...(await floats(k))]).toEqual(rows.flat());
          const first = pick % flat.length;
          const count = 1 + (Math.floor(pick / 7) % (flat.length - first));
          expect([...(await floats(k, first, count))]).toEqual(rows.flat().slice(first, first + count));
          expect([...(await floats(tensors.get("model.layers.0.self_attn.k_proj.bias")))]).toEqual(bias);
          expect([...(await floats(tensors.get("model.layers.0.self_attn.v_proj.weight")))]).toEqual(flat);
        },
      ),
      { numRuns: Math.min(runs, 500), seed },
    );
  });

  test("the rows of qwen2 stay, and the names of unknown architectures too", async () => {
    const tensors = [f32("blk.0.attn_q.weight", [4, 1], [1, 2, 3, 4])];
    const qwen = await openCheckpoint(llama("qwen2", 1, undefined, tensors));
    expect([...(await floats(qwen.tensors.get("model.layers.0.self_attn.q_proj.weight")))]).toEqual([1, 2, 3, 4]);
    const other = await openCheckpoint(llama("falcon", 1, undefined, tensors));
    expect([...other.tensors.keys()]).toEqual(["blk.0.attn_q.weight"]);
  });

  test("a file that does not say its heads, or whose rows they do not divide, is refused", async () => {
    const tensors = [f32("blk.0.attn_q.weight", [4, 1], [1, 2, 3, 4])];
    await expect(openCheckpoint(gguf({ pairs: [stringPair("general.architecture", "llama")], tensors }))).rejects.toThrow(
      /does not say in llama\.attention\.head_count how many heads blk\.0\.attn_q\.weight has/,
    );
    for (const heads of [3, 4, 0]) {
      await expect(openCheckpoint(llama("llama", heads, undefined, tensors))).rejects.toThrow(GgufError);
    }
  });

  test("two tensors that get one name are refused", async () => {
    const tensors = [f32("output.weight", [1], [1]), f32("lm_head.weight", [1], [2])];
    await expect(openCheckpoint(llama("llama", 1, undefined, tensors))).rejects.toThrow('two tensors for "lm_head.weight"');
  });
});

describe("SmolLM2-135M", () => {
  interface Model {
    readonly tensors: Readonly<
      Record<string, { readonly shape: readonly number[]; readonly crc32: number; readonly first: readonly number[] }>
    >;
  }

  test("has the names, shapes and values that the package gguf gives, to the bit", async (context) => {
    if (!hasSmollm2(context, "SmolLM2-135M against the package gguf")) return;
    const { tensors } = fixture("gguf-smollm2.json") as Model;
    const checkpoint = await openCheckpoint(smollm2Path);
    expect([...checkpoint.tensors.keys()].sort()).toEqual(Object.keys(tensors).sort());
    const piece = new Float32Array(1 << 20);
    for (const [name, stored] of checkpoint.tensors) {
      const { shape, crc32, first } = tensors[name] ?? { shape: [], crc32: -1, first: [] };
      expect([name, stored.shape]).toEqual([name, shape]);
      const count = shape.reduce((n, d) => n * d, 1);
      let check = 0;
      for (let at = 0; at < count; at += piece.length) {
        const part = piece.subarray(0, Math.min(piece.length, count - at));
        await readAs(stored, "f32", at, new Uint8Array(part.buffer, 0, part.byteLength), name);
        if (at === 0) expect([...part.subarray(0, 3)]).toEqual(first);
        check = zlib.crc32(new Uint8Array(part.buffer, 0, part.byteLength), check);
      }
      expect([name, check]).toEqual([name, crc32]);
    }
    await checkpoint.close();
  }, 60_000);

  test("has a vocabulary of 49152 words", async (context) => {
    if (!hasSmollm2(context, "the vocabulary of SmolLM2-135M")) return;
    await using file = await openGguf(smollm2Path);
    const tokens = file.metadata.get("tokenizer.ggml.tokens");
    const words = isGgufArray(tokens) ? await readGgufArray(file, tokens) : [];
    expect(words.length).toBe(49152);
    expect(words.slice(0, 3)).toEqual(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]);
  });
});

describe("loading", () => {
  /** Loads every tensor of a file into the WebAssembly device in a process of its own; gives MiB. */
  async function measured(file: string): Promise<{ readonly device: number; readonly over: number }> {
    const script = path.join(folder, "load.mjs");
    await build({
      stdin: {
        resolveDir: root,
        loader: "ts",
        contents: `
          import { WasmDevice } from "./runtime/devices/wasm/device.ts";
          import { prepare } from "./runtime/prepare.ts";
          import { openCheckpoint } from "./runtime/weights/checkpoint.ts";
          import { openParams } from "./runtime/weights/load.ts";
          const from = process.argv[2];
          const checkpoint = await openCheckpoint(from);
          const params = [...checkpoint.tensors].map(([name, t], buffer) => ({ name, buffer, dtype: "f32", shape: [...t.shape] }));
          await checkpoint.close();
          const plan = {
            name: "all", params, prepare: [], steps: [], states: [], inputs: [],
            buffers: params.map((p) => ({ name: p.name, dtype: "f32", shape: p.shape.map(String), slack: 0, place: { k: "param" } })),
            outputs: params.map((p) => ({ name: p.name, buffer: p.buffer })),
          };
          const source = await openParams(params, { from }, undefined);
          const device = await WasmDevice.create({ threads: 1 });
          const before = process.memoryUsage().rss;
          const weights = await prepare(plan, device, undefined, source, { limit: Infinity });
          const peak = process.resourceUsage().maxRSS * 1024;
          console.log(JSON.stringify({ device: weights.bytes / 2 ** 20, over: (peak - before - weights.bytes) / 2 ** 20 }));
          await device.close();`,
      },
      bundle: true,
      platform: "node",
      format: "esm",
      outfile: script,
      external: ["sharp"],
      logLevel: "silent",
    });
    return new Promise((resolve, reject) => {
      const child = spawn(process.execPath, [script, file], { stdio: ["ignore", "pipe", "inherit"] });
      let out = "";
      child.stdout.on("data", (chunk: Buffer) => (out += chunk.toString()));
      child.on("error", reject);
      child.on("close", () => {
        try {
          resolve(JSON.parse(out) as { device: number; over: number });
        } catch (cause) {
          reject(new Error(`loading printed ${JSON.stringify(out)}`, { cause }));
        }
      });
    });
  }

  test("takes less than 64 MiB beside the device's copy, also where rows are moved", async () => {
    // 32 heads of 128 rows; the blocks are a hole in the file, which reads as zeros.
    const columns = 8192;
    const rows = 4096;
    const bytes = (rows * columns * 34) / 32;
    const head = gguf({
      pairs: [stringPair("general.architecture", "llama"), u32Pair("llama.attention.head_count", 32)],
      tensors: ["attn_q", "ffn_up"].map((part, i) => ({
        name: `blk.0.${part}.weight`,
        shape: [rows, columns],
        type: 8,
        data: new Uint8Array(),
        offset: i * bytes,
      })),
    });
    const on = path.join(folder, "large.gguf");
    const handle = openSync(on, "w");
    writeSync(handle, head);
    ftruncateSync(handle, head.length + 2 * bytes);
    closeSync(handle);
    const { device, over } = await measured(on);
    expect(device).toBeGreaterThan(255);
    expect(over).toBeLessThan(64);
  }, 60_000);

  test("SmolLM2-135M too", async (context) => {
    if (!hasSmollm2(context, "the memory that loading SmolLM2-135M takes")) return;
    const { device, over } = await measured(smollm2Path);
    expect(device).toBeGreaterThan(512);
    expect(over).toBeLessThan(64);
  }, 60_000);
});
