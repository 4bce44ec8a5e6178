// Reductions of a row, taken out of the value of its elements: they become a `let` before the loop over them. Decides
// nothing.

import { binary, mapOperands, operandsOf, select, typeOfExpr, unary, variable } from "../ir/kernel/build.ts";
import { Reads, type Interner } from "../ir/kernel/intern.ts";
import type { Expr, Stage } from "../ir/kernel/types.ts";

/**
 * Takes the reductions that depend on the row alone out of `value`, innermost first. Where only a side of a select
 * needs one (a row of a concatenation is of one operand), it is taken out under the select's condition, since for other
 * rows what it loads may be out of range; where the condition is not of the row alone, it stays where it is.
 */
export function rowReductions(
  value: Expr,
  rows: ReadonlySet<string>,
  interner: Interner,
): { readonly lets: readonly Stage[]; readonly value: Expr } {
  const { lets, values } = taken([value], rows, interner, value);
  return { lets, value: values[0] ?? value };
}

/** The same for several values of a row, which have each reduction once. What is a reduction as a whole is taken out too. */
export function rowReductionsOfAll(
  values: readonly Expr[],
  rows: ReadonlySet<string>,
  interner: Interner,
): { readonly lets: readonly Stage[]; readonly values: readonly Expr[] } {
  return taken(values, rows, interner, undefined);
}

/** `whole` stays, though it is a reduction. */
function taken(
  values: readonly Expr[],
  rows: ReadonlySet<string>,
  interner: Interner,
  whole: Expr | undefined,
): { readonly lets: readonly Stage[]; readonly values: readonly Expr[] } {
  const lets: Stage[] = [];
  const reads = new Reads();
  const within = (e: Expr, names: (name: string) => boolean): boolean => [...reads.of(e)].every(names);
  const ofRow = (e: Expr): boolean => within(e, (n) => rows.has(n));
  const outer: Scope = { guard: undefined, certain: evaluated(...values), outer: undefined };
  /** By the condition under which they are needed; undefined where they always are. */
  const done = new Map<Expr | undefined, Map<Expr, Expr>>();
  const visit = (e: Expr, given: Scope): Expr => {
    const scope = outermost(given, e);
    const { guard } = scope;
    const known = done.get(guard) ?? new Map<Expr, Expr>();
    done.set(guard, known);
    const before = known.get(e);
    if (before !== undefined) return before;
    let made = interner.intern(e.k === "select" ? sides(e, scope) : mapOperands(e, (x) => visit(x, scope)));
    if ((e.k === "fold" || e.k === "iterate") && e !== whole && ofRow(e)) {
      const name = `r${lets.length}`;
      const type = typeOfExpr(made);
      const zero: Expr = { k: "const", type, value: 0 };
      lets.push({ k: "let", name, type, value: guard === undefined ? made : select(guard, made, zero) });
      made = interner.intern(variable(name, type));
    }
    known.set(e, made);
    return made;
  };
  const sides = (e: Extract<Expr, { k: "select" }>, scope: Scope): Expr => {
    const cond = visit(e.cond, scope);
    // Of the elements alone: every row has elements on either side, or nobody asks.
    if (within(e.cond, (n) => !rows.has(n))) return { ...e, cond, a: visit(e.a, scope), b: visit(e.b, scope) };
    if (!ofRow(e.cond)) return { ...e, cond };
    const side = (x: Expr, c: Expr): Expr => {
      const guard = interner.intern(scope.guard === undefined ? c : binary("and", scope.guard, c));
      return visit(x, { guard, certain: evaluated(x), outer: scope });
    };
    return { ...e, cond, a: side(e.a, cond), b: side(e.b, interner.intern(unary("not", cond))) };
  };
  return { lets, values: values.map((v) => visit(v, outer)) };
}

/** A side of a select: what is evaluated there, under which condition, and what it is a side within. */
interface Scope {
  readonly guard: Expr | undefined;
  readonly certain: ReadonlySet<Expr>;
  readonly outer: Scope | undefined;
}

/** The scope with the fewest conditions in which `e` is evaluated anyway: there it is taken out once for all sides. */
function outermost(scope: Scope, e: Expr): Scope {
  let found = scope;
  for (let s: Scope | undefined = scope; s !== undefined; s = s.outer) if (s.certain.has(e)) found = s;
  return found;
}

/** The parts of `all` that are evaluated wherever they are: those that are not in a side of a select alone. */
function evaluated(...all: readonly Expr[]): ReadonlySet<Expr> {
  const seen = new Set<Expr>();
  const visit = (x: Expr): void => {
    if (seen.has(x)) return;
    seen.add(x);
    for (const part of x.k === "select" ? [x.cond] : operandsOf(x)) visit(part);
  };
  for (const e of all) visit(e);
  return seen;
}

/** Is a reduction of the row left among its elements, where it would be made again for each of them? */
export function repeatsRow(value: Expr, rows: ReadonlySet<string>, interner: Interner): boolean {
  const reads = new Reads();
  const rest = rowReductions(value, rows, interner).value;
  const seen = new Set<Expr>();
  const found = (e: Expr): boolean => {
    if (seen.has(e)) return false;
    seen.add(e);
    return ((e.k === "fold" || e.k === "iterate") && e !== rest && [...reads.of(e)].every((n) => rows.has(n))) || operandsOf(e).some(found);
  };
  return found(rest);
}
