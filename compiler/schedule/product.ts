// Matrix products as builders see them: the operands' places, how many terms there are, and what is stored. One
// recognition for all targets. Writes no code.

import { dimConstant, type Dim } from "../ir/dim.ts";
import { isFloat, type DType } from "../ir/dtype.ts";
import { sizeOf } from "../ir/kernel/simplify.ts";
import { scalarTypeOf, type Axis, type Expr, type Kernel } from "../ir/kernel/types.ts";
import type { Emitter } from "./emit.ts";
import { storesOf, sumExpression, type Store } from "./epilogue.ts";
import { coefficient } from "./merge.ts";

export type Load = Extract<Expr, { k: "load" }>;

/** Elements between the rows of a right operand that is read where it lies: two kilobytes at most, so that few are on a page. */
const mostStep = 512;

/** A kernel that this builder can do. Expressions are interned. */
export interface Product {
  readonly batch: readonly Axis[];
  readonly m: Axis;
  readonly n: Axis;
  readonly kAxis: string;
  /** How many k there are; reads no axis. */
  readonly count: Expr;
  readonly a: Load;
  readonly b: Load;
  /** Elements of B from one k to the next. */
  readonly bStep: number;
  /** There where columns of B do not lie side by side in eights, or rows far apart: elements from one column to the next. */
  readonly copied?: { readonly columnStep: number; readonly depth: Dim };
  /** Elements of A from one k to the next. */
  readonly aStep: number;
  /** Elements of A from one row to the next; undefined when rows lie anywhere. */
  readonly rowStride: number | undefined;
  /** Stands for the sum in `stores`: see Note [The sum as an expression]. */
  readonly sum: Expr;
  readonly stores: readonly Store[];
}

/**
 * The product that `kernel` is, its right operand in panels of `panel` columns or, where `unpacked` allows it, as any matrix;
 * undefined where it is none or cannot be addressed. The left operand is f32, or any float where `halves` allows it.
 */
export function productOf(
  kernel: Kernel,
  panel: number,
  emitter: Emitter,
  { unpacked = false, halves = false }: { readonly unpacked?: boolean; readonly halves?: boolean } = {},
): Product | undefined {
  const { pattern, schedule, stages, buffers } = kernel;
  if (pattern?.k !== "matmul") return undefined;
  const packed = schedule.some((s) => s.k === "packed" && s.buffer === pattern.b.buffer && s.panel === panel);
  const [first, ...rest] = stages;
  if (!(packed || unpacked) || first?.k !== "let" || first.value.k !== "fold" || constantIndex(first.value.from) !== 0) return undefined;
  const dtype = (name: string): DType | undefined => buffers.find((b) => b.name === name)?.dtype;
  const [aType, bType] = [dtype(pattern.a.buffer), dtype(pattern.b.buffer)];
  if (aType === undefined || !(halves ? isFloat(aType) : aType === "f32")) return undefined;
  if (bType === undefined || scalarTypeOf(bType) !== "f32") return undefined;

  const axis = (name: string): Axis | undefined => kernel.axes.find((x) => x.name === name);
  const [m, n] = [axis(pattern.m), axis(pattern.n)];
  if (m === undefined || n === undefined) return undefined;
  const batch = kernel.axes.filter((x) => x !== m && x !== n);
  const count = emitter.interner.intern(first.value.to);
  if (emitter.reads.of(count).size > 0) return undefined;
  const [a, b] = [emitter.interner.intern(pattern.a), emitter.interner.intern(pattern.b)];
  if (a.k !== "load" || b.k !== "load" || emitter.reads.of(a.index).has(n.name) || emitter.reads.of(b.index).has(m.name)) return undefined;
  const stride = (index: Expr, along: string): number | undefined => {
    const d = coefficient(index, along, emitter);
    return d === undefined ? undefined : dimConstant(d);
  };
  const aStep = stride(a.index, pattern.kAxis);
  const bStep = stride(b.index, pattern.kAxis);
  if (aStep === undefined || bStep === undefined) return undefined;
  if (packed && bStep !== panel) return undefined;
  const columnStep = stride(b.index, n.name);
  const depth = sizeOf(count);
  // The tile reads whole vectors of columns: none of them may lie behind the matrix.
  const inRows = columnStep === 1 && (dimConstant(n.extent) ?? 1) % panel === 0 && bStep <= mostStep;
  if (!packed && (bType !== "f32" || columnStep === undefined || depth === undefined)) return undefined;
  const copied = packed || inRows || columnStep === undefined || depth === undefined ? undefined : { columnStep, depth };

  const sum = sumExpression(first.name, m.name, n.name);
  const stores = storesOf(rest, first.name, sum);
  if (stores === undefined) return undefined;
  const interned = stores.map((s) => ({ ...s, index: emitter.interner.intern(s.index), value: emitter.interner.intern(s.value) }));
  return {
    batch,
    m,
    n,
    kAxis: pattern.kAxis,
    count,
    a,
    b,
    aStep,
    bStep,
    ...(copied === undefined ? {} : { copied }),
    rowStride: stride(a.index, m.name),
    sum: emitter.interner.intern(sum),
    stores: interned,
  };
}

function constantIndex(e: Expr): number | undefined {
  return e.k === "const" ? e.value : e.k === "dim" ? dimConstant(e.dim) : undefined;
}
