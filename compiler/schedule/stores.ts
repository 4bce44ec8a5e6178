// Stores of a kernel as loops on a CPU: what goes over the same axes is one nest of loops, in which the last axis is taken
// four elements at a time where that can be, with a tail. A store of what is there already is no store. Loops around the
// nest are lower.ts's.

import { dimConstant, type Dim } from "../ir/dim.ts";
import { typeOfImp } from "../ir/imp/build.ts";
import type { ImpExpr } from "../ir/imp/types.ts";
import { mapOperands, operandsOf } from "../ir/kernel/build.ts";
import { strideOf } from "../ir/kernel/intern.ts";
import type { Expr, Stage } from "../ir/kernel/types.ts";
import { binary, int, type Block, type Emitter } from "./emit.ts";

/** An inner loop; the extent of a last, shorter block depends on the unit. */
export interface InnerAxis {
  readonly name: string;
  readonly extent: Dim | Expr;
}

export type LoopStore = Omit<Extract<Stage, { k: "store" }>, "axes"> & { readonly axes: readonly InnerAxis[] };

export function sameAxes(a: LoopStore, b: LoopStore): boolean {
  const same = (x: Dim | Expr, y: Dim | Expr | undefined): boolean =>
    x === y || (!("k" in x) && y !== undefined && !("k" in y) && x.text === y.text);
  return a.axes.length === b.axes.length && a.axes.every((x, i) => x.name === b.axes[i]?.name && same(x.extent, b.axes[i].extent));
}

/** Stores over the same axes, in one nest of loops; indices and values are interned. */
export function lowerStores(stores: readonly LoopStore[], root: Block, emitter: Emitter): void {
  const axes = stores[0]?.axes ?? [];
  const guarded = stores.map((s): Guarded => guardOf(s, emitter));
  const hoisted = guarded
    .flatMap((s) => [s.value, s.index, ...(s.cond === undefined ? [] : [s.cond])])
    .filter((e) => isCertain(e, guarded, emitter));
  const nest = (block: Block, depth: number): void => {
    const axis = axes[depth];
    if (axis === undefined) {
      storeAll(guarded, block, undefined, emitter);
      return;
    }
    const innermost = depth === axes.length - 1;
    const extent = emitter.name(
      block,
      "n",
      "k" in axis.extent ? emitter.emit(emitter.interner.intern(axis.extent), block, undefined) : emitter.size(axis.extent),
    );
    const few = !("k" in axis.extent) && (dimConstant(axis.extent) ?? 4) < 4;
    const fits = guarded.every((s) => strideOf(s.index, axis.name, emitter.reads) === 1 && emitter.canVector(s.value, axis.name));
    if (!innermost || few || !fits) {
      const deeper = axes.slice(depth + 1).map((a) => a.name);
      emitter.loop(block, axis.name, int(0), extent, 1, hoisted, (inside) => nest(inside, depth + 1), deeper);
      return;
    }
    const many = emitter.name(block, "end", binary("bitand", extent, int(-4), "i32"));
    const four = (inside: Block): void => storeAll(guarded, inside, axis.name, emitter);
    emitter.loop(block, axis.name, int(0), many, 4, hoisted, four);
    const size = "k" in axis.extent ? undefined : dimConstant(axis.extent);
    if (size === undefined || (size % 4 !== 0 && guarded.some((s) => s.reads)))
      emitter.loop(block, axis.name, many, extent, 1, [], (inside) => nest(inside, depth + 1));
    // The last four once more: these kernels read nothing that they write, so elements may be computed twice.
    else if (size % 4 !== 0) emitter.loop(block, axis.name, int(size - 4), int(size), 4, [], four);
  };
  nest(root, 0);
}

interface Guarded extends LoopStore {
  /** Where it does not hold, the element stays as it is. Varies along no axis. */
  readonly cond: Expr | undefined;
  /** Something that these stores are made of is in what one of them writes. */
  readonly reads: boolean;
}

/** `b[i] = if c { x } else { b[i] }`  ->  `if c { b[i] = x }`, with c known in x. */
function guardOf(store: LoopStore, emitter: Emitter): Guarded {
  const { value, index, buffer } = store;
  const reads = loadsFrom(value, buffer);
  if (value.k !== "select" || value.b.k !== "load" || value.b.buffer !== buffer || value.b.index !== index)
    return { ...store, cond: undefined, reads };
  if (emitter.reads.of(value.cond).size > 0) return { ...store, cond: undefined, reads };
  return { ...store, value: emitter.interner.intern(given(value.a, value.cond)), cond: value.cond, reads };
}

/** `e` where `cond` holds. */
function given(e: Expr, cond: Expr): Expr {
  const done = new Map<Expr, Expr>();
  const within = (x: Expr): Expr => {
    const known = done.get(x) ?? (x.k === "select" && x.cond === cond ? within(x.a) : mapOperands(x, within));
    done.set(x, known);
    return known;
  };
  return within(e);
}

function loadsFrom(e: Expr, buffer: string): boolean {
  const seen = new Set<Expr>();
  const found = (x: Expr): boolean => {
    if (seen.has(x)) return false;
    seen.add(x);
    return (x.k === "load" && x.buffer === buffer) || operandsOf(x).some(found);
  };
  return found(e);
}

/** May parts of it be computed though no store is done? What is read at places that a condition chooses may not. */
function isCertain(e: Expr, stores: readonly Guarded[], emitter: Emitter): boolean {
  if (!stores.some((s) => s.cond !== undefined && s.value === e)) return true;
  const seen = new Set<Expr>();
  const certain = (x: Expr): boolean => {
    if (seen.has(x)) return true;
    seen.add(x);
    const fixed = emitter.reads.of(x).size === 0;
    return (x.k !== "load" || !fixed || x.index.k === "const") && operandsOf(x).every(certain);
  };
  return certain(e);
}

function storeAll(stores: readonly Guarded[], block: Block, axis: string | undefined, emitter: Emitter): void {
  const one = (s: Guarded, into: Block): void => {
    const value = emitter.emit(s.value, into, axis);
    into.statements.push({
      k: "store",
      ptr: emitter.place(s.buffer, s.index, into),
      offset: 0,
      value: axis === undefined ? value : vector(value),
    });
  };
  for (let i = 0; i < stores.length;) {
    const cond = stores[i]?.cond;
    const list = stores.slice(i);
    const others = list.findIndex((s) => s.cond !== cond);
    const run = others < 0 ? list : list.slice(0, others);
    i += run.length;
    if (cond === undefined) for (const s of run) one(s, block);
    else {
      const holds = emitter.emit(cond, block, undefined);
      const inside = emitter.branch(block);
      for (const s of run) one(s, inside);
      block.statements.push({ k: "if", cond: holds, then: inside.statements, else: [] });
    }
  }
}

/** A value that does not vary along the axis is the same for all four neighbours. */
export function vector(value: ImpExpr): ImpExpr {
  const type = typeOfImp(value);
  return type === "f32" || type === "i32" ? { k: "splat", a: value, type: type === "f32" ? "f32x4" : "i32x4" } : value;
}
