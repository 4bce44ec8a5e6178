// gather: rows of a table.

import { dim } from "../../compiler/ir/dim.ts";
import { isFloat } from "../../compiler/ir/dtype.ts";
import { defineOp } from "../define.ts";
import { countOf, item, tabulate } from "../reference/tensor.ts";
import { needDType, needRankAtLeast, operandAt, sizeAt } from "../rules.ts";
import { exactElements, reals, rough, shapes, smooth, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";

export const gather = defineOp({
  name: "gather",
  doc: "result[i…, r…] = x[index[i…], r…]: rows of dimension 0. Every index must be in 0 … N-1.",
  kind: "indexing",
  operands: [
    { name: "x", doc: "any element type[N, r…]" },
    { name: "index", doc: "i32[i…]" },
  ],
  attrs: [],
  type: (operands) => {
    needRankAtLeast(operands, 0, 1);
    needDType(operands, 1, (d) => d === "i32", "i32");
    const x = operandAt(operands, 0);
    return { dtype: x.dtype, shape: [...operandAt(operands, 1).shape, ...x.shape.slice(1)] };
  },
  reference: (operands, _attrs, out) => {
    const x = operandAt(operands, 0);
    const index = operandAt(operands, 1);
    const row = countOf(x.shape.slice(1));
    return tabulate(out.dtype, out.shape, (_, linear) => item(x.data, item(index.data, Math.floor(linear / row)) * row + (linear % row)));
  },
  lowering: {
    kind: "element",
    emit: (index, { at, types }) => {
      const split = operandAt(types, 1).shape.length;
      return at(0, [at(1, index.slice(0, split)), ...index.slice(split)]);
    },
  },
  derivative: {
    kind: "vjp",
    build: (emit, { operands, cotangent }) => {
      const x = emit.typeOf(operandAt(operands, 0));
      const index = operandAt(operands, 1);
      return [isFloat(x.dtype) ? emit.op("scatter_add", [index, cotangent], { rows: sizeAt(x.shape, 0) }) : undefined, undefined];
    },
  },
  flops: () => dim(0),
  recompute: true,
  tolerance: exact,
  samples: (fc) =>
    fc
      .tuple(fc.integer({ min: 1, max: 6 }), shapes(fc, 0, 2, 5), shapes(fc, 0, 2, 5), fc.constantFrom("f32", "u8"))
      .chain(([n, rest, indexShape, dtype]) =>
        fc
          .tuple(
            tensorOf(fc, dtype, [n, ...rest], dtype === "f32" ? reals(fc, -5, 5) : exactElements(fc, dtype)),
            tensorOf(fc, "i32", indexShape, fc.nat(n - 1)),
          )
          .map((all) => (dtype === "f32" ? smooth : rough)(all)),
      ),
});
