// ordered_float: from an integer to the f32 number that has this place in the order of all of them. Finding a threshold
// exactly (the k-th largest of a row) is then a search over 32 bits, and needs no sorting.

import { dimProduct } from "../../compiler/ir/dim.ts";
import { binary, bitcast, i32, select, sub, unary } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp } from "../define.ts";
import { lt } from "../expr.ts";
import { item, tabulate } from "../reference/tensor.ts";
import { needDType, operandAt } from "../rules.ts";
import { elementwiseShapes, rough, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";

/** The place of infinity: the number of positive f32 numbers. */
const last = 0x7f800000;

/** Number `n` of those from 0 up, which is the one with these bits. */
function upward(n: number): number {
  const floats = new Float32Array(1);
  new Int32Array(floats.buffer)[0] = Math.min(n, last);
  return item(floats, 0);
}

/** The lowering, for ops that search among all numbers. */
export function orderedFloat(x: Expr): Expr {
  const negative = lt(x, i32(0));
  const place = binary("min", select(negative, sub(i32(-1), x), x), i32(last));
  const magnitude = bitcast(place);
  return select(negative, unary("neg", magnitude), magnitude);
}

export const ordered_float = defineOp({
  name: "ordered_float",
  doc: "The f32 number with this place in their order: 0 is 0, 1 the least number above it, 2139095040 (0x7f800000) infinity; -1 is -0, -2 the greatest number below it. Beyond the infinities it is they.",
  kind: "elementwise",
  operands: [{ name: "x", doc: "i32[…]" }],
  attrs: [],
  type: (operands) => {
    needDType(operands, 0, (d) => d === "i32", "i32");
    return { dtype: "f32", shape: operandAt(operands, 0).shape };
  },
  reference: ([x], _attrs, out) =>
    tabulate("f32", out.shape, (_, i) => {
      const n = x === undefined ? NaN : item(x.data, i);
      return n < 0 ? -upward(-1 - n) : upward(n);
    }),
  lowering: { kind: "scalar", emit: ([x = i32(0)]) => orderedFloat(x) },
  derivative: { kind: "nonDifferentiable", reason: "the operand is an integer" },
  flops: (_operands, _attrs, out) => dimProduct(out.shape),
  recompute: true,
  tolerance: exact,
  samples: (fc) => {
    const places = fc.oneof(
      fc.integer({ min: -2147483648, max: 2147483647 }),
      fc.constantFrom(0, 1, -1, -2, last, last - 1, last + 1, -1 - last, -2 - last, -last, 0x3f800000, 2147483647, -2147483648),
    );
    return elementwiseShapes(fc).chain((shape) => tensorOf(fc, "i32", shape, places).map((x) => rough([x])));
  },
});
