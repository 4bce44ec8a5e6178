// Constructors of kernel expressions. Each one computes the type of its result and refuses operands that do
// not fit, so a wrong expression fails where it is built. Does not simplify (see simplify.ts).

import { dim, type Dim } from "../dim.ts";
import { comparisons } from "../operators.ts";
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

/** What `e` is made of, in the order of its fields. */
export function operandsOf(e: Expr): readonly Expr[] {
  switch (e.k) {
    case "const":
    case "var":
    case "dim":
      return [];
    case "load":
      return [e.index];
    case "unary":
    case "cast":
    case "bitcast":
      return [e.a];
    case "binary":
      return [e.a, e.b];
    case "select":
      return [e.cond, e.a, e.b];
    case "fold":
      return [e.from, e.to, e.body];
    case "iterate":
      return [e.init, e.body];
    default:
      return e satisfies never;
  }
}

/** `e` with `f` of each operand; `e` itself where none changes. */
export function mapOperands(e: Expr, f: (e: Expr) => Expr): Expr {
  switch (e.k) {
    case "const":
    case "var":
    case "dim":
      return e;
    case "load": {
      const index = f(e.index);
      return index === e.index ? e : { ...e, index };
    }
    case "unary":
    case "cast":
    case "bitcast": {
      const a = f(e.a);
      return a === e.a ? e : { ...e, a };
    }
    case "binary": {
      const [a, b] = [f(e.a), f(e.b)];
      return a === e.a && b === e.b ? e : { ...e, a, b };
    }
    case "select": {
      const [cond, a, b] = [f(e.cond), f(e.a), f(e.b)];
      return cond === e.cond && a === e.a && b === e.b ? e : { ...e, cond, a, b };
    }
    case "fold": {
      const [from, to, body] = [f(e.from), f(e.to), f(e.body)];
      return from === e.from && to === e.to && body === e.body ? e : { ...e, from, to, body };
    }
    case "iterate": {
      const [init, body] = [f(e.init), f(e.body)];
      return init === e.init && body === e.body ? e : { ...e, init, body };
    }
    default:
      return e satisfies never;
  }
}

/** What a fold over nothing gives. */
export function foldIdentity(op: FoldOp, type: ScalarType): number {
  if (op === "sum") return 0;
  if (op === "product") return 1;
  if (type === "f32") return op === "max" ? -Infinity : Infinity;
  return op === "max" ? -2147483648 : 2147483647;
}

/** Does the unary operation take an operand of this type? */
export function unaryTakes(op: UnaryOp, type: ScalarType): boolean {
  return op === "not" ? type === "bool" : f32Only.has(op) ? type === "f32" : type !== "bool";
}

/** Does the binary operation take two operands of this type? */
export function binaryTakes(op: BinaryOp, type: ScalarType): boolean {
  if (op === "and" || op === "or") return type === "bool";
  if (i32Only.has(op)) return type === "i32";
  if (op === "pow") return type === "f32";
  return op === "eq" || op === "ne" || type !== "bool";
}

/** The type of what the operation gives for operands of `type`. */
export function binaryGives(op: BinaryOp, type: ScalarType): ScalarType {
  return comparisons.has(op) ? "bool" : type;
}

export function unary(op: UnaryOp, a: Expr): Expr {
  const type = typeOfExpr(a);
  need(unaryTakes(op, type), `${op} does not take ${type}`);
  return { k: "unary", op, a, type };
}

/** Both operands must have one type: no conversion is made. */
export function binary(op: BinaryOp, a: Expr, b: Expr): Expr {
  const type = typeOfExpr(a);
  need(type === typeOfExpr(b), `${op} takes two operands of one type, not ${type} and ${typeOfExpr(b)}`);
  need(binaryTakes(op, type), `${op} does not take ${type}`);
  return { k: "binary", op, a, b, type: binaryGives(op, type) };
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

/** The same 32 bits as the other type: of an f32 as i32, of an i32 as f32. */
export function bitcast(a: Expr): Expr {
  const type = typeOfExpr(a);
  need(type !== "bool", "bitcast does not take bool");
  return { k: "bitcast", a, type: bitcastGives(type) };
}

/** The type that the bits of `type` are taken for. */
export function bitcastGives(type: ScalarType): "f32" | "i32" {
  return type === "f32" ? "i32" : "f32";
}

/** `op` of `body` over `axis` = from … to-1 (i32). */
export function fold(op: FoldOp, axis: string, from: Expr, to: Expr, body: Expr): Expr {
  need(typeOfExpr(from) === "i32" && typeOfExpr(to) === "i32", `the bounds of fold ${axis} are not i32`);
  need(typeOfExpr(body) !== "bool", `fold ${axis} is over bool`);
  return { k: "fold", op, axis, from, to, body, type: typeOfExpr(body) };
}

/** `init`, then `body` of it and of axis = 0, then `body` of that and of axis = 1, … `steps` times. */
export function iterate(name: string, axis: string, steps: number, init: Expr, body: (value: Expr, step: Expr) => Expr): Expr {
  const type = typeOfExpr(init);
  const next = body(variable(name, type), variable(axis));
  need(typeOfExpr(next) === type, `the steps of ${name} are ${typeOfExpr(next)}, and it begins as ${type}`);
  return { k: "iterate", name, axis, steps, init, body: next, type };
}

/** Short names for the operations an index or a formula is made of. */
export const add = (a: Expr, b: Expr): Expr => binary("add", a, b);
export const sub = (a: Expr, b: Expr): Expr => binary("sub", a, b);
export const mul = (a: Expr, b: Expr): Expr => binary("mul", a, b);
export const div = (a: Expr, b: Expr): Expr => binary("div", a, b);
export const mod = (a: Expr, b: Expr): Expr => binary("mod", a, b);
