// linear: the layer x·Wᵀ + b over the last dimension.

import { dim, dimAdd, dimMul, dimProduct } from "../../compiler/ir/dim.ts";
import { isFloat } from "../../compiler/ir/dtype.ts";
import { defineOp } from "../define.ts";
import { add, broadcastTo, reshape } from "../emit.ts";
import { item, tabulate } from "../reference/tensor.ts";
import { needDType, needRank, needRankAtLeast, needSameDType, needSameSize, operandAt, sizeAt } from "../rules.ts";
import { edgy, reals, rough, shapes, size, smooth, tensorOf } from "../sampling.ts";
import { ofLargest } from "../tolerances.ts";

export const linear = defineOp({
  name: "linear",
  doc: "result[.., n] = Σₖ x[.., k] · weight[n, k] + bias[n]; the bias may be left out.",
  kind: "composite",
  operands: [
    { name: "x", doc: "f32, f16 or bf16[.., K]" },
    { name: "weight", doc: "[N, K], the element type of x" },
    { name: "bias", doc: "[N], the element type of x", optional: true },
  ],
  attrs: [],
  type: (operands) => {
    needDType(operands, 0, isFloat, "f32, f16 or bf16");
    needRankAtLeast(operands, 0, 1);
    needRank(operands, 1, 2);
    needSameDType(operands, 1, 0);
    needSameSize(operands, 1, 1, 0, -1);
    if (operands.length > 2) {
      needRank(operands, 2, 1);
      needSameDType(operands, 2, 0);
      needSameSize(operands, 2, 0, 1, 0);
    }
    const x = operandAt(operands, 0);
    return { dtype: x.dtype, shape: [...x.shape.slice(0, -1), sizeAt(operandAt(operands, 1).shape, 0)] };
  },
  reference: (operands, _attrs, out) => {
    const [x, weight, bias] = [operandAt(operands, 0), operandAt(operands, 1), operands[2]];
    const k = item(weight.shape, 1);
    const n = item(weight.shape, 0);
    return tabulate(out.dtype, out.shape, (_, linear) => {
      const row = Math.floor(linear / n);
      const column = linear % n;
      let sum = bias === undefined ? 0 : item(bias.data, column);
      for (let i = 0; i < k; i++) sum += (x.data[row * k + i] ?? NaN) * (weight.data[column * k + i] ?? NaN);
      return sum;
    });
  },
  lowering: {
    kind: "decompose",
    build: (emit, operands) => {
      const [x, weight, bias] = [operandAt(operands, 0), operandAt(operands, 1), operands[2]];
      const shape = emit.typeOf(x).shape;
      const [n, k] = [sizeAt(emit.typeOf(weight).shape, 0), sizeAt(shape, -1)];
      const rows = dimProduct(shape.slice(0, -1));
      const flat = shape.length === 2 ? x : reshape(emit, x, [rows, k]);
      const product = emit.op("matmul", [flat, weight], { transpose_a: false, transpose_b: true });
      const biased = bias === undefined ? product : add(emit, product, broadcastTo(emit, bias, [rows, n]));
      return shape.length === 2 ? biased : reshape(emit, biased, [...shape.slice(0, -1), n]);
    },
  },
  derivative: { kind: "viaDecomposition" },
  flops: (operands, _attrs, out) =>
    dimAdd(
      dimMul(dimMul(dim(2), dimProduct(out.shape)), sizeAt(operandAt(operands, 0).shape, -1)),
      operands.length > 2 ? dimProduct(out.shape) : dim(0),
    ),
  recompute: false,
  tolerance: ofLargest(4e-6, 1e-6, "K products and a bias are added in f32 in any order."),
  samples: (fc) =>
    fc.tuple(shapes(fc, 0, 3, 4), size(fc, 9), size(fc, 9), fc.boolean(), fc.boolean()).chain(([lead, n, k, biased, plain]) => {
      const element = plain ? reals(fc, -2, 2) : edgy(fc, -2, 2, [0, -0, 1, -1, NaN, Infinity, -Infinity]);
      const [x, weight, bias] = [
        tensorOf(fc, "f32", [...lead, k], element),
        tensorOf(fc, "f32", [n, k], element),
        tensorOf(fc, "f32", [n], element),
      ];
      return (biased ? fc.tuple(x, weight, bias) : fc.tuple(x, weight)).map((all) => (plain && n * k <= 50 ? smooth : rough)(all));
    }),
});
