// Declared tensor types: their sizes as dims, and unification of a signature with what is given. Sizes that
// a signature leaves open are found by solving, one unknown at a time.

import { dim, dimConstant, dimEqual, dimExactDiv, dimSub, dimSubstitute, dimSymbol, dimSymbols, shapeEqual, type Dim } from "../ir/dim.ts";
import { dtypes, isDType, type DType } from "../ir/dtype.ts";
import { typeText } from "../ir/graph/build.ts";
import type { TensorType, ValueId } from "../ir/graph/types.ts";
import type { Span } from "../ir/loc.ts";
import { closest, type Note } from "../diagnostics/index.ts";
import type { DimExpr, Expr, TypeExpr } from "../syntax/ast.ts";
import { dimValue, sizeOf, undecided } from "./constants.ts";
import type { Build, Cx, Scope } from "./context.ts";
import { raggedOf } from "./ragged.ts";
import { didYouMean, suggestion } from "./report.ts";

export type TensorTypeExpr = Extract<TypeExpr, { kind: "tensor" }>;

export function dtypeOf(cx: Cx, t: TensorTypeExpr): DType | undefined {
  if (isDType(t.dtype.name)) return t.dtype.name;
  cx.report.error("UHD0103", t.dtype.span, `there is no element type ${t.dtype.name}`, {
    expected: dtypes.join(", "),
    found: t.dtype.name,
    help: didYouMean(closest(t.dtype.name, dtypes)),
  });
  return undefined;
}

/** Whether a size is a name that nothing in reach defines: an implicit dimension variable. */
export function implicitName(d: DimExpr, scope: Scope): string | undefined {
  return d.value.kind === "name" && isOpen(d.value.name, scope) ? d.value.name : undefined;
}

function isOpen(name: string, scope: Scope): boolean {
  return scope.find(name) === undefined && !scope.unit.names.has(name) && !scope.unit.missing.has(name);
}

/** Names in `e` that nothing defines. */
function openNames(e: Expr, scope: Scope): readonly Extract<Expr, { kind: "name" }>[] {
  if (e.kind === "name") return isOpen(e.name, scope) ? [e] : [];
  if (e.kind === "binary") return [...openNames(e.left, scope), ...openNames(e.right, scope)];
  if (e.kind === "unary") return openNames(e.operand, scope);
  if (e.kind === "call") return e.args.flatMap((a) => openNames(a.value, scope));
  return [];
}

/** One declared size. */
function declaredSize(cx: Cx, d: DimExpr, scope: Scope): Dim | undefined {
  const open = openNames(d.value, scope)[0];
  if (open !== undefined) {
    const near = closest(open.name, scope.sizes());
    cx.report.error("UHD0308", open.span, `nothing gives the size ${open.name}`, {
      ...suggestion(open.name, near, near === undefined ? undefined : scope.declaration(near)),
      ...(near === undefined
        ? { help: "a size comes from a tensor of the signature, from dim or ragged, or from a module's arguments" }
        : {}),
    });
    return undefined;
  }
  const v = cx.expr(d.value, scope);
  if (v.k === "host") {
    const size = sizeOf(cx, v, d.span);
    if (size !== undefined && (dimConstant(size) ?? 0) < 0) {
      cx.report.error("UHD0308", d.span, "a size is 0 or more", { found: size.text });
      return undefined;
    }
    return size;
  }
  if (v.k !== "error") cx.report.error("UHD0308", d.span, "a size is an integer", { expected: "int" });
  return undefined;
}

/** A declared type whose sizes are all defined. */
export function declaredType(cx: Cx, t: TypeExpr, scope: Scope): TensorType | undefined {
  if (t.kind !== "tensor") {
    if (t.kind !== "error") cx.report.error("UHD0306", t.span, "this must be the type of a tensor", { expected: "f32[…]" });
    return undefined;
  }
  const dtype = dtypeOf(cx, t);
  const shape = t.dims.map((d) => declaredSize(cx, d, scope));
  const good = shape.filter((d) => d !== undefined);
  return dtype === undefined || good.length < shape.length ? undefined : { dtype, shape: good };
}

/** Checks the type of a value, `id` where it is one of the graph, against a declared one. */
export function checkType(
  cx: Cx,
  build: Build,
  found: TensorType,
  expected: TensorType,
  code: string,
  span: Span,
  message: string,
  notes: readonly Note[],
  id?: ValueId,
): boolean {
  if (found.dtype === expected.dtype && shapeEqual(found.shape, expected.shape)) return true;
  const sizesOnly = found.dtype === expected.dtype && found.shape.length === expected.shape.length;
  const differing = found.shape.flatMap((d, i) => {
    const e = expected.shape[i];
    return e === undefined || dimEqual(d, e) ? [] : [d, e];
  });
  if (sizesOnly && undecided(cx, differing)) return true;
  cx.report.error(code, span, message, {
    expected: typeText(expected),
    found: typeText(found),
    notes: [...notes, ...madeNotes(build, id), ...originNotes(build, differing)],
    help: found.dtype !== expected.dtype && shapeEqual(found.shape, expected.shape) ? `cast(x, ${expected.dtype}) converts` : undefined,
  });
  return false;
}

/** Where a tensor was declared or named. */
export function madeNotes(build: Build, id: ValueId | undefined): readonly { span: Span; message: string }[] {
  const made = id === undefined ? undefined : build.made.get(id);
  return made === undefined ? [] : [{ span: made.span, message: made.what }];
}

/** Where the sizes of a conflict got their values, at most two. */
export function originNotes(build: Build, dims: readonly Dim[]): readonly { span: Span; message: string }[] {
  const seen = new Map<string, { span: Span; message: string }>();
  for (const d of dims) {
    const origin = build.origins.get(d.text);
    if (origin !== undefined && !seen.has(d.text)) seen.set(d.text, { span: origin.span, message: origin.what });
  }
  return [...seen.values()].slice(0, 2);
}

export interface Actual {
  readonly id: ValueId;
  readonly type: TensorType;
  readonly span: Span;
}

export interface Formal {
  readonly type: TensorTypeExpr;
  readonly name: string;
  readonly span: Span;
}

/**
 * Unifies declared types with given ones, defining implicit sizes in `scope`. True when all fit. Each conflict is
 * reported at the argument, with notes at the declaration and at the argument that set the size.
 */
export function unify(cx: Cx, build: Build, formals: readonly Formal[], actuals: readonly Actual[], scope: Scope, callee: string): boolean {
  const bound = new Map<string, { span: Span; by: string; size: Dim }>();
  let ok = true;
  const conflict = (i: number, d: DimExpr | undefined, expected: Dim | undefined, message: string): void => {
    ok = false;
    const [formal, actual] = [formals[i], actuals[i]];
    if (formal === undefined || actual === undefined) return;
    const names = d === undefined ? [] : namesIn(d.value);
    const earlier = names.map((n) => bound.get(n)).find((b) => b !== undefined && b.by !== formal.name);
    const shape = formal.type.dims.map((x, axis) =>
      x === d && expected !== undefined ? expected.text : (sizeText(cx, x, scope) ?? actual.type.shape[axis]?.text ?? "_"),
    );
    cx.report.error("UHD0301", actual.span, message, {
      expected: `${formal.type.dtype.name}[${shape.join(", ")}]`,
      found: typeText(actual.type),
      notes: [
        ...(earlier === undefined
          ? []
          : [
              {
                span: earlier.span,
                message: `${names.find((n) => bound.has(n)) ?? ""} = ${earlier.size.text} comes from ${earlier.by} here`,
              },
            ]),
        { span: d?.span ?? formal.span, message: `${formal.name} of ${callee} is declared here` },
        ...madeNotes(build, actual.id),
        ...originNotes(
          build,
          actual.type.shape.filter((x) => dimConstant(x) === undefined),
        ),
      ],
    });
  };
  // Plain names first: they are what other sizes are solved with.
  formals.forEach((formal, i) => {
    const actual = actuals[i];
    const dtype = dtypeOf(cx, formal.type);
    if (actual === undefined || dtype === undefined) {
      ok = false;
      return;
    }
    if (actual.type.dtype !== dtype) {
      conflict(i, undefined, undefined, `${formal.name} of ${callee} is ${dtype}`);
      return;
    }
    if (actual.type.shape.length !== formal.type.dims.length) {
      conflict(
        i,
        undefined,
        undefined,
        `${formal.name} of ${callee} has ${formal.type.dims.length} dimension${formal.type.dims.length === 1 ? "" : "s"}, this has ${actual.type.shape.length}`,
      );
      return;
    }
    formal.type.dims.forEach((d, axis) => {
      const name = implicitName(d, scope);
      const size = actual.type.shape[axis];
      if (name === undefined || size === undefined) return;
      scope.define(name, dimValue(size), d.span);
      bound.set(name, { span: actual.span, by: formal.name, size });
    });
  });
  if (!ok) return false;
  formals.forEach((formal, i) => {
    formal.type.dims.forEach((d, axis) => {
      const given = actuals[i]?.type.shape[axis];
      if (given === undefined || !ok) return;
      const open = openNames(d.value, scope);
      if (open.length > 0 && !solve(cx, d, open, given, scope, bound, actuals[i]?.span ?? d.span, formal.name)) {
        conflict(i, d, undefined, `the size ${given.text} does not fit ${formal.name} of ${callee}`);
        return;
      }
      const wanted = declaredSize(cx, d, scope);
      if (wanted === undefined) ok = false;
      else if (!dimEqual(wanted, given) && !undecided(cx, [wanted, given]))
        conflict(i, d, wanted, `dimension ${axis} of ${formal.name} of ${callee} must be ${wanted.text}`);
      else if (d.ragged && raggedOf(build, given) === undefined && !undecided(cx, [given])) {
        ok = false;
        cx.report.error("UHD0307", actuals[i]?.span ?? d.span, `${formal.name} of ${callee} has a ragged dimension`, {
          expected: "a dimension with segments",
          found: `${given.text}, which has none`,
          notes: [{ span: d.span, message: "the ragged dimension is declared here" }],
          help: "ragged T over P = [length for …] declares segments; in a graph's signature, T~ makes one segment",
        });
      }
    });
  });
  return ok;
}

function namesIn(e: Expr): readonly string[] {
  if (e.kind === "name") return [e.name];
  if (e.kind === "binary") return [...namesIn(e.left), ...namesIn(e.right)];
  return e.kind === "unary" ? namesIn(e.operand) : [];
}

function sizeText(cx: Cx, d: DimExpr, scope: Scope): string | undefined {
  if (openNames(d.value, scope).length > 0) return undefined;
  return cx.report.quietly(() => declaredSize(cx, d, scope))?.text;
}

/** Solves `c·name + rest = given` for the one open name of a size. */
function solve(
  cx: Cx,
  d: DimExpr,
  open: readonly Extract<Expr, { kind: "name" }>[],
  given: Dim,
  scope: Scope,
  bound: Map<string, { span: Span; by: string; size: Dim }>,
  span: Span,
  by: string,
): boolean {
  const name = open[0]?.name;
  if (name === undefined || open.some((o) => o.name !== name)) return false;
  const unknown = `?${name}`;
  const trial = scope.inner();
  trial.define(name, dimValue(dimSymbol(unknown)), d.span);
  const size = declaredSize(cx, d, trial);
  if (size === undefined || dimSymbols(size).filter((s) => s === unknown).length !== 1) return false;
  const rest = dimSubstitute(size, new Map([[unknown, dim(0)]]));
  const unit = dimSub(dimSubstitute(size, new Map([[unknown, dim(1)]])), rest);
  // Linear: twice the unknown adds twice as much.
  const two = dimSub(dimSubstitute(size, new Map([[unknown, dim(2)]])), rest);
  if (!dimEqual(two, dimSub(unit, dimSub(dim(0), unit)))) return false;
  const value = dimExactDiv(dimSub(given, rest), unit);
  if (value === undefined) return false;
  scope.define(name, dimValue(value), d.span);
  bound.set(name, { span, by, size: value });
  return true;
}
