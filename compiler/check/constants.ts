// What is known of shape code at compile time: values of closed expressions, integers as sizes and sizes as
// expressions. Does not check types (host.ts does).

import { dim, dimConstant, dimSymbols, DimError, type Atom, type Dim } from "../ir/dim.ts";
import type { Span } from "../ir/loc.ts";
import type { HostClause, HostExpr, HostPattern, HostValue } from "../ir/plan/host.ts";
import { evalHost, HostError } from "../ir/plan/host-eval.ts";
import { locationText, type Cx, type HostVal } from "./context.ts";
import { hostTypeText, int, type HostType } from "./types.ts";

const freeCache = new WeakMap<HostExpr, ReadonlySet<string>>();

/** Variables an expression takes from outside. */
export function freeVariables(e: HostExpr): ReadonlySet<string> {
  const seen = freeCache.get(e);
  if (seen !== undefined) return seen;
  const free = new Set<string>();
  const addAll = (names: Iterable<string>, except: ReadonlySet<string> = new Set()): void => {
    for (const n of names) if (!except.has(n)) free.add(n);
  };
  switch (e.k) {
    case "lit":
      break;
    case "var":
      free.add(e.name);
      break;
    case "unary":
      addAll(freeVariables(e.a));
      break;
    case "binary":
      addAll(freeVariables(e.a));
      addAll(freeVariables(e.b));
      break;
    case "if":
      for (const x of [e.cond, e.then, e.else]) addAll(freeVariables(x));
      break;
    case "list":
      for (const x of e.items) addAll(freeVariables(x));
      break;
    case "record":
      for (const f of e.fields) addAll(freeVariables(f.value));
      break;
    case "field":
      addAll(freeVariables(e.of));
      break;
    case "index":
      addAll(freeVariables(e.of));
      addAll(freeVariables(e.at));
      break;
    case "range":
      addAll(freeVariables(e.from));
      addAll(freeVariables(e.to));
      break;
    case "for":
      addAll(clauseVariables(e.clauses, e.body));
      break;
    case "choose": {
      addAll(freeVariables(e.from));
      const bound = new Set(patternNames(e.pattern));
      addAll(freeVariables(e.cost), bound);
      if (e.where !== undefined) addAll(freeVariables(e.where), bound);
      break;
    }
    case "let":
      addAll(freeVariables(e.value));
      addAll(freeVariables(e.body), new Set(patternNames(e.pattern)));
      break;
    case "call":
      for (const a of e.args) addAll(freeVariables(a));
      break;
    default:
      e satisfies never;
  }
  freeCache.set(e, free);
  return free;
}

function clauseVariables(clauses: readonly HostClause[], body: HostExpr): ReadonlySet<string> {
  const free = new Set<string>();
  const bound = new Set<string>();
  for (const c of clauses) {
    for (const n of freeVariables(c.k === "if" ? c.cond : c.from)) if (!bound.has(n)) free.add(n);
    if (c.k === "in") for (const n of patternNames(c.pattern)) bound.add(n);
  }
  for (const n of freeVariables(body)) if (!bound.has(n)) free.add(n);
  return free;
}

export function patternNames(p: HostPattern): readonly string[] {
  return typeof p === "string" ? (p === "_" ? [] : [p]) : p.flatMap(patternNames);
}

/** A value as the expression that gives it. */
export function literal(value: HostValue): HostExpr {
  if (typeof value !== "object") return { k: "lit", v: value };
  if (Array.isArray(value)) return { k: "list", items: value.map((v) => literal(v as HostValue)) };
  return { k: "record", fields: Object.entries(value).map(([name, v]) => ({ name, value: literal(v as HostValue) })) };
}

/** A host value known at compile time. */
export function knownValue(type: HostType, value: HostValue): HostVal {
  const whole = type.k === "int" && Number.isSafeInteger(value) ? { dim: dim(Number(value)) } : {};
  return { k: "host", type, expr: literal(value), known: value, ...whole };
}

/**
 * The value, where it is known at compile time. Undefined where it is not, which `unknown` may report; and where
 * evaluating it failed, which is reported here unless it follows from an error that was.
 */
export function constantOf(cx: Cx, v: HostVal, span: Span, unknown?: () => void): HostValue | undefined {
  if (v.known !== undefined) return v.known;
  if (v.dim !== undefined) {
    const c = dimConstant(v.dim);
    if (c !== undefined) return c;
  }
  if (v.type.k === "error") return undefined;
  const env: Record<string, HostValue> = {};
  for (const name of freeVariables(v.expr)) {
    const value = cx.build?.known.get(name);
    if (value === undefined) {
      unknown?.();
      return undefined;
    }
    env[name] = value;
  }
  if ([...cx.infos.values()].some((f) => f.broken)) return undefined;
  try {
    return evalHost(v.expr, env, { functions: [...cx.functions.values()], bindings: [] });
  } catch (error) {
    if (error instanceof HostError) {
      cx.report.error("UHD0208", span, "this shape code fails", { found: error.message });
      return undefined;
    }
    if (cx.report.errors > 0) return undefined;
    throw error;
  }
}

/** The host expression of a size. */
export function dimExpr(d: Dim): HostExpr {
  const terms = d.monomials.map((m): HostExpr => {
    const factors = m.atoms.map(atomExpr);
    const product = factors.reduce<HostExpr | undefined>((a, b) => (a === undefined ? b : { k: "binary", op: "mul", a, b }), undefined);
    if (product === undefined) return { k: "lit", v: m.coefficient };
    return m.coefficient === 1 ? product : { k: "binary", op: "mul", a: { k: "lit", v: m.coefficient }, b: product };
  });
  return (
    terms.reduce<HostExpr | undefined>((a, b) => (a === undefined ? b : { k: "binary", op: "add", a, b }), undefined) ?? { k: "lit", v: 0 }
  );
}

function atomExpr(atom: Atom): HostExpr {
  switch (atom.kind) {
    case "symbol":
      return { k: "var", name: atom.name };
    case "div":
      return { k: "binary", op: "idiv", a: dimExpr(atom.a), b: dimExpr(atom.b) };
    case "mod":
      return { k: "binary", op: "imod", a: dimExpr(atom.a), b: dimExpr(atom.b) };
    case "min":
    case "max":
      return { k: "call", fn: atom.kind, args: [dimExpr(atom.a), dimExpr(atom.b)], loc: "" };
    default:
      return atom satisfies never;
  }
}

/** A size as a host integer. */
export function dimValue(d: Dim): HostVal {
  const c = dimConstant(d);
  return c === undefined ? { k: "host", type: int, expr: dimExpr(d), dim: d } : knownValue(int, c);
}

/** A new host binding of the graph, and the variable that reads it. */
export function bindHost(cx: Cx, hint: string, value: HostExpr, symbol: boolean, span: Span): string {
  const build = cx.build;
  if (build === undefined) throw new Error("a host binding outside a graph");
  const name = build.namer.fresh(hint);
  build.bindings.push({ name, value, symbol, loc: locationText(span) });
  return name;
}

/** The integer as a size: constant, a polynomial of sizes, or a new symbol that shape code defines. Reports other types. */
export function sizeOf(cx: Cx, v: HostVal, span: Span, hint = "n"): Dim | undefined {
  if (v.type.k === "error") return undefined;
  if (v.type.k !== "int") {
    cx.report.error("UHD0201", span, "a size is an integer", {
      expected: "int",
      found: hostTypeText(v.type),
      help: v.type.k === "float" ? "// divides integers; floor, ceil, round and trunc make an integer of a float" : undefined,
    });
    return undefined;
  }
  if (v.dim !== undefined) return v.dim;
  const known = constantOf(cx, v, span);
  if (typeof known === "number") return dim(known);
  const build = cx.build;
  if (build === undefined) {
    cx.report.error("UHD0207", span, "this size must be known at compile time");
    return undefined;
  }
  const key = JSON.stringify(v.expr);
  const seen = build.symbols.get(key);
  if (seen !== undefined) return seen;
  const name = bindHost(cx, v.expr.k === "var" ? `${v.expr.name}` : v.expr.k === "field" ? v.expr.name : hint, v.expr, true, span);
  const made = build.builder.symbol(name);
  if (build.abstract) build.loose.add(name);
  build.symbols.set(key, made);
  build.origins.set(made.text, { span, what: `${name} is computed here` });
  return made;
}

/** True when the sizes could still be equal for some module arguments, so that an abstract check cannot decide. */
export function undecided(cx: Cx, dims: Iterable<Dim>): boolean {
  const build = cx.build;
  if (build?.abstract !== true) return false;
  for (const d of dims) {
    if (d.monomials.some((m) => m.atoms.some((a) => a.kind !== "symbol"))) return true;
    if (dimSymbols(d).some((s) => build.loose.has(s))) return true;
  }
  return false;
}

/** Runs arithmetic on sizes; a division by zero or an overflow is reported at `span`. */
export function sizing(cx: Cx, span: Span, f: () => Dim): Dim | undefined {
  try {
    return f();
  } catch (error) {
    if (!(error instanceof DimError)) throw error;
    cx.report.error("UHD0208", span, error.message);
    return undefined;
  }
}
