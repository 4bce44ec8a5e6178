// The passes over Graph IR, in order. The verifier runs after each and names the pass that broke the graph.

import { verifyGraph } from "../ir/graph/verify.ts";
import { typeRule } from "../../ops/index.ts";
import type { Graph } from "../ir/graph/types.ts";
import { decompose } from "./decompose.ts";
import { joinPacked } from "./join-packed.ts";
import { fewOperands } from "./few-operands.ts";
import type { BindingLimits } from "./limits.ts";
import { mergeProjections, mergeProjectionsWithin } from "./merge-projections.ts";
import { quantiseParams, type Quantise, type Unquantised } from "./quantise.ts";
import type { Pass } from "./rewrite.ts";
import { dropUnused, share, shareLeaves } from "./share.ts";
import { splitParams } from "./split-params.ts";
import { wideProducts } from "./wide-products.ts";

export const passes: readonly Pass[] = [decompose, shareLeaves, share, dropUnused, mergeProjections, joinPacked, dropUnused];

export class PassError extends Error {
  override readonly name = "PassError";
}

export interface PassOptions {
  /** Whether to merge projections. */
  readonly merge: boolean;
  /** What to pack, before projections are merged. */
  readonly quantise?: Quantise | undefined;
  /** Hears of every matrix that stays as it is although `quantise` would have it packed. */
  readonly onKept?: ((kept: Unquantised) => void) | undefined;
  readonly dump?: ((pass: string, graph: Graph) => void) | undefined;
  /** What a kernel's buffers may be, where a target limits it. */
  readonly limits?: BindingLimits | undefined;
  /** The target multiplies f32 alone. */
  readonly wide?: boolean | undefined;
}

/** Runs every pass; `dump` sees the graph after each. */
export function runPasses(graph: Graph, { merge, quantise, onKept, dump, limits, wide }: PassOptions): Graph {
  const widening = wide === true ? [wideProducts, dropUnused] : [];
  const packing = quantise === undefined ? [] : [quantiseParams(quantise, onKept)];
  const merging = limits === undefined ? mergeProjections : mergeProjectionsWithin(limits.bytes);
  const splitting = limits === undefined ? [] : [splitParams(limits.bytes), fewOperands(limits.buffers - 1)];
  const list = passes.flatMap((pass) =>
    pass !== mergeProjections ? [pass] : [...widening, ...packing, ...(merge ? [merging] : []), ...splitting],
  );
  let current = graph;
  for (const pass of list) {
    current = pass.run(current);
    const problems = verifyGraph(current, typeRule);
    if (problems.length > 0) throw new PassError(`pass ${pass.name} broke graph ${graph.name}: ${problems.slice(0, 3).join("; ")}`);
    dump?.(pass.name, current);
  }
  return current;
}
