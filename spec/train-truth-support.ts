// The whole model, two layers each, against what spec/oracle/train_torch.py found: the compiled step on any device, its
// batches, and the largest differences from PyTorch's losses, gradients and parameters. Holds no expectations but that
// gradients agree.

import { readFileSync } from "node:fs";
import { expect } from "vitest";
import { compileGraph, type Compiled } from "../compiler/compile.ts";
import { compileTraining } from "../compiler/train/index.ts";
import type { Device } from "../runtime/device.ts";
import { WebGpuDevice } from "../runtime/devices/webgpu/device.ts";
import type { Inputs } from "../runtime/inputs.ts";
import { Session } from "../runtime/session.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { Trainer } from "../runtime/train/trainer.ts";
import type { TrainingArtefact } from "../runtime/train/types.ts";
import { image, weight } from "./generator.ts";
import { decodeF32 } from "./graphs-support.ts";
import { trainProgram } from "./train-support.ts";

export interface Batch {
  readonly images: readonly (readonly [number, number])[];
  readonly samples: readonly { readonly tokens: number; readonly images: readonly number[] }[];
  readonly ids: readonly number[];
  readonly labels: readonly number[];
}

interface Part {
  readonly shape: readonly number[];
  readonly norm: number;
  /** Every `stride`-th element, float32, base64. */
  readonly values: string;
}

export interface Result {
  readonly losses: readonly number[];
  readonly norms: readonly number[];
  readonly gradients: Readonly<Record<string, Part>>;
  readonly parameters: Readonly<Record<string, Part>>;
}

export interface Config {
  readonly model: Readonly<Record<string, number | boolean>>;
  readonly policy: string;
  readonly optimiser: {
    readonly rate: number;
    readonly betas: readonly [number, number];
    readonly eps: number;
    readonly decay: number;
    readonly clip: number;
    readonly warmup: number;
    readonly steps: number;
  };
  readonly stride: number;
  /** Every how many steps the first batch comes; the second one is in the others. */
  readonly every: number;
  readonly batches: readonly Batch[];
}

export function truthFixture(): Config & { readonly result: Result } {
  return JSON.parse(readFileSync(new URL("fixtures/train-tiny.json", import.meta.url), "utf8")) as Config & { readonly result: Result };
}

interface Step {
  readonly step: TrainingArtefact & { readonly plainLoops: readonly string[] };
  readonly pictures: Compiled;
}

/** finetune.uhd with everything trained and the oracle's optimiser, for a device; for WebAssembly where there is none. */
function stepOf({ model, policy, optimiser: o }: Config, device: Device | undefined): Step {
  const file = readFileSync(new URL("../graphs/train/finetune.uhd", import.meta.url), "utf8");
  const text = `${file.slice(0, file.indexOf("train {"))}
train {
  graph: "finetune", loss: "loss", trainable: ["**"], clip: ${o.clip}, steps: ${o.steps}
  optimiser { rate: ${o.rate}, betas: (${o.betas.join(", ")}), eps: ${o.eps}, decay: ${o.decay}, undecayed: ["**bias", "**norm**", "**layrnorm**", "**.ln_**"] }
  schedule { kind: "cosine", warmup: ${o.warmup} }
}`;
  const config: Record<string, string> = { policy, embedding_table: "false" };
  for (const [name, value] of Object.entries(model)) config[name === "side" ? "resampler_side" : name] = String(value);
  const program = trainProgram(text, config, "graphs/train/test.uhd");
  const [first] = program.diagnostics;
  const cut = program.graphs.get("pictures");
  if (first !== undefined || cut === undefined) throw new Error(first?.message ?? "no graph pictures");
  const step =
    device instanceof WebGpuDevice ? compileTraining(program, { target: "webgpu", features: device.features }) : compileTraining(program);
  return { step, pictures: compileGraph(cut) };
}

/** The inputs of each batch: its images cut into patches by the file's own graph, on WebAssembly. */
async function inputsOf(pictures: Compiled, batches: readonly Batch[]): Promise<readonly Inputs[]> {
  const session = await Session.create(pictures, { threads: 1 });
  try {
    const all: Inputs[] = [];
    for (const b of batches) {
      const parts: Uint8Array[] = [];
      for (const [w, h] of b.images) {
        const { outputs } = await session.run({ image: { dtype: "u8", shape: [h, w, 3], data: image(w, h) } });
        parts.push(Uint8Array.from(outputs["patches"]?.data ?? []));
      }
      const data = Uint8Array.from(Buffer.concat(parts));
      const list = (values: readonly number[]): Tensor => ({ dtype: "i32", shape: [values.length], data: Int32Array.from(values) });
      const patches: Tensor = { dtype: "u8", shape: [data.length / 588, 3, 14, 14], data };
      all.push({ patches, ids: list(b.ids), labels: list(b.labels), images: b.images, samples: b.samples });
    }
    return all;
  } finally {
    await session.close();
  }
}

function weightsOf(step: TrainingArtefact): ReadonlyMap<string, Tensor> {
  return new Map(step.training.parameters.map(({ name, shape }) => [name, { dtype: "f32", shape, data: weight(name, shape) }]));
}

/** The largest difference of the elements there are, relative to the largest element, given the norm of the whole. */
function difference(found: ArrayLike<number>, part: Part, stride: number): number {
  const want = decodeF32(part.values);
  const size = Math.max(part.norm / Math.sqrt(found.length), ...want.map(Math.abs));
  return want.reduce((worst, w, i) => Math.max(worst, Math.abs((found[i * stride] ?? NaN) - w)), 0) / size;
}

export interface Differences {
  readonly gradients: number;
  readonly loss: number;
  readonly norm: number;
  /** Undefined where not all steps were done. */
  readonly parameters: number | undefined;
}

export interface CompareOptions {
  /** Default: WebAssembly on one thread. */
  readonly device?: Device | undefined;
  /** Default: all of the result's. */
  readonly steps?: number | undefined;
}

/** Runs the steps. Gradients are read off the first moments: in the first step, m = (1 - β₁)·clip·g. */
export async function compare(config: Config, result: Result, { device, steps }: CompareOptions = {}): Promise<Differences> {
  const { step, pictures } = stepOf(config, device);
  expect(step.plainLoops).toEqual([]);
  expect(step.training.parameters.map((p) => p.name).toSorted()).toEqual(Object.keys(result.gradients));
  const inputs = await inputsOf(pictures, config.batches);
  await using trainer = await Trainer.create(step, { device, threads: 1, weights: weightsOf(step) });
  let [gradients, loss, norm] = [0, 0, 0];
  const wanted = result.losses.slice(0, steps);
  for (const [i, want] of wanted.entries()) {
    const given = inputs[i % config.every === 0 ? 0 : 1];
    if (given === undefined) throw new Error("no batch");
    const found = await trainer.step(given);
    loss = Math.max(loss, Math.abs(found.loss / want - 1));
    norm = Math.max(norm, Math.abs(found.gradientNorm / (result.norms[i] ?? NaN) - 1));
    if (i > 0) continue;
    const tensors = await trainer.tensors();
    const scale = (1 - config.optimiser.betas[0]) * Math.min(1, config.optimiser.clip / (found.gradientNorm + 1e-6));
    for (const [name, part] of Object.entries(result.gradients)) {
      const own = Float64Array.from(tensors.get(`optimiser.first.${name}`)?.data ?? [], (m) => m / scale);
      expect(own.length, name).toBe(part.shape.reduce((a, b) => a * b, 1));
      // A key's bias adds the same to every score of a query, which softmax takes away: its gradient is 0 but for rounding.
      const error = part.norm < 1e-12 ? Math.max(...own.map(Math.abs)) : difference(own, part, config.stride);
      expect(error, name).toBeLessThan(1e-4);
      gradients = Math.max(gradients, error);
    }
  }
  if (wanted.length < result.losses.length) return { gradients, loss, norm, parameters: undefined };
  let parameters = 0;
  const tensors = await trainer.tensors();
  for (const [name, part] of Object.entries(result.parameters)) {
    if ((result.gradients[name]?.norm ?? 0) < 1e-12) continue;
    parameters = Math.max(parameters, difference(tensors.get(name)?.data ?? [], part, config.stride));
  }
  return { gradients, loss, norm, parameters };
}
