// nucleus: where the least set of the largest weights ends that makes a share of all. The edge's place in the order of all
// f32 numbers is found bit by bit, each by adding up the weights that are not below.

import { dim, dimMul, dimProduct } from "../../compiler/ir/dim.ts";
import { add, binary, f32, fold, i32, iterate, mul, select, sub, variable } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp } from "../define.ts";
import { orderedFloat } from "../elementwise/ordered_float.ts";
import { and, ge, lt } from "../expr.ts";
import { operandAt } from "../rules.ts";
import { exact } from "../tolerances.ts";
import { eachRow, rowAt, rowSamples, rowsType } from "./rows.ts";

export const nucleus = defineOp({
  name: "nucleus",
  doc: "The largest weight of each row of the last dimension such that the weights not below it are at least `share` of all: 0 where the share is 1 or more, the largest weight where it is 0 or less. The dimension is kept with size 1. Equal weights are in or out together.",
  kind: "reduction",
  rereads: true,
  operands: [
    { name: "weight", doc: "f32[.., N], from 0 to below 2" },
    { name: "share", doc: "f32[.., 1]" },
  ],
  attrs: [],
  type: (operands) => ({ dtype: "f32", shape: rowsType(operands, "f32") }),
  reference: (operands, _attrs, out) =>
    eachRow(operands, out, (row, share) => {
      if (share >= 1) return 0;
      const mass = (edge: number): number => row.reduce((sum, x) => (x >= edge ? sum + x : sum), 0);
      const wanted = share * mass(0);
      return row.reduce((best, x) => (x > best && mass(x) >= wanted ? x : best), 0);
    }),
  lowering: {
    kind: "element",
    emit: (index, context) => {
      const { count, element, beside: share } = rowAt(index, context);
      const to = select(lt(share, f32(1)), count, i32(0));
      const mass = (edge: Expr): Expr => {
        const i = context.fresh("i");
        const here = element(variable(i));
        return fold("sum", i, i32(0), to, select(ge(here, edge), here, f32(0)));
      };
      const wanted = mul(share, mass(f32(0)));
      const place = iterate(context.fresh("place"), context.fresh("bit"), 30, i32(0), (below, turn) => {
        const step = binary("shl", i32(1), sub(i32(29), turn));
        const above = mass(orderedFloat(add(below, step)));
        return add(below, select(and(ge(above, wanted), lt(f32(0), above)), step, i32(0)));
      });
      return orderedFloat(place);
    },
  },
  derivative: { kind: "nonDifferentiable", reason: "which element it is changes in steps" },
  flops: (operands) => dimMul(dim(31), dimProduct(operandAt(operands, 0).shape)),
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
        fc.constantFrom(0, 1, 1.5),
      ),
      () =>
        fc.oneof(
          fc.integer({ min: -1, max: 17 }).map((x) => x / 16),
          fc.constantFrom(0, 1),
        ),
    ),
});
