// The repository's graphs compiled for WebGPU: a layer of the encoder is seven kernels, each of a builder where there is one,
// and all of it is within WebGPU's default limits.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { loadProgram } from "../compiler/check/index.ts";
import { compileGraph, type WebGpuCompiled } from "../compiler/compile.ts";
import { renderDiagnostics } from "../compiler/diagnostics/index.ts";
import { bytesOf } from "../compiler/ir/dtype.ts";
import { dimConstant } from "../compiler/ir/dim.ts";

function compiled(file: string, name: string, config: Readonly<Record<string, string>> = {}): WebGpuCompiled {
  const program = loadProgram(file, { readText: (f) => readFileSync(f, "utf8"), config });
  const graph = program.graphs.get(name);
  if (graph === undefined) throw new Error(renderDiagnostics(program.diagnostics, program.sources, { color: false }));
  return compileGraph(graph, { target: "webgpu" });
}

const graphs = [
  ["graphs/clip-vit.uhd", "clip_vit_layer"],
  ["graphs/clip-vit.uhd", "clip_vit_layer_ragged"],
  ["graphs/resampler.uhd", "resampler"],
] as const;

describe.each(graphs)("%s, %s", (file, name) => {
  const { plan, kernels, plainLoops, wgsl, imp } = compiled(file, name);

  test("leaves no multiply and no attention to plain loops", () => expect(plainLoops).toEqual([]));

  test("keeps to eight buffers, 256 invocations and 16 KiB of workgroup memory, in every variant", () => {
    expect(kernels.every((k) => k.buffers.length <= 8)).toBe(true);
    for (const fn of imp.variants.flat()) {
      expect(fn.lanes).toBeLessThanOrEqual(256);
      const shared = fn.scratch.filter((s) => s.space === "workgroup");
      expect(shared.reduce((n, s) => n + bytesOf(s.dtype) * (dimConstant(s.size) ?? NaN), 0)).toBeLessThanOrEqual(16384);
    }
  });

  test("has every kernel of the plan in every variant, and reads parameters as read-only", () => {
    for (const variant of wgsl) expect(variant.kernels.map((k) => k.name)).toEqual(plan.kernels.map((k) => k.name));
    const product = wgsl[0]?.kernels.find((k) => k.name.startsWith("matmul"));
    expect(product?.bindings).toContain("read");
    expect(product?.bindings.at(-1)).toBe("read_write");
  });
});

test.each(["clip_vit_layer", "clip_vit_layer_ragged"])("a layer, %s, is at most seven kernels", (name) => {
  const { plan } = compiled("graphs/clip-vit.uhd", name);
  expect(plan.steps.length).toBeLessThanOrEqual(7);
});
