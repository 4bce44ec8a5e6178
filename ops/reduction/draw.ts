// draw: from a number to the element whose part of the sum it falls in. With a random number this is a choice with the
// probabilities that the weights have. The place is found bit by bit, each by adding up what stands before it: for long rows
// it is better to draw among sums of groups first, as graphs/sampling.uhd does.

import { dimProduct } from "../../compiler/ir/dim.ts";
import { add, binary, f32, fold, i32, iterate, mul, select, sub, variable } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp } from "../define.ts";
import { and, ge, lt } from "../expr.ts";
import { operandAt } from "../rules.ts";
import { exact } from "../tolerances.ts";
import { eachRow, rowAt, rowSamples, rowsType } from "./rows.ts";

/** Halves of rows of up to 2^22 elements, far more than a vocabulary has. */
const bits = 22;

export const draw = defineOp({
  name: "draw",
  doc: "The place in each row of the last dimension, which is kept with size 1, where the running sum of the weights gets above `at` times their sum; never one whose weight is 0, unless all are: then it is 0. A row has less than 2^23 elements.",
  kind: "reduction",
  rereads: true,
  operands: [
    { name: "weight", doc: "f32[.., N], not below 0" },
    { name: "at", doc: "f32[.., 1], from 0 to below 1" },
  ],
  attrs: [],
  type: (operands) => ({ dtype: "i32", shape: rowsType(operands, "f32") }),
  reference: (operands, _attrs, out) =>
    eachRow(operands, out, (row, at) => {
      const target = at * row.reduce((sum, x) => sum + x, 0);
      let sum = 0;
      const place = row.findIndex((x) => (sum += x) > target);
      return Math.max(0, place);
    }),
  lowering: {
    kind: "element",
    emit: (index, context) => {
      const { count, element, beside: at } = rowAt(index, context);
      const over = (op: "sum" | "max", from: Expr, to: Expr, body: (x: Expr, i: Expr) => Expr): Expr => {
        const i = context.fresh("i");
        return fold(op, i, from, to, body(element(variable(i)), variable(i)));
      };
      const target = mul(
        at,
        over("sum", i32(0), count, (x) => x),
      );
      const place = iterate(context.fresh("place"), context.fresh("bit"), bits + 1, i32(0), (from, turn) => {
        const step = binary("shl", i32(1), sub(i32(bits), turn));
        const next = add(from, step);
        const before = over("sum", i32(0), select(lt(next, count), next, i32(0)), (x) => x);
        return add(from, select(and(lt(next, count), binary("le", before, target)), step, i32(0)));
      });
      // Sums in another order round otherwise: where that led to a weight of 0, it is the last one before it that is not.
      const within = binary("min", add(place, i32(1)), count);
      const last = over("max", i32(0), within, (x, i) => select(lt(f32(0), x), i, i32(-1)));
      const first = context.fresh("i");
      const otherwise = fold(
        "min",
        first,
        i32(0),
        select(ge(last, i32(0)), i32(0), count),
        select(lt(f32(0), element(variable(first))), variable(first), count),
      );
      return select(ge(last, i32(0)), last, select(lt(otherwise, count), otherwise, i32(0)));
    },
  },
  derivative: { kind: "nonDifferentiable", reason: "the result is a position" },
  flops: (operands) => dimProduct(operandAt(operands, 0).shape),
  recompute: false,
  tolerance: exact,
  // Sums of these are exact in f32, in any order.
  samples: (fc) =>
    rowSamples(
      fc,
      "f32",
      0,
      fc.oneof(
        fc.integer({ min: 0, max: 16 }).map((x) => x / 16),
        fc.constantFrom(0, 0, 2),
      ),
      () =>
        fc.oneof(
          fc.integer({ min: 0, max: 15 }).map((x) => x / 16),
          fc.constantFrom(0, 1 - 2 ** -10),
        ),
    ),
});
