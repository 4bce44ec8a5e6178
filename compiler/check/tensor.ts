// Operators on tensors become nodes of the graph, with broadcasts inserted, types from the op table, and errors at the
// operand that does not fit. Calls of operations by their names are in operations.ts, modules in modules.ts.

import { dim, dimConstant, DimError, dimProduct, type Dim } from "../ir/dim.ts";
import { isFloat, type DType } from "../ir/dtype.ts";
import { typeText } from "../ir/graph/build.ts";
import type { Attrs, AttrValue, ValueId } from "../ir/graph/types.ts";
import type { Span } from "../ir/loc.ts";
import type { BinaryOperator, UnaryOperator } from "../syntax/ast.ts";
import { opOf } from "../../ops/index.ts";
import { OpTypeError } from "../../ops/define.ts";
import { shapeText } from "../../ops/rules.ts";
import { constantOf, sizeOf, undecided } from "./constants.ts";
import { errorValue, TooLarge, type Build, type Cx, type HostVal, type TensorVal, type Value } from "./context.ts";
import { madeNotes, originNotes } from "./shapes.ts";
import { hostTypeText } from "./types.ts";

/** Nodes one graph may have. */
const maximumNodes = 400_000;

/** An argument with its place, for messages. */
export interface Placed {
  readonly value: Value;
  readonly span: Span;
}

const operators: Readonly<Partial<Record<BinaryOperator, string>>> = {
  "+": "add",
  "-": "sub",
  "*": "mul",
  "/": "div",
  "%": "mod",
  "**": "pow",
  "==": "eq",
  "!=": "ne",
  "<": "lt",
  "<=": "le",
  ">": "gt",
  ">=": "ge",
  and: "logical_and",
  or: "logical_or",
};

export function graphOf(cx: Cx): Build {
  if (cx.build === undefined) throw new Error("tensor code outside a graph");
  return cx.build;
}

/** Adds a node at `span`; what does not fit is reported at the operand's place. */
export function emit(
  cx: Cx,
  op: string,
  operands: readonly { readonly id: ValueId; readonly span: Span }[],
  attrs: Attrs,
  span: Span,
  attrSpans?: ReadonlyMap<string, Span>,
): Value {
  const build = graphOf(cx);
  if (++build.nodes > maximumNodes) throw new TooLarge(span, `the graph has more than ${maximumNodes} operations`);
  build.builder.at([span, ...build.calls]);
  try {
    return {
      k: "tensor",
      id: build.builder.op(
        op,
        operands.map((o) => o.id),
        attrs,
      ),
    };
  } catch (error) {
    if (error instanceof DimError) {
      cx.report.error("UHD0302", span, `${op}: ${error.message}`);
      return errorValue;
    }
    if (!(error instanceof OpTypeError)) throw error;
    // In a definition alone sizes are symbols where a use has numbers.
    if (build.abstract && (error.undecided || error.message.includes("known at compile time"))) return errorValue;
    const types = operands.map((o) => build.builder.typeOf(o.id));
    const dims = [...types.flatMap((t) => t.shape), ...Object.values(attrs).flatMap(dimsOf)];
    if (error.operand >= 0 && undecided(cx, dims)) return errorValue;
    if (error.operand < 0 && undecided(cx, dims) && !/no attribute|needs the attribute|not of type/.test(error.message)) return errorValue;
    const names = opOf(op).operands;
    const nameOf = (i: number): string => names[Math.min(i, names.length - 1)]?.name ?? `operand ${i}`;
    // Where one operand does not fit the attributes, these are what was written here.
    const alone = operands.length === 1 && attrSpans?.size === 1 ? [...attrSpans.values()][0] : undefined;
    const at =
      error.operand >= 0 ? (alone ?? operands[error.operand]?.span ?? span) : (attributeSpan(error.message, attrSpans) ?? alone ?? span);
    const other = error.other >= 0 ? operands[error.other] : undefined;
    cx.report.error(error.operand >= 0 ? "UHD0302" : "UHD0309", at, `${op}: ${named(error.message, nameOf)}`, {
      expected: error.expected,
      found: error.found,
      notes: [
        ...(other === undefined
          ? []
          : [{ span: other.span, message: `${nameOf(error.other)} is ${typeText(build.builder.typeOf(other.id))}` }]),
        ...(error.operand < 0 ? operands.slice(0, 1) : [operands[error.operand], other]).flatMap((o) => madeNotes(build, o?.id)),
        ...originNotes(build, dims),
        ...(operands.length === 0 ? [] : [{ message: `${op}(${types.map((t, i) => `${nameOf(i)}: ${typeText(t)}`).join(", ")})` }]),
      ],
    });
    return errorValue;
  }
}

/** `operand 1` as the op's own name for it. */
function named(message: string, nameOf: (i: number) => string): string {
  return message.replace(/operand (\d+)/g, (_, i: string) => nameOf(Number(i)));
}

function attributeSpan(message: string, spans: ReadonlyMap<string, Span> | undefined): Span | undefined {
  for (const [name, span] of spans ?? []) if (new RegExp(`\\b${name}\\b`).test(message)) return span;
  return undefined;
}

function dimsOf(v: AttrValue): readonly Dim[] {
  if (typeof v !== "object") return [];
  if ("monomials" in v) return [v];
  return (v as readonly (number | Dim)[]).filter((x): x is Dim => typeof x === "object");
}

/** A host number as a tensor of `shape`: a constant where it is known, a computed scalar otherwise. */
export function scalar(cx: Cx, v: HostVal, span: Span, dtype: DType | undefined, shape: readonly Dim[]): ValueId | undefined {
  const build = graphOf(cx);
  if (v.type.k !== "int" && v.type.k !== "float" && v.type.k !== "bool") {
    cx.report.error("UHD0306", span, "this is no tensor and no number", { expected: "a tensor or a number", found: hostTypeText(v.type) });
    return undefined;
  }
  const wanted = dtype ?? (v.type.k === "bool" ? "bool" : v.type.k === "int" ? "i32" : "f32");
  const wrong = (v.type.k === "float" && !isFloat(wanted)) || (v.type.k === "bool") !== (wanted === "bool");
  if (wrong) {
    cx.report.error("UHD0304", span, `a ${v.type.k} does not go with a tensor of ${wanted}`, {
      expected: wanted,
      found: hostTypeText(v.type),
      help: `cast(x, ${v.type.k === "bool" ? "bool" : "f32"}) converts the tensor`,
    });
    return undefined;
  }
  build.builder.at([span, ...build.calls]);
  const known = constantOf(cx, v, span);
  if (known !== undefined) return build.builder.constant(wanted, shape, [Number(known)]);
  if (build.abstract) return build.builder.constant(wanted, shape, [0]);
  const size = v.type.k === "int" && (wanted === "i32" || wanted === "f32") ? sizeOf(cx, v, span) : undefined;
  const id =
    size === undefined
      ? build.builder.table(build.namer.fresh("scalar"), { dtype: wanted, shape: [] }, v.expr)
      : build.builder.op("size", [], { value: size, dtype: wanted });
  return shape.length === 0 ? id : build.builder.op("broadcast", [id], { shape });
}

/** The shape both broadcast to, aligned at the right; undefined where they do not. */
function joint(a: readonly Dim[], b: readonly Dim[]): readonly Dim[] | undefined {
  const rank = Math.max(a.length, b.length);
  const out: Dim[] = [];
  for (let i = 1; i <= rank; i++) {
    const x = a[a.length - i];
    const y = b[b.length - i];
    if (x === undefined || y === undefined) out.unshift(x ?? y ?? dim(1));
    else if (x.text === y.text || dimConstant(y) === 1) out.unshift(x);
    else if (dimConstant(x) === 1) out.unshift(y);
    else return undefined;
  }
  return out;
}

function broadcast(cx: Cx, id: ValueId, shape: readonly Dim[], span: Span): ValueId | undefined {
  const type = graphOf(cx).builder.typeOf(id);
  if (shapeText(type.shape) === shapeText(shape)) return id;
  const made = emit(cx, "broadcast", [{ id, span }], { shape }, span);
  return made.k === "tensor" ? made.id : undefined;
}

/** Applies an elementwise op after bringing its operands to one shape; numbers become tensors. */
export function elementwise(cx: Cx, op: string, args: readonly Placed[], attrs: Attrs, span: Span, symbol: string): Value {
  const build = graphOf(cx);
  const tensors = args.filter((a): a is { value: TensorVal; span: Span } => a.value.k === "tensor");
  const types = tensors.map((t) => build.builder.typeOf(t.value.id));
  let shape: readonly Dim[] = types[0]?.shape ?? [];
  for (const [i, t] of types.entries()) {
    const both = joint(shape, t.shape);
    if (both === undefined) {
      const first = types[0] ?? t;
      if (undecided(cx, [...shape, ...t.shape])) return errorValue;
      cx.report.error("UHD0303", span, `${symbol}: these shapes do not go together`, {
        expected: `${shapeText(shape)}, or sizes of 1`,
        found: shapeText(t.shape),
        notes: [
          { span: tensors[0]?.span ?? span, message: `this is ${typeText(first)}` },
          { span: tensors[i]?.span ?? span, message: `this is ${typeText(t)}` },
          ...[tensors[0], tensors[i]].flatMap((o) => madeNotes(build, o?.value.id)),
          ...originNotes(build, [...first.shape, ...t.shape]),
        ],
      });
      return errorValue;
    }
    shape = both;
  }
  // select's condition does not decide the element type of its branches.
  const leading = op === "select" ? tensors.find((t) => t !== args[0]) : tensors[0];
  const dtype = leading === undefined ? undefined : build.builder.typeOf(leading.value.id).dtype;
  for (const [i, t] of tensors.entries()) {
    const other = types[i];
    if (op === "select" && t === args[0]) continue;
    if (other !== undefined && dtype !== undefined && other.dtype !== dtype) {
      cx.report.error("UHD0304", t.span, `${symbol}: the element types differ`, {
        expected: dtype,
        found: typeText(other),
        notes:
          leading === undefined ? [] : [{ span: leading.span, message: `this is ${typeText(build.builder.typeOf(leading.value.id))}` }],
        help: `cast(x, ${dtype}) converts`,
      });
      return errorValue;
    }
  }
  const ids: { id: ValueId; span: Span }[] = [];
  for (const a of args) {
    const id =
      a.value.k === "tensor"
        ? broadcast(cx, a.value.id, shape, a.span)
        : a.value.k === "host"
          ? scalar(cx, a.value, a.span, op === "select" && a === args[0] ? "bool" : dtype, shape)
          : notTensor(cx, a);
    if (id === undefined) return errorValue;
    ids.push({ id, span: a.span });
  }
  return emit(cx, op, ids, attrs, span);
}

export function notTensor(cx: Cx, a: Placed): undefined {
  if (a.value.k !== "error") {
    cx.report.error("UHD0306", a.span, "this is not a tensor", {
      expected: "a tensor",
      found: a.value.k === "host" ? hostTypeText(a.value.type) : a.value.k === "tuple" ? "a tuple" : a.value.k,
      help: a.value.k === "instance" ? "call it: name(x)" : undefined,
    });
  }
  return undefined;
}

export function unaryTensor(cx: Cx, operator: UnaryOperator, a: TensorVal, aSpan: Span, span: Span): Value {
  return emit(cx, operator === "-" ? "neg" : "logical_not", [{ id: a.id, span: aSpan }], {}, span);
}

export function binaryTensor(cx: Cx, operator: BinaryOperator, a: Placed, b: Placed, span: Span): Value {
  if (operator === "@") return product(cx, a, b, span);
  const op = operators[operator];
  if (op === undefined) {
    cx.report.error("UHD0202", span, `${operator} divides integers of shape code, not tensors`, { help: "floor(a / b)" });
    return errorValue;
  }
  return elementwise(cx, op, [a, b], {}, span, operator);
}

/** `a @ b`: leading dimensions of the larger one are kept; a matrix on the right serves all of them. */
function product(cx: Cx, a: Placed, b: Placed, span: Span): Value {
  const build = graphOf(cx);
  if (a.value.k !== "tensor") return notTensor(cx, a) ?? errorValue;
  if (b.value.k !== "tensor") return notTensor(cx, b) ?? errorValue;
  const [x, y] = [build.builder.typeOf(a.value.id).shape, build.builder.typeOf(b.value.id).shape];
  let left: Value = a.value;
  const right: Value = b.value;
  if (x.length > 2 && y.length === 2) {
    left = emit(cx, "reshape", [{ id: a.value.id, span: a.span }], { shape: [dimProduct(x.slice(0, -1)), x.at(-1) ?? dim(1)] }, span);
    if (left.k !== "tensor") return errorValue;
    const flat = emit(
      cx,
      "matmul",
      [
        { id: left.id, span: a.span },
        { id: b.value.id, span: b.span },
      ],
      { transpose_a: false, transpose_b: false },
      span,
    );
    return flat.k === "tensor"
      ? emit(cx, "reshape", [{ id: flat.id, span }], { shape: [...x.slice(0, -1), y[1] ?? dim(1)] }, span)
      : errorValue;
  }
  if (x.length === 2 && y.length > 2) {
    const id = broadcast(cx, a.value.id, [...y.slice(0, -2), ...x], a.span);
    left = id === undefined ? errorValue : { k: "tensor", id };
  }
  if (left.k !== "tensor" || right.k !== "tensor") return errorValue;
  return emit(
    cx,
    "matmul",
    [
      { id: left.id, span: a.span },
      { id: right.id, span: b.span },
    ],
    { transpose_a: false, transpose_b: false },
    span,
  );
}
