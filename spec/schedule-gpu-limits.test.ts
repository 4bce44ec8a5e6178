// WebGPU's default limits: no kernel has more than eight buffers, fused or not, whatever the graph; and no binding is larger
// than 128 MiB.

import { describe, expect, test } from "vitest";
import { compileGraph, TargetLimitError } from "../compiler/compile.ts";
import { dim } from "../compiler/ir/dim.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import type { Graph, TensorType } from "../compiler/ir/graph/types.ts";
import { ops, typeRule } from "../ops/index.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { batchOf, generatedCases } from "./conformance/cases.ts";
import { difference } from "./conformance/compare.ts";
import { seed } from "./conformance/property.ts";
import { emulated } from "./gpu-emulator.ts";
import { graphOf } from "./graphs-support.ts";

const row: TensorType = { dtype: "f32", shape: [dim(5)] };

/** The sum of `count` inputs. */
function sumOf(count: number): Graph {
  const builder = new GraphBuilder("sum", typeRule);
  const inputs = Array.from({ length: count }, (_, i) => builder.input(`x${i}`, row));
  builder.output(
    "y",
    inputs.reduce((a, b) => builder.op("add", [a, b], {})),
  );
  return builder.build();
}

const given = (count: number) =>
  Object.fromEntries(
    Array.from({ length: count }, (_, i) => [
      `x${i}`,
      { ...row, shape: [5], data: Float64Array.from({ length: 5 }, (_, j) => i * 10 + j) },
    ]),
  );

describe("at most eight buffers", () => {
  test("a fused kernel reads seven values and leaves the others to another one", async () => {
    for (const [count, kernels] of [
      [7, 1],
      [8, 2],
      [20, 4],
    ] as const) {
      const compiled = compileGraph(sumOf(count), { target: "webgpu", features: [] });
      expect(compiled.kernels.every((k) => k.buffers.length <= 8)).toBe(true);
      expect(compiled.plan.steps.length).toBe(kernels);
      const { y } = await emulated(compiled, 0, given(count));
      const first = (count * (count - 1)) / 2;
      expect([...(y?.data ?? [])]).toEqual([0, 1, 2, 3, 4].map((j) => first * 10 + count * j));
    }
  });

  test.each([{}, { fuse: false }, { fusionGas: 0 }])(
    "an op of nine operands reads some of them through views of one value, %o",
    async (options) => {
      const name = "attention_dq";
      const batch = batchOf(generatedCases(name, 4, seed));
      const compiled = compileGraph(batch.graph, { target: "webgpu", features: [], ...options });
      expect(compiled.kernels.every((k) => k.buffers.length <= 8)).toBe(true);
      const outputs = await emulated(compiled, 0, batch.inputs);
      for (const [i, c] of batch.cases.entries()) {
        const found = outputs[`c${i}`];
        expect(found === undefined ? "nothing" : difference(c.expected, found, ops[name].tolerance, false)).toBeUndefined();
      }
    },
  );

  test("a fusion is declined with that reason", () => {
    const { declined } = compileGraph(sumOf(9), { target: "webgpu", features: [] });
    expect(declined.map((d) => d.reason)).toContain("its reader would have 9 buffers, and the device takes 8");
  });
});

describe("parameters that are larger than a binding", () => {
  /** An embedding, a head tied to it, a matrix with a bias and an activation, and a product that is no projection. */
  function model(vocabulary: number, width: number, inner: number): Graph {
    const builder = new GraphBuilder("lm", typeRule);
    const t = builder.symbol("T", 1, 64);
    const f32 = (...shape: readonly number[]): TensorType => ({ dtype: "f32", shape: shape.map(dim) });
    const normal = { kind: "normal", std: 0.5 } as const;
    const ids = builder.input("ids", { dtype: "i32", shape: [t] });
    const table = builder.param("embed.weight", f32(vocabulary, width), normal);
    const up = builder.param("up.weight", f32(inner, width), normal);
    const bias = builder.param("up.bias", f32(inner), normal);
    const down = builder.param("down.weight", f32(inner, width), normal);
    const x = builder.op("gather", [table, ids]);
    const wide = builder.op("add", [
      builder.op("matmul", [x, up], { transpose_b: true }),
      builder.op("broadcast", [bias], { shape: [t, dim(inner)] }),
    ]);
    const y = builder.op("matmul", [builder.op("tanh", [wide]), down]);
    builder.output("logits", builder.op("matmul", [builder.op("add", [x, y]), table], { transpose_b: true }));
    return builder.build();
  }

  const ids = (...data: readonly number[]) => ({ ids: { dtype: "i32", shape: [data.length], data: Float64Array.from(data) } }) as const;

  test("are split, and the result is that of the whole", async () => {
    const graph = model(70, 20, 50);
    const given = ids(0, 31, 32, 63, 64, 69, 5);
    const init = { init: { seed: 7 } };
    const whole = compileGraph(graph, { target: "webgpu", features: [] });
    const limits = { buffers: 8, bytes: 32 * 32 * 4 };
    const split = compileGraph(graph, { target: "webgpu", features: [], limits });
    expect(split.plan.params.map((p) => p.name)).toEqual([
      "embed.weight[0:32]",
      "embed.weight[32:64]",
      "embed.weight[64:70]",
      "up.weight[0:32]",
      "up.weight[32:50]",
      "up.bias",
      "down.weight[0:32]",
      "down.weight[32:50]",
    ]);
    for (const b of split.plan.buffers)
      if (b.place.k === "persistent") expect(b.shape.reduce((n, s) => n * Number(s), 4)).toBeLessThanOrEqual(limits.bytes);
    expect(split.kernels.every((k) => k.buffers.length <= 8)).toBe(true);
    const [a, b] = [await emulated(whole, 0, given, init), await emulated(split, 0, given, init)];
    for (const [i, x] of (a.logits?.data ?? []).entries()) expect(Math.abs(x - (b.logits?.data[i] ?? NaN))).toBeLessThan(1e-4);
  });

  test("of more parts than a kernel has buffers are looked up by several kernels", async () => {
    const graph = model(300, 20, 50);
    const given = ids(0, 299, 128, 31, 32, 287, 288);
    const init = { init: { seed: 7 } };
    const split = compileGraph(graph, { target: "webgpu", features: [], limits: { buffers: 8, bytes: 4096 } });
    expect(split.plan.params.filter((p) => p.rows?.of === "embed.weight")).toHaveLength(10);
    expect(split.kernels.every((k) => k.buffers.length <= 8)).toBe(true);
    const [a, b] = [
      await emulated(compileGraph(graph, { target: "webgpu", features: [] }), 0, given, init),
      await emulated(split, 0, given, init),
    ];
    for (const [i, x] of (a.logits?.data ?? []).entries()) expect(Math.abs(x - (b.logits?.data[i] ?? NaN))).toBeLessThan(1e-4);
  });

  test("are never written in one piece, though rows of a run stand behind theirs and the kernel that reads them reads much else", async () => {
    const build = (): Graph => {
      const builder = new GraphBuilder("chat", typeRule);
      const t = builder.symbol("T", 1, 64);
      const v = builder.symbol("V", 0, 64);
      const given = builder.input("given", { dtype: "f32", shape: [v, dim(20)] });
      const table = builder.param("embed.weight", { dtype: "f32", shape: [dim(140), dim(20)] });
      const rows = builder.op("concat", [table, given], { axis: 0 });
      const x = builder.op("gather", [rows, builder.input("ids", { dtype: "i32", shape: [t] })]);
      const gamma = builder.param("norm.weight", { dtype: "f32", shape: [dim(20)] });
      const y = builder.op("rms_norm", [x, gamma], { eps: 0.001 });
      builder.output("y", y);
      builder.output("z", builder.op("add", [x, y]));
      return builder.build();
    };
    const inputs = {
      ...ids(0, 139, 140, 142, 64),
      given: { dtype: "f32", shape: [3, 20], data: Float64Array.from({ length: 60 }, (_, i) => i) },
    } as const;
    const limits = { buffers: 8, bytes: 4096 };
    const split = compileGraph(build(), { target: "webgpu", features: [], limits });
    expect(split.plan.params.length).toBe(6);
    for (const { shape } of split.plan.buffers) expect(shape.join()).not.toMatch(/V \+ 140/);
    const [a, b] = [
      await emulated(compileGraph(build(), { target: "webgpu", features: [] }), 0, inputs, { init: { seed: 2 } }),
      await emulated(split, 0, inputs, { init: { seed: 2 } }),
    ];
    expect([...(b.z?.data ?? [])]).toEqual([...(a.z?.data ?? [])]);
  });

  test("take their rows from the checkpoint's tensor, which is asked for by its own name", async () => {
    const compiled = compileGraph(model(70, 20, 50), { target: "webgpu", features: [], limits: { buffers: 8, bytes: 4096 } });
    const tensor = (...shape: readonly number[]): Tensor<"f32"> => {
      const count = shape.reduce((a, b) => a * b, 1);
      return { dtype: "f32", shape, data: Float32Array.from({ length: count }, (_, i) => ((i * 37) % 101) / 101 - 0.5) };
    };
    const weights = new Map([
      ["embed.weight", tensor(70, 20)],
      ["up.weight", tensor(50, 20)],
      ["up.bias", tensor(50)],
      ["down.weight", tensor(50, 20)],
    ]);
    const given = ids(69, 0, 40);
    const [a, b] = [
      await emulated(compileGraph(model(70, 20, 50), { target: "webgpu", features: [] }), 0, given, { weights }),
      await emulated(compiled, 0, given, { weights }),
    ];
    for (const [i, x] of (a.logits?.data ?? []).entries()) expect(Math.abs(x - (b.logits?.data[i] ?? NaN))).toBeLessThan(1e-4);
    weights.delete("down.weight");
    weights.set("embed.weight", tensor(71, 20));
    await expect(emulated(compiled, 0, given, { weights })).rejects.toThrow(
      /missing \(1\): down\.weight[^]*embed\.weight: expected f32\[70, 20\], found f32\[71, 20\]/,
    );
  });

  test.each(["q8_0", "q4_1"] as const)(
    "are split while they stay packed, as %s: all parts at the same rows, and nothing is unpacked that could not be bound",
    async (format) => {
      const graph = model(70, 128, 64);
      const options = { target: "webgpu", features: [], quantise: format } as const;
      const whole = compileGraph(graph, options);
      const split = compileGraph(graph, { ...options, limits: { buffers: 8, bytes: 4096 } });
      const parts = format === "q4_1" ? ["values", "scales", "minima"] : ["values", "scales"];
      const named = (p: string): readonly string[] => ["0:32", "32:64", "64:70"].map((rows) => `embed.weight.${p}[${rows}]`);
      expect(split.plan.params.map((p) => p.name).filter((name) => name.startsWith("embed"))).toEqual(parts.flatMap(named));
      const given = ids(0, 31, 32, 63, 64, 69, 5);
      const random = (rows: number): Tensor<"f32"> => ({
        dtype: "f32",
        shape: [rows, 128],
        data: Float32Array.from({ length: rows * 128 }, (_, i) => ((i * 7919) % 1009) / 1009 - 0.5),
      });
      const bias: Tensor<"f32"> = { dtype: "f32", shape: [64], data: new Float32Array(64).fill(0.25) };
      const weights = new Map([
        ["embed.weight", random(70)],
        ["up.weight", random(64)],
        ["up.bias", bias],
        ["down.weight", random(64)],
      ]);
      for (const source of [{ init: { seed: 7 } }, { weights }]) {
        const [a, b] = [await emulated(whole, 0, given, source), await emulated(split, 0, given, source)];
        expect(a.logits?.data.length).toBe(7 * 70);
        for (const [i, x] of (a.logits?.data ?? []).entries()) expect(Math.abs(x - (b.logits?.data[i] ?? NaN))).toBeLessThan(1e-3);
      }
    },
  );

  test.each(["q8_0", "q4_1"] as const)("a packed table (%s) is unpacked where it is read, however much its reader reads", (quantise) => {
    const sizes = { width: 64, llama_layers: 2, heads: 2, kv_heads: 1, head_width: 32, ffn: 96, vocabulary: 160, context: 32, tied: true };
    const graph = graphOf("graphs/llama.uhd", "llama", sizes);
    const compiled = compileGraph(graph, { target: "webgpu", features: [], quantise });
    expect(compiled.plainLoops).toEqual([]);
    const written = compiled.plan.buffers.filter((b) => b.shape.join() === "160,64");
    expect(written.map((b) => b.name)).toEqual([]);
  });

  test("an embedding of 160 MB is bound in two parts", async () => {
    const [rows, width] = [40_000, 1024];
    const builder = new GraphBuilder("embed", typeRule);
    const t = builder.symbol("T", 1, 64);
    const table = builder.param("embed.weight", { dtype: "f32", shape: [dim(rows), dim(width)] });
    builder.output("y", builder.op("gather", [table, builder.input("ids", { dtype: "i32", shape: [t] })]));
    const compiled = compileGraph(builder.build(), { target: "webgpu", features: [] });
    const sizes = compiled.plan.params.map((p) => 4 * p.shape.reduce((a, b) => a * b, 1));
    expect(sizes.length).toBe(2);
    for (const bytes of sizes) expect(bytes).toBeLessThan(128 * 2 ** 20);
    const data = new Float32Array(rows * width);
    const asked = [0, 32_703, 32_704, 39_999];
    for (const id of asked) data[id * width + 5] = id + 1;
    const weights = new Map([["embed.weight", { dtype: "f32", shape: [rows, width], data } as const]]);
    const { y } = await emulated(compiled, 0, ids(...asked), { weights });
    expect(asked.map((_, i) => y?.data[i * width + 5])).toEqual(asked.map((id) => id + 1));
  });

  test("where they are used in a way that cannot be split, that is an error which names them", () => {
    const builder = new GraphBuilder("large", typeRule);
    builder.output("y", builder.param("w", { dtype: "f32", shape: [dim(100), dim(20)] }));
    const compile = (): unknown => compileGraph(builder.build(), { target: "webgpu", features: [], limits: { buffers: 8, bytes: 4096 } });
    expect(compile).toThrow(TargetLimitError);
    expect(compile).toThrow(/w of large, f32\[100, 20\], has 8000 bytes, and the target binds 4096 at once/);
  });
});
