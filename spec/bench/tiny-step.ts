// The training step that is timed: UHD-tiny with a batch of eight scenes of examples/read-text, and the same as files for
// torch/uhd_tiny.py. Times nothing.

import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { loadProgram } from "../../compiler/check/index.ts";
import { renderDiagnostics } from "../../compiler/diagnostics/index.ts";
import type { HostValue } from "../../compiler/ir/plan/host.ts";
import { compileTraining, type CompiledTraining } from "../../compiler/train/index.ts";
import { makeScene, renderScene } from "../../examples/read-text/scene.ts";
import type { Inputs } from "../../runtime/inputs.ts";
import { elementCount, type Tensor } from "../../runtime/tensor.ts";
import { decodeImage } from "../../runtime/images/decode.ts";
import { compileBench, openSession, shapeFunction, type RandomWeights } from "./ours.ts";
import { root } from "./place.ts";
import { normals } from "./random.ts";

const file = "graphs/uhd-tiny.uhd";
export const batchSize = 8;

interface Sample {
  readonly tokens: number;
  readonly images: readonly number[];
}

/** Packed samples, as graphs/train/batch.uhd says. */
export interface Batch {
  readonly patches: Uint8Array;
  readonly ids: readonly number[];
  readonly labels: readonly number[];
  readonly images: readonly (readonly [number, number])[];
  readonly samples: readonly Sample[];
}

export interface TinyStep {
  readonly compiled: CompiledTraining;
  readonly batch: Batch;
  readonly weights: RandomWeights;
}

/** A constant rate, so that any number of steps may follow. */
export function compileTiny(config: Readonly<Record<string, string>> = {}): CompiledTraining {
  const program = loadProgram(path.join(root, file), { readText: (name) => readFileSync(name, "utf8"), config });
  if (program.diagnostics.some((d) => d.severity === "error") || program.train === undefined)
    throw new Error(renderDiagnostics(program.diagnostics, program.sources, { color: false }));
  return compileTraining({ ...program, train: { ...program.train, schedule: { kind: "constant", warmup: { k: "steps", count: 0 } } } });
}

export async function tinyStep(): Promise<TinyStep> {
  const compiled = compileTiny();
  const weights = new Map(
    compiled.training.parameters.map(({ name, shape, init }): [string, Tensor<"f32">] => {
      const [std, mean] = init?.kind === "constant" ? [0.05, init.value] : [init?.std ?? 1, 0];
      return [name, { dtype: "f32", shape, data: normals(name, elementCount(shape), std, mean) }];
    }),
  );
  return { compiled, weights, batch: await makeBatch() };
}

/** Ids of examples/read-text's tokenizer: "</s>" is 1, the newline 2, printable ASCII follows. */
const idOf = (character: string): number => (character === "\n" ? 2 : character.charCodeAt(0) - 29);
const end = 1;

/** The first scenes of the training split, as `uhdc train` packs them. */
async function makeBatch(): Promise<Batch> {
  const ids: number[] = [];
  const labels: number[] = [];
  const images: [number, number][] = [];
  const samples: Sample[] = [];
  const patches: Uint8Array[] = [];
  await using cut = await openSession(compileBench(file, "pictures"), 1);
  for (let i = 0; i < batchSize; i++) {
    const scene = makeScene("train", 1, i);
    const { width, height, data } = await decodeImage(await renderScene(scene));
    const { outputs } = await cut.run({ image: { dtype: "u8", shape: [height, width, 3], data } });
    patches.push(Uint8Array.from(outputs["patches"]?.data ?? []));
    const first = ids.length;
    for (const [n, { question, answer }] of scene.questions.entries()) {
      const asked = [...`${n === 0 ? "\n" : ""}${question}\n`].map(idOf);
      const told = [...[...answer].map(idOf), end];
      ids.push(...asked, ...told);
      labels.push(...asked.map(() => -100), ...told);
    }
    images.push([width, height]);
    samples.push({ tokens: ids.length - first, images: [0] });
  }
  return { patches: Uint8Array.from(Buffer.concat(patches)), ids, labels, images, samples };
}

export function inputsOf({ patches, ids, labels, images, samples }: Batch): Inputs {
  const list = (values: readonly number[]): Tensor => ({ dtype: "i32", shape: [values.length], data: Int32Array.from(values) });
  return {
    patches: { dtype: "u8", shape: [patches.length / 588, 3, 14, 14], data: patches },
    ids: list(ids),
    labels: list(labels),
    images,
    samples: samples.map(({ tokens, images: before }) => ({ tokens, images: before })),
  };
}

/** Writes what torch/uhd_tiny.py reads: weights, patches, and the tables that our graph's own shape code makes. */
export function writeForTorch(folder: string, { compiled, batch, weights }: TinyStep): string {
  const layouts = batch.images.map(([w, h]) => shapeFunction(file, "layout_of", [w, h]));
  const sizes = layouts.flatMap((l) => listOf(fieldOf(l, "pictures")).map((p) => listOf(fieldOf(p, "patches")).map(Number)));
  const counts = sizes.map(([w = 0, h = 0]) => w * h);
  const parts = listOf(shapeFunction(file, "rows_of", [layouts])).map(listOf);
  const samples = batch.samples.map(({ tokens, images }) => ({ tokens, images }));
  const packed = shapeFunction("graphs/train/batch.uhd", "packed", [samples, parts.map((p) => p.length), batch.ids.length]);
  const [row, target, lengths] = ["row", "target", "lengths"].map((name) => listOf(fieldOf(packed, name)).map(Number));
  if (row === undefined || target === undefined || lengths === undefined) throw new Error("a batch has rows, targets and lengths");
  const asking = target.flatMap((t, i) => (t < batch.ids.length ? [i] : []));
  const positions = "graphs/positions.uhd";
  const [tokenTaps, keyTaps] = [shapeFunction(positions, "token_taps", [sizes, 8]), shapeFunction(positions, "patch_taps", [sizes, 4])];
  const windows = "graphs/spatial-resampler.uhd";
  const samplesOf = shapeFunction(windows, "window_taps", [sizes, 4]);
  const most = Number(fieldOf(samplesOf, "taps"));
  const first = counts.map((_, p) => counts.slice(0, p).reduce((a, b) => a + b, 0));
  const { training } = compiled;
  const width = weights.get("model.embed_tokens.weight")?.shape[1] ?? 0;
  let at = 0;
  const parameters = training.parameters.map(({ name, shape, decay }) => {
    const entry = { name, shape, decay, at };
    at += elementCount(shape);
    return entry;
  });
  const floats = new Float32Array(at);
  for (const p of parameters) floats.set(weights.get(p.name)?.data ?? [], p.at);
  writeFileSync(path.join(folder, "weights.bin"), floats);
  writeFileSync(path.join(folder, "patches.bin"), batch.patches);
  const ints = (values: readonly number[], shape: readonly number[] = [values.length]) => ({ dtype: "int64", shape, values });
  const reals = (values: readonly number[], shape: readonly number[]) => ({ dtype: "float32", shape, values });
  const taps = (value: HostValue, name: string): readonly number[] => listOf(fieldOf(value, name)).flatMap((t) => listOf(t).map(Number));
  const given = {
    weights: "weights.bin",
    patches: "patches.bin",
    parameters,
    sizes,
    lengths,
    windows: sizes.map((size) => listOf(shapeFunction(windows, "window_samples", [size])).reduce<number>((n, x) => n * Number(x), 1)),
    mean: shapeFunction("graphs/preprocess.uhd", "mean_of", ["paper"]),
    deviation: shapeFunction("graphs/preprocess.uhd", "deviation_of", ["paper"]),
    // The configuration of graphs/uhd-tiny.uhd.
    config: { layers: 3, vit_heads: 3, llama_layers: 3, heads: 3, head: 32, resampler_head: 8, theta: 10000, eps: 1e-5 },
    optimiser: { ...training.optimiser, clip: training.clip ?? Infinity },
    tables: {
      // Row 0 is the class embedding, row 1 + t is patch t.
      tokens: ints(counts.flatMap((n, p) => Array.from({ length: n + 1 }, (_, i) => (i === 0 ? 0 : (first[p] ?? 0) + i)))),
      back: ints(counts.flatMap((n, p) => Array.from({ length: n }, (_, i) => (first[p] ?? 0) + p + 1 + i))),
      vit_index: ints(taps(tokenTaps, "index"), [-1, 16]),
      vit_weight: reals(taps(tokenTaps, "weight"), [-1, 16]),
      key_index: ints(taps(keyTaps, "index"), [-1, 16]),
      key_weight: reals(taps(keyTaps, "weight"), [-1, 16]),
      sample_index: ints(taps(samplesOf, "index"), [-1, most]),
      sample_weight: reals(taps(samplesOf, "weight"), [-1, most]),
      fixed: reals(
        listOf(shapeFunction(positions, "sine_cosine", [4, width])).flatMap((r) => listOf(r).map(Number)),
        [-1, width],
      ),
      part: ints(parts.flat().map(Number)),
      ids: ints(batch.ids),
      row: ints(row),
      position: ints(lengths.flatMap((n) => Array.from({ length: n }, (_, i) => i))),
      asking: ints(asking),
      labels: ints(asking.map((i) => batch.labels[target[i] ?? -1] ?? -100)),
    },
  };
  const written = path.join(folder, "batch.json");
  writeFileSync(written, JSON.stringify(given));
  return written;
}

function listOf(value: HostValue): readonly HostValue[] {
  if (!Array.isArray(value)) throw new Error("shape code gave no list");
  return value as readonly HostValue[];
}

function fieldOf(value: HostValue, name: string): HostValue {
  const found = typeof value === "object" && !Array.isArray(value) ? (value as Readonly<Record<string, HostValue>>)[name] : undefined;
  if (found === undefined) throw new Error(`shape code gave nothing called ${name}`);
  return found;
}
