// Whether four neighbours along an axis can be computed together: loads must be of neighbours or of one place, and
// what a mask hides must not be loaded. Decides; emit.ts writes the code.

import { operandsOf } from "../ir/kernel/build.ts";
import { strideOf, type Reads } from "../ir/kernel/intern.ts";
import type { Expr } from "../ir/kernel/types.ts";

export class Vectors {
  private readonly reads: Reads;
  private readonly certainKnown = new Map<Expr, ReadonlySet<Expr>>();
  private readonly loadsKnown = new Map<Expr, boolean>();
  private readonly allowed = new Map<string, Map<Expr, boolean>>();

  constructor(reads: Reads) {
    this.reads = reads;
  }

  /** Can four neighbours along `axis` be computed together? Loads must be of neighbours or of one place. */
  allow(e: Expr, axis: string): boolean {
    if (!this.reads.of(e).has(axis)) return true;
    const known = this.allowed.get(axis) ?? new Map<Expr, boolean>();
    this.allowed.set(axis, known);
    const before = known.get(e);
    if (before !== undefined) return before;
    const made = this.allows(e, axis);
    known.set(e, made);
    return made;
  }

  private allows(e: Expr, axis: string): boolean {
    switch (e.k) {
      case "const":
      case "var":
      case "dim":
        return true;
      case "load": {
        const stride = strideOf(e.index, axis, this.reads);
        return stride === 0 || stride === 1;
      }
      case "unary":
        return this.allow(e.a, axis) && (e.type !== "i32" || e.op === "neg" || e.op === "abs");
      case "cast":
      case "bitcast":
        return this.allow(e.a, axis);
      case "binary":
        return this.allow(e.a, axis) && this.allow(e.b, axis);
      case "select":
        // Both sides of a mask are evaluated, so neither may load what is not loaded anyway.
        if (this.reads.of(e.cond).has(axis))
          return this.allow(e.cond, axis) && [e.a, e.b].every((x) => this.allow(x, axis) && this.isSafe(x, this.certain(e.cond)));
        return this.allow(e.a, axis) && this.allow(e.b, axis);
      case "fold":
        return !this.reads.of(e.from).has(axis) && !this.reads.of(e.to).has(axis) && this.allow(e.body, axis);
      case "iterate":
        return false;
      default:
        return e satisfies never;
    }
  }

  /** What is evaluated whenever `e` is; not what the bounds of folds are made of, which may be long chains of folds. */
  private certain(e: Expr): ReadonlySet<Expr> {
    const known = this.certainKnown.get(e);
    if (known !== undefined) return known;
    const all = new Set<Expr>([e]);
    const parts = e.k === "select" ? [e.cond] : e.k === "fold" || e.k === "iterate" ? [] : operandsOf(e);
    // Only what loads is asked about.
    for (const part of parts) if (this.loads(part)) for (const x of this.certain(part)) all.add(x);
    this.certainKnown.set(e, all);
    return all;
  }
  /** Evaluating `e` loads nothing beyond what `certain` does. */
  private isSafe(e: Expr, certain: ReadonlySet<Expr>): boolean {
    if (!this.loads(e) || certain.has(e)) return true;
    return e.k !== "load" && e.k !== "fold" && e.k !== "iterate" && operandsOf(e).every((c) => this.isSafe(c, certain));
  }

  /** Does evaluating `e` read a buffer? */
  loads(e: Expr): boolean {
    const known = this.loadsKnown.get(e);
    if (known !== undefined) return known;
    const value = e.k === "load" || e.k === "fold" || e.k === "iterate" || operandsOf(e).some((c) => this.loads(c));
    this.loadsKnown.set(e, value);
    return value;
  }
}
