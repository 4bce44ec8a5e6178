// The op table. Adding an op is its file and one line here; the names are exhaustive by type, and everything
// that needs an op's meaning reads it from here.

import { dim } from "../compiler/ir/dim.ts";
import type { Attrs, AttrValue, TensorType } from "../compiler/ir/graph/types.ts";
import { attention } from "./composite/attention.ts";
import { attentionGradientOps } from "./composite/attention-gradient.ts";
import { cross_entropy } from "./composite/cross-entropy.ts";
import { activationOps } from "./composite/activations.ts";
import { linear } from "./composite/linear.ts";
import { layer_norm, rms_norm } from "./composite/norm.ts";
import { rope } from "./composite/rope.ts";
import { log_softmax, mean, softmax } from "./composite/softmax.ts";
import { matmul } from "./contraction/matmul.ts";
import { OpTypeError, type AttrSpec, type OpDefinition, type RefTensor } from "./define.ts";
import { binaryOps } from "./elementwise/binary.ts";
import { cast } from "./elementwise/cast.ts";
import { narrow } from "./elementwise/narrow.ts";
import { ordered_float } from "./elementwise/ordered_float.ts";
import { select } from "./elementwise/select.ts";
import { unaryOps } from "./elementwise/unary.ts";
import { uniform } from "./elementwise/uniform.ts";
import { gather } from "./indexing/gather.ts";
import { gather_sum } from "./indexing/gather_sum.ts";
import { resample_patches, resample_rows } from "./indexing/resample.ts";
import { scatter_add } from "./indexing/scatter_add.ts";
import { scatter_rows } from "./indexing/scatter_rows.ts";
import { write_rows } from "./indexing/write_rows.ts";
import { broadcast } from "./movement/broadcast.ts";
import { concat } from "./movement/concat.ts";
import { iota, size } from "./movement/iota.ts";
import { pad } from "./movement/pad.ts";
import { reshape } from "./movement/reshape.ts";
import { slice } from "./movement/slice.ts";
import { transpose } from "./movement/transpose.ts";
import { unpack } from "./quantised/unpack.ts";
import { argmax } from "./reduction/argmax.ts";
import { draw } from "./reduction/draw.ts";
import { kth_largest } from "./reduction/kth_largest.ts";
import { next_largest } from "./reduction/next_largest.ts";
import { nucleus } from "./reduction/nucleus.ts";
import { reductionOps } from "./reduction/reduce.ts";
import { isDim } from "./rules.ts";

const table = {
  ...unaryOps,
  ...binaryOps,
  cast,
  narrow,
  select,
  ordered_float,
  uniform,
  reshape,
  transpose,
  broadcast,
  slice,
  pad,
  concat,
  iota,
  size,
  ...reductionOps,
  argmax,
  kth_largest,
  nucleus,
  draw,
  next_largest,
  matmul,
  gather,
  scatter_add,
  write_rows,
  scatter_rows,
  gather_sum,
  resample_rows,
  resample_patches,
  linear,
  softmax,
  log_softmax,
  cross_entropy,
  mean,
  layer_norm,
  rms_norm,
  ...activationOps,
  rope,
  attention,
  ...attentionGradientOps,
  unpack,
} satisfies Record<string, OpDefinition>;

/** The name of every op there is. A `Record<OpName, …>` elsewhere does not compile until it has an entry for each. */
export type OpName = keyof typeof table;

/** What every op means, by name, in the order of spec/ops.md. */
export const ops: Readonly<Record<OpName, OpDefinition>> = table;

export function isOpName(name: string): name is OpName {
  return Object.hasOwn(ops, name);
}

export const opNames: readonly OpName[] = Object.keys(ops).filter(isOpName);

/** The definition of `name`. Throws OpTypeError when there is none. */
export function opOf(name: string): OpDefinition {
  if (!isOpName(name)) throw new OpTypeError(-1, `there is no op named ${name}`, "a name in the op table", name);
  return ops[name];
}

function attrFits(spec: AttrSpec, value: AttrValue): boolean {
  const int = (v: unknown): boolean => typeof v === "number" && Number.isSafeInteger(v);
  switch (spec.type) {
    case "int":
    case "dim":
      return int(value) || isDim(value);
    case "float":
      return typeof value === "number";
    case "bool":
      return typeof value === "boolean";
    case "string":
      return typeof value === "string";
    case "ints":
    case "dims":
      return Array.isArray(value) ? value.every((v) => int(v) || isDim(v)) : spec.type === "ints" && int(value);
    default:
      return spec.type satisfies never;
  }
}

/** The attributes with numbers made dims where the op wants dims, and defaults filled in: one form for one meaning. */
export function normaliseAttrs(name: string, attrs: Attrs): Attrs {
  const all: Record<string, AttrValue> = {};
  for (const spec of opOf(name).attrs) {
    const value = attrs[spec.name] ?? spec.default;
    if (value === undefined) continue;
    if (spec.type === "dim" && typeof value === "number") all[spec.name] = dim(value);
    else if (spec.type === "dims" && Array.isArray(value))
      all[spec.name] = value.map((v: unknown) => (typeof v === "number" ? dim(v) : v)) as AttrValue;
    else if (spec.type === "ints" && typeof value === "number") all[spec.name] = [value];
    else all[spec.name] = value;
  }
  return all;
}

/**
 * The type of `name` applied to operands of these types. Throws OpTypeError naming the operand (or -1 and the
 * attribute) that does not fit: unknown op, wrong number of operands, unknown or missing or misshapen attribute,
 * or what the op's own rule says.
 */
export function typeRule(name: string, operands: readonly TensorType[], attrs: Attrs): TensorType {
  const op = opOf(name);
  const most = op.variadic === true ? Infinity : op.operands.length;
  const least = op.operands.filter((o) => o.optional !== true).length;
  if (operands.length < least || operands.length > most) {
    const expected = most === Infinity ? `at least ${least}` : least === most ? String(least) : `${least} to ${most}`;
    throw new OpTypeError(
      Math.min(operands.length, op.operands.length) - 1,
      `${name} takes ${expected} operand${expected === "1" ? "" : "s"}`,
      `${expected} (${op.operands.map((o) => o.name).join(", ")})`,
      String(operands.length),
    );
  }
  for (const given of Object.keys(attrs)) {
    if (!op.attrs.some((spec) => spec.name === given))
      throw new OpTypeError(-1, `${name} has no attribute ${given}`, op.attrs.map((a) => a.name).join(", ") || "no attributes", given);
  }
  for (const spec of op.attrs) {
    const value = attrs[spec.name] ?? spec.default;
    if (value === undefined) throw new OpTypeError(-1, `${name} needs the attribute ${spec.name}`, `${spec.name}: ${spec.type}`, "nothing");
    if (!attrFits(spec, value))
      throw new OpTypeError(
        -1,
        `the attribute ${spec.name} of ${name} is not of type ${spec.type}`,
        spec.type,
        isDim(value) ? value.text : JSON.stringify(value),
      );
  }
  return op.type(operands, attrs);
}

/** Evaluates one op in float64. `out` is the concrete type of the result. */
type Reference = (
  name: string,
  operands: readonly RefTensor[],
  attrs: Attrs,
  out: { readonly dtype: RefTensor["dtype"]; readonly shape: readonly number[] },
) => RefTensor;

export const referenceOf: Reference = (name, operands, attrs, out) => opOf(name).reference(operands, attrs, out);
