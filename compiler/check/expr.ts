// Meaning of expressions, one grammar for shape code and tensor code: a value is of the host until a tensor
// takes part. Rules of operators are in host.ts and tensor.ts, of calls in calls.ts.

import { closest } from "../diagnostics/index.ts";
import type { Span } from "../ir/loc.ts";
import type { HostClause, HostExpr, HostPattern } from "../ir/plan/host.ts";
import type { Expr, Pattern } from "../syntax/ast.ts";
import { isOpName } from "../../ops/index.ts";
import { constantOf, knownValue } from "./constants.ts";
import { errorValue, type Cx, type HostVal, type Scope, type Value } from "./context.ts";
import { binaryHost, elementOf, fieldHost, indexHost, isBuiltin, unaryHost } from "./host.ts";
import { suggestion } from "./report.ts";
import { subscriptTensor } from "./subscripts.ts";
import { binaryTensor, unaryTensor } from "./tensor.ts";
import { call } from "./calls.ts";
import { asHost, hostExpr, kindText, originOf } from "./values.ts";
import { typeText } from "../ir/graph/build.ts";
import { checkType, madeNotes } from "./shapes.ts";
import { bool, errorType, float, hostTypeText, int, join, listOf, neverType, string, tupleOf, type HostType } from "./types.ts";

function lookup(cx: Cx, name: string, span: Span, scope: Scope): Value {
  const local = scope.find(name);
  if (local !== undefined) {
    if (scope.hostOnly && local.value.k !== "host" && local.value.k !== "error") {
      cx.report.error("UHD0107", span, `${name} is ${kindText(local.value)}, which shape code cannot use`, {
        notes: [{ span: local.span, message: `${name} is defined here` }],
      });
      return errorValue;
    }
    return local.value;
  }
  const global = scope.unit.names.get(name);
  if (global !== undefined) return cx.entityValue(global.entity, name, span);
  if (scope.unit.missing.has(name)) return errorValue;
  const near = closest(name, scope.all());
  cx.report.error("UHD0101", span, `there is nothing named ${name}`, {
    ...(isOpName(name) || isBuiltin(name)
      ? { help: `${name} is a function: ${name}(…)` }
      : suggestion(name, near, near === undefined ? undefined : scope.declaration(near))),
  });
  return errorValue;
}

export function expression(cx: Cx, e: Expr, scope: Scope): Value {
  switch (e.kind) {
    case "int":
      if (!Number.isSafeInteger(e.value)) return tooLarge(cx, e.span, `${Number.MAX_SAFE_INTEGER}`);
      return knownValue(int, e.value);
    case "float":
      if (!Number.isFinite(e.value)) return tooLarge(cx, e.span, `${Number.MAX_VALUE}`);
      return knownValue(float, e.value);
    case "string":
      return knownValue(string, e.value);
    case "bool":
      return knownValue(bool, e.value);
    case "name":
      return lookup(cx, e.name, e.span, scope);
    case "unary": {
      const a = cx.expr(e.operand, scope);
      if (a.k === "error") return errorValue;
      if (a.k === "tensor") return unaryTensor(cx, e.operator, a, e.operand.span, e.span);
      const h = asHost(cx, a, e.operand.span);
      return h === undefined ? errorValue : unaryHost(cx, e.operator, h, e.span);
    }
    case "binary": {
      const a = cx.expr(e.left, scope);
      const b = cx.expr(e.right, scope);
      if (a.k === "error" || b.k === "error") return errorValue;
      if (a.k === "tensor" || b.k === "tensor")
        return binaryTensor(cx, e.operator, { value: a, span: e.left.span }, { value: b, span: e.right.span }, e.span);
      const x = asHost(cx, a, e.left.span);
      const y = asHost(cx, b, e.right.span);
      return x === undefined || y === undefined
        ? errorValue
        : binaryHost(cx, e.operator, x, y, e.span, [...originOf(e.left, scope), ...originOf(e.right, scope)]);
    }
    case "range":
      return range(cx, e, scope);
    case "tuple": {
      const items = e.items.map((i) => cx.expr(i, scope));
      if (items.some((i) => i.k === "error")) return errorValue;
      const hosts = items.filter((i) => i.k === "host");
      if (hosts.length < items.length) return { k: "tuple", items };
      return collected({ k: "list", items: hosts.map((h) => h.expr) }, tupleOf(hosts.map((h) => h.type)), hosts);
    }
    case "list":
      return list(cx, e, scope);
    case "comprehension":
      return comprehension(cx, e, scope);
    case "record": {
      const fields: { name: string; value: HostVal }[] = [];
      let ok = true;
      for (const f of e.fields) {
        const value = hostExpr(cx, f.value, scope);
        if (fields.some((g) => g.name === f.name.name)) cx.report.error("UHD0102", f.name.span, `the field ${f.name.name} is given twice`);
        else if (value === undefined) ok = false;
        else fields.push({ name: f.name.name, value });
      }
      if (!ok) return errorValue;
      return {
        k: "host",
        type: { k: "record", fields: fields.map((f) => ({ name: f.name, type: f.value.type })) },
        expr: { k: "record", fields: fields.map((f) => ({ name: f.name, value: f.value.expr })) },
      };
    }
    case "call":
      return call(cx, e, scope);
    case "subscript":
      return subscript(cx, e, scope);
    case "field":
      return field(cx, e, scope);
    case "if":
      return conditional(cx, e, scope);
    case "choose":
      return choose(cx, e, scope);
    case "block":
      return cx.block(e.block, scope.inner());
    case "error":
      return errorValue;
    default:
      return e satisfies never;
  }
}

function tooLarge(cx: Cx, span: Span, most: string): Value {
  cx.report.error("UHD0005", span, "this number is too large to be exact", { expected: `at most ${most}` });
  return errorValue;
}

/** A tuple or list whose parts are all known is known. */
function collected(expr: HostExpr, type: HostType, parts: readonly HostVal[]): HostVal {
  const known = parts.map((p) => p.known).filter((k) => k !== undefined);
  return known.length === parts.length ? { k: "host", type, expr, parts, known } : { k: "host", type, expr, parts };
}

function range(cx: Cx, e: Extract<Expr, { kind: "range" }>, scope: Scope): Value {
  const from = hostExpr(cx, e.from, scope);
  const to = hostExpr(cx, e.to, scope);
  if (from === undefined || to === undefined) return errorValue;
  for (const [v, span] of [
    [from, e.from.span],
    [to, e.to.span],
  ] as const) {
    if (v.type.k === "int") continue;
    cx.report.error("UHD0201", span, "the ends of a range are integers", { expected: "int", found: hostTypeText(v.type) });
    return errorValue;
  }
  const end: HostExpr = e.inclusive ? { k: "binary", op: "add", a: to.expr, b: { k: "lit", v: 1 } } : to.expr;
  return { k: "host", type: listOf(int), expr: { k: "range", from: from.expr, to: end } };
}

function list(cx: Cx, e: Extract<Expr, { kind: "list" }>, scope: Scope): Value {
  const items = e.items.map((i) => hostExpr(cx, i, scope));
  const good = items.filter((i) => i !== undefined);
  if (good.length < items.length) return errorValue;
  let type: HostType = neverType;
  for (const [i, item] of good.entries()) {
    const both = join(type, item.type);
    if (both === undefined) {
      cx.report.error("UHD0201", e.items[i]?.span ?? e.span, "the elements of a list have one type", {
        expected: hostTypeText(type),
        found: hostTypeText(item.type),
        notes: [
          { span: e.items[0]?.span ?? e.span, message: `the first element is ${hostTypeText(good[0]?.type ?? errorType)}` },
          ...[e.items[i], e.items[0]].flatMap((x) => (x === undefined ? [] : originOf(x, scope))),
        ],
      });
      return errorValue;
    }
    type = both;
  }
  return collected({ k: "list", items: good.map((g) => g.expr) }, listOf(type), good);
}

/** Binds names of a host pattern to fresh variables of the element's type. */
export function hostPattern(cx: Cx, p: Pattern, type: HostType, scope: Scope, from?: Span): HostPattern {
  if (p.kind === "name") {
    if (p.name === "_") return "_";
    if (scope.names.has(p.name)) cx.report.error("UHD0102", p.span, `${p.name} is bound twice in this pattern`);
    const name = scope.namer.fresh(p.name);
    scope.define(p.name, { k: "host", type, expr: { k: "var", name } }, p.span, from === undefined ? {} : { from });
    return name;
  }
  if (type.k === "tuple" && type.items.length === p.items.length) {
    return p.items.map((q, i) => hostPattern(cx, q, type.items[i] ?? errorType, scope, from));
  }
  if (type.k !== "error" && type.k !== "never") {
    cx.report.error("UHD0205", p.span, "the pattern does not fit the value", {
      expected: hostTypeText(type),
      found: `a tuple of ${p.items.length}`,
    });
  }
  return p.items.map((q) => hostPattern(cx, q, errorType, scope));
}

function comprehension(cx: Cx, e: Extract<Expr, { kind: "comprehension" }>, scope: Scope): Value {
  let inner = scope.inner(true);
  const clauses: HostClause[] = [];
  let ok = true;
  for (const c of e.clauses) {
    if (c.kind === "if") {
      const cond = condition(cx, c.condition, inner);
      if (cond === undefined) ok = false;
      else clauses.push({ k: "if", cond: cond.expr });
    } else {
      const from = hostExpr(cx, c.from, inner);
      const type = from === undefined ? errorType : elementOf(cx, from, c.from.span);
      inner = inner.inner(true);
      const pattern = hostPattern(cx, c.pattern, type, inner, c.from.span);
      if (from === undefined || type.k === "error") ok = false;
      else clauses.push({ k: "in", pattern, from: from.expr });
    }
  }
  const body = hostExpr(cx, e.body, inner);
  if (body === undefined || !ok) return errorValue;
  return { k: "host", type: listOf(body.type), expr: { k: "for", clauses, body: body.expr } };
}

function condition(cx: Cx, e: Expr, scope: Scope): HostVal | undefined {
  const v = hostExpr(cx, e, scope);
  if (v === undefined || v.type.k === "bool") return v;
  cx.report.error("UHD0201", e.span, "a condition is a bool", { expected: "bool", found: hostTypeText(v.type) });
  return undefined;
}

function choose(cx: Cx, e: Extract<Expr, { kind: "choose" }>, scope: Scope): Value {
  const from = hostExpr(cx, e.from, scope);
  const type = from === undefined ? errorType : elementOf(cx, from, e.from.span);
  const inner = scope.inner(true);
  const pattern = hostPattern(cx, e.pattern, type, inner, e.from.span);
  const where = e.where === undefined ? undefined : condition(cx, e.where, inner);
  const cost = hostExpr(cx, e.cost, inner);
  if (cost !== undefined && cost.type.k !== "int" && cost.type.k !== "float") {
    cx.report.error("UHD0201", e.cost.span, "what is minimised is a number", { expected: "int or float", found: hostTypeText(cost.type) });
    return errorValue;
  }
  if (from === undefined || cost === undefined || type.k === "error" || (e.where !== undefined && where === undefined)) return errorValue;
  const loc = `${e.span.file}:${e.span.line}:${e.span.column}`;
  return {
    k: "host",
    type,
    expr: { k: "choose", pattern, from: from.expr, ...(where === undefined ? {} : { where: where.expr }), cost: cost.expr, loc },
  };
}

function conditional(cx: Cx, e: Extract<Expr, { kind: "if" }>, scope: Scope): Value {
  const cond = condition(cx, e.condition, scope);
  let open = false;
  const known = cond === undefined || scope.hostOnly ? undefined : constantOf(cx, cond, e.condition.span, () => (open = true));
  if (typeof known === "boolean") {
    // Only the branch that is taken enters the graph.
    return cx.block(known ? e.then : e.otherwise, scope.inner());
  }
  // What runs on the device is settled at compile time, so branches that are not are shape code.
  const shapeCode = cx.build?.abstract !== true;
  const mark = cx.report.mark();
  const then = cx.block(e.then, scope.inner(shapeCode));
  const otherwise = cx.block(e.otherwise, scope.inner(shapeCode));
  // Tensors in the branches: what is wrong is the condition.
  const tensors = shapeCode && !scope.hostOnly ? cx.report.since(mark).filter((d) => d.code === "UHD0107") : [];
  if (tensors[0] !== undefined && cond !== undefined) {
    cx.report.takeBack(mark, (d) => d.code === "UHD0107");
    return open ? undecidedBranch(cx, e, tensors[0].span) : errorValue;
  }
  if (cond === undefined || then.k === "error" || otherwise.k === "error") return errorValue;
  if (then.k === "host" && otherwise.k === "host") {
    const type = join(then.type, otherwise.type);
    if (type === undefined) {
      cx.report.error("UHD0201", e.otherwise.value?.span ?? e.otherwise.span, "the two branches have different types", {
        expected: hostTypeText(then.type),
        found: hostTypeText(otherwise.type),
        notes: [{ span: e.then.value?.span ?? e.then.span, message: `this branch is ${hostTypeText(then.type)}` }],
      });
      return errorValue;
    }
    return { k: "host", type, expr: { k: "if", cond: cond.expr, then: then.expr, else: otherwise.expr } };
  }
  if (cx.build?.abstract === true) {
    if (then.k !== "tensor" || otherwise.k !== "tensor") return errorValue;
    const [a, b] = [cx.build.builder.typeOf(then.id), cx.build.builder.typeOf(otherwise.id)];
    const at = e.otherwise.value?.span ?? e.otherwise.span;
    const notes = [{ span: e.then.value?.span ?? e.then.span, message: `this branch is ${typeText(a)}` }, ...madeNotes(cx.build, then.id)];
    return checkType(cx, cx.build, b, a, "UHD0305", at, "the second branch has another type than the first", notes, otherwise.id)
      ? then
      : errorValue;
  }
  return open ? undecidedBranch(cx, e, e.then.span) : errorValue;
}

function undecidedBranch(cx: Cx, e: Extract<Expr, { kind: "if" }>, tensor: Span): Value {
  cx.report.error("UHD0310", e.condition.span, "the condition between two tensors must be known at compile time", {
    expected: "a bool known at compile time",
    found: "a value of each run",
    notes: [{ span: tensor, message: "this is a tensor" }],
    help: "select(condition, a, b) chooses element by element at run time",
  });
  return errorValue;
}

function field(cx: Cx, e: Extract<Expr, { kind: "field" }>, scope: Scope): Value {
  const of = cx.expr(e.of, scope);
  if (of.k === "error") return errorValue;
  if (of.k === "host") {
    return fieldHost(cx, of, e.name.name, e.name.span, originOf(e.of, scope));
  }
  if (of.k === "tuple") {
    const item = of.items[Number(e.name.name)];
    if (/^\d+$/.test(e.name.name) && item !== undefined) return item;
    cx.report.error("UHD0105", e.name.span, `there is no place .${e.name.name}`, { expected: `.0 to .${of.items.length - 1}` });
    return errorValue;
  }
  if (of.k === "instance") {
    const member = cx.member(of.instance, e.name.name, e.name.span);
    if (member !== undefined) return member;
    return errorValue;
  }
  const name = e.name.name;
  const help = isOpName(name)
    ? { help: `operations are functions: ${name}(…)` }
    : name === "shape" || name === "size"
      ? { help: "sizes have names: those of the signature, or of dim N = …" }
      : {};
  cx.report.error("UHD0105", e.name.span, `${kindText(of)} has no fields`, { found: `.${name}`, ...help });
  return errorValue;
}

function subscript(cx: Cx, e: Extract<Expr, { kind: "subscript" }>, scope: Scope): Value {
  const of = cx.expr(e.of, scope);
  if (of.k === "error") return errorValue;
  if (of.k === "tensor") return subscriptTensor(cx, of, e.at, e.span, e.of.span, scope);
  const only = e.at[0];
  if (only === undefined || e.at.length !== 1 || only.kind !== "index") {
    cx.report.error("UHD0204", e.span, `${kindText(of)} takes one index`, { expected: "one integer in brackets" });
    return errorValue;
  }
  const index = hostExpr(cx, only.value, scope);
  if (index === undefined) return errorValue;
  if (of.k === "host") return indexHost(cx, of, index, e.span);
  if (of.k === "instances") {
    if (index.type.k !== "int") {
      cx.report.error("UHD0201", only.value.span, "modules are indexed by an integer", {
        expected: "int",
        found: hostTypeText(index.type),
      });
      return errorValue;
    }
    const abstract = cx.build?.abstract === true;
    const known = constantOf(cx, index, only.value.span, () => {
      if (!abstract) cx.report.error("UHD0207", only.value.span, "which module is called must be known at compile time");
    });
    if (typeof known !== "number") return abstract ? { k: "instance", instance: of.at(0) } : errorValue;
    if (known < 0 || (of.count !== undefined && known >= of.count)) {
      cx.report.error("UHD0204", only.value.span, `${of.name} has no element ${known}`, {
        expected: `0 to ${(of.count ?? 1) - 1}`,
        found: String(known),
      });
      return errorValue;
    }
    return { k: "instance", instance: of.at(known) };
  }
  cx.report.error("UHD0204", e.span, `${kindText(of)} has no elements`);
  return errorValue;
}
