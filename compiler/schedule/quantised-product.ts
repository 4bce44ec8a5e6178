// Products by packed weights as builders see them: where the row of A lies, how many terms there are, and what is stored. One
// recognition for all targets. Writes no code.

import { dim, dimConstant } from "../ir/dim.ts";
import type { Axis, Expr, Kernel, Pattern } from "../ir/kernel/types.ts";
import { blockElements } from "../ir/plan/packed.ts";
import type { Emitter } from "./emit.ts";
import { storesOf, sumExpression, type Store } from "./epilogue.ts";
import { coefficient } from "./merge.ts";

/** A kernel that builders can do. Expressions are interned. */
export interface PackedProduct {
  readonly m: Axis;
  readonly n: Axis;
  readonly kAxis: string;
  readonly pattern: Extract<Pattern, { k: "quantised" }>;
  /** Terms of the sum; a multiple of 32. */
  readonly depth: number;
  readonly a: Extract<Expr, { k: "load" }>;
  /** Elements of A from one k to the next, and from one row to the next, where that is one number. */
  readonly aStep: number;
  readonly rowStride: number | undefined;
  /** Stands for the sum in `stores`: see Note [The sum as an expression] in epilogue.ts. */
  readonly sum: Expr;
  readonly stores: readonly Store[];
}

/** The product that `kernel` is; undefined where it is none or cannot be addressed. */
export function packedProductOf(kernel: Kernel, emitter: Emitter): PackedProduct | undefined {
  const { pattern, stages, buffers } = kernel;
  if (pattern?.k !== "quantised") return undefined;
  const [first, ...rest] = stages;
  const [m, n] = [pattern.m, pattern.n].map((name) => kernel.axes.find((x) => x.name === name));
  const blocks = dimConstant(buffers.find((b) => b.name === pattern.scales)?.shape[1] ?? dim(0)) ?? 0;
  if (first?.k !== "let" || m === undefined || n === undefined || blocks === 0) return undefined;
  const a = emitter.interner.intern(pattern.a);
  if (a.k !== "load" || buffers.find((b) => b.name === a.buffer)?.dtype !== "f32") return undefined;
  const stride = (along: string): number | undefined => {
    const d = coefficient(a.index, along, emitter);
    return d === undefined ? undefined : dimConstant(d);
  };
  const aStep = stride(pattern.kAxis);
  const sum = sumExpression(first.name, m.name, n.name);
  const stores = storesOf(rest, first.name, sum);
  if (aStep === undefined || stores === undefined) return undefined;
  return {
    m,
    n,
    kAxis: pattern.kAxis,
    pattern,
    depth: blocks * blockElements,
    a,
    aStep,
    rowStride: stride(m.name),
    sum: emitter.interner.intern(sum),
    stores: stores.map((s) => ({ ...s, index: emitter.interner.intern(s.index), value: emitter.interner.intern(s.value) })),
  };
}
