// Types of shape-code operations: operators, fields, indexing, calls of built-ins and of user functions, on
// values already checked. Chooses integer or float arithmetic; keeps sizes as sizes where the result is one.

import type { Argument, BinaryOperator, UnaryOperator } from "../syntax/ast.ts";
import { closest, type Note } from "../diagnostics/index.ts";
import { dim, dimAdd, dimConstant, dimDiv, dimMax, dimMin, dimMod, dimMul, dimSub, type Dim } from "../ir/dim.ts";
import type { Span } from "../ir/loc.ts";
import type { HostBinary, HostExpr } from "../ir/plan/host.ts";
import { hostBuiltins } from "../ir/plan/host-builtins.ts";
import { knownValue, sizing } from "./constants.ts";
import { errorValue, locationText, type Cx, type FunctionInfo, type HostVal, type Value } from "./context.ts";
import { suggestion } from "./report.ts";
import { applySignature, parseSignature } from "./signatures.ts";
import { bool, errorType, fits, float, hostTypeText, int, isNumber, join, string, type HostType } from "./types.ts";

const operators: Readonly<Record<Exclude<BinaryOperator, "@">, HostBinary>> = {
  "+": "add",
  "-": "sub",
  "*": "mul",
  "/": "div",
  "//": "idiv",
  "%": "imod",
  "**": "pow",
  "==": "eq",
  "!=": "ne",
  "<": "lt",
  "<=": "le",
  ">": "gt",
  ">=": "ge",
  and: "and",
  or: "or",
};

const sizeRules: Partial<Readonly<Record<BinaryOperator, (a: Dim, b: Dim) => Dim>>> = {
  "+": dimAdd,
  "-": dimSub,
  "*": dimMul,
  "//": dimDiv,
  "%": dimMod,
};

function host(type: HostType, expr: HostExpr, size?: Dim): HostVal {
  const c = size === undefined ? undefined : dimConstant(size);
  if (c !== undefined) return knownValue(int, c);
  return size === undefined ? { k: "host", type, expr } : { k: "host", type, expr, dim: size };
}

/** The result type of `a operator b`, undefined where there is none. */
function binaryType(operator: BinaryOperator, a: HostType, b: HostType): HostType | undefined {
  if (a.k === "error" || b.k === "error") {
    return ["==", "!=", "<", "<=", ">", ">=", "and", "or"].includes(operator) ? bool : errorType;
  }
  switch (operator) {
    case "+":
      if (a.k === "list" && b.k === "list") return join(a, b);
      if (a.k === "string" && b.k === "string") return string;
      return isNumber(a) && isNumber(b) ? join(a, b) : undefined;
    case "-":
    case "*":
      return isNumber(a) && isNumber(b) ? join(a, b) : undefined;
    case "**":
      // An integer power may be negative, which gives a float.
      return isNumber(a) && isNumber(b) ? float : undefined;
    case "/":
      return isNumber(a) && isNumber(b) ? float : undefined;
    case "//":
    case "%":
      return a.k === "int" && b.k === "int" ? int : undefined;
    case "<":
    case "<=":
    case ">":
    case ">=":
      return isNumber(a) && isNumber(b) ? bool : undefined;
    case "==":
    case "!=":
      return join(a, b) === undefined ? undefined : bool;
    case "and":
    case "or":
      return a.k === "bool" && b.k === "bool" ? bool : undefined;
    case "@":
      return undefined;
    default:
      return operator satisfies never;
  }
}

export function binaryHost(cx: Cx, operator: BinaryOperator, a: HostVal, b: HostVal, span: Span, notes: readonly Note[]): Value {
  let type = binaryType(operator, a.type, b.type);
  if (type === undefined || operator === "@") {
    const integers = (operator === "//" || operator === "%") && isNumber(a.type) && isNumber(b.type);
    cx.report.error("UHD0202", span, `${operator} does not take these types`, {
      expected: expectation(operator),
      found: `${hostTypeText(a.type)} ${operator} ${hostTypeText(b.type)}`,
      notes,
      help: integers ? "/ divides floats; floor(a / b) is an integer" : undefined,
    });
    return errorValue;
  }
  if (type.k === "error") return errorValue;
  const op = operators[operator];
  const expr: HostExpr = { k: "binary", op: op === "add" && type.k === "list" ? "concat" : op, a: a.expr, b: b.expr };
  const size = sizeRules[operator];
  if (type.k === "int" && size !== undefined && a.dim !== undefined && b.dim !== undefined) {
    const [x, y] = [a.dim, b.dim];
    const made = sizing(cx, span, () => size(x, y));
    return made === undefined ? errorValue : host(int, expr, made);
  }
  if (operator === "**" && a.type.k === "int" && b.type.k === "int") {
    const e = b.dim === undefined ? undefined : dimConstant(b.dim);
    if (e !== undefined && e >= 0) type = int;
    const base = a.dim === undefined ? undefined : dimConstant(a.dim);
    if (type.k === "int" && e !== undefined && base !== undefined && Number.isSafeInteger(base ** e)) return knownValue(int, base ** e);
    if (type.k === "int" && e !== undefined && e <= 8 && a.dim !== undefined) {
      const d = a.dim;
      return host(int, expr, new Array<Dim>(e).fill(d).reduce(dimMul, dim(1)));
    }
  }
  return host(type, expr);
}

function expectation(operator: BinaryOperator): string {
  switch (operator) {
    case "+":
      return "two numbers, two lists or two strings";
    case "//":
    case "%":
      return "two integers";
    case "and":
    case "or":
      return "two bools";
    case "==":
    case "!=":
      return "two values of one type";
    case "@":
      return "two tensors";
    default:
      return "two numbers";
  }
}

export function unaryHost(cx: Cx, operator: UnaryOperator, a: HostVal, span: Span): Value {
  if (a.type.k === "error") return errorValue;
  if (operator === "not" ? a.type.k !== "bool" : !isNumber(a.type)) {
    cx.report.error("UHD0202", span, `${operator} does not take this type`, {
      expected: operator === "not" ? "bool" : "int or float",
      found: hostTypeText(a.type),
    });
    return errorValue;
  }
  if (operator === "not") return host(bool, { k: "unary", op: "not", a: a.expr });
  if (a.type.k === "float" && typeof a.known === "number") return knownValue(float, -a.known);
  return host(a.type, { k: "unary", op: "neg", a: a.expr }, a.dim === undefined ? undefined : dimSub(dim(0), a.dim));
}

/** `of.name`: a field of a record, or a place of a tuple. */
export function fieldHost(cx: Cx, of: HostVal, name: string, span: Span, notes: readonly Note[]): Value {
  const t = of.type;
  if (t.k === "error") return errorValue;
  if (t.k === "record") {
    const field = t.fields.find((f) => f.name === name);
    if (field !== undefined) {
      if (typeof of.known === "object" && Object.hasOwn(of.known, name)) {
        return knownValue(field.type, (of.known as Record<string, never>)[name] as never);
      }
      return host(field.type, { k: "field", of: of.expr, name });
    }
    const fields = t.fields.map((f) => f.name);
    const near = closest(name, fields);
    cx.report.error("UHD0105", span, `there is no field ${name}`, {
      expected: `one of ${fields.join(", ")}`,
      found: name,
      ...suggestion(name, near, t.fields.find((f) => f.name === near)?.span),
    });
    return errorValue;
  }
  if (t.k === "tuple" && /^\d+$/.test(name)) {
    const item = t.items[Number(name)];
    if (item !== undefined) {
      if (Array.isArray(of.known)) return knownValue(item, of.known[Number(name)] as never);
      return host(item, { k: "index", of: of.expr, at: { k: "lit", v: Number(name) } });
    }
    cx.report.error("UHD0105", span, `there is no place .${name} in a tuple of ${t.items.length}`, {
      expected: `.0 to .${t.items.length - 1}`,
      found: hostTypeText(t),
      notes,
    });
    return errorValue;
  }
  cx.report.error("UHD0105", span, `${hostTypeText(t)} has no field ${name}`, {
    expected: t.k === "tuple" ? `a place, .0 to .${t.items.length - 1}` : "a record",
    found: hostTypeText(t),
    notes,
  });
  return errorValue;
}

/** `of[at]` of a list. */
export function indexHost(cx: Cx, of: HostVal, at: HostVal, span: Span): Value {
  if (of.type.k === "error" || at.type.k === "error") return errorValue;
  if (of.type.k !== "list") {
    cx.report.error("UHD0204", span, "only lists and tensors have elements in brackets", {
      expected: "a list",
      found: hostTypeText(of.type),
      help: of.type.k === "tuple" ? "places of a tuple are .0, .1, …" : undefined,
    });
    return errorValue;
  }
  if (at.type.k !== "int") {
    cx.report.error("UHD0201", span, "a list is indexed by an integer", { expected: "int", found: hostTypeText(at.type) });
    return errorValue;
  }
  return host(of.type.of, { k: "index", of: of.expr, at: at.expr });
}

/** Whether no argument is named, which is reported, and none is an error. */
function positional(cx: Cx, args: readonly Argument[], values: readonly HostVal[], callee: string): boolean {
  for (const a of args) {
    if (a.name !== undefined) {
      cx.report.error("UHD0106", a.name.span, `${callee} takes its arguments by place`, { expected: "no name", found: `${a.name.name}:` });
      return false;
    }
  }
  return values.every((v) => v.type.k !== "error");
}

export function isBuiltin(name: string): boolean {
  return Object.hasOwn(hostBuiltins, name);
}

export function builtinCall(cx: Cx, name: string, args: readonly Argument[], values: readonly HostVal[], span: Span): Value {
  const builtin = Object.hasOwn(hostBuiltins, name) ? hostBuiltins[name] : undefined;
  if (builtin === undefined || !positional(cx, args, values, name)) return errorValue;
  const applied = applySignature(
    parseSignature(builtin.signature),
    values.map((v) => v.type),
  );
  if (!applied.ok) {
    const at = applied.reason === "type" ? (args[applied.argument]?.span ?? span) : span;
    if (applied.reason === "count") {
      cx.report.error("UHD0203", span, `${name} takes ${applied.expected} argument${applied.expected === "1" ? "" : "s"}`, {
        expected: `${name}${builtin.signature}`,
        found: `${values.length} argument${values.length === 1 ? "" : "s"}`,
      });
    } else {
      const type = values[applied.argument]?.type ?? errorType;
      cx.report.error("UHD0201", at, `argument ${applied.argument + 1} of ${name} does not fit`, {
        expected: applied.expected,
        found: hostTypeText(type),
        notes: [{ message: `${name}${builtin.signature}: ${builtin.doc}` }],
      });
    }
    return errorValue;
  }
  const expr: HostExpr = { k: "call", fn: name, args: values.map((v) => v.expr), loc: locationText(span) };
  if ((name === "min" || name === "max") && applied.result.k === "int" && values.length > 1 && values.every((v) => v.dim !== undefined)) {
    const dims = values.map((v) => v.dim).filter((d) => d !== undefined);
    return host(int, expr, dims.reduce(name === "min" ? dimMin : dimMax));
  }
  return host(applied.result, expr);
}

/** `origins` has for each argument the notes of where it comes from. */
export function functionCall(
  cx: Cx,
  fn: FunctionInfo,
  args: readonly Argument[],
  values: readonly HostVal[],
  span: Span,
  origins: readonly (readonly Note[])[],
): Value {
  const { params, result } = cx.signature(fn);
  const name = fn.item.name.name;
  if (!positional(cx, args, values, name))
    return result.k === "error" ? errorValue : host(result, { k: "call", fn: fn.name, args: [], loc: "" });
  const declared = { span: fn.item.name.span, message: `${name} is declared here` };
  if (params.length !== values.length) {
    cx.report.error("UHD0203", span, `${name} takes ${params.length} argument${params.length === 1 ? "" : "s"}`, {
      expected: fn.item.params.map((p, i) => `${p.name.name}: ${hostTypeText(params[i] ?? errorType)}`).join(", ") || "nothing",
      found: `${values.length} argument${values.length === 1 ? "" : "s"}`,
      notes: [declared],
    });
    return errorValue;
  }
  let ok = true;
  values.forEach((v, i) => {
    const want = params[i] ?? errorType;
    if (fits(v.type, want)) return;
    ok = false;
    cx.report.error("UHD0201", args[i]?.value.span ?? span, `argument ${fn.item.params[i]?.name.name ?? i + 1} of ${name} does not fit`, {
      expected: hostTypeText(want),
      found: hostTypeText(v.type),
      notes: [{ span: fn.item.params[i]?.span ?? fn.item.span, message: "the parameter is declared here" }, ...(origins[i] ?? [])],
    });
  });
  if (!ok || result.k === "error") return errorValue;
  return host(result, { k: "call", fn: fn.name, args: values.map((v) => v.expr), loc: locationText(span) });
}

/** A list or a range as what `for`, `choose` and `repeat` go over. */
export function elementOf(cx: Cx, v: HostVal, span: Span): HostType {
  if (v.type.k === "list") return v.type.of;
  if (v.type.k !== "error") {
    cx.report.error("UHD0204", span, "only a list or a range can be gone over", { expected: "a list", found: hostTypeText(v.type) });
  }
  return errorType;
}
