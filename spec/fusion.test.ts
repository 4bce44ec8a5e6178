// What fusion must achieve, read from the compiled kernels and plans: one kernel for softmax and normalisation, epilogues
// in matrix multiplies, attention without scores in memory, two kernels from pixels to patches, seven for a layer of
// the encoder. And that it can be turned off, stopped and asked for its reasons.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { loadProgram } from "../compiler/check/index.ts";
import { compileGraph, type Compiled, type CompileOptions } from "../compiler/compile.ts";
import { renderDiagnostics } from "../compiler/diagnostics/index.ts";
import { attentionParts } from "../compiler/fuse/patterns.ts";
import { usefulFlops } from "../compiler/fuse/work.ts";
import { bool, i32, mapOperands } from "../compiler/ir/kernel/build.ts";
import type { Expr } from "../compiler/ir/kernel/types.ts";
import { dimEval, dimParse } from "../compiler/ir/dim.ts";
import type { Graph } from "../compiler/ir/graph/types.ts";
import { bindPlan } from "../compiler/ir/plan/bind.ts";
import type { Step } from "../compiler/ir/plan/types.ts";

type Dispatch = Extract<Step, { k: "dispatch" }>;

function graphOf(file: string, name: string, config: Readonly<Record<string, string>> = {}, text?: string): Graph {
  const program = loadProgram(file, { readText: (f) => (f === file && text !== undefined ? text : readFileSync(f, "utf8")), config });
  const graph = program.graphs.get(name);
  if (graph === undefined) throw new Error(renderDiagnostics(program.diagnostics, program.sources, { color: false }));
  return graph;
}

/** Compiles the body of a graph with inputs x, y: f32[T, 64] and parameters w: f32[96, 64], b: f32[96], g, h: f32[64]. */
function compiled(body: string, result = "f32[T, 64]", options: CompileOptions = {}): Compiled {
  const text = `
    module M() {
      param w: f32[96, 64]
      param b: f32[96]
      param g: f32[64]
      param h: f32[64]
      param s: f32[96]
      param q: f32[64, 8]
      param half: f16[8, 64]
    }
    graph test(x: f32[T in 1..=4096, 64], y: f32[T, 64], z: f32[T, 96]) -> out: ${result} {
      use m = M()
      ${body}
    }`;
  return compileGraph(graphOf("test.uhd", "test", {}, text), options);
}

const dispatches = (c: Compiled): readonly Dispatch[] => c.plan.steps.filter((s) => s.k === "dispatch");
const kernelNames = (c: Compiled): readonly string[] => dispatches(c).map((s) => s.kernel);

describe("one kernel each", () => {
  test.each([
    ["softmax", "softmax(x, axis: -1)"],
    ["softmax along the first dimension", "softmax(x, axis: 0)"],
    ["log softmax", "log_softmax(x, axis: -1)"],
    ["layer norm", "layer_norm(x, m.g, m.h, eps: 0.00001)"],
    ["RMS norm", "rms_norm(x, m.g, eps: 0.00001)"],
    ["layer norm of a sum", "layer_norm(x + y, m.g, m.h, eps: 0.00001)"],
    ["a chain of elementwise operations", "tanh(x * 2 + y) - x / (1 + abs(y))"],
  ])("%s", (_, body) => {
    expect(kernelNames(compiled(body))).toHaveLength(1);
  });

  test("a multiply with its bias", () => {
    const c = compiled("linear(x, m.w, m.b)", "f32[T, 96]");
    expect(kernelNames(c)).toEqual([expect.stringMatching(/^matmul/)]);
    expect(c.plan.prepare).toHaveLength(1);
  });

  test("a multiply with bias, GELU (which reads its input twice), scale and residual", () => {
    for (const gelu of ["quick_gelu", "gelu", "gelu_tanh", "silu"]) {
      const c = compiled(`z + ${gelu}(linear(x, m.w, m.b)) * m.s`, "f32[T, 96]");
      expect(kernelNames(c), gelu).toEqual([expect.stringMatching(/^matmul/)]);
    }
  });

  test("a GELU of a product without bias, where the product itself is read twice", () => {
    expect(kernelNames(compiled("quick_gelu(linear(x, m.w))", "f32[T, 96]"))).toHaveLength(1);
  });

  test("three projections of one operand", () => {
    const c = compiled("linear(x, m.w, m.b) + linear(x, m.w * 2, m.b) * linear(x, m.w * 3, m.s)", "f32[T, 96]");
    expect(kernelNames(c).filter((k) => k.startsWith("matmul"))).toHaveLength(1);
  });
});

describe("attention over ragged segments", () => {
  const c = compileGraph(graphOf("graphs/clip-vit.uhd", "clip_vit_layer_ragged"));
  const attention = dispatches(c).filter((s) => s.kernel.startsWith("attention"));

  test("is one kernel", () => {
    expect(attention).toHaveLength(1);
  });

  test("keeps no scores: no value of a run grows with the square of the tokens", () => {
    const bytes = (n: number): number =>
      Math.max(...bindPlan(c.plan, { x: [2, n, 1024] }).buffers.map((b, id) => (c.plan.buffers[id]?.place.k === "arena" ? b.bytes : 0)));
    expect(bytes(1000)).toBe(10 * bytes(100));
    const scratch = c.plan.kernels.find((k) => k.name === attention[0]?.kernel)?.scratch ?? "";
    expect(Number(scratch)).toBeLessThan(1_000_000);
  });

  test("counts the pairs that see each other, not all", () => {
    const { env } = bindPlan(c.plan, { x: [3, 100, 1024] });
    expect(dimEval(dimParse(attention[0]?.flops ?? "0"), env)).toBe(4 * 16 * 64 * 3 * 100 * 100);
  });
});

describe("attention is recognised", () => {
  const kernel = compileGraph(graphOf("graphs/clip-vit.uhd", "clip_vit_layer")).kernels.find((k) => k.pattern?.k === "attention");
  const stage = kernel?.stages[0];
  if (stage?.k !== "store" || stage.value.k !== "select" || stage.value.a.k !== "binary")
    throw new Error("there is no attention to look at");
  const [whole, quotient] = [stage.value, stage.value.a];
  const with_ = (a: Expr): Expr => ({ ...whole, a: { ...quotient, b: a } });

  test("where all passes over the keys have the same scores and the same range", () => {
    expect(attentionParts(whole)).toMatchObject({ scale: 0.125 });
  });

  test("not where one has another scale, other keys or another guard", () => {
    const total = quotient.b;
    if (total.k !== "fold") throw new Error("the divisor is no sum");
    const doubled = (e: Expr): Expr => (e.k === "const" && e.value === 0.125 ? { ...e, value: 0.25 } : mapOperands(e, doubled));
    expect(attentionParts(with_({ ...total, body: doubled(total.body) }))).toBeUndefined();
    expect(attentionParts(with_({ ...total, from: i32(0) }))).toBeUndefined();
    expect(attentionParts({ ...whole, b: { k: "const", type: "f32", value: 1 } })).toBeUndefined();
    expect(attentionParts({ ...whole, cond: bool(true) })).toBeUndefined();
  });
});

describe("the graphs", () => {
  test("a layer of the encoder is seven kernels", () => {
    const c = compileGraph(graphOf("graphs/clip-vit.uhd", "clip_vit_layer"));
    expect(kernelNames(c).map((k) => k.replace(/_\d+$/, ""))).toEqual([
      "rows",
      "matmul",
      "attention",
      "matmul",
      "rows",
      "matmul",
      "matmul",
    ]);
    // The two norms are the same code.
    expect(new Set(kernelNames(c)).size).toBe(6);
  });

  test("layers share their code", () => {
    const [few, many] = [2, 5].map((layers) => compileGraph(graphOf("graphs/clip-vit.uhd", "clip_vit", { layers: String(layers) })));
    expect(few?.kernels.length).toBe(many?.kernels.length);
    expect((many?.plan.steps.length ?? 0) - (few?.plan.steps.length ?? 0)).toBe(21);
  });

  test.each(["paper", "seed", "v1", "minicpm-v"])(
    "crop, resize, normalise and patchify are two kernels for all pictures together (%s)",
    (policy) => {
      expect(kernelNames(compileGraph(graphOf("graphs/preprocess.uhd", "preprocess", { policy })))).toHaveLength(2);
    },
  );

  test("the encoder does no padding: useful over executed operations is 1.00", () => {
    const graph = graphOf("graphs/llava-uhd.uhd", "llava_uhd", { layers: "2" });
    const c = compileGraph(graph);
    const { env } = bindPlan(c.plan, { image: [1008, 672, 3] });
    const useful = usefulFlops(c.graph, env);
    const executed = dispatches(c).reduce((sum, s) => sum + dimEval(dimParse(s.flops), env), 0);
    expect((useful / executed).toFixed(2)).toBe("1.00");
    expect(useful).toBeLessThanOrEqual(executed);
  });

  test("what only a run's sizes make of parameters is useful work of the run", () => {
    // tanh of a parameter that was stretched to T rows first, and a sum: 2 · 96 operations a row.
    const c = compiled("tanh(broadcast(m.b, shape: [T, 96])) + z", "f32[T, 96]");
    const { env } = bindPlan(c.plan, { x: [10, 64], y: [10, 64], z: [10, 96] });
    expect(usefulFlops(c.graph, env)).toBe(2 * 96 * 10);
    expect(dispatches(c).reduce((sum, s) => sum + dimEval(dimParse(s.flops), env), 0)).toBe(2 * 96 * 10);
  });

  test("every step of the encoder names the lines it comes from", () => {
    const c = compileGraph(graphOf("graphs/clip-vit.uhd", "clip_vit_layer"));
    for (const s of dispatches(c)) {
      expect(s.sources.length).toBeGreaterThan(0);
      for (const source of s.sources) expect(source).toMatch(/^graphs\/[\w-]+\.uhd:\d+:\d+( < graphs\/[\w-]+\.uhd:\d+:\d+)*$/);
    }
  });
});

describe("what no builder takes is told", () => {
  test("a multiply of what is kept in f16 runs as plain loops, one of what is rounded to it does not", () => {
    const kept = compiled("cast(m.half @ transpose(cast(x, f16), permutation: [1, 0]), f32)", "f32[8, T]");
    expect(kept.plainLoops).toEqual(kernelNames(kept).filter((k) => k.startsWith("matmul")));
    expect(kept.plainLoops).toHaveLength(1);
    const rounded = compiled("cast(cast(x, f16) @ cast(m.q, f16), f32)", "f32[T, 8]");
    expect(rounded.plainLoops).toEqual([]);
  });

  test("the graphs of the family have none", () => {
    for (const name of ["llava-uhd", "llava-uhd-v1"]) {
      const c = compileGraph(graphOf(`graphs/${name}.uhd`, name.replaceAll("-", "_"), { layers: "2" }));
      expect(c.plainLoops, name).toEqual([]);
    }
    expect(compileGraph(graphOf("graphs/llama.uhd", "llama", { llama_layers: "2" })).plainLoops).toEqual([]);
  });
});

describe("fusion", () => {
  test("can be turned off: a kernel for each operation", () => {
    const fused = compiled("softmax(x, axis: -1)");
    const unfused = compiled("softmax(x, axis: -1)", "f32[T, 64]", { fuse: false });
    expect(kernelNames(fused)).toHaveLength(1);
    expect(kernelNames(unfused)).toHaveLength(fused.graph.nodes.filter((n) => n.kind === "op").length);
  });

  test("stops after the gas is used up, one decision at a time", () => {
    const counts = Array.from(
      { length: 9 },
      (_, gas) => kernelNames(compiled("softmax(x, axis: -1)", "f32[T, 64]", { fusionGas: gas })).length,
    );
    for (const [i, n] of counts.entries()) if (i > 0) expect(n).toBeLessThanOrEqual(counts[i - 1] ?? 0);
    expect(counts[0]).toBeGreaterThan(3);
    expect(counts.at(-1)).toBe(1);
  });

  test("says why it declined, and where", () => {
    const c = compileGraph(graphOf("graphs/clip-vit.uhd", "clip_vit_layer"));
    expect(c.declined.map((d) => `${d.producer} -> ${d.consumer}: ${d.reason}`)).toMatchInlineSnapshot(`
      [
        "add -> matmul: a matrix multiply reads its left operand from memory",
        "concat -> broadcast: it depends on parameters alone, so it is made once",
        "add -> slice: attention reads its operands from memory",
        "attention -> reshape: attention is a kernel of its own",
        "add -> reduce_sum: 2 kernels read it",
        "add -> matmul: a matrix multiply reads its left operand from memory",
        "mul -> matmul: a matrix multiply reads its left operand from memory",
      ]
    `);
    for (const d of c.declined) expect(d.at).toMatch(/^graphs\/.*\.uhd:\d+:\d+$/);
  });

  test("does not make a costly value twice", () => {
    // The norm reads the sum in three passes, so the multiply with its bias is written first.
    const c = compiled("rms_norm(linear(x, m.w, m.b), m.s, eps: 0.00001)", "f32[T, 96]");
    expect(kernelNames(c).map((k) => k.replace(/_\d+$/, ""))).toEqual(["matmul", "rows"]);
  });

  test("what depends on parameters alone is made once, when weights are loaded", () => {
    const c = compiled("x * (softmax(m.g * 2, axis: -1) + tanh(m.h))");
    expect(kernelNames(c)).toHaveLength(1);
    expect(c.plan.prepare.length).toBeGreaterThan(0);
    const made = c.plan.prepare.flatMap((s) => (s.k === "dispatch" ? s.buffers.slice(-1) : []));
    expect(made.every((b) => c.plan.buffers[b]?.place.k === "persistent")).toBe(true);
  });
});
