// Which code a graph has for WebGPU and which of it a device takes: 16-bit floats as such where the adapter has them, with the
// same results as without; one text, and one pipeline, for kernels that differ in nothing but the names of their sizes.

import { describe, expect, test } from "vitest";
import { loadProgram } from "../compiler/check/index.ts";
import { compileGraph, type WebGpuCompiled } from "../compiler/compile.ts";
import type { Graph } from "../compiler/ir/graph/types.ts";
import { f16Bits } from "./conformance/tensors.ts";
import { programOf } from "./graphs-support.ts";
import { Session } from "../runtime/session.ts";
import { gpuDevice } from "./webgpu-support.ts";

function graphOf(text: string): Graph {
  const program = loadProgram("given.uhd", { readText: () => text, config: {} });
  const [graph] = program.graphs.values();
  if (graph === undefined) throw new Error(JSON.stringify(program.diagnostics));
  return graph;
}

/** Characters of features: "8h" is subgroups of eight and 16-bit floats. */
const variantsOf = ({ wgsl }: WebGpuCompiled): string => wgsl.map(({ features: f }) => `${f.subgroups}${f.f16 ? "h" : ""}`).join(" ");

describe("16-bit floats", () => {
  const halves =
    "graph halves(x: f16[T in 1..=65536]) -> (doubled: f16[T], wide: f32[T]) { (cast(cast(x, f32) * 2.0, f16), cast(x, f32)) }";

  test("have code of their own where a graph holds some, beside code without, and none where it does not", () => {
    const compiled = compileGraph(graphOf(halves), { target: "webgpu" });
    expect(variantsOf(compiled)).toBe("32h 32 8h 8 0h 0");
    for (const { features, kernels } of compiled.wgsl) {
      expect(kernels.some((k) => k.requires.includes("shader-f16"))).toBe(features.f16);
      expect(kernels.some((k) => k.code.includes("array<f16>") || k.code.includes("array<vec4h>"))).toBe(features.f16);
    }
    expect(variantsOf(compileGraph(graphOf("graph plain(x: f32[T in 1..=4096]) -> y: f32[T] { x * 2.0 }"), { target: "webgpu" }))).toBe(
      "32 8 0",
    );
  });

  test("are the same bits with shader-f16 and without it", async (context) => {
    const compiled = compileGraph(graphOf(halves), { target: "webgpu" });
    // Every half but NaN, whose bits no standard says.
    const x = Uint16Array.from({ length: 65536 }, (_, i) => i).filter((bits) => (bits & 0x7fff) <= 0x7c00);
    const results: Uint16Array[] = [];
    for (const hide of [[], ["shader-f16"]] as const) {
      await using device = await gpuDevice(context, { hide });
      if (!device.features.f16 && hide.length === 0) context.skip(`not run: ${device.description} has no shader-f16`);
      expect(device.features.f16).toBe(hide.length === 0);
      await using session = await Session.create(compiled, { device });
      const { outputs } = await session.run({ x: { dtype: "f16", shape: [x.length], data: x } });
      const { doubled, wide } = outputs;
      if (doubled?.dtype !== "f16" || wide?.dtype !== "f32") throw new Error("there is no result");
      for (const [i, value] of wide.data.entries()) if (f16Bits(value) !== x[i]) throw new Error(`${x[i] ?? -1} became ${value}`);
      results.push(Uint16Array.from(doubled.data));
    }
    expect(results[0]).toEqual(results[1]);
  });
});

describe("kernels that differ in the names of their sizes", () => {
  const named = (size: string): WebGpuCompiled =>
    compileGraph(graphOf(`graph g(x: f32[${size} in 1..=64, 48]) -> y: f32[${size}, 48] { softmax(x * 2.0, axis: -1) }`), {
      target: "webgpu",
    });

  test("are one text", () => {
    expect(named("tokens").wgsl.map((v) => v.kernels.map((k) => k.code))).toEqual(named("T").wgsl.map((v) => v.kernels.map((k) => k.code)));
  });

  test("are one pipeline of a device", async (context) => {
    await using device = await gpuDevice(context);
    await using first = await Session.create(named("tokens"), { device });
    const made = device.made.pipelines;
    expect(made).toBeGreaterThan(0);
    await using second = await Session.create(named("T"), { device });
    expect(device.made.pipelines).toBe(made);
    const x = { dtype: "f32", shape: [1, 48], data: new Float32Array(48) } as const;
    expect((await first.run({ x })).outputs).toEqual((await second.run({ x })).outputs);
  });

  test("are most of an encoder's, once a device has one of its layers", { timeout: 60_000 }, () => {
    const { graphs } = programOf("graphs/clip-vit.uhd", { layers: 2 });
    const texts = (name: string): readonly string[] => {
      const graph = graphs.get(name);
      if (graph === undefined) throw new Error(`there is no graph ${name}`);
      const { wgsl } = compileGraph(graph, { target: "webgpu", features: { subgroups: 32, f16: false } });
      return (wgsl[0]?.kernels ?? []).map((k) => `${k.bindings.join()} ${k.code}`);
    };
    const layer = new Set(texts("clip_vit_layer"));
    expect(layer.size).toBeLessThanOrEqual(11);
    expect(texts("clip_vit").filter((text) => !layer.has(text)).length).toBeLessThanOrEqual(5);
  });
});
