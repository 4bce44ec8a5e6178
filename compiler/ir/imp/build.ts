// Constructors of Imp expressions: each computes its result's type and refuses operands that do not fit.
// Folds constants of i32 arithmetic and drops additions of 0 and multiplications by 1; no other rewriting.

import type { DType } from "../dtype.ts";
import { comparisons } from "../operators.ts";
import type { HalvesOp, ImpBinary, ImpExpr, ImpStmt, ImpType } from "./types.ts";

/** An operation was given operands whose types it does not take. */
export class ImpTypeError extends Error {
  override readonly name = "ImpTypeError";
}

type VectorType = "f32x4" | "i32x4";
type PtrType = `ptr:${string}`;

function need(holds: boolean, message: string): void {
  if (!holds) throw new ImpTypeError(message);
}

export function typeOfImp(e: ImpExpr): ImpType {
  return e.k === "dim" ? "i32" : e.type;
}

export function isVector(type: ImpType): type is VectorType {
  return type === "f32x4" || type === "i32x4";
}

export function isPtr(type: ImpType): type is PtrType {
  return type.startsWith("ptr:");
}

/** The buffer or scratch that a pointer type points into. */
export function targetOf(type: ImpType): string {
  need(isPtr(type), `${type} is not a pointer`);
  return type.slice(4);
}

/** f32 → f32x4; i32 and bool (as a mask) → i32x4; a vector is itself. */
export function vectorOf(type: ImpType): VectorType {
  need(!isPtr(type), `no vector of ${type}`);
  return type === "f32" || type === "f32x4" ? "f32x4" : "i32x4";
}

/** The type of one lane. */
export function laneOf(type: ImpType): "f32" | "i32" {
  return vectorOf(type) === "f32x4" ? "f32" : "i32";
}

/** The type of what the operation gives for operands of `type`; comparisons of vectors give masks. */
export function binaryGives(op: ImpBinary, type: ImpType): ImpType {
  return comparisons.has(op) ? (isVector(type) ? "i32x4" : "bool") : type;
}

/** What an element of a buffer is once it is loaded as a scalar. */
export function loadedType(dtype: DType): "f32" | "i32" {
  return dtype === "f32" || dtype === "f16" || dtype === "bf16" ? "f32" : "i32";
}

export function int(value: number): ImpExpr {
  need(Number.isSafeInteger(value), `${value} is not an integer`);
  return { k: "const", type: "i32", value: value | 0 };
}

export function float(value: number): ImpExpr {
  return { k: "const", type: "f32", value: Math.fround(value) };
}

/** One number in all lanes, or four. */
export function vector(type: VectorType, value: number | readonly [number, number, number, number]): ImpExpr {
  const lane = type === "f32x4" ? Math.fround : (x: number): number => x | 0;
  return { k: "const", type, value: typeof value === "number" ? lane(value) : value.map(lane) };
}

export function local(name: string, type: ImpType): ImpExpr {
  return { k: "var", name, type };
}

export function size(name: string): ImpExpr {
  return { k: "dim", name };
}

/** The value of a scalar constant, undefined for everything else. */
export function constantOf(e: ImpExpr): number | undefined {
  return e.k === "const" && typeof e.value === "number" ? e.value : undefined;
}

function folded(op: ImpBinary, a: number, b: number): number | undefined {
  switch (op) {
    case "add":
      return (a + b) | 0;
    case "sub":
      return (a - b) | 0;
    case "mul":
      return Math.imul(a, b);
    case "min":
      return Math.min(a, b);
    case "max":
      return Math.max(a, b);
    case "bitand":
      return a & b;
    default:
      return undefined;
  }
}

export function binary(op: ImpBinary, a: ImpExpr, b: ImpExpr): ImpExpr {
  const type = typeOfImp(a);
  need(type === typeOfImp(b), `${op} takes two operands of one type, not ${type} and ${typeOfImp(b)}`);
  need(!isPtr(type), `${op} does not take pointers`);
  if (type === "i32") {
    const [x, y] = [constantOf(a), constantOf(b)];
    const both = x !== undefined && y !== undefined ? folded(op, x, y) : undefined;
    if (both !== undefined) return int(both);
    // x + 0, 0 + x, x - 0, x * 1, 1 * x -> x
    if (op === "add" && x === 0) return b;
    if ((op === "add" || op === "sub") && y === 0) return a;
    if ((op === "mul" || op === "div") && y === 1) return a;
    if (op === "mul" && x === 1) return b;
    // x * 0, 0 * x -> 0 (integers have no NaN)
    if (op === "mul" && (x === 0 || y === 0)) return int(0);
  }
  return { k: "binary", op, a, b, type: binaryGives(op, type) };
}

export const add = (a: ImpExpr, b: ImpExpr): ImpExpr => binary("add", a, b);
export const sub = (a: ImpExpr, b: ImpExpr): ImpExpr => binary("sub", a, b);
export const mul = (a: ImpExpr, b: ImpExpr): ImpExpr => binary("mul", a, b);
export const lt = (a: ImpExpr, b: ImpExpr): ImpExpr => binary("lt", a, b);

export function fma(a: ImpExpr, b: ImpExpr, c: ImpExpr): ImpExpr {
  const type = typeOfImp(c);
  need(type === typeOfImp(a) && type === typeOfImp(b) && (type === "f32" || type === "f32x4"), "fma takes three of f32 or f32x4");
  return { k: "fma", a, b, c, type };
}

export function fastMinMax(op: "min" | "max", a: ImpExpr, b: ImpExpr): ImpExpr {
  need(typeOfImp(a) === typeOfImp(b), `${op} takes two operands of one type`);
  return { k: "fastMinMax", op, a, b, type: typeOfImp(a) };
}

export function bitcast(a: ImpExpr, type: ImpType): ImpExpr {
  return typeOfImp(a) === type ? a : { k: "bitcast", a, type };
}

export function splat(a: ImpExpr): ImpExpr {
  const type = typeOfImp(a);
  need(type === "f32" || type === "i32", `no splat of ${type}`);
  const constant = constantOf(a);
  if (constant !== undefined) return vector(vectorOf(type), constant);
  return { k: "splat", a, type: type === "f32" ? "f32x4" : "i32x4" };
}

export function lane(a: ImpExpr, index: number): ImpExpr {
  need(isVector(typeOfImp(a)) && index >= 0 && index < 4, `lane ${index} of ${typeOfImp(a)}`);
  return { k: "lane", a, lane: index, type: laneOf(typeOfImp(a)) };
}

export function shuffle(a: ImpExpr, b: ImpExpr, lanes: readonly [number, number, number, number]): ImpExpr {
  need(isVector(typeOfImp(a)) && typeOfImp(a) === typeOfImp(b), "shuffle takes two vectors of one type");
  return { k: "shuffle", a, b, lanes, type: typeOfImp(a) };
}

export function halves(op: HalvesOp, ...args: readonly ImpExpr[]): ImpExpr {
  need(
    args.every((a) => typeOfImp(a) === "i32x4"),
    `${op} takes i32x4`,
  );
  return { k: "halves", op, args, type: "i32x4" };
}

export function across(op: "add" | "min" | "max" | "mul", a: ImpExpr): ImpExpr {
  need(isVector(typeOfImp(a)), `across takes a vector, not ${typeOfImp(a)}`);
  return { k: "across", op, a, type: laneOf(typeOfImp(a)) };
}

/** A vector of four scalars. */
export function gathered(a: ImpExpr, b: ImpExpr, c: ImpExpr, d: ImpExpr): ImpExpr {
  const low = shuffle(splat(a), splat(b), [0, 4, 0, 4]);
  return shuffle(low, shuffle(splat(c), splat(d), [0, 4, 0, 4]), [0, 1, 4, 5]);
}

export function at(buffer: string, index: ImpExpr): ImpExpr {
  need(typeOfImp(index) === "i32", `a position in ${buffer} is ${typeOfImp(index)}, not i32`);
  return { k: "at", buffer, index, type: `ptr:${buffer}` };
}

export function advance(ptr: ImpExpr, elements: ImpExpr): ImpExpr {
  const type = typeOfImp(ptr);
  if (!isPtr(type)) throw new ImpTypeError(`advance takes a pointer, not ${type}`);
  need(typeOfImp(elements) === "i32", `a pointer advances by i32, not ${typeOfImp(elements)}`);
  return constantOf(elements) === 0 ? ptr : { k: "advance", ptr, elements, type };
}

export function load(ptr: ImpExpr, type: ImpType, offset = 0): ImpExpr {
  need(isPtr(typeOfImp(ptr)), `load takes a pointer, not ${typeOfImp(ptr)}`);
  return { k: "load", ptr, offset, type };
}

export function loadSplat(ptr: ImpExpr, type: VectorType, offset = 0): ImpExpr {
  need(isPtr(typeOfImp(ptr)), `loadSplat takes a pointer, not ${typeOfImp(ptr)}`);
  return { k: "loadSplat", ptr, offset, type };
}

export function store(ptr: ImpExpr, value: ImpExpr, offset = 0): ImpStmt {
  need(isPtr(typeOfImp(ptr)), `store takes a pointer, not ${typeOfImp(ptr)}`);
  return { k: "store", ptr, offset, value };
}

export function bind(name: string, value: ImpExpr, mutable = false): ImpStmt {
  return { k: "let", name, type: typeOfImp(value), value, mutable };
}

export function assign(name: string, value: ImpExpr): ImpStmt {
  return { k: "assign", name, value };
}

export function loop(name: string, from: ImpExpr, to: ImpExpr, step: number, body: readonly ImpStmt[]): ImpStmt {
  need(typeOfImp(from) === "i32" && typeOfImp(to) === "i32" && step > 0, `the bounds of loop ${name}`);
  return { k: "for", name, from, to, step, body };
}

export function when(cond: ImpExpr, then: readonly ImpStmt[], otherwise: readonly ImpStmt[] = []): ImpStmt {
  need(typeOfImp(cond) === "bool", `the condition of an if is ${typeOfImp(cond)}, not bool`);
  return { k: "if", cond, then, else: otherwise };
}
