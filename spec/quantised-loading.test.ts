// Weights become packed while they are loaded: within the stated error (Note [Error of packing] in
// runtime/weights/packed.ts), byte for byte where a file has the form, and as convert wrote them.

import * as fc from "fast-check";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { hasMinima, packedBits, packedFormats, type Packed, type PackedFormat, type PackedPart } from "../compiler/ir/plan/packed.ts";
import { fromHalf } from "../compiler/ir/imp/scalar.ts";
import { loadProgram } from "../compiler/check/index.ts";
import { compileGraph, type CompileOptions } from "../compiler/compile.ts";
import { referenceOf } from "../ops/index.ts";
import { SafetensorsError, WeightsError } from "../runtime/errors.ts";
import { Session } from "../runtime/session.ts";
import { openCheckpoint } from "../runtime/weights/checkpoint.ts";
import { packedFormats as formatsOf } from "../runtime/weights/formats.ts";
import { packPart, readPart } from "../runtime/weights/packed.ts";
import { encodeSafetensors } from "../runtime/weights/safetensors.ts";
import type { StoredTensor } from "../runtime/weights/stored.ts";
import { rewrite } from "../runtime/weights/write.ts";
import { seed } from "./conformance/property.ts";
import { floats } from "./gguf-support.ts";
import { gguf, stringPair, u32Pair } from "./gguf-writer.ts";
import { hasSmollm2, smollm2Path } from "./smollm2.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-quantised-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Read = (packed: Packed, target: Uint8Array) => Promise<void>;

/** The numbers that the packed form of a weight stands for. */
async function unpacked(format: PackedFormat, shape: readonly [number, number], read: Read): Promise<Float64Array> {
  const blocks = shape[1] / 32;
  const part = async (name: PackedPart): Promise<Uint8Array> => {
    const target = new Uint8Array(shape[0] * blocks * (name === "values" ? packedBits(format) * 4 : 2));
    await read({ of: "w", shape, format, part: name }, target);
    return target;
  };
  const halves = async (name: PackedPart): Promise<Float64Array> => Float64Array.from(new Uint16Array((await part(name)).buffer), fromHalf);
  const values = Float64Array.from(new Int32Array((await part("values")).buffer));
  const f16 = { dtype: "f16" as const, shape: [shape[0], blocks] };
  const operands = [
    { dtype: "i32" as const, shape: [shape[0], blocks * packedBits(format)], data: values },
    { ...f16, data: await halves("scales") },
    ...(hasMinima(format) ? [{ ...f16, data: await halves("minima") }] : []),
  ];
  return referenceOf("unpack", operands, { bits: packedBits(format) }, { dtype: "f32", shape }).data;
}

const reading =
  (stored: StoredTensor): Read =>
  (packed, target) =>
    readPart(stored, packed, 0, target);

const fromNumbers =
  (numbers: Float32Array): Read =>
  (packed, target) =>
    packPart(async (first, into) => into.set(numbers.subarray(first, first + into.length)), packed, 0, target);

/** What Note [Error of packing] allows for a block. */
function allowed(format: PackedFormat, block: Float32Array): number {
  const [u, e] = [2 ** -11, 2 ** -25];
  const [least, most] = [Math.min(...block), Math.max(...block)];
  const largest = Math.max(-least, most);
  if (format === "q8_0") return largest / 254 + 127 * ((largest / 127) * u + e);
  if (format === "q4_0") return largest / 8 + 8 * ((largest / 8) * u + e);
  const d = (most - least) / 15;
  return d / 2 + 15 * (d * u + e) + 2 * (Math.abs(least) * u + e);
}

describe("packing numbers", () => {
  const number = fc.oneof(
    { weight: 5, arbitrary: fc.double({ min: -4, max: 4, noNaN: true }) },
    { weight: 1, arbitrary: fc.constantFrom(0, -0, 1e-8, -3e-6, 1000, -60000) },
  );
  test.each(packedFormats)("as %s is within the stated error", async (format) => {
    const blocks = fc.array(number, { minLength: 32, maxLength: 32 });
    const same = number.map((x) => new Array<number>(32).fill(x));
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof({ weight: 4, arbitrary: blocks }, { weight: 1, arbitrary: same }), { minLength: 1, maxLength: 3 }),
        async (all) => {
          const numbers = Float32Array.from(all.flat());
          const found = await unpacked(format, [1, numbers.length], fromNumbers(numbers));
          for (const [i, x] of numbers.entries()) {
            const from = i - (i % 32);
            const bound = allowed(format, numbers.subarray(from, from + 32)) * (1 + 1e-6);
            const error = Math.abs((found[i] ?? NaN) - x);
            if (!(error <= bound)) throw new Error(`number ${i}, ${x}, became ${found[i] ?? NaN}: ${error} is more than ${bound}`);
          }
        },
      ),
      { numRuns: 100, seed },
    );
  });

  test.each([NaN, Infinity, -Infinity, 1e38])("refuses %s by its tensor and place", async (odd) => {
    for (const format of packedFormats) {
      const numbers = new Float32Array(96);
      numbers[70] = odd;
      const packing = unpacked(format, [1, 96], fromNumbers(numbers));
      await expect(packing).rejects.toThrow(WeightsError);
      await expect(packing).rejects.toThrow(`tensor w: numbers 64 to 95 cannot be packed as ${format}`);
    }
  });

  test("of any pieces gives the same", async () => {
    const numbers = Float32Array.from({ length: 32 * 40 }, (_, i) => Math.sin(i * i));
    const packed = { of: "w", shape: [40, 32], format: "q4_1", part: "values" } as const;
    const read = async (first: number, into: Float32Array): Promise<void> => into.set(numbers.subarray(first, first + into.length));
    const [whole, pieces] = [new Uint8Array(40 * 16), new Uint8Array(40 * 16)];
    await packPart(read, packed, 0, whole);
    for (let block = 0; block < 40; block += 8) await packPart(read, packed, block * 4, pieces.subarray(block * 16, (block + 8) * 16));
    expect(pieces).toEqual(whole);
  });
});

const types = { q8_0: [8, 34], q4_0: [2, 18], q4_1: [3, 20] } as const;

describe("a GGUF file's own blocks", () => {
  test.each(packedFormats)("of %s are taken as they are, also where rows are moved back", async (format) => {
    const [type, bytes] = types[format];
    let state = 1;
    const data = Uint8Array.from({ length: 8 * 2 * bytes }, (_, i) => {
      state = (state * 1103515245 + 12345) % 2147483648;
      // Scales are halves with exponents that are not all ones.
      return i % bytes < bytes - packedBits(format) * 4 && i % 2 === 1 ? state % 0x78 : state % 256;
    });
    const file = gguf({
      pairs: [stringPair("general.architecture", "llama"), u32Pair("llama.attention.head_count", 2)],
      tensors: ["attn_q", "ffn_up"].map((part) => ({ name: `blk.0.${part}.weight`, shape: [8, 64], type, data })),
    });
    const checkpoint = await openCheckpoint(file);
    for (const stored of checkpoint.tensors.values()) {
      const exact = await floats(stored);
      expect(Float32Array.from(await unpacked(format, [8, 64], reading(stored)))).toEqual(exact);
      // Packed in another form they are near, and not the same.
      const other = format === "q8_0" ? "q4_1" : "q8_0";
      const found = await unpacked(other, [8, 64], reading(stored));
      for (const [i, x] of exact.entries()) {
        const from = i - (i % 32);
        expect(Math.abs((found[i] ?? NaN) - x)).toBeLessThanOrEqual(allowed(other, exact.subarray(from, from + 32)) * 1.001);
      }
    }
    expect([...formatsOf(checkpoint.tensors).values()]).toEqual([format, format]);
    await checkpoint.close();
  });
});

describe("a converted file", () => {
  const matrix = { dtype: "f32" as const, shape: [3, 64], data: Float32Array.from({ length: 192 }, (_, i) => Math.cos(i)) };
  const tensors = new Map([
    ["w", matrix],
    ["kept", matrix],
    ["narrow", { dtype: "f32" as const, shape: [2, 33], data: new Float32Array(66).fill(0.5) }],
    ["bias", { dtype: "f32" as const, shape: [64], data: new Float32Array(64).fill(0.25) }],
  ]);

  test.each(packedFormats)("packed as %s reads back as what loading packs", async (format) => {
    const file = path.join(folder, `${format}.safetensors`);
    const from = await openCheckpoint(tensors);
    const written = await rewrite(file, from.tensors, {
      quantise: (name) => (name === "kept" ? undefined : format),
      metadata: { format: "pt" },
    });
    expect([written.tensors, written.elements]).toEqual([4, 192 + 192 + 66 + 64]);
    const checkpoint = await openCheckpoint(file);
    expect([...checkpoint.tensors].map(([name, t]) => `${name} ${t.type} ${t.shape.join("x")}`).toSorted()).toEqual(
      [`w ${format.toUpperCase()} 3x64`, "kept F32 3x64", "narrow F32 2x33", "bias F32 64"].toSorted(),
    );
    const stored = checkpoint.tensors.get("w");
    if (stored === undefined) throw new Error("there is no w");
    const wanted = await unpacked(format, [3, 64], fromNumbers(matrix.data));
    expect(await unpacked(format, [3, 64], reading(stored))).toEqual(wanted);
    expect(await floats(stored)).toEqual(Float32Array.from(wanted));
    expect(await floats(stored, 31, 70)).toEqual(Float32Array.from(wanted).subarray(31, 101));
    // Converted again as numbers, it is an ordinary file.
    await rewrite(path.join(folder, "plain.safetensors"), checkpoint.tensors);
    const plain = await openCheckpoint(path.join(folder, "plain.safetensors"));
    expect(await floats(plain.tensors.get("w"))).toEqual(Float32Array.from(wanted));
    for (const c of [from, checkpoint, plain]) await c.close();
  });

  test.each([
    ["{", "is no JSON"],
    ["[]", "is no object of one form for each name"],
    ['{"w":"q4_0","w":"q4_0"}', "is no object of one form for each name"],
    ['{"w":"q5_9"}', 'w is packed as "q5_9"'],
    ['{"w":"q4_1"}', "has no F16 w.minima that fits w packed as q4_1"],
    ['{"w":"q8_0"}', "has no I32 w.values that fits w packed as q8_0"],
    ['{"v":"q4_0"}', "has no I32 v.values that fits v packed as q4_0"],
    ['{"x":"q4_0"}', "has x both packed and as it is"],
  ])("whose metadata say %s is refused", async (forms, says) => {
    const part = (name: string, dtype: "i32" | "f16", width: number) =>
      [name, { dtype, shape: [2, width], data: dtype === "i32" ? new Int32Array(2 * width) : new Uint16Array(2 * width) }] as const;
    const all = new Map([
      part("w.values", "i32", 4),
      part("w.scales", "f16", 1),
      part("x.values", "i32", 4),
      part("x.scales", "f16", 1),
      part("x", "f16", 1),
    ]);
    const bytes = Buffer.concat(encodeSafetensors(all, { "uhd.packed": forms }));
    const opening = openCheckpoint(new Uint8Array(bytes));
    await expect(opening).rejects.toThrow(SafetensorsError);
    await expect(opening).rejects.toThrow(says);
  });
});

describe("SmolLM2-135M packed as its file has it", () => {
  const config = {
    ...{ width: "576", llama_layers: "30", heads: "9", kv_heads: "3", head_width: "64", ffn: "1536", vocabulary: "49152" },
    ...{ theta: "100000", tied: "true", context: "64" },
  };

  /** The first tokens after a prompt, and the bytes of the weights. */
  async function continued(options: CompileOptions): Promise<{ readonly tokens: readonly number[]; readonly bytes: number }> {
    const file = path.resolve(import.meta.dirname, "../graphs/llama.uhd");
    const graph = loadProgram(file, { readText: (name) => readFileSync(name, "utf8"), config }).graphs.get("llama");
    if (graph === undefined) throw new Error("there is no graph llama");
    const compiled = compileGraph(graph, options);
    expect(compiled.plainLoops).toEqual([]);
    await using session = await Session.create(compiled, { weights: { from: smollm2Path } });
    const tokens: number[] = [];
    let [rows, past] = [[504, 3575, 282, 4649, 314, 260, 7042, 282, 253], 0];
    for (let i = 0; i < 16; i++) {
      const { outputs } = await session.run({
        rows: { dtype: "i32", shape: [rows.length], data: Int32Array.from(rows) },
        given: { dtype: "f32", shape: [0, 576], data: new Float32Array(0) },
        past,
      });
      past += rows.length;
      rows = [Number(outputs["next"]?.data[0])];
      tokens.push(...rows);
    }
    return { tokens, bytes: session.weightBytes };
  }

  test("goes on as on the numbers that the blocks stand for, in a quarter of the memory", { timeout: 120_000 }, async (context) => {
    if (!hasSmollm2(context, "SmolLM2-135M packed")) return;
    const checkpoint = await openCheckpoint(smollm2Path);
    const formats = formatsOf(checkpoint.tensors);
    await checkpoint.close();
    const plain = await continued({});
    const quantise: CompileOptions["quantise"] = ({ name }) => formats.get(name);
    const exact = await continued({ quantise, activations: "f32" });
    const rounded = await continued({ quantise });
    expect(exact.tokens).toEqual(plain.tokens);
    expect(rounded.tokens).toEqual(plain.tokens);
    expect(exact.bytes).toBeLessThan(plain.bytes / 4);
  });
});
