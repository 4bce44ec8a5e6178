// kth_largest: an element by its rank, without sorting. The place of the edge in the order of all f32 numbers is found
// bit by bit, each by counting the elements that are not below; when exactly k are not, the rest need not be found.

import { dimProduct } from "../../compiler/ir/dim.ts";
import { add, binary, bool, cast, f32, fold, i32, iterate, select, sub, variable } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp } from "../define.ts";
import { orderedFloat } from "../elementwise/ordered_float.ts";
import { eq, ge, or } from "../expr.ts";
import { operandAt } from "../rules.ts";
import { edgy } from "../sampling.ts";
import { exact } from "../tolerances.ts";
import { eachRow, rowAt, rowSamples, rowsType } from "./rows.ts";

export const kth_largest = defineOp({
  name: "kth_largest",
  doc: "The k-th largest element of each row of the last dimension, which is kept with size 1; equal elements count each. -infinity where k is not below the number of elements. NaN is not an element.",
  kind: "reduction",
  rereads: true,
  operands: [
    { name: "x", doc: "f32[.., N]" },
    { name: "k", doc: "i32[.., 1], at least 1" },
  ],
  attrs: [],
  type: (operands) => ({ dtype: "f32", shape: rowsType(operands, "i32") }),
  reference: (operands, _attrs, out) =>
    eachRow(operands, out, (row, k) => {
      const sorted = row.filter((x) => !Number.isNaN(x)).sort((a, b) => b - a);
      return k >= row.length ? -Infinity : (sorted[k - 1] ?? -Infinity) + 0;
    }),
  lowering: {
    kind: "element",
    emit: (index, context) => {
      const { count, element, beside: k } = rowAt(index, context);
      const all = ge(k, count);
      /** How many elements are not below the number at a place; none are counted where that is no question. */
      const notBelow = (place: Expr, known: Expr): Expr => {
        const i = context.fresh("i");
        const one = select(ge(element(variable(i)), orderedFloat(place)), i32(1), i32(0));
        return fold("sum", i, i32(0), select(or(all, known), i32(0), count), one);
      };
      const first = notBelow(i32(0), bool(false));
      const begin = add(select(ge(first, k), i32(0), i32(-2147483648)), cast(eq(first, k), "i32"));
      // Bits 30 to 1. Bit 0 marks that exactly k elements are not below the number at the place: the rest needs no search.
      const marked = (place: Expr): Expr => eq(binary("bitand", place, i32(1)), i32(1));
      const found = iterate(context.fresh("place"), context.fresh("bit"), 30, begin, (place, turn) => {
        const step = binary("shl", i32(1), sub(i32(30), turn));
        const above = notBelow(add(place, step), marked(place));
        return add(add(place, select(ge(above, k), step, i32(0))), cast(eq(above, k), "i32"));
      });
      const even = sub(found, cast(marked(found), "i32"));
      const edge = orderedFloat(add(even, cast(ge(notBelow(add(even, i32(1)), marked(found)), k), "i32")));
      const i = context.fresh("i");
      const here = element(variable(i));
      const least = fold("min", i, i32(0), select(all, i32(0), count), select(ge(here, edge), here, f32(Infinity)));
      // -0 and 0 are one number to who compares; the sum makes it 0.
      return binary("min", add(least, f32(0)), select(all, f32(-Infinity), f32(Infinity)));
    },
  },
  derivative: { kind: "nonDifferentiable", reason: "which element it is changes in steps" },
  flops: (operands) => dimProduct(operandAt(operands, 0).shape),
  recompute: false,
  tolerance: exact,
  samples: (fc) =>
    rowSamples(fc, "i32", 0, edgy(fc, -3, 3, [Infinity, -Infinity, 0, -0, 1, -1, 1e-45, -1e-45, 3.4028234663852886e38]), (n) =>
      fc.integer({ min: 1, max: n + 2 }),
    ),
});
