// narrow: what a value becomes in 16 bits, kept in 32. Devices whose products are of f32 alone compute with it what halves
// give. Training rounds through `cast`, whose derivative is defined; this op appears behind differentiation only.

import { dimProduct } from "../../compiler/ir/dim.ts";
import { binary, bitcast, f32, i32, mul, select, unary } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp, OpTypeError } from "../define.ts";
import { lt } from "../expr.ts";
import { convert } from "../reference/numbers.ts";
import { item, tabulate } from "../reference/tensor.ts";
import { needDType, operandAt, stringAttr } from "../rules.ts";
import { edgy, elementwiseShapes, rough, specials, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";

const dtype = stringAttr("dtype", "f16 or bf16.");

function half(name: string): "f16" | "bf16" {
  if (name !== "f16" && name !== "bf16") throw new OpTypeError(-1, `"${name}" has no 16-bit floats`, "f16, bf16", name);
  return name;
}

/** Bits of infinity; more are NaN. */
const infinity = 0x7f800000;

/** To nearest even, without the lowest `count` bits. */
function without(bits: Expr, count: number): Expr {
  const odd = binary("bitand", binary("shr", bits, i32(count)), i32(1));
  const raised = binary("add", binary("add", bits, i32(2 ** (count - 1) - 1)), odd);
  return binary("bitand", raised, i32(-(2 ** count)));
}

/** Bits of a magnitude that is no NaN, as f16 has it: 10 bits behind the point, multiples of 2^-24 below 2^-14, infinity from 65520. */
function magnitudeF16(bits: Expr): Expr {
  const small = mul(unary("round", mul(bitcast(bits), f32(2 ** 24))), f32(2 ** -24));
  const normal = select(lt(bits, i32(0x477ff000)), without(bits, 13), i32(infinity));
  return select(lt(bits, i32(0x38800000)), bitcast(small), normal);
}

function lower(x: Expr, to: "f16" | "bf16"): Expr {
  const bits = bitcast(x);
  const magnitude = binary("bitand", bits, i32(0x7fffffff));
  const rounded = to === "f16" ? magnitudeF16(magnitude) : without(magnitude, 16);
  const kept = select(lt(i32(infinity), magnitude), magnitude, rounded);
  return bitcast(binary("bitor", kept, binary("bitand", bits, i32(-(2 ** 31)))));
}

export const narrow = defineOp({
  name: "narrow",
  doc: "x rounded to the nearest number that f16 or bf16 holds, to even in the middle, as f32: what `cast` there and back gives where it is stored in between. NaN stays NaN.",
  kind: "elementwise",
  operands: [{ name: "x", doc: "f32[…]" }],
  attrs: [dtype.spec],
  type: (operands, attrs) => {
    needDType(operands, 0, (d) => d === "f32", "f32");
    half(dtype.of(attrs));
    return operandAt(operands, 0);
  },
  reference: ([x], attrs, out) => {
    const to = half(dtype.of(attrs));
    return tabulate("f32", out.shape, (_, i) => (x === undefined ? NaN : convert(item(x.data, i), "f32", to)));
  },
  lowering: { kind: "scalar", emit: (args, attrs) => lower(operandAt(args, 0), half(dtype.of(attrs))) },
  derivative: { kind: "nonDifferentiable", reason: "it is a step function; cast there and back has a derivative" },
  flops: (_operands, _attrs, out) => dimProduct(out.shape),
  recompute: true,
  tolerance: exact,
  samples: (fc) => {
    const edges = [...specials, 65519.99, 65520, -65520, 65504, 6e-8, 2.9e-8, 2 ** -25, 2 ** -14, 6.1e-5, 1 + 2 ** -11, 1 + 3 * 2 ** -11]
      .concat([1 + 2 ** -8, 1 + 3 * 2 ** -8, 3.39e38, -3.4e38])
      .map(Math.fround);
    return fc
      .tuple(fc.constantFrom("f16", "bf16"), elementwiseShapes(fc))
      .chain(([to, shape]) => tensorOf(fc, "f32", shape, edgy(fc, -70000, 70000, edges)).map((x) => rough([x], { dtype: to })));
  },
});
