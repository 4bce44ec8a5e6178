// Layers of one operand whose weights are trained (the query, key and value projections) become one layer of the weights laid
// one after the other, before differentiation: so there is one product for the operand's gradient and one for all weights'.
// Parameters that are not trained are joined once, when they are loaded (merge-projections.ts).
//   x·Aᵀ + a, x·Bᵀ + b  ->  y = x·[A; B]ᵀ + [a; b] as [.., 2, N], y[.., 0, :], y[.., 1, :]

import { dim, dimConstant, type Dim } from "../ir/dim.ts";
import { bytesOf } from "../ir/dtype.ts";
import type { GraphBuilder } from "../ir/graph/build.ts";
import type { Graph, OpNode, ValueId } from "../ir/graph/types.ts";
import { keepOp, rewrite, type Example } from "./rewrite.ts";

/** `isTrained` says it of a parameter by its name. Weights laid one after the other take up `limit` bytes at most. */
export function mergeTrained(graph: Graph, isTrained: (name: string) => boolean, limit = Infinity): Graph {
  const groupOf = new Map<ValueId, readonly OpNode[]>();
  for (const members of groups(graph, isTrained, limit)) for (const m of members) groupOf.set(m.id, members);
  if (groupOf.size === 0) return graph;
  // Every weight must stand before the first layer that uses it.
  const given = (kind: string): boolean => kind === "param" || kind === "state";
  const ordered: Graph = {
    ...graph,
    nodes: [...graph.nodes.filter((n) => given(n.kind)), ...graph.nodes.filter((n) => !given(n.kind))],
  };
  const made = new Map<readonly OpNode[], ValueId>();
  return rewrite(ordered, (node, of, builder) => {
    const members = groupOf.get(node.id);
    if (members === undefined) return keepOp(node, of, builder);
    const whole = made.get(members) ?? join(members, of, builder);
    made.set(members, whole);
    const axis = builder.typeOf(whole).shape.length - 2;
    const at = members.indexOf(node);
    const own = builder.op("slice", [whole], { axis, start: dim(at), stop: dim(at + 1), step: 1 });
    return builder.op("reshape", [own], { shape: node.type.shape });
  });
}

/** Layers of one operand and one shape, in the order of the graph. */
function groups(graph: Graph, isTrained: (name: string) => boolean, limit: number): readonly (readonly OpNode[])[] {
  const trained = new Map<ValueId, readonly Dim[]>(
    graph.nodes.flatMap((n) =>
      (n.kind === "param" || n.kind === "state") && n.type.dtype === "f32" && isTrained(n.name) ? [[n.id, n.type.shape] as const] : [],
    ),
  );
  const alike = new Map<string, OpNode[]>();
  for (const n of graph.nodes) {
    if (n.kind !== "op" || n.op !== "linear") continue;
    const [x, weight, bias] = n.operands;
    const shape = weight === undefined ? undefined : trained.get(weight);
    if (shape === undefined || (bias !== undefined && !trained.has(bias))) continue;
    const key = `${x} ${bias !== undefined} ${shape.map((d) => d.text).join()}`;
    alike.set(key, [...(alike.get(key) ?? []), n]);
  }
  const bytes = (g: readonly OpNode[]): number =>
    (trained.get(g[0]?.operands[1] ?? -1) ?? []).reduce((n, d) => n * (dimConstant(d) ?? Infinity), bytesOf("f32") * g.length);
  return [...alike.values()].filter((g) => g.length > 1 && bytes(g) <= limit);
}

/** The layer of all weights; its result has the members side by side along the last dimension but one. */
function join(members: readonly OpNode[], of: (old: ValueId) => ValueId, builder: GraphBuilder): ValueId {
  const all = (operand: number): readonly ValueId[] => members.flatMap((m) => m.operands.slice(operand, operand + 1).map(of));
  const [x] = all(0);
  const [first] = members;
  if (x === undefined || first === undefined) throw new Error("a group has members");
  const laid = [all(1), all(2)].flatMap((parts) => (parts.length === 0 ? [] : [builder.op("concat", parts, { axis: 0 })]));
  const { shape } = first.type;
  return builder.op("reshape", [builder.op("linear", [x, ...laid])], {
    shape: [...shape.slice(0, -1), dim(members.length), ...shape.slice(-1)],
  });
}

/** Where the parameters of which the names begin with `w` are trained. */
export const mergeTrainedExamples: readonly Example[] = [
  {
    says: "layers of one operand by trained weights of one shape become one; others stay",
    before: `graph "layers" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 3]
  %1 = param "wq" : f32[2, 3]
  %2 = param "wq.bias" : f32[2]
  %3 = linear(%0, %1, %2) : f32[T, 2]
  %4 = param "wk" : f32[2, 3]
  %5 = param "wk.bias" : f32[2]
  %6 = linear(%0, %4, %5) : f32[T, 2]
  %7 = param "wide" : f32[4, 3]
  %8 = param "wide.bias" : f32[4]
  %9 = linear(%0, %7, %8) : f32[T, 4]
  %10 = param "frozen" : f32[2, 3]
  %11 = linear(%0, %10, %2) : f32[T, 2]
  %12 = param "w" : f32[2, 3]
  %13 = linear(%0, %12) : f32[T, 2]
  output "q" = %3
  output "k" = %6
  output "wide" = %9
  output "frozen" = %11
  output "unbiased" = %13
}`,
    after: `graph "layers" {
  symbol T: 0..8
  %0 = param "wq" : f32[2, 3]
  %1 = param "wq.bias" : f32[2]
  %2 = param "wk" : f32[2, 3]
  %3 = param "wk.bias" : f32[2]
  %4 = param "wide" : f32[4, 3]
  %5 = param "wide.bias" : f32[4]
  %6 = param "frozen" : f32[2, 3]
  %7 = param "w" : f32[2, 3]
  %8 = input "x" : f32[T, 3]
  %9 = concat(%0, %2) {axis: 0} : f32[4, 3]
  %10 = concat(%1, %3) {axis: 0} : f32[4]
  %11 = linear(%8, %9, %10) : f32[T, 4]
  %12 = reshape(%11) {shape: dims[T, 2, 2]} : f32[T, 2, 2]
  %13 = slice(%12) {axis: 1, start: dim(0), stop: dim(1), step: 1} : f32[T, 1, 2]
  %14 = reshape(%13) {shape: dims[T, 2]} : f32[T, 2]
  %15 = slice(%12) {axis: 1, start: dim(1), stop: dim(2), step: 1} : f32[T, 1, 2]
  %16 = reshape(%15) {shape: dims[T, 2]} : f32[T, 2]
  %17 = linear(%8, %4, %5) : f32[T, 4]
  %18 = linear(%8, %6, %1) : f32[T, 2]
  %19 = linear(%8, %7) : f32[T, 2]
  output "q" = %14
  output "k" = %16
  output "wide" = %17
  output "frozen" = %18
  output "unbiased" = %19
}`,
  },
];
