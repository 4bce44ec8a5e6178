// concat: tensors one after the other along an axis.

import { dim, dimAdd, type Dim } from "../../compiler/ir/dim.ts";
import { dimExpr, select, sub } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp, OpTypeError } from "../define.ts";
import { lt, part } from "../expr.ts";
import { elementAt, item, tabulate } from "../reference/tensor.ts";
import { axisIn, intAttr, needSameDType, operandAt, shapeText, sizeAt } from "../rules.ts";
import { exactElements, reals, rough, shapes, size, smooth, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";

const axis = intAttr("axis", "The dimension along which the operands follow each other; negative counts from the end.");

/** Where each operand begins along `at`, and where the last one ends. */
function starts(shapesOf: readonly { readonly shape: readonly Dim[] }[], at: number): readonly Dim[] {
  const from: Dim[] = [dim(0)];
  for (const { shape } of shapesOf) from.push(dimAdd(operandAt(from, from.length - 1), sizeAt(shape, at)));
  return from;
}

export const concat = defineOp({
  name: "concat",
  doc: "The operands one after the other along one dimension; their other sizes are equal.",
  kind: "movement",
  operands: [{ name: "x", doc: "one or more, any element type[…]" }],
  variadic: true,
  attrs: [axis.spec],
  type: (operands, attrs) => {
    const first = operandAt(operands, 0);
    const at = axisIn(axis.of(attrs), first.shape.length);
    for (const [i, x] of operands.entries()) {
      needSameDType(operands, i, 0);
      const fits = x.shape.length === first.shape.length && x.shape.every((d, k) => k === at || d.text === sizeAt(first.shape, k).text);
      if (!fits)
        throw new OpTypeError(
          i,
          `operand ${i} does not have the sizes of operand 0 outside dimension ${at}`,
          shapeText(first.shape),
          shapeText(x.shape),
          0,
        );
    }
    return { dtype: first.dtype, shape: first.shape.map((d, k) => (k === at ? operandAt(starts(operands, at), operands.length) : d)) };
  },
  reference: (operands, attrs, out) => {
    const at = axisIn(axis.of(attrs), out.shape.length);
    return tabulate(out.dtype, out.shape, (index) => {
      let p = item(index, at);
      for (const x of operands) {
        const n = item(x.shape, at);
        if (p < n)
          return elementAt(
            x,
            index.map((q, k) => (k === at ? p : q)),
          );
        p -= n;
      }
      throw new RangeError("a position of concat is past its operands");
    });
  },
  lowering: {
    kind: "element",
    emit: (index, context) => {
      const at = axisIn(axis.of(context.attrs), index.length);
      const from = starts(context.types, at);
      const position = part(index, at);
      const inOperand = (i: number): Expr => {
        const p = i === 0 ? position : sub(position, dimExpr(operandAt(from, i)));
        return context.at(
          i,
          index.map((q, k) => (k === at ? p : q)),
        );
      };
      let result = inOperand(context.types.length - 1);
      for (let i = context.types.length - 2; i >= 0; i--)
        result = select(lt(position, dimExpr(operandAt(from, i + 1))), inOperand(i), result);
      return result;
    },
  },
  derivative: {
    kind: "vjp",
    build: (emit, { operands, cotangent, attrs }) => {
      const types = operands.map((v) => emit.typeOf(v));
      const at = axisIn(axis.of(attrs), operandAt(types, 0).shape.length);
      const from = starts(types, at);
      return operands.map((_, i) =>
        emit.op("slice", [cotangent], { axis: at, start: operandAt(from, i), stop: operandAt(from, i + 1), step: 1 }),
      );
    },
  },
  flops: () => dim(0),
  recompute: true,
  tolerance: exact,
  samples: (fc) =>
    fc
      .tuple(shapes(fc, 1, 3, 4), fc.nat(2), fc.array(size(fc, 4), { minLength: 1, maxLength: 4 }), fc.constantFrom("f32", "u8", "i32"))
      .chain(([shape, a, sizes, dtype]) => {
        const at = a % shape.length;
        const element = dtype === "f32" ? reals(fc, -5, 5) : exactElements(fc, dtype);
        const parts = sizes.map((n) =>
          tensorOf(
            fc,
            dtype,
            shape.map((d, k) => (k === at ? n : d)),
            element,
          ),
        );
        return fc.tuple(...parts).map((xs) => (dtype === "f32" ? smooth : rough)(xs, { axis: at }));
      }),
});
