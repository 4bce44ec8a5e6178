// cast: conversion between element types.

import { dimProduct } from "../../compiler/ir/dim.ts";
import { dtypes, isDType, isFloat, type DType } from "../../compiler/ir/dtype.ts";
import type { Attrs } from "../../compiler/ir/graph/types.ts";
import { binary, cast as castExpr, i32 } from "../../compiler/ir/kernel/build.ts";
import { scalarTypeOf, type Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp, OpTypeError } from "../define.ts";
import { convert } from "../reference/numbers.ts";
import { item, tabulate } from "../reference/tensor.ts";
import { operandAt, stringAttr } from "../rules.ts";
import { edgy, elementwiseShapes, exactElements, reals, rough, smooth, specials, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";

const dtype = stringAttr("dtype", "The element type of the result.");

function target(attrs: Attrs): DType {
  const name = dtype.of(attrs);
  if (!isDType(name)) throw new OpTypeError(-1, `"${name}" is not an element type`, dtypes.join(", "), name);
  return name;
}

/** u8 and i8 are i32 inside a kernel, so the wrap that a store would do is written out: the value may never be stored. */
function lower(x: Expr, to: DType): Expr {
  const value = castExpr(x, scalarTypeOf(to));
  if (to === "u8") return binary("bitand", value, i32(255));
  if (to === "i8") return binary("shr", binary("shl", value, i32(24)), i32(24));
  return value;
}

export const cast = defineOp({
  name: "cast",
  doc: "x as another element type. Float to integer truncates toward zero, saturates to 32 bits, then keeps the low bits for u8 and i8; NaN gives 0. To bool is x ≠ 0. To f16 and bf16 rounds to nearest even where the result is stored: a fused consumer may see the unrounded value.",
  kind: "elementwise",
  operands: [{ name: "x", doc: "any element type[…]" }],
  attrs: [dtype.spec],
  type: (operands, attrs) => ({ dtype: target(attrs), shape: operandAt(operands, 0).shape }),
  reference: (operands, _attrs, out) => {
    const x = operandAt(operands, 0);
    return tabulate(out.dtype, out.shape, (_, i) => convert(item(x.data, i), x.dtype, out.dtype));
  },
  lowering: { kind: "scalar", emit: (args, attrs) => lower(operandAt(args, 0), target(attrs)) },
  derivative: {
    kind: "vjp",
    build: (emit, { operands, cotangent }) => {
      const from = emit.typeOf(operandAt(operands, 0)).dtype;
      return [isFloat(from) ? emit.op("cast", [cotangent], { dtype: from }) : undefined];
    },
  },
  flops: (_operands, _attrs, out) => dimProduct(out.shape),
  recompute: true,
  tolerance: exact,
  samples: (fc) =>
    fc.tuple(fc.nat(9), fc.constantFrom(...dtypes), fc.constantFrom(...dtypes), elementwiseShapes(fc)).chain(([kind, from, to, shape]) => {
      if (kind === 0) return tensorOf(fc, "f32", shape, reals(fc, -5, 5)).map((x) => smooth([x], { dtype: "f32" }));
      const element =
        from === "f32"
          ? edgy(fc, -70000, 70000, [...specials, 65519.99, 65520, 6e-8, 2.9e-8, 254.5, 4e9, -4e9].map(Math.fround))
          : exactElements(fc, from);
      return tensorOf(fc, from, shape, element).map((x) => rough([x], { dtype: to }));
    }),
});
