// What fusion makes of backward passes: a row's reduction is made once a row, also where only some elements ask for it;
// products whose right operand lies as they read it pack nothing; a norm with all that is kept of it is one kernel; trained
// layers of one operand are one.

import * as fc from "fast-check";
import { expect, test } from "vitest";
import { gradient } from "../compiler/autodiff/reverse.ts";
import { compileGraph } from "../compiler/compile.ts";
import { dim } from "../compiler/ir/dim.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import { evalGraph } from "../compiler/ir/graph/eval.ts";
import type { Graph, GraphNode } from "../compiler/ir/graph/types.ts";
import { operandsOf } from "../compiler/ir/kernel/build.ts";
import type { Expr } from "../compiler/ir/kernel/types.ts";
import { mergeTrained } from "../compiler/passes/merge-trained.ts";
import { referenceOf, typeRule } from "../ops/index.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";
import { Session } from "../runtime/session.ts";
import { graphOf } from "./bench/ours.ts";
import { runs, seed } from "./conformance/property.ts";
import { emulated } from "./gpu-emulator.ts";

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

// ---- Row families ---------------------------------------------------------------------------------------------------

type Norm = "layer_norm" | "rms_norm";

/** A norm and its gradients, over rows of `d` elements, `heads` to a point where there are some. */
function normed(norm: Norm, d: number, heads: number | undefined): Graph {
  const b = new GraphBuilder("normed", typeRule);
  const t = b.symbol("T", 0, 512);
  const shape = [t, ...(heads === undefined ? [] : [dim(heads)]), dim(d)];
  const [x, gamma, beta] = [
    b.input("x", { dtype: "f32", shape }),
    b.input("gamma", { dtype: "f32", shape: [dim(d)] }),
    norm === "layer_norm" ? [b.input("beta", { dtype: "f32", shape: [dim(d)] })] : [],
  ];
  b.output("y", b.op(norm, [x, gamma, ...beta], { eps: 1e-3 }));
  return gradient(b.build(), { wrt: [x, gamma, ...beta] });
}

const f64 = ({ dtype, shape, data }: { readonly dtype: "f32"; readonly shape: readonly number[]; readonly data: Float32Array }) => ({
  dtype,
  shape,
  data: Float64Array.from(data),
});

test("norms and their gradients are what their references say, on CPUs and on GPUs", async () => {
  await using device = await WasmDevice.create({ threads: 1, simd: "plain" });
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom<Norm>("layer_norm", "rms_norm"),
      fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 30, max: 70 })),
      fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }),
      fc.constantFrom(0, 1, 2, 5),
      fc.integer({ min: 1, max: 1000 }),
      fc.boolean(),
      async (norm, d, heads, rows, salt, odd) => {
        const graph = normed(norm, d, heads);
        const shape = [rows, ...(heads === undefined ? [] : [heads]), d];
        const count = rows * (heads ?? 1) * d;
        const x = floats(count, salt);
        // Numbers that are none stay in their row.
        if (odd && count > d) [NaN, Infinity, -0].forEach((v, i) => i < d && (x[i] = v));
        const vector = (name: string, more: number) =>
          graph.nodes.some((n) => n.kind === "input" && n.name === name)
            ? { [name]: { dtype: "f32" as const, shape: [d], data: floats(d, salt + more) } }
            : {};
        const inputs = {
          x: { dtype: "f32" as const, shape, data: x },
          "d.y": { dtype: "f32" as const, shape, data: floats(count, salt + 1) },
          ...vector("gamma", 2),
          ...vector("beta", 3),
        };
        const wide = Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, f64(t)]));
        const expected = evalGraph(graph, referenceOf, { inputs: wide, params: {}, states: {} }).outputs;
        const compare = (outputs: Readonly<Record<string, { readonly data: ArrayLike<number> }>>, on: string): void => {
          for (const [name, { data }] of Object.entries(expected))
            data.forEach((v, i) => {
              const found = outputs[name]?.data[i] ?? -12345;
              if (!Object.is(found, v) && !(Math.abs(found - v) <= 2e-4 * (1 + Math.abs(v))) && !(Number.isNaN(found) && Number.isNaN(v)))
                throw new Error(`${on}: ${name}[${i}] is ${found}, not ${v}`);
            });
        };
        await using session = await Session.create(compileGraph(graph), { device });
        compare((await session.run(inputs)).outputs, "WebAssembly");
        compare(
          await emulated(compileGraph(graph, { target: "webgpu", features: { subgroups: 4, f16: false } }), 0, wide),
          "the emulator of GPUs",
        );
      },
    ),
    { numRuns: Math.ceil(runs / 8), seed },
  );
}, 120_000);

test.each(["layer_norm", "rms_norm"] as const)("%s with what its derivative reads is one kernel, and its derivative two", (norm) => {
  const { plan } = compileGraph(normed(norm, 96, undefined));
  const [y] = plan.outputs;
  const steps = plan.steps.flatMap((s) => (s.k === "dispatch" ? [s.buffers] : []));
  expect(steps.length).toBe(3);
  expect(steps[0]).toContain(y?.buffer);
});

test("what is costly is not made twice for a row that is stored", () => {
  const b = new GraphBuilder("costly", typeRule);
  const t = b.symbol("T", 1, 4096);
  const shape = [t, dim(40)];
  const e = b.op("exp", [b.input("x", { dtype: "f32", shape })]);
  const sum = b.op("reduce_sum", [e], { axes: [1], keep: true });
  b.output("e", e);
  b.output("share", b.op("div", [e, b.op("broadcast", [sum], { shape })]));
  const { kernels, plan } = compileGraph(b.build());
  const exps = (x: Expr): boolean => (x.k === "unary" && x.op === "exp") || operandsOf(x).some(exps);
  expect(kernels.flatMap((k) => k.stages.filter((s) => exps(s.value))).length).toBe(1);
  expect(plan.steps.length).toBe(2);
});

test("one layer of the encoder, forward and backward, is 31 kernels", () => {
  const whole = graphOf("graphs/clip-vit.uhd", "clip_vit_layer", { vit_width: 128, vit_heads: 2, vit_hidden: 256 });
  const graph = mergeTrained(whole, () => true);
  const nodes = graph.nodes.map((n): GraphNode =>
    n.kind === "param" ? { kind: "state", id: n.id, type: n.type, loc: n.loc, name: n.name } : n,
  );
  const wrt = nodes.flatMap((n) => (n.kind === "state" || n.kind === "input" ? [n.id] : []));
  const { plan, plainLoops } = compileGraph(gradient({ ...graph, nodes }, { wrt }));
  expect(plainLoops).toEqual([]);
  expect(plan.steps.length).toBeLessThanOrEqual(31);
});

test("layers that are joined in a training step have the gradients that they have apart; weights too large to bind stay apart", () => {
  const b = new GraphBuilder("projections", typeRule);
  const t = b.symbol("T", 0, 64);
  const param = (name: string, ...shape: readonly number[]) => b.param(name, { dtype: "f32", shape: shape.map((n) => dim(n)) });
  const x = b.input("x", { dtype: "f32", shape: [t, dim(6)] });
  const layer = (name: string) => b.op("linear", [x, param(`${name}.weight`, 4, 6), param(`${name}.bias`, 4)]);
  const [q, k, v] = [layer("q"), layer("k"), layer("v")];
  b.output("y", b.op("mul", [b.op("tanh", [q]), b.op("add", [k, b.op("mul", [v, v])])]));
  const apart = b.build();
  const joined = mergeTrained(apart, () => true);
  const layers = (g: Graph): number => g.nodes.filter((n) => n.kind === "op" && n.op === "linear").length;
  expect(
    [apart, joined, mergeTrained(apart, () => true, 3 * 4 * 6 * 4), mergeTrained(apart, () => true, 3 * 4 * 6 * 4 - 1)].map(layers),
  ).toEqual([3, 1, 1, 3]);
  expect(layers(mergeTrained(apart, (name) => name !== "k.bias"))).toBe(2);
  for (const rows of [0, 1, 5]) {
    const of = (shape: readonly number[], salt: number) =>
      f64({
        dtype: "f32",
        shape,
        data: floats(
          shape.reduce((n, d) => n * d, 1),
          salt,
        ),
      });
    const params = Object.fromEntries(
      apart.nodes.flatMap((n, i) =>
        n.kind === "param"
          ? [
              [
                n.name,
                of(
                  n.type.shape.map((d) => Number(d.text)),
                  i,
                ),
              ],
            ]
          : [],
      ),
    );
    const given = { inputs: { x: of([rows, 6], 100), "d.y": of([rows, 4], 101) }, params, states: {} };
    const gradients = (g: Graph) => {
      const wrt = g.nodes.flatMap((n) => (n.kind === "param" || n.kind === "input" ? [n.id] : []));
      return evalGraph(gradient(g, { wrt }), referenceOf, given).outputs;
    };
    const found = gradients(joined);
    for (const [name, { data, shape }] of Object.entries(gradients(apart))) {
      expect(found[name]?.shape, name).toEqual(shape);
      data.forEach((value, i) => expect(found[name]?.data[i], `${name}[${i}]`).toBeCloseTo(value, 12));
    }
  }
});
