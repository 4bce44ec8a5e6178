// Reverse mode on whole graphs: against central differences in float64, on generated graphs with symbolic sizes.
// Derivatives of single ops are in ops.test.ts.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AutodiffError, gradient } from "../compiler/autodiff/reverse.ts";
import { dim, dimSymbol } from "../compiler/ir/dim.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import { evalGraph, type ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import { verifyGraph } from "../compiler/ir/graph/verify.ts";
import { referenceOf, typeRule } from "../ops/index.ts";
import { generatedGraphs } from "./conformance/graphs.ts";
import { property } from "./conformance/property.ts";

describe("gradient", () => {
  test("refuses an op without a derivative and names it", () => {
    const builder = new GraphBuilder("g", typeRule);
    const x = builder.input("x", { dtype: "f32", shape: [dim(2)] });
    const i = builder.op("argmax", [x]);
    builder.output("y", builder.op("cast", [i], { dtype: "f32" }));
    // The path is cut by the integer position: the cotangent is zero, not an error.
    const g = gradient(builder.build(), { wrt: [x] });
    const d = evalGraph(g, referenceOf, {
      inputs: {
        x: { dtype: "f32", shape: [2], data: Float64Array.of(1, 2) },
        "d.y": { dtype: "f32", shape: [], data: Float64Array.of(1) },
      },
    });
    expect([...(d.outputs["d.x"]?.data ?? [])]).toEqual([0, 0]);
    expect(() => gradient(g, { wrt: [i] })).toThrow(AutodiffError);
  });

  test("adds up over every use of a value", () => {
    const builder = new GraphBuilder("g", typeRule);
    const x = builder.input("x", { dtype: "f32", shape: [] });
    builder.output("y", builder.op("mul", [builder.op("mul", [x, x]), x]));
    const g = gradient(builder.build(), { wrt: [x], seed: "one" });
    const d = evalGraph(g, referenceOf, { inputs: { x: { dtype: "f32", shape: [], data: Float64Array.of(3) } } });
    expect(d.outputs["d.x"]?.data[0]).toBe(27);
  });

  test("agrees with differences along a random direction of every input and parameter at once", () => {
    let compared = 0;
    property(fc.tuple(generatedGraphs(), fc.integer()), ([{ graph, inputs, params }, seed]) => {
      let state = seed | 0;
      const random = (): number => {
        state = (Math.imul(state, 1664525) + 1013904223) | 0;
        return (state >> 8) / 2 ** 23;
      };
      const like = (t: ConcreteTensor): ConcreteTensor => ({ ...t, data: t.data.map(random) });
      const floats = graph.nodes.flatMap((n) => ((n.kind === "input" || n.kind === "param") && n.type.dtype === "f32" ? [n] : []));
      const whole = gradient(graph, { wrt: floats.map((n) => n.id) });
      expect(verifyGraph(whole, typeRule)).toEqual([]);
      const cotangents = Object.fromEntries(
        Object.entries(evalGraph(graph, referenceOf, { inputs, params }).outputs).map(([name, y]) => [name, like(y)]),
      );
      const named = Object.fromEntries(Object.entries(cotangents).map(([name, g]) => [`d.${name}`, g]));
      const found = evalGraph(whole, referenceOf, { inputs: { ...inputs, ...named }, params }).outputs;
      const given: Readonly<Record<string, ConcreteTensor>> = { ...inputs, ...params };
      const ways = Object.fromEntries(
        floats.map((n) => [n.name, like(given[n.name] ?? { dtype: "f32", shape: [], data: new Float64Array() })]),
      );
      const h = 1e-6;
      const along = (sign: number): number => {
        const move = (all: Readonly<Record<string, ConcreteTensor>>): Record<string, ConcreteTensor> =>
          Object.fromEntries(
            Object.entries(all).map(([name, t]) => [name, { ...t, data: t.data.map((x, i) => x + sign * h * (ways[name]?.data[i] ?? 0)) }]),
          );
        const { outputs } = evalGraph(graph, referenceOf, { inputs: move(inputs), params: move(params) });
        return Object.entries(outputs).reduce(
          (sum, [name, y]) => sum + y.data.reduce((s, v, i) => s + v * (cotangents[name]?.data[i] ?? 0), 0),
          0,
        );
      };
      const expected = (along(1) - along(-1)) / (2 * h);
      const terms = floats.flatMap((n) => [...(found[`d.${n.name}`]?.data ?? [])].map((d, i) => d * (ways[n.name]?.data[i] ?? 0)));
      const size = terms.reduce((s, t) => s + Math.abs(t), 1);
      expect(Math.abs(terms.reduce((a, b) => a + b, 0) - expected) / size).toBeLessThan(1e-5);
      compared += terms.length;
    });
    expect(compared).toBeGreaterThan(100);
  });

  test("goes through a transformer layer over ragged segments, sizes known only at run time", () => {
    const b = new GraphBuilder("layer", typeRule);
    const t = b.symbol("T", 1, 4096);
    const [d, heads] = [8, 2];
    const f32 = (...shape: readonly number[]) => ({ dtype: "f32" as const, shape: shape.map((n) => dim(n)) });
    const x = b.input("x", { dtype: "f32", shape: [t, dim(d)] });
    const segment = b.input("segment", { dtype: "i32", shape: [t] });
    const offsets = b.input("offsets", { dtype: "i32", shape: [dimSymbol("P1")] });
    const w = ["q", "k", "v", "o"].map((name) => b.param(name, f32(d, d)));
    const [gamma, beta] = [b.param("gamma", f32(d)), b.param("beta", f32(d))];
    const h = b.op("layer_norm", [x, gamma, beta], { eps: 1e-5 });
    const split = (name: number) => b.op("reshape", [b.op("linear", [h, w[name] ?? x])], { shape: [t, dim(heads), dim(d / heads)] });
    const mixed = b.op("attention", [split(0), split(1), split(2), segment, offsets, offsets], { scale: 0.5, causal: false });
    b.output("y", b.op("add", [x, b.op("linear", [b.op("reshape", [mixed], { shape: [t, dim(d)] }), w[3] ?? x])]));
    const whole = gradient(b.build(), { wrt: [x, gamma, beta, ...w] });
    expect(verifyGraph(whole, typeRule)).toEqual([]);
    expect(whole.outputs.map((o) => o.name)).toEqual(["y", "d.x", "d.gamma", "d.beta", "d.q", "d.k", "d.v", "d.o"]);
  });
});
