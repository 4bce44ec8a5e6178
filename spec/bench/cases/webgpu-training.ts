// A training step of one transformer layer (forward, backward, AdamW) on WebGPU, against jax-js on the same adapter. Losses
// of two steps and gradients are compared first. Our step does more than the peer's: it also gives the gradient's norm,
// and changes nothing where that is not finite.

import { readFileSync } from "node:fs";
import path from "node:path";
import { loadProgram } from "../../../compiler/check/index.ts";
import { renderDiagnostics } from "../../../compiler/diagnostics/index.ts";
import { compileTraining, type WebGpuCompiledTraining } from "../../../compiler/train/index.ts";
import { WebGpuDevice } from "../../../runtime/devices/webgpu/device.ts";
import type { GpuFeatures } from "../../../runtime/devices/webgpu/adapter.ts";
import { Trainer } from "../../../runtime/train/trainer.ts";
import { launches } from "../gpu-peers.ts";
import { openJaxLayer, type LayerProblem } from "../jax-layer.ts";
import { f32, randomWeights } from "../ours.ts";
import { root } from "../place.ts";
import { normals } from "../random.ts";
import { effort, versus, type Peer } from "../versus.ts";
import type { Case } from "./case.ts";

const [tokens, width, heads] = [257, 256, 4];
const name = `training step of a layer, ${tokens} tokens of ${width}, on WebGPU`;
const file = "spec/bench/train-layer.uhd";

/** What the backward pass gives last and what it gives first, a matrix in front of the softmax, and what has no matrix. */
const compared = ["self_attn.q_proj.weight", "self_attn.out_proj.weight", "mlp.fc2.weight", "mlp.fc1.bias", "layer_norm1.weight"];

export const webgpuTraining: Case = {
  name,
  threads: [1],
  run: async (context) => {
    await using device = await WebGpuDevice.create();
    const compiled = compiledFor(device.features);
    const { parameters, optimiser } = compiled.training;
    const weights = randomWeights(parameters);
    const [x, wanted] = [normals("x", tokens * width), normals("wanted", tokens * width)];
    await using trainer = await Trainer.create(compiled, { device, weights });
    const inputs = { x: f32([tokens, width], x), wanted: f32([tokens, width], wanted) };
    const step = async (): Promise<number> => (await trainer.step(inputs)).loss;
    const moment = async (at: string): Promise<Float32Array> =>
      Float32Array.from((await trainer.tensors()).get(`optimiser.first.${at}`)?.data ?? []);
    const found = await outcome(step, moment);
    const own = await launches(step);
    const peer = jaxPeer({ tokens, width, heads, optimiser, weights, x, wanted }, found);
    const rows = await versus(name, context, { name: "ours", run: step, result: comparable(found, found) }, [peer], {
      ...effort(context, 12),
      atLeast: 0,
      warmUp: 0,
    });
    return rows.map((row) => ({
      ...row,
      note: [`ours ${own} kernels a step`, row.note, device.description].filter((t) => t !== undefined).join("; "),
    }));
  },
};

function compiledFor(features: GpuFeatures): WebGpuCompiledTraining {
  const program = loadProgram(path.join(root, file), { readText: (at) => readFileSync(at, "utf8") });
  if (program.diagnostics.some((d) => d.severity === "error"))
    throw new Error(renderDiagnostics(program.diagnostics, program.sources, { color: false }));
  return compileTraining(program, { target: "webgpu", features });
}

interface Outcome {
  /** Of the first two steps. */
  readonly losses: readonly number[];
  /** First moments after one step: (1 - β₁) of the gradient. */
  readonly moments: readonly Float32Array[];
}

async function outcome(step: () => Promise<number>, moment: (name: string) => Promise<Float32Array>): Promise<Outcome> {
  const first = await step();
  const moments: Float32Array[] = [];
  for (const at of compared) moments.push(await moment(`layer.${at}`));
  return { losses: [first, await step()], moments };
}

/** Each moment as a part of our largest element of it. */
function comparable({ losses, moments }: Outcome, ours: Outcome): Float32Array {
  const parts = moments.map((values, i) => {
    let largest = 0;
    for (const value of ours.moments[i] ?? []) largest = Math.max(largest, Math.abs(value));
    return Array.from(values, (value) => value / largest);
  });
  return Float32Array.from([...losses, ...parts.flat()]);
}

function jaxPeer(problem: LayerProblem, ours: Outcome): Peer {
  return {
    name: "jax-js",
    goal: 2,
    // Sums of 257 terms in another order.
    tolerance: 1e-4,
    open: async () => {
      const layer = await openJaxLayer(problem);
      let note = "";
      return {
        name: layer.name,
        run: layer.step,
        result: async () => {
          const result = comparable(await outcome(layer.step, layer.moment), ours);
          note = `theirs ${await launches(layer.step)} kernels a step`;
          return result;
        },
        get note() {
          return note;
        },
        [Symbol.asyncDispose]: () => Promise.resolve(),
      };
    },
  };
}
