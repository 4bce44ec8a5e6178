// pad: one axis made longer with a constant.

import { dim, dimAdd, dimConstant } from "../../compiler/ir/dim.ts";
import { isFloat } from "../../compiler/ir/dtype.ts";
import { bool, dimExpr, f32, i32, select, sub } from "../../compiler/ir/kernel/build.ts";
import { scalarTypeOf, type Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp, OpTypeError } from "../define.ts";
import { and, ge, lt, part } from "../expr.ts";
import { elementAt, item, tabulate } from "../reference/tensor.ts";
import { axisIn, dimAttr, floatAttr, intAttr, operandAt, sizeAt } from "../rules.ts";
import { exactElements, reals, rough, shapes, smooth, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";

const axis = intAttr("axis", "The dimension that is made longer; negative counts from the end.");
const before = dimAttr("before", "How many positions are put in front.");
const after = dimAttr("after", "How many positions are put behind.");
const value = floatAttr("value", "What stands in the new positions.", 0);

export const pad = defineOp({
  name: "pad",
  doc: "x with positions of a constant put before and after along one dimension.",
  kind: "movement",
  operands: [{ name: "x", doc: "any element type[…]" }],
  attrs: [axis.spec, before.spec, after.spec, value.spec],
  type: (operands, attrs) => {
    const x = operandAt(operands, 0);
    const at = axisIn(axis.of(attrs), x.shape.length);
    const [a, b] = [before.of(attrs), after.of(attrs)];
    if ((dimConstant(a) ?? 0) < 0 || (dimConstant(b) ?? 0) < 0)
      throw new OpTypeError(-1, "a pad is negative", "0 or more", `${a.text} and ${b.text}`);
    if (!isFloat(x.dtype) && !Number.isInteger(value.of(attrs)))
      throw new OpTypeError(-1, "the padding of integers must be an integer", x.dtype, String(value.of(attrs)));
    return { dtype: x.dtype, shape: x.shape.map((d, i) => (i === at ? dimAdd(dimAdd(a, d), b) : d)) };
  },
  reference: (operands, attrs, out) => {
    const x = operandAt(operands, 0);
    const at = axisIn(axis.of(attrs), x.shape.length);
    const lead = dimConstant(before.of(attrs)) ?? NaN;
    return tabulate(out.dtype, out.shape, (index) => {
      const p = item(index, at) - lead;
      return p < 0 || p >= item(x.shape, at)
        ? value.of(attrs)
        : elementAt(
            x,
            index.map((q, i) => (i === at ? p : q)),
          );
    });
  },
  lowering: {
    kind: "element",
    emit: (index, { at, attrs, types, out }) => {
      const shape = operandAt(types, 0).shape;
      const long = axisIn(axis.of(attrs), shape.length);
      const lead = before.of(attrs);
      const position = dimConstant(lead) === 0 ? part(index, long) : sub(part(index, long), dimExpr(lead));
      const inside = at(
        0,
        index.map((p, i) => (i === long ? position : p)),
      );
      const conditions: Expr[] = [];
      if (dimConstant(lead) !== 0) conditions.push(ge(position, i32(0)));
      if (dimConstant(after.of(attrs)) !== 0) conditions.push(lt(position, dimExpr(sizeAt(shape, long))));
      const holds = conditions.reduce<Expr | undefined>((a, b) => (a === undefined ? b : and(a, b)), undefined);
      return holds === undefined ? inside : select(holds, inside, constantOf(value.of(attrs), scalarTypeOf(out.dtype)));
    },
  },
  derivative: {
    kind: "vjp",
    build: (emit, { operands, cotangent, attrs }) => {
      const x = emit.typeOf(operandAt(operands, 0));
      const at = axisIn(axis.of(attrs), x.shape.length);
      const from = before.of(attrs);
      return [emit.op("slice", [cotangent], { axis: at, start: from, stop: dimAdd(from, sizeAt(x.shape, at)), step: 1 })];
    },
  },
  flops: () => dim(0),
  recompute: true,
  tolerance: exact,
  samples: (fc) =>
    fc
      .tuple(shapes(fc, 1, 3), fc.nat(2), fc.nat(4), fc.nat(4), fc.integer({ min: -2, max: 2 }), fc.constantFrom("f32", "i32"))
      .chain(([shape, a, front, back, v, dtype]) => {
        const attrs = { axis: a % shape.length, before: dim(front), after: dim(back), value: v };
        return tensorOf(fc, dtype, shape, dtype === "f32" ? reals(fc, -5, 5) : exactElements(fc, dtype)).map((x) =>
          (dtype === "f32" ? smooth : rough)([x], attrs),
        );
      }),
});

function constantOf(v: number, type: "f32" | "i32" | "bool"): Expr {
  return type === "f32" ? f32(v) : type === "i32" ? i32(v) : bool(v !== 0);
}
