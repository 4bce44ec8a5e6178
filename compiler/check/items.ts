// Meaning of a file's declarations outside modules and graphs: types, configuration, constants and shape
// functions. Each is checked when it is first needed and at the latest when the file is.

import { closest } from "../diagnostics/index.ts";
import { isDType } from "../ir/dtype.ts";
import type { Span } from "../ir/loc.ts";
import type { HostValue } from "../ir/plan/host.ts";
import type { Expr, Parameter, TypeExpr } from "../syntax/ast.ts";
import { constantOf, knownValue } from "./constants.ts";
import {
  errorValue,
  Namer,
  referring,
  Scope,
  type Cx,
  type Entity,
  type FunctionInfo,
  type HostVal,
  type Unit,
  type Value,
} from "./context.ts";
import { blame } from "./blame.ts";
import { suggestion } from "./report.ts";
import { bool, errorType, fits, float, hostTypeText, int, listOf, string, tupleOf, type FieldType, type HostType } from "./types.ts";

const base: Readonly<Record<string, HostType>> = { int, float, bool, string };

/** The type of shape code that `t` writes. Reports unknown names, circular aliases and tensor types. */
export function hostTypeOf(cx: Cx, t: TypeExpr, unit: Unit): HostType {
  switch (t.kind) {
    case "name": {
      const simple = Object.hasOwn(base, t.name) ? base[t.name] : undefined;
      if (simple !== undefined) return simple;
      const entity = unit.names.get(t.name)?.entity;
      if (entity?.k === "type") return aliasType(cx, entity, t.span);
      if (unit.missing.has(t.name)) return errorType;
      const known = [...Object.keys(base), ...[...unit.names].filter(([, n]) => n.entity.k === "type").map(([name]) => name)];
      const near = closest(t.name, known);
      cx.report.error("UHD0103", t.span, entity === undefined ? `there is no type ${t.name}` : `${t.name} is not a type`, {
        expected: "int, float, bool, string or the name of a type",
        found: t.name,
        ...suggestion(t.name, near, near === undefined ? undefined : unit.names.get(near)?.span),
        ...(isDType(t.name) ? { help: `a tensor type has its sizes in brackets: ${t.name}[…]` } : {}),
      });
      return errorType;
    }
    case "list":
      return listOf(hostTypeOf(cx, t.element, unit));
    case "tuple":
      return tupleOf(t.items.map((i) => hostTypeOf(cx, i, unit)));
    case "record": {
      const fields: FieldType[] = [];
      for (const f of t.fields) {
        if (fields.some((g) => g.name === f.name.name)) cx.report.error("UHD0102", f.name.span, `the field ${f.name.name} is given twice`);
        else fields.push({ name: f.name.name, type: hostTypeOf(cx, f.type, unit), span: f.name.span });
      }
      return { k: "record", fields };
    }
    case "tensor":
      cx.report.error("UHD0103", t.span, "a tensor cannot be a value of shape code", {
        expected: "int, float, bool, string, a list, tuple or record",
      });
      return errorType;
    case "error":
      return errorType;
    default:
      return t satisfies never;
  }
}

function aliasType(cx: Cx, entity: Extract<Entity, { k: "type" }>, span: Span): HostType {
  if (entity.state === "open") {
    cx.report.error("UHD0103", span, `the type ${entity.item.name.name} contains itself`, {
      notes: [{ span: entity.item.name.span, message: "it is declared here" }],
    });
    return errorType;
  }
  if (entity.state === "new") {
    entity.state = "open";
    entity.type = referring(cx, span, () => hostTypeOf(cx, entity.item.type, entity.unit));
    entity.state = "done";
  }
  return entity.type;
}

/** Checks that `v`, the value of `e`, fits `type` and gives it that type. */
export function coerce(
  cx: Cx,
  v: HostVal,
  type: HostType,
  e: Expr | undefined,
  span: Span,
  declared: Span | undefined,
  what: string,
): Value {
  if (fits(v.type, type)) return { ...v, type };
  const notes = declared === undefined ? [] : [{ span: declared, message: "the type is declared here" }];
  if (e === undefined || !blame(cx, e, type, notes)) {
    cx.report.error("UHD0201", span, `${what} has another type than declared`, {
      expected: hostTypeText(type),
      found: hostTypeText(v.type),
      notes,
    });
  }
  return errorValue;
}

/** A text of the command line as a value of a type; undefined when it is none. */
function parseOverride(text: string, type: HostType): HostValue | undefined {
  switch (type.k) {
    case "int":
      return /^[+-]?\d+$/.test(text.trim()) && Number.isSafeInteger(Number(text)) ? Number(text) : undefined;
    case "float": {
      const value = Number(text);
      return text.trim() !== "" && Number.isFinite(value) ? value : undefined;
    }
    case "bool":
      return text === "true" ? true : text === "false" ? false : undefined;
    case "string":
      return text;
    default:
      return undefined;
  }
}

/** The value of a config or const: evaluated once. */
export function constantValue(cx: Cx, entity: Extract<Entity, { k: "constant" }>, span: Span): Value {
  if (entity.state === "open") {
    cx.report.error("UHD0207", span, `${entity.item.name.name} is defined by itself`, {
      notes: [{ span: entity.item.name.span, message: "it is declared here" }],
    });
    return errorValue;
  }
  if (entity.state === "done") return entity.value;
  entity.state = "open";
  entity.value = referring(cx, span, () => evaluateConstant(cx, entity));
  entity.state = "done";
  return entity.value;
}

function evaluateConstant(cx: Cx, entity: Extract<Entity, { k: "constant" }>): Value {
  const { item, unit } = entity;
  const before = cx.build;
  cx.build = undefined;
  const given = cx.expr(item.value, new Scope(unit, new Namer(), undefined, true));
  cx.build = before;
  const declared = item.type === undefined ? undefined : hostTypeOf(cx, item.type, unit);
  if (given.k !== "host") return errorValue;
  const value = declared === undefined ? given : coerce(cx, given, declared, item.value, item.value.span, item.type?.span, item.name.name);
  if (value.k !== "host") return errorValue;
  const text = item.kind === "config" ? cx.overrides.get(item.name.name) : undefined;
  if (text !== undefined) {
    const override = parseOverride(text, value.type);
    if (override !== undefined) return knownValue(value.type, override);
    cx.report.error("UHD0408", item.name.span, `--set ${item.name.name}=${text} does not fit`, {
      expected: hostTypeText(value.type),
      found: JSON.stringify(text),
    });
    return errorValue;
  }
  const known = constantOf(cx, value, item.value.span);
  return known === undefined ? errorValue : knownValue(value.type, known);
}

/** A function's parameter and result types. Checks its body when it is first asked for. */
export function signatureOf(cx: Cx, info: FunctionInfo): { readonly params: readonly HostType[]; readonly result: HostType } {
  const { item, unit } = info;
  info.params ??= item.params.map((p) => hostTypeOf(cx, p.type, unit));
  if (item.result !== undefined) info.result ??= hostTypeOf(cx, item.result, unit);
  if (info.state === "open" && info.result === undefined) {
    cx.report.error("UHD0206", item.name.span, `${item.name.name} calls itself, so its result type must be written`, {
      help: `fn ${item.name.name}(…) -> TYPE`,
    });
    info.result = errorType;
    info.broken = true;
  }
  const { params } = info;
  if (info.state === "new")
    referring(cx, item.name.span, () => {
      checkBody(cx, info, params);
    });
  return { params: info.params, result: info.result ?? errorType };
}

function checkBody(cx: Cx, info: FunctionInfo, params: readonly HostType[]): void {
  const { item, unit } = info;
  info.state = "open";
  const before = cx.report.errors;
  const namer = new Namer();
  const scope = new Scope(unit, namer, undefined, true);
  const names = item.params.map((p, i) => {
    if (scope.names.has(p.name.name)) cx.report.error("UHD0102", p.name.span, `the parameter ${p.name.name} is given twice`);
    if (p.value !== undefined) cx.report.error("UHD0209", p.value.span, "parameters of shape functions have no defaults");
    noBounds(cx, p);
    const name = namer.fresh(p.name.name);
    scope.define(p.name.name, { k: "host", type: params[i] ?? errorType, expr: { k: "var", name } }, p.name.span);
    return name;
  });
  const build = cx.build;
  const uses = cx.report.uses;
  cx.build = undefined;
  cx.report.uses = [];
  const value = cx.block(item.body, scope);
  cx.build = build;
  cx.report.uses = uses;
  let body = value.k === "host" ? value : undefined;
  if (info.result !== undefined && body !== undefined) {
    const place = item.body.value?.span ?? item.body.span;
    const fitting = coerce(cx, body, info.result, item.body.value, place, item.result?.span, `the value of ${item.name.name}`);
    body = fitting.k === "host" ? fitting : undefined;
  }
  info.result ??= body?.type ?? errorType;
  if (info.result.k === "never") info.result = errorType;
  if (body === undefined || cx.report.errors > before) info.broken = true;
  cx.functions.set(info.name, { name: info.name, params: names, body: body?.expr ?? { k: "lit", v: 0 } });
  info.state = "done";
}

/** Only integers that a graph is given have bounds of their own. */
export function noBounds(cx: Cx, p: Parameter): void {
  if (p.bounds !== undefined)
    cx.report.error("UHD0308", p.bounds.span, "bounds are for the sizes of a tensor and the integers of a graph", {
      expected: "f32[H in 1..=20000], or n: int in 0..=9 in a graph",
    });
}
