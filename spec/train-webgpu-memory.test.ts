// A training step within a memory budget on WebGPU: what the device has given out is what was predicted, and the step goes as
// one without a budget does. train-memory.test.ts says the same of WebAssembly and of a whole model.

import { expect, test } from "vitest";
import { compileTraining, type WebGpuCompiledTraining } from "../compiler/train/index.ts";
import type { RunSizes } from "../compiler/train/budget.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { Trainer } from "../runtime/train/trainer.ts";
import { trainProgram } from "./train-support.ts";
import { gpuDevice } from "./webgpu-support.ts";

// Blocks that are alike have the same kernels: a software driver takes a second to compile one.
const program = trainProgram(`
module Block() {
  param weight: f32[16, 16] ~ normal(0.2)
  forward(x: f32[N, 16]) -> f32[N, 16] { x + tanh(linear(tanh(x), weight)) }
}
graph g(x: f32[N in 1..=100000, 16], wanted: f32[N, 16]) -> loss: f32[] {
  use block[8] = Block()
  var h = x
  repeat i in 0..8 { h = block[i](h) }
  let apart = h - wanted
  mean(apart * apart, axes: [0, 1])
}
train { loss: "loss", trainable: ["**"], optimiser { rate: 0.01 } }
`);

const rows = 20_000;
const sizes: RunSizes = { shapes: { x: [rows, 16], wanted: [rows, 16] } };

test("a training on WebGPU within a budget holds what was predicted, and learns the same", { timeout: 240_000 }, async (context) => {
  await using device = await gpuDevice(context);
  const compiled = (bytes: number): WebGpuCompiledTraining =>
    compileTraining(program, { target: "webgpu", features: device.features, memory: { bytes, sizes: [sizes] } });
  const before = compiled(2 ** 30).recomputation?.before.peak ?? NaN;
  const step = compiled(Math.floor(0.7 * before));
  expect(step.recomputation?.recomputed.length).toBeGreaterThan(0);
  await using trainer = await Trainer.create(step, { device, init: { seed: 1 } });
  await using other = await Trainer.create(compileTraining(program), { threads: 1, init: { seed: 1 } });
  const values = (from: number): Tensor => ({
    dtype: "f32",
    shape: [rows, 16],
    data: Float32Array.from({ length: rows * 16 }, (_, i) => Math.sin(from + 1.7 * i)),
  });
  const inputs = { x: values(0), wanted: values(1) };
  for (let i = 0; i < 2; i++) {
    const [found, wanted] = [await trainer.step(inputs), await other.step(inputs)];
    expect(Math.abs(found.loss / wanted.loss - 1)).toBeLessThan(1e-5);
    expect(Math.abs(found.gradientNorm / wanted.gradientNorm - 1)).toBeLessThan(1e-5);
    const predicted = step.recomputation?.predicted.peak ?? NaN;
    expect(found.memory.weights + found.memory.arena).toBe(predicted);
    expect(predicted).toBeLessThan(0.7 * before);
    // The device's own buffers, for arguments and for reading results, are small.
    expect(Math.abs(device.used / predicted - 1)).toBeLessThan(0.02);
  }
});
