// Signatures of built-in shape functions: the small notation of host-builtins.ts, read once, applied to
// argument types. Does not know what the functions do.

import { bool, errorType, float, fits, hostTypeText, int, join, listOf, neverType, string, tupleOf, type HostType } from "./types.ts";

type Pattern =
  | { readonly k: "type"; readonly type: HostType }
  /** `num` is an int or a float; other variables are any type. */
  | { readonly k: "variable"; readonly name: string }
  | { readonly k: "list"; readonly of: Pattern }
  | { readonly k: "tuple"; readonly items: readonly Pattern[] }
  | { readonly k: "record"; readonly fields: readonly { readonly name: string; readonly of: Pattern }[] };

interface Signature {
  readonly params: readonly Pattern[];
  /** The last parameter may repeat. */
  readonly repeats: boolean;
  readonly result: Pattern;
}

const cache = new Map<string, Signature>();

/** Reads `(int, [T]) -> {a: [T]}`. The texts are ours, so a malformed one is a defect and throws. */
export function parseSignature(text: string): Signature {
  const seen = cache.get(text);
  if (seen !== undefined) return seen;
  const tokens = text.match(/[A-Za-z]+|->|…|[[\](){},:]/g) ?? [];
  let at = 0;
  const take = (token: string): boolean => tokens[at] === token && ++at > 0;
  const need = (token: string): void => {
    if (!take(token)) throw new Error(`signature "${text}": expected ${token} at token ${at}`);
  };
  const pattern = (): Pattern => {
    if (take("[")) {
      const of = pattern();
      need("]");
      return { k: "list", of };
    }
    if (take("(")) {
      const items = [pattern()];
      while (take(",")) items.push(pattern());
      need(")");
      return { k: "tuple", items };
    }
    if (take("{")) {
      const fields: { name: string; of: Pattern }[] = [];
      do {
        const name = tokens[at++] ?? "";
        need(":");
        fields.push({ name, of: pattern() });
      } while (take(","));
      need("}");
      return { k: "record", fields };
    }
    const name = tokens[at++] ?? "";
    const base = { int, float, bool, string }[name];
    return base === undefined ? { k: "variable", name } : { k: "type", type: base };
  };
  need("(");
  const params: Pattern[] = [];
  let repeats = false;
  if (!take(")")) {
    do params.push(pattern());
    while (take(","));
    repeats = take("…");
    need(")");
  }
  need("->");
  const signature: Signature = { params, repeats, result: pattern() };
  cache.set(text, signature);
  return signature;
}

/** The pattern as people read it: `num` stays, other variables are `_`. */
function patternText(p: Pattern): string {
  switch (p.k) {
    case "type":
      return hostTypeText(p.type);
    case "variable":
      return p.name === "num" ? "int or float" : "_";
    case "list":
      return `[${patternText(p.of)}]`;
    case "tuple":
      return `(${p.items.map(patternText).join(", ")})`;
    case "record":
      return `{ ${p.fields.map((f) => `${f.name}: ${patternText(f.of)}`).join(", ")} }`;
    default:
      return p satisfies never;
  }
}

export type Applied =
  | { readonly ok: true; readonly result: HostType }
  /** The number of arguments is wrong. */
  | { readonly ok: false; readonly reason: "count"; readonly expected: string }
  | { readonly ok: false; readonly reason: "type"; readonly argument: number; readonly expected: string };

/** The result type for arguments of these types, or which argument does not fit. */
export function applySignature(s: Signature, args: readonly HostType[]): Applied {
  // min and max take numbers or one list of numbers.
  const only = args[0];
  const spread = s.repeats && args.length === 1 && only?.k === "list" ? [only.of] : args;
  const least = s.params.length;
  if (spread.length < least || (!s.repeats && spread.length > least)) {
    return { ok: false, reason: "count", expected: `${s.repeats ? "at least " : ""}${least}` };
  }
  const bound = new Map<string, HostType>();
  for (const [i, type] of spread.entries()) {
    const p = s.params[Math.min(i, s.params.length - 1)];
    if (p === undefined || !match(p, type, bound))
      return { ok: false, reason: "type", argument: i, expected: p === undefined ? "nothing" : patternText(p) };
  }
  return { ok: true, result: build(s.result, bound) };
}

function match(p: Pattern, t: HostType, bound: Map<string, HostType>): boolean {
  if (t.k === "error") return true;
  switch (p.k) {
    case "type":
      return fits(t, p.type);
    case "variable": {
      if (p.name === "num" && t.k !== "int" && t.k !== "float" && t.k !== "never") return false;
      const before = bound.get(p.name);
      const both = before === undefined ? t : join(before, t);
      if (both === undefined) return false;
      bound.set(p.name, both);
      return true;
    }
    case "list":
      return t.k === "never" || (t.k === "list" && match(p.of, t.of, bound));
    case "tuple":
      return t.k === "tuple" && t.items.length === p.items.length && p.items.every((q, i) => match(q, t.items[i] ?? errorType, bound));
    case "record":
      return (
        t.k === "record" &&
        t.fields.length === p.fields.length &&
        p.fields.every((q) => {
          const field = t.fields.find((f) => f.name === q.name);
          return field !== undefined && match(q.of, field.type, bound);
        })
      );
    default:
      return p satisfies never;
  }
}

function build(p: Pattern, bound: ReadonlyMap<string, HostType>): HostType {
  switch (p.k) {
    case "type":
      return p.type;
    case "variable": {
      const type = bound.get(p.name) ?? (p.name === "num" ? int : neverType);
      return type.k === "never" && p.name === "num" ? int : type;
    }
    case "list":
      return listOf(build(p.of, bound));
    case "tuple":
      return tupleOf(p.items.map((q) => build(q, bound)));
    case "record":
      return { k: "record", fields: p.fields.map((q) => ({ name: q.name, type: build(q.of, bound) })) };
    default:
      return p satisfies never;
  }
}
