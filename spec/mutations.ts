// Makes mutants of .uhd files: one small mistake each, as a person makes it, at a known place. Also says which other
// places such a mistake is in conflict with. Does not check anything (see mutations.test.ts).

import type { Span } from "../compiler/ir/loc.ts";
import type { DimExpr, Expr, FileAst, TypeExpr } from "../compiler/syntax/ast.ts";
import { parseFile } from "../compiler/syntax/index.ts";
import { lexer } from "../compiler/syntax/tokens.ts";

export type MutationKind = "dimension" | "swap" | "misspelling" | "deletion";

/** The type of an input of a graph, of a parameter of the checkpoint, of a state, of a table, any other declared type, or a reshape. */
type SizePlace = "input" | "param" | "state" | "table" | "declared" | "reshape";

export interface Mutation {
  readonly kind: MutationKind;
  readonly file: string;
  /** In words, for a failing test. */
  readonly what: string;
  /** The text of the whole file after the mutation. */
  readonly text: string;
  /** What was written, as a range of `text`; empty for a deletion. */
  readonly start: number;
  readonly end: number;
  /** The changed parts of it: two for a swap. */
  readonly parts: readonly { readonly start: number; readonly end: number }[];
  /** Where a changed size is written; undefined for other mutations. */
  readonly where: SizePlace | undefined;
  /** Names whose uses and declarations the mistake is in conflict with. */
  readonly names: ReadonlySet<string>;
  /** Ranges of `text` that the mistake is in conflict with: the smallest declaration around it, the bracket it unpaired. */
  readonly related: readonly { readonly start: number; readonly end: number }[];
  /** Both sides of a swapped operator that gives the same either way round. */
  readonly commutative: boolean;
}

/** mulberry32: the same numbers from the same seed, everywhere. */
export function generator(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

interface Node {
  readonly kind?: string;
  readonly span?: Span;
  readonly [key: string]: unknown;
}

/** Every node of a tree, outer ones first, with the nodes around it. */
function walk(node: unknown, visit: (node: Node, around: readonly Node[]) => void, around: readonly Node[] = []): void {
  if (typeof node !== "object" || node === null) return;
  if (Array.isArray(node)) {
    for (const n of node) walk(n, visit, around);
    return;
  }
  const here = node as Node;
  const inner = here.span === undefined ? around : [...around, here];
  if (here.span !== undefined) visit(here, around);
  for (const [key, value] of Object.entries(here)) if (!/^span$|Span$/.test(key)) walk(value, visit, inner);
}

interface Token {
  readonly image: string;
  readonly start: number;
  readonly end: number;
  readonly name: boolean;
}

interface SourceFile {
  readonly file: string;
  readonly text: string;
  readonly ast: FileAst;
  readonly tokens: readonly Token[];
  /** Sizes that are written in declared types, in types' arguments and in reshapes. */
  readonly sizes: readonly { readonly span: Span; readonly where: SizePlace; readonly others: readonly string[] }[];
  readonly swaps: readonly { readonly a: Span; readonly b: Span; readonly commutative: boolean; readonly what: string }[];
}

const commutative = new Set(["+", "*", "==", "!=", "and", "or"]);

export function sourceFile(file: string, text: string): SourceFile {
  const { ast, diagnostics } = parseFile(file, text);
  if (diagnostics.length > 0) throw new Error(`${file} does not parse`);
  const tokens = lexer.tokenize(text).tokens.map((t) => ({
    image: t.image,
    start: t.startOffset,
    end: t.startOffset + t.image.length,
    name: /^(Identifier|Word_)/.test(t.tokenType.name),
  }));
  const sizes: { span: Span; where: SizePlace; others: readonly string[] }[] = [];
  const swaps: { a: Span; b: Span; commutative: boolean; what: string }[] = [];
  const leaves = (e: Expr): readonly Extract<Expr, { kind: "int" | "name" }>[] => {
    const found: Extract<Expr, { kind: "int" | "name" }>[] = [];
    walk(e, (n) => {
      if (n.kind === "int" || n.kind === "name") found.push(n as unknown as Extract<Expr, { kind: "int" | "name" }>);
    });
    return found;
  };
  for (const item of ast.items) {
    // Names of sizes in the types of this item: what a size could be confused with.
    const near = new Set<string>();
    const tensors: { d: DimExpr; where: SizePlace }[] = [];
    walk(item, (n, outer) => {
      if (n.kind !== "tensor") return;
      const owner = outer.at(-1);
      const input = item.kind === "graph" && item.params.some((p) => p.span === owner?.span);
      const where = input
        ? "input"
        : owner?.kind === "param" || owner?.kind === "table" || owner?.kind === "state"
          ? owner.kind
          : "declared";
      tensors.push(...(n as unknown as Extract<TypeExpr, { kind: "tensor" }>).dims.map((d) => ({ d, where }) as const));
    });
    for (const { d } of tensors) for (const leaf of leaves(d.value)) if (leaf.kind === "name") near.add(leaf.name);
    const add = (e: Expr, where: SizePlace): void => {
      for (const leaf of leaves(e)) {
        sizes.push({ span: leaf.span, where, others: [...near].filter((o) => leaf.kind !== "name" || o !== leaf.name) });
      }
    };
    for (const { d, where } of tensors) add(d.value, where);
    walk(item, (n) => {
      if (n.kind === "call") {
        const call = n as unknown as Extract<Expr, { kind: "call" }>;
        const shape = call.args[1]?.value;
        if (call.callee.kind === "name" && call.callee.name === "reshape" && shape !== undefined) add(shape, "reshape");
      }
      if (n.kind === "call" || n.kind === "use") {
        const args = (n as unknown as Extract<Expr, { kind: "call" }>).args;
        for (let i = 1; i < args.length; i++) {
          const [a, b] = [args[i - 1], args[i]];
          if (a === undefined || b === undefined || a.name !== undefined || b.name !== undefined) continue;
          swaps.push({ a: a.span, b: b.span, commutative: false, what: "arguments" });
        }
      }
      if (n.kind === "binary") {
        const e = n as unknown as Extract<Expr, { kind: "binary" }>;
        swaps.push({ a: e.left.span, b: e.right.span, commutative: commutative.has(e.operator), what: `operands of ${e.operator}` });
      }
    });
  }
  return { file, text, ast, tokens, sizes, swaps };
}

/** Names that the text of a file uses, to keep a misspelling from being another name. */
function namesOf(source: SourceFile): ReadonlySet<string> {
  return new Set(source.tokens.filter((t) => t.name).map((t) => t.image));
}

const pairs: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}" };

/** The other bracket of the pair, by position among the tokens. */
function partner(tokens: readonly Token[], at: number): Token | undefined {
  const image = tokens[at]?.image ?? "";
  const forward = image in pairs;
  let depth = 0;
  for (let i = at; i >= 0 && i < tokens.length; i += forward ? 1 : -1) {
    const t = tokens[i]?.image ?? "";
    if (/^[([{]$/.test(t)) depth += forward ? 1 : -1;
    else if (/^[)\]}]$/.test(t)) depth += forward ? -1 : 1;
    if (depth === 0) return tokens[i];
  }
  return undefined;
}

/** The smallest declaration, statement or member around a range, and the names that it declares. */
function around(source: SourceFile, start: number, end: number): { range: { start: number; end: number } | undefined; names: string[] } {
  const kinds = new Set([
    "let",
    "assign",
    "repeat",
    "dim",
    "ragged",
    "table",
    "use",
    "state",
    "param",
    "import",
    "config",
    "const",
    "type",
    "fn",
    "module",
    "graph",
    "forward",
    "train",
  ]);
  let best: Node | undefined;
  const names: string[] = [];
  const declared = (n: Node): void => {
    const name = n["name"];
    if (typeof name === "object" && name !== null && "name" in name && typeof name.name === "string") names.push(name.name);
    walk(n["pattern"], (p) => {
      if (p.kind === "name" && typeof p["name"] === "string") names.push(p["name"]);
    });
  };
  walk(source.ast.items, (n) => {
    const span = n.span;
    if (span === undefined || span.start > start || span.end < end) return;
    // The value of a block is as good as a statement.
    const value = Array.isArray(n["statements"]) ? (n["value"] as Node | undefined) : undefined;
    if (value?.span !== undefined && value.span.start <= start && value.span.end >= end) best = value;
    // Parameters, fields, clauses and arguments have no kind of their own but a name.
    if (n.kind !== undefined && kinds.has(n.kind)) {
      best = n;
      declared(n);
    } else if (n.kind === undefined || n.kind === "for" || n.kind === "choose") declared(n);
  });
  if (best?.span === undefined) return { range: undefined, names };
  const span = best.span;
  // Of what has a body only the head is near.
  const body = best.kind !== undefined && kinds.has(best.kind) ? best["body"] : undefined;
  const bodySpan = typeof body === "object" && body !== null && "span" in body ? (body.span as Span) : undefined;
  const members = best["members"];
  const first = Array.isArray(members) && members.length > 0 ? (members[0] as Node).span : undefined;
  const head = bodySpan !== undefined && start < bodySpan.start ? bodySpan.start : first !== undefined ? first.start : span.end;
  return { range: bodySpan === undefined || start < bodySpan.start ? { start: span.start, end: head } : undefined, names };
}

function make(
  source: SourceFile,
  kind: MutationKind,
  edits: readonly { readonly start: number; readonly end: number; readonly text: string }[],
  what: string,
  more: {
    readonly where?: SizePlace;
    readonly commutative?: boolean;
    readonly names?: readonly string[];
    readonly related?: readonly Token[];
  } = {},
): Mutation {
  let text = "";
  let at = 0;
  const moved: { at: number; by: number }[] = [];
  let shift = 0;
  for (const e of edits) {
    text += source.text.slice(at, e.start) + e.text;
    at = e.end;
    shift += e.text.length - (e.end - e.start);
    moved.push({ at: e.end, by: shift });
  }
  text += source.text.slice(at);
  const place = (offset: number): number => offset + (moved.findLast((m) => m.at <= offset)?.by ?? 0);
  const [first, last] = [edits[0], edits.at(-1)];
  if (first === undefined || last === undefined) throw new Error("a mutation changes something");
  const near = around(source, first.start, last.end);
  const line = source.text.slice(0, first.start).split("\n").length;
  return {
    kind,
    file: source.file,
    what: `${source.file}:${line}: ${what}`,
    text,
    start: first.start,
    end: place(last.end),
    parts: edits.map((e) => ({ start: place(e.end) - e.text.length, end: place(e.end) })),
    where: more.where,
    names: new Set([...near.names, ...(more.names ?? [])]),
    related: [
      ...(near.range === undefined ? [] : [{ start: near.range.start, end: place(near.range.end) }]),
      ...(more.related ?? []).map((t) => ({ start: place(t.start), end: place(t.end) })),
    ],
    commutative: more.commutative ?? false,
  };
}

function pick<T>(random: () => number, from: readonly T[]): T {
  const value = from[Math.floor(random() * from.length)];
  if (value === undefined) throw new Error("nothing to choose from");
  return value;
}

const misspellings: readonly ((word: string, random: () => number) => string)[] = [
  (w, random) => {
    const i = Math.floor(random() * (w.length - 1));
    return w.slice(0, i) + (w[i + 1] ?? "") + (w[i] ?? "") + w.slice(i + 2);
  },
  (w, random) => {
    const i = Math.floor(random() * w.length);
    return w.slice(0, i) + w.slice(i + 1);
  },
  (w, random) => {
    const i = Math.floor(random() * w.length);
    return w.slice(0, i) + (w[i] ?? "") + w.slice(i);
  },
  (w, random) => {
    const i = Math.floor(random() * w.length);
    return w.slice(0, i) + pick(random, [..."abcdefghijklmnopqrstuvwxyz"]) + w.slice(i + 1);
  },
];

/** A mutant of `kind`, at a place that `random` chooses. */
export function mutate(source: SourceFile, kind: MutationKind, random: () => number): Mutation | undefined {
  const { text } = source;
  switch (kind) {
    case "dimension": {
      if (source.sizes.length === 0) return undefined;
      const size = pick(random, source.sizes);
      const old = text.slice(size.span.start, size.span.end);
      const numbers = /^\d+$/.test(old) ? [Number(old) + 1, Math.max(1, Number(old) - 1), 2 * Number(old) + 2] : [5, 77];
      const choices = [...size.others, ...size.others, ...numbers.map(String)].filter((c) => c !== old);
      const replacement = pick(random, choices);
      return make(source, kind, [{ start: size.span.start, end: size.span.end, text: replacement }], `${old} became ${replacement}`, {
        where: size.where,
        names: [old, replacement].filter((n) => /^[A-Za-z_]/.test(n)),
      });
    }
    case "swap": {
      if (source.swaps.length === 0) return undefined;
      // Numbers in arithmetic are well typed either way round, so most swaps are of arguments.
      const args = source.swaps.filter((s) => s.what === "arguments");
      const { a, b, commutative: either, what } = pick(random, args.length > 0 && random() < 0.85 ? args : source.swaps);
      const [left, right] = [text.slice(a.start, a.end), text.slice(b.start, b.end)];
      if (left === right) return undefined;
      return make(
        source,
        kind,
        [
          { start: a.start, end: a.end, text: right },
          { start: b.start, end: b.end, text: left },
        ],
        `${what} swapped: ${left} and ${right}`,
        { commutative: either },
      );
    }
    case "misspelling": {
      const words = source.tokens.filter((t) => t.name && t.image !== "_");
      const token = pick(random, words);
      const known = namesOf(source);
      const wrong = pick(random, misspellings)(token.image, random);
      if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(wrong) || known.has(wrong) || lexer.tokenize(wrong).tokens[0]?.tokenType.name !== "Identifier")
        return undefined;
      return make(source, kind, [{ start: token.start, end: token.end, text: wrong }], `${token.image} became ${wrong}`, {
        names: [token.image, wrong],
      });
    }
    case "deletion": {
      const index = Math.floor(random() * source.tokens.length);
      const token = source.tokens[index];
      if (token === undefined) return undefined;
      // A space stays, so that the neighbours do not become one token.
      const other = /^[([{)\]}]$/.test(token.image) ? partner(source.tokens, index) : undefined;
      return make(source, kind, [{ start: token.start, end: token.end, text: "" }], `${token.image} deleted`, {
        names: token.name ? [token.image] : [],
        related: other === undefined ? [] : [other],
      });
    }
    default:
      return kind satisfies never;
  }
}
