// What the reductions that choose among the elements of a row share: their operands' types, and rows of the reference.
// They reduce the last dimension to size 1, and each row has a number of its own beside it.

import { dim, type Dim } from "../../compiler/ir/dim.ts";
import type { DType } from "../../compiler/ir/dtype.ts";
import type { TensorType } from "../../compiler/ir/graph/types.ts";
import { dimExpr } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { OpTypeError, type ElementContext, type RefTensor } from "../define.ts";
import { item, tabulate } from "../reference/tensor.ts";
import { needDType, needRankAtLeast, operandAt, shapeText, sizeAt } from "../rules.ts";
import { rough, tensorOf, type Arb, type FC } from "../sampling.ts";

/** The result's shape, for operands x: f32[.., N] and `of`: [.., 1]. */
export function rowsType(operands: readonly TensorType[], of: DType): readonly Dim[] {
  needDType(operands, 0, (d) => d === "f32", "f32");
  needRankAtLeast(operands, 0, 1);
  needDType(operands, 1, (d) => d === of, of);
  const shape = [...operandAt(operands, 0).shape.slice(0, -1), dim(1)];
  const found = operandAt(operands, 1).shape;
  if (shapeText(shape) !== shapeText(found))
    throw new OpTypeError(1, "there is not one number for each row of operand 0", shapeText(shape), shapeText(found), 0);
  return shape;
}

/** One result for each row of x, from the row and its number. */
export function eachRow(
  [x, beside]: readonly RefTensor[],
  out: { readonly dtype: DType; readonly shape: readonly number[] },
  f: (row: readonly number[], beside: number) => number,
): RefTensor {
  if (x === undefined || beside === undefined) throw new RangeError("a row and its number are two operands");
  const count = item(x.shape, x.shape.length - 1);
  return tabulate(out.dtype, out.shape, (_, i) => f(Array.from(x.data.subarray(i * count, (i + 1) * count)), item(beside.data, i)));
}

export interface Row {
  readonly count: Expr;
  readonly element: (i: Expr) => Expr;
  /** The row's number. */
  readonly beside: Expr;
}

/** The row at a position of the result. */
export function rowAt(index: readonly Expr[], context: ElementContext): Row {
  const { shape } = operandAt(context.types, 0);
  return {
    count: dimExpr(sizeAt(shape, -1)),
    element: (i) => context.at(0, [...index.slice(0, -1), i]),
    beside: context.at(1, index),
  };
}

/** Calls of a few shapes, since each is a large kernel: no row, one, several; rows of `least`, of few and of many elements. */
export function rowSamples(fc: FC, of: DType, least: number, elements: Arb<number>, beside: (count: number) => Arb<number>) {
  return fc
    .tuple(fc.constantFrom([], [0], [2], [1, 3]), fc.constantFrom(least, 1, 5, 37))
    .chain(([rows, n]) =>
      fc.tuple(tensorOf(fc, "f32", [...rows, n], elements), tensorOf(fc, of, [...rows, 1], beside(n))).map((both) => rough(both)),
    );
}
