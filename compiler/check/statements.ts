// Statements of blocks: in shape code only let; in graphs and forwards also variables, repeats, sizes, ragged
// dimensions, tables, parts and state.

import { closest } from "../diagnostics/index.ts";
import { dimConstant, dimMul, dimSymbol, type Dim } from "../ir/dim.ts";
import { typeText } from "../ir/graph/build.ts";
import type { Span } from "../ir/loc.ts";
import type { HostExpr, HostPattern, HostValue } from "../ir/plan/host.ts";
import type { Block, Expr, Pattern, Statement } from "../syntax/ast.ts";
import { bindHost, constantOf, dimValue, freeVariables, knownValue, patternNames, sizeOf } from "./constants.ts";
import {
  errorValue,
  symbolValue,
  TooLarge,
  type Build,
  type Cx,
  type HostVal,
  type LetStatement,
  type Scope,
  type Value,
} from "./context.ts";
import { hostPattern } from "./expr.ts";
import { asHost, hostExpr, kindText } from "./values.ts";
import { coerce, hostTypeOf } from "./items.ts";
import { joinPath, useModule } from "./modules.ts";
import { suggestion } from "./report.ts";
import { checkType, declaredType, originNotes } from "./shapes.ts";
import { graphOf } from "./tensor.ts";
import { elementOf } from "./host.ts";
import { errorType, float, hostTypeText, int, type HostType } from "./types.ts";

const maximumRepeats = 100_000;
/** Values of one block of shape code: each is evaluated inside the one before. */
const maximumLets = 400;

/** The value of a block whose names go into `scope`. */
export function block(cx: Cx, b: Block, scope: Scope): Value {
  if (scope.hostOnly) return hostBlock(cx, b, scope);
  for (const s of b.statements) {
    if (isDiscarded(s)) discarded(cx, s.value);
    statement(cx, s, scope);
  }
  if (b.value !== undefined) return cx.expr(b.value, scope);
  return withoutValue(cx, b);
}

function withoutValue(cx: Cx, b: Block): Value {
  const last = b.statements.at(-1);
  const named =
    last?.kind === "let" ? (last.pattern.kind === "name" ? last.pattern : undefined) : last?.kind === "assign" ? last.name : undefined;
  cx.report.error("UHD0210", b.span, "this block has no value", {
    expected: "an expression at its end",
    ...(named === undefined ? {} : { help: `the last line gives a value the name ${named.name}: write ${named.name} behind it` }),
  });
  return errorValue;
}

/** An expression that stands alone and is not the last of its block. */
function isDiscarded(s: Statement): s is LetStatement {
  return s.kind === "let" && s.pattern.span.start === s.value.span.start;
}

function discarded(cx: Cx, e: Expr): void {
  cx.report.error("UHD0111", e.span, "the value of this expression is not used", {
    expected: "let, or an expression at the end of its block",
    help: "an operator between two lines stands at the end of the first",
  });
}

function hostBlock(cx: Cx, b: Block, scope: Scope): Value {
  const lets: { pattern: HostPattern; value: HostExpr }[] = [];
  let ok = true;
  let inner = scope;
  for (const s of b.statements) {
    if (s.kind !== "let" || s.mutable) {
      ok = false;
      cx.report.error("UHD0209", s.span, "shape code has only let", {
        help: "a comprehension or a function that calls itself takes the place of a loop",
      });
      // Uses of its names are no further mistakes.
      for (const name of s.kind === "let" ? patternIdents(s.pattern) : s.kind === "assign" ? [] : s.kind === "repeat" ? [] : [s.name])
        inner.define(name.name, errorValue, name.span);
      continue;
    }
    if (isDiscarded(s)) {
      ok = false;
      discarded(cx, s.value);
    }
    if (lets.length >= maximumLets) throw new TooLarge(s.span, `more than ${maximumLets} values in a block of shape code`);
    const given = hostExpr(cx, s.value, inner);
    const declared = s.type === undefined ? undefined : hostTypeOf(cx, s.type, scope.unit);
    const value =
      given === undefined || declared === undefined
        ? given
        : coerce(cx, given, declared, s.value, s.value.span, s.type?.span, "this value");
    const type = value?.k === "host" ? value.type : (declared ?? errorType);
    inner = inner.inner(true);
    const pattern = hostPattern(cx, s.pattern, type, inner, s.value.span);
    if (value?.k === "host") lets.push({ pattern, value: value.expr });
    else ok = false;
  }
  if (b.value === undefined) {
    return withoutValue(cx, b);
  }
  const value = hostExpr(cx, b.value, inner);
  if (value === undefined || !ok) return errorValue;
  if (lets.length === 0) return value;
  const expr = lets.reduceRight<HostExpr>((body, l) => ({ k: "let", pattern: l.pattern, value: l.value, body }), value.expr);
  return { k: "host", type: value.type, expr };
}

function patternIdents(p: Pattern): readonly { readonly name: string; readonly span: Span }[] {
  return p.kind === "name" ? [p] : p.items.flatMap(patternIdents);
}

function statement(cx: Cx, s: Statement, scope: Scope): void {
  const build = graphOf(cx);
  switch (s.kind) {
    case "let":
      letStatement(cx, s, scope);
      return;
    case "assign":
      assign(cx, build, s, scope);
      return;
    case "repeat":
      repeat(cx, build, s, scope);
      return;
    case "dim": {
      const v = hostExpr(cx, s.value, scope);
      const size = v === undefined ? undefined : sizeOf(cx, v, s.value.span, s.name.name);
      if (size !== undefined && (dimConstant(size) ?? 0) < 0)
        cx.report.error("UHD0308", s.value.span, "a size is 0 or more", { found: size.text });
      define(cx, scope, s.name.name, size === undefined ? errorValue : dimValue(size), s);
      if (size !== undefined) build.origins.set(size.text, { span: s.span, what: `${s.name.name} = ${size.text} is defined here` });
      return;
    }
    case "ragged":
      ragged(cx, build, s, scope);
      return;
    case "table":
      table(cx, build, s, scope);
      return;
    case "use":
      if (build.modules.length > 0) cx.report.error("UHD0209", s.span, "use stands in a module or a graph, not in a forward");
      else useModule(cx, s, scope, "");
      return;
    case "state": {
      // After a mistake in its declaration, giving it a value is no further one.
      const failed = (): void => {
        if (define(cx, scope, s.name.name, errorValue, s)) scope.define(s.name.name, errorValue, s.span, { mutable: true });
      };
      const type = declaredType(cx, s.type, scope);
      if (type === undefined) {
        failed();
        return;
      }
      const path = joinPath(build.path, s.name.name);
      // While a module is checked by itself, which of several parts an index means is not known: they are not one.
      const either = build.abstract && build.states.has(path) && /(^|\.)\d+\./.test(path);
      const name = either ? `${path}.${build.states.size}` : path;
      const before = build.states.get(name);
      if (before !== undefined) {
        cx.report.error("UHD0102", s.name.span, `the state ${name} is declared twice`, {
          notes: [{ span: before, message: "it is declared here" }],
          help: "each part has states of its own: use one for each",
        });
        failed();
        return;
      }
      const open = type.shape.find((d) => dimConstant(d) === undefined);
      if (open !== undefined && !build.abstract) {
        cx.report.error("UHD0410", s.type.span, `the sizes of the state ${s.name.name} must be known at compile time`, {
          expected: "numbers",
          found: typeText(type),
          notes: originNotes(build, type.shape),
          help: "a state lives longer than the sizes of a run: give it the most it will need",
        });
        failed();
        return;
      }
      build.states.set(name, s.span);
      build.builder.at([s.span, ...build.calls]);
      const id = build.builder.state(name, type);
      build.made.set(id, { span: s.type.span, what: `${s.name.name} is declared here` });
      if (define(cx, scope, s.name.name, { k: "tensor", id }, s))
        scope.define(s.name.name, { k: "tensor", id }, s.span, { mutable: true, state: name });
      return;
    }
    default:
      s satisfies never;
  }
}

/** Defines a name once in its block; a second `let` of the same name in a block is allowed, other kinds not. */
function define(cx: Cx, scope: Scope, name: string, value: Value, at: { readonly name: { readonly span: Statement["span"] } }): boolean {
  const before = scope.names.get(name);
  if (before !== undefined) {
    cx.report.twice(name, at.name.span, before.span);
    return false;
  }
  scope.define(name, value, at.name.span);
  return true;
}

export function letStatement(cx: Cx, s: LetStatement, scope: Scope): void {
  let value = cx.expr(s.value, scope);
  if (s.type !== undefined && value.k === "tensor") {
    const expected = declaredType(cx, s.type, scope);
    const build = graphOf(cx);
    if (expected !== undefined)
      checkType(
        cx,
        build,
        build.builder.typeOf(value.id),
        expected,
        "UHD0305",
        s.value.span,
        "this value has another type than declared",
        [{ span: s.type.span, message: "the type is declared here" }],
        value.id,
      );
  } else if (s.type !== undefined && value.k === "host") {
    value = coerce(cx, value, hostTypeOf(cx, s.type, scope.unit), s.value, s.value.span, s.type.span, "this value");
  } else if (s.type !== undefined && value.k !== "error") {
    cx.report.error("UHD0201", s.value.span, `${kindText(value)} has no written type`);
  }
  if (value.k === "function" || value.k === "module" || value.k === "forward") {
    cx.report.error("UHD0107", s.value.span, `${kindText(value)} is not a value`);
    value = errorValue;
  }
  if (value.k === "tensor" && s.pattern.kind === "name" && !graphOf(cx).made.has(value.id))
    graphOf(cx).made.set(value.id, { span: s.value.span, what: `${s.pattern.name} is computed here` });
  bindPattern(cx, s.pattern, value, scope, s.mutable, s.value.span);
}

function bindPattern(cx: Cx, p: Pattern, v: Value, scope: Scope, mutable: boolean, from: Span): void {
  if (p.kind === "name") {
    if (p.name !== "_") scope.define(p.name, v.k === "host" ? bound(cx, p.name, v, p) : v, p.span, { mutable, from });
    return;
  }
  const n = p.items.length;
  if (v.k === "tuple" && v.items.length === n) {
    p.items.forEach((q, i) => bindPattern(cx, q, v.items[i] ?? errorValue, scope, mutable, from));
    return;
  }
  if (v.k === "host" && v.type.k === "tuple" && v.type.items.length === n) {
    const items = v.type.items;
    const whole = v.parts === undefined && v.known === undefined ? bound(cx, "pair", v, p) : v;
    p.items.forEach((q, i) => {
      bindPattern(cx, q, part(whole, i, items[i] ?? errorType), scope, mutable, from);
    });
    return;
  }
  if (v.k !== "error" && !(v.k === "host" && v.type.k === "error")) {
    cx.report.error("UHD0205", p.span, "the pattern does not fit the value", { expected: kindText(v), found: `a tuple of ${n}` });
  }
  for (const q of p.items) bindPattern(cx, q, errorValue, scope, mutable, from);
}

function part(v: HostVal, i: number, type: HostType): HostVal {
  const written = v.parts?.[i];
  if (written !== undefined) return { ...written, type };
  if (Array.isArray(v.known)) return knownValue(type, (v.known as readonly HostValue[])[i] ?? 0);
  return { k: "host", type, expr: { k: "index", of: v.expr, at: { k: "lit", v: i } } };
}

/** A host value with a name of its own: computed once at each run, or now when it is known. */
function bound(cx: Cx, hint: string, v: HostVal, at: Pattern): HostVal {
  if (v.known !== undefined && typeof v.known !== "object") return v;
  if (v.expr.k === "var" || v.type.k === "error") return v;
  if (v.dim !== undefined) return v;
  const known = constantOf(cx, v, at.span);
  if (known !== undefined && typeof known !== "object") return knownValue(v.type, known);
  const build = graphOf(cx);
  const name = bindHost(cx, hint, v.expr, false, at.span);
  if (known !== undefined) build.known.set(name, known);
  return {
    k: "host",
    type: v.type,
    expr: { k: "var", name },
    ...(known === undefined ? {} : { known }),
    ...(v.parts === undefined ? {} : { parts: v.parts }),
  };
}

function assign(cx: Cx, build: Build, s: Extract<Statement, { kind: "assign" }>, scope: Scope): void {
  const name = s.name.name;
  const target = scope.find(name);
  const value = cx.expr(s.value, scope);
  if (target === undefined) {
    const near = closest(name, scope.all());
    cx.report.error("UHD0101", s.name.span, `there is no variable ${name}`, {
      ...suggestion(name, near, near === undefined ? undefined : scope.declaration(near)),
      ...(near === undefined ? { help: `let ${name} = … names a value; var ${name} = … one that changes` } : {}),
    });
    return;
  }
  if (!target.mutable) {
    cx.report.error("UHD0107", s.name.span, `${name} cannot be given another value`, {
      notes: [{ span: target.span, message: "it is declared here" }],
      help: "declare it with var",
    });
    return;
  }
  if (target.state !== undefined) {
    if (value.k !== "tensor" || target.value.k !== "tensor") {
      if (value.k !== "error") cx.report.error("UHD0306", s.value.span, "the new value of a state is a tensor", { found: kindText(value) });
      return;
    }
    const ok = checkType(
      cx,
      build,
      build.builder.typeOf(value.id),
      build.builder.typeOf(target.value.id),
      "UHD0305",
      s.value.span,
      `the new value of ${name} has another type than declared`,
      [{ span: target.span, message: "the state is declared here" }],
      value.id,
    );
    if (!ok) return;
    const updated = build.updates.get(target.state);
    if (updated !== undefined) {
      cx.report.error("UHD0102", s.span, `the state ${name} is given two new values`, {
        notes: [{ span: updated, message: "the first is given here" }],
        help: "a var holds what changes on the way; the state gets its last value",
      });
      return;
    }
    build.updates.set(target.state, s.span);
    build.builder.update(target.state, value.id);
    return;
  }
  const both = target.value.k === "error" || value.k === "error" || target.value.k === value.k;
  if (!both)
    cx.report.error("UHD0201", s.value.span, `${name} changes its kind`, {
      expected: kindText(target.value),
      found: kindText(value),
      notes: [{ span: target.span, message: "it is declared here" }],
    });
  scope.assign(name, value.k === "host" ? bound(cx, name, value, { kind: "name", name, span: s.name.span }) : value);
}

function repeat(cx: Cx, build: Build, s: Extract<Statement, { kind: "repeat" }>, scope: Scope): void {
  const from = hostExpr(cx, s.from, scope);
  const type = from === undefined ? errorType : elementOf(cx, from, s.from.span);
  let unknown = false;
  const known = from === undefined || type.k === "error" ? undefined : constantOf(cx, from, s.from.span, () => (unknown = true));
  const once = (value: Value): void => {
    const inner = scope.inner();
    if (s.variable.name !== "_") inner.define(s.variable.name, value, s.variable.span);
    for (const t of s.body.statements) statement(cx, t, inner);
    if (s.body.value !== undefined) {
      cx.expr(s.body.value, inner);
      cx.report.error("UHD0111", s.body.value.span, "the value of a repeated block is not used", {
        expected: "an assignment",
        help: "assign it to a var that is declared before",
      });
    }
  };
  if (Array.isArray(known)) {
    if (known.length > maximumRepeats)
      throw new TooLarge(s.from.span, `repeated ${known.length} times; at most ${maximumRepeats} are allowed`);
    const before = cx.report.errors;
    for (const value of known) {
      once(knownValue(type, value as HostValue));
      // A mistake in the body is the same each time.
      if (cx.report.errors > before) return;
    }
    return;
  }
  if (build.abstract || from === undefined || type.k === "error") {
    const name = build.namer.fresh(s.variable.name);
    if (type.k === "int") build.loose.add(name);
    once(type.k === "int" ? symbolValue(name) : errorValue);
    return;
  }
  if (unknown)
    cx.report.error("UHD0207", s.from.span, "how often a block is repeated must be known at compile time", {
      found: hostTypeText(from.type),
    });
}

/** `ragged T over P = lengths`: T is their sum; c lengths of one size make it a product. */
function ragged(cx: Cx, build: Build, s: Extract<Statement, { kind: "ragged" }>, scope: Scope): void {
  const over = cx.expr({ kind: "name", name: s.over.name, span: s.over.span }, scope);
  const lengths = hostExpr(cx, s.value, scope);
  const segments = over.k === "host" ? sizeOf(cx, over, s.over.span, s.over.name) : undefined;
  if (over.k !== "host" && over.k !== "error") asHost(cx, over, s.over.span);
  const listed = lengths !== undefined && lengths.type.k === "list" && (lengths.type.of.k === "int" || lengths.type.of.k === "never");
  if (lengths !== undefined && !listed) {
    cx.report.error("UHD0201", s.value.span, "a ragged dimension is a list of lengths", {
      expected: "[int]",
      found: hostTypeText(lengths.type),
    });
  }
  if (segments === undefined || lengths === undefined || !listed) {
    define(cx, scope, s.name.name, errorValue, s);
    return;
  }
  const name = s.name.name;
  const list = lengths.expr.k === "var" ? lengths.expr.name : bindHost(cx, `${name}.lengths`, lengths.expr, false, s.value.span);
  const uniform = uniformLength(cx, s.value, scope);
  let size: Dim;
  if (uniform !== undefined) size = dimMul(uniform, segments);
  else {
    const symbol = bindHost(
      cx,
      name,
      { k: "call", fn: "sum", args: [{ k: "var", name: list }], loc: `${s.span.file}:${s.span.line}:${s.span.column}` },
      true,
      s.span,
    );
    build.builder.symbol(symbol);
    size = dimSymbol(symbol);
  }
  if (!define(cx, scope, name, dimValue(size), s)) return;
  build.ragged.set(size.text, { name, over: segments, lengths: { k: "var", name: list } });
  build.origins.set(size.text, { span: s.span, what: `${name} = ${size.text} is defined here` });
}

/** The length every segment has, where the lengths are `[c for …]` with a c that does not depend on the segment. */
function uniformLength(cx: Cx, e: Expr, scope: Scope): Dim | undefined {
  if (e.kind !== "comprehension" || e.clauses.length !== 1 || e.clauses[0]?.kind !== "for") return undefined;
  const pattern = e.clauses[0].pattern;
  const inner = scope.inner(true);
  const v = cx.report.quietly(() => {
    hostPattern(cx, pattern, errorType, inner);
    return cx.expr(e.body, inner);
  });
  if (v.k !== "host" || v.type.k !== "int" || v.dim === undefined) return undefined;
  const names = new Set(
    patternNames([...inner.names.values()].map((n) => (n.value.k === "host" && n.value.expr.k === "var" ? n.value.expr.name : "_"))),
  );
  return [...freeVariables(v.expr)].some((f) => names.has(f)) ? undefined : v.dim;
}

function table(cx: Cx, build: Build, s: Extract<Statement, { kind: "table" }>, scope: Scope): void {
  const type = declaredType(cx, s.type, scope);
  const inner = scope.inner(true);
  const value = hostExpr(cx, s.value, inner);
  if (type === undefined || value === undefined) {
    define(cx, scope, s.name.name, errorValue, s);
    return;
  }
  let element: HostType = value.type;
  let rank = 0;
  while (element.k === "list") {
    element = element.of;
    rank++;
  }
  const wanted: HostType = type.dtype === "bool" ? { k: "bool" } : type.dtype === "f32" ? float : int;
  const fitting =
    element.k === "never" || (rank === type.shape.length && (element.k === wanted.k || (element.k === "int" && wanted.k === "float")));
  if (type.dtype === "f16" || type.dtype === "bf16")
    cx.report.error("UHD0304", s.type.span, `tables of ${type.dtype} do not exist`, { help: "make it f32 and cast it" });
  else if (!fitting) {
    cx.report.error("UHD0201", s.value.span, "the value does not fit the table", {
      expected: `${"[".repeat(type.shape.length)}${hostTypeText(wanted)}${"]".repeat(type.shape.length)} for ${typeText(type)}`,
      found: hostTypeText(value.type),
      notes: [{ span: s.type.span, message: "the table's type is declared here" }],
    });
  }
  build.builder.at([s.span, ...build.calls]);
  const id = build.builder.table(build.namer.fresh(s.name.name), type, value.expr);
  build.made.set(id, { span: s.type.span, what: `${s.name.name} is declared here` });
  define(cx, scope, s.name.name, { k: "tensor", id }, s);
}
