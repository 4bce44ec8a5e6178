// matmul: matrix products over equal leading dimensions.

import { dim, dimMul, dimProduct } from "../../compiler/ir/dim.ts";
import { isFloat } from "../../compiler/ir/dtype.ts";
import type { Attrs, ValueId } from "../../compiler/ir/graph/types.ts";
import { dimExpr, fold, i32, mul, variable } from "../../compiler/ir/kernel/build.ts";
import { defineOp, type Emit } from "../define.ts";
import { countOf, item, tabulate } from "../reference/tensor.ts";
import { boolAttr, needDType, needRank, needRankAtLeast, needSameDType, needSameSize, operandAt, sizeAt } from "../rules.ts";
import { edgy, reals, rough, shapes, size, smooth, tensorOf } from "../sampling.ts";
import { ofLargest } from "../tolerances.ts";
import { part } from "../expr.ts";

const transposeA = boolAttr("transpose_a", "a is stored [.., K, M].", false);
const transposeB = boolAttr("transpose_b", "b is stored [.., N, K], as weights of a linear layer are.", false);

export const matmul = defineOp({
  name: "matmul",
  doc: "result[.., m, n] = Σₖ a[.., m, k] · b[.., k, n], added in f32.",
  kind: "contraction",
  operands: [
    { name: "a", doc: "f32, f16 or bf16[.., M, K]" },
    { name: "b", doc: "[.., K, N], the element type and leading sizes of a" },
  ],
  attrs: [transposeA.spec, transposeB.spec],
  type: (operands, attrs) => {
    needDType(operands, 0, isFloat, "f32, f16 or bf16");
    needSameDType(operands, 1, 0);
    needRankAtLeast(operands, 0, 2);
    const a = operandAt(operands, 0);
    const b = operandAt(operands, 1);
    const rank = a.shape.length;
    needRank(operands, 1, rank);
    for (let i = 0; i < rank - 2; i++) needSameSize(operands, 1, i, 0, i);
    needSameSize(operands, 1, transposeB.of(attrs) ? -1 : -2, 0, transposeA.of(attrs) ? -2 : -1);
    return {
      dtype: a.dtype,
      shape: [...a.shape.slice(0, -2), sizeAt(a.shape, transposeA.of(attrs) ? -1 : -2), sizeAt(b.shape, transposeB.of(attrs) ? -2 : -1)],
    };
  },
  reference: (operands, attrs, out) => {
    const a = operandAt(operands, 0);
    const b = operandAt(operands, 1);
    const rank = out.shape.length;
    const [m, n] = [item(out.shape, rank - 2), item(out.shape, rank - 1)];
    const k = item(a.shape, transposeA.of(attrs) ? rank - 2 : rank - 1);
    const [am, ak] = transposeA.of(attrs) ? [1, m] : [k, 1];
    const [bk, bn] = transposeB.of(attrs) ? [1, k] : [n, 1];
    return tabulate(out.dtype, out.shape, (_, linear) => {
      const batch = Math.floor(linear / (m * n));
      const row = Math.floor(linear / n) % m;
      const column = linear % n;
      let sum = 0;
      for (let i = 0; i < k; i++)
        sum += item(a.data, batch * m * k + row * am + i * ak) * item(b.data, batch * k * n + i * bk + column * bn);
      return sum;
    });
  },
  lowering: {
    kind: "element",
    emit: (index, context) => {
      const rank = index.length;
      const ta = transposeA.of(context.attrs);
      const tb = transposeB.of(context.attrs);
      const k = context.fresh("k");
      const at = variable(k);
      const [batch, m, n] = [index.slice(0, rank - 2), part(index, rank - 2), part(index, rank - 1)];
      const extent = sizeAt(operandAt(context.types, 0).shape, ta ? -2 : -1);
      const product = mul(context.at(0, [...batch, ...(ta ? [at, m] : [m, at])]), context.at(1, [...batch, ...(tb ? [n, at] : [at, n])]));
      return fold("sum", k, i32(0), dimExpr(extent), product);
    },
  },
  derivative: {
    kind: "vjp",
    build: (emit, { operands, cotangent, attrs }) => cotangents(emit, operandAt(operands, 0), operandAt(operands, 1), cotangent, attrs),
  },
  flops: (operands, attrs, out) =>
    dimMul(dimMul(dim(2), dimProduct(out.shape)), sizeAt(operandAt(operands, 0).shape, transposeA.of(attrs) ? -2 : -1)),
  recompute: false,
  tolerance: ofLargest(4e-6, 1e-6, "K products are added in f32 in any order, fused or not."),
  samples: (fc) =>
    fc
      .tuple(
        shapes(fc, 0, 2, 3),
        size(fc, 9),
        size(fc, 9),
        fc.oneof({ weight: 4, arbitrary: size(fc, 9) }, { weight: 1, arbitrary: fc.integer({ min: 10, max: 40 }) }),
        fc.boolean(),
        fc.boolean(),
        fc.boolean(),
      )
      .chain(([batch, m, n, k, ta, tb, plain]) => {
        const element = plain ? reals(fc, -2, 2) : edgy(fc, -2, 2, [0, -0, 1, -1, NaN, Infinity, -Infinity]);
        const a = tensorOf(fc, "f32", [...batch, ...(ta ? [k, m] : [m, k])], element);
        const b = tensorOf(fc, "f32", [...batch, ...(tb ? [n, k] : [k, n])], element);
        return fc
          .tuple(a, b)
          .map((ab) => (plain && countOf(batch) <= 4 && m * n * k <= 200 ? smooth : rough)(ab, { transpose_a: ta, transpose_b: tb }));
      }),
});

/** With C = A·B: dA = dC·Bᵀ and dB = Aᵀ·dC; a transposed operand's cotangent is the transposed product. */
function cotangents(emit: Emit, a: ValueId, b: ValueId, g: ValueId, attrs: Attrs): ValueId[] {
  const ta = transposeA.of(attrs);
  const tb = transposeB.of(attrs);
  const product = (x: ValueId, y: ValueId, transpose_a: boolean, transpose_b: boolean): ValueId =>
    emit.op("matmul", [x, y], { transpose_a, transpose_b });
  const da = ta ? product(b, g, tb, true) : product(g, b, false, !tb);
  const db = tb ? product(g, a, true, ta) : product(a, g, !ta, false);
  return [da, db];
}
