// Merging neighbouring parallel axes: where every index treats (a, b) as the one axis a·|b| + b, an elementwise
// kernel over many short rows becomes one over a long one.

import { dim, dimAdd, dimMul, dimSub, type Dim } from "../ir/dim.ts";
import type { Axis, Expr, Stage } from "../ir/kernel/types.ts";
import { operandsOf } from "../ir/kernel/build.ts";
import type { Emitter } from "./emit.ts";
import { substitute } from "../ir/kernel/intern.ts";

type Store = Extract<Stage, { k: "store" }>;

/** Merges trailing axes as far as every index of every store and load allows. Stores are interned. */
export function mergeAxes(
  axes: readonly Axis[],
  stores: readonly Store[],
  emitter: Emitter,
): { readonly axes: readonly Axis[]; readonly stores: readonly Store[] } {
  let [rest, current] = [axes, stores];
  for (;;) {
    const [a, b] = [rest.at(-2), rest.at(-1)];
    if (a === undefined || b === undefined) return { axes: rest, stores: current };
    const fits = (index: Expr): boolean => {
      const [outer, inner] = [coefficient(index, a.name, emitter), coefficient(index, b.name, emitter)];
      return outer !== undefined && inner !== undefined && outer.text === dimMul(inner, b.extent).text;
    };
    if (!current.every((s) => fits(s.index) && everyIndex(s.value, [a.name, b.name], fits, emitter)))
      return { axes: rest, stores: current };
    rest = [...rest.slice(0, -2), { name: b.name, extent: dimMul(a.extent, b.extent) }];
    const zero: Expr = { k: "const", type: "i32", value: 0 };
    current = current.map((s) => ({
      ...s,
      index: emitter.interner.intern(substitute(s.index, a.name, zero)),
      value: emitter.interner.intern(substitute(s.value, a.name, zero)),
    }));
  }
}

/** Do all loads under `e` fit, and are the axes used for nothing else? */
function everyIndex(e: Expr, names: readonly string[], fits: (index: Expr) => boolean, emitter: Emitter): boolean {
  const seen = new Set<Expr>();
  const every = (x: Expr): boolean => {
    if (seen.has(x) || !names.some((n) => emitter.reads.of(x).has(n))) return true;
    seen.add(x);
    if (x.k === "load") return fits(x.index);
    if (x.k === "var") return false;
    return operandsOf(x).every(every);
  };
  return every(e);
}

/** An i32 index as a sum of what reads `axis` and nothing else that varies, and the rest; undefined when it is none. */
export function apart(e: Expr, axis: string, reads: Emitter["reads"]): { readonly along: Expr; readonly rest: Expr } | undefined {
  const zero: Expr = { k: "const", type: "i32", value: 0 };
  const names = reads.of(e);
  if (!names.has(axis)) return { along: zero, rest: e };
  if (names.size === 1) return { along: e, rest: zero };
  if (e.k !== "binary" || e.type !== "i32") return undefined;
  const both = (op: "add" | "sub" | "mul", a: Expr, b: Expr): Expr => ({ k: "binary", op, a, b, type: "i32" });
  if (e.op === "add" || e.op === "sub") {
    const [a, b] = [apart(e.a, axis, reads), apart(e.b, axis, reads)];
    return a === undefined || b === undefined ? undefined : { along: both(e.op, a.along, b.along), rest: both(e.op, a.rest, b.rest) };
  }
  if (e.op !== "mul") return undefined;
  const [x, by] = reads.of(e.a).size > 0 ? [e.a, e.b] : [e.b, e.a];
  const parts = reads.of(by).size > 0 ? undefined : apart(x, axis, reads);
  return parts === undefined ? undefined : { along: both("mul", parts.along, by), rest: both("mul", parts.rest, by) };
}

/** The factor of `axis` in a linear index, as a size; undefined when the index is not linear in it. */
export function coefficient(e: Expr, axis: string, emitter: Pick<Emitter, "reads">): Dim | undefined {
  if (!emitter.reads.of(e).has(axis)) return dim(0);
  if (e.k === "var") return dim(1);
  if (e.k !== "binary") return undefined;
  if (e.op === "add" || e.op === "sub") {
    const [a, b] = [coefficient(e.a, axis, emitter), coefficient(e.b, axis, emitter)];
    if (a === undefined || b === undefined) return undefined;
    return e.op === "add" ? dimAdd(a, b) : dimSub(a, b);
  }
  if (e.op !== "mul") return undefined;
  const [x, y] = emitter.reads.of(e.a).has(axis) ? [e.a, e.b] : [e.b, e.a];
  const by = y.k === "const" ? dim(y.value) : y.k === "dim" ? y.dim : undefined;
  const inner = coefficient(x, axis, emitter);
  return by === undefined || inner === undefined ? undefined : dimMul(inner, by);
}
