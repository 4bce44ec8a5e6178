// An op of more operands than a kernel may read becomes several ops. Only concat takes any number: a concat of concats. For
// devices with such a limit alone (WebGPU: eight buffers a kernel, the one it writes included).

import type { GraphBuilder } from "../ir/graph/build.ts";
import type { AttrValue, ValueId } from "../ir/graph/types.ts";
import { keepOp, rewrite, type Example, type Pass } from "./rewrite.ts";

/** No concat keeps more than `most` operands. */
export function fewOperands(most: number): Pass {
  const joined = (builder: GraphBuilder, all: readonly ValueId[], attrs: Readonly<Record<string, AttrValue>>): ValueId => {
    if (all.length <= most) return builder.op("concat", all, attrs);
    const groups: ValueId[] = [];
    for (let i = 0; i < all.length; i += most) {
      const some = all.slice(i, i + most);
      groups.push(some.length === 1 ? (some[0] ?? -1) : builder.op("concat", some, attrs));
    }
    return joined(builder, groups, attrs);
  };
  return {
    name: "few-operands",
    description: "a concat of many operands becomes a concat of concats",
    run: (graph) => {
      if (!graph.nodes.some((n) => n.kind === "op" && n.op === "concat" && n.operands.length > most)) return graph;
      return rewrite(graph, (node, of, builder) =>
        node.op === "concat" ? joined(builder, node.operands.map(of), node.attrs) : keepOp(node, of, builder),
      );
    },
  };
}

/** With at most three operands. */
export const fewOperandsExamples: readonly Example[] = [
  {
    says: "groups of as many operands as there may be; one that is left stands for itself",
    before: `graph "many" {
  %0 = input "a" : f32[1]
  %1 = input "b" : f32[2]
  %2 = concat(%0, %1, %0, %1, %0, %1, %0) {axis: 0} : f32[10]
  output "y" = %2
}`,
    after: `graph "many" {
  %0 = input "a" : f32[1]
  %1 = input "b" : f32[2]
  %2 = concat(%0, %1, %0) {axis: 0} : f32[4]
  %3 = concat(%1, %0, %1) {axis: 0} : f32[5]
  %4 = concat(%2, %3, %0) {axis: 0} : f32[10]
  output "y" = %4
}`,
  },
];
