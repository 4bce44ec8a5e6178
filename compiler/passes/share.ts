// Equal nodes become one, and what no output needs is dropped. Equality is of op, operands, attributes and
// data, compared whole. The first of equal nodes keeps its location.

import type { Attrs, AttrValue, Graph, GraphNode, ValueId } from "../ir/graph/types.ts";
import { rewrite, type Pass } from "./rewrite.ts";

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
