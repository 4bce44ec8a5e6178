// The words of kernel expressions as lists, for readers and generators. The types say that nothing is missing.

import type { BinaryOp, FoldOp, ScalarType, UnaryOp } from "./types.ts";

function all<T extends string>(words: Readonly<Record<T, true>>): readonly T[] {
  return Object.keys(words) as T[];
}

export const scalarTypes = all<ScalarType>({ f32: true, i32: true, bool: true });

export const unaryOps = all<UnaryOp>({
  neg: true,
  abs: true,
  sign: true,
  exp: true,
  log: true,
  sqrt: true,
  rsqrt: true,
  sin: true,
  cos: true,
  tanh: true,
  erf: true,
  floor: true,
  ceil: true,
  round: true,
  trunc: true,
  not: true,
});

export const binaryOps = all<BinaryOp>({
  add: true,
  sub: true,
  mul: true,
  div: true,
  mod: true,
  min: true,
  max: true,
  pow: true,
  eq: true,
  ne: true,
  lt: true,
  le: true,
  gt: true,
  ge: true,
  and: true,
  or: true,
  bitand: true,
  bitor: true,
  bitxor: true,
  shl: true,
  shr: true,
});

export const foldOps = all<FoldOp>({ sum: true, product: true, max: true, min: true });
