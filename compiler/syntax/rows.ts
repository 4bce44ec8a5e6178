// Where the formatter puts comments: rows of a block and elements of a bracketed list, each with the comments
// that belong to it. A comment behind an element on its line stays behind it; any other comes on a line of its
// own before the element it precedes or stands in.

import type { Span } from "../ir/loc.ts";
import type { Comment } from "./ast.ts";
import { group, hardline, indent, line, softline, suffix, type Doc } from "./doc.ts";
import { lexer } from "./tokens.ts";

/** One row or element. `doc` is called once, and takes the comments inside for itself. */
export interface Piece {
  readonly span: Span;
  readonly doc: () => Doc;
}

interface Placed {
  readonly leading: readonly { readonly doc: Doc; readonly start: number; readonly end: number }[];
  readonly doc: Doc;
  readonly trailing: Comment | undefined;
  readonly span: Span;
}

const closers: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}" };

/** The text being formatted: its tokens, and the comments that are not placed yet. */
export class Source {
  readonly text: string;
  readonly #tokens: readonly { readonly image: string; readonly start: number }[];
  readonly #closing = new Map<number, number>();
  readonly #comments: readonly Comment[];
  readonly #placed = new Set<Comment>();

  constructor(text: string, comments: readonly Comment[]) {
    this.text = text;
    this.#comments = comments;
    this.#tokens = lexer.tokenize(text).tokens.map((t) => ({ image: t.image, start: t.startOffset }));
    const open: number[] = [];
    for (const t of this.#tokens) {
      if (t.image in closers) open.push(t.start);
      else if (t.image === ")" || t.image === "]" || t.image === "}") this.#closing.set(open.pop() ?? -1, t.start);
    }
  }

  /** Start of the first token `image` at or after `from`. */
  next(image: string, from: number): number {
    for (let i = this.#index(from); i < this.#tokens.length; i++) {
      const t = this.#tokens[i];
      if (t?.image === image) return t.start;
    }
    return this.text.length;
  }

  /** Start of the token before the one that starts at `start`. */
  before(start: number): number {
    return this.#tokens[this.#index(start) - 1]?.start ?? 0;
  }

  /** Start of the bracket that closes the first `image` at or after `from`. */
  matching(image: string, from: number): number {
    return this.#closing.get(this.next(image, from)) ?? this.text.length;
  }

  /** True when an expression's own parentheses were written, given its leftmost part. */
  parenthesised(span: Span, first: Span): boolean {
    return this.text[span.start] === "(" && first.start !== span.start;
  }

  /** A number as it was written. */
  number(span: Span): string {
    const i = this.#index(span.start);
    for (let j = i; j < this.#tokens.length; j++) {
      const t = this.#tokens[j];
      if (t !== undefined && t.image !== "(") return t.image;
    }
    return this.text.slice(span.start, span.end);
  }

  /** Pieces on lines of their own with the blank lines that were between them. */
  rows(pieces: readonly Piece[], from: number, to: number): Doc {
    const { placed, dangling } = this.#place(pieces, from, to);
    const out: Doc[] = [];
    let end = -1;
    const row = (doc: Doc, start: number): void => {
      if (end >= 0) out.push(hardline, /\n[ \t\r]*\n/.test(this.text.slice(end, start)) ? hardline : "");
      out.push(doc);
    };
    for (const p of placed) {
      for (const c of p.leading) {
        row(c.doc, c.start);
        end = Math.max(c.end, 0);
      }
      row([p.doc, trailingDoc(p.trailing)], p.span.start);
      end = p.trailing?.span.end ?? p.span.end;
    }
    for (const c of dangling) {
      row(commentText(c), c.span.start);
      end = c.span.end;
    }
    return out;
  }

  /** `{ … }` with a row for each piece; `{}` when there is nothing. */
  braces(open: number, pieces: readonly Piece[]): Doc {
    const close = this.#closing.get(open) ?? this.text.length;
    const inside = this.rows(pieces, open + 1, close);
    return Array.isArray(inside) && inside.length === 0 ? "{}" : ["{", indent([hardline, inside]), hardline, "}"];
  }

  /**
   * A bracketed list on one line, or with a line for each element. `open` is looked for from `from` on;
   * `spaced` puts spaces inside the brackets of a list on one line; without `grouped` the list breaks with what is around it.
   */
  list(
    open: "(" | "[" | "{",
    from: number,
    pieces: readonly Piece[],
    {
      spaced = false,
      grouped = true,
      separator = ",",
    }: { readonly spaced?: boolean; readonly grouped?: boolean; readonly separator?: string } = {},
  ): Doc {
    const start = this.next(open, from);
    const { placed, dangling } = this.#place(pieces, start + 1, this.#closing.get(start) ?? this.text.length);
    const close = closers[open] ?? "";
    if (placed.length === 0 && dangling.length === 0) return `${open}${close}`;
    const only = placed.length === 1 ? placed[0] : undefined;
    const edge = spaced ? line : softline;
    const elements = placed.map((p, i): Doc => [
      p.leading.map((c) => [c.doc, hardline]),
      p.doc,
      i + 1 < placed.length ? separator : "",
      trailingDoc(p.trailing),
      i + 1 < placed.length ? line : "",
    ]);
    const rest = dangling.map((c, i): Doc => [i > 0 || placed.length > 0 ? hardline : "", commentText(c)]);
    // A list alone in its brackets shares their lines.
    const text = only === undefined ? undefined : this.text[only.span.start];
    const alone = open !== "{" && only !== undefined && only.leading.length === 0 && only.trailing === undefined && dangling.length === 0;
    if (alone && (text === "[" || text === "{") && this.#closing.get(only.span.start) === only.span.end - 1) return [open, only.doc, close];
    const whole: Doc = [open, indent([edge, elements, rest]), dangling.length > 0 ? hardline : edge, close];
    return grouped ? group(whole) : whole;
  }

  /** Index of the first token at or after an offset. */
  #index(offset: number): number {
    return firstFrom(this.#tokens.length, (i) => (this.#tokens[i]?.start ?? 0) >= offset);
  }

  #between(from: number, to: number): readonly Comment[] {
    const found: Comment[] = [];
    for (let i = firstFrom(this.#comments.length, (i) => (this.#comments[i]?.span.start ?? 0) >= from); i < this.#comments.length; i++) {
      const c = this.#comments[i];
      if (c === undefined || c.span.end > to) break;
      if (!this.#placed.has(c)) found.push(c);
    }
    return found;
  }

  #place(pieces: readonly Piece[], from: number, to: number): { placed: readonly Placed[]; dangling: readonly Comment[] } {
    const take = (comments: readonly Comment[]): readonly Comment[] => {
      for (const c of comments) this.#placed.add(c);
      return comments;
    };
    const placed: Placed[] = [];
    let at = from;
    for (const [i, piece] of pieces.entries()) {
      const own = take(this.#between(at, piece.span.start));
      const doc = piece.doc();
      const inside = take(this.#between(piece.span.start, piece.span.end));
      const until = pieces[i + 1]?.span.start ?? to;
      const behind = this.#between(piece.span.end, until)[0];
      const trailing = behind !== undefined && !this.text.slice(piece.span.end, behind.span.start).includes("\n") ? behind : undefined;
      if (trailing !== undefined) take([trailing]);
      const leading = [
        ...own.map((c) => ({ doc: commentText(c), start: c.span.start, end: c.span.end })),
        ...inside.map((c) => ({ doc: commentText(c), start: piece.span.start, end: piece.span.start })),
      ];
      placed.push({ leading, doc, trailing, span: piece.span });
      at = piece.span.end;
    }
    return { placed, dangling: take(this.#between(at, to)) };
  }
}

/** The first of `count` indices for which `reached` is true, when it stays true from there on. */
function firstFrom(count: number, reached: (index: number) => boolean): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (reached(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

function commentText(c: Comment): string {
  return `#${c.text.trimEnd()}`;
}

function trailingDoc(c: Comment | undefined): Doc {
  return c === undefined ? "" : suffix(` ${commentText(c)}`);
}
