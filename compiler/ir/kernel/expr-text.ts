// Expressions of kernels as text. What occurs more than once is written once, as a numbered definition
// (`%3 = …`), so that the text is linear in the number of different expressions; what is very deep is cut into
// definitions too. A definition stands for its text: names in it mean what they mean where it is used, axes of folds
// around it included. Types are written only where they are not what operands, buffers and earlier `let`s say.
//
// `4` is an i32 constant, `4.0` an f32 one, `{T + 1}` a size, `x[i]` a load, `f32(e)` a conversion.

import { binaryText, constantText } from "../operators.ts";
import { nameText } from "../text.ts";
import { binaryGives, bitcastGives, operandsOf, typeOfExpr } from "./build.ts";
import { Interner } from "./intern.ts";
import { scalarTypeOf, type Expr, type KernelBuffer, type ScalarType } from "./types.ts";

/** What names have for types without further words: buffers by their dtype, `let`s as declared, all else i32. */
export class Declared {
  readonly #buffers: ReadonlyMap<string, ScalarType>;
  readonly #lets = new Map<string, ScalarType>();

  constructor(buffers: readonly KernelBuffer[]) {
    this.#buffers = new Map(buffers.map((b) => [b.name, scalarTypeOf(b.dtype)]));
  }

  let(name: string, type: ScalarType): void {
    this.#lets.set(name, type);
  }

  /** The type of `e` when nothing is said about it. */
  typeOf(e: Expr): ScalarType {
    switch (e.k) {
      case "const":
      case "cast":
        return e.type;
      case "dim":
        return "i32";
      case "var":
        return this.#lets.get(e.name) ?? "i32";
      case "load":
        return this.#buffers.get(e.buffer) ?? "f32";
      case "unary":
        return typeOfExpr(e.a);
      case "bitcast":
        return bitcastGives(typeOfExpr(e.a));
      case "binary":
        return binaryGives(e.op, typeOfExpr(e.a));
      case "select":
        return typeOfExpr(e.a);
      case "fold":
        return typeOfExpr(e.body);
      case "iterate":
        return typeOfExpr(e.init);
      default:
        return e satisfies never;
    }
  }
}

const isLeaf = (e: Expr): boolean => operandsOf(e).length === 0;
/** Short enough to be written again each time. */
const isShort = (e: Expr): boolean => isLeaf(e) || (e.k === "load" && isLeaf(e.index)) || (e.k === "cast" && isLeaf(e.a));

/** An expression on one line, for messages; long text is cut. */
export function exprText(e: Expr, buffers: readonly KernelBuffer[], limit = 100): string {
  const writer = new ExprWriter(buffers);
  writer.count(e);
  const lines: string[] = [];
  const text = [writer.text(e, lines), ...lines].join(", ");
  return text.length > limit ? `${text.slice(0, limit)}…` : text;
}

/** Operations nested on one line; what is nested more deeply is cut into definitions. */
const tallest = 32;

export class ExprWriter {
  readonly declared: Declared;
  readonly #interner = new Interner();
  readonly #uses = new Map<Expr, number>();
  readonly #heights = new Map<Expr, number>();
  readonly #numbers = new Map<Expr, number>();

  constructor(buffers: readonly KernelBuffer[]) {
    this.declared = new Declared(buffers);
  }

  /** Counts what occurs in `e`; every expression must have been counted before the first is written. */
  count(e: Expr): void {
    this.#count(this.#interner.intern(e));
  }

  #count(e: Expr): void {
    const uses = (this.#uses.get(e) ?? 0) + 1;
    this.#uses.set(e, uses);
    if (uses === 1) for (const part of operandsOf(e)) this.#count(part);
  }

  #isDefined(e: Expr): boolean {
    return ((this.#uses.get(e) ?? 0) > 1 && !isShort(e)) || this.#height(e) >= tallest;
  }

  /** How many operations are nested on the line where `e` is written; a definition is none. */
  #height(e: Expr): number {
    const before = this.#heights.get(e);
    if (before !== undefined) return before;
    let height = 0;
    for (const part of operandsOf(e)) height = Math.max(height, this.#isDefined(part) ? 1 : 1 + this.#height(part));
    this.#heights.set(e, height);
    return height;
  }

  /** The text of `e`. Definitions that it needs and that were not written yet are added to `lines`. */
  text(e: Expr, lines: string[]): string {
    return this.#text(this.#interner.intern(e), lines, 0);
  }

  #text(e: Expr, lines: string[], level: number): string {
    const known = this.#numbers.get(e);
    if (known !== undefined) return `%${known}`;
    const defined = this.#isDefined(e);
    const written = this.#typed(e, lines, defined ? 0 : level);
    if (!defined) return written;
    const number = this.#numbers.size;
    this.#numbers.set(e, number);
    lines.push(`%${number} = ${written}`);
    return `%${number}`;
  }

  #typed(e: Expr, lines: string[], level: number): string {
    const type = typeOfExpr(e);
    return this.declared.typeOf(e) === type ? this.#plain(e, lines, level) : `(${this.#plain(e, lines, 0)}):${type}`;
  }

  #plain(e: Expr, lines: string[], level: number): string {
    const call = (name: string, parts: readonly Expr[]): string => `${name}(${parts.map((p) => this.#text(p, lines, 0)).join(", ")})`;
    switch (e.k) {
      case "const":
        return constantText(e.type, e.value);
      case "var":
        return nameText(e.name);
      case "dim":
        return `{${e.dim.text}}`;
      case "load":
        return `${nameText(e.buffer)}[${this.#text(e.index, lines, 0)}]`;
      case "unary":
        return call(e.op, [e.a]);
      case "cast":
        return call(e.type, [e.a]);
      case "bitcast":
        return call("bitcast", [e.a]);
      case "binary":
        return binaryText(e.op, e.a, e.b, level, (part, at) => this.#text(part, lines, at));
      case "select":
        return call("select", [e.cond, e.a, e.b]);
      case "fold": {
        const [from, to, body] = [e.from, e.to, e.body].map((p) => this.#text(p, lines, 0));
        return `${e.op}(${nameText(e.axis)} = ${from} .. ${to}, ${body})`;
      }
      case "iterate": {
        const [init, body] = [e.init, e.body].map((p) => this.#text(p, lines, 0));
        return `iterate(${nameText(e.name)} = ${init}, ${nameText(e.axis)} = ${e.steps}, ${body})`;
      }
      default:
        return e satisfies never;
    }
  }
}
