// iota: positions as values, and size: a dimension as a value.

import { dim, dimConstant } from "../../compiler/ir/dim.ts";
import { dtypes, type DType } from "../../compiler/ir/dtype.ts";
import type { Attrs } from "../../compiler/ir/graph/types.ts";
import { cast, dimExpr } from "../../compiler/ir/kernel/build.ts";
import { defineOp, OpTypeError } from "../define.ts";
import { part } from "../expr.ts";
import { item, tabulate } from "../reference/tensor.ts";
import { axisIn, dimAttr, dimsAttr, intAttr, stringAttr } from "../rules.ts";
import { rough, shapes } from "../sampling.ts";
import { exact } from "../tolerances.ts";

const shape = dimsAttr("shape", "The sizes of the result.");
const axis = intAttr("axis", "The dimension whose position is the value; negative counts from the end.", 0);
const dtype = stringAttr("dtype", "i32 or f32.", "i32");
const value = dimAttr("value", "The size.");

function numberType(attrs: Attrs): DType & ("i32" | "f32") {
  const name = dtype.of(attrs);
  if (name !== "i32" && name !== "f32")
    throw new OpTypeError(-1, `positions and sizes are i32 or f32, not ${name}`, "i32 or f32", dtypes.find((d) => d === name) ?? name);
  return name;
}

const constantReason = "it has no operands";

export const iota = defineOp({
  name: "iota",
  doc: "result[…, i, …] = i, the position along one dimension.",
  kind: "movement",
  operands: [],
  attrs: [shape.spec, axis.spec, dtype.spec],
  type: (_operands, attrs) => {
    axisIn(axis.of(attrs), shape.of(attrs).length);
    return { dtype: numberType(attrs), shape: shape.of(attrs) };
  },
  reference: (_operands, attrs, out) => {
    const at = axisIn(axis.of(attrs), out.shape.length);
    return tabulate(out.dtype, out.shape, (index) => item(index, at));
  },
  lowering: { kind: "element", emit: (index, { attrs }) => cast(part(index, axisIn(axis.of(attrs), index.length)), numberType(attrs)) },
  derivative: { kind: "nonDifferentiable", reason: constantReason },
  flops: () => dim(0),
  recompute: true,
  tolerance: exact,
  samples: (fc) =>
    fc
      .tuple(shapes(fc, 1, 3), fc.nat(2), fc.constantFrom("i32", "f32"))
      .map(([sizes, a, to]) => rough([], { shape: sizes.map((n) => dim(n)), axis: a % sizes.length, dtype: to })),
});

export const size = defineOp({
  name: "size",
  doc: "A scalar holding a size that may be known only at run time; f32 is exact up to 2^24.",
  kind: "movement",
  operands: [],
  attrs: [value.spec, dtype.spec],
  type: (_operands, attrs) => {
    value.of(attrs);
    return { dtype: numberType(attrs), shape: [] };
  },
  reference: (_operands, attrs, out) => tabulate(out.dtype, out.shape, () => dimConstant(value.of(attrs)) ?? NaN),
  lowering: { kind: "element", emit: (_index, { attrs }) => cast(dimExpr(value.of(attrs)), numberType(attrs)) },
  derivative: { kind: "nonDifferentiable", reason: constantReason },
  flops: () => dim(0),
  recompute: true,
  tolerance: exact,
  samples: (fc) => fc.tuple(fc.nat(100000), fc.constantFrom("i32", "f32")).map(([n, to]) => rough([], { value: dim(n), dtype: to })),
});
