// What must hold of a buffer that a kernel reads and writes: every element is read only where it is replaced, before it
// is, and is replaced once. Then it does not matter in which order points are taken, or on how many threads. Proves it from
// the stages; what it cannot prove is refused.

import { dimConstant } from "../dim.ts";
import { operandsOf } from "./build.ts";
import { Interner, Reads, strideOf } from "./intern.ts";
import type { Axis, Expr, Kernel, Stage } from "./types.ts";

type Store = Extract<Stage, { k: "store" }>;

/** Why `buffer` may not be updated in place by `kernel`; undefined when it may. */
export function updateFault(kernel: Kernel, buffer: string): string | undefined {
  const stores = kernel.stages.flatMap((s, i) => (s.k === "store" && s.buffer === buffer ? [{ store: s, stage: i }] : []));
  const [only, second] = stores;
  if (only === undefined || second !== undefined) return `it is updated by ${stores.length} stages instead of one`;
  const interner = new Interner();
  const index = interner.intern(only.store.index);
  if (!visitsOnce(index, [...kernel.axes, ...only.store.axes])) return "an element of it may be replaced twice";
  for (const [i, stage] of kernel.stages.entries()) {
    const parts = stage.k === "let" ? [stage.value] : [stage.value, stage.index];
    const loads = parts.flatMap((e) => loadsOf(interner.intern(e), buffer));
    if (loads.length === 0) continue;
    if (i > only.stage) return `stage ${i} reads it after stage ${only.stage} replaced it`;
    if (loads.some((at) => at !== index)) return "an element of it is read where another one is replaced";
    if (stage.k === "store" && !sameAxes(stage, only.store)) return `stage ${i} reads it at other points than it is replaced`;
  }
  return undefined;
}

function sameAxes(a: Store, b: Store): boolean {
  return a.axes.length === b.axes.length && a.axes.every((x, i) => x.name === b.axes[i]?.name && x.extent.text === b.axes[i].extent.text);
}

/** The indices at which `buffer` is loaded in an interned expression. */
function loadsOf(e: Expr, buffer: string): readonly Expr[] {
  const [found, seen] = [new Set<Expr>(), new Set<Expr>()];
  const visit = (x: Expr): void => {
    if (seen.has(x)) return;
    seen.add(x);
    if (x.k === "load" && x.buffer === buffer) found.add(x.index);
    for (const part of operandsOf(x)) visit(part);
  };
  visit(e);
  return [...found];
}

/** Is `index` row-major over the axes, so that no two points have the same? */
function visitsOnce(index: Expr, axes: readonly Axis[]): boolean {
  const reads = new Reads();
  const names = new Set(axes.map((a) => a.name));
  if ([...reads.of(index)].some((n) => !names.has(n))) return false;
  let step = 1;
  for (const axis of axes.toReversed()) {
    const extent = dimConstant(axis.extent);
    if (extent === undefined) return false;
    if (extent <= 1) continue;
    if (strideOf(index, axis.name, reads) !== step) return false;
    step *= extent;
  }
  return true;
}
