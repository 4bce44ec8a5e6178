// Low-rank additions: nothing changes before the first step, only A and B are trained, and their gradients are those of
// the matrix they add to.

import { describe, expect, test } from "vitest";
import { evalGraph, type ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import { TrainingCompileError, trainingGraph } from "../compiler/train/index.ts";
import { referenceOf } from "../ops/index.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { Trainer } from "../runtime/train/trainer.ts";
import { weight } from "./generator.ts";
import { graphOf } from "./graphs-support.ts";
import { trainProgram, trainStep } from "./train-support.ts";

const model = `
import { LinearWithoutBias } from "./layers.uhd"
graph g(x: f32[N in 1..=64, 6], labels: i32[N]) -> loss: f32[] {
  use first = LinearWithoutBias(6, 8)
  use second = LinearWithoutBias(8, 5)
  cross_entropy(second(silu(first(x))), labels)
}
`;
const section = (lora: string): string =>
  `${model}train { loss: "loss", trainable: ["second.weight"], optimiser { rate: 0.01 } lora { ${lora} } }`;
const text = section('rank: 2, alpha: 6, targets: ["**.weight"], except: ["second.*"], rate: 0.05');

const inputs = {
  x: { dtype: "f32", shape: [7, 6], data: weight("x", [7, 6]) },
  labels: { dtype: "i32", shape: [7], data: Int32Array.of(0, 1, 2, 3, 4, -100, 1) },
} as const;
const shapes = { "first.weight": [8, 6], "second.weight": [5, 8] } as const;
const checkpoint: ReadonlyMap<string, Tensor> = new Map(
  Object.entries(shapes).map(([name, shape]) => [name, { dtype: "f32", shape, data: weight(name, shape) }]),
);
const f64 = (t: Tensor): ConcreteTensor => ({ dtype: t.dtype, shape: t.shape, data: Float64Array.from(t.data) });

/** The loss with the first matrix as it is, plus `by` times B·A of a trainer. */
function lossWith(tensors: ReadonlyMap<string, Tensor>, by: number): number {
  const [a, b] = ["A", "B"].map((l) => tensors.get(`first.lora_${l}.weight`)?.data ?? []);
  const first = Float64Array.from(weight("first.weight", [8, 6]), (w, i) => {
    const [o, c] = [Math.floor(i / 6), i % 6];
    return w + by * [0, 1].reduce((sum, r) => sum + (b?.[o * 2 + r] ?? NaN) * (a?.[r * 6 + c] ?? NaN), 0);
  });
  const second = tensors.get("second.weight");
  if (second === undefined) throw new Error("second.weight is trained");
  const graph = graphOf("graphs/lora.uhd", "g", {}, { "graphs/lora.uhd": model });
  const { outputs } = evalGraph(graph, referenceOf, {
    inputs: { x: f64(inputs.x), labels: f64(inputs.labels) },
    params: { "first.weight": { dtype: "f32", shape: [8, 6], data: first }, "second.weight": f64(second) },
  });
  return outputs["loss"]?.data[0] ?? NaN;
}

describe("low-rank additions", () => {
  test("are the parameters that are trained, with what the section names besides; the matrix stays", () => {
    const { training, plan } = trainStep(text);
    expect(training.parameters.map(({ name, shape, added = false, rate }) => ({ name, shape, added, rate }))).toEqual([
      { name: "first.lora_A.weight", shape: [2, 6], added: true, rate: 0.05 },
      { name: "first.lora_B.weight", shape: [8, 2], added: true, rate: 0.05 },
      { name: "second.weight", shape: [5, 8], added: false, rate: 0.01 },
    ]);
    expect(plan.params.map((p) => p.name)).toEqual(["first.weight"]);
  });

  test("change nothing before the first step, and each step's loss is that of W + alpha/rank · B·A", async () => {
    await using trainer = await Trainer.create(trainStep(text), { threads: 1, weights: checkpoint, init: { seed: 4 } });
    const start = await trainer.tensors();
    expect([...(start.get("first.lora_B.weight")?.data ?? [])].every((x) => x === 0)).toBe(true);
    expect([...(start.get("first.lora_A.weight")?.data ?? [])].some((x) => x !== 0)).toBe(true);
    let before = lossWith(start, 0);
    for (let i = 0; i < 4; i++) {
      const { loss } = await trainer.step(inputs);
      expect(loss).toBeCloseTo(before, 5);
      before = lossWith(await trainer.tensors(), 3);
    }
    expect(before).toBeLessThan(lossWith(start, 0));
  });

  test("of a matrix that something else reads are refused", () => {
    const program = trainProgram(
      `graph g(x: f32[N in 1..=64, 6], labels: i32[N]) -> loss: f32[] {
  use m = M()
  cross_entropy(m(x), labels)
}
module M() {
  param weight: f32[6, 6]
  forward(x: f32[N, 6]) -> f32[N, 6] { x @ weight }
}
train { loss: "loss", trainable: ["**"], optimiser { rate: 0.01 } lora { rank: 2, targets: ["m.weight"] } }`,
    );
    const graph = program.graphs.get("g");
    const { train } = program;
    if (graph === undefined || train === undefined) throw new Error(program.diagnostics[0]?.message);
    expect(() => trainingGraph(graph, train)).toThrow(TrainingCompileError);
    expect(() => trainingGraph(graph, train)).toThrow(/m\.weight is read by matmul at /);
  });
});
