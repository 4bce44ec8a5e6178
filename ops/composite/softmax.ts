// softmax, log_softmax and mean: composites of a reduction and elementwise ops along axes.

import { dim, dimMul, dimProduct } from "../../compiler/ir/dim.ts";
import { isFloat } from "../../compiler/ir/dtype.ts";
import type { Attrs, ValueId } from "../../compiler/ir/graph/types.ts";
import { defineOp, type Emit, type OpDefinition, type RefTensor } from "../define.ts";
import { div, mul, sizeValue, sub, unreduce } from "../emit.ts";
import { around, forEachIndex, item, stridesOf, tabulate } from "../reference/tensor.ts";
import { axesIn, axisIn, boolAttr, intAttr, intsAttr, needDType, operandAt, sizeAt } from "../rules.ts";
import { edgy, reals, rough, shapes, smooth, tensorOf } from "../sampling.ts";
import { ofLargest } from "../tolerances.ts";

const axis = intAttr("axis", "The dimension along which the results are normalised; negative counts from the end.", -1);
const axes = intsAttr("axes", "The dimensions that are averaged; negative counts from the end.");
const keep = boolAttr("keep", "Keep averaged dimensions with size 1.", false);

function alongAxis(
  name: string,
  doc: string,
  rest: Pick<OpDefinition, "lowering" | "derivative" | "tolerance"> & { readonly row: (x: readonly number[]) => readonly number[] },
): OpDefinition {
  return defineOp({
    name,
    doc,
    kind: "composite",
    operands: [{ name: "x", doc: "f32, f16 or bf16[…]" }],
    attrs: [axis.spec],
    type: (operands, attrs) => {
      needDType(operands, 0, isFloat, "f32, f16 or bf16");
      const x = operandAt(operands, 0);
      axisIn(axis.of(attrs), x.shape.length);
      return x;
    },
    reference: (operands, attrs, out) => eachRow(operandAt(operands, 0), axisIn(axis.of(attrs), out.shape.length), rest.row),
    lowering: rest.lowering,
    derivative: rest.derivative,
    flops: (_operands, _attrs, out) => dimMul(dim(5), dimProduct(out.shape)),
    recompute: false,
    tolerance: rest.tolerance,
    samples: (fc) =>
      fc
        .tuple(
          fc.oneof(
            { weight: 4, arbitrary: shapes(fc, 1, 3, 6) },
            { weight: 1, arbitrary: fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 7, max: 70 })).map((s) => [...s]) },
          ),
          fc.nat(2),
          fc.boolean(),
        )
        .chain(([shape, a, plain]) => {
          const element = plain ? reals(fc, -5, 5) : edgy(fc, -90, 90, [NaN, Infinity, -Infinity, 0, -0, 1]);
          return tensorOf(fc, "f32", shape, element).map((x) => (plain ? smooth : rough)([x], { axis: a % shape.length }));
        }),
  });
}

/** Applies `row` to every line of `x` along `at`. */
function eachRow(x: RefTensor, at: number, row: (line: readonly number[]) => readonly number[]): RefTensor {
  const { outer, size, inner } = around(x.shape, at);
  const data = new Float64Array(x.data.length);
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < inner; i++) {
      const first = o * size * inner + i;
      const line = row(Array.from({ length: size }, (_, s) => item(x.data, first + s * inner)));
      for (const [s, value] of line.entries()) data[first + s * inner] = value;
    }
  }
  return { dtype: x.dtype, shape: x.shape, data };
}

/** x minus its largest value along the axis, and the axis. */
function shifted(emit: Emit, x: ValueId, attrs: Attrs): { readonly value: ValueId; readonly over: (v: ValueId) => ValueId } {
  const shape = emit.typeOf(x).shape;
  const reduced = [axisIn(axis.of(attrs), shape.length)];
  const largest = emit.op("reduce_max", [x], { axes: reduced, keep: true });
  const over = (v: ValueId): ValueId => emit.op("reduce_sum", [v], { axes: reduced, keep: true });
  return { value: sub(emit, x, unreduce(emit, largest, reduced, shape)), over };
}

const maximum = (x: readonly number[]): number => x.reduce((a, b) => Math.max(a, b), -Infinity);
const total = (x: readonly number[]): number => x.reduce((a, b) => a + b, 0);

export const softmax = alongAxis(
  "softmax",
  "exp(xᵢ - max x) / Σⱼ exp(xⱼ - max x) along one dimension. A line that holds NaN or +infinity, or only -infinity, is NaN.",
  {
    row: (x) => {
      const top = maximum(x);
      const powers = x.map((v) => Math.exp(v - top));
      const sum = total(powers);
      return powers.map((p) => p / sum);
    },
    lowering: {
      kind: "decompose",
      build: (emit, operands, attrs) => {
        const x = operandAt(operands, 0);
        const { value, over } = shifted(emit, x, attrs);
        const powers = emit.op("exp", [value]);
        return div(emit, powers, broadcastLike(emit, over(powers), x));
      },
    },
    derivative: {
      kind: "vjp",
      build: (emit, { output, cotangent, attrs }) => {
        const reduced = [axisIn(axis.of(attrs), emit.typeOf(output).shape.length)];
        const mean = emit.op("reduce_sum", [mul(emit, cotangent, output)], { axes: reduced, keep: true });
        return [mul(emit, output, sub(emit, cotangent, broadcastLike(emit, mean, output)))];
      },
    },
    tolerance: {
      absolute: 1e-36,
      relative: 1.2e-5,
      why: "The argument of exp is rounded at up to 180 in size, and the terms are added in f32.",
    },
  },
);

export const log_softmax = alongAxis("log_softmax", "xᵢ - max x - log Σⱼ exp(xⱼ - max x) along one dimension.", {
  row: (x) => {
    const top = maximum(x);
    const log = Math.log(total(x.map((v) => Math.exp(v - top))));
    return x.map((v) => v - top - log);
  },
  lowering: {
    kind: "decompose",
    build: (emit, operands, attrs) => {
      const { value, over } = shifted(emit, operandAt(operands, 0), attrs);
      const log = emit.op("log", [over(emit.op("exp", [value]))]);
      return sub(emit, value, broadcastLike(emit, log, value));
    },
  },
  derivative: {
    kind: "vjp",
    build: (emit, { output, cotangent, attrs }) => {
      const reduced = [axisIn(axis.of(attrs), emit.typeOf(output).shape.length)];
      const sum = emit.op("reduce_sum", [cotangent], { axes: reduced, keep: true });
      return [sub(emit, cotangent, mul(emit, emit.op("exp", [output]), broadcastLike(emit, sum, output)))];
    },
  },
  tolerance: { absolute: 2e-6, relative: 1e-6, why: "Differences of numbers up to 180, each rounded to f32, and a logarithm near 0." },
});

function broadcastLike(emit: Emit, value: ValueId, like: ValueId): ValueId {
  return emit.op("broadcast", [value], { shape: emit.typeOf(like).shape });
}

export const mean = defineOp({
  name: "mean",
  doc: "The sum over some dimensions divided by the number of elements added; NaN over none.",
  kind: "composite",
  operands: [{ name: "x", doc: "f32[…]" }],
  attrs: [axes.spec, keep.spec],
  type: (operands, attrs) => {
    needDType(operands, 0, (d) => d === "f32", "f32");
    const x = operandAt(operands, 0);
    const reduced = axesIn(axes.of(attrs), x.shape.length);
    return {
      dtype: x.dtype,
      shape: x.shape.map((d, i) => (reduced.includes(i) ? dim(1) : d)).filter((_, i) => keep.of(attrs) || !reduced.includes(i)),
    };
  },
  reference: (operands, attrs, out) => {
    const x = operandAt(operands, 0);
    const reduced = axesIn(axes.of(attrs), x.shape.length);
    const kept = x.shape.map((_, i) => i).filter((i) => !reduced.includes(i));
    const strides = stridesOf(kept.map((i) => item(x.shape, i)));
    const count = reduced.reduce((n, i) => n * item(x.shape, i), 1);
    const sums = tabulate(out.dtype, out.shape, () => 0);
    forEachIndex(x.shape, (index, linear) => {
      const at = kept.reduce((sum, axisOfX, i) => sum + item(index, axisOfX) * item(strides, i), 0);
      sums.data[at] = item(sums.data, at) + item(x.data, linear);
    });
    return { ...sums, data: sums.data.map((s) => s / count) };
  },
  lowering: {
    kind: "decompose",
    build: (emit, operands, attrs) => {
      const x = operandAt(operands, 0);
      const shape = emit.typeOf(x).shape;
      const reduced = axesIn(axes.of(attrs), shape.length);
      const sum = emit.op("reduce_sum", [x], { axes: reduced, keep: keep.of(attrs) });
      return div(emit, sum, sizeValue(emit, dimProduct(reduced.map((a) => sizeAt(shape, a))), emit.typeOf(sum).shape));
    },
  },
  derivative: { kind: "viaDecomposition" },
  flops: (operands) => dimProduct(operandAt(operands, 0).shape),
  recompute: false,
  tolerance: ofLargest(2e-6, 5e-5, "Terms are added in f32 in any order; the samples' terms are below 100."),
  samples: (fc) =>
    fc
      .tuple(shapes(fc, 0, 3, 6), fc.array(fc.boolean(), { minLength: 3, maxLength: 3 }), fc.boolean(), fc.boolean())
      .chain(([shape, chosen, keeps, plain]) => {
        const attrs = { axes: shape.map((_, i) => i).filter((i) => chosen[i] === true), keep: keeps };
        const empty = attrs.axes.some((a) => shape[a] === 0);
        return tensorOf(fc, "f32", shape, plain ? reals(fc, -5, 5) : edgy(fc, -100, 100, [NaN, Infinity, -Infinity, 0, -0])).map((x) =>
          (plain && !empty ? smooth : rough)([x], attrs),
        );
      }),
});
