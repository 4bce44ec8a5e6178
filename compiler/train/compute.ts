// Mixed precision: products of f32 operands are computed of operands in f16 or bf16, and added in f32. Parameters, biases,
// norms, softmax, attention and the loss stay f32, and so does what the optimiser holds (Micikevicius et al. 2018, "Mixed
// Precision Training"). Scales no loss: index.ts does, for f16.
//   linear(x, W, b)  ->  cast(linear(cast(x), cast(W))) + b

import type { Graph, OpNode, ValueId } from "../ir/graph/types.ts";
import { add, broadcastTo } from "../../ops/emit.ts";
import { keepOp, rewrite } from "../passes/rewrite.ts";
import type { HalfType } from "./settings.ts";

/**
 * `graph` with its products in `dtype`. A value is rounded anew for each product that reads it, so that the derivatives of
 * all of them are added in f32; equal casts become one afterwards.
 */
export function computeIn(graph: Graph, dtype: HalfType): Graph {
  return rewrite(graph, (node, of, b) => {
    if (!isProduct(node)) return keepOp(node, of, b);
    const half = (old: ValueId): ValueId => b.op("cast", [of(old)], { dtype });
    const [left, right, bias] = node.operands;
    if (left === undefined || right === undefined) return keepOp(node, of, b);
    const product = b.op("cast", [b.op(node.op, [half(left), half(right)], node.attrs)], { dtype: "f32" });
    return bias === undefined ? product : add(b, product, broadcastTo(b, of(bias), b.typeOf(product).shape));
  });
}

function isProduct(node: OpNode): boolean {
  return (node.op === "linear" || node.op === "matmul") && node.type.dtype === "f32";
}
