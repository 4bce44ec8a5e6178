// Reads the text that print.ts writes. Reports the line and column of what it did not expect; does not check that
// the function makes sense (see verify.ts).

import { Cursor, IrParseError } from "../cursor.ts";
import type { Dim } from "../dim.ts";
import { isDType, type DType } from "../dtype.ts";
import type { Loc } from "../loc.ts";
import { SpanReader } from "../spans.ts";
import { Declared } from "./expr-text.ts";
import { ExprReader, readType } from "./parse-expr.ts";
import type { ImpBuffer, ImpFunction, ImpScratch, ImpStmt } from "./types.ts";

/** Blocks in blocks: text with more is refused before the stack is full. */
const maximumNesting = 300;

/** The function whose text this is. Throws IrParseError. */
export function parseImp(text: string): ImpFunction {
  return new Reader(text).function();
}

class Reader {
  readonly #lines: readonly string[];
  #next = 0;
  #nesting = 0;
  readonly #spans = new SpanReader();

  constructor(text: string) {
    this.#lines = text.split("\n");
  }

  function(): ImpFunction {
    const first = this.#line("there is no function");
    first.need("function");
    const name = first.string();
    first.need("{");
    first.end();
    const head = this.#head();
    const reader = new ExprReader(new Declared(head));
    const body: ImpStmt[] = [];
    const sources: Loc[] = [];
    for (;;) {
      const c = this.#line("the function is not closed");
      if (c.take("}")) {
        c.end();
        break;
      }
      if (c.take("source")) sources.push(this.#spans.loc(c));
      else body.push(this.#statement(c, reader));
      c.end();
    }
    while (this.#next < this.#lines.length) {
      const line = this.#lines[this.#next++] ?? "";
      if (line.trim() !== "") new Cursor(line, this.#next).fail("nothing after the function");
    }
    return { name, ...head, body, sources };
  }

  /** The next line that is not empty. */
  #line(missing: string): Cursor {
    while (this.#next < this.#lines.length) {
      const line = this.#lines[this.#next++] ?? "";
      if (line.trim() !== "") return new Cursor(line, this.#next);
    }
    throw new IrParseError(missing, this.#lines.length, 1);
  }

  #head(): Omit<ImpFunction, "name" | "body" | "sources"> {
    const buffers: ImpBuffer[] = [];
    const scratch: ImpScratch[] = [];
    let dims: readonly string[] = [];
    let units: { readonly unit: string; readonly units: Dim } | undefined;
    let lanes: Pick<ImpFunction, "lanes" | "lane" | "subgroup"> = { lanes: 1 };
    for (;;) {
      const c = this.#line("the function is not closed");
      if (c.take("span ")) this.#spans.line(c);
      else if (c.take("dims ")) {
        c.need("[");
        dims = c.list("]", () => c.name());
      } else if (c.take("read ")) buffers.push({ ...named(c), access: "read" });
      else if (c.take("write ")) buffers.push({ ...named(c), access: "write" });
      else if (c.take("readwrite ")) buffers.push({ ...named(c), access: "readwrite" });
      else if (c.take("scratch ")) scratch.push(readScratch(c));
      else if (c.take("units ")) {
        const unit = c.name();
        c.need(":");
        units = { unit, units: c.dim() };
      } else if (c.take("lanes ")) {
        const lane = c.sees(/\d/y) ? undefined : c.name();
        if (lane !== undefined) c.need(":");
        lanes = lane === undefined ? { lanes: c.int() } : { lanes: c.int(), lane };
      } else if (c.take("subgroup ")) {
        lanes = { ...lanes, subgroup: c.int() };
      } else {
        if (units === undefined) return c.fail("the units before this");
        this.#next--;
        return { buffers, dims, scratch, ...units, ...lanes };
      }
      c.end();
    }
  }

  /** The statements up to a line that begins with `}`; that line, with the bracket taken. */
  #block(reader: ExprReader): { readonly body: ImpStmt[]; readonly end: Cursor } {
    const body: ImpStmt[] = [];
    if (++this.#nesting > maximumNesting) throw new IrParseError(`blocks are nested more than ${maximumNesting} deep`, this.#next, 1);
    for (;;) {
      const c = this.#line("the block is not closed");
      if (c.take("}")) {
        this.#nesting--;
        return { body, end: c };
      }
      body.push(this.#statement(c, reader));
      c.end();
    }
  }

  /** A block that nothing follows. */
  #closed(reader: ExprReader): ImpStmt[] {
    const { body, end } = this.#block(reader);
    end.end();
    return body;
  }

  #statement(c: Cursor, reader: ExprReader): ImpStmt {
    const open = (): void => {
      c.need("{");
      c.end();
    };
    const k = c.word();
    switch (k) {
      case "let":
      case "var": {
        const name = c.name();
        c.need(":");
        const type = readType(c);
        c.need("=");
        const value = reader.expr(c);
        reader.declared.local(name, type);
        return { k: "let", name, type, value, mutable: k === "var" };
      }
      case "set": {
        const name = c.name();
        c.need("=");
        return { k: "assign", name, value: reader.expr(c) };
      }
      case "store": {
        const count = c.take("lanes") ? c.int() : undefined;
        const place = reader.place(c);
        c.need("=");
        const value = reader.expr(c);
        return count === undefined ? { k: "store", ...place, value } : { k: "storeLanes", ...place, value, count };
      }
      case "for": {
        const name = c.name();
        c.need("=");
        const from = reader.expr(c);
        c.need("..");
        const to = reader.expr(c);
        const step = c.take("step") ? c.number() : 1;
        open();
        reader.declared.local(name, "i32");
        return { k: "for", name, from, to, step, body: this.#closed(reader) };
      }
      case "while": {
        const cond = reader.expr(c);
        open();
        return { k: "while", cond, body: this.#closed(reader) };
      }
      case "if": {
        const cond = reader.expr(c);
        open();
        const { body, end } = this.#block(reader);
        const otherwise = end.take("else");
        if (otherwise) end.need("{");
        end.end();
        return { k: "if", cond, then: body, else: otherwise ? this.#closed(reader) : [] };
      }
      case "barrier":
        return { k: "barrier" };
      case "uniform": {
        const name = c.name();
        c.need("=");
        const value = reader.expr(c);
        reader.declared.local(name, "i32");
        return { k: "uniform", name, type: "i32", value };
      }
      case "exchange": {
        const name = c.name();
        c.need(":");
        const type = readType(c);
        if (type !== "f32" && type !== "i32" && type !== "f32x4" && type !== "i32x4") return c.fail("a number's type before this");
        c.need("=");
        const op = c.word();
        if (op !== "from" && op !== "xor") return c.fail("from or xor before this");
        const lane = reader.expr(c);
        c.need("of");
        const value = reader.expr(c);
        reader.declared.local(name, type);
        return { k: "exchange", name, type, op, value, lane };
      }
      case "fence": {
        const ptr = c.name();
        c.need("[");
        return { k: "fence", ptr, keep: c.list("]", () => c.name()) };
      }
      default:
        return c.fail("a statement before this");
    }
  }
}

function named(c: Cursor): { readonly name: string; readonly dtype: DType } {
  const name = c.name();
  c.need(":");
  const dtype = c.word();
  return isDType(dtype) ? { name, dtype } : c.fail("an element type before this");
}

function readScratch(c: Cursor): ImpScratch {
  const space = c.word();
  if (space !== "workgroup" && space !== "private") return c.fail("workgroup or private before this");
  const { name, dtype } = named(c);
  c.need("[");
  const size = c.dim();
  c.need("]");
  return { name, dtype, size, space };
}
