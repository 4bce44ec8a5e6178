// Equal nodes become one, and what no output needs is dropped. Equality is of op, operands, attributes and
// data, compared whole. The first of equal nodes keeps its location.

import type { Attrs, AttrValue, Graph, GraphNode, ValueId } from "../ir/graph/types.ts";
import { rewrite, type Example, type Pass } from "./rewrite.ts";

function attrText(value: AttrValue): string {
  if (typeof value === "object" && "text" in value) return `dim ${value.text}`;
  if (typeof value === "object") return `[${(value as readonly AttrValue[]).map(attrText).join(",")}]`;
  return Object.is(value, -0) ? "-0" : `${typeof value} ${String(value)}`;
}

function attrsText(attrs: Attrs): string {
  return Object.keys(attrs)
    .sort()
    .map((k) => `${k}=${attrText(attrs[k] ?? "")}`)
    .join(" ");
}

export const share: Pass = {
  name: "share",
  description: "equal nodes become one (common subexpressions)",
  run: (graph) => {
    const seen = new Map<string, ValueId>();
    return rewrite(graph, (node, of, builder) => {
      const operands = node.operands.map(of);
      const key = `${node.op}(${operands.join(",")}) ${attrsText(node.attrs)}`;
      const before = seen.get(key);
      if (before !== undefined) return before;
      const made = builder.op(node.op, operands, node.attrs);
      seen.set(key, made);
      return made;
    });
  },
};

/** Constants and tables that are the same text become one node first, so that the ops over them can be equal. */
export const shareLeaves: Pass = {
  name: "share-leaves",
  description: "equal constants become one",
  run: (graph) => {
    const first = new Map<string, ValueId>();
    const stands = new Map<ValueId, ValueId>();
    for (const n of graph.nodes) {
      if (n.kind !== "constant") continue;
      const key = `${n.type.dtype}[${n.type.shape.map((d) => d.text).join(",")}] ${n.data.map((x) => (Object.is(x, -0) ? "-0" : x)).join(",")}`;
      const before = first.get(key);
      if (before === undefined) first.set(key, n.id);
      else stands.set(n.id, before);
    }
    const nodes = graph.nodes
      .filter((n) => !stands.has(n.id))
      .map((n): GraphNode =>
        n.kind === "op" && n.operands.some((o) => stands.has(o)) ? { ...n, operands: n.operands.map((o) => stands.get(o) ?? o) } : n,
      );
    return {
      ...graph,
      nodes,
      outputs: graph.outputs.map((o) => ({ ...o, value: stands.get(o.value) ?? o.value })),
      updates: graph.updates.map((u) => ({ ...u, value: stands.get(u.value) ?? u.value })),
    };
  },
};

export const dropUnused: Pass = {
  name: "drop-unused",
  description: "what no output needs is dropped; inputs and states stay",
  run: (graph) => {
    const needed = neededBy(graph);
    return { ...graph, nodes: graph.nodes.filter((n) => needed.has(n.id) || n.kind === "input" || n.kind === "state") };
  },
};

function neededBy(graph: Graph): ReadonlySet<ValueId> {
  const byId = new Map(graph.nodes.map((n) => [n.id, n]));
  const needed = new Set<ValueId>();
  const open = [...graph.outputs.map((o) => o.value), ...graph.updates.map((u) => u.value)];
  for (let id = open.pop(); id !== undefined; id = open.pop()) {
    if (needed.has(id)) continue;
    needed.add(id);
    const node = byId.get(id);
    if (node?.kind === "op") open.push(...node.operands);
  }
  return needed;
}

export const shareLeavesExamples: readonly Example[] = [
  {
    says: "equal constants become one, wherever they stand",
    before: `graph "constants" {
  %0 = constant [1, 2] : f32[2]
  %1 = input "x" : f32[2]
  %2 = add(%1, %0) : f32[2]
  %3 = constant [1, 2] : f32[2]
  %4 = mul(%2, %3) : f32[2]
  output "y" = %4
  output "z" = %3
}`,
    after: `graph "constants" {
  %0 = constant [1, 2] : f32[2]
  %1 = input "x" : f32[2]
  %2 = add(%1, %0) : f32[2]
  %3 = mul(%2, %0) : f32[2]
  output "y" = %3
  output "z" = %0
}`,
  },
  {
    says: "-0 is not 0, an integer is not a float, and NaN is NaN",
    before: `graph "different" {
  %0 = constant [0] : f32[2]
  %1 = constant [-0] : f32[2]
  %2 = constant [NaN] : f32[2]
  %3 = constant [NaN] : f32[2]
  %4 = constant [0] : i32[2]
  output "zero" = %0
  output "minus" = %1
  output "nan" = %2
  output "too" = %3
  output "int" = %4
}`,
    after: `graph "different" {
  %0 = constant [0] : f32[2]
  %1 = constant [-0] : f32[2]
  %2 = constant [NaN] : f32[2]
  %3 = constant [0] : i32[2]
  output "zero" = %0
  output "minus" = %1
  output "nan" = %2
  output "too" = %2
  output "int" = %3
}`,
  },
];

export const shareExamples: readonly Example[] = [
  {
    says: "equal ops over equal operands become one, and then what is made of them; the order of operands counts",
    before: `graph "equal" {
  symbol T: 0..8
  %0 = input "x" : f32[T]
  %1 = input "y" : f32[T]
  %2 = sub(%0, %1) : f32[T]
  %3 = exp(%2) : f32[T]
  %4 = sub(%0, %1) : f32[T]
  %5 = exp(%4) : f32[T]
  %6 = sub(%1, %0) : f32[T]
  %7 = div(%3, %5) : f32[T]
  output "a" = %7
  output "b" = %6
}`,
    after: `graph "equal" {
  symbol T: 0..8
  %0 = input "x" : f32[T]
  %1 = input "y" : f32[T]
  %2 = sub(%0, %1) : f32[T]
  %3 = exp(%2) : f32[T]
  %4 = sub(%1, %0) : f32[T]
  %5 = div(%3, %3) : f32[T]
  output "a" = %5
  output "b" = %4
}`,
  },
  {
    says: "attributes are compared by value, whatever their order, and -0 is not 0",
    before: `graph "zeros" {
  %0 = input "x" : f32[3]
  %1 = pad(%0) {axis: 0, before: dim(1), after: dim(0), value: 0} : f32[4]
  %2 = pad(%0) {axis: 0, before: dim(1), after: dim(0), value: -0} : f32[4]
  %3 = pad(%0) {value: 0, axis: 0, after: dim(0), before: dim(1)} : f32[4]
  output "a" = %1
  output "b" = %2
  output "c" = %3
}`,
    after: `graph "zeros" {
  %0 = input "x" : f32[3]
  %1 = pad(%0) {axis: 0, before: dim(1), after: dim(0), value: 0} : f32[4]
  %2 = pad(%0) {axis: 0, before: dim(1), after: dim(0), value: -0} : f32[4]
  output "a" = %1
  output "b" = %2
  output "c" = %1
}`,
  },
];

export const dropUnusedExamples: readonly Example[] = [
  {
    says: "unread ops and parameters go; inputs and states are the interface and stay",
    before: `graph "unused" {
  symbol T: 0..8
  %0 = input "x" : f32[T]
  %1 = input "unread" : f32[T]
  %2 = state "cache" : f32[2]
  %3 = state "other" : f32[2]
  %4 = param "w" : f32[2]
  %5 = param "unused" : f32[2]
  %6 = exp(%0) : f32[T]
  %7 = neg(%6) : f32[T]
  %8 = add(%2, %4) : f32[2]
  %9 = sub(%2, %5) : f32[2]
  output "y" = %6
  update "cache" = %8
}`,
    after: `graph "unused" {
  symbol T: 0..8
  %0 = input "x" : f32[T]
  %1 = input "unread" : f32[T]
  %2 = state "cache" : f32[2]
  %3 = state "other" : f32[2]
  %4 = param "w" : f32[2]
  %5 = exp(%0) : f32[T]
  %6 = add(%2, %4) : f32[2]
  output "y" = %5
  update "cache" = %6
}`,
  },
];
