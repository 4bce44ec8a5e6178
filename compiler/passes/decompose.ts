// Composite ops become the ops they are made of, until only ops with a kernel of their own are left.

import type { GraphBuilder } from "../ir/graph/build.ts";
import type { Attrs, ValueId } from "../ir/graph/types.ts";
import type { Emit } from "../../ops/define.ts";
import { normaliseAttrs, opOf } from "../../ops/index.ts";
import { rewrite, type Pass } from "./rewrite.ts";

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
