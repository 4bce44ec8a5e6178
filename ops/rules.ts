// Helpers of type rules: attributes read once and by type, and failures that name the operand. Does not
// know any op.

import { dim, dimConstant, type Dim } from "../compiler/ir/dim.ts";
import { isFloat, type DType } from "../compiler/ir/dtype.ts";
import type { Attrs, AttrValue, TensorType } from "../compiler/ir/graph/types.ts";
import { OpTypeError, type AttrSpec } from "./define.ts";

/** An attribute as data (`spec`, for the table) and as a reader (`of`). The default is written once. */
export interface Attribute<T> {
  readonly spec: AttrSpec;
  readonly of: (attrs: Attrs) => T;
}

function attribute<T>(spec: AttrSpec, convert: (value: AttrValue) => T | undefined): Attribute<T> {
  const of = (attrs: Attrs): T => {
    const given = Object.hasOwn(attrs, spec.name) ? attrs[spec.name] : undefined;
    const value = given ?? spec.default;
    if (value === undefined) throw new OpTypeError(-1, `attribute ${spec.name} is missing`, `${spec.name}: ${spec.type}`, "nothing");
    const converted = convert(value);
    if (converted === undefined)
      throw new OpTypeError(-1, `attribute ${spec.name} is not of type ${spec.type}`, spec.type, attrText(value));
    return converted;
  };
  return { spec, of };
}

function specOf(name: string, type: AttrSpec["type"], doc: string, fallback?: AttrValue): AttrSpec {
  return fallback === undefined ? { name, type, doc } : { name, type, doc, default: fallback };
}

export function isDim(value: unknown): value is Dim {
  return typeof value === "object" && value !== null && "monomials" in value && "text" in value;
}

function attrText(value: AttrValue): string {
  if (isDim(value)) return value.text;
  if (typeof value !== "object") return JSON.stringify(value);
  return `[${value.map((v) => (isDim(v) ? v.text : String(v))).join(", ")}]`;
}

function toDimOrNothing(value: AttrValue): Dim | undefined {
  if (isDim(value)) return value;
  return typeof value === "number" && Number.isSafeInteger(value) ? dim(value) : undefined;
}

function isList(value: AttrValue): value is readonly number[] | readonly Dim[] {
  return Array.isArray(value);
}

export const intAttr = (name: string, doc: string, fallback?: number): Attribute<number> =>
  attribute(specOf(name, "int", doc, fallback), (v) => {
    const value = isDim(v) ? dimConstant(v) : v;
    return typeof value === "number" && Number.isSafeInteger(value) ? value : undefined;
  });

export const floatAttr = (name: string, doc: string, fallback?: number): Attribute<number> =>
  attribute(specOf(name, "float", doc, fallback), (v) => (typeof v === "number" ? v : undefined));

export const boolAttr = (name: string, doc: string, fallback?: boolean): Attribute<boolean> =>
  attribute(specOf(name, "bool", doc, fallback), (v) => (typeof v === "boolean" ? v : undefined));

export const stringAttr = (name: string, doc: string, fallback?: string): Attribute<string> =>
  attribute(specOf(name, "string", doc, fallback), (v) => (typeof v === "string" ? v : undefined));

/** A list of integers; one integer stands for a list of one. */
export const intsAttr = (name: string, doc: string, fallback?: readonly number[]): Attribute<readonly number[]> =>
  attribute(specOf(name, "ints", doc, fallback), (v) => {
    const items = isList(v) ? v.map((x) => (isDim(x) ? dimConstant(x) : x)) : [v];
    const ints = items.filter((x): x is number => typeof x === "number" && Number.isSafeInteger(x));
    return ints.length === items.length ? ints : undefined;
  });

export const dimAttr = (name: string, doc: string, fallback?: Dim): Attribute<Dim> =>
  attribute(specOf(name, "dim", doc, fallback), toDimOrNothing);

export const dimsAttr = (name: string, doc: string): Attribute<readonly Dim[]> =>
  attribute(specOf(name, "dims", doc), (v) => {
    if (!isList(v)) return undefined;
    const dims = v.map((x) => toDimOrNothing(x)).filter((x) => x !== undefined);
    return dims.length === v.length ? dims : undefined;
  });

/** The type as it is written: `f32[T, 1024]`. */
export function typeText(type: TensorType): string {
  return `${type.dtype}${shapeText(type.shape)}`;
}

export function shapeText(shape: readonly Dim[]): string {
  return `[${shape.map((d) => d.text).join(", ")}]`;
}

export function isNumeric(dtype: DType): boolean {
  return isFloat(dtype) || dtype === "i32";
}

/** Operand `i`, which the caller of a type rule has counted. */
export function operandAt<T>(operands: readonly T[], i: number): T {
  const operand = operands[i];
  if (operand === undefined) throw new OpTypeError(i, `operand ${i} is missing`, "an operand", "nothing");
  return operand;
}

/** Throws unless operand `i` has a dtype that `accepts` takes; `expected` describes it. */
export function needDType(operands: readonly TensorType[], i: number, accepts: (dtype: DType) => boolean, expected: string): void {
  const type = operandAt(operands, i);
  if (!accepts(type.dtype)) throw new OpTypeError(i, `operand ${i} must be ${expected}`, expected, typeText(type));
}

/** Throws unless operand `i` has `rank` dimensions. */
export function needRank(operands: readonly TensorType[], i: number, rank: number): void {
  const type = operandAt(operands, i);
  if (type.shape.length !== rank)
    throw new OpTypeError(i, `operand ${i} must have ${rank} dimensions`, `${rank} dimensions`, typeText(type));
}

/** Throws unless operand `i` has at least `rank` dimensions. */
export function needRankAtLeast(operands: readonly TensorType[], i: number, rank: number): void {
  const type = operandAt(operands, i);
  if (type.shape.length < rank)
    throw new OpTypeError(i, `operand ${i} must have at least ${rank} dimensions`, `at least ${rank} dimensions`, typeText(type));
}

/** Throws unless operands `i` and `other` have the same dtype. */
export function needSameDType(operands: readonly TensorType[], i: number, other: number): void {
  const a = operandAt(operands, i);
  const b = operandAt(operands, other);
  if (a.dtype !== b.dtype) throw new OpTypeError(i, `operand ${i} must have the element type of operand ${other}`, b.dtype, a.dtype, other);
}

/** Throws unless size `axis` of operand `i` equals size `otherAxis` of operand `other`. */
export function needSameSize(operands: readonly TensorType[], i: number, axis: number, other: number, otherAxis: number): void {
  const a = operandAt(operands, i);
  const b = operandAt(operands, other);
  const found = a.shape.at(axis);
  const expected = b.shape.at(otherAxis);
  if (found?.text === expected?.text) return;
  throw new OpTypeError(
    i,
    `dimension ${axis < 0 ? a.shape.length + axis : axis} of operand ${i} must equal dimension ${otherAxis < 0 ? b.shape.length + otherAxis : otherAxis} of operand ${other}`,
    `${expected?.text ?? "nothing"} (in ${typeText(b)})`,
    `${found?.text ?? "nothing"} (in ${typeText(a)})`,
    other,
  );
}

/** Throws unless operand `i` has exactly the shape of operand `other`. */
export function needSameShape(operands: readonly TensorType[], i: number, other: number): void {
  const a = operandAt(operands, i);
  const b = operandAt(operands, other);
  if (shapeText(a.shape) === shapeText(b.shape)) return;
  throw new OpTypeError(i, `operand ${i} must have the shape of operand ${other}`, shapeText(b.shape), shapeText(a.shape), other);
}

/** A size that must be known at compile time. */
export function needConstantSize(type: TensorType, axis: number, operand: number): number {
  const value = dimConstant(sizeAt(type.shape, axis));
  if (value === undefined)
    throw new OpTypeError(operand, `dimension ${axis} of operand ${operand} must be known at compile time`, "a number", typeText(type));
  return value;
}

/** Size `axis` (negative counts from the end) of a shape that has it. */
export function sizeAt(shape: readonly Dim[], axis: number): Dim {
  const size = shape.at(axis);
  if (size === undefined) throw new OpTypeError(-1, `axis ${axis} is out of range`, `an axis of ${shapeText(shape)}`, String(axis));
  return size;
}

/** `axis` counted from the front, for a tensor of `rank` dimensions; negative axes count from the end. */
export function axisIn(axis: number, rank: number): number {
  const front = axis < 0 ? axis + rank : axis;
  if (front < 0 || front >= rank)
    throw new OpTypeError(-1, `axis ${axis} is out of range for ${rank} dimensions`, `-${rank} … ${rank - 1}`, String(axis));
  return front;
}

/** Several axes from the front, ascending, each once. */
export function axesIn(axes: readonly number[], rank: number): readonly number[] {
  const front = axes.map((a) => axisIn(a, rank));
  if (new Set(front).size !== front.length) throw new OpTypeError(-1, "an axis is given twice", "distinct axes", `[${axes.join(", ")}]`);
  return [...front].sort((a, b) => a - b);
}
