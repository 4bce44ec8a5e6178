// Structure recognised in expressions: the parts of a matrix multiply and of attention, and the reductions in a
// value. What is not recognised is no error: it runs as plain loops.

import type { Dim } from "../ir/dim.ts";
import { operandsOf } from "../ir/kernel/build.ts";
import { Reads } from "../ir/kernel/intern.ts";
import type { Expr } from "../ir/kernel/types.ts";
import { coefficient } from "../schedule/merge.ts";

type Fold = Extract<Expr, { k: "fold" }>;
type Load = Extract<Expr, { k: "load" }>;

/** Every reduction in a value; a reduction over several dimensions (folds right inside each other) counts once. */
export function chainsOf(value: Expr): readonly Fold[] {
  const found = new Set<Fold>();
  const seen = new Set<Expr>();
  const visit = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    if (e.k !== "fold") {
      for (const c of operandsOf(e)) visit(c);
      return;
    }
    found.add(e);
    let inner: Expr = e;
    while (inner.k === "fold") {
      visit(inner.from);
      visit(inner.to);
      inner = inner.body;
    }
    visit(inner);
  };
  visit(value);
  return [...found];
}

export interface ContractionParts {
  readonly fold: Fold;
  readonly a: Load;
  /** Any expression over the same axis. */
  readonly b: Expr;
  readonly depth: Dim;
}

/** Σ a[…]·b[…] with `a` a load at a constant stride along the axis of the sum. */
export function contractionParts(value: Expr): ContractionParts | undefined {
  const parts = productParts(value);
  if (parts === undefined || parts.a.k !== "load") return undefined;
  const step = coefficient(parts.a.index, parts.fold.axis, { reads: new Reads() });
  return step !== undefined ? { ...parts, a: parts.a } : undefined;
}

/** Σ over a size of a·b. */
export function productParts(value: Expr): { readonly fold: Fold; readonly a: Expr; readonly b: Expr; readonly depth: Dim } | undefined {
  if (value.k !== "fold" || value.op !== "sum" || value.body.k !== "binary" || value.body.op !== "mul") return undefined;
  const depth = sizeOf(value.to);
  if (depth === undefined || value.from.k !== "const" || value.from.value !== 0) return undefined;
  return { fold: value, a: value.body.a, b: value.body.b, depth };
}

function sizeOf(e: Expr): Dim | undefined {
  if (e.k === "dim") return e.dim;
  return e.k === "const" && e.type === "i32"
    ? { monomials: e.value === 0 ? [] : [{ coefficient: e.value, atoms: [] }], text: String(e.value) }
    : undefined;
}

export interface AttentionParts {
  readonly key: string;
  readonly inner: string;
  readonly innerExtent: Dim;
  readonly scale: number;
  readonly from: Expr;
  readonly to: Expr;
  readonly q: Load;
  readonly key_: Load;
  readonly value: Load;
}

/**
 * if from < to then Σₛ exp(scale·Σ q·k - max)·v / Σₛ exp(…) else 0, with q, k and v loads. The three passes over the
 * keys must be over the same scores.
 */
export function attentionParts(e: Expr): AttentionParts | undefined {
  if (e.k !== "select" || e.a.k !== "binary" || e.a.op !== "div") return undefined;
  const [mixed, total] = [e.a.a, e.a.b];
  if (mixed.k !== "fold" || total.k !== "fold" || mixed.op !== "sum" || total.op !== "sum") return undefined;
  const weighted = mixed.body;
  if (weighted.k !== "binary" || weighted.op !== "mul" || weighted.b.k !== "load") return undefined;
  const power = weighted.a;
  if (power.k !== "unary" || power.op !== "exp" || power.a.k !== "binary" || power.a.op !== "sub") return undefined;
  const [score, top] = [power.a.a, power.a.b];
  if (top.k !== "fold" || top.op !== "max" || score.k !== "binary" || score.op !== "mul" || score.b.k !== "const") return undefined;
  const dot = productParts(score.a);
  if (dot === undefined || dot.a.k !== "load" || dot.b.k !== "load") return undefined;
  return {
    key: mixed.axis,
    inner: dot.fold.axis,
    innerExtent: dot.depth,
    scale: score.b.value,
    from: mixed.from,
    to: mixed.to,
    q: dot.a,
    key_: dot.b,
    value: weighted.b,
  };
}
