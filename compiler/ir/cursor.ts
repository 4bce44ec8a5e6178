// A line of a level's text and a place in it, and the frame around the lines: what the parsers of all levels are made
// of. Every failure is an IrParseError with line and column.

import { DimError, dimParse, type Dim } from "./dim.ts";

export class IrParseError extends Error {
  override readonly name = "IrParseError";
  /** Counted from 1. */
  readonly line: number;
  readonly column: number;
  constructor(message: string, line: number, column: number) {
    super(`line ${line}, column ${column}: ${message}`);
    this.line = line;
    this.column = column;
  }
}

/** One line and a place in it. */
export class Cursor {
  readonly #text: string;
  readonly #line: number;
  #at = 0;

  constructor(text: string, line: number) {
    this.#text = text;
    this.#line = line;
  }

  fail(expected: string): never {
    const rest = this.#text.slice(this.#at, this.#at + 20);
    throw new IrParseError(
      `expected ${expected}, found ${rest === "" ? "the end of the line" : JSON.stringify(rest)}`,
      this.#line,
      this.#at + 1,
    );
  }

  /** The match of a sticky pattern at this place, after spaces. */
  match(pattern: RegExp): string | undefined {
    this.#space();
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  /** Does a sticky pattern match at this place, after spaces? Nothing is taken. */
  sees(pattern: RegExp): boolean {
    this.#space();
    pattern.lastIndex = this.#at;
    return pattern.test(this.#text);
  }

  take(token: string): boolean {
    this.#space();
    if (!this.#text.startsWith(token, this.#at)) return false;
    this.#at += token.length;
    return true;
  }

  need(token: string): void {
    if (!this.take(token)) this.fail(`"${token}"`);
  }

  word(): string {
    return this.match(/[A-Za-z_][\w.$']*/y) ?? this.fail("a name");
  }

  /** A name as nameText of text.ts writes it. */
  name(): string {
    return this.sees(/"/y) ? this.string() : (this.match(/[A-Za-z_][\w$]*(\.[\w$]+)*/y) ?? this.fail("a name"));
  }

  int(): number {
    return Number(this.match(/-?\d+/y) ?? this.fail("an integer"));
  }

  number(): number {
    return Number(this.match(/NaN|-?Infinity|-?\d+(\.\d+)?(e[+-]?\d+)?/y) ?? this.fail("a number"));
  }

  string(): string {
    const text = this.match(/"(?:[^"\\]|\\.)*"/y) ?? this.fail("a quoted name");
    try {
      const value: unknown = JSON.parse(text);
      if (typeof value === "string") return value;
    } catch {
      // An escape that JSON does not have.
    }
    return this.fail("a string");
  }

  value(): number {
    this.need("%");
    return this.int();
  }

  /** A size: up to a comma, a closing bracket or `=`, or to the end of the line. */
  dim(): Dim {
    const from = this.#at;
    let depth = 0;
    while (this.#at < this.#text.length) {
      const c = this.#text[this.#at];
      if (c === "(") depth++;
      if (depth === 0 && (c === "," || c === "]" || c === ")" || c === "}" || c === "=")) break;
      if (c === ")") depth--;
      this.#at++;
    }
    try {
      return dimParse(this.#text.slice(from, this.#at).trim());
    } catch (error) {
      this.#at = from;
      if (error instanceof DimError) return this.fail(`a size (${error.message})`);
      throw error;
    }
  }

  /** Items between the opening token (already taken) and `close`. */
  list<T>(close: string, item: () => T): T[] {
    const items: T[] = [];
    if (this.take(close)) return items;
    do items.push(item());
    while (this.take(","));
    this.need(close);
    return items;
  }

  /** JSON up to the end of the line, or up to the last ` : ` when `untilType`. */
  json(untilType: boolean): unknown {
    const end = untilType ? this.#text.lastIndexOf(" : ") : this.#text.length;
    if (end < this.#at) this.fail("JSON");
    const text = this.#text.slice(this.#at, end);
    try {
      const value: unknown = JSON.parse(text, revive);
      this.#at = end;
      return value;
    } catch {
      return this.fail("JSON");
    }
  }

  end(): void {
    this.#space();
    if (this.#at < this.#text.length) this.fail("the end of the line");
  }

  #space(): void {
    while (this.#text[this.#at] === " ") this.#at++;
  }
}

/**
 * The name that `open` reads at the first line of `text`; the other lines, which `line` reads, end with `}`. Lines may
 * be empty. `what` is what the text is of.
 */
export function readFramed(text: string, what: string, open: (c: Cursor) => string, line: (c: Cursor) => void): string {
  let name: string | undefined;
  let closed = false;
  const lines = text.split("\n");
  for (const [i, content] of lines.entries()) {
    const c = new Cursor(content, i + 1);
    if (content.trim() === "") continue;
    if (closed) c.fail(`nothing after the ${what}`);
    if (name === undefined) name = open(c);
    else if (c.take("}")) closed = true;
    else line(c);
    c.end();
  }
  if (name === undefined) throw new IrParseError(`there is no ${what}`, lines.length, 1);
  if (!closed) throw new IrParseError(`the ${what} is not closed`, lines.length, 1);
  return name;
}

function revive(_key: string, value: unknown): unknown {
  if (typeof value !== "object" || value === null || !("$number" in value) || typeof value.$number !== "string") return value;
  return Number(value.$number);
}
