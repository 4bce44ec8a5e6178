// What a run's sizes must satisfy so that no kernel leaves its buffers, as far as the bounds of symbols do not show it
// already: parts of a dimension end within it, and rows written to a state fit in it. The runtime checks them before
// anything is written.

import { dim, dimAdd, dimBounds, dimSub, type Dim } from "../ir/dim.ts";
import type { Graph, OpNode } from "../ir/graph/types.ts";
import { nodesById } from "../ir/graph/build.ts";
import { locText } from "../ir/loc.ts";
import type { PlanLimit } from "../ir/plan/types.ts";
import { normaliseAttrs } from "../../ops/index.ts";
import { axisIn, isDim } from "../../ops/rules.ts";

export function limitsOf(graph: Graph): readonly PlanLimit[] {
  const symbols = new Map(graph.symbols.map((s) => [s.name, s]));
  const nodes = nodesById(graph);
  const found = new Map<string, PlanLimit>();
  const atMost = (value: Dim, most: Dim, says: () => string): void => {
    const key = `${value.text} ≤ ${most.text}`;
    if (found.has(key) || dimBounds(dimSub(most, value), symbols).lower >= 0) return;
    found.set(key, { value: value.text, most: most.text, says: says() });
  };
  for (const node of graph.nodes) {
    if (node.kind !== "op") continue;
    const [first, second] = node.operands.map((o) => nodes.get(o));
    if (first === undefined) continue;
    if (node.op === "slice") {
      const axis = axisIn(Number(attr(node, "axis")), first.type.shape.length);
      const [start, stop] = [size(node, "start"), size(node, "stop")];
      const says = (): string => `a part of a dimension is not within it (${locText(node.loc)})`;
      atMost(dim(0), start, says);
      atMost(start, stop, says);
      atMost(stop, first.type.shape[axis] ?? dim(0), says);
    } else if (node.op === "write_rows") {
      const at = size(node, "at");
      const end = dimAdd(at, second?.type.shape[0] ?? dim(0));
      const of = first.kind === "state" ? `the state ${first.name}` : "the tensor";
      atMost(dim(0), at, () => `rows begin before ${of} does (${locText(node.loc)})`);
      atMost(end, first.type.shape[0] ?? dim(0), () => `context overflow: the rows do not fit in ${of}`);
    }
  }
  return [...found.values()];
}

function attr(node: OpNode, name: string): unknown {
  return normaliseAttrs(node.op, node.attrs)[name];
}

function size(node: OpNode, name: string): Dim {
  const value = attr(node, name);
  if (!isDim(value)) throw new Error(`${node.op} has no size ${name}`);
  return value;
}
