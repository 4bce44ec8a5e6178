// Matrix multiplies and one ViT-L layer on WebGPU, against ONNX Runtime's provider, TensorFlow.js and jax-js, all on the
// adapter that Dawn gives; rows named "no subgroups" hide that feature from ours. Ours and the peers' runs each write x and
// read y back.

import { compileFor } from "../../../compiler/cli/compiling.ts";
import { WebGpuDevice } from "../../../runtime/devices/webgpu/device.ts";
import { Session } from "../../../runtime/session.ts";
import { openJax, openTfjs, type Multiply } from "../gpu-peers.ts";
import { layerModel, matmulModel, type Weights } from "../models.ts";
import type { OnnxGraph } from "../onnx.ts";
import { f32, graphOf, outputOf, randomWeights, type Config } from "../ours.ts";
import { openOnnx } from "../peers.ts";
import { normals } from "../random.ts";
import type { Row } from "../rows.ts";
import { effort, versus, type Context, type Peer } from "../versus.ts";
import type { Case } from "./case.ts";

interface Problem {
  readonly file: string;
  readonly graph: string;
  readonly config: Config;
  /** Of the input x. */
  readonly shape: readonly number[];
  readonly subgroups: boolean;
  readonly peers: (weights: Weights, x: Float32Array) => readonly Peer[];
}

async function onWebGpu(name: string, context: Context, problem: Problem): Promise<readonly Row[]> {
  await using device = await WebGpuDevice.create(problem.subgroups ? {} : { hide: ["subgroups"] });
  const graph = graphOf(problem.file, problem.graph, problem.config);
  const compiled = compileFor(graph, { target: "webgpu", features: device.features });
  const weights = randomWeights(compiled.plan.params);
  await using session = await Session.create(compiled, { device, weights });
  const x = normals(
    "x",
    problem.shape.reduce((n, d) => n * d, 1),
  );
  const run = (): Promise<unknown> => session.run({ x: f32(problem.shape, x) });
  const result = await outputOf(session, { x: f32(problem.shape, x) });
  const rows = await versus(name, context, { name: "ours", run, result }, problem.peers(weights, x), effort(context, 8));
  const subgroups = device.features.subgroups === 0 ? "no subgroups" : `subgroups of ${device.features.subgroups}`;
  return rows.map((row) => ({ ...row, note: [row.note, `${device.description}, ${subgroups}`].filter((t) => t !== undefined).join("; ") }));
}

function onnx(model: OnnxGraph, dims: readonly number[], x: Float32Array, goal: number, tolerance: number): Peer {
  return {
    name: "onnxruntime-node, WebGPU",
    goal,
    tolerance,
    open: async () => {
      const opened = await openOnnx("onnxruntime-node", model, 1, "webgpu");
      const run = (): Promise<Float32Array> => opened.run({ x: { dims, data: x } });
      return { name: `${opened.name}, WebGPU`, run, result: run, [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose]() };
    },
  };
}

function matmul(m: number, k: number, n: number, subgroups: boolean): Case {
  const size = m === k && k === n ? `${m}³` : `${m}×${k}×${n}`;
  const name = `matmul ${size} on WebGPU${subgroups ? "" : ", no subgroups"}`;
  return {
    name,
    threads: [1],
    run: (context) =>
      onWebGpu(name, context, {
        file: "spec/bench/bench.uhd",
        graph: "matmul",
        config: { inner: k, columns: n },
        shape: [m, k],
        subgroups,
        peers: (weights, x) => {
          const b = weights.get("b")?.data ?? new Float32Array();
          const given: Multiply = { m, k, n, x, b };
          const provider = onnx(matmulModel(m, k, n, b), [m, k], x, subgroups ? 2.2 : 1, 1e-5);
          if (!subgroups) return [provider];
          return [
            provider,
            { name: "tfjs-webgpu", goal: 3, tolerance: 1e-5, open: () => openTfjs(given) },
            { name: "jax-js", goal: 3, tolerance: 1e-5, open: () => openJax(given) },
          ];
        },
      }),
  };
}

export const webgpuMatmuls: readonly Case[] = [true, false].flatMap((subgroups) => [
  matmul(1024, 1024, 1024, subgroups),
  matmul(577, 1024, 4096, subgroups),
]);

const tokens = 577;

export const webgpuLayer: Case = {
  name: "ViT-L layer, 577 tokens, on WebGPU",
  threads: [1],
  run: (context) =>
    onWebGpu("ViT-L layer, 577 tokens, on WebGPU", context, {
      file: "graphs/clip-vit.uhd",
      graph: "clip_vit_layer",
      config: {},
      shape: [tokens, 1024],
      subgroups: true,
      // Its provider is 4e-4 from its own CPU provider, which ours agrees with to 2e-6.
      peers: (weights, x) => [onnx(layerModel(tokens, { layers: 1, width: 1024, heads: 16 }, weights), [tokens, 1024], x, 2, 1e-3)],
    }),
};
