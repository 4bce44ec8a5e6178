// Forward values that the backward pass reads are computed again there instead of being kept: the graph with copies of the
// forward nodes that they are made of, each just before the first backward node that asks for it. Follows all other
// passes, because a pass that shares equal nodes would undo it. Does not choose (budget.ts does).
//
// Note [What stays]
//   A copy is made down to what is in memory anyway: inputs, parameters, tables, what depends on parameters alone, outputs,
//   and the forward values that are kept. What costs nothing to read through (a view, rows that are looked up) stays when
//   its operands do. Everything else of the forward pass is gone when the backward pass asks for it, and is made again,
//   once: two backward kernels that read one value read one copy.

import { GraphBuilder } from "../ir/graph/build.ts";
import type { Graph, GraphNode, OpNode, ValueId } from "../ir/graph/types.ts";
import type { Grouping } from "../fuse/groups.ts";
import { hasFold } from "../fuse/legality.ts";
import { rewrite } from "../passes/rewrite.ts";
import { opOf } from "../../ops/index.ts";

/** The values that the outputs with these names are made of: the forward pass, where they are the outputs of the model. */
export function forwardOf(graph: Graph, outputs: ReadonlySet<string>): ReadonlySet<ValueId> {
  const nodes = new Map(graph.nodes.map((n) => [n.id, n]));
  const found = new Set<ValueId>();
  const open = graph.outputs.flatMap((o) => (outputs.has(o.name) ? [o.value] : []));
  for (let id = open.pop(); id !== undefined; id = open.pop()) {
    if (found.has(id)) continue;
    found.add(id);
    const node = nodes.get(id);
    if (node?.kind === "op") open.push(...node.operands);
  }
  return found;
}

/** What is known of a graph's values before any is computed again. */
export interface Values {
  readonly graph: Graph;
  readonly grouping: Grouping;
  /** Values that kernels write. */
  readonly written: ReadonlySet<ValueId>;
  /** See forwardOf. */
  readonly forward: ReadonlySet<ValueId>;
}

/** `kept` are the written forward values that are in memory when the backward pass reads them. */
export function recompute({ graph, grouping, written, forward }: Values, kept: ReadonlySet<ValueId>): Graph {
  const stays = staying(graph, grouping, written, kept);
  const place = new Map(graph.nodes.map((n, i) => [n.id, i]));
  const nodes = new Map(graph.nodes.map((n) => [n.id, n]));
  const again = new Map<ValueId, ValueId>();
  const isGone = (id: ValueId): boolean => forward.has(id) && !stays.has(id);

  /** The gone nodes that `id` is made of and that were not made again yet, in the order of the forward pass. */
  const missing = (id: ValueId): readonly OpNode[] => {
    const found = new Map<ValueId, OpNode>();
    const open = [id];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      const node = nodes.get(next);
      if (node?.kind !== "op" || !isGone(next) || again.has(next) || found.has(next)) continue;
      found.set(next, node);
      open.push(...node.operands);
    }
    return [...found.values()].sort((a, b) => (place.get(a.id) ?? 0) - (place.get(b.id) ?? 0));
  };

  return rewrite(graph, (node, of, builder) => {
    const now = (id: ValueId): ValueId => again.get(id) ?? of(id);
    if (forward.has(node.id)) return builder.op(node.op, node.operands.map(of), node.attrs);
    for (const operand of node.operands) {
      for (const m of missing(operand)) again.set(m.id, copy(builder, m, now));
    }
    return builder.op(node.op, node.operands.map(now), node.attrs);
  });
}

function copy(builder: GraphBuilder, node: OpNode, now: (id: ValueId) => ValueId): ValueId {
  const before = builder.at(node.loc);
  const made = builder.op(node.op, node.operands.map(now), node.attrs);
  builder.at(before);
  return made;
}

/** See Note [What stays]. */
function staying(graph: Graph, grouping: Grouping, written: ReadonlySet<ValueId>, kept: ReadonlySet<ValueId>): ReadonlySet<ValueId> {
  const stays = new Set<ValueId>();
  for (const node of graph.nodes) {
    const is =
      node.kind !== "op" ||
      grouping.fixed.has(node.id) ||
      kept.has(node.id) ||
      (!written.has(node.id) && isFree(grouping, node) && node.operands.every((o) => stays.has(o)));
    if (is) stays.add(node.id);
  }
  return stays;
}

/** Reading through it takes no arithmetic, so several kernels may do it. */
function isFree(grouping: Grouping, node: GraphNode): boolean {
  if (node.kind !== "op") return false;
  const { kind } = opOf(node.op);
  return kind === "movement" || (kind === "indexing" && !hasFold(grouping.values, node));
}
