// Packed weights: one row times a matrix, against MatMulNBits of both builds of ONNX Runtime, and a token of SmolLM2-135M
// with its file's blocks kept packed against the same model with its numbers as f32.

import { existsSync } from "node:fs";
import path from "node:path";
import { packedBits, type Packed, type PackedFormat, type PackedPart } from "../../../compiler/ir/plan/packed.ts";
import type { Tensor } from "../../../runtime/tensor.ts";
import { Session } from "../../../runtime/session.ts";
import { openCheckpoint } from "../../../runtime/weights/checkpoint.ts";
import { floatOfHalf } from "../../../runtime/weights/convert.ts";
import { packedFormats } from "../../../runtime/weights/formats.ts";
import { packPart } from "../../../runtime/weights/packed.ts";
import { packedModel } from "../models.ts";
import { compileBench, f32, openSession, outputOf, randomWeights, variant } from "../ours.ts";
import { onnxPeers, openOnnx } from "../peers.ts";
import { root } from "../place.ts";
import { normals } from "../random.ts";
import { effort, versus, type Peer } from "../versus.ts";
import type { Case } from "./case.ts";

const [depth, columns] = [2048, 8192];

/** The weight as MatMulNBits takes it: unsigned numbers in their order, and a scale for each block of 32. */
async function nbits(format: PackedFormat, weight: Float32Array): Promise<{ readonly values: Uint8Array; readonly scales: Float32Array }> {
  const part = async (name: PackedPart, bytes: number): Promise<Uint8Array> => {
    const packed: Packed = { of: "w", shape: [columns, depth], format, part: name };
    const target = new Uint8Array((columns * depth * bytes) / 32);
    await packPart(async (first, into) => into.set(weight.subarray(first, first + into.length)), packed, 0, target);
    return target;
  };
  const halves = new Uint16Array((await part("scales", 2)).buffer);
  const ours = await part("values", packedBits(format) * 4);
  const scales = Float32Array.from(halves, floatOfHalf);
  if (format === "q8_0") return { values: ours.map((q) => q ^ 128), scales };
  const values = new Uint8Array(ours.length);
  // Ours: element i in the low bits of byte i and i + 16 in the high ones. Theirs: 2·i and 2·i + 1.
  const element = (block: number, i: number): number => ((ours[block + (i % 16)] ?? 0) >> (i < 16 ? 0 : 4)) & 15;
  for (let block = 0; block < ours.length; block += 16)
    for (let i = 0; i < 16; i++) values[block + i] = element(block, 2 * i) | (element(block, 2 * i + 1) << 4);
  return { values, scales };
}

function product(name: string, format: "q8_0" | "q4_0", goals: readonly [web: number, node: number]): Case {
  return {
    name,
    threads: [1, 2],
    run: async (context) => {
      const compiled = compileBench("spec/bench/bench.uhd", "row", { inner: depth, columns }, { quantise: format });
      const plain = compileBench("spec/bench/bench.uhd", "row", { inner: depth, columns });
      const weights = randomWeights(plain.plan.params);
      const weight = weights.get("w")?.data ?? new Float32Array();
      await using session = await openSession(compiled, context.threads, weights);
      const x = normals("x", depth);
      const run = (): Promise<unknown> => session.run({ x: f32([1, depth], x) });
      const { values, scales } = await nbits(format, weight);
      const model = packedModel(depth, columns, packedBits(format), values, scales);
      const peers = onnxPeers.map((peer, i): Peer => ({
        name: peer,
        goal: goals[i] ?? 1,
        // They round activations to 8 bits where that is faster.
        tolerance: 0.02,
        open: async () => {
          const opened = await openOnnx(peer, model, context.threads);
          const again = (): Promise<Float32Array> => opened.run({ x: { dims: [1, depth], data: x } });
          return { name: opened.name, run: again, result: again, [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose]() };
        },
      }));
      const result = await outputOf(session, { x: f32([1, depth], x) });
      return await versus(name, context, { name: "ours", run, result, variant: variant() }, peers, effort(context, 6));
    },
  };
}

/** Bundled, this file lies elsewhere than the sources. */
const smollm2Path = process.env.UHD_SMOLLM2 || path.join(root, "examples/smollm2/model/SmolLM2-135M-Instruct.Q4_1.gguf");

const tokenName = "SmolLM2-135M, a token after 128";

const token: Case = {
  name: tokenName,
  threads: [1, 2],
  run: async (context) => {
    if (!existsSync(smollm2Path)) throw new Error(`${smollm2Path} is not there: node examples/smollm2/fetch.mjs fetches it`);
    const checkpoint = await openCheckpoint(smollm2Path);
    const formats = packedFormats(checkpoint.tensors);
    await checkpoint.close();
    const config = {
      ...{ width: 576, llama_layers: 30, heads: 9, kv_heads: 3, head_width: 64, ffn: 1536, vocabulary: 49152 },
      ...{ theta: 100000, tied: "true", context: 160 },
    };
    const rows = (ids: readonly number[]): Tensor<"i32"> => ({ dtype: "i32", shape: [ids.length], data: Int32Array.from(ids) });
    /** With 128 tokens in the cache; each run computes the token after them again. */
    const ready = async (packed: boolean): Promise<{ session: Session; run: () => Promise<Float32Array> }> => {
      const options = packed ? { quantise: ({ name }: { readonly name: string }) => formats.get(name) } : {};
      const compiled = compileBench("graphs/llama.uhd", "llama", config, options);
      const session = await Session.create(compiled, { threads: context.threads, weights: { from: smollm2Path } });
      const step = async (ids: readonly number[], past: number): Promise<Float32Array> => {
        const { outputs } = await session.run({ rows: rows(ids), given: f32([0, 576], new Float32Array(0)), past });
        const logits = outputs["logits"];
        if (logits?.dtype !== "f32") throw new Error("llama gave no logits");
        return Float32Array.from(logits.data);
      };
      await step(
        Array.from({ length: 128 }, (_, i) => (i * 7919) % 49152),
        0,
      );
      return { session, run: () => step([504], 128) };
    };
    const ours = await ready(true);
    await using session = ours.session;
    const peer: Peer = {
      name: "weights as f32",
      goal: 1.5,
      tolerance: 1e-3,
      open: async () => {
        const plain = await ready(false);
        const note = `weights take ${Math.round(session.weightBytes / 1e6)} MB instead of ${Math.round(plain.session.weightBytes / 1e6)} MB`;
        return { name: "weights as f32", run: plain.run, result: plain.run, note, [Symbol.asyncDispose]: () => plain.session.close() };
      },
    };
    return await versus(
      tokenName,
      context,
      { name: "ours", run: ours.run, result: await ours.run(), variant: variant() },
      [peer],
      effort(context, 10),
    );
  },
};

export const packedWeights: readonly Case[] = [
  product("int4 row 1×2048×8192", "q4_0", [20, 0.9]),
  product("int8 row 1×2048×8192", "q8_0", [6, 0.9]),
  token,
];
