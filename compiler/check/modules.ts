// Modules: instances with their arguments and checkpoint paths, parameters, and calls of forward. A call is
// elaborated in place; the location of every node keeps the chain of calls.

import { closest } from "../diagnostics/index.ts";
import { dimConstant } from "../ir/dim.ts";
import { typeText } from "../ir/graph/build.ts";
import type { ParamInit } from "../ir/graph/types.ts";
import type { Span } from "../ir/loc.ts";
import type { Expr, ForwardItem, ParamItem, UseItem } from "../syntax/ast.ts";
import { constantOf, knownValue } from "./constants.ts";
import {
  errorValue,
  Scope,
  TooLarge,
  type Build,
  type Cx,
  type GivenArgument,
  type HostVal,
  type Instance,
  type ModuleEntity,
  type Value,
} from "./context.ts";
import { hostExpr } from "./values.ts";
import { coerce, hostTypeOf } from "./items.ts";
import { didYouMean, suggestion } from "./report.ts";
import { checkType, declaredType, originNotes, unify, type Actual, type Formal, type TensorTypeExpr } from "./shapes.ts";
import { graphOf } from "./tensor.ts";
import { hostTypeText } from "./types.ts";

const maximumModules = 60;
const maximumCount = 10_000;
const maximumInstances = 50_000;

/** `prefix` and `name` as a checkpoint name: a dot between, none where either is empty. */
export function joinPath(prefix: string, name: string): string {
  if (prefix === "" || name === "") return prefix + name;
  return prefix.endsWith(".") ? prefix + name : `${prefix}.${name}`;
}

/** The text of `at …`, or the default. */
function pathOf(cx: Cx, e: Expr | undefined, fallback: string, scope: Scope): string {
  if (e === undefined) return fallback;
  const v = hostExpr(cx, e, scope);
  if (v === undefined) return fallback;
  if (v.type.k !== "string") {
    cx.report.error("UHD0201", e.span, "a checkpoint name is a string", { expected: "string", found: hostTypeText(v.type) });
    return fallback;
  }
  const known = constantOf(cx, v, e.span, () => {
    if (cx.build?.abstract !== true) cx.report.error("UHD0207", e.span, "a checkpoint name must be known at compile time");
  });
  return typeof known === "string" ? known : fallback;
}

/** Defines what `use` names: an instance, or an array of them. */
export function useModule(cx: Cx, item: UseItem, scope: Scope, prefix: string): void {
  const before = scope.names.get(item.name.name);
  if (before !== undefined) {
    cx.report.twice(item.name.name, item.name.span, before.span);
    return;
  }
  const entity = scope.unit.names.get(item.module.name)?.entity;
  const fail = (): void => scope.define(item.name.name, errorValue, item.name.span);
  if (entity?.k !== "module") {
    if (!scope.unit.missing.has(item.module.name)) {
      const modules = [...scope.unit.names].filter(([, n]) => n.entity.k === "module").map(([name]) => name);
      const near = closest(item.module.name, modules);
      cx.report.error(
        "UHD0104",
        item.module.span,
        entity === undefined ? `there is no module ${item.module.name}` : `${item.module.name} is not a module`,
        {
          ...suggestion(item.module.name, near, near === undefined ? undefined : scope.unit.names.get(near)?.span),
        },
      );
    }
    for (const a of item.args) hostExpr(cx, a.value, scope);
    fail();
    return;
  }
  const path = joinPath(prefix, pathOf(cx, item.path, item.name.name, scope));
  const args = moduleArguments(cx, entity, item, scope);
  if (args === undefined) {
    fail();
    return;
  }
  const build = graphOf(cx);
  const modules = build.modules;
  const make = (at: string): Instance => {
    const outer = build.modules;
    build.modules = modules;
    const instance = instantiate(cx, entity, args, at, item.span);
    build.modules = outer;
    return instance;
  };
  if (item.count === undefined) {
    scope.define(item.name.name, { k: "instance", instance: make(path) }, item.name.span);
    return;
  }
  const count = moduleCount(cx, item.count, scope);
  if (count === "error") {
    fail();
    return;
  }
  const made = new Map<number, Instance>();
  const at = (i: number): Instance => {
    const seen = made.get(i) ?? make(joinPath(path, String(i)));
    made.set(i, seen);
    return seen;
  };
  scope.define(item.name.name, { k: "instances", at, count, name: item.name.name }, item.name.span);
}

function moduleCount(cx: Cx, e: Expr, scope: Scope): number | undefined | "error" {
  const v = hostExpr(cx, e, scope);
  if (v === undefined) return "error";
  if (v.type.k !== "int") {
    cx.report.error("UHD0201", e.span, "how many modules there are is an integer", { expected: "int", found: hostTypeText(v.type) });
    return "error";
  }
  const abstract = cx.build?.abstract === true;
  const wrong = (found: string): void =>
    cx.report.error("UHD0207", e.span, "how many modules there are must be known at compile time", {
      expected: `0 to ${maximumCount}`,
      found,
    });
  const known = constantOf(cx, v, e.span, () => {
    if (!abstract) wrong("a value of each run");
  });
  if (known === undefined) return abstract ? undefined : "error";
  if (typeof known === "number" && known >= 0 && known <= maximumCount) return known;
  wrong(String(known));
  return "error";
}

/** Values of a module's parameters, by name; undefined after an error. */
function moduleArguments(cx: Cx, entity: ModuleEntity, item: UseItem, scope: Scope): ReadonlyMap<string, HostVal> | undefined {
  const params = entity.item.params;
  const name = entity.item.name.name;
  const out = new Map<string, HostVal>();
  let ok = true;
  const declared = { span: entity.item.name.span, message: `${name}(${params.map((p) => p.name.name).join(", ")}) is declared here` };
  item.args.forEach((a, i) => {
    const param = a.name === undefined ? params[i] : params.find((p) => p.name.name === a.name?.name);
    const value = hostExpr(cx, a.value, scope);
    if (param === undefined) {
      ok = false;
      const span = a.name?.span ?? a.span;
      cx.report.error(
        "UHD0406",
        span,
        a.name === undefined
          ? `${name} takes ${params.length} argument${params.length === 1 ? "" : "s"}`
          : `${name} has no parameter ${a.name.name}`,
        {
          expected: params.map((p) => p.name.name).join(", ") || "no arguments",
          found: a.name?.name ?? `${item.args.length} arguments`,
          notes: [declared],
          help:
            a.name === undefined
              ? undefined
              : didYouMean(
                  closest(
                    a.name.name,
                    params.map((p) => p.name.name),
                  ),
                ),
        },
      );
      return;
    }
    if (out.has(param.name.name)) {
      ok = false;
      cx.report.error("UHD0102", a.span, `${param.name.name} is given twice`);
      return;
    }
    const type = hostTypeOf(cx, param.type, entity.unit);
    const fitting =
      value === undefined ? errorValue : coerce(cx, value, type, a.value, a.value.span, param.span, `${param.name.name} of ${name}`);
    if (fitting.k !== "host") ok = false;
    else out.set(param.name.name, settled(cx, fitting, a.value.span));
  });
  if (!ok) return undefined;
  for (const p of params) {
    if (out.has(p.name.name)) continue;
    const value = p.value === undefined ? undefined : hostExpr(cx, p.value, new Scope(entity.unit, scope.namer, undefined, true));
    if (value !== undefined) {
      const fitting = coerce(cx, value, hostTypeOf(cx, p.type, entity.unit), p.value, p.value?.span ?? p.span, p.span, p.name.name);
      if (fitting.k === "host") {
        out.set(p.name.name, settled(cx, fitting, p.span));
        continue;
      }
    }
    if (p.value === undefined) {
      cx.report.error("UHD0406", item.module.span, `${name} needs ${p.name.name}`, {
        expected: params.map((q) => `${q.name.name}: ${hostTypeText(hostTypeOf(cx, q.type, entity.unit))}`).join(", "),
        found: `${item.args.length} argument${item.args.length === 1 ? "" : "s"}`,
        notes: [declared],
      });
    }
    return undefined;
  }
  return out;
}

/** The value itself where it is known at compile time. */
function settled(cx: Cx, v: HostVal, span: Span): HostVal {
  const known = constantOf(cx, v, span);
  return known === undefined ? v : knownValue(v.type, known);
}

/** A module with its arguments: its names are defined, its parameters enter the graph when they are used. */
export function instantiate(cx: Cx, entity: ModuleEntity, args: ReadonlyMap<string, HostVal>, path: string, used: Span): Instance {
  const build = graphOf(cx);
  const name = entity.item.name.name;
  const scope = new Scope(entity.unit, build.namer);
  const instance: Instance = { entity, scope, path, used };
  if (!build.abstract) entity.instantiated = true;
  const key = `${entity.unit.file}#${name}`;
  if (build.modules.includes(key)) {
    cx.report.error("UHD0404", used, `the module ${name} uses itself`, {
      found: [...build.modules.slice(build.modules.indexOf(key)), key].map((k) => k.slice(k.indexOf("#") + 1)).join(" → "),
    });
    for (const m of entity.item.members) if (m.kind !== "forward" && m.kind !== "let") scope.define(m.name.name, errorValue, m.span);
    return instance;
  }
  if (++build.instances > maximumInstances) throw new TooLarge(used, `the graph uses more than ${maximumInstances} modules`);
  if (build.modules.length > maximumModules) throw new TooLarge(used, `modules are nested more than ${maximumModules} deep`);
  const outer = build.modules;
  build.modules = [...outer, key];
  const uses = cx.report.uses;
  cx.report.uses = [{ span: used, message: `in ${name}, used here` }, ...uses];
  for (const p of entity.item.params) {
    const value = args.get(p.name.name);
    if (scope.names.has(p.name.name)) cx.report.error("UHD0102", p.name.span, `the parameter ${p.name.name} is given twice`);
    scope.define(p.name.name, value ?? errorValue, p.name.span);
  }
  for (const m of entity.item.members) {
    if (m.kind === "use") useModule(cx, m, scope, path);
    else if (m.kind === "let") cx.letStatement(m, scope);
    else if (m.kind === "param") {
      const before = scope.names.get(m.name.name);
      if (before !== undefined) cx.report.twice(m.name.name, m.name.span, before.span);
      else scope.defineLazy(m.name.name, () => makeParam(cx, build, instance, m), m.name.span);
    }
  }
  cx.report.uses = uses;
  build.modules = outer;
  return instance;
}

function makeParam(cx: Cx, build: Build, instance: Instance, item: ParamItem): Value {
  const path = joinPath(instance.path, pathOf(cx, item.path, item.name.name, instance.scope));
  const type = declaredType(cx, item.type, instance.scope);
  if (type === undefined) return errorValue;
  const open = type.shape.find((d) => dimConstant(d) === undefined);
  if (open !== undefined && !build.abstract) {
    cx.report.error("UHD0410", item.type.span, `the sizes of ${item.name.name} must be known at compile time`, {
      expected: "numbers",
      found: typeText(type),
      notes: originNotes(build, type.shape),
    });
    return errorValue;
  }
  const init = item.init === undefined ? undefined : initOf(cx, item.init, instance.scope);
  const seen = build.params.get(path);
  if (seen !== undefined && !build.abstract) {
    if (typeText(seen.type) === typeText(type)) return { k: "tensor", id: seen.id };
    cx.report.error("UHD0410", item.span, `the checkpoint name ${path} is used with two types`, {
      expected: typeText(seen.type),
      found: typeText(type),
      notes: [{ span: seen.span, message: "the other parameter of this name" }],
    });
    return errorValue;
  }
  const before = build.builder.at([item.span, ...build.calls]);
  const id = build.builder.param(path, type, init);
  build.builder.at(before);
  build.params.set(path, { id, type, span: item.span });
  build.made.set(id, { span: item.type.span, what: `${item.name.name} is declared here` });
  return { k: "tensor", id };
}

/** `~ normal(0.02)` or `~ constant(0)`. */
function initOf(cx: Cx, e: Expr, scope: Scope): ParamInit | undefined {
  const only = e.kind === "call" ? e.args[0] : undefined;
  const kind = e.kind === "call" && e.callee.kind === "name" ? e.callee.name : undefined;
  if (only === undefined || e.kind !== "call" || e.args.length !== 1 || (kind !== "normal" && kind !== "constant")) {
    cx.report.error("UHD0406", e.span, "this is no way to initialise a parameter", {
      expected: "normal(deviation) or constant(value)",
      help: didYouMean(kind === undefined ? undefined : closest(kind, ["normal", "constant"])),
    });
    return undefined;
  }
  const v = hostExpr(cx, only.value, scope);
  if (v === undefined) return undefined;
  if (v.type.k !== "int" && v.type.k !== "float") {
    cx.report.error("UHD0201", only.value.span, `${kind} takes a number`, { expected: "float", found: hostTypeText(v.type) });
    return undefined;
  }
  const known = constantOf(cx, v, only.value.span, () => {
    if (cx.build?.abstract !== true)
      cx.report.error("UHD0207", only.value.span, `the ${kind === "normal" ? "deviation" : "value"} must be known at compile time`);
  });
  if (typeof known !== "number") return undefined;
  return kind === "normal" ? { kind, std: known } : { kind, value: known };
}

/** `instance.name`: a parameter, a part, or another forward. */
export function member(cx: Cx, instance: Instance, name: string, span: Span): Value | undefined {
  const forward = instance.entity.item.members.find((m): m is ForwardItem => m.kind === "forward" && m.name.name === name);
  if (forward !== undefined) return { k: "forward", instance, forward };
  const own = instance.entity.item.members.some((m) => m.kind !== "forward" && (m.kind === "let" || m.name.name === name));
  const found = own ? instance.scope.names.get(name) : undefined;
  if (found !== undefined) return found.value;
  const members = instance.entity.item.members.flatMap((m) => (m.kind === "let" ? [] : [m.name]));
  const names = members.map((m) => m.name);
  const hint = suggestion(name, closest(name, names), members.find((m) => m.name === closest(name, names))?.span);
  cx.report.error("UHD0105", span, `${instance.entity.item.name.name} has nothing named ${name}`, {
    expected: names.length > 0 ? `one of ${names.join(", ")}` : "nothing",
    found: name,
    ...hint,
    notes: [...(hint.notes ?? []), { span: instance.entity.item.name.span, message: "the module is declared here" }],
  });
  return undefined;
}

/** `Linear(inputs: 1024, outputs: 4096)`; what is not known at compile time is left out. */
function argumentsText({ entity, scope }: Instance): string {
  const parts = entity.item.params.flatMap((p) => {
    const v = scope.names.get(p.name.name)?.value;
    const text = v?.k !== "host" ? undefined : (v.dim?.text ?? (typeof v.known === "object" ? undefined : v.known));
    return text === undefined ? [] : [`${p.name.name}: ${text}`];
  });
  return `${entity.item.name.name}${parts.length > 0 ? `(${parts.join(", ")})` : ""}`;
}

/** Elaborates a forward with these arguments, in place. */
export function callInstance(cx: Cx, instance: Instance, forward: ForwardItem, args: readonly GivenArgument[], span: Span): Value {
  const build = graphOf(cx);
  const callee = instance.entity.item.name.name;
  const scope = instance.scope.inner();
  const values = new Map<string, GivenArgument>();
  let ok = args.every((a) => a.value.k !== "error");
  args.forEach((a, i) => {
    const param = a.name === undefined ? forward.params[i] : forward.params.find((p) => p.name.name === a.name);
    if (param === undefined || values.has(param.name.name)) {
      ok = false;
      cx.report.error(
        "UHD0203",
        a.span,
        param === undefined
          ? `${callee} takes ${forward.params.length} argument${forward.params.length === 1 ? "" : "s"}`
          : `${param.name.name} is given twice`,
        {
          expected: forward.params.map((p) => p.name.name).join(", ") || "nothing",
          found: a.name ?? `${args.length} arguments`,
          notes: [{ span: forward.span, message: "the forward is declared here" }],
        },
      );
      return;
    }
    values.set(param.name.name, a);
  });
  const missing = forward.params.find((p) => !values.has(p.name.name));
  if (ok && missing !== undefined) {
    ok = false;
    cx.report.error("UHD0203", span, `${callee} needs ${missing.name.name}`, {
      expected: forward.params.map((p) => p.name.name).join(", "),
      found: `${args.length} argument${args.length === 1 ? "" : "s"}`,
      notes: [{ span: missing.span, message: "the parameter is declared here" }],
    });
  }
  if (!ok) return errorValue;
  const formals: Formal[] = [];
  const actuals: Actual[] = [];
  const tensors: { name: string; value: Value; span: Span }[] = [];
  for (const p of forward.params) {
    const given = values.get(p.name.name);
    if (given === undefined) return errorValue;
    if (p.type.kind === "tensor") {
      if (given.value.k !== "tensor") {
        cx.report.error("UHD0306", given.span, `${p.name.name} of ${callee} is a tensor`, {
          expected: "a tensor",
          found: given.value.k === "host" ? hostTypeText(given.value.type) : given.value.k,
          notes: [{ span: p.span, message: "the parameter is declared here" }],
        });
        return errorValue;
      }
      formals.push({ type: p.type as TensorTypeExpr, name: p.name.name, span: p.span });
      actuals.push({ id: given.value.id, type: build.builder.typeOf(given.value.id), span: given.span });
      tensors.push({ name: p.name.name, value: given.value, span: p.name.span });
    } else {
      const type = hostTypeOf(cx, p.type, instance.entity.unit);
      const v =
        given.value.k === "host" ? coerce(cx, given.value, type, given.e, given.span, p.span, `${p.name.name} of ${callee}`) : errorValue;
      if (given.value.k !== "host")
        cx.report.error("UHD0201", given.span, `${p.name.name} of ${callee} is a value of shape code`, {
          expected: hostTypeText(type),
          found: given.value.k,
        });
      if (v.k === "error") return errorValue;
      scope.define(p.name.name, v, p.name.span);
    }
  }
  const outerUses = cx.report.uses;
  const made = { span: instance.used, message: `in ${argumentsText(instance)}, made here` };
  cx.report.uses = [made, ...outerUses];
  const fitting = unify(cx, build, formals, actuals, scope, callee);
  cx.report.uses = outerUses;
  if (!fitting) return errorValue;
  for (const t of tensors) scope.define(t.name, t.value, t.span);
  const [outer, outerPath] = [build.calls, build.path];
  build.calls = [span, ...outer];
  build.path = instance.path;
  // Of the calls around only the innermost, of the modules around all: sizes come from their arguments.
  cx.report.uses = [{ span, message: `in ${callee}, called here` }, made, ...outerUses.filter((u) => u.message.endsWith("made here"))];
  const value = forwardBody(cx, build, forward, scope);
  cx.report.uses = outerUses;
  build.calls = outer;
  build.path = outerPath;
  return value;
}

/** The body's value, checked against the declared results. */
export function forwardBody(cx: Cx, build: Build, forward: ForwardItem, scope: Scope): Value {
  const value = cx.block(forward.body, scope);
  const place = forward.body.value?.span ?? forward.body.span;
  const parts = forward.results.length === 1 ? [value] : value.k === "tuple" ? value.items : undefined;
  if (value.k === "error") {
    for (const r of forward.results) declaredType(cx, r.type, scope);
    return declaredFallback(cx, build, forward, scope);
  }
  if (parts === undefined || parts.length !== forward.results.length) {
    cx.report.error(
      "UHD0305",
      place,
      `the body gives ${value.k === "tuple" ? `${value.items.length} values` : "one value"}, ${forward.results.length} are declared`,
      {
        expected: `a tuple of ${forward.results.length}`,
        notes: forward.results.slice(0, 1).map((r) => ({ span: r.span, message: "the results are declared here" })),
      },
    );
    return errorValue;
  }
  let ok = true;
  forward.results.forEach((r, i) => {
    const part = parts[i];
    const expected = declaredType(cx, r.type, scope);
    if (expected === undefined || part === undefined) ok = false;
    else if (part.k !== "tensor") {
      ok = false;
      if (part.k !== "error")
        cx.report.error("UHD0306", place, "the body's value is not a tensor", {
          expected: typeText(expected),
          found: part.k === "host" ? hostTypeText(part.type) : part.k,
        });
    } else if (
      !checkType(
        cx,
        build,
        build.builder.typeOf(part.id),
        expected,
        "UHD0305",
        place,
        "the body's value has another type than declared",
        [{ span: r.span, message: "the result is declared here" }],
        part.id,
      )
    )
      ok = false;
  });
  return ok ? value : declaredFallback(cx, build, forward, scope);
}

/** After an error in a body callers go on with the type it declares, so that their own mistakes are found too. */
function declaredFallback(cx: Cx, build: Build, forward: ForwardItem, scope: Scope): Value {
  return cx.report.quietly(() => {
    const items: Value[] = [];
    for (const r of forward.results) {
      const type = declaredType(cx, r.type, scope);
      if (type === undefined) return errorValue;
      items.push({ k: "tensor", id: build.builder.constant(type.dtype, type.shape, [0]) });
    }
    return items.length === 1 ? (items[0] ?? errorValue) : { k: "tuple", items };
  });
}
