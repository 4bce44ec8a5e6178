// write_rows: some rows of a tensor replaced by others. Appending to a key-value cache is this.

import { dim, dimAdd, dimConstant, dimSub } from "../../compiler/ir/dim.ts";
import { isFloat } from "../../compiler/ir/dtype.ts";
import { add, dimExpr, select, sub } from "../../compiler/ir/kernel/build.ts";
import { defineOp, OpTypeError } from "../define.ts";
import { and, ge, lt, part } from "../expr.ts";
import { countOf, item, tabulate } from "../reference/tensor.ts";
import { dimAttr, needRankAtLeast, needSameDType, operandAt, shapeText, sizeAt } from "../rules.ts";
import { exactElements, reals, rough, shapes, smooth, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";

const at = dimAttr("at", "Where the first row goes; the last must be within x.");

export const write_rows = defineOp({
  name: "write_rows",
  doc: "x with rows at … at+N-1 of dimension 0 replaced by `rows`. As the new value of a state that nothing else reads it writes those rows where they are and copies nothing.",
  kind: "indexing",
  operands: [
    { name: "x", doc: "any element type[C, r…]" },
    { name: "rows", doc: "the same element type[N, r…]" },
  ],
  attrs: [at.spec],
  type: (operands, attrs) => {
    needRankAtLeast(operands, 0, 1);
    needSameDType(operands, 1, 0);
    const [x, rows] = [operandAt(operands, 0), operandAt(operands, 1)];
    const [rest, own] = [shapeText(x.shape.slice(1)), shapeText(rows.shape.slice(1))];
    if (rows.shape.length !== x.shape.length || rest !== own)
      throw new OpTypeError(1, "the rows have not the sizes of those of operand 0", shapeText(x.shape), shapeText(rows.shape), 0);
    const [from, end] = [at.of(attrs), dimAdd(at.of(attrs), sizeAt(rows.shape, 0))];
    if ((dimConstant(from) ?? 0) < 0 || (dimConstant(dimSub(sizeAt(x.shape, 0), end)) ?? 0) < 0)
      throw new OpTypeError(
        1,
        `rows ${from.text} to ${end.text} are not all in operand 0`,
        `0 ≤ at and at + ${sizeAt(rows.shape, 0).text} ≤ ${sizeAt(x.shape, 0).text}`,
        `at ${from.text}`,
        0,
      );
    return x;
  },
  reference: (operands, attrs, out) => {
    const [x, rows] = [operandAt(operands, 0), operandAt(operands, 1)];
    const row = countOf(out.shape.slice(1));
    const from = (dimConstant(at.of(attrs)) ?? NaN) * row;
    return tabulate(out.dtype, out.shape, (_, linear) =>
      linear >= from && linear < from + rows.data.length ? item(rows.data, linear - from) : item(x.data, linear),
    );
  },
  lowering: {
    kind: "element",
    emit: (index, { at: element, attrs, types }) => {
      const row = part(index, 0);
      const from = at.of(attrs);
      const end = dimAdd(from, sizeAt(operandAt(types, 1).shape, 0));
      const own = dimConstant(from) === 0 ? row : sub(row, dimExpr(from));
      return select(and(ge(row, dimExpr(from)), lt(row, dimExpr(end))), element(1, [own, ...index.slice(1)]), element(0, index));
    },
  },
  overwrites: {
    place: (index, attrs) => {
      const from = at.of(attrs);
      return dimConstant(from) === 0 ? index : [add(part(index, 0), dimExpr(from)), ...index.slice(1)];
    },
  },
  derivative: {
    kind: "vjp",
    build: (emit, { operands, cotangent, attrs }) => {
      const [x, rows] = [emit.typeOf(operandAt(operands, 0)), emit.typeOf(operandAt(operands, 1))];
      if (!isFloat(x.dtype)) return [undefined, undefined];
      const from = at.of(attrs);
      const none = emit.constant(rows.dtype, rows.shape, [0]);
      const stop = dimAdd(from, sizeAt(rows.shape, 0));
      return [
        emit.op("write_rows", [cotangent, none], { at: from }),
        emit.op("slice", [cotangent], { axis: 0, start: from, stop, step: 1 }),
      ];
    },
  },
  flops: () => dim(0),
  recompute: true,
  tolerance: exact,
  samples: (fc) =>
    fc
      .tuple(fc.tuple(fc.nat(3), fc.nat(4), fc.nat(3)), shapes(fc, 0, 2, 5), fc.constantFrom("f32" as const, "i32" as const, "u8" as const))
      .chain(([[before, n, after], rest, dtype]) => {
        const element = dtype === "f32" ? reals(fc, -5, 5) : exactElements(fc, dtype);
        return fc
          .tuple(tensorOf(fc, dtype, [before + n + after, ...rest], element), tensorOf(fc, dtype, [n, ...rest], element))
          .map((both) => (dtype === "f32" ? smooth : rough)(both, { at: dim(before) }));
      }),
});
