// A parameter that rows are looked up in and that is multiplied by is on the device once: the kernels that look up read the
// product's panels. What is computed stays the same to the bit, whatever the numbers and sizes; who does more with the
// parameter than look up rows keeps it.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { loadProgram } from "../compiler/check/index.ts";
import { compileGraph } from "../compiler/compile.ts";
import { dimEval, dimParse } from "../compiler/ir/dim.ts";
import type { Graph } from "../compiler/ir/graph/types.ts";
import { weightsMemory } from "../compiler/ir/plan/memory.ts";
import type { Plan } from "../compiler/ir/plan/types.ts";
import { Session } from "../runtime/session.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { runs, seed } from "./conformance/property.ts";
import { graphOf } from "./graphs-support.ts";

/** `body` has the table m.w, ids: i32[N] and given: f32[G, d]. */
function tied(body: string, results: string, [rows, d]: readonly [number, number]): Graph {
  const text = `
    module M() {
      param w: f32[${rows}, ${d}]
      param g: f32[${d}]
      param o: f32[${d}, ${d}]
    }
    graph test(ids: i32[N in 0..=64], given: f32[G in 0..=64, ${d}]) -> (${results}) {
      use m = M()
      ${body}
    }`;
  const { diagnostics, graphs } = loadProgram("test.uhd", { readText: () => text });
  const [only] = graphs.values();
  if (only === undefined) throw new Error(diagnostics.map((x) => x.message).join("\n"));
  return only;
}

const head = "linear(y, m.w)";
const [rows, d] = [21, 12];

/** Is the parameter itself, and are its panels, read in runs? */
function read({ steps, buffers, params }: Plan, name = "w"): { readonly itself: boolean; readonly panels: number } {
  const param = params.find((p) => p.name.endsWith(name));
  const readers = steps.flatMap((s) => (s.k === "dispatch" ? [s.buffers.slice(0, -1)] : [[s.from]]));
  const panels = (id: number): boolean => buffers[id]?.name.startsWith(`${param?.name ?? "none"} in panels`) === true;
  return { itself: readers.some((r) => r.some((id) => id === param?.buffer)), panels: readers.filter((r) => r.some(panels)).length };
}

describe("the parameter goes when its panels are made", () => {
  const uses = {
    "looked up": "let y = gather(m.w, ids) * 2",
    "looked up beside rows that are given": "let y = gather(concat(m.w, given, axis: 0), ids) * 2",
    "looked up under a norm": "let y = rms_norm(gather(m.w, ids), m.g, eps: 0.00001)",
    "added behind another product": "let x = gather(m.w, ids)\nlet y = linear(silu(x), m.o) + x",
  };
  test.each(Object.entries(uses))("%s", (_, body) => {
    const { plan } = compileGraph(tied(`${body}\n${head}`, `z: f32[N, ${rows}]`, [rows, d]));
    expect(read(plan).itself).toBe(false);
    expect(read(plan).panels).toBeGreaterThan(1);
  });

  test("for WebGPU too", () => {
    const graph = tied(`${uses["looked up"]}\n${head}`, `z: f32[N, ${rows}]`, [rows, d]);
    expect(read(compileGraph(graph, { target: "webgpu", features: [] }).plan)).toEqual({ itself: false, panels: 2 });
  });

  test("so that a tied model's weights count once", () => {
    const config = {
      width: 64,
      llama_layers: 1,
      heads: 2,
      kv_heads: 1,
      head_width: 32,
      ffn: 32,
      vocabulary: 4096,
      context: 64,
      tied: "true",
    };
    const texts = Object.fromEntries(Object.entries(config).map(([name, value]) => [name, String(value)]));
    const { plan } = compileGraph(graphOf("graphs/llama.uhd", "llama", texts));
    const parameters = plan.params.reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 4), 0);
    const states = 2 * 64 * 32 * 4;
    // And RoPE's frequencies.
    expect(weightsMemory(plan).kept).toBe(parameters + states + 64);
    expect(read(plan, "embed_tokens.weight").itself).toBe(false);
    // A row looked up is a row's bytes, not the table's.
    const lookup = plan.steps.find((s) => s.k === "dispatch" && s.buffers.some((b) => plan.buffers[b]?.name === "rows"));
    if (lookup?.k !== "dispatch") throw new Error("rows are looked up");
    expect(dimEval(dimParse(lookup.bytes), { N: 1, V: 0, past: 0, attention_pairs: 1 })).toBeLessThan(64 * 64);
  });
});

describe("the parameter stays", () => {
  test.each([
    ["where nothing multiplies by it", "gather(m.w, ids) * 2", `f32[N, ${d}]`],
    ["where it is a result", `let y = gather(m.w, ids)\n(${head}, m.w)`, `f32[N, ${rows}], w: f32[${rows}, ${d}]`],
    ["where all of it is read", `let y = gather(m.w, ids)\n(${head}, given[0:1] + m.w)`, `f32[N, ${rows}], s: f32[${rows}, ${d}]`],
  ])("%s", (_, body, results) => {
    expect(read(compileGraph(tied(body, `z: ${results}`, [rows, d])).plan).itself).toBe(true);
  });

  test("where fusion is off", () => {
    const { plan } = compileGraph(tied(`let y = gather(m.w, ids)\n${head}`, `z: f32[N, ${rows}]`, [rows, d]), { fuse: false });
    expect(read(plan).itself).toBe(true);
  });
});

test("weights are never much more than in the end while they are packed, and never more than is predicted", async () => {
  const config = {
    width: 64,
    llama_layers: 6,
    heads: 2,
    kv_heads: 1,
    head_width: 32,
    ffn: 512,
    vocabulary: 4096,
    context: 64,
    tied: "true",
  };
  const texts = Object.fromEntries(Object.entries(config).map(([name, value]) => [name, String(value)]));
  const compiled = compileGraph(graphOf("graphs/llama.uhd", "llama", texts));
  const { plan } = compiled;
  const { kept, peak } = weightsMemory(plan);
  // The table is 1 MiB; it is held twice while nothing else is there. Gate and up of a layer are 256 KiB together.
  expect(peak).toBeLessThanOrEqual(kept + 2 ** 18);
  await using device = await WasmDevice.create({ threads: 1 });
  let most = 0;
  const watched = new Proxy(device, {
    get: (of, name) => {
      const value: unknown = Reflect.get(of, name, of);
      if (typeof value !== "function") return value;
      return (...args: readonly unknown[]): unknown => {
        const result: unknown = Reflect.apply(value, of, args);
        most = Math.max(most, of.used);
        return result;
      };
    },
  });
  const before = device.used;
  await using session = await Session.create(compiled, { device: watched, init: { seed: 1 } });
  // Every buffer is rounded up to whole cache lines and one more.
  const rounding = 128 * plan.buffers.length;
  expect(most - before).toBeLessThanOrEqual(peak + rounding);
  expect(most - before).toBeGreaterThanOrEqual(kept);
  expect(session.weightBytes).toBe(kept);
});

test("rows that are looked up in panels are the parameter's, to the bit", async () => {
  await using device = await WasmDevice.create({ threads: 1 });
  const special = [NaN, Infinity, -Infinity, -0, 0, 1e-45, 3.4e38];
  const number = fc.oneof(fc.float({ noNaN: true }), fc.constantFrom(...special));
  const cases = fc
    .record({ rows: fc.constantFrom(1, 2, 7, 8, 9, 16, 21), d: fc.constantFrom(1, 2, 4, 5, 12), count: fc.constantFrom(0, 1, 2, 9) })
    .chain((c) =>
      fc.record({
        c: fc.constant(c),
        w: fc.array(number, { minLength: c.rows * c.d, maxLength: c.rows * c.d }),
        ids: fc.array(fc.nat(c.rows - 1), { minLength: c.count, maxLength: c.count }),
      }),
    );
  await fc.assert(
    fc.asyncProperty(cases, async ({ c, w, ids }) => {
      const graph = tied(`let y = gather(m.w, ids)\n(${head}, y * 1)`, `z: f32[N, ${c.rows}], y: f32[N, ${c.d}]`, [c.rows, c.d]);
      const f32 = (shape: readonly number[], data: readonly number[]): Tensor<"f32"> => ({
        dtype: "f32",
        shape,
        data: Float32Array.from(data),
      });
      const zeros = (shape: readonly number[]): Tensor<"f32"> => f32(shape, new Array<number>(shape.reduce((a, b) => a * b, 1)).fill(0));
      const compiled = compileGraph(graph);
      const named = new Map(compiled.plan.params.map((p) => [p.name, f32([c.rows, c.d], w)]));
      await using session = await Session.create(compiled, { device, weights: named });
      const { outputs } = await session.run({
        ids: { dtype: "i32", shape: [ids.length], data: Int32Array.from(ids) },
        given: zeros([0, c.d]),
      });
      const y = outputs["y"];
      const want = Float32Array.from(ids.flatMap((id) => w.slice(id * c.d, (id + 1) * c.d)));
      expect([...(y?.data ?? [])].map((x) => (Number.isNaN(x) ? "NaN" : Object.is(x, -0) ? "-0" : x))).toEqual(
        [...want].map((x) => (Number.isNaN(x) ? "NaN" : Object.is(x, -0) ? "-0" : x)),
      );
    }),
    { numRuns: Math.min(runs, 40), seed },
  );
});
