// Index arithmetic in one form: every i32 sum of products becomes Σ coefficient·term + constant with sizes as
// coefficients, and division and remainder by a size are resolved where the ranges of the axes prove it. Only i32
// is touched; floats stay as they are written.
//
// The identities, each beside its code below (t: a term, c: a size, s: a size that is at least 1):
//   c·t + c'·t           -> (c + c')·t              exact: i32 wraps the same way in every order
//   (a + b)·c            -> a·c + b·c
//   (s·q + r) mod s      -> r                       where 0 ≤ r < s
//   (s·q + r) / s        -> q                       where 0 ≤ r < s, and 0 ≤ q or r = 0, since division truncates
//   select(true, a, b)   -> a
//
// What it takes for granted: i32 variables are axes, so they are not negative; axes of different ranges have different
// names; and an index, a sum of axes by sizes that are not bounded, does not overflow. Sums that the bounds let
// overflow, and sums of loaded values, are not divided.

import { dim, dimAdd, dimBounds, dimConstant, dimExactDiv, dimMul, dimSub, type Dim, type DimSymbol } from "../dim.ts";
import { Interner } from "./intern.ts";
import type { Expr } from "./types.ts";

/** Σ coefficient·term + constant. Terms are interned expressions that are no sums themselves. */
interface Affine {
  readonly terms: ReadonlyMap<Expr, Dim>;
  readonly constant: Dim;
}

const zero = dim(0);
const one = dim(1);

export class Simplifier {
  readonly interner: Interner;
  private readonly symbols: ReadonlyMap<string, DimSymbol>;
  /** Axes run from 0 to extent - 1. */
  private readonly extents = new Map<string, Dim>();
  private readonly done = new Map<Expr, Expr>();

  constructor(symbols: readonly DimSymbol[], interner = new Interner()) {
    this.symbols = new Map(symbols.map((s) => [s.name, s]));
    this.interner = interner;
  }

  /** Declares an axis, so that divisions of indices made of it can be resolved. */
  axis(name: string, extent: Dim): void {
    this.extents.set(name, extent);
  }

  /** Simplifies anew what was simplified before the ranges of its axes were known. */
  again(e: Expr): Expr {
    this.done.clear();
    return this.simplify(e);
  }

  simplify(e: Expr): Expr {
    const before = this.done.get(e);
    if (before !== undefined) return before;
    const made = this.interner.intern(this.rebuilt(e));
    this.done.set(e, made);
    this.done.set(made, made);
    return made;
  }

  /** `linear`, which must not be negative where it matters, as positions in `shape`, row-major. */
  split(linear: Expr, shape: readonly Dim[]): Expr[] {
    const index: Expr[] = [];
    let rest = this.affine(this.simplify(linear));
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const size = shape[axis] ?? one;
      if (axis === 0) index.unshift(this.expr(rest));
      else {
        const { quotient, remainder } = this.divide(rest, size);
        index.unshift(this.expr(remainder));
        rest = quotient;
      }
    }
    return index;
  }

  private rebuilt(e: Expr): Expr {
    switch (e.k) {
      case "const":
      case "var":
        return e;
      case "dim":
        return this.expr({ terms: new Map(), constant: e.dim });
      case "load": {
        const index = this.simplify(e.index);
        return index === e.index ? e : { ...e, index };
      }
      case "unary":
      case "cast":
      case "bitcast": {
        const a = this.simplify(e.a);
        return a === e.a ? e : { ...e, a };
      }
      case "binary": {
        const [a, b] = [this.simplify(e.a), this.simplify(e.b)];
        const made = a === e.a && b === e.b ? e : { ...e, a, b };
        if (made.type === "i32" && arithmetic.has(made.op)) return this.expr(this.affine(made));
        return made;
      }
      case "select": {
        const cond = this.simplify(e.cond);
        // select(true, a, b) -> a
        if (cond.k === "const") return this.simplify(cond.value === 0 ? e.b : e.a);
        return { ...e, cond, a: this.simplify(e.a), b: this.simplify(e.b) };
      }
      case "fold": {
        const [from, to] = [this.simplify(e.from), this.simplify(e.to)];
        const extent = sizeOf(to);
        if (from.k === "const" && from.value === 0 && extent !== undefined) this.extents.set(e.axis, extent);
        return { ...e, from, to, body: this.simplify(e.body) };
      }
      case "iterate": {
        this.extents.set(e.axis, dim(e.steps));
        return { ...e, init: this.simplify(e.init), body: this.simplify(e.body) };
      }
      default:
        return e satisfies never;
    }
  }

  /** `e` is simplified, or an arithmetic node of simplified operands. */
  private affine(e: Expr): Affine {
    const size = sizeOf(e);
    if (size !== undefined) return { terms: new Map(), constant: size };
    const made = e.k === "binary" && e.type === "i32" ? this.combined(e) : undefined;
    return made !== undefined && this.fits(made) ? made : { terms: new Map([[this.interner.intern(e), one]]), constant: zero };
  }

  private combined(e: Extract<Expr, { k: "binary" }>): Affine | undefined {
    const a = this.affine(e.a);
    const by = sizeOf(e.b);
    switch (e.op) {
      // c·t + c'·t -> (c + c')·t
      case "add":
        return sum(a, this.affine(e.b));
      case "sub": {
        const negative = scaled(this.affine(e.b), dim(-1));
        return negative === undefined ? undefined : sum(a, negative);
      }
      // (a + b)·c -> a·c + b·c
      case "mul": {
        const b = this.affine(e.b);
        return b.terms.size === 0 ? scaled(a, b.constant) : a.terms.size === 0 ? scaled(b, a.constant) : undefined;
      }
      case "div":
      case "mod": {
        // Values (not axes) may have wrapped around before they are divided.
        if (by === undefined || dimConstant(by) === 0 || ![...a.terms.keys()].every((t) => t.k === "var") || this.mayWrap(a))
          return undefined;
        const { quotient, remainder } = this.divide(a, by);
        // (s·q + r) mod s -> r
        if (e.op === "mod") return remainder;
        // (s·q + r) / s -> q
        return isZero(remainder) || this.isNatural(quotient) ? quotient : undefined;
      }
      default:
        return undefined;
    }
  }

  /** Floor division by a size; what cannot be resolved stays a division. */
  private divide(a: Affine, size: Dim): { readonly quotient: Affine; readonly remainder: Affine } {
    const [whole, rest] = [new Map<Expr, Dim>(), new Map<Expr, Dim>()];
    for (const [term, coefficient] of a.terms) {
      const by = dimExactDiv(coefficient, size);
      if (by !== undefined) whole.set(term, by);
      else rest.set(term, coefficient);
    }
    const constant = dimExactDiv(a.constant, size);
    const quotient: Affine = { terms: whole, constant: constant ?? zero };
    const remainder: Affine = { terms: rest, constant: constant === undefined ? a.constant : zero };
    if (this.isBelow(remainder, size)) return { quotient, remainder };
    const value = this.expr(a);
    const divisor = this.expr({ terms: new Map(), constant: size });
    const term = (op: "div" | "mod"): Affine => ({
      terms: new Map([[this.interner.intern({ k: "binary", op, a: value, b: divisor, type: "i32" }), one]]),
      constant: zero,
    });
    return { quotient: term("div"), remainder: term("mod") };
  }

  /** Sizes and numbers in it must be of 32 bits, as far as bounds tell: then arithmetic wraps as it did before. */
  private fits(a: Affine): boolean {
    return [a.constant, ...a.terms.values()].every((d) => {
      const { lower, upper } = dimBounds(d, this.symbols);
      return !leaves(lower) && !leaves(upper) && d.monomials.every((m) => Math.abs(m.coefficient) < 2 ** 31);
    });
  }

  /** Is 0 ≤ a as far as the signs of its parts show? */
  private isNatural(a: Affine): boolean {
    return [a.constant, ...a.terms.values()].every((d) => dimBounds(d, this.symbols).lower >= 0);
  }

  /** Do the bounds of sizes and axes let the sum leave 32 bits? What has no bounds is taken for an index that fits. */
  private mayWrap(a: Affine): boolean {
    let { lower, upper } = dimBounds(a.constant, this.symbols);
    for (const [term, coefficient] of a.terms) {
      const extent = term.k === "var" ? this.extents.get(term.name) : undefined;
      const last = extent === undefined ? Infinity : Math.max(0, dimBounds(extent, this.symbols).upper - 1);
      const by = dimBounds(coefficient, this.symbols);
      lower += Math.min(0, last === 0 ? 0 : by.lower * last);
      upper += Math.max(0, last === 0 ? 0 : by.upper * last);
    }
    return leaves(lower) || leaves(upper);
  }

  /** Is 0 ≤ a < size for every point of the axes? */
  private isBelow(a: Affine, size: Dim): boolean {
    let upper = a.constant;
    if (dimBounds(a.constant, this.symbols).lower < 0) return false;
    for (const [term, coefficient] of a.terms) {
      const extent = term.k === "var" ? this.extents.get(term.name) : undefined;
      if (extent === undefined || dimBounds(coefficient, this.symbols).lower < 0) return false;
      upper = dimAdd(upper, dimMul(coefficient, dimSub(extent, one)));
    }
    return dimBounds(dimSub(dimSub(size, one), upper), this.symbols).lower >= 0;
  }

  /** The expression, terms in the order in which they were first met. */
  private expr(a: Affine): Expr {
    let made: Expr | undefined;
    for (const [term, coefficient] of a.terms) {
      const factor = dimConstant(coefficient);
      if (factor === 0) continue;
      const product = factor === 1 ? term : this.i32("mul", term, this.sizeExpr(coefficient));
      made = made === undefined ? product : this.i32("add", made, product);
    }
    if (made === undefined) return this.sizeExpr(a.constant);
    return dimConstant(a.constant) === 0 ? made : this.i32("add", made, this.sizeExpr(a.constant));
  }

  private sizeExpr(d: Dim): Expr {
    const value = dimConstant(d);
    return this.interner.intern(value === undefined || value !== (value | 0) ? { k: "dim", dim: d } : { k: "const", type: "i32", value });
  }

  private i32(op: "add" | "mul", a: Expr, b: Expr): Expr {
    return this.interner.intern({ k: "binary", op, a, b, type: "i32" });
  }
}

const arithmetic: ReadonlySet<string> = new Set(["add", "sub", "mul", "div", "mod"]);

/** `e` as a size, where it is one or a whole number. */
export function sizeOf(e: Expr): Dim | undefined {
  if (e.k === "dim") return e.dim;
  return e.k === "const" && e.type === "i32" ? dim(e.value) : undefined;
}

/** Is the bound beyond 32 bits? */
const leaves = (x: number): boolean => Number.isFinite(x) && x !== (x | 0);

function isZero(a: Affine): boolean {
  return a.terms.size === 0 && dimConstant(a.constant) === 0;
}

function sum(a: Affine, b: Affine): Affine {
  const terms = new Map(a.terms);
  for (const [term, coefficient] of b.terms) terms.set(term, dimAdd(terms.get(term) ?? zero, coefficient));
  return { terms, constant: dimAdd(a.constant, b.constant) };
}

/** Undefined where coefficients would leave the numbers that sizes are made of. */
function scaled(a: Affine, by: Dim): Affine | undefined {
  const largest = (d: Dim): number => d.monomials.reduce((n, m) => n + Math.abs(m.coefficient), 0);
  const most = Math.max(largest(a.constant), ...[...a.terms.values()].map(largest));
  if (most * largest(by) >= 2 ** 53) return undefined;
  return { terms: new Map([...a.terms].map(([term, coefficient]) => [term, dimMul(coefficient, by)])), constant: dimMul(a.constant, by) };
}
