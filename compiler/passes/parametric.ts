// Which values are the same for every run: an analysis that merging projections and fusion share. Changes nothing.

import { dimConstant, type Dim } from "../ir/dim.ts";
import type { AttrValue, Graph, ValueId } from "../ir/graph/types.ts";

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
