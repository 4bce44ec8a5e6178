// cross_entropy: the loss of predicting one class a row, with rows that do not count. Its derivative is a rule of its
// own: softmax minus the label, so that no picked element is scattered back.

import { dim, dimMul, dimProduct } from "../../compiler/ir/dim.ts";
import type { Attrs, ValueId } from "../../compiler/ir/graph/types.ts";
import { defineOp, type Emit } from "../define.ts";
import { broadcastTo, div, mul, reshape, splat, sub, zerosLike } from "../emit.ts";
import { item, tensor } from "../reference/tensor.ts";
import { intAttr, needDType, needRank, needSameSize, operandAt, sizeAt } from "../rules.ts";
import { edgy, reals, rough, size, smooth, tensorOf } from "../sampling.ts";
import { ofLargest } from "../tolerances.ts";

const ignore = intAttr("ignore", "Rows with this label do not count.", -100);

export const cross_entropy = defineOp({
  name: "cross_entropy",
  doc: "The mean of log Σⱼ exp(x[n, j]) - x[n, label[n]] over the rows n whose label is not `ignore`; 0 where no row counts. Every other label must be in 0 … V-1.",
  kind: "composite",
  operands: [
    { name: "x", doc: "f32[N, V]: what is predicted, before softmax" },
    { name: "label", doc: "i32[N]" },
  ],
  attrs: [ignore.spec],
  type: (operands) => {
    needDType(operands, 0, (d) => d === "f32", "f32");
    needRank(operands, 0, 2);
    needDType(operands, 1, (d) => d === "i32", "i32");
    needRank(operands, 1, 1);
    needSameSize(operands, 1, 0, 0, 0);
    return { dtype: "f32", shape: [] };
  },
  reference: (operands, attrs) => {
    const [x, label] = [operandAt(operands, 0), operandAt(operands, 1)];
    const classes = item(x.shape, 1);
    let [sum, count] = [0, 0];
    for (const [n, l] of label.data.entries()) {
      if (l === ignore.of(attrs)) continue;
      const row = x.data.subarray(n * classes, (n + 1) * classes);
      const top = row.reduce((a, b) => Math.max(a, b), -Infinity);
      sum += Math.log(row.reduce((total, v) => total + Math.exp(v - top), 0)) - (item(row, l) - top);
      count++;
    }
    return tensor("f32", [], [count === 0 ? 0 : sum / count]);
  },
  lowering: {
    kind: "decompose",
    build: (emit, operands, attrs) => {
      const [x, label] = [operandAt(operands, 0), operandAt(operands, 1)];
      const shape = emit.typeOf(x).shape;
      const rows = [sizeAt(shape, 0)];
      const log = emit.op("log_softmax", [x], { axis: 1 });
      const picked = emit.op("select", [chosen(emit, x, label), emit.op("neg", [log]), zerosLike(emit, log)]);
      const losses = emit.op("reduce_sum", [picked], { axes: [1], keep: false });
      const counts = counted(emit, label, attrs);
      const sum = emit.op("reduce_sum", [emit.op("select", [counts, losses, emit.constant("f32", rows, [0])])], { axes: [0], keep: false });
      return div(emit, sum, number(emit, counts));
    },
  },
  derivative: {
    kind: "vjp",
    build: (emit, { operands, cotangent, attrs }) => {
      const [x, label] = [operandAt(operands, 0), operandAt(operands, 1)];
      const shape = emit.typeOf(x).shape;
      const counts = counted(emit, label, attrs);
      const share = broadcastTo(emit, div(emit, cotangent, number(emit, counts)), [sizeAt(shape, 0)]);
      const weight = emit.op("select", [counts, share, zerosLike(emit, share)]);
      const powers = emit.op("softmax", [x], { axis: 1 });
      const one = emit.op("select", [chosen(emit, x, label), splat(emit, powers, 1), zerosLike(emit, powers)]);
      const wide = (v: ValueId): ValueId => broadcastTo(emit, reshape(emit, v, [sizeAt(shape, 0), dim(1)]), shape);
      // A row that does not count may hold anything: 0 · NaN would be NaN.
      const row = mul(emit, sub(emit, powers, one), wide(weight));
      return [emit.op("select", [wide(counts), row, zerosLike(emit, row)]), undefined];
    },
  },
  flops: (operands) => dimMul(dim(5), dimProduct(operandAt(operands, 0).shape)),
  recompute: false,
  tolerance: ofLargest(4e-6, 4e-6, "Powers and losses are added in f32; where one class is nearly certain the logarithm is near 0."),
  samples: (fc) =>
    fc
      .tuple(size(fc, 6), size(fc, 9, 1), fc.boolean())
      .chain(([n, classes, plain]) =>
        fc
          .tuple(
            tensorOf(fc, "f32", [n, classes], plain ? reals(fc, -5, 5) : edgy(fc, -40, 40, [0, -0, 1, NaN, Infinity, -Infinity])),
            tensorOf(fc, "i32", [n], fc.oneof({ weight: 3, arbitrary: fc.nat(classes - 1) }, { weight: 1, arbitrary: fc.constant(-100) })),
          )
          .map((all) => (plain ? smooth : rough)(all)),
      ),
});

/** bool[N, V]: whether the class is the row's label. */
function chosen(emit: Emit, x: ValueId, label: ValueId): ValueId {
  const shape = emit.typeOf(x).shape;
  const classes = emit.op("iota", [], { shape, axis: 1, dtype: "i32" });
  return emit.op("eq", [classes, broadcastTo(emit, reshape(emit, label, [sizeAt(shape, 0), dim(1)]), shape)]);
}

/** bool[N]: whether the row counts. */
function counted(emit: Emit, label: ValueId, attrs: Attrs): ValueId {
  return emit.op("ne", [label, splat(emit, label, ignore.of(attrs))]);
}

/** How many rows count, and 1 where none does, as f32: exact up to 2^24. */
function number(emit: Emit, counts: ValueId): ValueId {
  const ones = emit.op("cast", [counts], { dtype: "f32" });
  const sum = emit.op("reduce_sum", [ones], { axes: [0], keep: false });
  return emit.op("maximum", [sum, splat(emit, sum, 1)]);
}
