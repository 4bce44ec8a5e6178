// The repository's graphs on WebGPU, within its default limits: small models against PyTorch in float64, with an adapter's
// features and without, a language model against the float64 evaluator, and one picture through the encoder at full size.

import { afterAll, describe, expect, test, type TestContext } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import type { Graph } from "../compiler/ir/graph/types.ts";
import type { WebGpuDevice } from "../runtime/devices/webgpu/device.ts";
import { Session } from "../runtime/session.ts";
import type { Checkpoint } from "../runtime/weights/checkpoint.ts";
import { systemGpu } from "./conformance/devices.ts";
import { image } from "./generator.ts";
import {
  agreement,
  decodeF32,
  f32Tensor,
  fullFixture,
  generatedParams,
  generatedWeights,
  graphOf,
  openRunner,
  tinyFixture,
} from "./graphs-support.ts";
import { toRuntime } from "./conformance/tensors.ts";

const found = await systemGpu();
afterAll(async () => {
  if (typeof found !== "string") await found.close();
});

function gpu(context: TestContext): WebGpuDevice {
  if (typeof found === "string") context.skip(`not run: ${found}`);
  // For the type: skip does not return.
  if (typeof found === "string") throw new Error(found);
  return found;
}

/** Which of the compiled variants runs. */
const paths = ["all features of the adapter", "no features"] as const;

function openOn(device: WebGpuDevice, graph: Graph, weights: Checkpoint, path: (typeof paths)[number]): Promise<Session> {
  const { plan, wgsl } = compileGraph(graph, { target: "webgpu", features: device.features });
  return Session.create({ plan, wgsl: path === "no features" ? wgsl.slice(-1) : wgsl }, { device, weights });
}

const tiny = tinyFixture();
const full = fullFixture();

const modelOf = (policy: "paper" | "v1", side: number, model: Readonly<Record<string, number>>): Graph =>
  policy === "v1"
    ? graphOf("graphs/llava-uhd-v1.uhd", "llava_uhd_v1", { ...model, spatial_side: side })
    : graphOf("graphs/llava-uhd.uhd", "llava_uhd", { ...model, resampler_side: side });

// Each on one path: a software driver takes a minute of one core for the kernels of a model.
test.for([
  ["paper", "all features of the adapter"],
  ["v1", "no features"],
] as const)("the small %s model with %s gives PyTorch's visual sequences", { timeout: 300_000 }, async ([version, path], context) => {
  const device = gpu(context);
  const cases = tiny.cases.filter(({ policy }) => policy === version);
  const graph = modelOf(version, cases[0]?.side ?? 0, tiny.model);
  const session = await openOn(device, graph, generatedWeights(graph), path);
  try {
    for (const { size, shape, visual } of cases) {
      const [w, h] = size;
      const { outputs } = await session.run({ image: { dtype: "u8", shape: [h, w, 3], data: image(w, h) } });
      expect(outputs["visual"]?.shape).toEqual(shape);
      expect(agreement(outputs["visual"]?.data ?? [], decodeF32(visual)).error, size.join("×")).toBeLessThan(2e-5);
    }
  } finally {
    await session.close();
  }
});

describe.each(paths)("with %s", (path) => {
  test("a language model reads a prompt and goes on token by token as the float64 evaluator does", async (context) => {
    const device = gpu(context);
    const config = { width: 32, llama_layers: 2, heads: 4, kv_heads: 2, head_width: 8, ffn: 48, vocabulary: 40, context: 16 };
    const graph = graphOf("graphs/llama.uhd", "llama", config);
    const params = generatedParams(graph);
    const session = await openOn(device, graph, generatedWeights(graph), path);
    const runner = await openRunner(graph, params, "reference");
    try {
      const prompts = [[3, 7, 11, 2, 5], [9], [1], [30]];
      let past = 0;
      for (const ids of prompts) {
        const rows = { dtype: "i32", shape: [ids.length] } as const;
        const given = f32Tensor([0, 32], () => 0);
        const { outputs } = await session.run({ rows: { ...rows, data: Int32Array.from(ids) }, given: toRuntime(given), past });
        const expected = await runner.run({ rows: { ...rows, data: Float64Array.from(ids) }, given }, { past });
        expect(agreement(outputs["logits"]?.data ?? [], expected["logits"]?.data ?? []).error).toBeLessThan(2e-5);
        past += ids.length;
      }
    } finally {
      await session.close();
      await runner[Symbol.asyncDispose]();
    }
  }, 300_000);
});

test("one picture through the encoder and the resampler at full width and depth gives PyTorch's values", async (context) => {
  const device = gpu(context);
  const [picture] = full.cases.filter(({ policy }) => policy === "v1");
  if (picture === undefined) throw new Error("the fixture has no picture of v1");
  const [w, h] = picture.size;
  const graph = modelOf("v1", picture.side, full.model);
  const session = await openOn(device, graph, generatedWeights(graph), "all features of the adapter");
  try {
    const { outputs, milliseconds } = await session.run({ image: { dtype: "u8", shape: [h, w, 3], data: image(w, h) } });
    expect(outputs["visual"]?.shape).toEqual(picture.shape);
    const sampled = Float64Array.from(outputs["visual"]?.data ?? []).filter((_, i) => i % full.stride === 0);
    const { error, cosine } = agreement(sampled, decodeF32(picture.samples));
    console.log(`v1 ${w}×${h} on ${device.description}: error at most ${error.toExponential(1)}, ${(milliseconds / 1000).toFixed(1)} s`);
    expect(error).toBeLessThan(1e-3);
    expect(cosine).toBeGreaterThanOrEqual(0.99999);
  } finally {
    await session.close();
  }
}, 600_000);
