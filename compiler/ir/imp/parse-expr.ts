// Reads expressions and types of Imp IR as expr-text.ts writes them.

import type { Cursor } from "../cursor.ts";
import { constantStart, readBinary, readConstant } from "../operators.ts";
import type { Declared } from "./expr-text.ts";
import { acrossOps, halvesOps, impBinaryOps, impUnaryOps } from "./ops.ts";
import type { ImpExpr, ImpType } from "./types.ts";

/** Text with more levels of nesting is refused before the stack is full. */
const maximumDepth = 300;

const plainTypes = ["f32", "i32", "bool", "f32x4", "i32x4"] as const;

function isOneOf<T extends string>(all: readonly T[], word: string): word is T {
  return (all as readonly string[]).includes(word);
}

export function readType(c: Cursor): ImpType {
  if (c.take("&")) return `ptr:${c.name()}`;
  const word = c.word();
  return isOneOf(plainTypes, word) ? word : c.fail("a type before this");
}

/** `, 4` or nothing. */
function readOffset(c: Cursor): number {
  return c.take(",") ? c.int() : 0;
}

export class ExprReader {
  readonly declared: Declared;
  #depth = 0;

  constructor(declared: Declared) {
    this.declared = declared;
  }

  expr(c: Cursor): ImpExpr {
    return readBinary(
      c,
      0,
      () => this.#primary(c),
      (op, a, b) => this.#typed({ k: "binary", op, a, b, type: "f32" }),
    );
  }

  /** `(p, 4)`: a pointer and an offset. */
  place(c: Cursor): { readonly ptr: ImpExpr; readonly offset: number } {
    c.need("(");
    const ptr = this.expr(c);
    const offset = readOffset(c);
    c.need(")");
    return { ptr, offset };
  }

  #primary(c: Cursor): ImpExpr {
    if (++this.#depth > maximumDepth) c.fail(`an expression of at most ${maximumDepth} levels`);
    const e = this.#unnested(c);
    this.#depth--;
    return e;
  }

  #unnested(c: Cursor): ImpExpr {
    if (c.take("(")) {
      const e = this.expr(c);
      c.need(")");
      return c.take(":") ? withType(e, readType(c)) : e;
    }
    if (c.take("{")) {
      const name = c.name();
      c.need("}");
      return { k: "dim", name };
    }
    if (c.sees(constantStart)) return { k: "const", ...readConstant(c) };
    const typed = c.match(/(?:f32x4|i32x4|f32|i32|bool)#/y);
    if (typed !== undefined) return { k: "const", type: typed.slice(0, -1) as ImpType, value: numbers(c) };
    if (c.take("&")) {
      const buffer = c.name();
      if (c.take("#")) return { k: "const", type: `ptr:${buffer}`, value: numbers(c) };
      c.need("[");
      const index = this.expr(c);
      c.need("]");
      return { k: "at", buffer, index, type: `ptr:${buffer}` };
    }
    const quoted = c.sees(/"/y);
    const name = c.name();
    return !quoted && c.take("(") ? this.#call(c, name) : this.#typed({ k: "var", name, type: "i32" });
  }

  /** What stands between the parentheses of `name(`, which is taken already. */
  #call(c: Cursor, name: string): ImpExpr {
    const e = this.#typed(this.#named(c, name));
    c.need(")");
    return e;
  }

  #named(c: Cursor, name: string): ImpExpr {
    const expr = (): ImpExpr => this.expr(c);
    const next = <T>(read: () => T): T => {
      c.need(",");
      return read();
    };
    const type = "f32";
    if (isOneOf(plainTypes, name)) return { k: "convert", a: expr(), type: name };
    if (isOneOf(impUnaryOps, name)) return { k: "unary", op: name, a: expr(), type };
    if (isOneOf(impBinaryOps, name)) return { k: "binary", op: name, a: expr(), b: next(expr), type };
    if (isOneOf(halvesOps, name)) {
      const args: ImpExpr[] = [];
      if (!c.sees(/\)/y)) {
        do args.push(expr());
        while (c.take(","));
      }
      return { k: "halves", op: name, args, type: "i32x4" };
    }
    switch (name) {
      case "advance":
        return { k: "advance", ptr: expr(), elements: next(expr), type: "ptr:" };
      case "load":
      case "load4":
        return { k: "load", ptr: expr(), offset: readOffset(c), type: name === "load" ? "f32" : "f32x4" };
      case "loadSplat":
        return { k: "loadSplat", ptr: expr(), offset: readOffset(c), type: "f32x4" };
      case "fma":
        return { k: "fma", a: expr(), b: next(expr), c: next(expr), type };
      case "fastMin":
      case "fastMax":
        return { k: "fastMinMax", op: name === "fastMin" ? "min" : "max", a: expr(), b: next(expr), type };
      case "select":
        return { k: "select", cond: expr(), a: next(expr), b: next(expr), type };
      case "convert": {
        const to = readType(c);
        return { k: "convert", a: next(expr), type: to };
      }
      case "bitcast":
        return { k: "bitcast", a: expr(), type };
      case "splat":
        return { k: "splat", a: expr(), type: "f32x4" };
      case "lane":
        return { k: "lane", a: expr(), lane: next(() => c.int()), type };
      case "shuffle":
        return { k: "shuffle", a: expr(), b: next(expr), lanes: next(() => lanes(c)), type };
      case "across": {
        const op = c.word();
        return isOneOf(acrossOps, op) ? { k: "across", op, a: next(expr), type } : c.fail("add, min, max or mul before this");
      }
      default:
        return c.fail(`an operation before this; ${name} is none`);
    }
  }

  /** With the type that the text does not say. */
  #typed(e: ImpExpr): ImpExpr {
    return withType(e, this.declared.typeOf(e));
  }
}

/** The text gives types to expressions that cannot have them only where the function it was made from did. */
function withType(e: ImpExpr, type: ImpType): ImpExpr {
  return e.k === "dim" ? e : ({ ...e, type } as ImpExpr);
}

function numbers(c: Cursor): number | readonly number[] {
  return c.take("[") ? c.list("]", () => c.number()) : c.number();
}

function lanes(c: Cursor): readonly [number, number, number, number] {
  c.need("[");
  const [w, x, y, z, ...more] = c.list("]", () => c.int());
  if (w === undefined || x === undefined || y === undefined || z === undefined || more.length > 0) return c.fail("four lanes before this");
  return [w, x, y, z];
}
