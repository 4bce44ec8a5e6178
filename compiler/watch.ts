// Every value that a kernel writes as a result of the graph, so that what a device computed can be looked at kernel by kernel.
// They are written anyway: fusion stays as it is, and only what could share memory no longer does. Compares nothing.

import { GraphBuilder } from "./ir/graph/build.ts";
import type { Graph } from "./ir/graph/types.ts";
import { watchedName } from "./watched.ts";
import { group, type FuseOptions } from "./fuse/groups.ts";
import { KernelTemplates } from "./fuse/templates.ts";
import { typeRule } from "../ops/index.ts";

export function watched(graph: Graph, fusion: FuseOptions): Graph {
  const { groups, values, fixed } = group(graph, fusion);
  const templates = new KernelTemplates(values, new Set(groups.flatMap((g) => (g.packs === undefined ? [] : [g.packs]))));
  const written = groups.flatMap((g) => {
    // What depends on parameters alone is made when weights are loaded, not in a run.
    if (fixed.has(g.root)) return [];
    const { kernel, operands } = templates.build(g);
    return operands.flatMap((o, i) => (kernel.buffers[i]?.access !== "read" && o.k === "value" ? [o.id] : []));
  });
  const b = new GraphBuilder(graph.name, typeRule, graph);
  for (const id of new Set(written)) b.output(watchedName(id), id);
  return b.build();
}
