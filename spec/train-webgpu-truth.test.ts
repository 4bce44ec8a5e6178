// The training step of the whole model on WebGPU against PyTorch in float64: the loss and every gradient of the first step,
// then steps of AdamW with schedule, decay and clipping. A software driver needs minutes to compile the kernels of a whole
// step, so it is done where UHD_TRAIN_STEPS says how many steps (50 are all); train-webgpu.test.ts is always done.

import { expect, test } from "vitest";
import { compare, truthFixture } from "./train-truth-support.ts";
import { gpuDevice } from "./webgpu-support.ts";

const steps = Number(process.env.UHD_TRAIN_STEPS ?? 0);

test("the whole model on WebGPU has PyTorch's loss and gradients, and goes the same way", { timeout: 3_600_000 }, async (context) => {
  if (!(steps > 0)) {
    const reason = "UHD_TRAIN_STEPS does not say how many steps";
    console.warn(`training the whole model on WebGPU against PyTorch was not run: ${reason}`);
    context.skip(`not run: ${reason}`);
    return;
  }
  const device = await gpuDevice(context);
  const fixture = truthFixture();
  try {
    const worst = await compare(fixture, fixture.result, { device, steps });
    const done = Math.min(steps, fixture.result.losses.length);
    console.log(`against PyTorch in float64, ${done} steps on ${device.description}, largest relative errors:`, worst);
    expect(worst.loss).toBeLessThan(1e-4);
    expect(worst.norm).toBeLessThan(1e-3);
    if (worst.parameters !== undefined) expect(worst.parameters).toBeLessThan(1e-4);
  } finally {
    await device.close();
  }
});
