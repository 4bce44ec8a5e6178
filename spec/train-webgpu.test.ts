// A training step on WebGPU: a small model with everything a train section may ask for goes the same way as on WebAssembly,
// a step whose gradient is not finite changes nothing, and a trainer that is restored goes on bit by bit. The whole model
// against PyTorch is train-webgpu-truth.test.ts.

import { afterAll, describe, expect, test, type TestContext } from "vitest";
import { compileTraining } from "../compiler/train/index.ts";
import { TrainingError } from "../runtime/errors.ts";
import { Trainer } from "../runtime/train/trainer.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { systemGpu } from "./conformance/devices.ts";
import { trainProgram } from "./train-support.ts";

const program = trainProgram(`
graph fit(x: f32[N in 1..=64, 6], ids: i32[N], labels: i32[N]) -> loss: f32[] {
  use model = Model() at "model"
  cross_entropy(model(x, ids), labels)
}

module Model() {
  param rows: f32[5, 8] at "rows.weight" ~ normal(0.5)
  param first: f32[8, 6] at "first.weight" ~ normal(0.4)
  param frozen: f32[8, 8] at "frozen.weight" ~ normal(0.4)
  param head: f32[4, 8] at "head.weight" ~ normal(0.4)
  forward(x: f32[N, 6], ids: i32[N]) -> f32[N, 4] {
    let h = gelu(linear(x, first) + gather(rows, ids))
    linear(softmax(linear(h, frozen), axis: 1) + h, head)
  }
}

train {
  graph: "fit"
  loss: "loss"
  trainable: ["**"]
  frozen: ["model.frozen.*"]
  clip: 0.05
  accumulate: 2
  steps: 8
  schedule { kind: "cosine", warmup: 0.2 }
  optimiser { name: "adamw", rate: 0.02, decay: 0.1, undecayed: ["model.rows.*"], rates: [("model.head.*", 0.04)] }
}`);

const data = (n: number, seed: number): Readonly<Record<string, Tensor>> => {
  const number = (i: number): number => Math.fround(Math.sin(1 + 12.9898 * (i + 131 * seed)));
  const list = (of: (i: number) => number): Tensor => ({ dtype: "i32", shape: [n], data: Int32Array.from({ length: n }, (_, i) => of(i)) });
  return {
    x: { dtype: "f32", shape: [n, 6], data: Float32Array.from({ length: 6 * n }, (_, i) => number(i)) },
    ids: list((i) => (7 * i + seed) % 4),
    labels: list((i) => (i % 5 === 4 ? -100 : (3 * i + seed) % 4)),
  };
};

const gpu = await systemGpu();
afterAll(async () => {
  if (typeof gpu !== "string") await gpu.close();
}, 60_000);

async function onGpu(context: TestContext): Promise<Trainer> {
  if (typeof gpu === "string") context.skip(`not run: ${gpu}`);
  // For the type: skip does not return.
  if (typeof gpu === "string") throw new Error(gpu);
  const step = compileTraining(program, { target: "webgpu", features: gpu.features });
  expect(step.plainLoops).toEqual([]);
  return Trainer.create(step, { device: gpu, init: { seed: 3 } });
}

describe("a training on WebGPU", { timeout: 240_000 }, () => {
  test("goes the same way as on WebAssembly, and leaves the same parameters and moments", async (context) => {
    await using trainer = await onGpu(context);
    await using other = await Trainer.create(compileTraining(program), { threads: 1, init: { seed: 3 } });
    for (let step = 0; step < 4; step++) {
      const runs = [data(9, 2 * step), data(40, 2 * step + 1)].slice(0, step === 3 ? 1 : 2);
      const [found, wanted] = [await trainer.step(runs), await other.step(runs)];
      expect(Math.abs(found.loss / wanted.loss - 1)).toBeLessThan(1e-5);
      expect(Math.abs(found.gradientNorm / wanted.gradientNorm - 1)).toBeLessThan(1e-5);
      expect(found.learningRate).toBe(wanted.learningRate);
    }
    const [found, wanted] = [await trainer.tensors(), await other.tensors()];
    expect([...found.keys()]).toEqual([...wanted.keys()]);
    for (const [name, tensor] of wanted) {
      const values = Float64Array.from(tensor.data);
      const largest = values.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
      for (const [i, x] of values.entries())
        expect(Math.abs((found.get(name)?.data[i] ?? NaN) - x), `${name}[${i}]`).toBeLessThanOrEqual(1e-4 * largest);
    }
  });

  test("changes nothing where a gradient is not finite, and goes on bit by bit from what it was", async (context) => {
    await using trainer = await onGpu(context);
    await trainer.step(data(20, 1));
    const before = await trainer.tensors();
    const bad = data(20, 2);
    bad["x"]?.data.set([Infinity], 5);
    await expect(trainer.step(bad)).rejects.toThrow(TrainingError);
    expect(await trainer.tensors()).toEqual(before);
    await trainer.step(data(20, 3));
    const after = await trainer.tensors();
    await trainer.step(data(20, 4));
    await trainer.restore(before);
    await trainer.step(data(20, 3));
    expect(await trainer.tensors()).toEqual(after);
  });

  test("adds up the squares of a large gradient in many workgroups", async (context) => {
    const wide = trainProgram(`
graph fit(x: f32[N in 1..=64, 64]) -> loss: f32[] {
  use model = Model() at "model"
  let y = model(x)
  mean(y * y, axes: [0, 1])
}
module Model() {
  param weight: f32[96, 64] ~ normal(0.4)
  forward(x: f32[N, 64]) -> f32[N, 96] { linear(x, weight) }
}
train { loss: "loss", trainable: ["**"], optimiser { rate: 0.01 } }`);
    const compiled = compileTraining(wide, { target: "webgpu", features: { subgroups: 0, f16: false } });
    const alone = compiled.plan.steps.flatMap((s) => (s.k === "dispatch" && s.extents.length === 0 ? [Number(s.flops)] : []));
    // Two for each row of the gradient, instead of two for each element.
    expect(Math.max(...alone.filter((n) => !Number.isNaN(n)))).toBeLessThan(4 * 96);
    if (typeof gpu === "string") return context.skip(`not run: ${gpu}`);
    const step = compileTraining(wide, { target: "webgpu", features: gpu.features });
    await using trainer = await Trainer.create(step, { device: gpu, init: { seed: 3 } });
    await using other = await Trainer.create(compileTraining(wide), { threads: 1, init: { seed: 3 } });
    const x: Tensor = { dtype: "f32", shape: [20, 64], data: Float32Array.from({ length: 1280 }, (_, i) => Math.sin(1.3 * i)) };
    const [found, wanted] = [await trainer.step({ x }), await other.step({ x })];
    expect(Math.abs(found.gradientNorm / wanted.gradientNorm - 1)).toBeLessThan(1e-5);
  });
});
