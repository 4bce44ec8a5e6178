// The words of Imp expressions as lists, and which types each operation takes. Renderers may rely on it: what is
// not legal here never reaches them.

import type { HalvesOp, ImpBinary, ImpType, ImpUnary } from "./types.ts";

type Kind = "float" | "number" | "integer" | "scalar number" | "truth" | "any";

const kinds: Readonly<Record<Kind, readonly ImpType[]>> = {
  float: ["f32", "f32x4"],
  number: ["f32", "f32x4", "i32", "i32x4"],
  integer: ["i32", "i32x4"],
  // A sign of i32x4 is no instruction anywhere, and nothing makes it.
  "scalar number": ["f32", "f32x4", "i32"],
  // Masks are i32x4.
  truth: ["bool", "i32x4"],
  any: ["f32", "f32x4", "i32", "i32x4", "bool"],
};

const unaryKinds: Readonly<Record<ImpUnary, Kind>> = {
  neg: "number",
  abs: "number",
  sqrt: "float",
  floor: "float",
  ceil: "float",
  round: "float",
  trunc: "float",
  not: "truth",
  sign: "scalar number",
  exp: "float",
  log: "float",
  rsqrt: "float",
  sin: "float",
  cos: "float",
  tanh: "float",
  erf: "float",
};

const binaryKinds: Readonly<Record<ImpBinary, Kind>> = {
  add: "number",
  sub: "number",
  mul: "number",
  div: "number",
  mod: "number",
  min: "number",
  max: "number",
  pow: "float",
  eq: "any",
  ne: "any",
  lt: "number",
  le: "number",
  gt: "number",
  ge: "number",
  and: "truth",
  or: "truth",
  bitand: "integer",
  bitor: "integer",
  bitxor: "integer",
  shl: "integer",
  shr: "integer",
  shru: "integer",
};

export const impUnaryOps = Object.keys(unaryKinds) as readonly ImpUnary[];
export const impBinaryOps = Object.keys(binaryKinds) as readonly ImpBinary[];
/** How many operands each takes. */
export const halvesOperands: Readonly<Record<HalvesOp, 1 | 2>> = { dot16: 2, narrow16: 2, low_i8: 1, high_i8: 1, low_u8: 1, high_u8: 1 };
export const halvesOps = Object.keys(halvesOperands) as readonly HalvesOp[];
export const acrossOps = ["add", "min", "max", "mul"] as const;

export function impUnaryTakes(op: ImpUnary, type: ImpType): boolean {
  return kinds[unaryKinds[op]].includes(type);
}

export function impBinaryTakes(op: ImpBinary, type: ImpType): boolean {
  return kinds[binaryKinds[op]].includes(type);
}
