// Packing weights at the level of graphs: the pass becomes what its examples say, packed parameters read back as text,
// and a graph computes the same on packed weights as on the numbers that they stand for.

import { describe, expect, test } from "vitest";
import { evalGraph } from "../compiler/ir/graph/eval.ts";
import { parseGraph } from "../compiler/ir/graph/parse.ts";
import { printGraph } from "../compiler/ir/graph/print.ts";
import type { Graph, GraphNode, ValueId } from "../compiler/ir/graph/types.ts";
import { verifyGraph } from "../compiler/ir/graph/verify.ts";
import { runPasses } from "../compiler/passes/pipeline.ts";
import { quantiseParams, quantiseParamsExamples, type Unquantised } from "../compiler/passes/quantise.ts";
import type { RefTensor } from "../ops/define.ts";
import { referenceOf, typeRule } from "../ops/index.ts";

/** Values numbered in their order. */
function canonical(graph: Graph): string {
  const ids = new Map(graph.nodes.map((n, i) => [n.id, i]));
  const of = (id: ValueId): ValueId => ids.get(id) ?? -1;
  const nodes = graph.nodes.map((n): GraphNode =>
    n.kind === "op" ? { ...n, id: of(n.id), operands: n.operands.map(of) } : { ...n, id: of(n.id) },
  );
  return printGraph({ ...graph, nodes, outputs: graph.outputs.map((o) => ({ ...o, value: of(o.value) })) }, { locations: false });
}

describe("packing the weights of a graph", () => {
  test.each(quantiseParamsExamples)("$says", ({ quantise, before, after, kept }) => {
    const heard: Unquantised[] = [];
    const made = quantiseParams(quantise, (k) => heard.push(k)).run(parseGraph(before));
    expect(canonical(made)).toBe(`${after}\n`);
    expect(heard).toEqual(kept);
    expect(verifyGraph(made, typeRule)).toEqual([]);
    expect(parseGraph(printGraph(made))).toEqual(made);
  });

  test("says of every matrix that stays why it does", () => {
    const text = `graph "kept" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 64]
  %1 = input "i" : i32[T]
  %2 = param "left" : f32[4, 64]
  %3 = param "half" : f16[4, 64]
  %4 = param "shown" : f32[4, 64]
  %5 = param "both" : f32[4, 64]
  %6 = param "cube" : f32[2, 2, 64]
  %7 = param "columns" : f32[64, 32]
  %8 = matmul(%2, %0) {transpose_a: false, transpose_b: true} : f32[4, T]
  %9 = gather(%3, %1) : f16[T, 64]
  %10 = concat(%5, %0) {axis: 0} : f32[T + 4, 64]
  %11 = gather(%6, %1) : f32[T, 2, 64]
  %12 = matmul(%0, %7) {transpose_a: false, transpose_b: false} : f32[T, 32]
  output "a" = %8
  output "b" = %9
  output "c" = %4
  output "d" = %10
  output "e" = %11
  output "f" = %12
}`;
    const heard: Unquantised[] = [];
    quantiseParams("int4", (k) => heard.push(k)).run(parseGraph(text));
    expect(heard).toEqual([
      { name: "left", reason: "matmul reads it otherwise than along its rows" },
      { name: "half", reason: "it is f16, and packed weights stand for f32" },
      { name: "shown", reason: "it is a result of the graph" },
      { name: "both", reason: "concat reads it otherwise than along its rows" },
      { name: "cube", reason: "f32[2, 2, 64] is no matrix" },
      { name: "columns", reason: "matmul reads it otherwise than along its rows" },
    ]);
  });

  test("projections of one form are merged packed, and compute what the numbers they stand for give", () => {
    const names = ["q", "k", "v"] as const;
    const graph = parseGraph(`graph "projections" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 64]
  %1 = param "q" : f32[4, 64]
  %2 = param "k" : f32[2, 64]
  %3 = param "v" : f32[3, 64]
  %4 = linear(%0, %1) : f32[T, 4]
  %5 = linear(%0, %2) : f32[T, 2]
  %6 = linear(%0, %3) : f32[T, 3]
  output "q" = %4
  output "k" = %5
  output "v" = %6
}`);
    const made = runPasses(graph, { merge: true, quantise: ({ name }) => (name === "v" ? "q8_0" : "q4_1") });
    expect(made.nodes.flatMap((n) => (n.kind === "op" && n.op === "matmul" ? [n.type.shape[1]?.text] : []))).toEqual(["6", "3"]);
    expect(made.nodes.filter((n) => n.kind === "op" && n.op === "unpack").length).toBe(2);
    let at = 0;
    const number = (): number => ((at = (at * 1103515245 + 12345) % 2147483648), at % 65536);
    const packed: Record<string, RefTensor> = {};
    for (const n of made.nodes) {
      if (n.kind !== "param") continue;
      const shape = n.type.shape.map((d) => Number(d.text));
      const data = Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () =>
        n.type.dtype === "i32" ? (number() * 65536 + number()) | 0 : (number() % 64) / 64,
      );
      packed[n.name] = { dtype: n.type.dtype, shape, data };
    }
    const plain = Object.fromEntries(
      names.map((name): [string, RefTensor] => {
        const parts = ["values", "scales", "minima"].flatMap((p) => packed[`${name}.${p}`] ?? []);
        const rows = parts[0]?.shape[0] ?? 0;
        return [name, referenceOf("unpack", parts, { bits: name === "v" ? 8 : 4 }, { dtype: "f32", shape: [rows, 64] })];
      }),
    );
    const x: RefTensor = { dtype: "f32", shape: [3, 64], data: Float64Array.from({ length: 192 }, () => (number() % 100) / 25 - 2) };
    const inputs = { x };
    const found = evalGraph(made, referenceOf, { inputs, params: packed }).outputs;
    expect(found).toEqual(evalGraph(graph, referenceOf, { inputs, params: plain }).outputs);
  });
});
