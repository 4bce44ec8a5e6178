// kth_largest: an element by its rank, without sorting. The place of the edge in the order of all f32 numbers is found
// bit by bit, each by counting the elements that are not below; when exactly k are not, the rest need not be found.

import { dimProduct } from "../../compiler/ir/dim.ts";
import { add, binary, bool, cast, f32, fold, i32, mul, select, variable } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp } from "../define.ts";
import { orderedFloat } from "../elementwise/ordered_float.ts";
import { and, eq, ge, lt, or } from "../expr.ts";
import { operandAt } from "../rules.ts";
import { edgy } from "../sampling.ts";
import { exact } from "../tolerances.ts";
import { eachRow, rowAt, rowSamples, rowsType } from "./rows.ts";

export const kth_largest = defineOp({
  name: "kth_largest",
  doc: "The k-th largest element of each row of the last dimension, which is kept with size 1; equal elements count each. -infinity where k is not below the number of elements. NaN is not an element.",
  kind: "reduction",
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
      // Nothing is counted once it is known which elements are above the edge, or that all are.
      let done: Expr = ge(k, count);
      const notBelow = (edge: Expr): Expr => {
        const i = context.fresh("i");
        const one = select(ge(element(variable(i)), edge), i32(1), i32(0));
        return fold("sum", i, i32(0), select(done, i32(0), count), one);
      };
      const first = notBelow(f32(0));
      let place: Expr = select(ge(first, k), i32(0), i32(-2147483648));
      done = or(done, eq(first, k));
      for (let bit = 30; bit >= 0; bit--) {
        const step = i32(2 ** bit);
        const above = notBelow(orderedFloat(add(place, step)));
        place = add(place, mul(cast(and(ge(above, k), binary("ne", done, bool(true))), "i32"), step));
        done = or(done, eq(above, k));
      }
      const i = context.fresh("i");
      const edge = orderedFloat(place);
      const here = element(variable(i));
      const all = lt(k, count);
      const least = fold("min", i, i32(0), select(all, count, i32(0)), select(ge(here, edge), here, f32(Infinity)));
      // -0 and 0 are one number to who compares; the sum makes it 0.
      return binary("min", add(least, f32(0)), select(all, f32(Infinity), f32(-Infinity)));
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
