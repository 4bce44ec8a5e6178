// scatter_rows: some rows of a tensor replaced by others, each at a place of its own. The rows that a step of several
// sequences adds to one key-value cache go wherever there is room.

import { dim } from "../../compiler/ir/dim.ts";
import { isFloat } from "../../compiler/ir/dtype.ts";
import { dimExpr, fold, i32, select, variable } from "../../compiler/ir/kernel/build.ts";
import { defineOp, OpTypeError } from "../define.ts";
import { eq, ge, part } from "../expr.ts";
import { countOf, item, tabulate } from "../reference/tensor.ts";
import { needDType, needRank, needRankAtLeast, needSameDType, needSameSize, operandAt, shapeText, sizeAt } from "../rules.ts";
import { exactElements, reals, rough, shapes, smooth, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";

export const scatter_rows = defineOp({
  name: "scatter_rows",
  doc: "x with row index[i] of dimension 0 replaced by rows[i], for every i. An index must be in 0 … C-1; rows with the same index must be equal. As the new value of a state that nothing else reads it writes those rows where they are and copies nothing.",
  kind: "indexing",
  operands: [
    { name: "x", doc: "any element type[C, r…]" },
    { name: "rows", doc: "the same element type[N, r…]" },
    { name: "index", doc: "i32[N]" },
  ],
  attrs: [],
  type: (operands) => {
    needRankAtLeast(operands, 0, 1);
    needSameDType(operands, 1, 0);
    needDType(operands, 2, (d) => d === "i32", "i32");
    needRank(operands, 2, 1);
    const [x, rows] = [operandAt(operands, 0), operandAt(operands, 1)];
    if (rows.shape.length !== x.shape.length || shapeText(x.shape.slice(1)) !== shapeText(rows.shape.slice(1)))
      throw new OpTypeError(1, "the rows have not the sizes of those of operand 0", shapeText(x.shape), shapeText(rows.shape), 0);
    needSameSize(operands, 2, 0, 1, 0);
    return x;
  },
  reference: (operands, _attrs, out) => {
    const [x, rows, index] = [operandAt(operands, 0), operandAt(operands, 1), operandAt(operands, 2)];
    const width = countOf(out.shape.slice(1));
    const from = new Map(Array.from(index.data, (row, i) => [row, i]));
    return tabulate(out.dtype, out.shape, (at, linear) => {
      const own = from.get(item(at, 0));
      return own === undefined ? item(x.data, linear) : item(rows.data, own * width + (linear % width));
    });
  },
  lowering: {
    kind: "element",
    emit: (index, { at, types, fresh }) => {
      const i = fresh("i");
      const here = select(eq(at(2, [variable(i)]), part(index, 0)), variable(i), i32(-1));
      const own = fold("max", i, i32(0), dimExpr(sizeAt(operandAt(types, 2).shape, 0)), here);
      return select(ge(own, i32(0)), at(1, [own, ...index.slice(1)]), at(0, index));
    },
  },
  overwrites: { place: (index, _attrs, at) => [at(2, [part(index, 0)]), ...index.slice(1)] },
  derivative: {
    kind: "vjp",
    build: (emit, { operands, cotangent }) => {
      const [x, rows] = [emit.typeOf(operandAt(operands, 0)), emit.typeOf(operandAt(operands, 1))];
      const index = operandAt(operands, 2);
      if (!isFloat(x.dtype)) return [undefined, undefined, undefined];
      const none = emit.constant(rows.dtype, rows.shape, [0]);
      return [emit.op("scatter_rows", [cotangent, none, index]), emit.op("gather", [cotangent, index]), undefined];
    },
  },
  flops: () => dim(0),
  recompute: true,
  tolerance: exact,
  samples: (fc) =>
    fc
      .tuple(fc.integer({ min: 0, max: 7 }), shapes(fc, 0, 2, 5), fc.constantFrom("f32" as const, "i32" as const, "u8" as const))
      .chain(([count, rest, dtype]) => {
        const element = dtype === "f32" ? reals(fc, -5, 5) : exactElements(fc, dtype);
        return fc
          .shuffledSubarray(Array.from({ length: count }, (_, i) => i))
          .chain((index) =>
            fc
              .tuple(
                tensorOf(fc, dtype, [count, ...rest], element),
                tensorOf(fc, dtype, [index.length, ...rest], element),
                fc.constant({ dtype: "i32" as const, shape: [index.length], data: Float64Array.from(index) }),
              )
              .map((all) => (dtype === "f32" ? smooth : rough)(all)),
          );
      }),
});
