// Reads the text that print.ts writes. Reports the line and column of what it did not expect; does not check
// that the graph makes sense (see verify.ts).

import { DimError, dimParse, type Dim, type DimSymbol } from "../dim.ts";
import { isDType } from "../dtype.ts";
import type { Loc, Span } from "../loc.ts";
import { emptyHostProgram, type HostExpr, type HostProgram } from "../plan/host.ts";
import type { Attrs, AttrValue, Graph, GraphNode, ParamInit, TensorType } from "./types.ts";

export class GraphParseError extends Error {
  override readonly name = "GraphParseError";
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
class Cursor {
  readonly #text: string;
  readonly #line: number;
  #at = 0;

  constructor(text: string, line: number) {
    this.#text = text;
    this.#line = line;
  }

  fail(expected: string): never {
    const rest = this.#text.slice(this.#at, this.#at + 20);
    throw new GraphParseError(
      `expected ${expected}, found ${rest === "" ? "the end of the line" : JSON.stringify(rest)}`,
      this.#line,
      this.#at + 1,
    );
  }

  /** The match of a sticky pattern at this place, after spaces. */
  match(pattern: RegExp): string | undefined {
    while (this.#text[this.#at] === " ") this.#at++;
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  take(token: string): boolean {
    while (this.#text[this.#at] === " ") this.#at++;
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

  int(): number {
    return Number(this.match(/-?\d+/y) ?? this.fail("an integer"));
  }

  number(): number {
    return Number(this.match(/NaN|-?Infinity|-?\d+(\.\d+)?(e[+-]?\d+)?/y) ?? this.fail("a number"));
  }

  string(): string {
    const text = this.match(/"(?:[^"\\]|\\.)*"/y) ?? this.fail("a quoted name");
    const value: unknown = JSON.parse(text);
    return typeof value === "string" ? value : this.fail("a string");
  }

  value(): number {
    this.need("%");
    return this.int();
  }

  dim(): Dim {
    const from = this.#at;
    let depth = 0;
    while (this.#at < this.#text.length) {
      const c = this.#text[this.#at];
      if (c === "(") depth++;
      if (depth === 0 && (c === "," || c === "]" || c === ")")) break;
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

  /** JSON up to the end of the line, or up to ` : type` when `untilType`. */
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
    while (this.#text[this.#at] === " ") this.#at++;
    if (this.#at < this.#text.length) this.fail("the end of the line");
  }
}

function revive(_key: string, value: unknown): unknown {
  if (typeof value !== "object" || value === null || !("$number" in value) || typeof value.$number !== "string") return value;
  return Number(value.$number);
}

function parseType(c: Cursor): TensorType {
  const dtype = c.word();
  if (!isDType(dtype)) return c.fail("an element type");
  c.need("[");
  return { dtype, shape: c.list("]", () => c.dim()) };
}

function parseAttr(c: Cursor): AttrValue {
  if (c.take("dims[")) return c.list("]", () => c.dim());
  if (c.take("dim(")) {
    const size = c.dim();
    c.need(")");
    return size;
  }
  if (c.take("[")) return c.list("]", () => c.number());
  if (c.take("true")) return true;
  if (c.take("false")) return false;
  if (c.match(/(?=")/y) !== undefined) return c.string();
  return c.number();
}

function parseAttrs(c: Cursor): Attrs {
  if (!c.take("{")) return {};
  return Object.fromEntries(
    c.list("}", () => {
      const name = c.word();
      c.need(":");
      return [name, parseAttr(c)] as const;
    }),
  );
}

function parseInit(c: Cursor): ParamInit | undefined {
  if (!c.take("~")) return undefined;
  const kind = c.word();
  c.need("(");
  const value = c.number();
  c.need(")");
  if (kind === "constant") return { kind, value };
  return kind === "normal" ? { kind, std: value } : c.fail("constant or normal");
}

function parseSpan(c: Cursor): Span {
  const file = c.string();
  const [start, end, line] = [c.int(), c.int(), c.int()];
  c.need(":");
  const [column, endLine] = [c.int(), c.int()];
  c.need(":");
  return { file, start, end, line, column, endLine, endColumn: c.int() };
}

function parseNode(c: Cursor, spans: ReadonlyMap<number, Span>): GraphNode {
  const id = c.value();
  c.need("=");
  const word = c.word();
  const finish = <T extends object>(rest: T): T & { id: number; type: TensorType; loc: Loc } => {
    c.need(":");
    const type = parseType(c);
    const loc: Span[] = [];
    if (c.take("@")) {
      do loc.push(spans.get(c.int()) ?? c.fail("a span that is listed"));
      while (c.match(/(?=\d)/y) !== undefined);
    }
    return { id, ...rest, type, loc };
  };
  if (c.take("(")) {
    const operands = c.list(")", () => c.value());
    return finish({ kind: "op", op: word, operands, attrs: parseAttrs(c) } as const);
  }
  switch (word) {
    case "input":
    case "state":
      return finish({ kind: word, name: c.string() } as const);
    case "param": {
      const name = c.string();
      const init = parseInit(c);
      return init === undefined ? finish({ kind: "param", name } as const) : finish({ kind: "param", name, init } as const);
    }
    case "constant":
      c.need("[");
      return finish({ kind: "constant", data: c.list("]", () => c.number()) } as const);
    case "table":
      // The text was written from a HostExpr; its shape is checked where it is evaluated.
      return finish({ kind: "table", name: c.string(), value: c.json(true) as HostExpr } as const);
    default:
      return c.fail("an op or a kind of value");
  }
}

/** The graph whose text this is. Throws GraphParseError. */
export function parseGraph(text: string): Graph {
  const spans = new Map<number, Span>();
  const symbols: DimSymbol[] = [];
  const nodes: GraphNode[] = [];
  const outputs: { name: string; value: number }[] = [];
  const updates: { state: string; value: number }[] = [];
  let host: HostProgram = emptyHostProgram;
  let name: string | undefined;
  let closed = false;
  const lines = text.split("\n");
  for (const [i, line] of lines.entries()) {
    const c = new Cursor(line, i + 1);
    if (line.trim() === "") continue;
    if (closed) c.fail("nothing after the graph");
    if (name === undefined) {
      c.need("graph");
      name = c.string();
      c.need("{");
    } else if (c.take("}")) closed = true;
    else if (c.match(/(?=%)/y) !== undefined) nodes.push(parseNode(c, spans));
    else if (c.take("span ")) {
      const number = c.int();
      c.need("=");
      spans.set(number, parseSpan(c));
    } else if (c.take("symbol ")) symbols.push(parseSymbol(c));
    else if (c.take("host ")) host = c.json(false) as HostProgram;
    else if (c.take("output ")) outputs.push({ name: c.string(), value: parseTarget(c) });
    else if (c.take("update ")) updates.push({ state: c.string(), value: parseTarget(c) });
    else c.fail("a value, symbol, host, span, output or update");
    c.end();
  }
  if (name === undefined || !closed)
    throw new GraphParseError(name === undefined ? "there is no graph" : "the graph is not closed", lines.length, 1);
  return { name, symbols, host, nodes, outputs, updates };
}

function parseTarget(c: Cursor): number {
  c.need("=");
  return c.value();
}

function parseSymbol(c: Cursor): DimSymbol {
  const name = c.word();
  c.need(":");
  const lower = c.int();
  c.need("..");
  const upper = c.match(/\d+/y);
  return upper === undefined ? { name, lower } : { name, lower, upper: Number(upper) };
}
