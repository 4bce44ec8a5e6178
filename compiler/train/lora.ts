// Low-rank additions: where a layer multiplies by a matrix W of the targets, x·Wᵀ becomes x·Wᵀ + alpha/rank · (x·Aᵀ)·Bᵀ with
// parameters A and B of their own. W stays as it is. B is zero at first, so nothing changes before the first step.

import { dim } from "../ir/dim.ts";
import type { Graph, ParamNode, ValueId } from "../ir/graph/types.ts";
import { locText } from "../ir/loc.ts";
import { scale } from "../../ops/emit.ts";
import { keepOp, rewrite } from "../passes/rewrite.ts";
import { matchesAny, type LoraSettings } from "./settings.ts";

export interface WithAdditions {
  readonly graph: Graph;
  /** Names of the parameters that were added. */
  readonly added: ReadonlySet<string>;
  /** A target is used by something that is no layer; what that is. */
  readonly problem?: string;
}

/** `a.weight` → `a.lora_A.weight`, as the common names are. */
function additionName(name: string, letter: "A" | "B"): string {
  return name.endsWith(".weight") ? `${name.slice(0, -".weight".length)}.lora_${letter}.weight` : `${name}.lora_${letter}`;
}

export function addLora(graph: Graph, lora: LoraSettings): WithAdditions {
  const chosen = (name: string): boolean => matchesAny(lora.targets, name) && !matchesAny(lora.except, name);
  const targets = new Map(graph.nodes.flatMap((n): [ValueId, ParamNode][] => (n.kind === "param" && chosen(n.name) ? [[n.id, n]] : [])));
  for (const node of graph.nodes) {
    if (node.kind !== "op") continue;
    const other = node.operands.find((o, i) => targets.has(o) && (node.op !== "linear" || i !== 1));
    const target = other === undefined ? undefined : targets.get(other);
    if (target !== undefined) return { graph, added: new Set(), problem: `${target.name} is read by ${node.op} at ${locText(node.loc)}` };
  }
  const made = new Map<ValueId, readonly [ValueId, ValueId]>();
  const added = new Set<string>();
  const changed = rewrite(graph, (node, of, b) => {
    const target = node.op === "linear" ? targets.get(node.operands[1] ?? -1) : undefined;
    const [x] = node.operands;
    if (target === undefined || x === undefined) return keepOp(node, of, b);
    let pair = made.get(target.id);
    if (pair === undefined) {
      const [outputs = dim(0), inputs = dim(0)] = target.type.shape;
      const { dtype } = target.type;
      const [nameA, nameB] = [additionName(target.name, "A"), additionName(target.name, "B")];
      // The spread of PyTorch's default for a layer: uniform within 1/√inputs.
      const std = 1 / Math.sqrt(3 * Number(inputs.text));
      pair = [
        b.param(nameA, { dtype, shape: [dim(lora.rank), inputs] }, { kind: "normal", std }),
        b.param(nameB, { dtype, shape: [outputs, dim(lora.rank)] }, { kind: "constant", value: 0 }),
      ];
      made.set(target.id, pair);
      added.add(nameA).add(nameB);
    }
    const low = b.op("linear", [b.op("linear", [of(x), pair[0]]), pair[1]]);
    return b.op("add", [keepOp(node, of, b), scale(b, low, lora.alpha / lora.rank)]);
  });
  return { graph: changed, added };
}
