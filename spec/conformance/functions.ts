// Generated Imp functions: any data of the type, for text. Functions that make sense are lowered from kernels.

import * as fc from "fast-check";
import { dtypes } from "../../compiler/ir/dtype.ts";
import { acrossOps, halvesOps, impBinaryOps, impUnaryOps } from "../../compiler/ir/imp/ops.ts";
import type { ImpExpr, ImpFunction, ImpStmt, ImpType } from "../../compiler/ir/imp/types.ts";
import { anyDim, anyLocs, anyName, anyNumber } from "./kernels.ts";

const k = <K extends string>(name: K): fc.Arbitrary<K> => fc.constant(name);
const plainType = fc.constantFrom<ImpType>("f32", "i32", "bool", "f32x4", "i32x4");
const ptrType = anyName.map((name) => `ptr:${name}` as const);
const anyType: fc.Arbitrary<ImpType> = fc.oneof({ weight: 3, arbitrary: plainType }, ptrType);
const vectorType = fc.constantFrom("f32x4" as const, "i32x4" as const);
const laneType = fc.constantFrom("f32" as const, "i32" as const);
const offset = fc.oneof(fc.constant(0), fc.integer({ min: -9, max: 9 }));
const lane = fc.integer({ min: 0, max: 7 });

const { expr: anyExpr } = fc.letrec<{ expr: ImpExpr }>((tie) => {
  const e = tie("expr");
  return {
    expr: fc.oneof(
      { depthSize: "small", withCrossShrink: true },
      fc.record({ k: k("const"), type: anyType, value: fc.oneof(anyNumber, fc.array(anyNumber, { maxLength: 4 })) }),
      fc.record({ k: k("var"), name: anyName, type: anyType }),
      fc.record({ k: k("dim"), name: anyName }),
      fc.record({ k: k("at"), buffer: anyName, index: e, type: ptrType }),
      fc.record({ k: k("advance"), ptr: e, elements: e, type: ptrType }),
      fc.record({ k: k("load"), ptr: e, offset, type: anyType }),
      fc.record({ k: k("loadSplat"), ptr: e, offset, type: vectorType }),
      fc.record({ k: k("unary"), op: fc.constantFrom(...impUnaryOps), a: e, type: anyType }),
      fc.record({ k: k("binary"), op: fc.constantFrom(...impBinaryOps), a: e, b: e, type: anyType }),
      fc.record({ k: k("fma"), a: e, b: e, c: e, type: anyType }),
      fc.record({ k: k("fastMinMax"), op: fc.constantFrom("min" as const, "max" as const), a: e, b: e, type: anyType }),
      fc.record({ k: k("select"), cond: e, a: e, b: e, type: anyType }),
      fc.record({ k: k("convert"), a: e, type: anyType }),
      fc.record({ k: k("bitcast"), a: e, type: anyType }),
      fc.record({ k: k("splat"), a: e, type: vectorType }),
      fc.record({ k: k("lane"), a: e, lane, type: laneType }),
      fc.record({ k: k("shuffle"), a: e, b: e, lanes: fc.tuple(lane, lane, lane, lane), type: anyType }),
      fc.record({ k: k("halves"), op: fc.constantFrom(...halvesOps), args: fc.array(e, { maxLength: 3 }), type: k("i32x4") }),
      fc.record({ k: k("across"), op: fc.constantFrom(...acrossOps), a: e, type: laneType }),
    ),
  };
});

const { stmt: anyStmt } = fc.letrec<{ stmt: ImpStmt }>((tie) => {
  const body = fc.array(tie("stmt"), { maxLength: 3 });
  return {
    stmt: fc.oneof(
      { depthSize: "small", withCrossShrink: true },
      fc.record({ k: k("let"), name: anyName, type: anyType, value: anyExpr, mutable: fc.boolean() }),
      fc.record({ k: k("assign"), name: anyName, value: anyExpr }),
      fc.record({ k: k("store"), ptr: anyExpr, offset, value: anyExpr }),
      fc.record({ k: k("storeLanes"), ptr: anyExpr, offset, value: anyExpr, count: fc.nat(4) }),
      fc.record({ k: k("barrier") }),
      fc.record({ k: k("uniform"), name: anyName, type: fc.constant("i32" as const), value: anyExpr }),
      fc.record({
        k: k("exchange"),
        name: anyName,
        type: fc.constantFrom("f32" as const, "i32" as const, "f32x4" as const, "i32x4" as const),
        op: fc.constantFrom("from" as const, "xor" as const),
        value: anyExpr,
        lane: anyExpr,
      }),
      fc.record({ k: k("fence"), ptr: anyName, keep: fc.array(anyName, { maxLength: 3 }) }),
      fc.record({ k: k("for"), name: anyName, from: anyExpr, to: anyExpr, step: fc.integer({ min: 1, max: 4 }), body }),
      fc.record({ k: k("while"), cond: anyExpr, body }),
      fc.record({ k: k("if"), cond: anyExpr, then: body, else: body }),
    ),
  };
});

const dtype = fc.constantFrom(...dtypes);

/** Any data of the type ImpFunction: it need not make sense, only survive as text. */
export const anyFunctions: fc.Arbitrary<ImpFunction> = fc
  .record({
    name: anyName,
    buffers: fc.array(
      fc.record({ name: anyName, dtype, access: fc.constantFrom("read" as const, "write" as const, "readwrite" as const) }),
      { maxLength: 3 },
    ),
    dims: fc.array(anyName, { maxLength: 3 }),
    scratch: fc.array(fc.record({ name: anyName, dtype, size: anyDim, space: fc.constantFrom("workgroup" as const, "private" as const) }), {
      maxLength: 2,
    }),
    units: anyDim,
    unit: anyName,
    lanes: fc.integer({ min: 1, max: 3 }),
    lane: fc.option(anyName, { nil: undefined }),
    subgroup: fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }),
    body: fc.array(anyStmt, { maxLength: 4 }),
    sources: anyLocs,
  })
  .map(({ lane: name, subgroup, ...fn }) => ({
    ...fn,
    ...(name === undefined ? {} : { lane: name }),
    ...(subgroup === undefined ? {} : { subgroup }),
  }));
