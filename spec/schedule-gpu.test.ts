// The GPU schedules, executed by the emulator, lanes, barriers and subgroups included: every op of the table and generated
// graphs as programs compiled for WebGPU, fused and unfused, for each size of subgroups, against the float64 reference.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { dim, dimSymbol, type Dim } from "../compiler/ir/dim.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import type { Attrs, TensorType } from "../compiler/ir/graph/types.ts";
import type { WgslFeatures } from "../compiler/targets/wgsl/types.ts";
import type { RefTensor } from "../ops/define.ts";
import { normaliseAttrs, opNames, ops, referenceOf, typeRule } from "../ops/index.ts";
import { batchOf, generatedCases } from "./conformance/cases.ts";
import { difference } from "./conformance/compare.ts";
import { runs, seed } from "./conformance/property.ts";
import { emulated } from "./gpu-emulator.ts";

/** Code for the core alone is made too. */
const features: readonly WgslFeatures[] = ([4, 8, 32] as const).map((subgroups) => ({ subgroups, f16: false }));

describe("every op as a GPU kernel is what its reference says", () => {
  test.each(opNames)("%s", { timeout: 60_000 }, async (name) => {
    const op = ops[name];
    const batch = batchOf(generatedCases(name, Math.min(runs, 6), seed));
    const compiled = compileGraph(batch.graph, { target: "webgpu", features: features.slice(1, 2) });
    for (const variant of compiled.imp.variants.keys()) {
      const outputs = await emulated(compiled, variant, batch.inputs);
      for (const [i, c] of batch.cases.entries()) {
        const found = outputs[`c${i}`];
        if (found === undefined) throw new Error("there is no result");
        const wrong = difference(c.expected, found, op.tolerance, op.kind === "elementwise" || op.kind === "movement");
        if (wrong !== undefined) throw new Error(`variant ${variant}, seed ${seed}: ${wrong}\n${fc.stringify(c.sample)}`);
      }
    }
  });
});

describe("rows that lanes share", () => {
  const size = fc.oneof(fc.integer({ min: 0, max: 8 }), fc.integer({ min: 30, max: 150 }), fc.constantFrom(32, 64, 256, 300));
  const cases = fc.record({
    op: fc.constantFrom("softmax" as const, "log_softmax" as const, "layer_norm" as const, "rms_norm" as const, "reduce_sum" as const),
    rows: fc.integer({ min: 0, max: 3 }),
    columns: size,
    symbolic: fc.boolean(),
    special: fc.constantFrom(0, NaN, Infinity, -Infinity, -0),
    at: fc.nat(1000),
  });

  test("give what the reference says, whatever their length, with special values", { timeout: 60_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(cases, async (c) => {
        const builder = new GraphBuilder("rows", typeRule);
        const columns = c.symbolic ? dimSymbol("N") : dim(c.columns);
        if (c.symbolic) builder.symbol("N", 0, 4096);
        builder.symbol("T", 0, 4096);
        const type = (shape: readonly Dim[]): TensorType => ({ dtype: "f32", shape });
        const norm = c.op === "layer_norm" ? 2 : c.op === "rms_norm" ? 1 : 0;
        const attrs: Attrs = norm > 0 ? { eps: 0.001 } : c.op === "reduce_sum" ? { axes: [-1], keep: false } : { axis: -1 };
        const shapes = [[dimSymbol("T"), columns], ...new Array<readonly Dim[]>(norm).fill([columns])];
        const operands = shapes.map((s, i) => builder.input(`x${i}`, type(s)));
        builder.output("y", builder.op(c.op, operands, attrs));
        const compiled = compileGraph(builder.build(), { target: "webgpu", features });
        let state = c.at;
        const next = (): number => Math.fround((((state = (Math.imul(state, 1664525) + 1013904223) | 0) >> 8) / 2 ** 23) * 3);
        const inputs = shapes.map((s): RefTensor => {
          const shape = s.length === 2 ? [c.rows, c.columns] : [c.columns];
          const data = Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, next);
          if (s.length === 2 && data.length > 0 && c.special !== 0) data[c.at % data.length] = c.special;
          return { dtype: "f32", shape, data };
        });
        const shape = c.op === "reduce_sum" ? [c.rows] : [c.rows, c.columns];
        const expected = referenceOf(c.op, inputs, normaliseAttrs(c.op, attrs), { dtype: "f32", shape });
        const given = Object.fromEntries(inputs.map((x, i) => [`x${i}`, x]));
        for (const variant of compiled.imp.variants.keys()) {
          const { y } = await emulated(compiled, variant, given);
          if (y === undefined) throw new Error("there is no result");
          const wrong = difference(expected, y, ops[c.op].tolerance, false);
          if (wrong !== undefined) throw new Error(`variant ${variant}: ${wrong}`);
        }
      }),
      { numRuns: Math.min(runs, 60), seed },
    );
  });

  test("are the work of several lanes, for softmax and norms of any length", () => {
    for (const n of [64, 1000]) {
      const builder = new GraphBuilder("rows", typeRule);
      const x = builder.input("x", { dtype: "f32", shape: [dim(5), dim(n)] });
      builder.output("y", builder.op("softmax", [x], { axis: -1 }));
      const compiled = compileGraph(builder.build(), { target: "webgpu", features });
      for (const [fn] of compiled.imp.variants) {
        expect(fn?.units.text).toBe("5");
        expect(fn?.scratch.every((s) => s.space === "workgroup")).toBe(true);
      }
      expect(compiled.plan.steps).toHaveLength(1);
    }
  });
});
