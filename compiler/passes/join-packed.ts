// Packed weights that merging projections laid one after the other are joined as they are, packed, instead of each being
// unpacked where a row of it is read. The parts are joined once, when parameters are prepared.
//   concat(unpack(v, s), unpack(w, t))  ->  unpack(concat(v, w), concat(s, t))

import { nodesById } from "../ir/graph/build.ts";
import type { OpNode } from "../ir/graph/types.ts";
import { opOf } from "../../ops/index.ts";
import { parametric } from "./parametric.ts";
import { keepOp, rewrite, type Example, type Pass } from "./rewrite.ts";

export const joinPacked: Pass = {
  name: "join-packed",
  description: "packed weights that lie one after the other become one packed weight",
  run: (graph) => {
    const nodes = nodesById(graph);
    const fixed = parametric(graph);
    /** The unpacking ops that a concatenation joins, all alike and the same for every run. */
    const members = (node: OpNode): readonly OpNode[] | undefined => {
      const found = node.operands.flatMap((id) => {
        const n = nodes.get(id);
        return n?.kind === "op" && opOf(n.op).unpacks === true && fixed.has(n.id) ? [n] : [];
      });
      const [first] = found;
      if (node.op !== "concat" || node.attrs["axis"] !== 0 || first === undefined || found.length < node.operands.length) return undefined;
      const alike = (n: OpNode): boolean =>
        n.op === first.op && n.attrs["bits"] === first.attrs["bits"] && n.operands.length === first.operands.length;
      return first.type.shape.length > 1 && found.every(alike) ? found : undefined;
    };
    return rewrite(graph, (node, of, builder) => {
      const joined = members(node);
      const [first] = joined ?? [];
      if (joined === undefined || first === undefined) return keepOp(node, of, builder);
      const parts = first.operands.map((_, part) =>
        builder.op(
          "concat",
          joined.map((n) => of(n.operands[part] ?? -1)),
          { axis: 0 },
        ),
      );
      return builder.op(first.op, parts, first.attrs);
    });
  },
};

export const joinPackedExamples: readonly Example[] = [
  {
    says: "weights of one form are joined packed; those of two forms are not",
    before: `graph "joined" {
  symbol T: 0..4
  %0 = input "x" : f32[T, 32]
  %1 = param "a.values" : i32[2, 8]
  %2 = param "a.scales" : f16[2, 1]
  %3 = unpack(%1, %2) {bits: 8} : f32[2, 32]
  %4 = param "b.values" : i32[3, 8]
  %5 = param "b.scales" : f16[3, 1]
  %6 = unpack(%4, %5) {bits: 8} : f32[3, 32]
  %7 = param "c.values" : i32[3, 4]
  %8 = param "c.scales" : f16[3, 1]
  %9 = unpack(%7, %8) {bits: 4} : f32[3, 32]
  %10 = concat(%3, %6) {axis: 0} : f32[5, 32]
  %11 = concat(%3, %9) {axis: 0} : f32[5, 32]
  %12 = matmul(%0, %10) {transpose_a: false, transpose_b: true} : f32[T, 5]
  %13 = matmul(%0, %11) {transpose_a: false, transpose_b: true} : f32[T, 5]
  output "p" = %12
  output "q" = %13
}`,
    after: `graph "joined" {
  symbol T: 0..4
  %0 = input "x" : f32[T, 32]
  %1 = param "a.values" : i32[2, 8]
  %2 = param "a.scales" : f16[2, 1]
  %3 = unpack(%1, %2) {bits: 8} : f32[2, 32]
  %4 = param "b.values" : i32[3, 8]
  %5 = param "b.scales" : f16[3, 1]
  %6 = unpack(%4, %5) {bits: 8} : f32[3, 32]
  %7 = param "c.values" : i32[3, 4]
  %8 = param "c.scales" : f16[3, 1]
  %9 = unpack(%7, %8) {bits: 4} : f32[3, 32]
  %10 = concat(%1, %4) {axis: 0} : i32[5, 8]
  %11 = concat(%2, %5) {axis: 0} : f16[5, 1]
  %12 = unpack(%10, %11) {bits: 8} : f32[5, 32]
  %13 = concat(%3, %9) {axis: 0} : f32[5, 32]
  %14 = matmul(%0, %12) {transpose_a: false, transpose_b: true} : f32[T, 5]
  %15 = matmul(%0, %13) {transpose_a: false, transpose_b: true} : f32[T, 5]
  output "p" = %14
  output "q" = %15
}`,
  },
];
