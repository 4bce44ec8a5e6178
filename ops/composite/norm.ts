// layer_norm and rms_norm: normalisation over the last dimension, in f32.

import { dim, dimMul, dimProduct } from "../../compiler/ir/dim.ts";
import type { TensorType, ValueId } from "../../compiler/ir/graph/types.ts";
import { defineOp, type Emit, type RefTensor } from "../define.ts";
import { add, broadcastTo, mul, splat, sub } from "../emit.ts";
import { item } from "../reference/tensor.ts";
import { floatAttr, needDType, needRank, needRankAtLeast, needSameDType, needSameSize, operandAt } from "../rules.ts";
import { edgy, reals, rough, shapes, size, smooth, tensorOf, type Arb, type FC } from "../sampling.ts";
import type { OpSample } from "../define.ts";

const eps = floatAttr("eps", "Added to the variance, so that a constant line gives 0.");

function checked(operands: readonly TensorType[]): TensorType {
  needDType(operands, 0, (d) => d === "f32", "f32");
  needRankAtLeast(operands, 0, 1);
  for (let i = 1; i < operands.length; i++) {
    needRank(operands, i, 1);
    needSameDType(operands, i, 0);
    needSameSize(operands, i, 0, 0, -1);
  }
  return operandAt(operands, 0);
}

const overLast = (emit: Emit, x: ValueId): ValueId => emit.op("mean", [x], { axes: [emit.typeOf(x).shape.length - 1], keep: true });
const wide = (emit: Emit, v: ValueId, like: ValueId): ValueId => broadcastTo(emit, v, emit.typeOf(like).shape);
/** 1 / √(v + eps) */
const inverseRoot = (emit: Emit, v: ValueId, epsilon: number): ValueId => emit.op("rsqrt", [add(emit, v, splat(emit, v, epsilon))]);

/** Each line along the last dimension through `f`. */
function lines(x: RefTensor, f: (line: Float64Array) => ArrayLike<number>): RefTensor {
  const d = item(x.shape, x.shape.length - 1);
  const data = new Float64Array(x.data.length);
  for (let at = 0; at < data.length; at += d) data.set(f(x.data.subarray(at, at + d)), at);
  return { dtype: x.dtype, shape: x.shape, data };
}

const average = (line: ArrayLike<number>): number => Array.from(line).reduce((a, b) => a + b, 0) / line.length;

/** Lines with some spread, so that the error of the mean stays small beside the deviation. */
function calls(fc: FC, vectors: number): Arb<OpSample> {
  return fc.tuple(shapes(fc, 0, 2, 4), fc.oneof(size(fc, 9), fc.integer({ min: 10, max: 70 })), fc.boolean()).chain(([lead, d, plain]) => {
    const element = plain ? reals(fc, -3, 3) : edgy(fc, -3, 3, [NaN, Infinity, -Infinity, 0, -0, 1]);
    const weights = Array.from({ length: vectors }, () => tensorOf(fc, "f32", [d], reals(fc, -2, 2)));
    return fc
      .tuple(tensorOf(fc, "f32", [...lead, d], element), ...weights)
      .map((all) => (plain && d <= 12 ? smooth : rough)(all, { eps: 0.01 }));
  });
}

const why =
  "The mean and the variance are added in f32; where the deviation is small beside the mean or near the root of eps, rounding is magnified by up to 1/√eps.";

export const layer_norm = defineOp({
  name: "layer_norm",
  doc: "(x - mean) / √(variance + eps) · gamma + beta over the last dimension; the variance is that of the line itself (divided by D).",
  kind: "composite",
  operands: [
    { name: "x", doc: "f32[.., D]" },
    { name: "gamma", doc: "f32[D]" },
    { name: "beta", doc: "f32[D]" },
  ],
  attrs: [eps.spec],
  type: checked,
  reference: (operands, attrs) => {
    const [x, gamma, beta] = [operandAt(operands, 0), operandAt(operands, 1), operandAt(operands, 2)];
    return lines(x, (line) => {
      const m = average(line);
      const scale = 1 / Math.sqrt(average(line.map((v) => (v - m) ** 2)) + Math.fround(eps.of(attrs)));
      return line.map((v, i) => (v - m) * scale * item(gamma.data, i) + item(beta.data, i));
    });
  },
  lowering: {
    kind: "decompose",
    build: (emit, operands, attrs) => {
      const [x, gamma, beta] = [operandAt(operands, 0), operandAt(operands, 1), operandAt(operands, 2)];
      const centred = sub(emit, x, wide(emit, overLast(emit, x), x));
      const scale = inverseRoot(emit, overLast(emit, mul(emit, centred, centred)), eps.of(attrs));
      return add(emit, mul(emit, mul(emit, centred, wide(emit, scale, x)), wide(emit, gamma, x)), wide(emit, beta, x));
    },
  },
  derivative: { kind: "viaDecomposition" },
  flops: (_operands, _attrs, out) => dimMul(dim(8), dimProduct(out.shape)),
  recompute: true,
  tolerance: { absolute: 2e-5, relative: 1e-5, why },
  samples: (fc) => calls(fc, 2),
});

export const rms_norm = defineOp({
  name: "rms_norm",
  doc: "x / √(mean(x²) + eps) · gamma over the last dimension.",
  kind: "composite",
  operands: [
    { name: "x", doc: "f32[.., D]" },
    { name: "gamma", doc: "f32[D]" },
  ],
  attrs: [eps.spec],
  type: checked,
  reference: (operands, attrs) => {
    const [x, gamma] = [operandAt(operands, 0), operandAt(operands, 1)];
    return lines(x, (line) => {
      const scale = 1 / Math.sqrt(average(line.map((v) => v * v)) + Math.fround(eps.of(attrs)));
      return line.map((v, i) => v * scale * item(gamma.data, i));
    });
  },
  lowering: {
    kind: "decompose",
    build: (emit, operands, attrs) => {
      const [x, gamma] = [operandAt(operands, 0), operandAt(operands, 1)];
      const scale = inverseRoot(emit, overLast(emit, mul(emit, x, x)), eps.of(attrs));
      return mul(emit, mul(emit, x, wide(emit, scale, x)), wide(emit, gamma, x));
    },
  },
  derivative: { kind: "viaDecomposition" },
  flops: (_operands, _attrs, out) => dimMul(dim(5), dimProduct(out.shape)),
  recompute: true,
  tolerance: { absolute: 1e-6, relative: 4e-6, why: "The squares are added in f32; they are positive, so nothing cancels." },
  samples: (fc) => calls(fc, 1),
});
