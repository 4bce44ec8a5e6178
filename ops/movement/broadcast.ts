// broadcast: sizes of 1, and missing leading dimensions, stretched.

import { dim, dimConstant } from "../../compiler/ir/dim.ts";
import { i32 } from "../../compiler/ir/kernel/build.ts";
import { defineOp, OpTypeError } from "../define.ts";
import { sumTo } from "../emit.ts";
import { part } from "../expr.ts";
import { elementAt, item, tabulate } from "../reference/tensor.ts";
import { dimsAttr, operandAt, shapeText, sizeAt } from "../rules.ts";
import { exactElements, reals, rough, shapes, smooth, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";

const shape = dimsAttr("shape", "The sizes of the result. Aligned at the right; a size of x is either the literal 1 or equal.");

export const broadcast = defineOp({
  name: "broadcast",
  doc: "x repeated along dimensions where its size is 1 or missing.",
  kind: "movement",
  view: "affine",
  operands: [{ name: "x", doc: "any element type[…]" }],
  attrs: [shape.spec],
  type: (operands, attrs) => {
    const x = operandAt(operands, 0);
    const to = shape.of(attrs);
    const lead = to.length - x.shape.length;
    const fits = lead >= 0 && x.shape.every((d, i) => dimConstant(d) === 1 || d.text === sizeAt(to, lead + i).text);
    if (!fits)
      throw new OpTypeError(
        0,
        `${shapeText(x.shape)} does not broadcast to ${shapeText(to)}`,
        `1 or the size of ${shapeText(to)} in every dimension`,
        shapeText(x.shape),
      );
    return { dtype: x.dtype, shape: to };
  },
  reference: (operands, _attrs, out) => {
    const x = operandAt(operands, 0);
    const lead = out.shape.length - x.shape.length;
    return tabulate(out.dtype, out.shape, (index) =>
      elementAt(
        x,
        x.shape.map((n, i) => (n === 1 ? 0 : item(index, lead + i))),
      ),
    );
  },
  lowering: {
    kind: "element",
    emit: (index, context) => {
      const from = operandAt(context.types, 0).shape;
      const lead = index.length - from.length;
      return context.at(
        0,
        from.map((d, i) => (dimConstant(d) === 1 ? i32(0) : part(index, lead + i))),
      );
    },
  },
  derivative: { kind: "vjp", build: (emit, { operands, cotangent }) => [sumTo(emit, cotangent, emit.typeOf(operandAt(operands, 0)))] },
  flops: () => dim(0),
  recompute: true,
  tolerance: exact,
  samples: (fc) =>
    fc
      .tuple(shapes(fc, 0, 4), fc.nat(4), fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }), fc.constantFrom("f32", "u8", "i32"))
      .chain(([to, drop, ones, dtype]) => {
        const from = to.slice(Math.min(drop, to.length)).map((n, i) => (ones[i] === true ? 1 : n));
        return tensorOf(fc, dtype, from, dtype === "f32" ? reals(fc, -5, 5) : exactElements(fc, dtype)).map((x) =>
          (dtype === "f32" ? smooth : rough)([x], { shape: to.map((n) => dim(n)) }),
        );
      }),
});
