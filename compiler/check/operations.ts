// Calls of operations by their names: arguments go to operands and attributes, attributes get their values, and errors
// stand at the argument that does not fit. What becomes a node, and operators, are in tensor.ts.

import { closest } from "../diagnostics/index.ts";
import type { Dim } from "../ir/dim.ts";
import type { AttrValue, ValueId } from "../ir/graph/types.ts";
import type { Span } from "../ir/loc.ts";
import type { Ident } from "../syntax/ast.ts";
import { opOf } from "../../ops/index.ts";
import type { AttrSpec, OpDefinition } from "../../ops/define.ts";
import { constantOf, knownValue, sizeOf } from "./constants.ts";
import { errorValue, type Cx, type HostVal, type Value } from "./context.ts";
import { attentionTables } from "./ragged.ts";
import { didYouMean } from "./report.ts";
import { elementwise, emit, graphOf, notTensor, scalar, type Placed } from "./tensor.ts";
import { hostTypeText, int, isNumber, type HostType } from "./types.ts";

interface Given extends Placed {
  readonly name: Ident | undefined;
}

/** A call of an operation by its name: tensors by place or name, attributes by name or by place behind the tensors. */
export function opCall(cx: Cx, name: string, args: readonly Given[], span: Span, nameSpan: Span): Value {
  const op = opOf(name);
  const operands: (Placed | undefined)[] = [];
  const attrs: Record<string, AttrValue> = {};
  const attrSpans = new Map<string, Span>();
  const given = new Map<string, Span>();
  const required = op.operands.filter((o) => o.optional !== true).length;
  let free = op.attrs;
  for (const a of args) {
    const before = a.name === undefined ? undefined : given.get(a.name.name);
    if (before !== undefined && a.name !== undefined) {
      cx.report.error("UHD0102", a.name.span, `${a.name.name} is given twice`, { notes: [{ span: before, message: "it is given here" }] });
      return errorValue;
    }
    if (a.name !== undefined) given.set(a.name.name, a.name.span);
    const operandIndex = a.name === undefined ? -1 : op.operands.findIndex((o) => o.name === a.name?.name);
    const spec = a.name === undefined ? undefined : op.attrs.find((s) => s.name === a.name?.name);
    if (operandIndex >= 0) operands[operandIndex] = a;
    else if (a.name !== undefined && spec === undefined) {
      const names = [...op.attrs.map((s) => s.name), ...op.operands.map((o) => o.name)];
      cx.report.error("UHD0106", a.name.span, `${name} has no argument ${a.name.name}`, {
        expected: names.join(", "),
        found: a.name.name,
        help: didYouMean(closest(a.name.name, names)),
      });
      return errorValue;
    } else if (spec !== undefined) {
      free = free.filter((s) => s !== spec);
      if (!setAttribute(cx, name, spec, a, attrs, attrSpans)) return errorValue;
    } else if (
      a.value.k === "tensor" ||
      operands.length < required ||
      (op.kind === "elementwise" && operands.length < op.operands.length) ||
      op.variadic === true
    ) {
      operands.push(a);
    } else {
      const next = free[0];
      if (next === undefined) {
        cx.report.error("UHD0203", a.span, `${name} takes no more arguments`, { expected: signature(op), notes: [] });
        return errorValue;
      }
      free = free.slice(1);
      if (!setAttribute(cx, name, next, a, attrs, attrSpans)) return errorValue;
    }
  }
  return place(cx, op, operands, attrs, attrSpans, span, nameSpan);
}

function signature(op: OpDefinition): string {
  const attrs = op.attrs.map((a) => `${a.name}: ${a.type}${a.default === undefined ? "" : "?"}`);
  return `${op.name}(${[...op.operands.map((o) => `${o.name}${o.optional === true ? "?" : ""}`), ...attrs].join(", ")})`;
}

function place(
  cx: Cx,
  op: OpDefinition,
  operands: (Placed | undefined)[],
  attrs: Record<string, AttrValue>,
  attrSpans: ReadonlyMap<string, Span>,
  span: Span,
  nameSpan: Span,
): Value {
  const build = graphOf(cx);
  const present = operands.filter((o) => o !== undefined);
  if (present.length < operands.length) {
    const missing = op.operands[operands.findIndex((o) => o === undefined)]?.name ?? "an operand";
    cx.report.error("UHD0203", span, `${op.name} needs ${missing}`, { expected: signature(op) });
    return errorValue;
  }
  const odd = present.find((o) => o.value.k !== "tensor" && !(o.value.k === "host" && isNumber(o.value.type)));
  if (odd !== undefined) return notTensor(cx, odd) ?? errorValue;
  const missing = op.attrs.find((s) => s.default === undefined && attrs[s.name] === undefined);
  if (missing !== undefined) {
    cx.report.error("UHD0309", nameSpan, `${op.name} needs the attribute ${missing.name}`, {
      expected: signature(op),
      found: "nothing",
      help: `${missing.name}: ${missing.doc}`,
    });
    return errorValue;
  }
  if (op.kind === "elementwise" && present.length === op.operands.length && present.length > 1)
    return elementwise(cx, op.name, present, attrs, span, op.name);
  const ids: { id: ValueId; span: Span }[] = [];
  for (const o of present) {
    const id =
      o.value.k === "tensor"
        ? o.value.id
        : o.value.k === "host" && (o.value.type.k === "int" || o.value.type.k === "float")
          ? scalar(cx, o.value, o.span, undefined, [])
          : notTensor(cx, o);
    if (id === undefined) return errorValue;
    ids.push({ id, span: o.span });
  }
  const [q, k] = ids;
  if (op.name === "attention" && ids.length === 3 && q !== undefined && k !== undefined) {
    const [tq, tk] = [build.builder.typeOf(q.id).shape[0], build.builder.typeOf(k.id).shape[0]];
    if (tq !== undefined && tk !== undefined) {
      const tables = attentionTables(cx, build, tq, tk, q.span, k.span);
      if (tables === undefined) return errorValue;
      for (const id of tables) ids.push({ id, span });
    }
  }
  const least = op.operands.filter((o) => o.optional !== true).length;
  if (ids.length < least || (ids.length > op.operands.length && op.variadic !== true)) {
    cx.report.error("UHD0203", span, `${op.name} takes ${least}${op.variadic === true ? " or more" : ""} tensor${least === 1 ? "" : "s"}`, {
      expected: signature(op),
      found: `${ids.length}`,
    });
    return errorValue;
  }
  return emit(cx, op.name, ids, attrs, span, attrSpans);
}

/** Reads an attribute's value. Sizes may be symbolic, all else is known at compile time. */
function setAttribute(cx: Cx, op: string, spec: AttrSpec, a: Placed, attrs: Record<string, AttrValue>, spans: Map<string, Span>): boolean {
  spans.set(spec.name, a.span);
  const value = a.value.k === "host" ? attribute(cx, spec, a.value, a.span) : undefined;
  if (value === undefined) {
    if (a.value.k !== "error" && a.value.k !== "host")
      cx.report.error("UHD0309", a.span, `${spec.name} of ${op} is not a tensor`, {
        expected: written[spec.type],
        found: a.value.k === "tensor" ? "a tensor" : a.value.k,
        help: spec.doc,
      });
    return false;
  }
  if (value !== "undecided") attrs[spec.name] = value;
  return value !== "undecided";
}

const written: Readonly<Record<AttrSpec["type"], string>> = {
  int: "int",
  float: "float",
  bool: "bool",
  string: "string",
  ints: "a list of ints",
  dim: "an integer",
  dims: "a list of integers",
};

function attribute(cx: Cx, spec: AttrSpec, v: HostVal, span: Span): AttrValue | undefined | "undecided" {
  if (v.type.k === "error") return undefined;
  const wrong = (): undefined => {
    cx.report.error("UHD0309", span, `the attribute ${spec.name} has another type`, {
      expected: written[spec.type],
      found: hostTypeText(v.type),
      help: spec.doc,
    });
    return undefined;
  };
  let instead: ReturnType<typeof notKnown>;
  const unknown = (): void => {
    instead = notKnown(cx, spec, span);
  };
  switch (spec.type) {
    case "dim":
      return v.type.k === "int" ? sizeOf(cx, v, span) : wrong();
    case "dims":
      return isSizes(v.type) ? (sizes(cx, v, span, unknown) ?? instead) : wrong();
    case "int":
    case "float":
    case "bool":
    case "string": {
      const ok = spec.type === v.type.k || (spec.type === "float" && v.type.k === "int");
      if (!ok) return wrong();
      const known = constantOf(cx, v, span, unknown);
      if (known === undefined) return instead;
      return typeof known === "object" ? wrong() : known;
    }
    case "ints": {
      if (v.type.k !== "int" && !(v.type.k === "list" && (v.type.of.k === "int" || v.type.of.k === "never"))) return wrong();
      const known = constantOf(cx, v, span, unknown);
      if (known === undefined) return instead;
      return typeof known === "number" ? [known] : Array.isArray(known) ? (known as readonly number[]) : wrong();
    }
    default:
      return spec.type satisfies never;
  }
}

function notKnown(cx: Cx, spec: AttrSpec, span: Span): AttrValue | undefined | "undecided" {
  if (cx.build?.abstract === true) {
    // The value does not matter for types, except where it counts axes.
    return spec.type === "float" ? 1 : spec.type === "bool" ? false : "undecided";
  }
  cx.report.error(
    "UHD0309",
    span,
    spec.type === "dims" ? `how many sizes ${spec.name} has must be known at compile time` : `${spec.name} must be known at compile time`,
    {
      expected: written[spec.type],
      found: "a value of each run",
      help: spec.doc,
    },
  );
  return undefined;
}

function isSizes(type: HostType): boolean {
  const items = type.k === "list" ? [type.of] : type.k === "tuple" ? type.items : undefined;
  return items?.every((t) => t.k === "int" || (type.k === "list" && t.k === "never")) === true;
}

/** A list of integers as sizes. */
function sizes(cx: Cx, v: HostVal, span: Span, unknown: () => void): readonly Dim[] | undefined {
  const parts = listParts(cx, v, span, unknown);
  const out = parts?.map((p) => sizeOf(cx, p, span)) ?? [];
  const good = out.filter((d) => d !== undefined);
  return parts === undefined || good.length < out.length ? undefined : good;
}

/** The elements of a list written out; their sizes were computed when it was checked. */
function listParts(cx: Cx, v: HostVal, span: Span, unknown: () => void): readonly HostVal[] | undefined {
  if (v.parts !== undefined) return v.parts;
  const known = constantOf(cx, v, span, unknown);
  return Array.isArray(known) ? known.map((n) => knownValue(int, Number(n))) : undefined;
}
