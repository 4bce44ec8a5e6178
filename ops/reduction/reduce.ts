// Reductions over axes: sum, maximum, minimum. (mean is a composite; argmax has its own file.)

import { dim, dimProduct } from "../../compiler/ir/dim.ts";
import { isFloat } from "../../compiler/ir/dtype.ts";
import type { Attrs } from "../../compiler/ir/graph/types.ts";
import type { Expr, FoldOp } from "../../compiler/ir/kernel/types.ts";
import { defineOp, type Derivative, type OpDefinition, type Tolerance } from "../define.ts";
import { div, mul, unreduce } from "../emit.ts";
import { foldOver } from "../expr.ts";
import { forEachIndex, item, stridesOf, tabulate } from "../reference/tensor.ts";
import { axesIn, boolAttr, intsAttr, isNumeric, needDType, operandAt, sizeAt } from "../rules.ts";
import { edgy, integers, reals, rough, shapes, smooth, tensorOf, type Arb, type FC } from "../sampling.ts";
import { exact, ofLargest } from "../tolerances.ts";

const axes = intsAttr("axes", "The dimensions that are reduced; negative counts from the end.");
const keep = boolAttr("keep", "Keep reduced dimensions with size 1.", false);

interface Reduction {
  readonly name: string;
  readonly doc: string;
  readonly fold: FoldOp;
  readonly float: (a: number, b: number) => number;
  readonly integer: (a: number, b: number) => number;
  /** The value of no elements: of floats, of i32. */
  readonly identity: { readonly float: number; readonly integer: number };
  readonly derivative: Derivative;
  readonly tolerance: Tolerance;
  readonly domain: (fc: FC, n: number) => Arb<number[]>;
}

function reduction(r: Reduction): OpDefinition {
  return defineOp({
    name: r.name,
    doc: r.doc,
    kind: "reduction",
    operands: [{ name: "x", doc: "f32, f16, bf16 or i32[…]" }],
    attrs: [axes.spec, keep.spec],
    type: (operands, attrs) => {
      needDType(operands, 0, isNumeric, "f32, f16, bf16 or i32");
      const x = operandAt(operands, 0);
      const reduced = axesIn(axes.of(attrs), x.shape.length);
      const shape = x.shape.map((d, i) => (reduced.includes(i) ? dim(1) : d)).filter((_, i) => keep.of(attrs) || !reduced.includes(i));
      return { dtype: x.dtype, shape };
    },
    reference: (operands, attrs, out) => {
      const x = operandAt(operands, 0);
      const reduced = axesIn(axes.of(attrs), x.shape.length);
      const kept = x.shape.map((_, i) => i).filter((i) => !reduced.includes(i));
      const strides = stridesOf(kept.map((i) => item(x.shape, i)));
      const float = isFloat(x.dtype);
      const result = tabulate(out.dtype, out.shape, () => (float ? r.identity.float : r.identity.integer));
      forEachIndex(x.shape, (index, linear) => {
        const at = kept.reduce((sum, axis, i) => sum + item(index, axis) * item(strides, i), 0);
        result.data[at] = (float ? r.float : r.integer)(item(result.data, at), item(x.data, linear));
      });
      return result;
    },
    lowering: {
      kind: "element",
      emit: (index, { attrs, types, at, fresh }) => {
        const shape = operandAt(types, 0).shape;
        const reduced = axesIn(axes.of(attrs), shape.length);
        const extents = reduced.map((a) => sizeAt(shape, a));
        return foldOver(r.fold, extents, fresh, (inner) => at(0, whole(index, inner, reduced, shape.length, attrs)));
      },
    },
    derivative: r.derivative,
    flops: (operands) => dimProduct(operandAt(operands, 0).shape),
    recompute: false,
    tolerance: r.tolerance,
    samples: (fc) =>
      fc
        .tuple(
          fc.oneof(
            { weight: 4, arbitrary: shapes(fc, 0, 3, 6) },
            { weight: 1, arbitrary: fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 7, max: 70 })).map((s) => [...s]) },
          ),
          fc.array(fc.boolean(), { minLength: 3, maxLength: 3 }),
          fc.boolean(),
          fc.constantFrom("smooth", "f32", "i32"),
        )
        .chain(([shape, chosen, keeps, kind]) => {
          const n = shape.reduce((a, b) => a * b, 1);
          const attrs = { axes: shape.map((_, i) => i).filter((i) => chosen[i] === true), keep: keeps };
          if (kind === "i32") return tensorOf(fc, "i32", shape, integers(fc)).map((x) => rough([x], attrs));
          if (kind === "f32")
            return tensorOf(fc, "f32", shape, edgy(fc, -100, 100, [NaN, Infinity, -Infinity, 0, -0, 1])).map((x) => rough([x], attrs));
          return r.domain(fc, n).map((data) => smooth([{ dtype: "f32", shape, data: Float64Array.from(data) }], attrs));
        }),
  });
}

/** The position in x: parts of the result's index, with the folds' parts in place of the reduced dimensions. */
function whole(index: readonly Expr[], inner: readonly Expr[], reduced: readonly number[], rank: number, attrs: Attrs): Expr[] {
  const keeps = keep.of(attrs);
  let next = 0;
  return Array.from({ length: rank }, (_, axis) => {
    const fold = reduced.indexOf(axis);
    if (fold < 0) return operandAt(index, keeps ? axis : next++);
    return operandAt(inner, fold);
  });
}

/** The cotangent goes to the elements that equal the extremum, in equal shares. */
const toExtremum: Derivative = {
  kind: "vjp",
  build: (emit, { operands, output, cotangent, attrs }) => {
    const x = operandAt(operands, 0);
    const { dtype, shape } = emit.typeOf(x);
    const reduced = axesIn(axes.of(attrs), shape.length);
    const wins = emit.op("cast", [emit.op("eq", [x, unreduce(emit, output, reduced, shape)])], { dtype });
    const count = emit.op("reduce_sum", [wins], { axes: reduced, keep: keep.of(attrs) });
    return [mul(emit, wins, unreduce(emit, div(emit, cotangent, count), reduced, shape))];
  },
};

const free = (fc: FC, n: number): Arb<number[]> => fc.array(reals(fc, -5, 5), { minLength: n, maxLength: n });
/** Values at least 0.05 apart, so that none changes rank under a small change. */
const distinct = (fc: FC, n: number): Arb<number[]> =>
  fc.shuffledSubarray(
    Array.from({ length: n }, (_, i) => Math.fround((i - n / 2) / 16)),
    { minLength: n },
  );

export const reductionOps = {
  reduce_sum: reduction({
    name: "reduce_sum",
    doc: "The sum over some dimensions; 0 over none; i32 wraps.",
    fold: "sum",
    float: (a, b) => a + b,
    integer: (a, b) => (a + b) | 0,
    identity: { float: 0, integer: 0 },
    derivative: {
      kind: "vjp",
      build: (emit, { operands, cotangent, attrs }) => {
        const shape = emit.typeOf(operandAt(operands, 0)).shape;
        return [unreduce(emit, cotangent, axesIn(axes.of(attrs), shape.length), shape)];
      },
    },
    tolerance: ofLargest(2e-6, 5e-5, "Terms are added in f32 in any order; the samples' terms are below 100."),
    domain: free,
  }),
  reduce_max: reduction({
    name: "reduce_max",
    doc: "The largest element over some dimensions; -infinity (i32: -2^31) over none; NaN when there is one. Ties share the cotangent.",
    fold: "max",
    float: Math.max,
    integer: Math.max,
    identity: { float: -Infinity, integer: -2147483648 },
    derivative: toExtremum,
    tolerance: exact,
    domain: distinct,
  }),
  reduce_min: reduction({
    name: "reduce_min",
    doc: "The smallest element over some dimensions; infinity (i32: 2^31 - 1) over none; NaN when there is one. Ties share the cotangent.",
    fold: "min",
    float: Math.min,
    integer: Math.min,
    identity: { float: Infinity, integer: 2147483647 },
    derivative: toExtremum,
    tolerance: exact,
    domain: distinct,
  }),
};
