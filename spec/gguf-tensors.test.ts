// Tensors of GGUF files: every block format against the package `gguf`, a real model against the same, the names and the
// order of rows of Hugging Face.

import { readFileSync } from "node:fs";
import path from "node:path";
import zlib from "node:zlib";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GgufError, WeightsError } from "../runtime/errors.ts";
import { openCheckpoint } from "../runtime/weights/checkpoint.ts";
import { huggingFaceName } from "../runtime/weights/gguf-tensors.ts";
import { isGgufArray, openGguf, readGgufArray } from "../runtime/weights/gguf.ts";
import { ggmlTypes } from "../runtime/weights/quants.ts";
import { readAs } from "../runtime/weights/stored.ts";
import { runs, seed } from "./conformance/property.ts";
import { f32, floats } from "./gguf-support.ts";
import { gguf, stringPair, u32Pair, type TensorSpec } from "./gguf-writer.ts";
import { hasSmollm2, smollm2Path } from "./smollm2.ts";

const fixture = (name: string): unknown => JSON.parse(readFileSync(path.join(import.meta.dirname, "fixtures", name), "utf8"));

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
