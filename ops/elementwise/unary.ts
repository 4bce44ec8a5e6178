// Elementwise ops of one operand, one entry each. Casts and activations are elsewhere.

import { dimProduct } from "../../compiler/ir/dim.ts";
import { isFloat } from "../../compiler/ir/dtype.ts";
import type { ValueId } from "../../compiler/ir/graph/types.ts";
import { unary as unaryExpr } from "../../compiler/ir/kernel/build.ts";
import type { UnaryOp } from "../../compiler/ir/kernel/types.ts";
import { defineOp, type Emit, type OpDefinition, type Tolerance } from "../define.ts";
import { div, mul, neg, scale, splat, sub, zerosLike } from "../emit.ts";
import { erf as erf64 } from "../reference/erf.ts";
import { roundHalfEven } from "../reference/numbers.ts";
import { tabulate, item } from "../reference/tensor.ts";
import { isNumeric, needDType, operandAt } from "../rules.ts";
import {
  awayFromZero,
  edgy,
  elementwiseShapes,
  exactElements,
  integers,
  reals,
  rough,
  smooth,
  specials,
  tensorOf,
  type Arb,
  type FC,
} from "../sampling.ts";
import { exact, few, rounded } from "../tolerances.ts";

interface Unary {
  readonly name: string;
  readonly doc: string;
  readonly expr: UnaryOp;
  readonly float: (x: number) => number;
  /** Present when the op also takes i32. */
  readonly integer?: (x: number) => number;
  /** Cotangent of x from x, the output y and its cotangent g. */
  readonly vjp: (emit: Emit, x: ValueId, y: ValueId, g: ValueId) => ValueId;
  readonly tolerance: Tolerance;
  /** Where the op is smooth. */
  readonly domain: (fc: FC) => Arb<number>;
  /** Anywhere it is defined, edges included. */
  readonly edges: (fc: FC) => Arb<number>;
}

function unary(u: Unary): OpDefinition {
  const takes = u.integer === undefined ? "f32, f16 or bf16" : "f32, f16, bf16 or i32";
  return defineOp({
    name: u.name,
    doc: u.doc,
    kind: "elementwise",
    operands: [{ name: "x", doc: `${takes}[…]` }],
    attrs: [],
    type: (operands) => {
      needDType(operands, 0, u.integer === undefined ? isFloat : isNumeric, takes);
      return operandAt(operands, 0);
    },
    reference: ([x], _attrs, out) => {
      const f = out.dtype === "i32" ? (u.integer ?? u.float) : u.float;
      return tabulate(out.dtype, out.shape, (_, i) => (x === undefined ? NaN : f(item(x.data, i))));
    },
    lowering: { kind: "scalar", emit: (args) => unaryExpr(u.expr, operandAt(args, 0)) },
    derivative: { kind: "vjp", build: (emit, { operands, output, cotangent }) => [u.vjp(emit, operandAt(operands, 0), output, cotangent)] },
    flops: (_operands, _attrs, out) => dimProduct(out.shape),
    recompute: true,
    tolerance: u.tolerance,
    samples: (fc) => {
      const f32 = (element: Arb<number>) => elementwiseShapes(fc).chain((shape) => tensorOf(fc, "f32", shape, element));
      const floats = [
        { weight: 3, arbitrary: f32(u.domain(fc)).map((x) => smooth([x])) },
        { weight: 3, arbitrary: f32(u.edges(fc)).map((x) => rough([x])) },
      ];
      if (u.integer === undefined) return fc.oneof(...floats);
      const i32 = elementwiseShapes(fc).chain((shape) => tensorOf(fc, "i32", shape, integers(fc)));
      return fc.oneof(...floats, { weight: 2, arbitrary: i32.map((x) => rough([x])) });
    },
  });
}

const finite = specials.filter((x) => Math.abs(x) < 1e4 || Number.isNaN(x) || Math.abs(x) === Infinity);
const everywhere = (fc: FC): Arb<number> => edgy(fc, -1000, 1000);
const between =
  (min: number, max: number) =>
  (fc: FC): Arb<number> =>
    reals(fc, min, max);
const offIntegers = (fc: FC): Arb<number> =>
  fc.tuple(fc.integer({ min: -50, max: 50 }), reals(fc, 0.05, 0.45), fc.boolean()).map(([n, x, up]) => Math.fround(n + (up ? 1 - x : x)));
const stepDoc = "Its derivative is 0 wherever it exists.";

export const unaryOps = {
  neg: unary({
    name: "neg",
    doc: "-x; changes the sign of zero; i32 wraps.",
    expr: "neg",
    float: (x) => -x,
    integer: (x) => -x | 0,
    vjp: (emit, _x, _y, g) => neg(emit, g),
    tolerance: exact,
    domain: between(-10, 10),
    edges: everywhere,
  }),
  abs: unary({
    name: "abs",
    doc: "|x|; i32 wraps at -2^31.",
    expr: "abs",
    float: Math.abs,
    integer: (x) => Math.abs(x) | 0,
    vjp: (emit, x, _y, g) => mul(emit, g, emit.op("sign", [x])),
    tolerance: exact,
    domain: (fc) => awayFromZero(fc, 0.1, 10),
    edges: everywhere,
  }),
  sign: unary({
    name: "sign",
    doc: `-1, 0 or 1; NaN and -0 stay. ${stepDoc}`,
    expr: "sign",
    float: Math.sign,
    integer: Math.sign,
    vjp: (emit, x) => zerosLike(emit, x),
    tolerance: exact,
    domain: (fc) => awayFromZero(fc, 0.1, 10),
    edges: everywhere,
  }),
  exp: unary({
    name: "exp",
    doc: "e^x.",
    expr: "exp",
    float: Math.exp,
    vjp: (emit, _x, y, g) => mul(emit, g, y),
    tolerance: few(10, "A polynomial after range reduction; results below the normal numbers may become 0.", 1.2e-38),
    domain: between(-5, 3),
    edges: (fc) => edgy(fc, -110, 90),
  }),
  log: unary({
    name: "log",
    doc: "Natural logarithm; log(0) = -infinity, NaN below 0.",
    expr: "log",
    float: Math.log,
    vjp: (emit, x, _y, g) => div(emit, g, x),
    tolerance: few(10, "A polynomial after splitting off the exponent; near 1 the absolute error is bounded instead.", 1e-7),
    domain: between(0.2, 20),
    edges: (fc) => edgy(fc, -2, 1000),
  }),
  sqrt: unary({
    name: "sqrt",
    doc: "√x; NaN below 0; √-0 = -0.",
    expr: "sqrt",
    float: Math.sqrt,
    vjp: (emit, _x, y, g) => div(emit, scale(emit, g, 0.5), y),
    tolerance: rounded,
    domain: between(0.2, 20),
    edges: (fc) => edgy(fc, -2, 1000),
  }),
  rsqrt: unary({
    name: "rsqrt",
    doc: "1/√x; infinity at 0 with its sign; NaN below 0.",
    expr: "rsqrt",
    float: (x) => 1 / Math.sqrt(x),
    vjp: (emit, x, y, g) => div(emit, mul(emit, scale(emit, g, -0.5), y), x),
    tolerance: few(4, "A square root and a division, each rounded."),
    domain: between(0.2, 20),
    edges: (fc) => edgy(fc, -2, 1000),
  }),
  sin: unary({
    name: "sin",
    doc: "Sine of x in radians, for |x| up to 8192; larger arguments lose accuracy.",
    expr: "sin",
    float: Math.sin,
    vjp: (emit, x, _y, g) => mul(emit, g, emit.op("cos", [x])),
    tolerance: { absolute: 4e-7, relative: 0, why: "The argument is reduced by multiples of π/2 in f32; the error is absolute." },
    domain: between(-6, 6),
    edges: (fc) => edgy(fc, -1000, 1000, finite),
  }),
  cos: unary({
    name: "cos",
    doc: "Cosine of x in radians, for |x| up to 8192; larger arguments lose accuracy.",
    expr: "cos",
    float: Math.cos,
    vjp: (emit, x, _y, g) => neg(emit, mul(emit, g, emit.op("sin", [x]))),
    tolerance: { absolute: 4e-7, relative: 0, why: "The argument is reduced by multiples of π/2 in f32; the error is absolute." },
    domain: between(-6, 6),
    edges: (fc) => edgy(fc, -1000, 1000, finite),
  }),
  tanh: unary({
    name: "tanh",
    doc: "Hyperbolic tangent.",
    expr: "tanh",
    float: Math.tanh,
    vjp: (emit, _x, y, g) => mul(emit, g, sub(emit, splat(emit, y, 1), mul(emit, y, y))),
    tolerance: few(16, "Made from exp, with a polynomial near 0.", 1e-37),
    domain: between(-3, 3),
    edges: (fc) => edgy(fc, -20, 20),
  }),
  erf: unary({
    name: "erf",
    doc: "Error function 2/√π · ∫₀ˣ exp(-t²) dt.",
    expr: "erf",
    float: erf64,
    vjp: (emit, x, _y, g) => mul(emit, scale(emit, g, 2 / Math.sqrt(Math.PI)), emit.op("exp", [neg(emit, mul(emit, x, x))])),
    tolerance: few(16, "A polynomial in pieces.", 2e-7),
    domain: between(-3, 3),
    edges: (fc) => edgy(fc, -6, 6),
  }),
  floor: unary({
    name: "floor",
    doc: `The largest integer not above x. ${stepDoc}`,
    expr: "floor",
    float: Math.floor,
    vjp: (emit, x) => zerosLike(emit, x),
    tolerance: exact,
    domain: offIntegers,
    edges: everywhere,
  }),
  ceil: unary({
    name: "ceil",
    doc: `The smallest integer not below x. ${stepDoc}`,
    expr: "ceil",
    float: Math.ceil,
    vjp: (emit, x) => zerosLike(emit, x),
    tolerance: exact,
    domain: offIntegers,
    edges: everywhere,
  }),
  round: unary({
    name: "round",
    doc: `The nearest integer, halves to even. ${stepDoc}`,
    expr: "round",
    float: roundHalfEven,
    vjp: (emit, x) => zerosLike(emit, x),
    tolerance: exact,
    domain: offIntegers,
    edges: everywhere,
  }),
  trunc: unary({
    name: "trunc",
    doc: `x without its fraction. ${stepDoc}`,
    expr: "trunc",
    float: Math.trunc,
    vjp: (emit, x) => zerosLike(emit, x),
    tolerance: exact,
    domain: offIntegers,
    edges: everywhere,
  }),
  logical_not: defineOp({
    name: "logical_not",
    doc: "true where x is false.",
    kind: "elementwise",
    operands: [{ name: "x", doc: "bool[…]" }],
    attrs: [],
    type: (operands) => {
      needDType(operands, 0, (d) => d === "bool", "bool");
      return operandAt(operands, 0);
    },
    reference: ([x], _attrs, out) => tabulate(out.dtype, out.shape, (_, i) => (x !== undefined && item(x.data, i) === 0 ? 1 : 0)),
    lowering: { kind: "scalar", emit: (args) => unaryExpr("not", operandAt(args, 0)) },
    derivative: { kind: "nonDifferentiable", reason: "bools have no derivative" },
    flops: (_operands, _attrs, out) => dimProduct(out.shape),
    recompute: true,
    tolerance: exact,
    samples: (fc) =>
      elementwiseShapes(fc)
        .chain((shape) => tensorOf(fc, "bool", shape, exactElements(fc, "bool")))
        .map((x) => rough([x])),
  }),
};
