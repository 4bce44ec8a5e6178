// Conversions between f32 and the 16-bit floats, as Imp expressions over bits, scalar and vector alike.

import type { ImpExpr } from "../../ir/imp/types.ts";

type Integer = "i32" | "i32x4";

/** `keep` stores a value once and gives a variable for it. */
export interface Keeper {
  keep(value: ImpExpr): ImpExpr;
}

function ops(type: Integer): {
  c: (value: number) => ImpExpr;
  two: (op: "add" | "sub" | "bitand" | "bitor" | "shl" | "shr" | "shru", a: ImpExpr, b: ImpExpr) => ImpExpr;
  less: (a: ImpExpr, b: ImpExpr) => ImpExpr;
  choose: (cond: ImpExpr, a: ImpExpr, b: ImpExpr) => ImpExpr;
  float: "f32" | "f32x4";
} {
  return {
    c: (value) => ({ k: "const", type, value }),
    two: (op, a, b) => ({ k: "binary", op, a, b, type }),
    less: (a, b) => ({ k: "binary", op: "lt", a, b, type: type === "i32" ? "bool" : "i32x4" }),
    choose: (cond, a, b) => ({ k: "select", cond, a, b, type }),
    float: type === "i32" ? "f32" : "f32x4",
  };
}

/** f16 bits (in the low half of each integer) to f32: exact. */
export function f32FromF16(bits: ImpExpr, type: Integer, k: Keeper): ImpExpr {
  const { c, two, choose, float } = ops(type);
  // The sign at its place, and the rest where f32 has it.
  const moved = k.keep(two("bitand", two("shr", two("shl", bits, c(16)), c(3)), c(0x8fffe000 | 0)));
  // The exponent is biased by 15 where f32 has 127; multiplying by 2^112 mends it, denormals included.
  const scaled: ImpExpr = {
    k: "binary",
    op: "mul",
    a: { k: "bitcast", a: moved, type: float },
    b: { k: "const", type: float, value: 2 ** 112 },
    type: float,
  };
  // Infinities and NaN have the largest exponent of either type; their fraction is at its place already.
  const all = c(0x0f800000);
  const special: ImpExpr = { k: "binary", op: "eq", a: two("bitand", moved, all), b: all, type: type === "i32" ? "bool" : "i32x4" };
  const exponent = type === "i32" ? choose(special, c(0x7f800000), c(0)) : two("bitand", special, c(0x7f800000));
  return { k: "bitcast", a: two("bitor", { k: "bitcast", a: scaled, type }, exponent), type: float };
}

export function f32FromBf16(bits: ImpExpr, type: Integer): ImpExpr {
  const { c, two, float } = ops(type);
  return { k: "bitcast", a: two("shl", bits, c(16)), type: float };
}

/** f32 to f16 bits, to nearest even; overflow gives infinity, NaN a quiet NaN. */
export function f16FromF32(value: ImpExpr, type: Integer, k: Keeper): ImpExpr {
  const { c, two, less, choose, float } = ops(type);
  const bits = k.keep({ k: "bitcast", a: value, type });
  const a = k.keep(two("bitand", bits, c(0x7fffffff)));
  const half: ImpExpr = { k: "bitcast", a: c(0x3f000000), type: float };
  // Adding ½ leaves the rounded denormal in the low bits.
  const denormal = two(
    "sub",
    { k: "bitcast", a: { k: "binary", op: "add", a: { k: "bitcast", a, type: float }, b: half, type: float }, type },
    c(0x3f000000),
  );
  const odd = two("bitand", two("shr", a, c(13)), c(1));
  const normal = two("shr", two("add", two("add", a, c(((15 - 127) << 23) + 0xfff)), odd), c(13));
  const special = choose(less(c(0x7f800000), a), c(0x7e00), c(0x7c00));
  const magnitude = choose(less(a, c(0x38800000)), denormal, choose(less(a, c(0x47800000)), normal, special));
  return two("bitor", magnitude, two("bitand", two("shru", bits, c(16)), c(0x8000)));
}

/** f32 to bf16 bits, to nearest even; NaN stays a NaN. */
export function bf16FromF32(value: ImpExpr, type: Integer, k: Keeper): ImpExpr {
  const { c, two, less, choose } = ops(type);
  const bits = k.keep({ k: "bitcast", a: value, type });
  const rounded = two("shru", two("add", two("add", bits, c(0x7fff)), two("bitand", two("shru", bits, c(16)), c(1))), c(16));
  const quiet = two("bitor", two("shru", bits, c(16)), c(0x40));
  return choose(less(c(0x7f800000), two("bitand", bits, c(0x7fffffff))), quiet, rounded);
}
