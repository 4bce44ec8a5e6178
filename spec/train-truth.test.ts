// Training against PyTorch in float64: slices, encoder, resampler, schema and language model of two layers each, a packed
// batch of samples with and without images. The loss and every gradient of the first step, then fifty steps of AdamW with
// schedule, decay and clipping (spec/fixtures/train-tiny.json, written by spec/oracle/train_torch.py); and, where UHD_PYTHON
// names a Python with PyTorch, random batches live.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { compileTraining, type CompiledTraining } from "../compiler/train/index.ts";
import { Session } from "../runtime/session.ts";
import type { Inputs } from "../runtime/inputs.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { Trainer } from "../runtime/train/trainer.ts";
import { image, weight } from "./generator.ts";
import { decodeF32 } from "./graphs-support.ts";
import { run, trainProgram, withoutTorch } from "./train-support.ts";

interface Batch {
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

interface Result {
  readonly losses: readonly number[];
  readonly norms: readonly number[];
  readonly gradients: Readonly<Record<string, Part>>;
  readonly parameters: Readonly<Record<string, Part>>;
}

interface Config {
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

const fixture = JSON.parse(readFileSync(new URL("fixtures/train-tiny.json", import.meta.url), "utf8")) as Config & {
  readonly result: Result;
};

/** finetune.uhd with everything trained and the oracle's optimiser. */
function stepOf({ model, policy, optimiser: o }: Config): {
  readonly step: CompiledTraining;
  readonly pictures: ReturnType<typeof compileGraph>;
} {
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
  return { step: compileTraining(program), pictures: compileGraph(cut) };
}

/** The inputs of each batch: its images cut into patches by the file's own graph. */
async function inputsOf(pictures: ReturnType<typeof compileGraph>, batches: readonly Batch[]): Promise<readonly Inputs[]> {
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

function weightsOf(step: CompiledTraining): ReadonlyMap<string, Tensor> {
  return new Map(step.training.parameters.map(({ name, shape }) => [name, { dtype: "f32", shape, data: weight(name, shape) }]));
}

/** The largest difference of the elements there are, relative to the largest element, given the norm of the whole. */
function difference(found: ArrayLike<number>, part: Part, stride: number): number {
  const want = decodeF32(part.values);
  const size = Math.max(part.norm / Math.sqrt(found.length), ...want.map(Math.abs));
  return want.reduce((worst, w, i) => Math.max(worst, Math.abs((found[i * stride] ?? NaN) - w)), 0) / size;
}

const threads = 1;

/** Runs all steps. Gradients are read off the first moments: in the first step, m = (1 - β₁)·clip·g. */
async function compare(
  config: Config,
  result: Result,
): Promise<{ readonly gradients: number; readonly loss: number; readonly norm: number; readonly parameters: number }> {
  const { step, pictures } = stepOf(config);
  expect(step.plainLoops).toEqual([]);
  expect(step.training.parameters.map((p) => p.name).toSorted()).toEqual(Object.keys(result.gradients));
  const inputs = await inputsOf(pictures, config.batches);
  await using trainer = await Trainer.create(step, { threads, weights: weightsOf(step) });
  let [gradients, loss, norm, parameters] = [0, 0, 0, 0];
  for (const [i, want] of result.losses.entries()) {
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
  const tensors = await trainer.tensors();
  for (const [name, part] of Object.entries(result.parameters)) {
    if ((result.gradients[name]?.norm ?? 0) < 1e-12) continue;
    parameters = Math.max(parameters, difference(tensors.get(name)?.data ?? [], part, config.stride));
  }
  return { gradients, loss, norm, parameters };
}

describe("the whole model, two layers each", () => {
  test("has PyTorch's loss and gradients, and goes the same way for fifty steps", async () => {
    const worst = await compare(fixture, fixture.result);
    console.log("against PyTorch in float64, largest relative errors:", worst);
    expect(worst.loss).toBeLessThan(1e-4);
    expect(worst.norm).toBeLessThan(1e-3);
    expect(worst.parameters).toBeLessThan(1e-4);
  }, 120_000);
});

const python = process.env.UHD_PYTHON;

describe("on random batches", () => {
  let reason: string | undefined;
  beforeAll(async () => {
    reason = await withoutTorch(python);
  });

  test("PyTorch, live, agrees", async (context) => {
    if (reason !== undefined || python === undefined) {
      console.warn(`training against PyTorch was not run live: ${reason}`);
      context.skip(`not run: ${reason}`);
      return;
    }
    const seed = Math.floor(Math.random() * 2 ** 31);
    let state = seed;
    const below = (n: number): number => (state = (Math.imul(state, 1103515245) + 12345) >>> 1) % n;
    const batches = Array.from({ length: 2 }, (): Batch => {
      const images: [number, number][] = [];
      const samples = Array.from({ length: 1 + below(3) }, (_s, n) => {
        const tokens = 2 + below(8);
        const places = Array.from({ length: n === 0 ? 1 : below(2) }, () => below(tokens));
        // The first one is cut, so that every parameter takes part.
        for (const _ of places) images.push(n === 0 ? [370 + below(90), 330 + below(60)] : [20 + below(300), 20 + below(300)]);
        return { tokens, images: places };
      });
      const ids = samples.flatMap((s) => Array.from({ length: s.tokens }, () => below(Number(fixture.model["vocabulary"]))));
      return { images, samples, ids, labels: ids.map((id, i) => (i > 0 && below(4) === 0 ? -100 : id)) };
    });
    const config: Config = { ...fixture, optimiser: { ...fixture.optimiser, warmup: 1, steps: 4 }, stride: 1, batches };
    const folder = mkdtempSync(join(tmpdir(), "uhd-train-"));
    try {
      const [given, written] = [join(folder, "config.json"), join(folder, "result.json")];
      writeFileSync(given, JSON.stringify(config));
      await run(python, [fileURLToPath(new URL("oracle/train_torch.py", import.meta.url)), "live", given, written]);
      const worst = await compare(config, JSON.parse(readFileSync(written, "utf8")) as Result);
      console.log(`live, seed ${seed}:`, worst);
      expect(worst.loss).toBeLessThan(1e-4);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }, 300_000);
});
