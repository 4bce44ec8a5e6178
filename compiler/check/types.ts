// The types of shape code and how they relate. Knows nothing of expressions, names or tensors.

import type { Span } from "../ir/loc.ts";

export interface FieldType {
  readonly name: string;
  readonly type: HostType;
  /** Where the field is declared, in a written type. */
  readonly span?: Span;
}

export type HostType =
  | { readonly k: "int" | "float" | "bool" | "string" }
  | { readonly k: "list"; readonly of: HostType }
  | { readonly k: "tuple"; readonly items: readonly HostType[] }
  | { readonly k: "record"; readonly fields: readonly FieldType[] }
  /** The element of an empty list: fits everywhere. */
  | { readonly k: "never" }
  /** Already reported: fits everywhere and takes everything. */
  | { readonly k: "error" };

export const int: HostType = { k: "int" };
export const float: HostType = { k: "float" };
export const bool: HostType = { k: "bool" };
export const string: HostType = { k: "string" };
export const errorType: HostType = { k: "error" };
export const neverType: HostType = { k: "never" };

export const listOf = (of: HostType): HostType => ({ k: "list", of });
export const tupleOf = (items: readonly HostType[]): HostType => ({ k: "tuple", items });

/** The type as it is written in a .uhd file. Cut where it would be longer than a line. */
export function hostTypeText(t: HostType): string {
  const text = whole(t);
  return text.length > 120 ? `${text.slice(0, 117)}…` : text;
}

function whole(t: HostType): string {
  switch (t.k) {
    case "int":
    case "float":
    case "bool":
    case "string":
      return t.k;
    case "list":
      return `[${whole(t.of)}]`;
    case "tuple":
      return `(${t.items.map(whole).join(", ")})`;
    case "record":
      return `{ ${t.fields.map((f) => `${f.name}: ${whole(f.type)}`).join(", ")} }`;
    case "never":
    case "error":
      return "_";
    default:
      return t satisfies never;
  }
}

/** Whether a value of type `from` may stand where `to` is wanted: ints are floats, lists and tuples follow their parts. */
export function fits(from: HostType, to: HostType): boolean {
  if (from.k === "error" || to.k === "error" || from.k === "never") return true;
  if (from.k === "int" && to.k === "float") return true;
  if (from.k === "list" && to.k === "list") return fits(from.of, to.of);
  if (from.k === "tuple" && to.k === "tuple") {
    const items = to.items;
    return from.items.length === items.length && from.items.every((t, i) => fits(t, items[i] ?? errorType));
  }
  if (from.k === "record" && to.k === "record") {
    const theirs = from.fields;
    return theirs.length === to.fields.length && to.fields.every((f) => theirs.some((g) => g.name === f.name && fits(g.type, f.type)));
  }
  return from.k === to.k;
}

/** The least type both fit, undefined when there is none. */
export function join(a: HostType, b: HostType): HostType | undefined {
  if (a.k === "error" || b.k === "error") return errorType;
  if (fits(a, b)) return b;
  if (fits(b, a)) return a;
  if (a.k === "list" && b.k === "list") {
    const of = join(a.of, b.of);
    return of === undefined ? undefined : listOf(of);
  }
  if (a.k === "tuple" && b.k === "tuple" && a.items.length === b.items.length) {
    const items = a.items.map((t, i) => join(t, b.items[i] ?? errorType));
    const found = items.filter((t) => t !== undefined);
    return found.length === items.length ? tupleOf(found) : undefined;
  }
  if (a.k === "record" && b.k === "record" && a.fields.length === b.fields.length) {
    const fields: { name: string; type: HostType }[] = [];
    for (const f of a.fields) {
      const other = b.fields.find((g) => g.name === f.name);
      const type = other === undefined ? undefined : join(f.type, other.type);
      if (type === undefined) return undefined;
      fields.push({ name: f.name, type });
    }
    return { k: "record", fields };
  }
  return undefined;
}

export function isNumber(t: HostType): boolean {
  return t.k === "int" || t.k === "float" || t.k === "error" || t.k === "never";
}
