// What fusion makes of backward passes: a row's reduction is made once a row, also where only some elements ask for it; and
// products whose right operand lies as they read it pack nothing.

import { expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { dim } from "../compiler/ir/dim.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import { evalGraph } from "../compiler/ir/graph/eval.ts";
import type { Graph } from "../compiler/ir/graph/types.ts";
import { operandsOf } from "../compiler/ir/kernel/build.ts";
import type { Expr } from "../compiler/ir/kernel/types.ts";
import { referenceOf, typeRule } from "../ops/index.ts";
import { Session } from "../runtime/session.ts";

const folds = (e: Expr): boolean => e.k === "fold" || operandsOf(e).some(folds);

test("the sum in the derivative of a masked softmax is not made again for every element", () => {
  const b = new GraphBuilder("masked", typeRule);
  const t = b.symbol("T", 1, 4096);
  const type = { dtype: "f32" as const, shape: [t, t] };
  const [p, g] = [b.input("p", type), b.input("g", type)];
  const seen = b.input("seen", { dtype: "bool", shape: [t, t] });
  const product = b.op("mul", [p, g]);
  const sum = b.op("broadcast", [b.op("reduce_sum", [product], { axes: [1], keep: true })], { shape: type.shape });
  const zero = b.constant("f32", type.shape, [0]);
  b.output("d", b.op("select", [seen, b.op("sub", [product, b.op("mul", [p, sum])]), zero]));
  const { kernels, declined } = compileGraph(b.build());
  for (const k of kernels) {
    const inner = k.stages.filter((s) => s.k === "store" && s.axes.length > 0);
    const perElement = k.stages.length > 1 ? inner : [];
    expect(
      perElement.some((s) => folds(s.value)),
      k.name,
    ).toBe(false);
    // A kernel without rows has the reduction as its result, or none.
    if (k.stages.length === 1) expect(k.axes.length === 1 || !folds(k.stages[0]?.value ?? { k: "dim", dim: dim(0) }), k.name).toBe(true);
  }
  expect(declined.map((d) => d.reason).join("; ")).toContain("only some elements of a row need it");
});

// ---- Products that read their right operand as it lies ------------------------------------------------------------

/** g·W and gᵀ·x, as the backward pass of x·Wᵀ has them. */
function backward(columns: number): Graph {
  const b = new GraphBuilder("backward", typeRule);
  const t = b.symbol("T", 0, 512);
  const [x, g] = [b.input("x", { dtype: "f32", shape: [t, dim(columns)] }), b.input("g", { dtype: "f32", shape: [t, dim(13)] })];
  const w = b.state("w", { dtype: "f32", shape: [dim(13), dim(columns)] });
  b.output("dx", b.op("matmul", [g, w], { transpose_a: false, transpose_b: false }));
  b.output("dw", b.op("matmul", [g, x], { transpose_a: true, transpose_b: false }));
  return b.build();
}

const floats = (count: number, salt: number): Float32Array => Float32Array.from({ length: count }, (_, i) => Math.sin(salt + 1.7 * i * i));

test.each([8, 24, 512, 20, 520])("gradients of a product by %i columns are what their references say", async (columns) => {
  const graph = backward(columns);
  const compiled = compileGraph(graph);
  expect(compiled.plainLoops).toEqual([]);
  // Also where a panel would be cut, or rows lie far apart: the products copy what they need of it.
  expect(compiled.plan.steps.filter((s) => s.k === "dispatch").length).toBe(2);
  const w = floats(13 * columns, 1);
  await using session = await Session.create(compiled, { threads: 1 });
  await session.writeState("w", { dtype: "f32", shape: [13, columns], data: w });
  for (const rows of [0, 1, 3, 29]) {
    const inputs = {
      x: { dtype: "f32", shape: [rows, columns], data: floats(rows * columns, 2) },
      g: { dtype: "f32", shape: [rows, 13], data: floats(rows * 13, 3) },
    } as const;
    const f64 = <T extends { readonly data: Float32Array }>(tensor: T) => ({ ...tensor, data: Float64Array.from(tensor.data) });
    const expected = evalGraph(graph, referenceOf, {
      inputs: { x: f64(inputs.x), g: f64(inputs.g) },
      params: {},
      states: { w: { dtype: "f32", shape: [13, columns], data: Float64Array.from(w) } },
    });
    const { outputs } = await session.run(inputs);
    for (const [name, { data, shape }] of Object.entries(expected.outputs)) {
      expect(outputs[name]?.shape, name).toEqual(shape);
      data.forEach((v, i) => expect(Math.abs((outputs[name]?.data[i] ?? NaN) - v), `${name}[${i}], ${rows} rows`).toBeLessThan(1e-5));
    }
  }
});
