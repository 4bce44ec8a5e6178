// A training step on the device: what it computes against the float64 evaluator, the rate it is given, accumulation,
// clipping, what is not finite, and that a restored trainer goes on bit by bit.

import { describe, expect, test } from "vitest";
import { evalGraph, type ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import { trainingGraph } from "../compiler/train/index.ts";
import { referenceOf } from "../ops/index.ts";
import { InputError, TrainingError, WeightsError } from "../runtime/errors.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { rateFactor } from "../runtime/train/schedule.ts";
import { Trainer } from "../runtime/train/trainer.ts";
import type { StepInputs } from "../runtime/train/types.ts";
import { trainProgram, trainStep } from "./train-support.ts";

const model = `
import { Linear, LayerNorm } from "./layers.uhd"
graph classify(x: f32[N in 1..=64, 6], labels: i32[N]) -> (loss: f32[], best: i32[N]) {
  use norm = LayerNorm(6, 0.00001)
  use hidden = Linear(6, 10)
  use frozen = Linear(10, 10)
  use head = Linear(10, 4)
  let logits = head(frozen(gelu(hidden(norm(x)))))
  (cross_entropy(logits, labels), argmax(logits, axis: 1))
}
`;

const section = (more: string): string => `${model}
train {
  graph: "classify"
  loss: "loss"
  trainable: ["**"]
  frozen: ["frozen.*"]
  optimiser { name: "adamw", rate: 0.01, decay: 0.1, undecayed: ["**.bias", "norm.*"], rates: [("head.*", 0.02)] }
  ${more}
}`;

const data = (n: number, seed: number): Readonly<Record<string, Tensor>> => {
  const at = (i: number): number => Math.fround(Math.sin(1 + 12.9898 * (i + 131 * seed)));
  return {
    x: { dtype: "f32", shape: [n, 6], data: Float32Array.from({ length: 6 * n }, (_, i) => at(i)) },
    labels: {
      dtype: "i32",
      shape: [n],
      data: Int32Array.from({ length: n }, (_, i) => (i % 5 === 4 ? -100 : Math.floor(2 + 2 * at(i + 7)))),
    },
  };
};

const f64 = (t: Tensor): ConcreteTensor => ({ dtype: t.dtype, shape: t.shape, data: Float64Array.from(t.data) });
const number = (x: number): ConcreteTensor => ({ dtype: "f32", shape: [], data: Float64Array.of(x) });

/** The step of the training graph in float64, from what a trainer holds. */
function evaluated(
  text: string,
  tensors: ReadonlyMap<string, Tensor>,
  inputs: Readonly<Record<string, Tensor>>,
  step: number,
  total: number,
) {
  const program = trainProgram(text);
  const source = program.graphs.get("classify");
  if (source === undefined || program.train === undefined) throw new Error("no graph");
  const { graph, recipe } = trainingGraph(source, program.train);
  const states = Object.fromEntries([...tensors].filter(([name]) => name !== "optimiser.step").map(([name, t]) => [name, f64(t)]));
  const frozen = Object.fromEntries(
    graph.nodes.flatMap((n) =>
      n.kind === "param"
        ? [[n.name, { dtype: "f32" as const, shape: n.type.shape.map((d) => Number(d.text)), data: weights(n.name) }]]
        : [],
    ),
  );
  const [b1, b2] = recipe.optimiser.betas;
  return evalGraph(graph, referenceOf, {
    inputs: {
      ...Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, f64(t)])),
      "train.factor": number(rateFactor(recipe.schedule, step - 1, total)),
      "train.correction1": number(1 / (1 - b1 ** step)),
      "train.correction2": number(1 / Math.sqrt(1 - b2 ** step)),
    },
    params: frozen,
    states,
  });
}

const shapes: Readonly<Record<string, readonly number[]>> = {
  "norm.weight": [6],
  "norm.bias": [6],
  "hidden.weight": [10, 6],
  "hidden.bias": [10],
  "frozen.weight": [10, 10],
  "frozen.bias": [10],
  "head.weight": [4, 10],
  "head.bias": [4],
};

function weights(name: string): Float64Array {
  const n = (shapes[name] ?? []).reduce((a, d) => a * d, 1);
  const offset = name.length * 17;
  return Float64Array.from({ length: n }, (_, i) => Math.fround(0.6 * Math.sin(offset + 3.7 * i * i)));
}

const checkpoint: ReadonlyMap<string, Tensor> = new Map(
  Object.entries(shapes).map(([name, shape]) => [name, { dtype: "f32", shape, data: Float32Array.from(weights(name)) }]),
);

async function trainer(text: string, steps?: number): Promise<Trainer> {
  return Trainer.create(trainStep(text), { threads: 1, weights: checkpoint, ...(steps === undefined ? {} : { steps }) });
}

const copy = (tensors: ReadonlyMap<string, Tensor>): Map<string, Tensor> =>
  new Map([...tensors].map(([name, t]) => [name, { ...t, data: t.data.slice() } as Tensor]));

const bytes = (tensors: ReadonlyMap<string, Tensor>): Record<string, string> =>
  Object.fromEntries(
    [...tensors].map(([name, t]) => [name, Buffer.from(t.data.buffer, t.data.byteOffset, t.data.byteLength).toString("hex")]),
  );

describe("a step", () => {
  const text = section('schedule { kind: "cosine", warmup: 0.25 } clip: 0.4');

  test("is the training graph's, in every parameter and moment", async () => {
    await using t = await trainer(text, 8);
    for (let step = 1; step <= 8; step++) {
      const before = copy(await t.tensors());
      const inputs = data(9 + step, step);
      const result = await t.step(inputs);
      const expected = evaluated(text, before, inputs, step, 8);
      expect(result.loss).toBeCloseTo(expected.outputs["loss"]?.data[0] ?? NaN, 5);
      expect(result.gradientNorm).toBeCloseTo(expected.outputs["train.gradient_norm"]?.data[0] ?? NaN, 5);
      expect(result.learningRate).toBeCloseTo(0.01 * rateFactor({ kind: "cosine", warmup: { k: "share", of: 0.25 } }, step - 1, 8), 12);
      expect([...(result.outputs["best"]?.data ?? [])]).toEqual([...(expected.outputs["best"]?.data ?? [])]);
      const after = await t.tensors();
      for (const [name, { data: want }] of Object.entries(expected.states)) {
        const got = after.get(name)?.data ?? [];
        expect(got.length, name).toBe(want.length);
        want.forEach((w, i) =>
          expect(Math.abs((got[i] ?? NaN) - w), `${name}[${i}], step ${step}`).toBeLessThan(2e-6 + 1e-4 * Math.abs(w)),
        );
      }
    }
  });

  test("does not move what is frozen, and keeps its weights in the plan as they were", async () => {
    await using t = await trainer(text, 8);
    const names = [...(await t.tensors()).keys()];
    expect(names.some((n) => n.includes("frozen"))).toBe(false);
    expect(t.session.plan.params.map((p) => p.name)).toEqual(["frozen.weight", "frozen.bias"]);
  });

  test("of one run is that of its parts, weighed alike", async () => {
    const apart = section("accumulate: 3");
    const [whole, parts] = [await trainer(section("")), await trainer(apart)];
    try {
      const runs = [1, 2, 3].map((s) => data(4, s));
      const labelled = runs.map((r): Record<string, Tensor> => ({
        ...r,
        labels: { dtype: "i32", shape: [4], data: Int32Array.of(0, 1, 2, 3) },
      }));
      const joined: Record<string, Tensor> = {
        x: { dtype: "f32", shape: [12, 6], data: Float32Array.from(labelled.flatMap((r) => [...(r["x"]?.data ?? [])])) },
        labels: { dtype: "i32", shape: [12], data: Int32Array.from(labelled.flatMap((r) => [...(r["labels"]?.data ?? [])])) },
      };
      for (let i = 0; i < 2; i++) {
        const [a, b] = [await whole.step(joined), await parts.step(labelled)];
        expect(b.loss).toBeCloseTo(a.loss, 5);
        expect(b.gradientNorm).toBeCloseTo(a.gradientNorm, 5);
      }
      const [a, b] = [await whole.tensors(), await parts.tensors()];
      expect([...b.keys()]).toEqual([...a.keys()]);
      for (const [name, { data: want }] of a) want.forEach((w, i) => expect(b.get(name)?.data[i], name).toBeCloseTo(w, 3));
    } finally {
      await whole.close();
      await parts.close();
    }
  });

  test("whose gradient is not finite changes nothing and says so", async () => {
    await using t = await trainer(section("accumulate: 2"));
    await t.step([data(4, 1), data(5, 2)]);
    const before = bytes(await t.tensors());
    const x: Tensor = { dtype: "f32", shape: [2, 6], data: new Float32Array(12).fill(Infinity) };
    const labels: Tensor = { dtype: "i32", shape: [2], data: Int32Array.of(1, 2) };
    const bad: StepInputs = [data(3, 4), { x, labels }];
    await expect(t.step(bad)).rejects.toThrow(TrainingError);
    expect(bytes(await t.tensors())).toEqual(before);
    // And leaves nothing behind in the next.
    await using u = await trainer(section("accumulate: 2"));
    await u.step([data(4, 1), data(5, 2)]);
    await u.step([data(4, 3)]);
    await t.step([data(4, 3)]);
    expect(bytes(await t.tensors())).toEqual(bytes(await u.tensors()));
  });

  test("after the last is refused, as are steps of too many runs", async () => {
    await using t = await trainer(section("steps: 1"));
    await expect(t.step([data(4, 1), data(4, 2)])).rejects.toThrow(InputError);
    await t.step(data(4, 1));
    await expect(t.step(data(4, 1))).rejects.toThrow(/all 1 steps are done/);
  });

  test("needs the number of steps where the rate depends on it", async () => {
    await expect(trainer(section('schedule { kind: "linear" }'))).rejects.toThrow(/how many steps/);
  });
});

describe("a trainer that is restored", () => {
  test("goes on bit by bit, and refuses what is not its own before it changes anything", async () => {
    const text = section('schedule { kind: "cosine", warmup: 2 } clip: 0.4 steps: 6');
    await using whole = await trainer(text);
    for (let s = 1; s <= 3; s++) await whole.step(data(5, s));
    const kept = copy(await whole.tensors());
    for (let s = 4; s <= 6; s++) await whole.step(data(5, s));
    await using again = await trainer(text);
    await again.step(data(7, 9));
    const before = bytes(await again.tensors());
    const wrong = new Map(kept);
    wrong.delete("optimiser.second.head.bias");
    await expect(again.restore(wrong)).rejects.toThrow(WeightsError);
    wrong.set("optimiser.second.head.bias", { dtype: "f32", shape: [5], data: new Float32Array(5) });
    await expect(again.restore(wrong)).rejects.toThrow(/expected f32\[4\], found f32\[5\]/);
    expect(bytes(await again.tensors())).toEqual(before);
    await again.restore(kept);
    expect(again.stepsDone).toBe(3);
    for (let s = 4; s <= 6; s++) await again.step(data(5, s));
    expect(bytes(await again.tensors())).toEqual(bytes(await whole.tensors()));
  });
});

describe("the rate", () => {
  test.each([
    ["cosine", 0.03, 2181, 0, 0],
    ["cosine", 0.03, 2181, 33, 0.5],
    ["cosine", 0.03, 2181, 66, 1],
    ["cosine", 0.03, 2181, 66 + 2115 / 2, 0.5],
    ["cosine", 0.03, 5198, 156, 1],
    ["cosine", 0.03, 5198, 5198, 0],
    ["linear", 10, 110, 60, 0.5],
    ["constant", 4, 100, 2, 0.5],
    ["constant", 0, 100, 0, 1],
  ] as const)("of %s with warm-up %s of %s steps is, in step %s, %s of the optimiser's", (kind, warmup, total, step, expected) => {
    const w = warmup > 0 && warmup < 1 ? { k: "share" as const, of: warmup } : { k: "steps" as const, count: warmup };
    expect(rateFactor({ kind, warmup: w }, step, total)).toBeCloseTo(expected, 9);
  });
});
