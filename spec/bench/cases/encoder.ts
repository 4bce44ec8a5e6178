// Matrix multiplies and one ViT-L layer, against both builds of ONNX Runtime.

import { layerModel, matmulModel, type Weights } from "../models.ts";
import type { OnnxGraph } from "../onnx.ts";
import { compileBench, f32, openSession, outputOf, randomWeights, variant, type Config } from "../ours.ts";
import { onnxPeers, openOnnx, type PeerName } from "../peers.ts";
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
  readonly model: (weights: Weights) => OnnxGraph;
  readonly goal: (peer: PeerName, relaxed: boolean, threads: number) => number;
  readonly tolerance: number;
}

/** A graph with one input x and the same as an ONNX model, on the same weights. */
async function onePeerEach(name: string, context: Context, problem: Problem): Promise<readonly Row[]> {
  const compiled = compileBench(problem.file, problem.graph, problem.config);
  const weights = randomWeights(compiled.plan.params);
  await using session = await openSession(compiled, context.threads, weights);
  const x = normals(
    "x",
    problem.shape.reduce((n, d) => n * d, 1),
  );
  const run = (): Promise<unknown> => session.run({ x: f32(problem.shape, x) });
  const simd = variant();
  const model = problem.model(weights);
  const peers = onnxPeers.map((peer): Peer => ({
    name: peer,
    goal: problem.goal(peer, simd === "relaxed", context.threads),
    tolerance: problem.tolerance,
    open: async () => {
      const opened = await openOnnx(peer, model, context.threads);
      const again = (): Promise<Float32Array> => opened.run({ x: { dims: problem.shape, data: x } });
      return { name: opened.name, run: again, result: again, [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose]() };
    },
  }));
  const result = await outputOf(session, { x: f32(problem.shape, x) });
  return await versus(name, context, { name: "ours", run, result, variant: simd }, peers, effort(context, 6));
}

function matmul(m: number, k: number, n: number): Case {
  const name = m === k && k === n ? `matmul ${m}³` : `matmul ${m}×${k}×${n}`;
  return {
    name,
    threads: [1, 2],
    run: (context) =>
      onePeerEach(name, context, {
        file: "spec/bench/bench.uhd",
        graph: "matmul",
        config: { inner: k, columns: n },
        shape: [m, k],
        model: (weights) => matmulModel(m, k, n, weights.get("b")?.data ?? new Float32Array()),
        goal: (peer, relaxed, threads) => {
          if (peer === "onnxruntime-web") return threads === 1 || relaxed ? 2 : 1.5;
          return relaxed ? 0.65 : 0.55;
        },
        // Sums of up to 4096 products in another order.
        tolerance: 1e-5,
      }),
  };
}

export const matmuls: readonly Case[] = [matmul(1024, 1024, 1024), matmul(577, 1024, 4096), matmul(577, 4096, 1024)];

const tokens = 577;

export const layer: Case = {
  name: "ViT-L layer, 577 tokens",
  threads: [2],
  run: (context) =>
    onePeerEach("ViT-L layer, 577 tokens", context, {
      file: "graphs/clip-vit.uhd",
      graph: "clip_vit_layer",
      config: {},
      shape: [tokens, 1024],
      model: (weights) => layerModel(tokens, { layers: 1, width: 1024, heads: 16 }, weights),
      goal: (peer) => (peer === "onnxruntime-web" ? 1.9 : 0.5),
      tolerance: 1e-4,
    }),
};
