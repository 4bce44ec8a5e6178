// Unary and binary operations: one instruction where WebAssembly has it, otherwise the few that give Imp IR's
// meaning (integer division by zero, floor remainders, shifts by vectors, functions of the library).

import { typeOfImp } from "../../ir/imp/build.ts";
import type { ImpBinary, ImpExpr, ImpType, ImpUnary } from "../../ir/imp/types.ts";
import { expand, isExpanded } from "../math.ts";
import { op, simd } from "./opcodes.ts";
import type { Renderer } from "./render.ts";
import { i32 } from "./encoder.ts";

const scalarUnary: Partial<Readonly<Record<ImpUnary, number>>> = {
  neg: op.f32_neg,
  abs: op.f32_abs,
  sqrt: op.f32_sqrt,
  floor: op.f32_floor,
  ceil: op.f32_ceil,
  round: op.f32_nearest,
  trunc: op.f32_trunc,
};
const vectorUnary: Partial<Readonly<Record<ImpUnary, number>>> = {
  neg: simd.f32x4_neg,
  abs: simd.f32x4_abs,
  sqrt: simd.f32x4_sqrt,
  floor: simd.f32x4_floor,
  ceil: simd.f32x4_ceil,
  round: simd.f32x4_nearest,
  trunc: simd.f32x4_trunc,
};

export function renderUnary(e: Extract<ImpExpr, { k: "unary" }>, r: Renderer): void {
  const { code } = r;
  const type = typeOfImp(e.a);
  if (e.op === "not") {
    r.expr(e.a);
    if (type === "i32x4") code.simd(simd.v128_not);
    else code.op(op.i32_eqz);
    return;
  }
  if (type === "f32" || type === "f32x4") {
    const direct = type === "f32" ? scalarUnary[e.op] : vectorUnary[e.op];
    if (direct !== undefined) {
      r.expr(e.a);
      if (type === "f32") code.op(direct);
      else code.simd(direct);
      return;
    }
    if (isExpanded(e.op)) {
      const x = e.a.k === "var" ? e.a : r.keep(e.a);
      const { lets, result } = expand(e.op, x, type, r.fresh);
      for (const l of lets) r.define(l.name, l.value);
      r.expr(result);
      return;
    }
    if (e.op === "sin" || e.op === "cos") {
      library(e.op, [e.a], type, r);
      return;
    }
  }
  if (e.op === "neg" && type === "i32") {
    code.i32(0);
    r.expr(e.a);
    code.op(op.i32_sub);
  } else if (e.op === "neg" && type === "i32x4") {
    r.expr(e.a);
    code.simd(simd.i32x4_neg);
  } else if (e.op === "abs" && type === "i32x4") {
    r.expr(e.a);
    code.simd(simd.i32x4_abs);
  } else if (type === "i32" && (e.op === "abs" || e.op === "sign")) {
    const x = r.keep(e.a);
    const zero: ImpExpr = { k: "const", type: "i32", value: 0 };
    const less = (a: ImpExpr, b: ImpExpr): ImpExpr => ({ k: "binary", op: "lt", a, b, type: "bool" });
    const value: ImpExpr =
      e.op === "abs"
        ? { k: "select", cond: less(x, zero), a: { k: "unary", op: "neg", a: x, type: "i32" }, b: x, type: "i32" }
        : {
            k: "binary",
            op: "sub",
            a: { k: "convert", a: less(zero, x), type: "i32" },
            b: { k: "convert", a: less(x, zero), type: "i32" },
            type: "i32",
          };
    r.expr(value);
  } else throw new Error(`${e.op} has no meaning on ${type}`);
}

/** Calls a library function, for a vector lane by lane. */
function library(name: "sin" | "cos" | "pow" | "mod", args: readonly ImpExpr[], type: "f32" | "f32x4", r: Renderer): void {
  const { code } = r;
  const index = r.call(name);
  if (type === "f32") {
    for (const a of args) r.expr(a);
    code.call(index);
    return;
  }
  const kept = args.map((a) => r.keep(a));
  code.f32(0).simd(simd.f32x4_splat);
  for (let lane = 0; lane < 4; lane++) {
    for (const a of kept) r.expr({ k: "lane", a, lane, type: "f32" });
    code.call(index);
    code.simd(0x20).bytes.byte(lane);
  }
}

type Table = Partial<Readonly<Record<ImpBinary, number>>>;

const f32Ops: Table = {
  add: op.f32_add,
  sub: op.f32_sub,
  mul: op.f32_mul,
  div: op.f32_div,
  min: op.f32_min,
  max: op.f32_max,
  eq: op.f32_eq,
  ne: op.f32_ne,
  lt: op.f32_lt,
  le: op.f32_le,
  gt: op.f32_gt,
  ge: op.f32_ge,
};
const i32Ops: Table = {
  add: op.i32_add,
  sub: op.i32_sub,
  mul: op.i32_mul,
  bitand: op.i32_and,
  bitor: op.i32_or,
  bitxor: op.i32_xor,
  and: op.i32_and,
  or: op.i32_or,
  shl: op.i32_shl,
  shr: op.i32_shr_s,
  shru: op.i32_shr_u,
  eq: op.i32_eq,
  ne: op.i32_ne,
  lt: op.i32_lt_s,
  le: op.i32_le_s,
  gt: op.i32_gt_s,
  ge: op.i32_ge_s,
};
const f32x4Ops: Table = {
  add: simd.f32x4_add,
  sub: simd.f32x4_sub,
  mul: simd.f32x4_mul,
  div: simd.f32x4_div,
  min: simd.f32x4_min,
  max: simd.f32x4_max,
  eq: simd.f32x4_eq,
  ne: simd.f32x4_ne,
  lt: simd.f32x4_lt,
  le: simd.f32x4_le,
  gt: simd.f32x4_gt,
  ge: simd.f32x4_ge,
};
const i32x4Ops: Table = {
  add: simd.i32x4_add,
  sub: simd.i32x4_sub,
  mul: simd.i32x4_mul,
  min: simd.i32x4_min_s,
  max: simd.i32x4_max_s,
  bitand: simd.v128_and,
  bitor: simd.v128_or,
  bitxor: simd.v128_xor,
  and: simd.v128_and,
  or: simd.v128_or,
  eq: simd.i32x4_eq,
  ne: simd.i32x4_ne,
  lt: simd.i32x4_lt_s,
  le: simd.i32x4_le_s,
  gt: simd.i32x4_gt_s,
  ge: simd.i32x4_ge_s,
};
const shifts: Table = { shl: simd.i32x4_shl, shr: simd.i32x4_shr_s, shru: simd.i32x4_shr_u };

export function renderBinary(e: Extract<ImpExpr, { k: "binary" }>, r: Renderer): void {
  const { code } = r;
  const type = typeOfImp(e.a);
  const table = type === "f32" ? f32Ops : type === "f32x4" ? f32x4Ops : type === "i32x4" ? i32x4Ops : i32Ops;
  const direct = table[e.op];
  if (direct !== undefined) {
    r.expr(e.a);
    r.expr(e.b);
    if (type === "f32x4" || type === "i32x4") code.simd(direct);
    else code.op(direct);
    return;
  }
  if ((type === "f32" || type === "f32x4") && (e.op === "mod" || e.op === "pow")) {
    library(e.op, [e.a, e.b], type, r);
    return;
  }
  if (type === "i32x4") {
    vectorInteger(e, r);
    return;
  }
  if (type === "f32" || type === "f32x4") throw new Error(`${e.op} has no meaning on ${type}`);
  if (e.op === "min" || e.op === "max") {
    const [a, b] = [r.keep(e.a), r.keep(e.b)];
    r.expr({ k: "select", cond: { k: "binary", op: e.op === "min" ? "lt" : "gt", a, b, type: "bool" }, a, b, type: "i32" });
    return;
  }
  if (e.op === "div" || e.op === "mod") integerDivision(e.op, e.a, e.b, r);
  else throw new Error(`${e.op} has no meaning on ${type}`);
}

/** Truncating quotient or floor remainder; 0 for a zero divisor, wrapping for -2^31 / -1. */
function integerDivision(which: "div" | "mod", x: ImpExpr, y: ImpExpr, r: Renderer): void {
  const { code } = r;
  const divisor = y.k === "const" && typeof y.value === "number" ? y.value : undefined;
  if (divisor !== undefined && divisor > 0 && which === "mod" && (divisor & (divisor - 1)) === 0) {
    // Two's complement: the low bits are the floor remainder of negative numbers too.
    r.expr(x);
    code.i32(divisor - 1).op(op.i32_and);
    return;
  }
  if (divisor !== undefined && divisor > 0 && which === "div") {
    r.expr(x);
    r.expr(y);
    code.op(op.i32_div_s);
    return;
  }
  const [a, b] = [r.keep(x), r.keep(y)];
  r.expr(b);
  code.op(op.i32_eqz).if(i32).i32(0).else();
  if (which === "div") {
    r.expr(b);
    code.i32(-1).op(op.i32_eq).if(i32).i32(0);
    r.expr(a);
    code.op(op.i32_sub).else();
    r.expr(a);
    r.expr(b);
    code.op(op.i32_div_s).end();
  } else {
    const rest = r.temporary("i32");
    r.expr(a);
    r.expr(b);
    code.op(op.i32_rem_s).tee(rest);
    r.expr(b);
    code.op(op.i32_add).get(rest);
    // Add the divisor when the remainder is not 0 and the signs differ.
    code.get(rest).i32(0).op(op.i32_ne).get(rest);
    r.expr(b);
    code.op(op.i32_xor).i32(0).op(op.i32_lt_s).op(op.i32_and).op(op.select);
  }
  code.end();
}

function vectorInteger(e: Extract<ImpExpr, { k: "binary" }>, r: Renderer): void {
  const { code } = r;
  const shift = shifts[e.op];
  const count = e.b.k === "const" && typeof e.b.value === "number" ? e.b : e.b.k === "splat" ? e.b.a : undefined;
  if (shift !== undefined && count !== undefined) {
    r.expr(e.a);
    r.expr(count.k === "const" ? { ...count, type: "i32" } : count);
    code.simd(shift);
    return;
  }
  // No vector instruction: lane by lane.
  const [a, b] = [r.keep(e.a), r.keep(e.b)];
  code.i32(0).simd(simd.i32x4_splat);
  for (let n = 0; n < 4; n++) {
    const part = (x: ImpExpr): ImpExpr => ({ k: "lane", a: x, lane: n, type: "i32" });
    r.expr({ k: "binary", op: e.op, a: part(a), b: part(b), type: "i32" as ImpType });
    code.simd(simd.i32x4_replace_lane).bytes.byte(n);
  }
}
