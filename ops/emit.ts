// Helpers of decompositions and derivatives: the few graph fragments that many ops share. Builds through
// `Emit` only, so it knows no graph and no table.

import { dim, dimConstant, type Dim } from "../compiler/ir/dim.ts";
import type { TensorType, ValueId } from "../compiler/ir/graph/types.ts";
import type { Emit } from "./define.ts";

/** A constant with `value` everywhere, of the type of `like`. */
export function splat(emit: Emit, like: ValueId, value: number): ValueId {
  const type = emit.typeOf(like);
  return emit.constant(type.dtype, type.shape, [value]);
}

export const zerosLike = (emit: Emit, like: ValueId): ValueId => splat(emit, like, 0);

export const add = (emit: Emit, a: ValueId, b: ValueId): ValueId => emit.op("add", [a, b]);
export const sub = (emit: Emit, a: ValueId, b: ValueId): ValueId => emit.op("sub", [a, b]);
export const mul = (emit: Emit, a: ValueId, b: ValueId): ValueId => emit.op("mul", [a, b]);
export const div = (emit: Emit, a: ValueId, b: ValueId): ValueId => emit.op("div", [a, b]);
export const neg = (emit: Emit, a: ValueId): ValueId => emit.op("neg", [a]);

/** `a` times the number `factor`. */
export const scale = (emit: Emit, a: ValueId, factor: number): ValueId => mul(emit, a, splat(emit, a, factor));

export function reshape(emit: Emit, value: ValueId, shape: readonly Dim[]): ValueId {
  return emit.op("reshape", [value], { shape });
}

/** `value` broadcast to `shape`; itself when it already has it. */
export function broadcastTo(emit: Emit, value: ValueId, shape: readonly Dim[]): ValueId {
  const own = emit.typeOf(value).shape;
  if (own.length === shape.length && own.every((d, i) => d.text === shape[i]?.text)) return value;
  return emit.op("broadcast", [value], { shape });
}

/** A reduced value (axes kept as 1, or left out) stretched back over `axes` of `shape`. */
export function unreduce(emit: Emit, value: ValueId, axes: readonly number[], shape: readonly Dim[]): ValueId {
  const kept = shape.map((d, i) => (axes.includes(i) ? dim(1) : d));
  const own = emit.typeOf(value).shape;
  return broadcastTo(emit, own.length === kept.length ? value : reshape(emit, value, kept), shape);
}

/** The sum of `value` over the dimensions that broadcasting from `from` made, in the shape of `from`. */
export function sumTo(emit: Emit, value: ValueId, from: TensorType): ValueId {
  const shape = emit.typeOf(value).shape;
  const lead = shape.length - from.shape.length;
  const axes = shape.map((_, i) => i).filter((i) => i < lead || from.shape[i - lead]?.text !== shape[i]?.text);
  if (axes.length === 0) return value;
  const summed = emit.op("reduce_sum", [value], { axes, keep: true });
  return lead === 0 ? summed : reshape(emit, summed, from.shape);
}

/** A value of `shape` and dtype f32 that holds the size `d`, exact up to 2^24. */
export function sizeValue(emit: Emit, d: Dim, shape: readonly Dim[]): ValueId {
  const known = dimConstant(d);
  if (known !== undefined) return emit.constant("f32", shape, [known]);
  return broadcastTo(emit, emit.op("size", [], { value: d, dtype: "f32" }), shape);
}
