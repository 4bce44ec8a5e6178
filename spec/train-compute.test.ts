// Mixed precision: products of f16 and bf16 in a training step against the float64 evaluator, the scale of the loss as it
// grows and shrinks, and that it is part of what a checkpoint restores.

import { afterAll, describe, expect, test } from "vitest";
import { evalGraph, type ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import { compileTraining, trainingGraph } from "../compiler/train/index.ts";
import { referenceOf } from "../ops/index.ts";
import { TrainingError, WeightsError } from "../runtime/errors.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { Trainer } from "../runtime/train/trainer.ts";
import { systemGpu } from "./conformance/devices.ts";
import { trainProgram, trainStep } from "./train-support.ts";

const gpu = await systemGpu();
afterAll(async () => {
  if (typeof gpu !== "string") await gpu.close();
}, 60_000);

/** `times` is what the loss is multiplied by in the graph itself. */
const model = (train: string, times = "1.0"): string => `
import { Linear, LayerNorm } from "./layers.uhd"
graph classify(x: f32[N in 1..=64, 24], labels: i32[N]) -> (loss: f32[], scores: f32[N, N]) {
  use norm = LayerNorm(24, 0.00001)
  use hidden = Linear(24, 40)
  use head = Linear(40, 5)
  let h = gelu(hidden(norm(x)))
  (cross_entropy(head(h), labels) * ${times}, h @ transpose(h, [1, 0]))
}
train {
  graph: "classify", loss: "loss", trainable: ["**"]
  optimiser { rate: 0.01, decay: 0.1, betas: (0.9, 0.95) }
  ${train}
}`;

const wave = (length: number, seed: number): Float32Array =>
  Float32Array.from({ length }, (_, i) => Math.sin(1 + 12.9898 * (i + 131 * seed) + 0.37 * i * i));

const data = (n: number, seed: number): Readonly<Record<string, Tensor>> => ({
  x: { dtype: "f32", shape: [n, 24], data: wave(24 * n, seed) },
  labels: { dtype: "i32", shape: [n], data: Int32Array.from({ length: n }, (_, i) => (3 * i + seed) % 5) },
});

const shapes = {
  "norm.weight": [24],
  "norm.bias": [24],
  "hidden.weight": [40, 24],
  "hidden.bias": [40],
  "head.weight": [5, 40],
  "head.bias": [5],
};
const checkpoint: ReadonlyMap<string, Tensor> = new Map(
  Object.entries(shapes).map(([name, shape], k) => [
    name,
    {
      dtype: "f32",
      shape,
      data: wave(
        shape.reduce((a, b) => a * b, 1),
        7 + k,
      ).map((x) => x * 0.5),
    },
  ]),
);

const trainer = (text: string): Promise<Trainer> => Trainer.create(trainStep(text), { threads: 1, weights: checkpoint });

const f64 = (t: Tensor): ConcreteTensor => ({ dtype: t.dtype, shape: t.shape, data: Float64Array.from(t.data) });
const number = (x: number): ConcreteTensor => ({ dtype: "f32", shape: [], data: Float64Array.of(x) });

const bytes = (tensors: ReadonlyMap<string, Tensor>, but: readonly string[] = []): Record<string, string> =>
  Object.fromEntries(
    [...tensors]
      .filter(([name]) => !but.includes(name))
      .map(([name, t]) => [name, Buffer.from(t.data.buffer, t.data.byteOffset, t.data.byteLength).toString("hex")]),
  );

/** The first step in float64, whose values are rounded to halves where the graph says so. */
function evaluated(text: string, inputs: Readonly<Record<string, Tensor>>, states: ReadonlyMap<string, Tensor>) {
  const program = trainProgram(text);
  const source = program.graphs.get("classify");
  if (source === undefined || program.train === undefined) throw new Error("no graph");
  const { graph, recipe } = trainingGraph(source, program.train);
  const [b1, b2] = recipe.optimiser.betas;
  return evalGraph(graph, referenceOf, {
    inputs: {
      ...Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, f64(t)])),
      "train.factor": number(1),
      "train.correction1": number(1 / (1 - b1)),
      "train.correction2": number(1 / Math.sqrt(1 - b2)),
    },
    params: {},
    states: Object.fromEntries([...states].filter(([, t]) => t.dtype === "f32").map(([name, t]) => [name, f64(t)])),
  });
}

/** The largest difference of two lists, as a share of the largest element. */
function apart(found: ArrayLike<number>, wanted: ArrayLike<number>): number {
  const largest = Math.max(...Array.from(wanted, Math.abs));
  return Math.max(...Array.from(wanted, (w, i) => Math.abs((found[i] ?? NaN) - w))) / largest;
}

describe.each([
  // A device may keep a value that the graph rounds to a half, where it is not stored: some units in the last place.
  ["f16", 2 ** -11],
  ["bf16", 2 ** -8],
] as const)("a step whose products are of %s", { timeout: 240_000 }, (compute, unit) => {
  test("is the training graph's within the rounding of halves, and not that of f32", async () => {
    const text = model(`compute: "${compute}"`);
    await using t = await trainer(text);
    await using plain = await trainer(model(""));
    const inputs = data(13, 1);
    const before = new Map(await t.tensors());
    const expected = evaluated(text, inputs, before);
    const [found, exact] = [await t.step(inputs), await plain.step(inputs)];
    const wanted = expected.outputs["loss"]?.data[0] ?? NaN;
    expect(Math.abs(found.loss / wanted - 1)).toBeLessThan(4 * unit);
    expect(found.loss).not.toBe(exact.loss);
    const scores = found.outputs["scores"]?.data ?? [];
    expect(apart(scores, expected.outputs["scores"]?.data ?? [])).toBeLessThan(4 * unit);
    expect(apart(scores, exact.outputs["scores"]?.data ?? [])).toBeGreaterThan(unit / 16);
    const after = await t.tensors();
    for (const name of Object.keys(shapes)) {
      const state = `optimiser.first.${name}`;
      expect(apart(after.get(state)?.data ?? [], expected.states[state]?.data ?? []), state).toBeLessThan(8 * unit);
    }
  });

  test("learns as one of f32 does", async () => {
    const losses = async (text: string): Promise<readonly [number, number]> => {
      await using t = await trainer(text);
      const found: number[] = [];
      for (let step = 0; step < 40; step++) found.push((await t.step(data(16, step % 4))).loss);
      return [found[0] ?? NaN, found.at(-1) ?? NaN];
    };
    const [[, half], [first, single]] = [await losses(model(`compute: "${compute}"`)), await losses(model(""))];
    expect(single).toBeLessThan(0.5 * first);
    expect(Math.abs(half / single - 1)).toBeLessThan(8 * unit);
  });

  test("is the same on WebGPU, with the adapter's own halves and without", async (context) => {
    if (typeof gpu === "string") context.skip(`not run: ${gpu}`);
    if (typeof gpu === "string") throw new Error(gpu); // For the type: skip does not return.
    const text = model(`compute: "${compute}", clip: 0.5`);
    await using other = await trainer(text);
    const steps: { readonly loss: number; readonly gradientNorm: number }[] = [];
    for (let step = 0; step < 3; step++) steps.push(await other.step(data(13, step)));
    const wanted = await other.tensors();
    for (const f16 of gpu.features.f16 ? [true, false] : [false]) {
      const compiled = compileTraining(trainProgram(text), { target: "webgpu", features: { ...gpu.features, f16 } });
      await using t = await Trainer.create(compiled, { device: gpu, weights: checkpoint });
      for (const [i, want] of steps.entries()) {
        const { loss, gradientNorm } = await t.step(data(13, i));
        expect(Math.abs(loss / want.loss - 1), `loss of step ${i + 1}`).toBeLessThan(4 * unit);
        expect(Math.abs(gradientNorm / want.gradientNorm - 1), `gradient of step ${i + 1}`).toBeLessThan(8 * unit);
      }
      const found = await t.tensors();
      expect([...found.keys()]).toEqual([...wanted.keys()]);
      for (const name of Object.keys(shapes).map((n) => `optimiser.first.${n}`))
        expect(apart(found.get(name)?.data ?? [], wanted.get(name)?.data ?? []), name).toBeLessThan(16 * unit);
    }
  });
});

describe("the scale of the loss", () => {
  test("keeps derivatives that f16 cannot hold", async () => {
    const norm = async (train: string): Promise<number> => {
      await using t = await trainer(model(train, "0.00000002"));
      return (await t.step(data(16, 1))).gradientNorm;
    };
    const exact = await norm("");
    expect(Math.abs((await norm('compute: "f16"')) / exact - 1)).toBeLessThan(0.01);
    expect(await norm('compute: "f16", scaling { initial: 1 }')).toBeLessThan(0.5 * exact);
    // bf16 has the range of f32.
    expect(Math.abs((await norm('compute: "bf16"')) / exact - 1)).toBeLessThan(0.05);
  });

  test("is halved by gradients that are not finite, and the step changes nothing but counts", async () => {
    const halves = 'compute: "f16"';
    await using t = await trainer(model(`${halves}, scaling { initial: 16777216 }`, "100.0"));
    const begin = bytes(await t.tensors(), ["optimiser.scale", "optimiser.skipped", "optimiser.step"]);
    let skipped = 0;
    for (;;) {
      const result = await t.step(data(16, 3));
      expect(result.scaling?.scale).toBe(2 ** (24 - skipped));
      if (result.scaling?.skipped !== true) break;
      skipped++;
      expect(Number.isFinite(result.gradientNorm)).toBe(false);
      expect(Number.isFinite(result.loss)).toBe(true);
      expect(bytes(await t.tensors(), ["optimiser.scale", "optimiser.skipped", "optimiser.step"])).toEqual(begin);
    }
    expect(skipped).toBeGreaterThan(3);
    expect(t.stepsDone).toBe(skipped + 1);
    // What was skipped is not in the corrections of the moments: the next step is that of a training which begins with this scale.
    await using u = await trainer(model(`${halves}, scaling { initial: ${2 ** (24 - skipped)} }`, "100.0"));
    await u.step(data(16, 3));
    const but = ["optimiser.skipped", "optimiser.step"];
    expect(bytes(await t.tensors(), but)).toEqual(bytes(await u.tensors(), but));
    expect((await t.tensors()).get("optimiser.skipped")?.data[0]).toBe(skipped);
  });

  test("is doubled after enough good steps in a row, and never beyond 2^24", async () => {
    await using t = await trainer(model('compute: "f16", scaling { initial: 4194304, every: 2 }', "0.000001"));
    const scales: (number | undefined)[] = [];
    for (let step = 0; step < 8; step++) scales.push((await t.step(data(8, step))).scaling?.scale);
    expect(scales.map((s) => Math.log2(s ?? NaN))).toEqual([22, 22, 23, 23, 24, 24, 24, 24]);
  });

  test("counts gradients of several runs as one step", async () => {
    const text = model('compute: "f16", accumulate: 2, scaling { initial: 1024, every: 1 }', "10.0");
    await using t = await trainer(text);
    expect((await t.step([data(8, 1), data(8, 2)])).scaling).toEqual({ scale: 1024, skipped: false });
    const kept = (await t.tensors()).get("head.weight")?.data.slice();
    for (;;) {
      const { scaling } = await t.step([data(8, 1), data(8, 2)]);
      if (scaling?.skipped === true) break;
    }
    const { scaling } = await t.step([data(8, 1)]);
    expect(scaling?.skipped).toBe(false);
    expect(kept).not.toEqual((await t.tensors()).get("head.weight")?.data);
  });

  test("of 1 has nothing below it: gradients that are not finite end the training", async () => {
    await using t = await trainer(model('compute: "f16", scaling { initial: 1 }', "1000000000.0"));
    const before = bytes(await t.tensors());
    await expect(t.step(data(8, 1))).rejects.toThrow(TrainingError);
    expect(bytes(await t.tensors())).toEqual(before);
  });

  test("is no matter of a loss that is not finite", async () => {
    await using t = await trainer(model('compute: "f16"'));
    const before = bytes(await t.tensors());
    const bad: Tensor = { dtype: "f32", shape: [2, 24], data: new Float32Array(48).fill(NaN) };
    await expect(t.step({ ...data(2, 1), x: bad })).rejects.toThrow(/the loss of step 1 is NaN/);
    expect(bytes(await t.tensors())).toEqual(before);
  });

  test("is in the checkpoint, and what is restored goes on bit by bit", async () => {
    const text = model('compute: "f16", scaling { initial: 16777216, every: 2 } schedule { kind: "cosine" } steps: 20', "100.0");
    await using whole = await trainer(text);
    for (let s = 1; s <= 11; s++) await whole.step(data(9, s));
    const kept = new Map([...(await whole.tensors())].map(([name, t]) => [name, { ...t, data: t.data.slice() } as Tensor]));
    for (let s = 12; s <= 20; s++) await whole.step(data(9, s));
    await using again = await trainer(text);
    await expect(again.restore(new Map([...kept].filter(([name]) => name !== "optimiser.scale")))).rejects.toThrow(WeightsError);
    await again.restore(kept);
    for (let s = 12; s <= 20; s++) await again.step(data(9, s));
    expect(kept.get("optimiser.skipped")?.data[0]).toBeGreaterThan(0);
    expect(bytes(await again.tensors())).toEqual(bytes(await whole.tensors()));
  });
});
