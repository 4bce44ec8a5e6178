// Composite ops become the ops they are made of, until only ops with a kernel of their own are left.

import type { GraphBuilder } from "../ir/graph/build.ts";
import type { Attrs, ValueId } from "../ir/graph/types.ts";
import type { Emit } from "../../ops/define.ts";
import { normaliseAttrs, opOf } from "../../ops/index.ts";
import { rewrite, type Example, type Pass } from "./rewrite.ts";

export const decompose: Pass = {
  name: "decompose",
  description: "composite ops become the ops they are made of",
  run: (graph) => rewrite(graph, (node, of, builder) => expand(builder, node.op, node.operands.map(of), node.attrs)),
};

function expand(builder: GraphBuilder, name: string, operands: readonly ValueId[], attrs: Attrs): ValueId {
  const { lowering } = opOf(name);
  const normal = normaliseAttrs(name, attrs);
  if (lowering.kind !== "decompose") return builder.op(name, operands, normal);
  const emit: Emit = {
    op: (inner, of, innerAttrs = {}) => expand(builder, inner, of, innerAttrs),
    constant: (dtype, shape, data) => builder.constant(dtype, shape, data),
    typeOf: (value) => builder.typeOf(value),
  };
  return lowering.build(emit, operands, normal);
}

export const decomposeExamples: readonly Example[] = [
  {
    says: "softmax is a largest value, powers, their sum and a division; the line's own values broadcast back",
    before: `graph "softmax" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 3]
  %1 = softmax(%0) {axis: -1} : f32[T, 3]
  output "y" = %1
}`,
    after: `graph "softmax" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 3]
  %1 = reduce_max(%0) {axes: [1], keep: true} : f32[T, 1]
  %2 = broadcast(%1) {shape: dims[T, 3]} : f32[T, 3]
  %3 = sub(%0, %2) : f32[T, 3]
  %4 = exp(%3) : f32[T, 3]
  %5 = reduce_sum(%4) {axes: [1], keep: true} : f32[T, 1]
  %6 = broadcast(%5) {shape: dims[T, 3]} : f32[T, 3]
  %7 = div(%4, %6) : f32[T, 3]
  output "y" = %7
}`,
  },
  {
    says: "a linear layer over more than two dimensions is one product of a matrix of rows",
    before: `graph "linear" {
  symbol T: 0..8
  %0 = input "x" : f32[2, T, 3]
  %1 = param "w" : f32[4, 3]
  %2 = param "b" : f32[4]
  %3 = linear(%0, %1, %2) : f32[2, T, 4]
  output "y" = %3
}`,
    after: `graph "linear" {
  symbol T: 0..8
  %0 = input "x" : f32[2, T, 3]
  %1 = param "w" : f32[4, 3]
  %2 = param "b" : f32[4]
  %3 = reshape(%0) {shape: dims[2*T, 3]} : f32[2*T, 3]
  %4 = matmul(%3, %1) {transpose_a: false, transpose_b: true} : f32[2*T, 4]
  %5 = broadcast(%2) {shape: dims[2*T, 4]} : f32[2*T, 4]
  %6 = add(%4, %5) : f32[2*T, 4]
  %7 = reshape(%6) {shape: dims[2, T, 4]} : f32[2, T, 4]
  output "y" = %7
}`,
  },
  {
    says: "composites inside composites are expanded too, and ops with a kernel of their own stay",
    before: `graph "inner" {
  symbol T: 0..8
  %0 = input "x" : f32[T]
  %1 = quick_gelu(%0) : f32[T]
  %2 = neg(%1) : f32[T]
  output "y" = %2
}`,
    after: `graph "inner" {
  symbol T: 0..8
  %0 = input "x" : f32[T]
  %1 = constant [1.702] : f32[T]
  %2 = mul(%0, %1) : f32[T]
  %3 = constant [1] : f32[T]
  %4 = neg(%2) : f32[T]
  %5 = exp(%4) : f32[T]
  %6 = constant [1] : f32[T]
  %7 = add(%6, %5) : f32[T]
  %8 = div(%3, %7) : f32[T]
  %9 = mul(%0, %8) : f32[T]
  %10 = neg(%9) : f32[T]
  output "y" = %10
}`,
  },
];
