// argmax: where the largest element is.

import { dimProduct } from "../../compiler/ir/dim.ts";
import { dimExpr, fold, i32, select, variable } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp, OpTypeError } from "../define.ts";
import { eq, ne, or } from "../expr.ts";
import { around, item, tabulate } from "../reference/tensor.ts";
import { axisIn, intAttr, isNumeric, needDType, operandAt, sizeAt, typeText } from "../rules.ts";
import { edgy, integers, rough, shapes, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";

const axis = intAttr("axis", "The dimension that is searched; negative counts from the end.", -1);

export const argmax = defineOp({
  name: "argmax",
  doc: "The first position of the largest element along one dimension, which is left out; a NaN counts as the largest.",
  kind: "reduction",
  operands: [{ name: "x", doc: "f32, f16, bf16 or i32[…], not empty along the axis" }],
  attrs: [axis.spec],
  type: (operands, attrs) => {
    needDType(operands, 0, isNumeric, "f32, f16, bf16 or i32");
    const x = operandAt(operands, 0);
    const at = axisIn(axis.of(attrs), x.shape.length);
    if (sizeAt(x.shape, at).text === "0")
      throw new OpTypeError(0, "there is no largest element of none", `at least 1 in dimension ${at}`, typeText(x));
    return { dtype: "i32", shape: x.shape.filter((_, i) => i !== at) };
  },
  reference: (operands, attrs, out) => {
    const x = operandAt(operands, 0);
    const { size, inner } = around(x.shape, axisIn(axis.of(attrs), x.shape.length));
    return tabulate(out.dtype, out.shape, (_, linear) => {
      const first = Math.floor(linear / inner) * size * inner + (linear % inner);
      let best = 0;
      for (let i = 1; i < size; i++) {
        const [value, top] = [item(x.data, first + i * inner), item(x.data, first + best * inner)];
        if (!Number.isNaN(top) && (Number.isNaN(value) || value > top)) best = i;
      }
      return best;
    });
  },
  lowering: {
    kind: "element",
    emit: (index, context) => {
      const { shape, dtype } = operandAt(context.types, 0);
      const at = axisIn(axis.of(context.attrs), shape.length);
      const extent = dimExpr(sizeAt(shape, at));
      const element = (i: Expr): Expr => context.at(0, [...index.slice(0, at), i, ...index.slice(at)]);
      const value = context.fresh("value");
      const place = context.fresh("place");
      const largest = fold("max", value, i32(0), extent, element(variable(value)));
      const here = element(variable(place));
      const wins = dtype === "i32" ? eq(here, largest) : or(eq(here, largest), ne(here, here));
      return fold("min", place, i32(0), extent, select(wins, variable(place), i32(2147483647)));
    },
  },
  derivative: { kind: "nonDifferentiable", reason: "the result is a position" },
  flops: (operands) => dimProduct(operandAt(operands, 0).shape),
  recompute: false,
  tolerance: exact,
  samples: (fc) =>
    fc.tuple(shapes(fc, 1, 3, 6), fc.nat(2), fc.constantFrom("f32", "i32")).chain(([sizes, a, dtype]) => {
      const at = a % sizes.length;
      const shape = sizes.map((n, i) => (i === at ? Math.max(n, 1) : n));
      const element = dtype === "i32" ? integers(fc) : edgy(fc, -3, 3, [NaN, Infinity, -Infinity, 0, -0, 1]);
      return tensorOf(fc, dtype, shape, element).map((x) => rough([x], { axis: at }));
    }),
});
