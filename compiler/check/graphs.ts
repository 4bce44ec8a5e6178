// Elaboration of graphs, and the check of each module's definition alone: its arguments and implicit sizes
// are symbols there, so a mistake is found even when no graph uses the module.

import { dimSymbol } from "../ir/dim.ts";
import { GraphBuilder } from "../ir/graph/build.ts";
import type { Graph, TensorType } from "../ir/graph/types.ts";
import type { GivenType } from "../ir/plan/given.ts";
import type { HostExpr, HostFunction } from "../ir/plan/host.ts";
import { typeRule } from "../../ops/index.ts";
import type { DimExpr, Expr, ForwardItem, Parameter } from "../syntax/ast.ts";
import { constantOf } from "./constants.ts";
import { Namer, Scope, symbolValue, type Build, type Cx, type Entity, type HostVal, type ModuleEntity } from "./context.ts";
import { hostExpr } from "./values.ts";
import { hostTypeOf, noBounds } from "./items.ts";
import { forwardBody, instantiate } from "./modules.ts";
import { oneSegment } from "./ragged.ts";
import { declaredType, implicitName } from "./shapes.ts";
import type { HostType } from "./types.ts";

function newBuild(name: string, abstract: boolean): Build {
  return {
    builder: new GraphBuilder(name, typeRule),
    namer: new Namer(),
    bindings: [],
    given: [],
    params: new Map(),
    tables: new Map(),
    ragged: new Map(),
    states: new Map(),
    updates: new Map(),
    symbols: new Map(),
    known: new Map(),
    origins: new Map(),
    made: new Map(),
    calls: [],
    modules: [],
    path: "",
    abstract,
    loose: new Set(),
    nodes: 0,
    instances: 0,
  };
}

/** Declares the implicit sizes of one parameter as symbols with their bounds. */
function declareSizes(cx: Cx, build: Build, dims: readonly DimExpr[], scope: Scope): void {
  for (const d of dims) {
    const name = implicitName(d, scope);
    if (name !== undefined) {
      const [lower, upper] = d.bounds === undefined ? [0, undefined] : boundsOf(cx, d.bounds, scope);
      const size = build.builder.symbol(build.namer.fresh(name), lower, upper);
      scope.define(name, symbolValue(size.text), d.span);
      build.origins.set(size.text, { span: d.span, what: `${name} is a size of the signature` });
    } else if (d.bounds !== undefined) {
      const before = d.value.kind === "name" ? scope.names.get(d.value.name) : undefined;
      cx.report.error("UHD0308", d.span, "bounds are given once, where the signature introduces a size", {
        notes: before === undefined ? [] : [{ span: before.span, message: "it is introduced here" }],
      });
    }
  }
}

/** An integer of a graph is a symbol as sizes are, and shape code and tensor code use it alike. */
function declareArgument(cx: Cx, build: Build, p: Parameter, scope: Scope): void {
  const [lower, upper] = p.bounds === undefined ? [0, undefined] : boundsOf(cx, p.bounds, scope);
  const before = scope.names.get(p.name.name);
  if (before !== undefined) {
    cx.report.twice(p.name.name, p.name.span, before.span);
    return;
  }
  const symbol = build.builder.argument(build.namer.fresh(p.name.name), lower, upper);
  scope.define(p.name.name, symbolValue(symbol.text), p.name.span);
  build.origins.set(symbol.text, { span: p.span, what: `${p.name.name} is an integer of each run` });
}

/** A value of shape code that is given at each run: a list, tuple or record. */
function declareGiven(cx: Cx, build: Build, p: Parameter, scope: Scope): void {
  noBounds(cx, p);
  const type = hostTypeOf(cx, p.type, scope.unit);
  const before = scope.names.get(p.name.name);
  if (before !== undefined) {
    cx.report.twice(p.name.name, p.name.span, before.span);
    return;
  }
  const simple = base.includes(type.k);
  if (simple)
    cx.report.error("UHD0306", p.type.span, "an input of a graph is a tensor or an integer, or a list, tuple or record", {
      expected: "f32[…] or int, or a type such as [(int, int)]",
      help: "a setting is a config, a number at each run is a tensor such as f32[]",
    });
  const given = simple ? undefined : givenType(type);
  const name = build.namer.fresh(p.name.name);
  if (given !== undefined) build.given.push({ name, type: given });
  scope.define(p.name.name, given === undefined ? { k: "error" } : { k: "host", type, expr: { k: "var", name } }, p.name.span);
}

const base: readonly HostType["k"][] = ["int", "float", "bool", "string"];

/** The type as a plan has it; undefined for one that had an error. */
function givenType(t: HostType): GivenType | undefined {
  switch (t.k) {
    case "int":
    case "float":
    case "bool":
    case "string":
      return { k: t.k };
    case "list": {
      const of = givenType(t.of);
      return of === undefined ? undefined : { k: "list", of };
    }
    case "tuple": {
      const items = t.items.map(givenType).filter((i) => i !== undefined);
      return items.length === t.items.length ? { k: "tuple", items } : undefined;
    }
    case "record": {
      const fields = t.fields.flatMap((f) => {
        const type = givenType(f.type);
        return type === undefined ? [] : [{ name: f.name, type }];
      });
      return fields.length === t.fields.length ? { k: "record", fields } : undefined;
    }
    case "never":
    case "error":
      return undefined;
    default:
      return t satisfies never;
  }
}

function isInteger(p: Parameter): boolean {
  return p.type.kind === "name" && p.type.name === "int";
}

function boundsOf(cx: Cx, bounds: Expr, scope: Scope): readonly [number, number | undefined] {
  if (bounds.kind !== "range") {
    cx.report.error("UHD0308", bounds.span, "the bounds of a size are a range", { expected: "1..=20000" });
    return [0, undefined];
  }
  const ends = [bounds.from, bounds.to].map((e) => {
    const v = hostExpr(cx, e, scope);
    const wrong = (found: string): void =>
      cx.report.error("UHD0308", e.span, "a bound is an integer known at compile time", { expected: "0 or more", found });
    const known = v === undefined ? undefined : constantOf(cx, v, e.span, () => wrong("a value of each run"));
    if (known !== undefined && (typeof known !== "number" || !Number.isInteger(known) || known < 0)) wrong(JSON.stringify(known));
    return typeof known === "number" ? known : undefined;
  });
  const [lower = 0, to] = ends;
  const upper = to === undefined || bounds.inclusive ? to : to - 1;
  if (upper !== undefined && upper < lower)
    cx.report.error("UHD0308", bounds.span, "no size is within these bounds", { found: `${lower} to ${upper}` });
  return [lower, upper];
}

/** The graph, or undefined when it has an error. */
export function elaborateGraph(cx: Cx, entity: Extract<Entity, { k: "graph" }>): Graph | undefined {
  const { item, unit } = entity;
  const build = newBuild(item.name.name, false);
  const before = cx.report.errors;
  cx.build = build;
  const scope = new Scope(unit, build.namer);
  for (const p of item.params) {
    if (p.type.kind === "tensor") {
      declareSizes(cx, build, p.type.dims, scope);
      noBounds(cx, p);
    } else if (isInteger(p)) declareArgument(cx, build, p, scope);
    else if (p.type.kind !== "error") declareGiven(cx, build, p, scope);
    if (p.value !== undefined) cx.report.error("UHD0209", p.value.span, "inputs of graphs have no defaults");
  }
  for (const p of item.params) {
    if (p.type.kind !== "tensor" && p.type.kind !== "error") continue;
    const type = p.type.kind === "tensor" ? declaredType(cx, p.type, scope) : undefined;
    const seen = scope.names.get(p.name.name);
    if (seen !== undefined) cx.report.twice(p.name.name, p.name.span, seen.span);
    if (type === undefined) {
      scope.define(p.name.name, { k: "error" }, p.name.span);
      continue;
    }
    if (p.type.kind === "tensor") {
      p.type.dims.forEach((d, i) => {
        const size = type.shape[i];
        if (d.ragged && size !== undefined) build.ragged.set(size.text, oneSegment(size));
      });
    }
    defineInput(build, scope, p, type);
  }
  const value = forwardBody(
    cx,
    build,
    { kind: "forward", name: item.name, params: item.params, results: item.results, body: item.body, span: item.span },
    scope,
  );
  const values = item.results.length === 1 ? [value] : value.k === "tuple" ? value.items : [];
  const names = new Set<string>();
  item.results.forEach((r, i) => {
    const name = r.name?.name ?? (item.results.length === 1 ? "output" : `output${i}`);
    if (names.has(name)) cx.report.error("UHD0102", r.span, `the output ${name} is declared twice`);
    names.add(name);
    const v = values[i];
    if (v?.k === "tensor") build.builder.output(name, v.id);
  });
  cx.build = undefined;
  if (cx.report.errors > before) return undefined;
  const tables = build.builder.build().nodes.flatMap((n) => (n.kind === "table" ? [n.value] : []));
  build.builder.setHost({
    functions: reachable(cx, [...build.bindings.map((b) => b.value), ...tables]),
    bindings: build.bindings,
    ...(build.given.length === 0 ? {} : { given: build.given }),
  });
  return build.builder.build();
}

function defineInput(build: Build, scope: Scope, p: Parameter, type: TensorType): void {
  build.builder.at([p.span]);
  const id = build.builder.input(p.name.name, type);
  build.made.set(id, { span: p.type.span, what: `${p.name.name} is declared here` });
  scope.define(p.name.name, { k: "tensor", id }, p.name.span);
}

/** The functions that expressions call, with those that these call, in order of declaration. */
export function reachable(cx: Cx, from: readonly HostExpr[]): readonly HostFunction[] {
  const found = new Set<string>();
  const visit = (x: unknown): void => {
    if (typeof x !== "object" || x === null) return;
    if (Array.isArray(x)) {
      for (const y of x) visit(y);
      return;
    }
    if ("k" in x && x.k === "call" && "fn" in x && typeof x.fn === "string" && !found.has(x.fn)) {
      const f = cx.functions.get(x.fn);
      if (f !== undefined) {
        found.add(x.fn);
        visit(f.body);
      }
    }
    for (const y of Object.values(x)) visit(y);
  };
  visit(from);
  return [...cx.functions.values()].filter((f) => found.has(f.name));
}

/** Checks a module's definition with symbols for its arguments. */
export function checkDefinition(cx: Cx, entity: ModuleEntity): void {
  const { item, unit } = entity;
  const build = newBuild(item.name.name, true);
  cx.build = build;
  const args = new Map<string, HostVal>();
  for (const p of item.params) {
    noBounds(cx, p);
    const type = hostTypeOf(cx, p.type, unit);
    const name = build.namer.fresh(p.name.name);
    if (type.k === "int") {
      const size = build.builder.symbol(name);
      // Where some graph gives the arguments values, those decide what depends on them.
      if (entity.instantiated) build.loose.add(name);
      build.origins.set(size.text, { span: p.span, what: `${p.name.name} is an argument of ${item.name.name}` });
      args.set(p.name.name, symbolValue(name));
    } else args.set(p.name.name, { k: "host", type, expr: { k: "var", name } });
  }
  const uses = cx.report.uses;
  const instance = instantiate(cx, entity, args, "", item.name.span);
  cx.report.uses = [];
  for (const m of item.members) {
    if (m.kind === "param") void instance.scope.names.get(m.name.name)?.value;
    if (m.kind === "forward") checkForward(cx, build, m, instance.scope.inner(), item.name.name);
  }
  cx.report.uses = uses;
  cx.build = undefined;
}

function checkForward(cx: Cx, build: Build, forward: ForwardItem, scope: Scope, module: string): void {
  build.modules = [module];
  build.states.clear();
  build.updates.clear();
  for (const p of forward.params) noBounds(cx, p);
  for (const p of forward.params) if (p.type.kind === "tensor") declareSizes(cx, build, p.type.dims, scope);
  for (const p of forward.params) {
    const before = scope.names.get(p.name.name);
    if (before !== undefined) cx.report.twice(p.name.name, p.name.span, before.span);
    if (p.type.kind !== "tensor") {
      const type = hostTypeOf(cx, p.type, scope.unit);
      const name = build.namer.fresh(p.name.name);
      if (type.k === "int") build.loose.add(name);
      scope.define(p.name.name, type.k === "int" ? symbolValue(name) : { k: "host", type, expr: { k: "var", name } }, p.name.span);
      continue;
    }
    const type = declaredType(cx, p.type, scope);
    if (type === undefined) {
      scope.define(p.name.name, { k: "error" }, p.name.span);
      continue;
    }
    p.type.dims.forEach((d, i) => {
      const size = type.shape[i];
      if (!d.ragged || size === undefined || build.ragged.has(size.text)) return;
      // Ragged dimensions of one signature share their segments unless a call shows otherwise.
      const lengths: HostExpr = { k: "var", name: `${size.text}.lengths` };
      build.ragged.set(size.text, { name: size.text, over: dimSymbol(`${size.text}.segments`), lengths });
    });
    defineInput(build, scope, p, type);
  }
  forwardBody(cx, build, forward, scope);
  build.modules = [];
}
