// Kernel IR: parallel axes and an ordered list of stages that share them. The body says what every
// element is, as scalar expressions with folds (reductions); it is executable as it stands. How it is
// executed (tile, vectorise, pack) is the schedule, a list of data apart from the body.

import type { Dim } from "../dim.ts";
import type { DType } from "../dtype.ts";
import type { Loc } from "../loc.ts";

/** The types scalars have inside a kernel. f16 and bf16 load as f32; u8 and i8 load as i32. */
export type ScalarType = "f32" | "i32" | "bool";

export function scalarTypeOf(dtype: DType): ScalarType {
  return dtype === "bool" ? "bool" : dtype === "u8" || dtype === "i8" || dtype === "i32" ? "i32" : "f32";
}

/** f32 unless noted. round is half to even. sign(NaN) is NaN, sign(-0) is -0. */
export type UnaryOp =
  "neg" | "abs" | "sign" | "exp" | "log" | "sqrt" | "rsqrt" | "sin" | "cos" | "tanh" | "erf" | "floor" | "ceil" | "round" | "trunc" | "not";

/**
 * add…max work on f32 and i32 (i32 wraps); min and max give NaN when either is NaN, and order -0 below +0.
 * `div` is IEEE on f32 and truncates toward zero on i32; `mod` takes the sign of the divisor (floor) on f32 and i32.
 * Integer division or remainder by zero is 0. pow is f32. and/or work on bool; bit operations and shifts on i32.
 * Comparisons give bool; every comparison with NaN but `ne` is false.
 */
export type BinaryOp =
  | "add"
  | "sub"
  | "mul"
  | "div"
  | "mod"
  | "min"
  | "max"
  | "pow"
  | "eq"
  | "ne"
  | "lt"
  | "le"
  | "gt"
  | "ge"
  | "and"
  | "or"
  | "bitand"
  | "bitor"
  | "bitxor"
  | "shl"
  | "shr";

/** Identity elements: sum 0, product 1, max -infinity (i32: -2^31), min +infinity (i32: 2^31-1). NaN propagates. */
export type FoldOp = "sum" | "product" | "max" | "min";

export type Expr =
  | { readonly k: "const"; readonly type: ScalarType; readonly value: number }
  /** An axis (i32), a fold's axis (i32), or a `let` of an earlier stage. */
  | { readonly k: "var"; readonly name: string; readonly type: ScalarType }
  /** A size, known when the plan is bound. i32. */
  | { readonly k: "dim"; readonly dim: Dim }
  /** Element `index` (row-major, linear) of a buffer. Indices must be in range for every point that is evaluated. */
  | { readonly k: "load"; readonly buffer: string; readonly index: Expr; readonly type: ScalarType }
  | { readonly k: "unary"; readonly op: UnaryOp; readonly a: Expr; readonly type: ScalarType }
  | { readonly k: "binary"; readonly op: BinaryOp; readonly a: Expr; readonly b: Expr; readonly type: ScalarType }
  /** Only the chosen side is evaluated (its loads may be out of range otherwise). */
  | { readonly k: "select"; readonly cond: Expr; readonly a: Expr; readonly b: Expr; readonly type: ScalarType }
  /** f32→i32 truncates and saturates, NaN → 0; to bool is `≠ 0`; bool → 0 or 1. */
  | { readonly k: "cast"; readonly a: Expr; readonly type: ScalarType }
  /** The same 32 bits as f32 or as i32; what the bits of a NaN are is not said. */
  | { readonly k: "bitcast"; readonly a: Expr; readonly type: "f32" | "i32" }
  /** `op` over axis = from … to-1. f32 sums accumulate in f32. */
  | {
      readonly k: "fold";
      readonly op: FoldOp;
      readonly axis: string;
      readonly from: Expr;
      readonly to: Expr;
      readonly body: Expr;
      readonly type: ScalarType;
    }
  /** `name` is `init`, then `body` for axis = 0 … steps-1, where `name` is what came before; the last. A search is this. */
  | {
      readonly k: "iterate";
      readonly name: string;
      readonly axis: string;
      readonly steps: number;
      readonly init: Expr;
      readonly body: Expr;
      readonly type: ScalarType;
    };

export interface Axis {
  readonly name: string;
  readonly extent: Dim;
}

export interface KernelBuffer {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly Dim[];
  /** update: read and written, each element only where it is replaced (in-place.ts proves it). */
  readonly access: "read" | "write" | "update";
}

export type Stage =
  /** A scalar per point of the parallel axes, for later stages. */
  | { readonly k: "let"; readonly name: string; readonly type: ScalarType; readonly value: Expr }
  /** For every point of `axes` (inner, may be empty), buffer[index] = value, converted to the buffer's dtype. */
  | { readonly k: "store"; readonly axes: readonly Axis[]; readonly buffer: string; readonly index: Expr; readonly value: Expr };

/** Structure that a builder may exploit. It repeats what the stages say; the stages are the truth. */
export type Pattern =
  | {
      /** stages[0] is `let acc = fold sum over k of a*b`; the other stages are its epilogue at (…batch, m, n). */
      readonly k: "matmul";
      readonly batch: readonly string[];
      readonly m: string;
      readonly n: string;
      readonly kAxis: string;
      readonly a: Extract<Expr, { k: "load" }>;
      readonly b: Extract<Expr, { k: "load" }>;
    }
  | {
      /** As matmul by the rows of a packed weight: b is what op `unpack` makes of these buffers, at row n and column k. */
      readonly k: "quantised";
      readonly m: string;
      readonly n: string;
      readonly kAxis: string;
      readonly a: Extract<Expr, { k: "load" }>;
      readonly bits: 4 | 8;
      /** i32[N, K·bits/32]. */
      readonly values: string;
      /** f16[N, K/32]. */
      readonly scales: string;
      readonly minima?: string;
    }
  | {
      /** softmax(scale·q·kᵀ)·v for query t and head h over keys s in [from, to); features e (of q, k) and d (of v, out). */
      readonly k: "attention";
      readonly query: string;
      readonly head: string;
      readonly key: string;
      readonly inner: string;
      readonly feature: string;
      readonly innerExtent: Dim;
      readonly scale: number;
      readonly from: Expr;
      readonly to: Expr;
      readonly q: Extract<Expr, { k: "load" }>;
      readonly key_: Extract<Expr, { k: "load" }>;
      readonly value: Extract<Expr, { k: "load" }>;
      /**
       * Of the runs of `keys` keys, every `count`-th from the axis on. What is stored is not softmax·v yet but three things: the
       * sums of values times 2^(score - top), by feature; top, the largest score (times log2 e) there is, -infinity without
       * keys and never less than the least number with them; the sum of the powers. See compiler/schedule/attention-split.ts.
       */
      readonly part?: { readonly axis: string; readonly count: Dim; readonly keys: number };
    };

export type ScheduleItem =
  | { readonly k: "vectorise"; readonly axis: string; readonly width: number }
  | { readonly k: "tile"; readonly axis: string; readonly size: number }
  | { readonly k: "unroll"; readonly axis: string; readonly by: number }
  /** Operand `buffer` is stored as [ceil(N/panel)][K][panel]; its loads already index that layout. */
  | { readonly k: "packed"; readonly buffer: string; readonly panel: number }
  /** A product of few rows may round operand `buffer` to integers of 16 bits with a scale for each block of 32 along the sum. */
  | { readonly k: "rounded"; readonly buffer: string }
  /** Which parallel axes are divided over threads or workgroups, outermost first. */
  | { readonly k: "parallel"; readonly axes: readonly string[] };

export interface Kernel {
  readonly name: string;
  readonly axes: readonly Axis[];
  readonly buffers: readonly KernelBuffer[];
  readonly stages: readonly Stage[];
  readonly schedule: readonly ScheduleItem[];
  readonly pattern?: Pattern;
  /** Every .uhd place whose work this kernel does. */
  readonly sources: readonly Loc[];
}
