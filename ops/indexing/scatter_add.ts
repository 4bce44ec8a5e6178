// scatter_add: rows added into a table; the derivative of gather.

import { dim, dimProduct } from "../../compiler/ir/dim.ts";
import { isFloat } from "../../compiler/ir/dtype.ts";
import { f32, select } from "../../compiler/ir/kernel/build.ts";
import { defineOp } from "../define.ts";
import { eq, foldOver, part } from "../expr.ts";
import { countOf, item, tabulate } from "../reference/tensor.ts";
import { dimAttr, needDType, needRankAtLeast, needSameSize, operandAt } from "../rules.ts";
import { reals, shapes, smooth, tensorOf } from "../sampling.ts";
import { ofLargest } from "../tolerances.ts";

const rows = dimAttr("rows", "How many rows the result has.");

export const scatter_add = defineOp({
  name: "scatter_add",
  doc: "result[n, r…] = Σ over i… with index[i…] = n of updates[i…, r…]; rows that no index names are 0. The kernel pulls: each result row looks at every index, so that no two threads write one element.",
  kind: "indexing",
  operands: [
    { name: "index", doc: "i32[i…], each in 0 … rows-1" },
    { name: "updates", doc: "f32, f16 or bf16[i…, r…]" },
  ],
  attrs: [rows.spec],
  type: (operands, attrs) => {
    needDType(operands, 0, (d) => d === "i32", "i32");
    needDType(operands, 1, isFloat, "f32, f16 or bf16");
    const index = operandAt(operands, 0);
    needRankAtLeast(operands, 1, index.shape.length);
    for (let i = 0; i < index.shape.length; i++) needSameSize(operands, 1, i, 0, i);
    const updates = operandAt(operands, 1);
    return { dtype: updates.dtype, shape: [rows.of(attrs), ...updates.shape.slice(index.shape.length)] };
  },
  reference: (operands, _attrs, out) => {
    const index = operandAt(operands, 0);
    const updates = operandAt(operands, 1);
    const row = countOf(out.shape.slice(1));
    const result = tabulate(out.dtype, out.shape, () => 0);
    for (let i = 0; i < index.data.length; i++) {
      for (let r = 0; r < row; r++) {
        const to = item(index.data, i) * row + r;
        result.data[to] = item(result.data, to) + item(updates.data, i * row + r);
      }
    }
    return result;
  },
  lowering: {
    kind: "element",
    emit: (index, { at, types, fresh }) =>
      foldOver("sum", operandAt(types, 0).shape, fresh, (i) =>
        select(eq(at(0, i), part(index, 0)), at(1, [...i, ...index.slice(1)]), f32(0)),
      ),
  },
  derivative: {
    kind: "vjp",
    build: (emit, { operands, cotangent }) => [undefined, emit.op("gather", [cotangent, operandAt(operands, 0)])],
  },
  flops: (operands) => dimProduct(operandAt(operands, 1).shape),
  recompute: false,
  tolerance: ofLargest(2e-6, 1e-6, "Rows that meet in one are added in f32 in any order."),
  samples: (fc) =>
    fc
      .tuple(fc.integer({ min: 1, max: 6 }), shapes(fc, 0, 2, 5), shapes(fc, 0, 2, 5))
      .chain(([n, rest, indexShape]) =>
        fc
          .tuple(tensorOf(fc, "i32", indexShape, fc.nat(n - 1)), tensorOf(fc, "f32", [...indexShape, ...rest], reals(fc, -5, 5)))
          .map((all) => smooth(all, { rows: dim(n) })),
      ),
});
