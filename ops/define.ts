// The one place that says what an operation is. `defineOp` takes a single literal; everything else
// (type checking, reference evaluation, lowering, derivatives, conformance tests, spec/ops.md) reads it.

import type * as FastCheck from "fast-check";
import type { Dim } from "../compiler/ir/dim.ts";
import type { DType } from "../compiler/ir/dtype.ts";
import type { Attrs, AttrValue, TensorType, ValueId } from "../compiler/ir/graph/types.ts";
import type { Expr } from "../compiler/ir/kernel/types.ts";

/** Fusion reads the kind, never the name. */
export type OpKind = "elementwise" | "reduction" | "contraction" | "movement" | "indexing" | "composite";

/** A concrete tensor of the float64 reference. Integers and bools are stored as exact float64. */
export interface RefTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

/** A type rule found operands that do not fit. `operand` is an index, or -1 for an attribute. */
export class OpTypeError extends Error {
  override readonly name = "OpTypeError";
  readonly operand: number;
  readonly expected: string;
  readonly found: string;
  /** The operand that set the expectation, for a note that points at the other end; -1 when there is none. */
  readonly other: number;
  /** Whether the operands might fit once their symbolic sizes are numbers; a definition is then not wrong by itself. */
  readonly undecided: boolean;
  constructor(operand: number, message: string, expected: string, found: string, other = -1, undecided = false) {
    super(message);
    this.operand = operand;
    this.expected = expected;
    this.found = found;
    this.other = other;
    this.undecided = undecided;
  }
}

/** How the element at an output position is made from elements of operands. */
export interface ElementContext {
  readonly attrs: Attrs;
  readonly types: readonly TensorType[];
  readonly out: TensorType;
  /** Element of operand i at a multi-dimensional position (one i32 Expr a dimension). */
  at(operand: number, index: readonly Expr[]): Expr;
  /** Element of operand i at a row-major linear position. */
  atLinear(operand: number, index: Expr): Expr;
  /** A name not used before, for a fold's axis. */
  fresh(hint: string): string;
}

/** What a decomposition or a derivative may call. Implemented by compiler/ir/graph/build.ts. */
export interface Emit {
  op(name: string, operands: readonly ValueId[], attrs?: Attrs): ValueId;
  constant(dtype: DType, shape: readonly Dim[], data: readonly number[]): ValueId;
  typeOf(value: ValueId): TensorType;
}

export type Lowering =
  /** Same position in every operand (already broadcast to the output's shape). Elementwise ops only. */
  | { readonly kind: "scalar"; readonly emit: (args: readonly Expr[], attrs: Attrs, types: readonly TensorType[], out: TensorType) => Expr }
  /** The element at `index` of the output. */
  | { readonly kind: "element"; readonly emit: (index: readonly Expr[], context: ElementContext) => Expr }
  /** Other ops. */
  | { readonly kind: "decompose"; readonly build: (emit: Emit, operands: readonly ValueId[], attrs: Attrs) => ValueId };

export type Derivative =
  /** Cotangents of the operands from the cotangent of the output; undefined for an operand that has none (integers). */
  | {
      readonly kind: "vjp";
      readonly build: (
        emit: Emit,
        args: { readonly operands: readonly ValueId[]; readonly output: ValueId; readonly cotangent: ValueId; readonly attrs: Attrs },
      ) => readonly (ValueId | undefined)[];
    }
  | { readonly kind: "viaDecomposition" }
  | { readonly kind: "nonDifferentiable"; readonly reason: string };

/** One generated call of an op, with concrete shapes. */
export interface OpSample {
  readonly operands: readonly RefTensor[];
  readonly attrs: Attrs;
  /** False where a derivative does not exist at these points (a kink), so it is not compared. Default true. */
  readonly smooth?: boolean;
}

export interface Tolerance {
  /** |device − reference| ≤ absolute + relative·|reference| (per element, or of the largest element when `ofMax`). */
  readonly absolute: number;
  readonly relative: number;
  readonly ofMax?: boolean;
  /** One sentence. */
  readonly why: string;
}

export interface OperandSpec {
  readonly name: string;
  readonly doc: string;
  /** True when a call may leave it out; optional operands come last. */
  readonly optional?: boolean;
}

export interface AttrSpec {
  readonly name: string;
  readonly type: "int" | "float" | "bool" | "string" | "ints" | "dim" | "dims";
  readonly doc: string;
  /** What a call that leaves the attribute out means; an attribute without a default must be given. */
  readonly default?: AttrValue;
}

export interface OpDefinition {
  readonly name: string;
  /** A sentence or two with the formula; shapes in brackets. */
  readonly doc: string;
  readonly kind: OpKind;
  /** Its kernel goes over its operands many times, so what they are made of is computed before it. */
  readonly rereads?: boolean;
  /** Movement that only reads its operand elsewhere: "order" keeps the row-major order, "affine" a position that is linear. */
  readonly view?: "order" | "affine";
  /**
   * The operands are fewer bytes than the result and are what stays in memory: whatever reads the result computes it, though
   * it may be the same for every run.
   */
  readonly unpacks?: boolean;
  readonly operands: readonly OperandSpec[];
  /** True when the last operand spec may repeat (concat). */
  readonly variadic?: boolean;
  readonly attrs: readonly AttrSpec[];
  /** The type of the result. Throws OpTypeError. Shapes may be symbolic. */
  readonly type: (operands: readonly TensorType[], attrs: Attrs) => TensorType;
  /** Exact float64 meaning. `out` is the concrete result type. */
  readonly reference: (
    operands: readonly RefTensor[],
    attrs: Attrs,
    out: { readonly dtype: DType; readonly shape: readonly number[] },
  ) => RefTensor;
  readonly lowering: Lowering;
  /** Composite ops that also have a direct kernel keep `lowering: element` and give their decomposition here. */
  readonly decomposition?: (emit: Emit, operands: readonly ValueId[], attrs: Attrs) => ValueId;
  /**
   * The result is operand 0 with elements replaced by those of operand 1: `place` says where each of these goes. Where
   * operand 0 is a state that nothing else reads and the result its new value, a kernel writes just those.
   */
  readonly overwrites?: {
    /** `at` is the element of an operand, as in ElementContext. */
    readonly place: (index: readonly Expr[], attrs: Attrs, at: ElementContext["at"]) => readonly Expr[];
  };
  readonly derivative: Derivative;
  /** Operations for one evaluation (2 per multiply-add; transcendental = 1), as a dim. */
  readonly flops: (operands: readonly TensorType[], attrs: Attrs, out: TensorType) => Dim;
  /** Cheap enough to compute again instead of keeping for the backward pass. */
  readonly recompute: boolean;
  /** Against the reference, for f32 results; integers and bools are compared exactly. */
  readonly tolerance: Tolerance;
  /** Generates calls, edge cases (NaN, infinities, −0, empty, size 1) included. */
  readonly samples: (fc: typeof FastCheck) => FastCheck.Arbitrary<OpSample>;
}

/** Checks the literal's consistency and returns it. */
export function defineOp(definition: OpDefinition): OpDefinition {
  if (!/^[a-z][a-z0-9_]*$/.test(definition.name)) throw new Error(`op name "${definition.name}" is not lower_snake_case`);
  if (definition.lowering.kind === "scalar" && definition.kind !== "elementwise") {
    throw new Error(`op ${definition.name}: only elementwise ops lower to a scalar expression`);
  }
  return definition;
}
