// Meaning of expressions, one grammar for shape code and tensor code: a value is of the host until a tensor
// takes part. Rules of operators and calls are in host.ts, tensor.ts and modules.ts.

import { closest } from "../diagnostics/index.ts";
import type { Span } from "../ir/loc.ts";
import type { HostClause, HostExpr, HostPattern } from "../ir/plan/host.ts";
import type { Expr, Pattern } from "../syntax/ast.ts";
import { constantOf, knownValue } from "./constants.ts";
import { errorValue, type Cx, type HostVal, type Scope, type Value } from "./context.ts";
import { binaryHost, builtinCall, elementOf, fieldHost, functionCall, indexHost, isBuiltin, unaryHost } from "./host.ts";
import { suggestion } from "./report.ts";
import { binaryTensor, opCall, isOp, opNameList, subscriptTensor, unaryTensor } from "./tensor.ts";
import { raggedCall } from "./ragged.ts";
import { typeText } from "../ir/graph/build.ts";
import { checkType, madeNotes } from "./shapes.ts";
import { bool, errorType, float, hostTypeText, int, join, listOf, neverType, string, tupleOf, type HostType } from "./types.ts";

/** A value that is expected to be of the host. */
export function hostExpr(cx: Cx, e: Expr, scope: Scope): HostVal | undefined {
  const v = cx.expr(e, scope);
  return asHost(cx, v, e.span);
}

export function asHost(cx: Cx, v: Value, span: Span): HostVal | undefined {
  if (v.k === "host") return v.type.k === "error" ? undefined : v;
  if (v.k !== "error")
    cx.report.error("UHD0107", span, `${kindText(v)} cannot be used in shape code`, {
      expected: "an int, float, bool, string, list, tuple or record",
      found: kindText(v),
    });
  return undefined;
}

export function kindText(v: Value): string {
  switch (v.k) {
    case "host":
      return hostTypeText(v.type);
    case "tensor":
      return "a tensor";
    case "instance":
      return `the module ${v.instance.entity.item.name.name}`;
    case "instances":
      return "an array of modules";
    case "tuple":
      return "a tuple of tensors";
    case "function":
      return `the function ${v.fn.item.name.name}`;
    case "module":
      return `the module ${v.entity.item.name.name}`;
    case "forward":
      return `${v.instance.entity.item.name.name}.${v.forward.name.name}`;
    case "error":
      return "an error";
    default:
      return v satisfies never;
  }
}

export function lookup(cx: Cx, name: string, span: Span, scope: Scope): Value {
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
    ...(isOp(name) || isBuiltin(name)
      ? { help: `${name} is a function: ${name}(…)` }
      : suggestion(near, near === undefined ? undefined : scope.declaration(near))),
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
      return x === undefined || y === undefined ? errorValue : binaryHost(cx, e.operator, x, y, e.span);
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
        notes: [{ span: e.items[0]?.span ?? e.span, message: `the first element is ${hostTypeText(good[0]?.type ?? errorType)}` }],
      });
      return errorValue;
    }
    type = both;
  }
  return collected({ k: "list", items: good.map((g) => g.expr) }, listOf(type), good);
}

/** Binds names of a host pattern to fresh variables of the element's type. */
export function hostPattern(cx: Cx, p: Pattern, type: HostType, scope: Scope): HostPattern {
  if (p.kind === "name") {
    if (p.name === "_") return "_";
    if (scope.names.has(p.name)) cx.report.error("UHD0102", p.span, `${p.name} is bound twice in this pattern`);
    const name = scope.namer.fresh(p.name);
    scope.define(p.name, { k: "host", type, expr: { k: "var", name } }, p.span);
    return name;
  }
  if (type.k === "tuple" && type.items.length === p.items.length) {
    return p.items.map((q, i) => hostPattern(cx, q, type.items[i] ?? errorType, scope));
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
      const pattern = hostPattern(cx, c.pattern, type, inner);
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
  const pattern = hostPattern(cx, e.pattern, type, inner);
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
  const known = cond === undefined || scope.hostOnly ? undefined : constantOf(cx, cond, e.condition.span);
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
    return undecidedBranch(cx, e, tensors[0].span);
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
  return undecidedBranch(cx, e, e.then.span);
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
  if (of.k === "host") return fieldHost(cx, of, e.name.name, e.name.span);
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
  cx.report.error("UHD0105", e.name.span, `${kindText(of)} has no fields`, { found: `.${e.name.name}` });
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
    const known = constantOf(cx, index, only.value.span);
    if (typeof known !== "number") {
      if (cx.build?.abstract === true) return { k: "instance", instance: of.at(0) };
      cx.report.error("UHD0207", only.value.span, "which module is called must be known at compile time");
      return errorValue;
    }
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

function call(cx: Cx, e: Extract<Expr, { kind: "call" }>, scope: Scope): Value {
  const callee = e.callee;
  const name = callee.kind === "name" ? callee.name : undefined;
  const declared = name !== undefined && (scope.find(name) !== undefined || scope.unit.names.has(name) || scope.unit.missing.has(name));
  if (name !== undefined && !declared) return builtin(cx, name, callee.span, e, scope);
  const target = cx.expr(callee, scope);
  if (target.k === "error") {
    for (const a of e.args) cx.expr(a.value, scope);
    return errorValue;
  }
  if (target.k === "function") {
    const values = e.args.map((a) => hostExpr(cx, a.value, scope));
    const good = values.filter((v) => v !== undefined);
    if (good.length < values.length) return errorValue;
    return functionCall(cx, target.fn, e.args, good, e.span);
  }
  if (target.k === "instance" || target.k === "forward") {
    const args = e.args.map((a) => ({ value: cx.expr(a.value, scope), e: a.value, span: a.value.span, name: a.name?.name }));
    const forwards = target.instance.entity.item.members.filter((m) => m.kind === "forward");
    const forward = target.k === "forward" ? target.forward : forwards.find((f) => f.name.name === "forward");
    if (forward === undefined) {
      cx.report.error("UHD0107", callee.span, `the module ${target.instance.entity.item.name.name} has no forward`, {
        notes: [{ span: target.instance.entity.item.name.span, message: "it is declared here" }],
      });
      return errorValue;
    }
    return cx.callInstance(target.instance, forward, args, e.span);
  }
  cx.report.error("UHD0107", callee.span, `${kindText(target)} cannot be called`, {
    help:
      target.k === "module"
        ? `make an instance first: use layer = ${target.entity.item.name.name}(…)`
        : target.k === "instances"
          ? "choose one: name[i](…)"
          : undefined,
  });
  return errorValue;
}

function builtin(cx: Cx, name: string, nameSpan: Span, e: Extract<Expr, { kind: "call" }>, scope: Scope): Value {
  const ragged = raggedCall(cx, name, e, scope);
  if (ragged !== undefined) return ragged;
  if (!isBuiltin(name) && !isOp(name)) {
    for (const a of e.args) cx.expr(a.value, scope);
    const near = closest(name, [...scope.all(), ...opNameList, ...builtinNames(scope)]);
    cx.report.error(
      "UHD0104",
      nameSpan,
      `there is no function, module or operation named ${name}`,
      suggestion(near, near === undefined ? undefined : scope.declaration(near)),
    );
    return errorValue;
  }
  if (!isBuiltin(name) && scope.hostOnly) {
    cx.report.error("UHD0107", nameSpan, `${name} is an operation on tensors, which shape code cannot use`);
    return errorValue;
  }
  const opInGraph = isOp(name) && !scope.hostOnly;
  const args = e.args.map((a) => ({ arg: a, value: dtypeName(a.value, opInGraph) ?? cx.expr(a.value, scope) }));
  if (args.some((a) => a.value.k === "error")) return errorValue;
  if (isBuiltin(name) && args.every((a) => a.value.k === "host") && !(opInGraph && args.some((a) => a.arg.name !== undefined))) {
    return builtinCall(
      cx,
      name,
      e.args,
      args.map((a) => a.value).filter((v) => v.k === "host"),
      e.span,
    );
  }
  if (!isOp(name)) {
    const tensor = args.find((a) => a.value.k !== "host");
    cx.report.error("UHD0107", tensor?.arg.value.span ?? e.span, `${name} is a function of shape code and takes no tensors`);
    return errorValue;
  }
  return opCall(
    cx,
    name,
    args.map((a) => ({ value: a.value, span: a.arg.value.span, name: a.arg.name })),
    e.span,
    nameSpan,
  );
}

function builtinNames(scope: Scope): readonly string[] {
  return scope.hostOnly ? builtinList : [...builtinList, "offsets", "segment", "lengths"];
}

const builtinList: readonly string[] = [
  "ceil",
  "floor",
  "trunc",
  "round",
  "float",
  "abs",
  "sqrt",
  "exp",
  "ln",
  "sin",
  "cos",
  "clamp",
  "min",
  "max",
  "sum",
  "len",
  "flatten",
  "zip",
  "enumerate",
  "fill",
  "pillow_taps",
  "pad_taps",
  "bicubic_taps",
];

const dtypeNames = new Set(["f32", "f16", "bf16", "u8", "i8", "i32", "bool"]);

/** `f32` among the arguments of an operation is the element type's name. */
function dtypeName(e: Expr, inOp: boolean): Value | undefined {
  return inOp && e.kind === "name" && dtypeNames.has(e.name) ? knownValue(string, e.name) : undefined;
}
