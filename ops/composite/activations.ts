// Activations: composites of elementwise ops, one entry each. They have no kernels of their own; fusion makes
// one expression of each decomposition.

import { dim, dimMul, dimProduct } from "../../compiler/ir/dim.ts";
import { isFloat } from "../../compiler/ir/dtype.ts";
import type { Attrs, ValueId } from "../../compiler/ir/graph/types.ts";
import { defineOp, type Derivative, type Emit, type OpDefinition, type Tolerance } from "../define.ts";
import { add, div, mul, neg, scale, splat, zerosLike } from "../emit.ts";
import { erf } from "../reference/erf.ts";
import { item, tabulate } from "../reference/tensor.ts";
import { floatAttr, needDType, operandAt } from "../rules.ts";
import { awayFromZero, edgy, elementwiseShapes, reals, rough, smooth, tensorOf, type Arb, type FC } from "../sampling.ts";
import { exact, few } from "../tolerances.ts";

interface Activation {
  readonly name: string;
  readonly doc: string;
  readonly attrs?: OpDefinition["attrs"];
  readonly float: (x: number, attrs: Attrs) => number;
  readonly build: (emit: Emit, x: ValueId, attrs: Attrs) => ValueId;
  readonly derivative?: Derivative;
  /** Operations of the decomposition for one element. */
  readonly work: number;
  readonly tolerance: Tolerance;
  readonly domain?: (fc: FC) => Arb<number>;
  readonly sampleAttrs?: Attrs;
}

function activation(a: Activation): OpDefinition {
  return defineOp({
    name: a.name,
    doc: a.doc,
    kind: "composite",
    operands: [{ name: "x", doc: "f32, f16 or bf16[…]" }],
    attrs: a.attrs ?? [],
    type: (operands) => {
      needDType(operands, 0, isFloat, "f32, f16 or bf16");
      return operandAt(operands, 0);
    },
    reference: (operands, attrs, out) => tabulate(out.dtype, out.shape, (_, i) => a.float(item(operandAt(operands, 0).data, i), attrs)),
    lowering: { kind: "decompose", build: (emit, operands, attrs) => a.build(emit, operandAt(operands, 0), attrs) },
    derivative: a.derivative ?? { kind: "viaDecomposition" },
    flops: (_operands, _attrs, out) => dimMul(dim(a.work), dimProduct(out.shape)),
    recompute: true,
    tolerance: a.tolerance,
    samples: (fc) => {
      const attrs = a.sampleAttrs ?? {};
      const of = (element: Arb<number>) => elementwiseShapes(fc).chain((shape) => tensorOf(fc, "f32", shape, element));
      return fc.oneof(
        of((a.domain ?? ((f) => reals(f, -4, 4)))(fc)).map((x) => smooth([x], attrs)),
        of(edgy(fc, -20, 20)).map((x) => rough([x], attrs)),
      );
    },
  });
}

const half = (emit: Emit, x: ValueId): ValueId => scale(emit, x, 0.5);
const onePlus = (emit: Emit, x: ValueId): ValueId => add(emit, splat(emit, x, 1), x);
/** 1 / (1 + e^-x) */
const logistic = (emit: Emit, x: ValueId): ValueId => div(emit, splat(emit, x, 1), onePlus(emit, emit.op("exp", [neg(emit, x)])));
const sigmoid64 = (x: number): number => 1 / (1 + Math.exp(-x));
const rootTwoOverPi = Math.sqrt(2 / Math.PI);

const low = floatAttr("low", "The least value of the result.");
const high = floatAttr("high", "The greatest value of the result; not below low.");
const smoothTolerance = few(
  24,
  "A few roundings and one exp, tanh or erf; where two terms cancel for negative x the error is absolute.",
  1e-6,
);

export const activationOps = {
  sigmoid: activation({
    name: "sigmoid",
    doc: "1 / (1 + exp(-x)).",
    float: sigmoid64,
    build: logistic,
    work: 4,
    tolerance: few(16, "An exp, a sum and a quotient.", 1.2e-38),
    derivative: {
      kind: "vjp",
      build: (emit, { output, cotangent }) => [mul(emit, cotangent, mul(emit, output, emit.op("sub", [splat(emit, output, 1), output])))],
    },
  }),
  silu: activation({
    name: "silu",
    doc: "x · sigmoid(x), also called swish.",
    float: (x) => x * sigmoid64(x),
    build: (emit, x) => mul(emit, x, logistic(emit, x)),
    work: 5,
    tolerance: few(20, "An exp and three roundings.", 2e-37),
  }),
  gelu: activation({
    name: "gelu",
    doc: "x · Φ(x) = x/2 · (1 + erf(x/√2)), the exact form.",
    float: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
    build: (emit, x) => mul(emit, half(emit, x), onePlus(emit, emit.op("erf", [scale(emit, x, Math.SQRT1_2)]))),
    work: 5,
    tolerance: smoothTolerance,
  }),
  gelu_tanh: activation({
    name: "gelu_tanh",
    doc: "x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))).",
    float: (x) => 0.5 * x * (1 + Math.tanh(rootTwoOverPi * (x + 0.044715 * x * x * x))),
    build: (emit, x) => {
      const cube = mul(emit, mul(emit, x, x), x);
      const inner = scale(emit, add(emit, x, scale(emit, cube, 0.044715)), rootTwoOverPi);
      return mul(emit, half(emit, x), onePlus(emit, emit.op("tanh", [inner])));
    },
    work: 9,
    tolerance: smoothTolerance,
  }),
  quick_gelu: activation({
    name: "quick_gelu",
    doc: "x · sigmoid(1.702·x), the activation of CLIP.",
    float: (x) => x * sigmoid64(1.702 * x),
    build: (emit, x) => mul(emit, x, logistic(emit, scale(emit, x, 1.702))),
    work: 6,
    tolerance: few(64, "An exp of an argument that was rounded, up to 40 in size, and three roundings.", 2e-37),
  }),
  relu: activation({
    name: "relu",
    doc: "max(x, 0); its derivative at 0 is 0.",
    float: (x) => Math.max(x, 0),
    build: (emit, x) => emit.op("maximum", [x, zerosLike(emit, x)]),
    work: 1,
    tolerance: exact,
    derivative: {
      kind: "vjp",
      build: (emit, { operands, cotangent }) => {
        const x = operandAt(operands, 0);
        return [emit.op("select", [emit.op("gt", [x, zerosLike(emit, x)]), cotangent, zerosLike(emit, x)])];
      },
    },
    domain: (fc) => awayFromZero(fc, 0.1, 5),
  }),
  clamp: activation({
    name: "clamp",
    doc: "min(max(x, low), high); NaN stays.",
    attrs: [low.spec, high.spec],
    float: (x, attrs) => Math.min(Math.max(x, Math.fround(low.of(attrs))), Math.fround(high.of(attrs))),
    build: (emit, x, attrs) => emit.op("minimum", [emit.op("maximum", [x, splat(emit, x, low.of(attrs))]), splat(emit, x, high.of(attrs))]),
    work: 2,
    tolerance: exact,
    sampleAttrs: { low: -1, high: 2.5 },
    domain: (fc) => fc.oneof(reals(fc, -5, -1.1), reals(fc, -0.9, 2.4), reals(fc, 2.6, 5)),
  }),
};
