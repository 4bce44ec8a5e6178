// Matrix multiplies of one left operand by several weights (the query, key and value projections) become one
// multiply by the weights laid one after the other, and slices of its result. The weights are joined once, when
// parameters are prepared.
//   x·Aᵀ + a, x·Bᵀ + b  ->  y = x·[A; B]ᵀ + [a; b], y[:, :m], y[:, m:]

import { dim, dimAdd, dimConstant, type Dim } from "../ir/dim.ts";
import { nodesById, type GraphBuilder } from "../ir/graph/build.ts";
import type { AttrValue, Graph, GraphNode, OpNode, ValueId } from "../ir/graph/types.ts";
import { keepOp, rewrite, usersOf, type Pass } from "./rewrite.ts";

interface Member {
  readonly matmul: OpNode;
  /** The addition of a bias over rows, where it is the only reader. */
  readonly add: OpNode | undefined;
  readonly weight: ValueId;
  readonly bias: ValueId | undefined;
}

export const mergeProjections: Pass = {
  name: "merge-projections",
  description: "multiplies of one operand by several weights become one multiply",
  run: (graph) => {
    const groups = findGroups(graph);
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
  },
};

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
    const key = `${x} ${bias !== undefined} ${n.type.dtype}`;
    byOperand.set(key, [...(byOperand.get(key) ?? []), member]);
  }
  return [...byOperand.values()].filter((g) => g.length > 1);
}

/** Values that depend on parameters and constants alone, at sizes that are known: the same for every run. */
export function parametric(graph: Graph): ReadonlySet<ValueId> {
  const fixed = new Set<ValueId>();
  for (const n of graph.nodes) {
    if (n.type.shape.some((d) => dimConstant(d) === undefined)) continue;
    if (n.kind === "param" || n.kind === "constant") fixed.add(n.id);
    else if (n.kind === "op" && n.operands.every((o) => fixed.has(o)) && !Object.values(n.attrs).some(isSymbolic)) fixed.add(n.id);
  }
  return fixed;
}

function isSymbolic(value: AttrValue): boolean {
  if (typeof value !== "object") return false;
  const dims = "monomials" in value ? [value] : value.filter((v): v is Dim => typeof v === "object");
  return dims.some((d) => dimConstant(d) === undefined);
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
