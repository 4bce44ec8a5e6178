// Elementwise ops of two operands of one shape and dtype, one entry each: arithmetic, comparison, logic.
// Broadcasting is an op of its own, so there is none here.

import { dimProduct } from "../../compiler/ir/dim.ts";
import { isFloat, type DType } from "../../compiler/ir/dtype.ts";
import type { ValueId } from "../../compiler/ir/graph/types.ts";
import { binary as binaryExpr } from "../../compiler/ir/kernel/build.ts";
import type { BinaryOp } from "../../compiler/ir/kernel/types.ts";
import { defineOp, type Derivative, type Emit, type OpDefinition, type Tolerance } from "../define.ts";
import { div, mul, neg, scale, splat, sub, zerosLike } from "../emit.ts";
import { divI32, floorMod, modI32, power } from "../reference/numbers.ts";
import { item, tabulate } from "../reference/tensor.ts";
import { needDType, needSameDType, needSameShape, operandAt } from "../rules.ts";
import { awayFromZero, edgy, elementwiseShapes, exactElements, reals, rough, smooth, tensorOf, type Arb, type FC } from "../sampling.ts";
import { exact, few, rounded } from "../tolerances.ts";

interface Binary {
  readonly name: string;
  readonly doc: string;
  readonly expr: BinaryOp;
  readonly takes: readonly DType[];
  readonly result: "same" | "bool";
  readonly float: (a: number, b: number) => number;
  readonly integer: (a: number, b: number) => number;
  readonly derivative: Derivative;
  readonly tolerance: Tolerance;
  /** Pairs at which the op is smooth; absent when it has no derivative. */
  readonly domain?: (fc: FC) => Arb<readonly [number, number]>;
  readonly edges: (fc: FC) => Arb<number>;
}

function binary(b: Binary): OpDefinition {
  const takes = b.takes.join(", ");
  return defineOp({
    name: b.name,
    doc: b.doc,
    kind: "elementwise",
    operands: [
      { name: "a", doc: `${takes}; any shape` },
      { name: "b", doc: "the shape and element type of a" },
    ],
    attrs: [],
    type: (operands) => {
      needDType(operands, 0, (d) => b.takes.includes(d), takes);
      needSameDType(operands, 1, 0);
      needSameShape(operands, 1, 0);
      const a = operandAt(operands, 0);
      return b.result === "bool" ? { dtype: "bool", shape: a.shape } : a;
    },
    reference: (operands, _attrs, out) => {
      const x = operandAt(operands, 0);
      const y = operandAt(operands, 1);
      const f = isFloat(x.dtype) ? b.float : b.integer;
      return tabulate(out.dtype, out.shape, (_, i) => f(item(x.data, i), item(y.data, i)));
    },
    lowering: { kind: "scalar", emit: (args) => binaryExpr(b.expr, operandAt(args, 0), operandAt(args, 1)) },
    derivative: b.derivative,
    flops: (_operands, _attrs, out) => dimProduct(out.shape),
    recompute: true,
    tolerance: b.tolerance,
    samples: (fc) => {
      const pairs = (dtype: DType, x: Arb<number>, y: Arb<number>) =>
        elementwiseShapes(fc).chain((shape) => fc.tuple(tensorOf(fc, dtype, shape, x), tensorOf(fc, dtype, shape, y)));
      const choices: { weight: number; arbitrary: Arb<ReturnType<typeof smooth>> }[] = b.takes
        .filter((d) => d !== "f16" && d !== "bf16")
        .map((dtype) => {
          const element = dtype === "f32" ? b.edges(fc) : exactElements(fc, dtype);
          return { weight: dtype === "f32" ? 4 : 2, arbitrary: pairs(dtype, element, element).map((ab) => rough(ab)) };
        });
      const { domain } = b;
      if (domain !== undefined) {
        const apart = elementwiseShapes(fc).chain((shape) => {
          const n = shape.reduce((p, q) => p * q, 1);
          return fc.array(domain(fc), { minLength: n, maxLength: n }).map((ab) => {
            const side = (i: 0 | 1) => ({ dtype: "f32" as const, shape, data: Float64Array.from(ab, (pair) => pair[i]) });
            return smooth([side(0), side(1)]);
          });
        });
        choices.push({ weight: 4, arbitrary: apart });
      }
      return fc.oneof(...choices);
    },
  });
}

const vjp = (build: (emit: Emit, a: ValueId, b: ValueId, y: ValueId, g: ValueId) => readonly [ValueId, ValueId]): Derivative => ({
  kind: "vjp",
  build: (emit, { operands, output, cotangent }) => build(emit, operandAt(operands, 0), operandAt(operands, 1), output, cotangent),
});
const none: Derivative = { kind: "nonDifferentiable", reason: "bools have no derivative" };

/** g where a is on the winning side, half of it at a tie. */
function extremum(order: "gt" | "lt"): Derivative {
  return vjp((emit, a, b, _y, g) => {
    const share = (mine: ValueId, other: ValueId): ValueId => {
      const tied = emit.op("select", [emit.op("eq", [mine, other]), scale(emit, g, 0.5), zerosLike(emit, g)]);
      return emit.op("select", [emit.op(order, [mine, other]), g, tied]);
    };
    return [share(a, b), share(b, a)];
  });
}

const numbers: readonly DType[] = ["f32", "f16", "bf16", "i32"];
const comparable: readonly DType[] = ["f32", "f16", "bf16", "u8", "i8", "i32"];
const everywhere = (fc: FC): Arb<number> => edgy(fc, -1000, 1000);
const anyPair = (fc: FC): Arb<readonly [number, number]> => fc.tuple(reals(fc, -5, 5), reals(fc, -5, 5));
const apart = (fc: FC): Arb<readonly [number, number]> =>
  fc.tuple(reals(fc, -5, 5), awayFromZero(fc, 0.1, 3)).map(([a, d]) => [a, Math.fround(a + d)] as const);
const quarters = (fc: FC): Arb<number> =>
  fc.oneof(
    { weight: 8, arbitrary: fc.integer({ min: -2000, max: 2000 }).map((i) => i / 4) },
    { weight: 1, arbitrary: fc.constantFrom(NaN, 0) },
  );

const arithmetic = { takes: numbers, result: "same" } as const;
const comparison = { takes: comparable, result: "bool", derivative: none, tolerance: exact } as const;
const logic = { takes: ["bool"], result: "bool", derivative: none, tolerance: exact, edges: everywhere } as const;
const truth =
  (holds: (a: number, b: number) => boolean) =>
  (a: number, b: number): number =>
    holds(a, b) ? 1 : 0;
const compared = (
  name: string,
  doc: string,
  expr: BinaryOp,
  holds: (a: number, b: number) => boolean,
  takes: readonly DType[] = comparable,
): OpDefinition =>
  binary({
    ...comparison,
    takes,
    name,
    doc,
    expr,
    float: truth(holds),
    integer: truth(holds),
    edges: (fc) => fc.oneof(everywhere(fc), fc.integer({ min: -2, max: 2 })),
  });

export const binaryOps = {
  add: binary({
    ...arithmetic,
    name: "add",
    doc: "a + b; i32 wraps.",
    expr: "add",
    float: (a, b) => a + b,
    integer: (a, b) => (a + b) | 0,
    derivative: vjp((_emit, _a, _b, _y, g) => [g, g]),
    tolerance: rounded,
    domain: anyPair,
    edges: everywhere,
  }),
  sub: binary({
    ...arithmetic,
    name: "sub",
    doc: "a - b; i32 wraps.",
    expr: "sub",
    float: (a, b) => a - b,
    integer: (a, b) => (a - b) | 0,
    derivative: vjp((emit, _a, _b, _y, g) => [g, neg(emit, g)]),
    tolerance: rounded,
    domain: anyPair,
    edges: everywhere,
  }),
  mul: binary({
    ...arithmetic,
    name: "mul",
    doc: "a · b; i32 wraps.",
    expr: "mul",
    float: (a, b) => a * b,
    integer: Math.imul,
    derivative: vjp((emit, a, b, _y, g) => [mul(emit, g, b), mul(emit, g, a)]),
    tolerance: rounded,
    domain: anyPair,
    edges: everywhere,
  }),
  div: binary({
    ...arithmetic,
    name: "div",
    doc: "a / b. i32 truncates toward zero, gives 0 for a divisor of 0, and wraps at -2^31 / -1.",
    expr: "div",
    float: (a, b) => a / b,
    integer: divI32,
    derivative: vjp((emit, _a, b, y, g) => [div(emit, g, b), neg(emit, div(emit, mul(emit, g, y), b))]),
    tolerance: rounded,
    domain: (fc) => fc.tuple(reals(fc, -5, 5), awayFromZero(fc, 0.3, 5)),
    edges: everywhere,
  }),
  mod: binary({
    ...arithmetic,
    name: "mod",
    doc: "a - b·floor(a/b): the remainder with the sign of the divisor. f32 needs a finite b and |a/b| below 2^22; a divisor of 0 gives NaN, in i32 0.",
    expr: "mod",
    float: floorMod,
    integer: modI32,
    derivative: vjp((emit, a, b, _y, g) => [g, neg(emit, mul(emit, g, emit.op("floor", [div(emit, a, b)])))]),
    tolerance: few(4, "A product and a difference, each rounded; the samples keep a/b away from integers it could round to."),
    domain: (fc) =>
      fc
        .tuple(fc.integer({ min: -6, max: 6 }), reals(fc, 0.1, 0.9), awayFromZero(fc, 0.5, 3))
        .map(([n, f, b]) => [Math.fround((n + f) * b), b] as const),
    edges: quarters,
  }),
  pow: binary({
    ...arithmetic,
    takes: ["f32", "f16", "bf16"],
    name: "pow",
    doc: "a^b as IEEE 754 has it: NaN for a negative base with a fractional exponent; 1 when b is 0 or a is 1.",
    expr: "pow",
    float: power,
    integer: power,
    derivative: vjp((emit, a, b, y, g) => {
      const zero = zerosLike(emit, b);
      const slope = mul(emit, b, emit.op("pow", [a, sub(emit, b, splat(emit, b, 1))]));
      const log = emit.op("select", [emit.op("gt", [a, zero]), emit.op("log", [a]), zero]);
      return [mul(emit, g, emit.op("select", [emit.op("eq", [b, zero]), zero, slope])), mul(emit, g, mul(emit, y, log))];
    }),
    tolerance: few(400, "exp(b·log a): an error in the logarithm is multiplied by its size, up to 88.", 1.2e-38),
    domain: (fc) => fc.tuple(reals(fc, 0.2, 4), reals(fc, -3, 3)),
    edges: (fc) => edgy(fc, -4, 4, [NaN, Infinity, -Infinity, 0, -0, 1, -1, 2, -2, 3, -3, 0.5]),
  }),
  minimum: binary({
    ...arithmetic,
    name: "minimum",
    doc: "The smaller of a and b; NaN when either is; -0 is below +0. A tie shares the cotangent.",
    expr: "min",
    float: Math.min,
    integer: Math.min,
    derivative: extremum("lt"),
    tolerance: exact,
    domain: apart,
    edges: everywhere,
  }),
  maximum: binary({
    ...arithmetic,
    name: "maximum",
    doc: "The larger of a and b; NaN when either is; +0 is above -0. A tie shares the cotangent.",
    expr: "max",
    float: Math.max,
    integer: Math.max,
    derivative: extremum("gt"),
    tolerance: exact,
    domain: apart,
    edges: everywhere,
  }),
  eq: compared("eq", "a = b; false with NaN.", "eq", (a, b) => a === b, [...comparable, "bool"]),
  ne: compared("ne", "a ≠ b; true with NaN.", "ne", (a, b) => a !== b, [...comparable, "bool"]),
  lt: compared("lt", "a < b; false with NaN.", "lt", (a, b) => a < b),
  le: compared("le", "a ≤ b; false with NaN.", "le", (a, b) => a <= b),
  gt: compared("gt", "a > b; false with NaN.", "gt", (a, b) => a > b),
  ge: compared("ge", "a ≥ b; false with NaN.", "ge", (a, b) => a >= b),
  logical_and: binary({
    ...logic,
    name: "logical_and",
    doc: "a and b.",
    expr: "and",
    float: truth((a, b) => a !== 0 && b !== 0),
    integer: truth((a, b) => a !== 0 && b !== 0),
  }),
  logical_or: binary({
    ...logic,
    name: "logical_or",
    doc: "a or b.",
    expr: "or",
    float: truth((a, b) => a !== 0 || b !== 0),
    integer: truth((a, b) => a !== 0 || b !== 0),
  }),
};
