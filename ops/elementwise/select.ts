// select: a choice for each element.

import { dimProduct } from "../../compiler/ir/dim.ts";
import { select as selectExpr } from "../../compiler/ir/kernel/build.ts";
import { defineOp } from "../define.ts";
import { zerosLike } from "../emit.ts";
import { item, tabulate } from "../reference/tensor.ts";
import { needDType, needSameDType, needSameShape, operandAt } from "../rules.ts";
import { edgy, elementwiseShapes, exactElements, reals, rough, smooth, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";

export const select = defineOp({
  name: "select",
  doc: "a where the condition is true, else b. What stands on the other side does not matter, NaN included.",
  kind: "elementwise",
  operands: [
    { name: "condition", doc: "bool[…]" },
    { name: "a", doc: "any element type, the shape of the condition" },
    { name: "b", doc: "the shape and element type of a" },
  ],
  attrs: [],
  type: (operands) => {
    needDType(operands, 0, (d) => d === "bool", "bool");
    needSameShape(operands, 1, 0);
    needSameDType(operands, 2, 1);
    needSameShape(operands, 2, 1);
    return operandAt(operands, 1);
  },
  reference: (operands, _attrs, out) => {
    const condition = operandAt(operands, 0);
    const a = operandAt(operands, 1);
    const b = operandAt(operands, 2);
    return tabulate(out.dtype, out.shape, (_, i) => item((item(condition.data, i) !== 0 ? a : b).data, i));
  },
  lowering: { kind: "scalar", emit: (args) => selectExpr(operandAt(args, 0), operandAt(args, 1), operandAt(args, 2)) },
  derivative: {
    kind: "vjp",
    build: (emit, { operands, cotangent }) => {
      const condition = operandAt(operands, 0);
      const zero = zerosLike(emit, cotangent);
      return [undefined, emit.op("select", [condition, cotangent, zero]), emit.op("select", [condition, zero, cotangent])];
    },
  },
  flops: (_operands, _attrs, out) => dimProduct(out.shape),
  recompute: true,
  tolerance: exact,
  samples: (fc) =>
    fc.tuple(fc.constantFrom("smooth", "f32", "i32", "u8", "bool"), elementwiseShapes(fc)).chain(([kind, shape]) => {
      const dtype = kind === "smooth" ? "f32" : kind;
      const element = kind === "smooth" ? reals(fc, -5, 5) : kind === "f32" ? edgy(fc, -10, 10) : exactElements(fc, dtype);
      const of = tensorOf(fc, dtype, shape, element);
      return fc
        .tuple(tensorOf(fc, "bool", shape, exactElements(fc, "bool")), of, of)
        .map((all) => (kind === "smooth" ? smooth(all) : rough(all)));
    }),
});
