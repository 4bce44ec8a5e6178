// Imp IR: structured loops over explicit address spaces, the last level before text or bytes of a
// target. Every renderer reads it and the emulator executes it. Operations outside a target's legal
// set must have been rewritten before rendering.
//
// Execution model: a function is run for `unit` = 0 … units-1, in any order and on any thread. Inside a
// unit, `lanes` invocations run in step (1 on CPUs); `barrier` orders their accesses to workgroup scratch.

import type { Dim } from "../dim.ts";
import type { DType } from "../dtype.ts";
import type { BinaryOp, UnaryOp } from "../kernel/types.ts";
import type { Loc } from "../loc.ts";

/** `ptr:NAME` is a position in buffer or scratch NAME: an element index in shading languages, an address in WebAssembly. */
export type ImpType = "i32" | "f32" | "bool" | "f32x4" | "i32x4" | `ptr:${string}`;

/** As in Kernel IR; on f32x4/i32x4 lane by lane. `bool` results of vector compares are i32x4 masks (0 or -1). */
export type ImpUnary = UnaryOp;

/** `shru` shifts zeros in from the left. */
export type ImpBinary = BinaryOp | "shru";

export type HalvesOp = "dot16" | "narrow16" | "low_i8" | "high_i8" | "low_u8" | "high_u8";

export type ImpExpr =
  /** One number for a scalar or a splat; four for a vector. */
  | { readonly k: "const"; readonly type: ImpType; readonly value: number | readonly number[] }
  | { readonly k: "var"; readonly name: string; readonly type: ImpType }
  /** A size argument of the function, by name. i32. */
  | { readonly k: "dim"; readonly name: string }
  /** The position of element `index` in `buffer`. */
  | { readonly k: "at"; readonly buffer: string; readonly index: ImpExpr; readonly type: `ptr:${string}` }
  /** `ptr` advanced by `elements` (i32). */
  | { readonly k: "advance"; readonly ptr: ImpExpr; readonly elements: ImpExpr; readonly type: `ptr:${string}` }
  /**
   * Reads the element (or four consecutive elements, for a vector type) `offset` elements after `ptr`.
   * Narrow dtypes widen: u8, i8, bool → i32; f16, bf16 → f32. Must be in range (slack and tile padding count).
   */
  | { readonly k: "load"; readonly ptr: ImpExpr; readonly offset: number; readonly type: ImpType }
  /** Reads one element into all four lanes. */
  | { readonly k: "loadSplat"; readonly ptr: ImpExpr; readonly offset: number; readonly type: "f32x4" | "i32x4" }
  | { readonly k: "unary"; readonly op: ImpUnary; readonly a: ImpExpr; readonly type: ImpType }
  | { readonly k: "binary"; readonly op: ImpBinary; readonly a: ImpExpr; readonly b: ImpExpr; readonly type: ImpType }
  /** a·b + c, fused or rounded twice as the target likes. */
  | { readonly k: "fma"; readonly a: ImpExpr; readonly b: ImpExpr; readonly c: ImpExpr; readonly type: ImpType }
  /** min/max without NaN and signed-zero care: the cheapest instruction. Only where a builder has proved it does not matter. */
  | { readonly k: "fastMinMax"; readonly op: "min" | "max"; readonly a: ImpExpr; readonly b: ImpExpr; readonly type: ImpType }
  /** Scalar condition: only the chosen side is evaluated. Mask condition (i32x4): lane by lane, both evaluated. */
  | { readonly k: "select"; readonly cond: ImpExpr; readonly a: ImpExpr; readonly b: ImpExpr; readonly type: ImpType }
  /** Numeric conversion between i32, f32, bool and lane by lane between f32x4 and i32x4 (truncating, saturating, NaN → 0). */
  | { readonly k: "convert"; readonly a: ImpExpr; readonly type: ImpType }
  /** Same bits. */
  | { readonly k: "bitcast"; readonly a: ImpExpr; readonly type: ImpType }
  | { readonly k: "splat"; readonly a: ImpExpr; readonly type: "f32x4" | "i32x4" }
  | { readonly k: "lane"; readonly a: ImpExpr; readonly lane: number; readonly type: "f32" | "i32" }
  /** Lanes 0-3 are of a, 4-7 of b. */
  | {
      readonly k: "shuffle";
      readonly a: ImpExpr;
      readonly b: ImpExpr;
      readonly lanes: readonly [number, number, number, number];
      readonly type: ImpType;
    }
  /**
   * The bits of i32x4 as eight 16-bit integers or sixteen bytes, the first in the lowest bits. dot16: sums of two
   * neighbours' products, wrapping. narrow16: those of a, then b, saturated to 16 bits. low…/high…: bytes 0-7/8-15, signed
   * or not, as 16-bit integers. Legal only where a target's capabilities have `halves`.
   */
  | { readonly k: "halves"; readonly op: HalvesOp; readonly args: readonly ImpExpr[]; readonly type: "i32x4" }
  /** All four lanes combined, as (0+2)+(1+3). */
  | { readonly k: "across"; readonly op: "add" | "min" | "max" | "mul"; readonly a: ImpExpr; readonly type: "f32" | "i32" };

export type ImpStmt =
  /** Declares a local. `mutable` locals may be assigned. */
  | { readonly k: "let"; readonly name: string; readonly type: ImpType; readonly value: ImpExpr; readonly mutable: boolean }
  | { readonly k: "assign"; readonly name: string; readonly value: ImpExpr }
  /**
   * Narrow dtypes convert: i32 → u8/i8 wraps, i32 → bool keeps the lowest bit (so that a mask gives 0 or 1), f32 → f16/bf16
   * rounds to nearest even. A vector writes four consecutive elements.
   */
  | { readonly k: "store"; readonly ptr: ImpExpr; readonly offset: number; readonly value: ImpExpr }
  /** The first `count` (1-3) lanes of a vector, for tails. */
  | { readonly k: "storeLanes"; readonly ptr: ImpExpr; readonly offset: number; readonly value: ImpExpr; readonly count: number }
  /** name = from; name < to; name += step (step > 0, constant). The body may run zero times. */
  | {
      readonly k: "for";
      readonly name: string;
      readonly from: ImpExpr;
      readonly to: ImpExpr;
      readonly step: number;
      readonly body: readonly ImpStmt[];
    }
  | { readonly k: "while"; readonly cond: ImpExpr; readonly body: readonly ImpStmt[] }
  | { readonly k: "if"; readonly cond: ImpExpr; readonly then: readonly ImpStmt[]; readonly else: readonly ImpStmt[] }
  /** All lanes of the unit arrive before any continues. Like `uniform` and `exchange`, under conditions alone that are uniform. */
  | { readonly k: "barrier" }
  /** Declares a local that is the same in every lane of the unit, as the author knows; conditions around barriers may use it. */
  | { readonly k: "uniform"; readonly name: string; readonly type: "i32"; readonly value: ImpExpr }
  /**
   * Declares a local: `value` as another lane of the subgroup computes it. `from`: lane `lane` of the subgroup; `xor`: the
   * lane whose number differs from the own in the bits of `lane`, a constant.
   */
  | {
      readonly k: "exchange";
      readonly name: string;
      readonly type: "f32" | "i32" | "f32x4" | "i32x4";
      readonly op: "from" | "xor";
      readonly value: ImpExpr;
      readonly lane: ImpExpr;
    }
  /**
   * Ends a basic block without changing meaning, so that an engine does not hoist later loads above earlier
   * arithmetic (V8 in Node 20 and 22 does, and spills). `keep` names the live accumulators, `ptr` a pointer that
   * is never 0. Renderers may ignore it.
   */
  | { readonly k: "fence"; readonly ptr: string; readonly keep: readonly string[] };

export interface ImpBuffer {
  readonly name: string;
  readonly dtype: DType;
  readonly access: "read" | "write" | "readwrite";
}

/** Memory private to a unit: `workgroup` is shared by its lanes, `private` is one lane's. Contents start unspecified. */
export interface ImpScratch {
  readonly name: string;
  readonly dtype: DType;
  /** Elements, over the function's dims. */
  readonly size: Dim;
  readonly space: "workgroup" | "private";
}

export interface ImpFunction {
  readonly name: string;
  readonly buffers: readonly ImpBuffer[];
  /** Sizes, i32, in argument order. */
  readonly dims: readonly string[];
  readonly scratch: readonly ImpScratch[];
  /** How many units there are, over `dims`. */
  readonly units: Dim;
  /** The variable that holds the unit's number. */
  readonly unit: string;
  /** Invocations per unit and the variable that holds the invocation's number; 1 on CPUs. */
  readonly lanes: number;
  readonly lane?: string;
  /** Lanes of a subgroup, where the function relies on it: as many that follow each other, from a multiple of it on. */
  readonly subgroup?: number;
  readonly body: readonly ImpStmt[];
  readonly sources: readonly Loc[];
}
