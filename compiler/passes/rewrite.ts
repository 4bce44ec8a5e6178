// Rebuilding a graph node by node: what every graph pass is made of. A pass decides what each node becomes;
// operands are already the new ones. Types come from the op table, locations from the old nodes.

import { GraphBuilder } from "../ir/graph/build.ts";
import type { Graph, GraphNode, OpNode, ValueId } from "../ir/graph/types.ts";
import { typeRule } from "../../ops/index.ts";

export interface Pass {
  readonly name: string;
  readonly description: string;
  readonly run: (graph: Graph) => Graph;
}

/** A graph before a pass and after it, as canonical text: spec/passes.test.ts runs it, and both must mean the same. */
export interface Example {
  /** The rule, in a sentence. */
  readonly says: string;
  readonly before: string;
  readonly after: string;
}

/** New value of an op node; `of` gives the new value of an old one that stands before it. */
export type RewriteOp = (node: OpNode, of: (old: ValueId) => ValueId, builder: GraphBuilder) => ValueId;

/** The same op over the new operands. */
export const keepOp: RewriteOp = (node, of, builder) => builder.op(node.op, node.operands.map(of), node.attrs);

/** `leaf` may make something else of a node that is no op. */
export function rewrite(
  graph: Graph,
  op: RewriteOp,
  keep: (node: GraphNode) => boolean = () => true,
  leaf: (node: GraphNode, builder: GraphBuilder) => ValueId | undefined = () => undefined,
): Graph {
  const builder = new GraphBuilder(graph.name, typeRule);
  for (const s of graph.symbols) builder.declare(s);
  builder.setHost(graph.host);
  const made = new Map<ValueId, ValueId>();
  const of = (id: ValueId): ValueId => {
    const found = made.get(id);
    if (found === undefined) throw new Error(`graph ${graph.name}: value %${id} is used before it is made`);
    return found;
  };
  for (const node of graph.nodes) {
    if (!keep(node)) continue;
    builder.at(node.loc);
    made.set(node.id, leaf(node, builder) ?? leafOr(node, builder) ?? op(node as OpNode, of, builder));
  }
  for (const o of graph.outputs) builder.output(o.name, of(o.value));
  for (const u of graph.updates) builder.update(u.state, of(u.value));
  return builder.build();
}

function leafOr(node: GraphNode, builder: GraphBuilder): ValueId | undefined {
  switch (node.kind) {
    case "input":
      return builder.input(node.name, node.type);
    case "param":
      return builder.param(node.name, node.type, node.init, node.packed, node.rows);
    case "table":
      return builder.table(node.name, node.type, node.value);
    case "state":
      return builder.state(node.name, node.type);
    case "constant":
      return builder.constant(node.type.dtype, node.type.shape, node.data);
    case "op":
      return undefined;
    default:
      return node satisfies never;
  }
}

/** Who reads each value. Outputs and updates count as readers without a node. */
export function usersOf(graph: Graph): ReadonlyMap<ValueId, readonly OpNode[]> {
  const users = new Map<ValueId, OpNode[]>(graph.nodes.map((n) => [n.id, []]));
  for (const n of graph.nodes) if (n.kind === "op") for (const o of new Set(n.operands)) users.get(o)?.push(n);
  return users;
}
