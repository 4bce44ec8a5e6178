// next_largest: the elements of a row in descending order, one step at a time. The few best of many are found so without
// sorting the rest.

import { dim, dimMul, dimProduct } from "../../compiler/ir/dim.ts";
import { binary, f32, fold, i32, select, variable } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp } from "../define.ts";
import { and, eq, lt, or } from "../expr.ts";
import { operandAt } from "../rules.ts";
import { edgy } from "../sampling.ts";
import { exact } from "../tolerances.ts";
import { eachRow, rowAt, rowSamples, rowsType } from "./rows.ts";

export const next_largest = defineOp({
  name: "next_largest",
  doc: "The place in each row of the last dimension, which is kept with size 1, of the element that follows the one at place `after` when they are in descending order, equal ones by their places; of the largest where `after` is -1. -1 when there is none. NaN is not an element.",
  kind: "reduction",
  operands: [
    { name: "x", doc: "f32[.., N]" },
    { name: "after", doc: "i32[.., 1], in -1 … N-1" },
  ],
  attrs: [],
  type: (operands) => ({ dtype: "i32", shape: rowsType(operands, "i32") }),
  reference: (operands, _attrs, out) =>
    eachRow(operands, out, (row, after) => {
      const order = row.flatMap((x, i) => (Number.isNaN(x) ? [] : [i])).sort((i, j) => (row[j] ?? 0) - (row[i] ?? 0) || i - j);
      if (order.length === 0 || Number.isNaN(row[after] ?? 0)) return -1;
      return order[after < 0 ? 0 : order.indexOf(after) + 1] ?? -1;
    }),
  lowering: {
    kind: "element",
    emit: (index, context) => {
      const { count, element, beside: after } = rowAt(index, context);
      const begin = lt(after, i32(0));
      const value = select(begin, f32(0), element(after));
      const behind = (x: Expr, i: Expr): Expr => or(begin, or(lt(x, value), and(eq(x, value), lt(after, i))));
      const none = i32(2147483647);
      const over = (op: "max" | "min", body: (x: Expr, i: Expr) => Expr): Expr => {
        const i = context.fresh("i");
        return fold(op, i, i32(0), count, body(element(variable(i)), variable(i)));
      };
      const number = (x: Expr): Expr => eq(x, x);
      const largest = over("max", (x, i) => select(and(number(x), behind(x, i)), x, f32(-Infinity)));
      const place = over("min", (x, i) => select(and(behind(x, i), eq(x, largest)), i, none));
      return select(binary("eq", place, none), i32(-1), place);
    },
  },
  derivative: { kind: "nonDifferentiable", reason: "the result is a position" },
  flops: (operands) => dimMul(dim(2), dimProduct(operandAt(operands, 0).shape)),
  recompute: false,
  tolerance: exact,
  samples: (fc) =>
    rowSamples(fc, "i32", 1, edgy(fc, -3, 3, [NaN, Infinity, -Infinity, 0, -0, 1, 1]), (n) => fc.integer({ min: -1, max: n - 1 })),
});
