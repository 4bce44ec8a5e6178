// States and the integers of a run: rows are appended where they are when nothing else reads the state, and the result is
// the same when something does. On the float64 evaluator and the WebAssembly device, fused and not, run after run.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { loadProgram, type Program } from "../compiler/check/index.ts";
import { compileGraph } from "../compiler/compile.ts";
import { parseGraph } from "../compiler/ir/graph/parse.ts";
import { printGraph } from "../compiler/ir/graph/print.ts";
import type { Graph } from "../compiler/ir/graph/types.ts";
import { formatFile } from "../compiler/syntax/format.ts";
import { runs, seed } from "./conformance/property.ts";
import { agreement, compiledHows, f32Tensor, openRunner } from "./graphs-support.ts";

function program(text: string): Program {
  return loadProgram("test.uhd", { readText: () => text });
}

function graph(text: string): Graph {
  const { diagnostics, graphs } = program(text);
  const [only] = graphs.values();
  if (only === undefined) throw new Error(diagnostics.map((d) => d.message).join("\n"));
  return only;
}

/** Messages of every problem. */
const problems = (text: string): readonly string[] => program(text).diagnostics.map((d) => `${d.code} ${d.message}`);

// ---- Rows written in place ----------------------------------------------------------------------------------------

/** A cache of seven rows of five; `body` has x: f32[N, 5] and at, and writes it. */
const cached = (body: string, results = "y: f32[7, 5]"): Graph =>
  graph(`
    module M() {
      param w: f32[5, 5]
      param g: f32[5]
    }
    graph test(x: f32[N in 0..=7, 5], at: int in 0..=7) -> (${results}) {
      use m = M()
      state cache: f32[7, 5]
      state other: f32[7, 5]
      ${body}
    }`);

/** What is written, from the run's rows and from parameters. */
const rows = {
  "an input": "x",
  "a product": "linear(x, m.w)",
  "a sum of products": "x + silu(linear(x, m.w))",
  "a norm": "rms_norm(x, m.g, eps: 0.00001)",
  "a softmax": "softmax(x, axis: -1)",
  "a reordering": "reshape(transpose(reshape(x, [N, 1, 5]), permutation: [1, 0, 2]), [N, 5])",
  "a constant": "x * 0 + 3",
};

interface Case {
  readonly says: string;
  readonly graph: Graph;
  /** Whether the cache is written in place. */
  readonly inPlace: boolean;
  /** Where kernels are fused it is: one kernel reads the old value where it writes the new one, element by element. */
  readonly whenFused?: true;
}

const cases: readonly Case[] = [
  ...Object.entries(rows).map(([says, made]) => ({
    says: `${says}, read after it was written`,
    inPlace: true,
    graph: cached(`let now = write_rows(cache, ${made}, at: at)\n cache = now\n now * 2 + 1`),
  })),
  {
    says: "rows that are read too",
    inPlace: true,
    graph: cached("let k = tanh(x)\n let now = write_rows(cache, k, at: at)\n cache = now\n (now, k)", "y: f32[7, 5], k: f32[N, 5]"),
  },
  { says: "the new value as a result", inPlace: true, graph: cached("let now = write_rows(cache, x, at: at)\n cache = now\n now") },
  {
    says: "the new value as two results",
    inPlace: true,
    graph: cached("let now = write_rows(cache, x, at: at)\n cache = now\n (now, now)", "y: f32[7, 5], z: f32[7, 5]"),
  },
  {
    says: "a part of the new value",
    inPlace: true,
    graph: cached("let now = write_rows(cache, x, at: at)\n cache = now\n now[0:at + N] @ m.w", "y: f32[at + N, 5]"),
  },
  {
    says: "another state that gets the new value",
    inPlace: true,
    graph: cached("let now = write_rows(cache, x, at: at)\n cache = now\n other = now\n other - now"),
  },
  {
    says: "a parameter",
    inPlace: true,
    graph: cached("let now = write_rows(cache, m.w, at: 1)\n cache = now\n now + reduce_sum(x, axes: [0, 1], keep: true)"),
  },
  {
    says: "the old value read beside the new one",
    inPlace: false,
    whenFused: true,
    graph: cached("let now = write_rows(cache, x, at: at)\n cache = now\n now - 2 * cache"),
  },
  { says: "the old value as a result", inPlace: false, graph: cached("cache = write_rows(cache, x, at: at)\n cache") },
  {
    says: "rows made of the old value",
    inPlace: false,
    graph: cached("let now = write_rows(cache, x + cache[0:N], at: at)\n cache = now\n now"),
  },
  {
    says: "another state that gets the old value",
    inPlace: false,
    graph: cached("let now = write_rows(cache, x, at: at)\n other = cache\n cache = now\n now + other"),
  },
  {
    says: "states that change places",
    inPlace: false,
    whenFused: true,
    graph: cached("let now = write_rows(cache, x, at: at)\n cache = write_rows(other, x, at: at)\n other = now\n now"),
  },
  {
    says: "two writes one after the other",
    inPlace: false,
    graph: cached("let now = write_rows(write_rows(cache, x, at: at), x + 1, at: 0)\n cache = now\n now"),
  },
  {
    says: "the state's elements in another shape",
    inPlace: false,
    graph: cached("let now = write_rows(reshape(cache, [7, 5]) * 1, x, at: at)\n cache = now\n now"),
  },
];

const params = { "m.w": f32Tensor([5, 5], (i) => Math.sin(i)), "m.g": f32Tensor([5], (i) => 1 + i / 10) };

describe.each(cases)("a cache with $says", (c) => {
  const names = new Set(c.graph.nodes.flatMap((n) => (n.kind === "param" ? [n.name] : [])));
  const given = Object.fromEntries(Object.entries(params).filter(([name]) => names.has(name)));

  test.each(compiledHows)("is what it says on %s, run after run", async (how) => {
    await using compiled = await openRunner(c.graph, given, how);
    await using reference = await openRunner(c.graph, given, "reference");
    // What was kept by the runs before is part of what is compared: neither side begins anew.
    const anyRun = fc.tuple(fc.nat(7), fc.nat(7), fc.nat(99)).filter(([n, at]) => n + at <= 7);
    const once = async ([n, at, salt]: readonly [number, number, number]): Promise<void> => {
      const x = f32Tensor([n, 5], (i) => Math.cos(3 * i + salt));
      const [expected, found] = [await reference.run({ x }, { at }), await compiled.run({ x }, { at })];
      expect(Object.keys(found)).toEqual(Object.keys(expected));
      for (const [name, value] of Object.entries(expected)) {
        expect(found[name]?.shape).toEqual(value.shape);
        const largest = value.data.reduce((most, v) => Math.max(most, Math.abs(v)), 1);
        expect(agreement(found[name]?.data ?? [], value.data).error / largest, name).toBeLessThan(1e-5);
      }
    };
    await once([7, 0, 1]);
    await fc.assert(fc.asyncProperty(anyRun, once), { numRuns: Math.min(runs, 30), seed });
  });

  test(c.inPlace ? "is written in place" : "is written anew", () => {
    for (const fuse of [true, false]) {
      const { plan } = compileGraph(c.graph, { fuse });
      const state = plan.states.find((s) => s.name === "cache");
      expect(state?.update === state?.buffer).toBe(c.inPlace || (fuse && c.whenFused === true));
    }
  });
});

// ---- States of modules --------------------------------------------------------------------------------------------

describe("a state in a module", () => {
  const counting = (uses: string, body: string): string => `
    module Sum(d: int) {
      forward(x: f32[d]) -> f32[d] {
        state total: f32[d]
        let now = total + x
        total = now
        now
      }
    }
    graph g(x: f32[3]) -> y: f32[3] {
      ${uses}
      ${body}
    }`;

  test("is the part's own, named as its parameters are", () => {
    const g = graph(counting('use a = Sum(3) at "first"\n use b[2] = Sum(3) at "more"', "a(x) + b[0](x) + b[1](x)"));
    expect(g.nodes.flatMap((n) => (n.kind === "state" ? [n.name] : []))).toEqual(["first.total", "more.0.total", "more.1.total"]);
    expect(g.updates.map((u) => u.state)).toEqual(["first.total", "more.0.total", "more.1.total"]);
  });

  test("cannot be written by two calls", () => {
    expect(problems(counting("use a = Sum(3)", "a(a(x))"))).toEqual(["UHD0102 the state a.total is declared twice"]);
  });
});

// ---- Integers of a run --------------------------------------------------------------------------------------------

describe("an integer of a graph", () => {
  const text = "graph g(x: f32[N in 1..=9], past: int in 0..=20, step: int) -> y: f32[N] {\n  x * past + step\n}\n";

  test("is a symbol that the caller gives, with its bounds", () => {
    const g = graph(text);
    expect(g.symbols).toEqual([
      { name: "N", lower: 1, upper: 9 },
      { name: "past", lower: 0, upper: 20, argument: true },
      { name: "step", lower: 0, argument: true },
    ]);
    expect(parseGraph(printGraph(g))).toEqual(g);
    expect(printGraph(g)).toContain("  argument past: 0..20\n");
  });

  test("is formatted with its bounds", () => {
    expect(formatFile(text, "test.uhd")).toBe(text);
    expect(formatFile(text.replace("in 0..=20", "in   0 ..= 20"), "test.uhd")).toBe(text);
  });

  test.each(compiledHows)("counts in tensor code and in shape code on %s", async (how) => {
    const g = graph(
      "graph g(x: f32[N in 1..=9], past: int in 0..=20) -> (y: f32[N], z: f32[past]) {\n" +
        "  table t: f32[past] = [i + past for i in 0..past]\n  (x * past, t + 0.5)\n}",
    );
    await using runner = await openRunner(g, {}, how);
    for (const past of [3, 4, 3, 0, 20]) {
      const { y, z } = await runner.run({ x: f32Tensor([2], (i) => i + 1) }, { past });
      expect([...(y?.data ?? [])]).toEqual([past, 2 * past]);
      expect([...(z?.data ?? [])]).toEqual(Array.from({ length: past }, (_, i) => i + past + 0.5));
    }
  });

  test.each([
    ["graph g(x: f32[3], n: int in 3..=1) -> y: f32[3] { x }", "UHD0308 no size is within these bounds"],
    ["graph g(x: f32[N], N: int) -> y: f32[N] { x }", "UHD0102 N is declared twice"],
    ["graph g(n: int, x: f32[n]) -> y: f32[n] { x }", undefined],
    ["graph g(x: f32[3] in 0..=9) -> y: f32[3] { x }", "UHD0308 bounds are for the sizes of a tensor and the integers of a graph"],
    ["fn f(n: int in 0..=9) -> int = n", "UHD0308 bounds are for the sizes of a tensor and the integers of a graph"],
    [
      "module M(n: int in 0..=9) { forward(x: f32[n]) -> f32[n] { x } }",
      "UHD0308 bounds are for the sizes of a tensor and the integers of a graph",
    ],
    [
      "module M() { forward(x: f32[3], n: int in 0..=9) -> f32[3] { x * n } }",
      "UHD0308 bounds are for the sizes of a tensor and the integers of a graph",
    ],
    [
      "graph g(x: f32[3], n: float) -> y: f32[3] { x }",
      "UHD0306 an input of a graph is a tensor or an integer, or a list, tuple or record",
    ],
  ])("%s", (source, problem) => {
    expect(problems(source)).toEqual(problem === undefined ? [] : [problem]);
  });
});

// ---- Limits -------------------------------------------------------------------------------------------------------

describe("sizes that leave a tensor", () => {
  test.each([
    ["x[a:a + 2]", "f32[2]", { a: 4 }, /a part of a dimension is not within it \(test\.uhd:1:\d+\): a \+ 2 is 6, and there are 5/],
    ["x[a:b]", "f32[b - a]", { a: 3, b: 2 }, /a part of a dimension is not within it .*: a is 3, and there are 2/],
    [
      "write_rows(x, x[0:2], at: a)",
      "f32[5]",
      { a: 4 },
      /context overflow: the rows do not fit in the tensor: a \+ 2 is 6, and there are 5/,
    ],
  ])("are refused before anything is written: %s", async (body, type, integers, message) => {
    const g = graph(`graph g(x: f32[5], a: int, b: int) -> y: ${type} { ${body} }`);
    await using runner = await openRunner(g, {}, "wasm");
    const x = f32Tensor([5], (i) => i);
    await expect(runner.run({ x }, { b: 0, ...integers })).rejects.toThrow(message);
    await expect(runner.run({ x }, { a: 1, b: 3 })).resolves.toBeDefined();
  });

  test("are not asked about where the bounds of sizes show it", () => {
    const text = (most: number): string =>
      `graph g(x: f32[5], a: int in 0..=${most}) -> y: f32[2] { write_rows(x, x[0:2], at: a)[a:a + 2] }`;
    expect(compileGraph(graph(text(3))).plan.limits).toEqual([]);
    expect(compileGraph(graph(text(4))).plan.limits).toMatchObject([{ value: "a + 2", most: "5" }]);
  });
});
