// The passes over Graph IR: every pass of the list has examples, each example's `before` becomes its `after`, and a
// graph means the same after a pass as before it, on inputs that hold NaN, infinities, -0, nothing and one element.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { dimConstant, dimEval } from "../compiler/ir/dim.ts";
import { evalGraph, type ConcreteTensor, type GraphInputs } from "../compiler/ir/graph/eval.ts";
import { parseGraph } from "../compiler/ir/graph/parse.ts";
import { printGraph } from "../compiler/ir/graph/print.ts";
import type { Graph, GraphNode, ValueId } from "../compiler/ir/graph/types.ts";
import { verifyGraph } from "../compiler/ir/graph/verify.ts";
import { decompose, decomposeExamples } from "../compiler/passes/decompose.ts";
import { joinPacked, joinPackedExamples } from "../compiler/passes/join-packed.ts";
import { fewOperands, fewOperandsExamples } from "../compiler/passes/few-operands.ts";
import { mergeProjections, mergeProjectionsExamples } from "../compiler/passes/merge-projections.ts";
import { mergeTrained, mergeTrainedExamples } from "../compiler/passes/merge-trained.ts";
import { passes, runPasses } from "../compiler/passes/pipeline.ts";
import type { Example, Pass } from "../compiler/passes/rewrite.ts";
import { dropUnused, dropUnusedExamples, share, shareExamples, shareLeaves, shareLeavesExamples } from "../compiler/passes/share.ts";
import { splitParams, splitParamsExamples } from "../compiler/passes/split-params.ts";
import { wideProducts, wideProductsExamples } from "../compiler/passes/wide-products.ts";
import type { RefTensor } from "../ops/define.ts";
import { opNames, ops, referenceOf, typeRule } from "../ops/index.ts";
import { edgy, exactElements, tensorOf } from "../ops/sampling.ts";
import { batchOf, caseOf } from "./conformance/cases.ts";
import { difference } from "./conformance/compare.ts";
import { generatedGraphs, type GeneratedGraph } from "./conformance/graphs.ts";
import { property } from "./conformance/property.ts";

/** Passes of targets with limits, and limits that small graphs exceed. */
const splitting = splitParams(512);
const narrowing = fewOperands(3);
/** What a training step does before differentiation. */
const merging: Pass = {
  name: "merge-trained",
  description: "trained layers of one operand become one",
  run: (graph) => mergeTrained(graph, (name) => name.startsWith("w")),
};

const examplesOf: ReadonlyMap<Pass, readonly Example[]> = new Map([
  [decompose, decomposeExamples],
  [shareLeaves, shareLeavesExamples],
  [share, shareExamples],
  [dropUnused, dropUnusedExamples],
  [mergeProjections, mergeProjectionsExamples],
  [joinPacked, joinPackedExamples],
  [splitting, splitParamsExamples],
  [narrowing, fewOperandsExamples],
  [wideProducts, wideProductsExamples],
  [merging, mergeTrainedExamples],
]);
const each = [...new Set(passes), splitting, narrowing, wideProducts, merging];

/** The text of a graph whose values are numbered in their order; places in the source are left out. */
function canonical(graph: Graph): string {
  const ids = new Map(graph.nodes.map((n, i) => [n.id, i]));
  const of = (id: ValueId): ValueId => ids.get(id) ?? -1;
  const renumbered = (n: GraphNode): GraphNode =>
    n.kind === "op" ? { ...n, id: of(n.id), operands: n.operands.map(of) } : { ...n, id: of(n.id) };
  const numbered: Graph = {
    ...graph,
    nodes: graph.nodes.map(renumbered),
    outputs: graph.outputs.map((o) => ({ ...o, value: of(o.value) })),
    updates: graph.updates.map((u) => ({ ...u, value: of(u.value) })),
  };
  return printGraph(numbered, { locations: false });
}

/** No huge numbers: where such terms cancel, a sum in another order is another number, whatever the pass. */
const edges: readonly number[] = [NaN, Infinity, -Infinity, 0, -0, 1, -1, 0.5];

/** Everything a graph is given, with edge cases among sizes and elements. Indices are 0, which every table has. */
function givenTo(graph: Graph): fc.Arbitrary<GraphInputs> {
  const sizes = fc.record(
    Object.fromEntries(
      graph.symbols.map(({ name, lower, upper = lower + 6 }) => [name, fc.constantFrom(lower, Math.min(lower + 1, upper), upper)]),
    ),
  );
  return sizes.chain((env) => {
    const tensorsOf = (kind: GraphNode["kind"]): fc.Arbitrary<Record<string, ConcreteTensor>> =>
      fc.record(
        Object.fromEntries(
          graph.nodes.flatMap((n) => {
            if (n.kind !== kind || !("name" in n)) return [];
            const shape = n.type.shape.map((d) => dimEval(d, env));
            const element =
              n.type.dtype === "f32" ? edgy(fc, -3, 3, edges) : n.type.dtype === "i32" ? fc.constant(0) : exactElements(fc, n.type.dtype);
            return [[n.name, tensorOf(fc, n.type.dtype, shape, element)]];
          }),
        ),
      );
    return fc.record({ inputs: tensorsOf("input"), params: tensorsOf("param"), states: tensorsOf("state") });
  });
}

/** In float64. Bit for bit, or within `tolerance` of what is compared. */
function sameTensor(name: string, a: RefTensor, b: RefTensor | undefined, tolerance: number): void {
  if (b?.shape.join() !== a.shape.join() || b.dtype !== a.dtype) throw new Error(`${name} has another type`);
  for (const [i, x] of a.data.entries()) {
    const y = b.data[i] ?? NaN;
    const near = Object.is(x, y) || (tolerance > 0 && (x === y || Math.abs(x - y) <= tolerance * Math.max(1, Math.abs(x))));
    if (!near) throw new Error(`${name}: element ${i} was ${String(x)} and is ${String(y)}`);
  }
}

function sameMeaning(before: Graph, after: Graph, given: GraphInputs, tolerance: number): void {
  const [a, b] = [evalGraph(before, referenceOf, given), evalGraph(after, referenceOf, given)];
  expect(Object.keys(b.outputs)).toEqual(Object.keys(a.outputs));
  expect(Object.keys(b.states)).toEqual(Object.keys(a.states));
  for (const [name, t] of Object.entries(a.outputs)) sameTensor(name, t, b.outputs[name], tolerance);
  for (const [name, t] of Object.entries(a.states)) sameTensor(name, t, b.states[name], tolerance);
}

/** Decompositions round differently, since their constants are f32, and so do sums of parts. Everything else moves values about. */
const toleranceOf = (pass: Pass): number => (pass === decompose || pass === splitting ? 1e-6 : 0);

/** What stands before `pass` in the list, so that it meets what it meets there. */
function upTo(pass: Pass, graph: Graph): Graph {
  return (passes.includes(pass) ? passes.slice(0, passes.indexOf(pass)) : passes).reduce((g, p) => p.run(g), graph);
}

describe("the list of passes", () => {
  test("has an example of every pass", () => {
    for (const pass of each) expect(examplesOf.get(pass)?.length ?? 0, pass.name).toBeGreaterThan(0);
  });

  test("names every pass differently and says what it does", () => {
    expect(new Set(each.map((p) => p.name)).size).toBe(each.length);
    for (const pass of each) expect(pass.description.length, pass.name).toBeGreaterThan(10);
  });

  test("shows the graph after each pass, and without merging leaves products apart", () => {
    const graph = parseGraph(mergeProjectionsExamples[0]?.before ?? "");
    const seen: string[] = [];
    const merged = runPasses(graph, { merge: true, dump: (pass) => seen.push(pass) });
    expect(seen).toEqual(passes.map((p) => p.name));
    const products = (g: Graph): number => g.nodes.filter((n) => n.kind === "op" && n.op === "matmul").length;
    expect([products(merged), products(runPasses(graph, { merge: false }))]).toEqual([1, 2]);
  });

  test("verifies the graph after each pass and names the first after which it is wrong", () => {
    const graph = parseGraph(shareExamples[0]?.before ?? "");
    const wrong: Graph = { ...graph, symbols: [...graph.symbols, { name: "ghost", lower: 0 }] };
    expect(() => runPasses(wrong, { merge: true })).toThrow(/pass decompose broke graph equal: symbol ghost is neither/);
  });
});

describe.each(each)("$name", (pass) => {
  test.each(examplesOf.get(pass) ?? [])("$says", ({ before, after }) => {
    const [a, b] = [parseGraph(before), parseGraph(after)];
    expect(verifyGraph(a, typeRule)).toEqual([]);
    expect(verifyGraph(b, typeRule)).toEqual([]);
    expect(canonical(pass.run(a))).toBe(canonical(b));
    expect(canonical(b)).toBe(`${after}\n`);
    property(givenTo(a), (given) => {
      sameMeaning(a, b, given, toleranceOf(pass));
    });
  });

  test("leaves its own results alone", () => {
    for (const { after } of examplesOf.get(pass) ?? []) expect(canonical(pass.run(parseGraph(after)))).toBe(`${after}\n`);
    property(generatedGraphs(), ({ graph }) => {
      const once = pass.run(upTo(pass, graph));
      expect(canonical(pass.run(once))).toBe(canonical(once));
    });
  });

  test("keeps what generated graphs mean", () => {
    property(generatedGraphs(), ({ graph, inputs, params }) => {
      const before = upTo(pass, graph);
      const after = pass.run(before);
      expect(verifyGraph(after, typeRule)).toEqual([]);
      sameMeaning(before, after, { inputs, params }, toleranceOf(pass));
    });
  });

  if (pass !== decompose) {
    test("keeps what generated graphs mean where values are NaN, infinite, -0 or not there", () => {
      property(
        generatedGraphs().chain((g) => withEdges(g).map((given) => ({ graph: g.graph, given }))),
        ({ graph, given }) => {
          const before = upTo(pass, graph);
          sameMeaning(before, pass.run(before), given, toleranceOf(pass));
        },
      );
    });
  }
});

/** The inputs and parameters of a generated graph with some elements replaced by edge cases; indices stay. */
function withEdges({ inputs, params }: GeneratedGraph): fc.Arbitrary<GraphInputs> {
  const edged = (tensors: Readonly<Record<string, RefTensor>>): fc.Arbitrary<Record<string, RefTensor>> =>
    fc.record(
      Object.fromEntries(
        Object.entries(tensors).map(([name, t]) => [
          name,
          t.dtype === "f32" ? tensorOf(fc, "f32", t.shape, edgy(fc, -3, 3, edges)) : fc.constant(t),
        ]),
      ),
    );
  return fc.record({ inputs: edged(inputs), params: edged(params) });
}

describe("decomposing", () => {
  const composites = opNames.filter((name) => ops[name].lowering.kind === "decompose");

  test("meets composites", () => {
    expect(composites).toEqual(expect.arrayContaining(["softmax", "layer_norm", "rms_norm", "gelu", "linear", "rope", "mean"]));
  });

  test.each(composites)("%s leaves only ops with a kernel and means what the reference says", (name) => {
    const op = ops[name];
    property(fc.tuple(op.samples(fc), fc.boolean()), ([sample, symbolic]) => {
      const { graph, inputs } = batchOf([caseOf(name, sample, symbolic ? "first" : "none")]);
      const after = decompose.run(graph);
      expect(verifyGraph(after, typeRule)).toEqual([]);
      for (const n of after.nodes) if (n.kind === "op") expect(ops[n.op as keyof typeof ops].lowering.kind).not.toBe("decompose");
      const { outputs } = evalGraph(after, referenceOf, { inputs });
      const expected = evalGraph(graph, referenceOf, { inputs }).outputs;
      for (const [key, want] of Object.entries(expected)) {
        const found = outputs[key];
        expect(found === undefined ? "there is no result" : difference(want, found, op.tolerance, false)).toBeUndefined();
      }
    });
  });

  test("keeps sizes that are known only at run time", () => {
    const [first] = decomposeExamples;
    const shapes = decompose.run(parseGraph(first?.before ?? "")).nodes.map((n) => n.type.shape[0]);
    for (const size of shapes) expect(size === undefined ? 0 : dimConstant(size)).toBeUndefined();
  });
});
