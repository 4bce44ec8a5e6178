// The pattern of a matrix product by a packed weight: op `unpack` disappeared into the product, and what it unpacks is in
// memory as it is. Decides nothing: without the pattern the product is the same sum, in plain loops.

import { variable } from "../ir/kernel/build.ts";
import type { Expr, Pattern } from "../ir/kernel/types.ts";
import type { OpNode, ValueId } from "../ir/graph/types.ts";
import { linearIndex } from "../../ops/expr.ts";
import { opOf } from "../../ops/index.ts";
import { Expander, nodeOf, type Values } from "./expand.ts";
import { axisName, type Group } from "./legality.ts";
import { contractionParts } from "./patterns.ts";

type Unpacked = Extract<Pattern, { k: "quantised" }>;

/** `fold` is the sum of the group's product. Undefined for every other product. */
export function unpackedPattern(values: Values, g: Group, contraction: ValueId, fold: Expr): Unpacked | undefined {
  const product = nodeOf(values, contraction);
  if (product.kind !== "op" || product.op !== "matmul" || product.type.shape.length !== 2) return undefined;
  if (product.attrs["transpose_a"] === true || product.attrs["transpose_b"] !== true) return undefined;
  const weight = nodeOf(values, product.operands[1] ?? -1);
  if (weight.kind !== "op" || opOf(weight.op).unpacks !== true || !g.inlined.has(weight.id)) return undefined;
  const bits = weight.attrs["bits"];
  const parts = contractionParts(fold);
  const [packed, scales, minima] = [0, 1, 2].map((i) => bufferAsItIs(values, g, weight, i));
  const complete = packed !== undefined && scales !== undefined && (minima !== undefined || weight.operands.length === 2);
  if (parts === undefined || !complete || (bits !== 4 && bits !== 8)) return undefined;
  return {
    k: "quantised",
    m: axisName(0),
    n: axisName(1),
    kAxis: parts.fold.axis,
    a: parts.a,
    bits,
    values: packed,
    scales,
    ...(minima === undefined ? {} : { minima }),
  };
}

/** The name under which expressions load an operand, if they load it row by row from a buffer that holds just it. */
function bufferAsItIs(values: Values, g: Group, node: OpNode, operand: number): string | undefined {
  const id = node.operands[operand];
  if (id === undefined) return undefined;
  const expander = new Expander(values, { isInlined: (v) => g.inlined.has(v) });
  const { shape } = nodeOf(values, id).type;
  const at = shape.map((extent, i) => {
    expander.simplifier.axis(axisName(i), extent);
    return variable(axisName(i));
  });
  const element = expander.element(id, at);
  return element.k === "load" && element.index === expander.simplifier.simplify(linearIndex(at, shape)) ? element.buffer : undefined;
}
