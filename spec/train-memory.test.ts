// A training step within a memory budget: what is computed again is the same to the bit, the memory that a step takes is
// what was predicted, and a budget that cannot be met says what is needed.

import { describe, expect, test } from "vitest";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import { dim } from "../compiler/ir/dim.ts";
import { evalGraph, type ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import type { Graph, ValueId } from "../compiler/ir/graph/types.ts";
import { verifyGraph } from "../compiler/ir/graph/verify.ts";
import { gradient } from "../compiler/autodiff/reverse.ts";
import { group } from "../compiler/fuse/groups.ts";
import { runPasses } from "../compiler/passes/pipeline.ts";
import { MemoryBudgetError, type RunSizes } from "../compiler/train/budget.ts";
import { forwardOf, recompute } from "../compiler/train/recompute.ts";
import { compileTraining, type CompiledTraining } from "../compiler/train/index.ts";
import { referenceOf, typeRule } from "../ops/index.ts";
import type { Inputs } from "../runtime/inputs.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { Trainer } from "../runtime/train/trainer.ts";
import fc from "fast-check";
import { property } from "./conformance/property.ts";
import { trainProgram } from "./train-support.ts";

describe("computing again", () => {
  test("is the same graph, whichever of the values are kept", () => {
    const graph = layers(4);
    const grouping = group(graph, { fuse: true, panel: 8 });
    const written = new Set(grouping.groups.flatMap((g) => (g.packs === undefined ? [g.root] : [])));
    const forward = forwardOf(graph, new Set(["loss"]));
    const values = [...written].filter((v) => forward.has(v));
    const given = inputsOf(graph, 5);
    const { outputs } = evalGraph(graph, referenceOf, given);
    let longest = graph.nodes.length;
    property(fc.subarray(values), (kept) => {
      const again = recompute({ graph, grouping, written, forward }, new Set<ValueId>(kept));
      expect(verifyGraph(again, typeRule)).toEqual([]);
      longest = Math.max(longest, again.nodes.length);
      expect(evalGraph(again, referenceOf, given).outputs).toEqual(outputs);
    });
    expect(longest).toBeGreaterThan(graph.nodes.length + 8);
  });

  test("of nothing leaves the graph as it is", () => {
    const graph = layers(2);
    const grouping = group(graph, { fuse: true, panel: 8 });
    const written = new Set(grouping.groups.flatMap((g) => (g.packs === undefined ? [g.root] : [])));
    const again = recompute({ graph, grouping, written, forward: forwardOf(graph, new Set(["loss"])) }, written);
    expect(again.nodes.length).toBe(graph.nodes.length);
  });
});

describe("a step of UHD-tiny within a budget", () => {
  // The resampler of the paper, few heads: shares are of what that step holds.
  const config = { layers: "2", llama_layers: "2", spatial: "false", resampler_head: "32" };
  const tiny = trainProgram("", config, "graphs/uhd-tiny.uhd");
  let within: CompiledTraining | undefined;

  test("holds what was predicted, less with less, and learns the same to the bit", async () => {
    const { inputs, sizes } = pictures(4);
    const whole = await trained(compileTraining(tiny), [inputs, inputs]);
    let before = whole.used;
    for (const share of [0.7, 0.45]) {
      const bytes = Math.floor(whole.held * share);
      const step = compileTraining(tiny, { memory: { bytes, sizes: [sizes] } });
      within = step;
      const found = await trained(step, [inputs, inputs]);
      const { predicted, before: unbounded, flops, recomputed, kept } = step.recomputation ?? fail();
      expect(Math.abs(unbounded.peak / whole.held - 1)).toBeLessThan(0.01);
      expect(predicted.peak).toBeLessThanOrEqual(bytes);
      expect(found.held).toBe(predicted.peak);
      expect(Math.abs(found.used / predicted.peak - 1)).toBeLessThan(0.02);
      expect(found.used).toBeLessThan(before * 0.75);
      before = found.used;
      expect(recomputed.length).toBeGreaterThan(0);
      expect(kept.length).toBeGreaterThan(0);
      expect(flops.again).toBeLessThan(0.5 * flops.before);
      expect(found.losses).toEqual(whole.losses);
      expect(found.tensors).toEqual(whole.tensors);
    }
  });

  test("goes on to the bit from where it was stopped", async () => {
    const step = within ?? fail();
    const { inputs } = pictures(1);
    const through = await trained(step, [inputs, inputs, inputs]);
    const first = await trained(step, [inputs]);
    const rest = await trained(step, [inputs, inputs], first.tensors);
    expect([...first.losses, ...rest.losses]).toEqual(through.losses);
    expect(rest.tensors).toEqual(through.tensors);
  });
});

test("a budget that cannot be met says what is needed, and what is needed can be met", () => {
  const program = trainProgram(chain);
  const sizes: RunSizes = { shapes: { x: [300, 16], labels: [300] } };
  const compiled = (bytes: number): CompiledTraining => compileTraining(program, { memory: { bytes, sizes: [sizes] } });
  let least = 0;
  try {
    compiled(1000);
    fail();
  } catch (error) {
    if (!(error instanceof MemoryBudgetError)) throw error;
    expect(error.message).toMatch(/does not fit in 1000 B: it takes at least [\d.]+ [KM]iB of the [\d.]+ [KM]iB .* holds most: /);
    least = error.least;
  }
  const before = compiled(2 ** 30).recomputation?.predicted.peak ?? 0;
  expect(least).toBeLessThan(0.8 * before);
  expect(compiled(least).recomputation?.predicted.peak).toBeLessThanOrEqual(least);
});

const chain = `import { Linear } from "./layers.uhd"
module Block(d: int) {
  use wide = Linear(d, 4 * d)
  use back = Linear(4 * d, d)
  forward(x: f32[N, d]) -> f32[N, d] { x + back(gelu(wide(x))) }
}
graph g(x: f32[N in 1..=1000, 16], labels: i32[N]) -> loss: f32[] {
  use block[6] = Block(16)
  var h = x
  repeat i in 0..6 { h = block[i](h) }
  cross_entropy(h, labels)
}
train { loss: "loss", trainable: ["**"], optimiser { rate: 0.01 } }
`;

function fail(): never {
  throw new Error("there is no budget's report");
}

/** Layers of a product and what costs little, with the gradients of their matrices. */
function layers(count: number): Graph {
  const b = new GraphBuilder("layers", typeRule);
  const n = b.symbol("N", 1, 64);
  let x = b.input("x", { dtype: "f32", shape: [n, dim(3)] });
  const weights = Array.from({ length: count }, (_, i) => b.param(`w${i}`, { dtype: "f32", shape: [dim(3), dim(3)] }));
  for (const w of weights) x = b.op("add", [x, b.op("sin", [b.op("exp", [b.op("neg", [b.op("matmul", [x, w])])])])]);
  b.output("loss", b.op("reduce_sum", [b.op("mul", [x, x])], { axes: [0, 1], keep: false }));
  return runPasses(gradient(b.build(), { wrt: weights, seed: "one" }), { merge: true });
}

function inputsOf(graph: Graph, n: number): Parameters<typeof evalGraph>[2] {
  const tensor = (shape: readonly number[], seed: number): ConcreteTensor => ({
    dtype: "f32",
    shape,
    data: Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => 0.4 * Math.sin(seed + 2.3 * i)),
  });
  const params = graph.nodes.flatMap((node, i) => (node.kind === "param" ? [[node.name, tensor([3, 3], i)] as const] : []));
  return { inputs: { x: tensor([n, 3], 1) }, params: Object.fromEntries(params) };
}

/** A batch of so many pictures of 300×240 pixels, each with a text of 32 tokens. */
function pictures(count: number): { readonly inputs: Inputs; readonly sizes: RunSizes } {
  const list = (values: readonly number[]): Tensor => ({ dtype: "i32", shape: [values.length], data: Int32Array.from(values) });
  const images = Array.from({ length: count }, () => [300, 240]);
  const samples = images.map(() => ({ tokens: 32, images: [3] }));
  const ids = Array.from({ length: 32 * count }, (_, i) => (i * 31) % 100);
  const patches = 448 * count;
  const data = Uint8Array.from({ length: patches * 588 }, (_, i) => (i * 7919 + (i >> 7)) % 251);
  return {
    inputs: { patches: { dtype: "u8", shape: [patches, 3, 14, 14], data }, ids: list(ids), labels: list(ids), images, samples },
    sizes: { shapes: { patches: [patches, 3, 14, 14], ids: [ids.length], labels: [ids.length] }, given: { images, samples } },
  };
}

interface Trained {
  readonly losses: readonly number[];
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Bytes of weights and arena, as the steps told. */
  readonly held: number;
  /** Bytes that the device has given out. */
  readonly used: number;
}

/** Takes steps from the beginning, or from what `from` holds. */
async function trained(step: CompiledTraining, batches: readonly Inputs[], from?: ReadonlyMap<string, Tensor>): Promise<Trained> {
  const device = await WasmDevice.create({ threads: 1 });
  try {
    const begun = device.used;
    await using trainer = await Trainer.create(step, { device, init: { seed: 1 }, steps: 4 });
    if (from !== undefined) await trainer.restore(from);
    const losses: number[] = [];
    let held = 0;
    for (const batch of batches) {
      const { loss, memory } = await trainer.step(batch);
      losses.push(loss);
      held = memory.weights + memory.arena;
    }
    return { losses, tensors: await trainer.tensors(), held, used: device.used - begun };
  } finally {
    await device.close();
  }
}
