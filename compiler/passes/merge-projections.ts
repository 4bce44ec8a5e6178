// Matrix multiplies of one left operand by several weights (the query, key and value projections) become one
// multiply by the weights laid one after the other, and slices of its result. The weights are joined once, when
// parameters are prepared.
//   x·Aᵀ + a, x·Bᵀ + b  ->  y = x·[A; B]ᵀ + [a; b], y[:, :m], y[:, m:]

import { dim, dimAdd, dimConstant, type Dim } from "../ir/dim.ts";
import { bytesOf } from "../ir/dtype.ts";
import { nodesById, type GraphBuilder } from "../ir/graph/build.ts";
import type { Graph, GraphNode, OpNode, ValueId } from "../ir/graph/types.ts";
import { opOf } from "../../ops/index.ts";
import { parametric } from "./parametric.ts";
import { keepOp, rewrite, usersOf, type Example, type Pass } from "./rewrite.ts";

interface Member {
  readonly matmul: OpNode;
  /** The addition of a bias over rows, where it is the only reader. */
  readonly add: OpNode | undefined;
  readonly weight: ValueId;
  readonly bias: ValueId | undefined;
}

const described = {
  name: "merge-projections",
  description: "multiplies of one operand by several weights become one multiply",
};

export const mergeProjections: Pass = mergeProjectionsWithin(Infinity);

/** The same where weights laid one after the other may take up `limit` bytes at most. */
export function mergeProjectionsWithin(limit: number): Pass {
  return { ...described, run: (graph) => merged(graph, limit) };
}

function merged(graph: Graph, limit: number): Graph {
  const groups = findGroups(graph).flatMap((g) => within(g, graph, limit));
  if (groups.length === 0) return graph;
  const groupOf = new Map<ValueId, readonly Member[]>();
  const dropped = new Set<ValueId>();
  for (const g of groups) {
    for (const m of g) {
      groupOf.set((m.add ?? m.matmul).id, g);
      if (m.add !== undefined) dropped.add(m.matmul.id);
    }
  }
  return rewriteGroups(graph, groupOf, dropped);
}

/** The group as several, each of weights that fit in `limit` bytes together, their rows rounded up to whole panels. */
function within(group: readonly Member[], graph: Graph, limit: number): readonly (readonly Member[])[] {
  if (limit === Infinity) return [group];
  const nodes = nodesById(graph);
  const parts: Member[][] = [[]];
  let bytes = 0;
  for (const m of group) {
    const [rows = 0, ...rest] = nodes.get(m.weight)?.type.shape.map((d) => dimConstant(d) ?? 0) ?? [];
    const own = 32 * Math.ceil(rows / 32) * rest.reduce((a, b) => a * b, bytesOf(m.matmul.type.dtype));
    if (bytes + own > limit) {
      parts.push([]);
      bytes = 0;
    }
    bytes += own;
    parts.at(-1)?.push(m);
  }
  return parts.filter((p) => p.length > 1);
}

function findGroups(graph: Graph): readonly (readonly Member[])[] {
  const nodes = nodesById(graph);
  const users = usersOf(graph);
  const outputs = new Set(graph.outputs.map((o) => o.value));
  const fixed = parametric(graph);
  const byOperand = new Map<string, Member[]>();
  for (const n of graph.nodes) {
    if (n.kind !== "op" || n.op !== "matmul" || n.attrs["transpose_a"] === true || n.attrs["transpose_b"] !== true) continue;
    const [x, weight] = n.operands;
    if (x === undefined || weight === undefined || n.type.shape.length !== 2 || !fixed.has(weight) || fixed.has(x)) continue;
    const only = (users.get(n.id) ?? []).length === 1 && !outputs.has(n.id) ? users.get(n.id)?.[0] : undefined;
    const bias = only?.op === "add" ? biasOf(only, n.id, nodes, fixed) : undefined;
    const member: Member = { matmul: n, add: bias === undefined ? undefined : only, weight, bias };
    const key = `${x} ${bias !== undefined} ${n.type.dtype} ${formOf(nodes.get(weight))}`;
    byOperand.set(key, [...(byOperand.get(key) ?? []), member]);
  }
  return [...byOperand.values()].filter((g) => g.length > 1);
}

/** Packed weights are joined as they are, so only those of one form may be. */
function formOf(weight: GraphNode | undefined): string {
  if (weight?.kind !== "op" || opOf(weight.op).unpacks !== true) return "";
  return `${weight.op} ${String(weight.attrs["bits"])} ${weight.operands.length}`;
}

function biasOf(add: OpNode, matmul: ValueId, nodes: ReadonlyMap<ValueId, GraphNode>, fixed: ReadonlySet<ValueId>): ValueId | undefined {
  const [a, b] = add.operands;
  const wide = nodes.get((a === matmul ? b : a) ?? -1);
  if (a === b || wide?.kind !== "op" || wide.op !== "broadcast") return undefined;
  const bias = wide.operands[0];
  const source = bias === undefined ? undefined : nodes.get(bias);
  return source !== undefined && source.type.shape.length === 1 && fixed.has(source.id) ? source.id : undefined;
}

function rewriteGroups(graph: Graph, groupOf: ReadonlyMap<ValueId, readonly Member[]>, dropped: ReadonlySet<ValueId>): Graph {
  // Every weight must stand before the first multiply that uses it: parameters and what is made of them go first.
  const fixed = parametric(graph);
  const ordered: Graph = {
    ...graph,
    nodes: [...graph.nodes.filter((n) => fixed.has(n.id)), ...graph.nodes.filter((n) => !fixed.has(n.id))],
  };
  const joined = new Map<readonly Member[], { readonly value: ValueId; readonly starts: ReadonlyMap<ValueId, Dim> }>();
  const join = (
    group: readonly Member[],
    of: (old: ValueId) => ValueId,
    builder: GraphBuilder,
  ): { readonly value: ValueId; readonly starts: ReadonlyMap<ValueId, Dim> } => {
    const of1 = (id: ValueId | undefined): ValueId => of(id ?? -1);
    const weight = builder.op(
      "concat",
      group.map((m) => of(m.weight)),
      { axis: 0 },
    );
    let value = builder.op("matmul", [of1(group[0]?.matmul.operands[0]), weight], { transpose_a: false, transpose_b: true });
    if (group[0]?.bias !== undefined) {
      const bias = builder.op(
        "concat",
        group.map((m) => of1(m.bias)),
        { axis: 0 },
      );
      value = builder.op("add", [value, builder.op("broadcast", [bias], { shape: builder.typeOf(value).shape })]);
    }
    const starts = new Map<ValueId, Dim>();
    let at = dim(0);
    for (const m of group) {
      starts.set((m.add ?? m.matmul).id, at);
      at = dimAdd(at, m.matmul.type.shape[1] ?? dim(0));
    }
    return { value, starts };
  };
  return rewrite(
    ordered,
    (node, of, builder) => {
      const group = groupOf.get(node.id);
      if (group === undefined) return keepOp(node, of, builder);
      const whole = joined.get(group) ?? join(group, of, builder);
      joined.set(group, whole);
      const start = whole.starts.get(node.id) ?? dim(0);
      return builder.op("slice", [whole.value], { axis: 1, start, stop: dimAdd(start, node.type.shape[1] ?? dim(0)), step: 1 });
    },
    (node) => !dropped.has(node.id),
  );
}

export const mergeProjectionsExamples: readonly Example[] = [
  {
    says: "biased projections of one operand become one, whichever side the bias stands on",
    before: `graph "projections" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 3]
  %1 = param "wq" : f32[2, 3]
  %2 = param "bq" : f32[2]
  %3 = matmul(%0, %1) {transpose_a: false, transpose_b: true} : f32[T, 2]
  %4 = broadcast(%2) {shape: dims[T, 2]} : f32[T, 2]
  %5 = add(%3, %4) : f32[T, 2]
  %6 = param "wk" : f32[4, 3]
  %7 = param "bk" : f32[4]
  %8 = matmul(%0, %6) {transpose_a: false, transpose_b: true} : f32[T, 4]
  %9 = broadcast(%7) {shape: dims[T, 4]} : f32[T, 4]
  %10 = add(%9, %8) : f32[T, 4]
  output "q" = %5
  output "k" = %10
}`,
    after: `graph "projections" {
  symbol T: 0..8
  %0 = param "wq" : f32[2, 3]
  %1 = param "bq" : f32[2]
  %2 = param "wk" : f32[4, 3]
  %3 = param "bk" : f32[4]
  %4 = input "x" : f32[T, 3]
  %5 = broadcast(%1) {shape: dims[T, 2]} : f32[T, 2]
  %6 = concat(%0, %2) {axis: 0} : f32[6, 3]
  %7 = matmul(%4, %6) {transpose_a: false, transpose_b: true} : f32[T, 6]
  %8 = concat(%1, %3) {axis: 0} : f32[6]
  %9 = broadcast(%8) {shape: dims[T, 6]} : f32[T, 6]
  %10 = add(%7, %9) : f32[T, 6]
  %11 = slice(%10) {axis: 1, start: dim(0), stop: dim(2), step: 1} : f32[T, 2]
  %12 = broadcast(%3) {shape: dims[T, 4]} : f32[T, 4]
  %13 = slice(%10) {axis: 1, start: dim(2), stop: dim(6), step: 1} : f32[T, 4]
  output "q" = %11
  output "k" = %13
}`,
  },
  {
    says: "products without a bias too; a weight may be made of parameters",
    before: `graph "products" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 3]
  %1 = param "a" : f32[2, 3]
  %2 = param "b" : f32[3, 3]
  %3 = matmul(%0, %1) {transpose_a: false, transpose_b: true} : f32[T, 2]
  %4 = tanh(%2) : f32[3, 3]
  %5 = matmul(%0, %4) {transpose_a: false, transpose_b: true} : f32[T, 3]
  %6 = add(%5, %0) : f32[T, 3]
  output "p" = %3
  output "q" = %6
}`,
    after: `graph "products" {
  symbol T: 0..8
  %0 = param "a" : f32[2, 3]
  %1 = param "b" : f32[3, 3]
  %2 = tanh(%1) : f32[3, 3]
  %3 = input "x" : f32[T, 3]
  %4 = concat(%0, %2) {axis: 0} : f32[5, 3]
  %5 = matmul(%3, %4) {transpose_a: false, transpose_b: true} : f32[T, 5]
  %6 = slice(%5) {axis: 1, start: dim(0), stop: dim(2), step: 1} : f32[T, 2]
  %7 = slice(%5) {axis: 1, start: dim(2), stop: dim(5), step: 1} : f32[T, 3]
  %8 = add(%7, %3) : f32[T, 3]
  output "p" = %6
  output "q" = %8
}`,
  },
  {
    says: "a biased product, a plain one and one by a given matrix stay apart",
    before: `graph "apart" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 3]
  %1 = param "a" : f32[2, 3]
  %2 = param "b" : f32[2]
  %3 = input "c" : f32[2, 3]
  %4 = matmul(%0, %1) {transpose_a: false, transpose_b: true} : f32[T, 2]
  %5 = broadcast(%2) {shape: dims[T, 2]} : f32[T, 2]
  %6 = add(%4, %5) : f32[T, 2]
  %7 = param "d" : f32[2, 3]
  %8 = matmul(%0, %7) {transpose_a: false, transpose_b: true} : f32[T, 2]
  %9 = matmul(%0, %3) {transpose_a: false, transpose_b: true} : f32[T, 2]
  output "biased" = %6
  output "plain" = %8
  output "given" = %9
}`,
    after: `graph "apart" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 3]
  %1 = param "a" : f32[2, 3]
  %2 = param "b" : f32[2]
  %3 = input "c" : f32[2, 3]
  %4 = matmul(%0, %1) {transpose_a: false, transpose_b: true} : f32[T, 2]
  %5 = broadcast(%2) {shape: dims[T, 2]} : f32[T, 2]
  %6 = add(%4, %5) : f32[T, 2]
  %7 = param "d" : f32[2, 3]
  %8 = matmul(%0, %7) {transpose_a: false, transpose_b: true} : f32[T, 2]
  %9 = matmul(%0, %3) {transpose_a: false, transpose_b: true} : f32[T, 2]
  output "biased" = %6
  output "plain" = %8
  output "given" = %9
}`,
  },
];
