// gather_sum: weighted sums of a few rows, the form of every interpolation and of RoI alignment.

import { dim, dimMul, dimProduct } from "../../compiler/ir/dim.ts";
import { isFloat } from "../../compiler/ir/dtype.ts";
import { dimExpr, fold, i32, mul as mulExpr, variable } from "../../compiler/ir/kernel/build.ts";
import { defineOp } from "../define.ts";
import { broadcastTo, mul, reshape } from "../emit.ts";
import { part } from "../expr.ts";
import { item, tabulate } from "../reference/tensor.ts";
import { needDType, needRank, needSameDType, needSameShape, operandAt, sizeAt } from "../rules.ts";
import { reals, size, smooth, tensorOf } from "../sampling.ts";
import { ofLargest } from "../tolerances.ts";

export const gather_sum = defineOp({
  name: "gather_sum",
  doc: "result[t, d] = Σₖ weight[t, k] · x[index[t, k], d]: interpolation (4 or 16 taps) and RoI alignment. A tap of weight 0 still needs an index in range.",
  kind: "indexing",
  operands: [
    { name: "x", doc: "f32, f16 or bf16[N, D]" },
    { name: "index", doc: "i32[T, K], each in 0 … N-1" },
    { name: "weight", doc: "[T, K], the element type of x" },
  ],
  attrs: [],
  type: (operands) => {
    needDType(operands, 0, isFloat, "f32, f16 or bf16");
    needRank(operands, 0, 2);
    needDType(operands, 1, (d) => d === "i32", "i32");
    needRank(operands, 1, 2);
    needSameDType(operands, 2, 0);
    needSameShape(operands, 2, 1);
    const x = operandAt(operands, 0);
    return { dtype: x.dtype, shape: [sizeAt(operandAt(operands, 1).shape, 0), sizeAt(x.shape, 1)] };
  },
  reference: (operands, _attrs, out) => {
    const [x, index, weight] = [operandAt(operands, 0), operandAt(operands, 1), operandAt(operands, 2)];
    const d = item(x.shape, 1);
    const k = item(index.shape, 1);
    return tabulate(out.dtype, out.shape, (at) => {
      let sum = 0;
      for (let i = 0; i < k; i++) {
        const tap = item(at, 0) * k + i;
        sum += item(weight.data, tap) * item(x.data, item(index.data, tap) * d + item(at, 1));
      }
      return sum;
    });
  },
  lowering: {
    kind: "element",
    emit: (index, { at, types, fresh }) => {
      const name = fresh("tap");
      const tap = [part(index, 0), variable(name)];
      return fold(
        "sum",
        name,
        i32(0),
        dimExpr(sizeAt(operandAt(types, 1).shape, 1)),
        mulExpr(at(2, tap), at(0, [at(1, tap), part(index, 1)])),
      );
    },
  },
  derivative: {
    kind: "vjp",
    build: (emit, { operands, cotangent }) => {
      const [x, index, weight] = [operandAt(operands, 0), operandAt(operands, 1), operandAt(operands, 2)];
      const taps = emit.typeOf(index).shape;
      const [n, d] = [sizeAt(emit.typeOf(x).shape, 0), sizeAt(emit.typeOf(x).shape, 1)];
      const wide = [...taps, d];
      const g = broadcastTo(emit, reshape(emit, cotangent, [sizeAt(taps, 0), dim(1), d]), wide);
      const w = broadcastTo(emit, reshape(emit, weight, [...taps, dim(1)]), wide);
      const dx = emit.op("scatter_add", [index, mul(emit, w, g)], { rows: n });
      const dw = emit.op("reduce_sum", [mul(emit, emit.op("gather", [x, index]), g)], { axes: [2], keep: false });
      return [dx, undefined, dw];
    },
  },
  flops: (operands, _attrs, out) => dimMul(dimMul(dim(2), dimProduct(out.shape)), sizeAt(operandAt(operands, 1).shape, 1)),
  recompute: false,
  tolerance: ofLargest(2e-6, 1e-6, "K products are added in f32 in any order."),
  samples: (fc) =>
    fc
      .tuple(fc.integer({ min: 1, max: 6 }), size(fc, 9), size(fc, 5), size(fc, 5))
      .chain(([n, d, t, k]) =>
        fc
          .tuple(
            tensorOf(fc, "f32", [n, d], reals(fc, -5, 5)),
            tensorOf(fc, "i32", [t, k], fc.nat(n - 1)),
            tensorOf(fc, "f32", [t, k], reals(fc, -1, 1)),
          )
          .map((all) => smooth(all)),
      ),
});
