// Reads expressions as expr-text.ts writes them.

import type { Cursor } from "../cursor.ts";
import { constantStart, readBinary, readConstant } from "../operators.ts";
import type { Declared } from "./expr-text.ts";
import { binaryOps, foldOps, scalarTypes, unaryOps } from "./ops.ts";
import type { Expr, FoldOp, ScalarType, UnaryOp } from "./types.ts";

/** More levels of nesting than are written on one line: text with more is refused before the stack is full. */
const maximumDepth = 200;

function isOneOf<T extends string>(all: readonly T[], word: string): word is T {
  return (all as readonly string[]).includes(word);
}

export class ExprReader {
  readonly declared: Declared;
  readonly #definitions = new Map<number, Expr>();
  #depth = 0;

  constructor(declared: Declared) {
    this.declared = declared;
  }

  /** What follows `%` on a definition's line. */
  definition(c: Cursor): void {
    const number = c.int();
    c.need("=");
    this.#definitions.set(number, this.expr(c));
  }

  expr(c: Cursor): Expr {
    return readBinary(
      c,
      0,
      () => this.#primary(c),
      (op, a, b) => (isOneOf(binaryOps, op) ? this.#typed({ k: "binary", op, a, b, type: "f32" }) : c.fail("an operation of kernels")),
    );
  }

  load(c: Cursor): Extract<Expr, { k: "load" }> {
    const e = this.expr(c);
    return e.k === "load" ? e : c.fail("a load");
  }

  scalarType(c: Cursor): ScalarType {
    const word = c.word();
    return isOneOf(scalarTypes, word) ? word : c.fail("f32, i32 or bool");
  }

  #primary(c: Cursor): Expr {
    if (++this.#depth > maximumDepth) c.fail(`an expression of at most ${maximumDepth} levels`);
    const e = this.#unnested(c);
    this.#depth--;
    return e;
  }

  #unnested(c: Cursor): Expr {
    if (c.take("(")) {
      const e = this.expr(c);
      c.need(")");
      return c.take(":") ? withType(e, this.scalarType(c)) : e;
    }
    if (c.take("%")) return this.#definitions.get(c.int()) ?? c.fail("a definition that stands before");
    if (c.take("{")) {
      const dim = c.dim();
      c.need("}");
      return { k: "dim", dim };
    }
    if (c.sees(constantStart)) return { k: "const", ...readConstant(c) };
    const typed = c.match(/(?:f32|i32|bool)#/y);
    if (typed !== undefined) return { k: "const", type: typed.slice(0, -1) as ScalarType, value: c.number() };
    return this.#named(c);
  }

  #named(c: Cursor): Expr {
    const quoted = c.sees(/"/y);
    const name = c.name();
    if (c.take("[")) {
      const index = this.expr(c);
      c.need("]");
      return this.#typed({ k: "load", buffer: name, index, type: "f32" });
    }
    return !quoted && c.take("(") ? this.#call(c, name) : this.#typed({ k: "var", name, type: "i32" });
  }

  #call(c: Cursor, name: string): Expr {
    if (isOneOf(foldOps, name) && c.sees(foldStart)) return this.#fold(c, name);
    if (name === "iterate" && c.sees(foldStart)) return this.#iterate(c);
    const parts = c.list(")", () => this.expr(c));
    const [a, b, d] = parts;
    if (a !== undefined && parts.length === 1) {
      if (isOneOf(scalarTypes, name)) return { k: "cast", a, type: name };
      if (isOneOf(unaryOps, name)) return this.#unary(name, a);
      if (name === "bitcast") return this.#typed({ k: "bitcast", a, type: "f32" });
    }
    if (a !== undefined && b !== undefined && parts.length === 2 && isOneOf(binaryOps, name))
      return this.#typed({ k: "binary", op: name, a, b, type: "f32" });
    if (a !== undefined && b !== undefined && d !== undefined && parts.length === 3 && name === "select")
      return this.#typed({ k: "select", cond: a, a: b, b: d, type: "f32" });
    return c.fail(`an operation ${name} of ${parts.length} operands before this`);
  }

  #unary(op: UnaryOp, a: Expr): Expr {
    return this.#typed({ k: "unary", op, a, type: "f32" });
  }

  #fold(c: Cursor, op: FoldOp): Expr {
    const axis = c.name();
    c.need("=");
    const from = this.expr(c);
    c.need("..");
    const to = this.expr(c);
    c.need(",");
    const body = this.expr(c);
    c.need(")");
    return this.#typed({ k: "fold", op, axis, from, to, body, type: "f32" });
  }

  #iterate(c: Cursor): Expr {
    const name = c.name();
    c.need("=");
    const init = this.expr(c);
    c.need(",");
    const axis = c.name();
    c.need("=");
    const steps = c.int();
    c.need(",");
    const body = this.expr(c);
    c.need(")");
    return this.#typed({ k: "iterate", name, axis, steps, init, body, type: "f32" });
  }

  /** With the type that the text does not say. */
  #typed(e: Expr): Expr {
    return withType(e, this.declared.typeOf(e));
  }
}

/** `axis = …`, but not `axis == …`. */
const foldStart = /(?:"(?:[^"\\]|\\.)*"|[A-Za-z_][\w$.]*) *=(?!=)/y;

function withType(e: Expr, type: ScalarType): Expr {
  // Bits are never taken for a bool's; text that says so is refused where the kernel is verified.
  if (e.k === "bitcast") return { ...e, type: type === "i32" ? "i32" : "f32" };
  return e.k === "dim" ? e : { ...e, type };
}
