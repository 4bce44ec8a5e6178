// Recognises the kernels of attention's derivative in what they say: the logarithm of a row's sum of powers, and sums over
// columns of weights times rows, where a weight is exp(scale · a·b - log), alone or times (c·d - delta). Builds nothing.

import { dimConstant, type Dim } from "../ir/dim.ts";
import { sizeOf } from "../ir/kernel/simplify.ts";
import type { Expr, Kernel } from "../ir/kernel/types.ts";
import type { Emitter } from "./emit.ts";
import { coefficient } from "./merge.ts";

type Load = Extract<Expr, { k: "load" }>;
type Fold = Extract<Expr, { k: "fold" }>;

/** Σ over features of a row's element times a column's. */
export interface Dot {
  readonly row: Load;
  readonly column: Load;
  readonly axis: string;
  readonly depth: number;
}

export interface GradientFacts {
  readonly rows: Dim;
  readonly heads: Dim;
  readonly row: string;
  readonly head: string;
  /** Axis of the columns, in everything here. */
  readonly column: string;
  readonly from: Expr;
  readonly to: Expr;
  readonly score: Dot;
  readonly scale: number;
  readonly out: { readonly buffer: string; readonly index: Expr };
  /** Undefined for the kernel of logarithms. */
  readonly sum?: {
    /** A value of the row, or of the column. */
    readonly log: Load;
    readonly slope?: { readonly dot: Dot; readonly delta: Load };
    readonly value: Load;
    readonly feature: string;
    readonly features: number;
    readonly scale: number;
  };
}

/** Sizes beyond which the packed blocks would leave the caches. */
const mostFeatures = 512;

export function gradientFacts(kernel: Kernel, emitter: Emitter): GradientFacts | undefined {
  const [stage] = kernel.stages;
  const [row, head, feature] = kernel.axes;
  if (kernel.stages.length !== 1 || stage?.k !== "store" || stage.axes.length > 0 || row === undefined || head === undefined)
    return undefined;
  const floats = new Set(kernel.buffers.filter((b) => b.dtype === "f32").map((b) => b.name));
  const recogniser = new Recogniser(emitter, row.name, head.name, feature?.name, floats);
  const parts = feature === undefined ? recogniser.logarithm(stage.value) : recogniser.sum(stage.value, feature.extent);
  if (parts === undefined || !floats.has(stage.buffer)) return undefined;
  const own = feature === undefined ? undefined : recogniser.factor(stage.index, feature.name, [row.name, head.name, feature.name]);
  if (feature !== undefined && (own === undefined || dimConstant(own) !== 1)) return undefined;
  return { rows: row.extent, heads: head.extent, row: row.name, head: head.name, out: stage, ...parts };
}

type Parts = Omit<GradientFacts, "rows" | "heads" | "row" | "head" | "out">;

class Recogniser {
  private readonly emitter: Emitter;
  private readonly row: string;
  private readonly head: string;
  private readonly feature: string | undefined;
  private readonly floats: ReadonlySet<string>;

  constructor(emitter: Emitter, row: string, head: string, feature: string | undefined, floats: ReadonlySet<string>) {
    this.emitter = emitter;
    this.row = row;
    this.head = head;
    this.feature = feature;
    this.floats = floats;
  }

  /** if from < to then top + log Σ exp(score - top) else 0 */
  logarithm(value: Expr): Parts | undefined {
    if (value.k !== "select" || value.a.k !== "binary" || value.a.op !== "add") return undefined;
    const [top, log] = [value.a.a, value.a.b];
    if (top.k !== "fold" || top.op !== "max" || log.k !== "unary" || log.op !== "log" || log.a.k !== "fold") return undefined;
    const total = log.a;
    const power = total.body;
    if (total.op !== "sum" || power.k !== "unary" || power.op !== "exp" || power.a.k !== "binary" || power.a.op !== "sub") return undefined;
    const score = this.score(power.a.a, total.axis);
    const highest = this.score(top.body, top.axis);
    const alike = (a: Load, b: Load): boolean => a.buffer === b.buffer;
    if (score === undefined || highest === undefined || power.a.b !== top) return undefined;
    if (!alike(score.score.row, highest.score.row) || !alike(score.score.column, highest.score.column)) return undefined;
    return this.ranged({ ...score, column: total.axis, from: total.from, to: total.to });
  }

  /** scale · Σ exp(score - log) · (dot - delta) · value, each factor behind the power where it is. */
  sum(whole: Expr, extent: Dim): Parts | undefined {
    const scaled = times(whole);
    const fold: Expr = scaled.of;
    const features = dimConstant(extent);
    if (fold.k !== "fold" || fold.op !== "sum" || fold.body.k !== "binary" || fold.body.op !== "mul" || features === undefined)
      return undefined;
    const [weights, value] = [fold.body.a, fold.body.b];
    const power = weights.k === "binary" && weights.op === "mul" ? weights.a : weights;
    const steep = weights.k === "binary" && weights.op === "mul" ? weights.b : undefined;
    if (value.k !== "load" || power.k !== "unary" || power.op !== "exp" || power.a.k !== "binary" || power.a.op !== "sub") return undefined;
    const score = this.score(power.a.a, fold.axis);
    const log = power.a.b;
    if (score === undefined || log.k !== "load" || !this.ofOne(log, fold.axis) || features < 1 || features > mostFeatures) return undefined;
    let slope: { readonly dot: Dot; readonly delta: Load } | undefined;
    if (steep !== undefined) {
      if (steep.k !== "binary" || steep.op !== "sub" || steep.b.k !== "load" || !this.ofOne(steep.b, fold.axis)) return undefined;
      const dot = this.dot(steep.a, fold.axis);
      if (dot === undefined) return undefined;
      slope = { dot, delta: steep.b };
    }
    const feature = this.feature ?? "";
    const along = this.factor(value.index, feature, [fold.axis, this.head, feature]);
    if (along === undefined || dimConstant(along) !== 1 || !this.floats.has(value.buffer)) return undefined;
    const sum = { log, value, feature, features, scale: scaled.by, ...(slope === undefined ? {} : { slope }) };
    return this.ranged({ ...score, column: fold.axis, from: fold.from, to: fold.to, sum });
  }

  /** The factor of `axis` in an index that reads nothing but `allowed`. */
  factor(index: Expr, axis: string, allowed: readonly string[]): Dim | undefined {
    const whole = this.emitter.interner.intern(index);
    return [...this.emitter.reads.of(whole)].every((n) => allowed.includes(n)) ? coefficient(whole, axis, this.emitter) : undefined;
  }

  /** Where columns begin and end is the row's business alone. */
  private ranged(parts: Parts): Parts | undefined {
    const ofRow = [parts.from, parts.to].every((e) =>
      [...this.emitter.reads.of(this.emitter.interner.intern(e))].every((n) => n === this.row),
    );
    return ofRow ? parts : undefined;
  }

  private score(e: Expr, column: string): { readonly score: Dot; readonly scale: number } | undefined {
    const { of, by } = times(e);
    const score = this.dot(of, column);
    return score === undefined ? undefined : { score, scale: by };
  }

  private dot(e: Expr, column: string): Dot | undefined {
    if (!isProductSum(e)) return undefined;
    const { a, b } = e.body;
    const size = sizeOf(e.to);
    const depth = size === undefined ? undefined : dimConstant(size);
    if (depth === undefined || depth < 1 || depth > mostFeatures || e.from.k !== "const" || e.from.value !== 0) return undefined;
    const adjacent = (l: Load, place: string): boolean => {
      const step = this.factor(l.index, e.axis, [place, this.head, e.axis]);
      return step !== undefined && dimConstant(step) === 1 && this.floats.has(l.buffer);
    };
    return adjacent(a, this.row) && adjacent(b, column) ? { row: a, column: b, axis: e.axis, depth } : undefined;
  }

  /** A value of the row and head, or one of the column and head. */
  private ofOne(l: Load, column: string): boolean {
    if (!this.floats.has(l.buffer)) return false;
    const names = [...this.emitter.reads.of(this.emitter.interner.intern(l.index))];
    return [this.row, column].some((own) => names.every((n) => n === own || n === this.head));
  }
}

function isProductSum(e: Expr): e is Fold & { readonly body: Extract<Expr, { k: "binary" }> & { readonly a: Load; readonly b: Load } } {
  return e.k === "fold" && e.op === "sum" && e.body.k === "binary" && e.body.op === "mul" && e.body.a.k === "load" && e.body.b.k === "load";
}

/** A value times a number, which is 1 where none is written. */
function times(e: Expr): { readonly of: Expr; readonly by: number } {
  return e.k === "binary" && e.op === "mul" && e.b.k === "const" ? { of: e.a, by: e.b.value } : { of: e, by: 1 };
}
