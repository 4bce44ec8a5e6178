// Structural sharing of kernel expressions: equal expressions become one object, so that identity means
// equality and work done once per object is done once per value. Equality is by the whole structure.

import { mapOperands } from "./build.ts";
import type { Expr } from "./types.ts";

export class Interner {
  private readonly known = new Map<string, Expr>();
  private readonly ids = new Map<Expr, number>();
  private readonly done = new Map<Expr, Expr>();

  intern(e: Expr): Expr {
    const before = this.done.get(e);
    if (before !== undefined) return before;
    const made = this.canonical(mapOperands(e, (x) => this.intern(x)));
    this.done.set(e, made);
    return made;
  }

  private canonical(e: Expr): Expr {
    const key = this.key(e);
    const found = this.known.get(key);
    if (found !== undefined) return found;
    this.known.set(key, e);
    this.ids.set(e, this.ids.size);
    this.done.set(e, e);
    return e;
  }

  private key(e: Expr): string {
    const id = (x: Expr): number => this.ids.get(x) ?? -1;
    switch (e.k) {
      case "const":
        return `c ${e.type} ${Object.is(e.value, -0) ? "-0" : e.value}`;
      case "var":
        return `v ${e.type} ${e.name}`;
      case "dim":
        return `d ${e.dim.text}`;
      case "load":
        return `l ${e.type} ${e.buffer} ${id(e.index)}`;
      case "unary":
        return `u ${e.type} ${e.op} ${id(e.a)}`;
      case "cast":
        return `t ${e.type} ${id(e.a)}`;
      case "bitcast":
        return `i ${e.type} ${id(e.a)}`;
      case "binary":
        return `b ${e.type} ${e.op} ${id(e.a)} ${id(e.b)}`;
      case "select":
        return `s ${e.type} ${id(e.cond)} ${id(e.a)} ${id(e.b)}`;
      case "fold":
        return `f ${e.type} ${e.op} ${e.axis} ${id(e.from)} ${id(e.to)} ${id(e.body)}`;
      case "iterate":
        return `r ${e.type} ${e.steps} ${id(e.init)} ${id(e.body)} ${e.axis} ${e.name}`;
      default:
        return e satisfies never;
    }
  }
}

/** Names of the variables (axes, lets) an interned expression reads. Cached for each object. */
export class Reads {
  private readonly known = new Map<Expr, ReadonlySet<string>>();

  of(e: Expr): ReadonlySet<string> {
    const before = this.known.get(e);
    if (before !== undefined) return before;
    const names = new Set<string>();
    const add = (x: Expr): void => {
      for (const n of this.of(x)) names.add(n);
    };
    switch (e.k) {
      case "const":
      case "dim":
        break;
      case "var":
        names.add(e.name);
        break;
      case "load":
        add(e.index);
        break;
      case "unary":
      case "cast":
      case "bitcast":
        add(e.a);
        break;
      case "binary":
        add(e.a);
        add(e.b);
        break;
      case "select":
        add(e.cond);
        add(e.a);
        add(e.b);
        break;
      case "fold":
        add(e.body);
        names.delete(e.axis);
        add(e.from);
        add(e.to);
        break;
      case "iterate":
        add(e.body);
        names.delete(e.axis);
        names.delete(e.name);
        add(e.init);
        break;
      default:
        e satisfies never;
    }
    this.known.set(e, names);
    return names;
  }
}

/** The factor of `axis` in an index that is linear in it; undefined when it is not, or the factor is a size of a run. */
export function strideOf(index: Expr, axis: string, reads: Reads): number | undefined {
  if (!reads.of(index).has(axis)) return 0;
  if (index.k === "var") return 1;
  if (index.k === "binary" && (index.op === "add" || index.op === "sub")) {
    const [a, b] = [strideOf(index.a, axis, reads), strideOf(index.b, axis, reads)];
    return a === undefined || b === undefined ? undefined : index.op === "add" ? a + b : a - b;
  }
  if (index.k === "binary" && index.op === "mul") {
    const [a, b] = [index.a, index.b];
    if (b.k === "const") return times(strideOf(a, axis, reads), b.value);
    if (a.k === "const") return times(strideOf(b, axis, reads), a.value);
  }
  return undefined;
}

function times(a: number | undefined, b: number): number | undefined {
  return a === undefined ? undefined : a * b;
}

/** `e` with `axis` replaced. What has a name of its own like it keeps its body. With `reads`, other parts are not walked. */
export function substitute(e: Expr, axis: string, by: Expr, reads?: Reads): Expr {
  // What is shared stays shared, so that the work is linear in what is different.
  const done = new Map<Expr, Expr>();
  const within = (x: Expr): Expr => {
    if (x.k === "var") return x.name === axis ? by : x;
    if (reads !== undefined && !reads.of(x).has(axis)) return x;
    const before = done.get(x);
    if (before !== undefined) return before;
    const made =
      x.k === "fold" && x.axis === axis
        ? { ...x, from: within(x.from), to: within(x.to) }
        : x.k === "iterate" && (x.axis === axis || x.name === axis)
          ? { ...x, init: within(x.init) }
          : mapOperands(x, within);
    done.set(x, made);
    return made;
  };
  return within(e);
}

/** An i32 sum as what varies and a number. */
export function constantPart(e: Expr): { readonly rest: Expr; readonly constant: number } {
  const zero: Expr = { k: "const", type: "i32", value: 0 };
  if (e.k === "const" && e.type === "i32") return { rest: zero, constant: e.value };
  if (e.k !== "binary" || e.type !== "i32") return { rest: e, constant: 0 };
  const isZero = (x: Expr): boolean => x.k === "const" && x.value === 0;
  if (e.op === "add" || e.op === "sub") {
    const [a, b] = [constantPart(e.a), constantPart(e.b)];
    const constant = e.op === "add" ? a.constant + b.constant : a.constant - b.constant;
    if (isZero(b.rest)) return { rest: a.rest, constant };
    if (isZero(a.rest) && e.op === "add") return { rest: b.rest, constant };
    return { rest: { ...e, a: a.rest, b: b.rest }, constant };
  }
  if (e.op === "mul" && e.b.k === "const") {
    const a = constantPart(e.a);
    return { rest: isZero(a.rest) ? zero : { ...e, a: a.rest }, constant: a.constant * e.b.value };
  }
  return { rest: e, constant: 0 };
}
