// The places of a .uhd file in the text of a level: spans are numbered and listed first, since the outer ones of
// a chain repeat on many values.

import type { Cursor } from "./cursor.ts";
import type { Loc, Span } from "./loc.ts";

function spanText(s: Span): string {
  return `${JSON.stringify(s.file)} ${s.start} ${s.end} ${s.line}:${s.column} ${s.endLine}:${s.endColumn}`;
}

/** Numbers spans in the order in which they are met. */
export class SpanWriter {
  readonly #known = new Map<string, number>();

  /** The numbers of a chain: `0 3 1`. */
  loc(loc: Loc): string {
    return loc
      .map((span) => {
        const text = spanText(span);
        const number = this.#known.get(text) ?? this.#known.size;
        this.#known.set(text, number);
        return number;
      })
      .join(" ");
  }

  /** One line for each span met so far. */
  lines(): string[] {
    return [...this.#known].map(([text, number]) => `  span ${number} = ${text}`);
  }
}

/** Reads what SpanWriter wrote. */
export class SpanReader {
  readonly #known = new Map<number, Span>();

  /** What follows the word `span`. */
  line(c: Cursor): void {
    const number = c.int();
    c.need("=");
    const file = c.string();
    const [start, end, line] = [c.int(), c.int(), c.int()];
    c.need(":");
    const [column, endLine] = [c.int(), c.int()];
    c.need(":");
    this.#known.set(number, { file, start, end, line, column, endLine, endColumn: c.int() });
  }

  /** Numbers up to something else; there may be none. */
  loc(c: Cursor): Span[] {
    const loc: Span[] = [];
    while (c.sees(/\d/y)) loc.push(this.#known.get(c.int()) ?? c.fail("a span that is listed"));
    return loc;
  }
}
