// The passes over Graph IR, in order. The verifier runs after each and names the pass that broke the graph.

import { verifyGraph } from "../ir/graph/verify.ts";
import { typeRule } from "../../ops/index.ts";
import type { Graph } from "../ir/graph/types.ts";
import { decompose } from "./decompose.ts";
import { mergeProjections } from "./merge-projections.ts";
import type { Pass } from "./rewrite.ts";
import { dropUnused, share, shareLeaves } from "./share.ts";

export const passes: readonly Pass[] = [decompose, shareLeaves, share, dropUnused, mergeProjections, dropUnused];

export class PassError extends Error {
  override readonly name = "PassError";
}

/** Runs every pass; `dump` sees the graph after each. */
export function runPasses(
  graph: Graph,
  options: { readonly merge: boolean; readonly dump?: ((pass: string, graph: Graph) => void) | undefined },
): Graph {
  let current = graph;
  for (const pass of passes) {
    if (pass === mergeProjections && !options.merge) continue;
    current = pass.run(current);
    const problems = verifyGraph(current, typeRule);
    if (problems.length > 0) throw new PassError(`pass ${pass.name} broke graph ${graph.name}: ${problems.slice(0, 3).join("; ")}`);
    options.dump?.(pass.name, current);
  }
  return current;
}
