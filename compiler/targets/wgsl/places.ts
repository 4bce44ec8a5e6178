// How the elements of a buffer or scratch lie in WGSL: the type of its array, chosen from all accesses of the function.
// Decides; access.ts writes the loads and stores.
//
// Note [Views]: a binding has one element type in a shader. Where every access of four neighbours is known to begin at a
// multiple of four (congruence.ts), it is an array of vectors, and such an access is one load. Single elements of it are
// read as components; a component may only be written where no other invocation writes its neighbours, so that a buffer
// or workgroup scratch with stores of single elements is an array of scalars, and four neighbours are four loads.
// Narrow elements of buffers are packed in words; a store that does not fill a word leaves the other bits of the word to
// other invocations and must be atomic.

import { isPtr, isVector, typeOfImp } from "../../ir/imp/build.ts";
import type { ImpExpr, ImpFunction, ImpStmt } from "../../ir/imp/types.ts";
import { operandsOf } from "../../ir/imp/verify-expr.ts";
import type { DType } from "../../ir/dtype.ts";
import type { Congruence, Congruences } from "./congruence.ts";

/** single: one element; words: narrow elements in u32; four: four neighbours. */
export type View = "single" | "words" | "atomic words" | "four";

export interface PlaceLayout {
  readonly name: string;
  readonly dtype: DType;
  readonly space: "buffer" | "workgroup" | "private";
  readonly view: View;
  /** f16 elements as such. Narrow scratch that is not has whole words for its elements. */
  readonly half: boolean;
  /** The type of the array's elements. */
  readonly element: string;
}

interface Access {
  readonly store: boolean;
  /** Elements: 1 to 4. */
  readonly count: number;
  /** Of a vector, which may have fewer elements written than it has. */
  readonly vector: boolean;
  readonly at: Congruence | undefined;
}

export function multipleOf(n: number, at: Congruence | undefined): boolean {
  return at === undefined || (at.modulus % n === 0 && at.rest % n === 0);
}

/** Position and constant distance as one number. */
export function congruenceAt(facts: Congruences, ptr: ImpExpr, offset: number): Congruence | undefined {
  const base = facts.of(ptr);
  return base === undefined
    ? undefined
    : { modulus: base.modulus, rest: (((base.rest + offset) % base.modulus) + base.modulus) % base.modulus };
}

/** Every part of `e`, itself included. */
function eachExpr(e: ImpExpr, see: (e: ImpExpr) => void): void {
  see(e);
  for (const part of operandsOf(e)) eachExpr(part, see);
}

/** Every expression of the statements, with its parts, and every statement. */
function eachOf(body: readonly ImpStmt[], expr: (e: ImpExpr) => void, stmt: (s: ImpStmt) => void): void {
  for (const s of body) {
    stmt(s);
    switch (s.k) {
      case "let":
      case "assign":
      case "uniform":
        eachExpr(s.value, expr);
        break;
      case "store":
      case "storeLanes":
        eachExpr(s.ptr, expr);
        eachExpr(s.value, expr);
        break;
      case "for":
        eachExpr(s.from, expr);
        eachExpr(s.to, expr);
        eachOf(s.body, expr, stmt);
        break;
      case "while":
        eachExpr(s.cond, expr);
        eachOf(s.body, expr, stmt);
        break;
      case "if":
        eachExpr(s.cond, expr);
        eachOf(s.then, expr, stmt);
        eachOf(s.else, expr, stmt);
        break;
      case "exchange":
        eachExpr(s.value, expr);
        eachExpr(s.lane, expr);
        break;
      case "barrier":
      case "fence":
        break;
      default:
        s satisfies never;
    }
  }
}

function accesses(fn: ImpFunction, facts: Congruences): ReadonlyMap<string, readonly Access[]> {
  const all = new Map<string, Access[]>();
  const see = (ptr: ImpExpr, offset: number, access: Omit<Access, "at">): void => {
    const type = typeOfImp(ptr);
    if (!isPtr(type)) return;
    const list = all.get(type.slice(4)) ?? [];
    list.push({ ...access, at: congruenceAt(facts, ptr, offset) });
    all.set(type.slice(4), list);
  };
  eachOf(
    fn.body,
    (e) => {
      if (e.k === "loadSplat") see(e.ptr, e.offset, { store: false, count: 1, vector: false });
      if (e.k === "load") see(e.ptr, e.offset, { store: false, count: isVector(e.type) ? 4 : 1, vector: isVector(e.type) });
    },
    (s) => {
      if (s.k === "storeLanes") see(s.ptr, s.offset, { store: true, count: s.count, vector: true });
      if (s.k !== "store") return;
      const vector = isVector(typeOfImp(s.value));
      see(s.ptr, s.offset, { store: true, count: vector ? 4 : 1, vector });
    },
  );
  return all;
}

/** The layout of each buffer and scratch of `fn`, by name. */
export function layouts(fn: ImpFunction, facts: Congruences, f16: boolean): ReadonlyMap<string, PlaceLayout> {
  const all = accesses(fn, facts);
  const one = (name: string, dtype: DType, space: PlaceLayout["space"]): [string, PlaceLayout] => {
    const used = all.get(name) ?? [];
    const half = dtype === "f16" && f16;
    const view = viewOf(dtype, space, used, half);
    return [name, { name, dtype, space, view, half, element: elementOf(dtype, view, half) }];
  };
  return new Map([...fn.buffers.map((b) => one(b.name, b.dtype, "buffer")), ...fn.scratch.map((s) => one(s.name, s.dtype, s.space))]);
}

/** See Note [Views]. */
function viewOf(dtype: DType, space: PlaceLayout["space"], used: readonly Access[], half: boolean): View {
  if (space === "buffer" && dtype !== "f32" && dtype !== "i32" && !half) {
    const perWord = dtype === "f16" || dtype === "bf16" ? 2 : 4;
    return used.some((a) => a.store && !(a.count === 4 && multipleOf(perWord, a.at))) ? "atomic words" : "words";
  }
  const wide = used.some((a) => a.count === 4) && used.every((a) => a.count < 4 || multipleOf(4, a.at));
  const alone = space === "private" || !used.some((a) => a.store && a.count < 4);
  return wide && alone ? "four" : "single";
}

function elementOf(dtype: DType, view: View, half: boolean): string {
  if (view === "words") return "u32";
  if (view === "atomic words") return "atomic<u32>";
  const float = dtype === "f32" || dtype === "f16" || dtype === "bf16";
  if (view === "single") return half ? "f16" : float ? "f32" : "i32";
  return half ? "vec4h" : float ? "vec4f" : "vec4i";
}
