// The order of a training step's graph, which is the order of its kernels: what the optimiser does with a gradient alone (adding
// it to those of other runs, summing its squares) stands right behind the gradient. Behind the whole backward pass it would
// hold what the gradient is made of until then, because it is part of the gradient's kernel. Changes no value.

import type { Graph, GraphNode, ValueId } from "../ir/graph/types.ts";

/** `graph` with every node from id `first` on as early as its operands let it. */
export function early(graph: Graph, first: ValueId): Graph {
  const place = new Map<ValueId, number>();
  const behind = new Map<number, GraphNode[]>();
  for (const [i, node] of graph.nodes.entries()) {
    const operands = node.kind === "op" ? node.operands : [];
    // What is given stands in front of everything.
    const at = node.id < first ? i : operands.reduce((last, o) => Math.max(last, place.get(o) ?? -1), -1);
    place.set(node.id, at);
    behind.set(at, [...(behind.get(at) ?? []), node]);
  }
  const nodes = [...behind].sort(([a], [b]) => a - b).flatMap(([, list]) => list);
  return { ...graph, nodes };
}
