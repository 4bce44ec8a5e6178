// rope: rotary positions, the rotate-half form of LLaMA.

import { dim, dimConstant, dimDiv, dimMul, dimProduct, type Dim } from "../../compiler/ir/dim.ts";
import { defineOp, OpTypeError } from "../define.ts";
import { add, broadcastTo, mul, reshape, sub } from "../emit.ts";
import { item, tabulate } from "../reference/tensor.ts";
import { floatAttr, needConstantSize, needDType, needRank, needSameSize, operandAt, sizeAt, typeText } from "../rules.ts";
import { reals, size, smooth, tensorOf } from "../sampling.ts";

const theta = floatAttr("theta", "The base of the frequencies.", 10000);

/** theta^(-2i/D) */
const frequency = (base: number, i: number, d: number): number => base ** ((-2 * i) / d);

export const rope = defineOp({
  name: "rope",
  doc: "Turns the pairs (x[t, h, i], x[t, h, i + D/2]) by the angle position[t] · theta^(-2i/D). D is even and known at compile time; the frequencies are rounded to f32.",
  kind: "composite",
  operands: [
    { name: "x", doc: "f32[T, H, D]" },
    { name: "position", doc: "i32[T]" },
  ],
  attrs: [theta.spec],
  type: (operands) => {
    needDType(operands, 0, (d) => d === "f32", "f32");
    needRank(operands, 0, 3);
    needDType(operands, 1, (d) => d === "i32", "i32");
    needRank(operands, 1, 1);
    needSameSize(operands, 1, 0, 0, 0);
    const x = operandAt(operands, 0);
    if (needConstantSize(x, 2, 0) % 2 !== 0)
      throw new OpTypeError(0, "rope turns pairs, so the last dimension must be even", "an even size", typeText(x));
    return x;
  },
  reference: (operands, attrs, out) => {
    const [x, position] = [operandAt(operands, 0), operandAt(operands, 1)];
    const d = item(x.shape, 2);
    return tabulate(out.dtype, out.shape, (index, linear) => {
      const i = item(index, 2);
      const first = i < d / 2;
      const angle = item(position.data, item(index, 0)) * Math.fround(frequency(theta.of(attrs), first ? i : i - d / 2, d));
      const other = item(x.data, first ? linear + d / 2 : linear - d / 2);
      return item(x.data, linear) * Math.cos(angle) + (first ? -1 : 1) * other * Math.sin(angle);
    });
  },
  lowering: {
    kind: "decompose",
    build: (emit, operands, attrs) => {
      const [x, position] = [operandAt(operands, 0), operandAt(operands, 1)];
      const shape = emit.typeOf(x).shape;
      const [t, h, width] = [sizeAt(shape, 0), sizeAt(shape, 1), sizeAt(shape, 2)];
      const half = dimDiv(width, dim(2));
      const n = dimConstant(half) ?? 0;
      const frequencies = Array.from({ length: n }, (_, i) => Math.fround(frequency(theta.of(attrs), i, 2 * n)));
      const table = emit.constant("f32", [half], frequencies);
      const steps = reshape(emit, emit.op("cast", [position], { dtype: "f32" }), [t, dim(1)]);
      const angle = mul(emit, broadcastTo(emit, steps, [t, half]), broadcastTo(emit, table, [t, half]));
      const wide = (v: number): number => broadcastTo(emit, reshape(emit, v, [t, dim(1), half]), [t, h, half]);
      const [cos, sin] = [wide(emit.op("cos", [angle])), wide(emit.op("sin", [angle]))];
      const cut = (start: Dim, stop: Dim): number => emit.op("slice", [x], { axis: 2, start, stop, step: 1 });
      const [a, b] = [cut(dim(0), half), cut(half, width)];
      return emit.op("concat", [sub(emit, mul(emit, a, cos), mul(emit, b, sin)), add(emit, mul(emit, b, cos), mul(emit, a, sin))], {
        axis: 2,
      });
    },
  },
  derivative: { kind: "viaDecomposition" },
  flops: (_operands, _attrs, out) => dimMul(dim(5), dimProduct(out.shape)),
  recompute: true,
  tolerance: {
    absolute: 5e-4,
    relative: 0,
    why: "The angle is rounded to f32: at position 4096 by up to 2.5e-4 radians, as in every f32 implementation.",
  },
  samples: (fc) =>
    fc
      .tuple(size(fc, 4), size(fc, 3), fc.constantFrom(0, 2, 4, 6, 16), fc.constantFrom(10, 100, 4096))
      .chain(([t, h, d, far]) =>
        fc
          .tuple(tensorOf(fc, "f32", [t, h, d], reals(fc, -2, 2)), tensorOf(fc, "i32", [t], fc.nat(far)))
          .map((all) => smooth(all, { theta: 10000 })),
      ),
});
