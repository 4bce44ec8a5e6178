// Structure recognised in expressions: the parts of a matrix multiply and of attention, and the reductions in a
// value. What is not recognised is no error: it runs as plain loops.

import type { Dim } from "../ir/dim.ts";
import { operandsOf } from "../ir/kernel/build.ts";
import { Reads } from "../ir/kernel/intern.ts";
import { sizeOf } from "../ir/kernel/simplify.ts";
import type { Expr } from "../ir/kernel/types.ts";
import { coefficient } from "../schedule/merge.ts";

type Fold = Extract<Expr, { k: "fold" }>;
type Chain = Extract<Expr, { k: "fold" | "iterate" }>;
type Load = Extract<Expr, { k: "load" }>;

/**
 * Every reduction in a value; one over several dimensions (folds right inside each other) counts once, as does an iteration
 * with all that it reduces.
 */
export function chainsOf(value: Expr): readonly Chain[] {
  const found = new Set<Chain>();
  const seen = new Set<Expr>();
  const visit = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    if (e.k === "iterate") {
      found.add(e);
      visit(e.init);
      return;
    }
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

/** Σ a[…]·b[…] with `a` a load at a position that is linear along the axis of the sum. */
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
 * keys are over the same scores of the same keys.
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
  const range = [mixed, total, top].every((f) => alike(f.from, mixed.from) && alike(f.to, mixed.to));
  const guarded = e.cond.k === "binary" && e.cond.op === "lt" && alike(e.cond.a, mixed.from) && alike(e.cond.b, mixed.to);
  const passes = alike(total.body, power, [total.axis, mixed.axis]) && alike(top.body, score, [top.axis, mixed.axis]);
  if (!range || !guarded || !passes || e.b.k !== "const" || e.b.value !== 0) return undefined;
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

/** Are the two the same but for the names of the axes that folds run over? `named` are two names of one axis. */
function alike(a: Expr, b: Expr, ...named: readonly (readonly [string, string])[]): boolean {
  switch (a.k) {
    case "var": {
      const pair = named.findLast(([x, y]) => a.name === x || (b.k === "var" && b.name === y));
      return b.k === "var" && a.type === b.type && (pair === undefined ? a.name === b.name : a.name === pair[0] && b.name === pair[1]);
    }
    case "const":
      return b.k === "const" && a.type === b.type && Object.is(a.value, b.value);
    case "dim":
      return b.k === "dim" && a.dim.text === b.dim.text;
    case "load":
      return b.k === "load" && a.buffer === b.buffer && alike(a.index, b.index, ...named);
    case "unary":
      return b.k === "unary" && a.op === b.op && alike(a.a, b.a, ...named);
    case "binary":
      return b.k === "binary" && a.op === b.op && alike(a.a, b.a, ...named) && alike(a.b, b.b, ...named);
    case "cast":
      return b.k === "cast" && a.type === b.type && alike(a.a, b.a, ...named);
    case "bitcast":
      return b.k === "bitcast" && a.type === b.type && alike(a.a, b.a, ...named);
    case "select":
      return b.k === "select" && alike(a.cond, b.cond, ...named) && alike(a.a, b.a, ...named) && alike(a.b, b.b, ...named);
    case "fold":
      return (
        b.k === "fold" &&
        a.op === b.op &&
        alike(a.from, b.from, ...named) &&
        alike(a.to, b.to, ...named) &&
        alike(a.body, b.body, ...named, [a.axis, b.axis])
      );
    case "iterate":
      return (
        b.k === "iterate" &&
        a.steps === b.steps &&
        alike(a.init, b.init, ...named) &&
        alike(a.body, b.body, ...named, [a.axis, b.axis], [a.name, b.name])
      );
    default:
      return a satisfies never;
  }
}
