// Constructors of kernel expressions. Each one computes the type of its result and refuses operands that do
// not fit, so a wrong expression fails where it is built. Does not simplify (see simplify.ts).

import { dim, type Dim } from "../dim.ts";
import type { BinaryOp, Expr, FoldOp, ScalarType, UnaryOp } from "./types.ts";

/** An expression's operands have types that its operation does not take. */
export class ExprTypeError extends Error {
  override readonly name = "ExprTypeError";
}

const f32Only: ReadonlySet<UnaryOp> = new Set([
  "exp",
  "log",
  "sqrt",
  "rsqrt",
  "sin",
  "cos",
  "tanh",
  "erf",
  "floor",
  "ceil",
  "round",
  "trunc",
]);
const comparisons: ReadonlySet<BinaryOp> = new Set(["eq", "ne", "lt", "le", "gt", "ge"]);
const i32Only: ReadonlySet<BinaryOp> = new Set(["bitand", "bitor", "bitxor", "shl", "shr"]);

function need(holds: boolean, message: string): void {
  if (!holds) throw new ExprTypeError(message);
}

/** The f32 constant nearest to `value`. */
export function f32(value: number): Expr {
  return { k: "const", type: "f32", value: Math.fround(value) };
}

/** An i32 constant; `value` must be an integer of 32 bits. */
export function i32(value: number): Expr {
  need(value === (value | 0), `${value} is not a 32-bit integer`);
  return { k: "const", type: "i32", value: value | 0 };
}

export function bool(value: boolean): Expr {
  return { k: "const", type: "bool", value: value ? 1 : 0 };
}

/** An axis, a fold's axis, or a `let` of an earlier stage. */
export function variable(name: string, type: ScalarType = "i32"): Expr {
  return { k: "var", name, type };
}

/** A size, known when the plan is bound. i32. */
export function dimExpr(d: Dim | number): Expr {
  return { k: "dim", dim: typeof d === "number" ? dim(d) : d };
}

/** Element `index` (row-major, linear, i32) of a buffer whose dtype loads as `type`. */
export function load(buffer: string, index: Expr, type: ScalarType): Expr {
  need(typeOfExpr(index) === "i32", `the index of a load of ${buffer} is ${typeOfExpr(index)}, not i32`);
  return { k: "load", buffer, index, type };
}

/** The type of the scalar that `e` gives. */
export function typeOfExpr(e: Expr): ScalarType {
  return e.k === "dim" ? "i32" : e.type;
}

export function unary(op: UnaryOp, a: Expr): Expr {
  const type = typeOfExpr(a);
  need(op === "not" ? type === "bool" : f32Only.has(op) ? type === "f32" : type !== "bool", `${op} does not take ${type}`);
  return { k: "unary", op, a, type };
}

/** Both operands must have one type: no conversion is made. */
export function binary(op: BinaryOp, a: Expr, b: Expr): Expr {
  const type = typeOfExpr(a);
  need(type === typeOfExpr(b), `${op} takes two operands of one type, not ${type} and ${typeOfExpr(b)}`);
  if (op === "and" || op === "or") need(type === "bool", `${op} takes bool, not ${type}`);
  else if (i32Only.has(op)) need(type === "i32", `${op} takes i32, not ${type}`);
  else if (op === "pow") need(type === "f32", `pow takes f32, not ${type}`);
  else if (op !== "eq" && op !== "ne") need(type !== "bool", `${op} does not take bool`);
  return { k: "binary", op, a, b, type: comparisons.has(op) ? "bool" : type };
}

/** `a` where `cond` holds, else `b`; only the chosen side is evaluated. */
export function select(cond: Expr, a: Expr, b: Expr): Expr {
  need(typeOfExpr(cond) === "bool", `the condition of a select is ${typeOfExpr(cond)}, not bool`);
  need(typeOfExpr(a) === typeOfExpr(b), `the sides of a select are ${typeOfExpr(a)} and ${typeOfExpr(b)}`);
  return { k: "select", cond, a, b, type: typeOfExpr(a) };
}

/** A numeric conversion; `a` itself when it already has the type. */
export function cast(a: Expr, type: ScalarType): Expr {
  return typeOfExpr(a) === type ? a : { k: "cast", a, type };
}

/** `op` of `body` over `axis` = from … to-1 (i32). */
export function fold(op: FoldOp, axis: string, from: Expr, to: Expr, body: Expr): Expr {
  need(typeOfExpr(from) === "i32" && typeOfExpr(to) === "i32", `the bounds of fold ${axis} are not i32`);
  need(typeOfExpr(body) !== "bool", `fold ${axis} is over bool`);
  return { k: "fold", op, axis, from, to, body, type: typeOfExpr(body) };
}

/** Short names for the operations an index or a formula is made of. */
export const add = (a: Expr, b: Expr): Expr => binary("add", a, b);
export const sub = (a: Expr, b: Expr): Expr => binary("sub", a, b);
export const mul = (a: Expr, b: Expr): Expr => binary("mul", a, b);
export const div = (a: Expr, b: Expr): Expr => binary("div", a, b);
export const mod = (a: Expr, b: Expr): Expr => binary("mod", a, b);
