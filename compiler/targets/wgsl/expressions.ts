// Expressions of Imp IR as text of WGSL. What WGSL cannot say within an expression (a choice of which only one side may be
// evaluated, a value that is used twice) becomes statements before it. A float operation whose result drivers are free to
// choose is a call into the library; see Note [Rewriting drivers].
//
// Note [Rewriting drivers]: compilers below WGSL take x·0 for 0, x - x for 0, (x + b) - b for x and !(a < b) for b <= a. So
// constants of float arithmetic and what is subtracted are combined with a zero that is computed from a uniform, and
// comparisons are of the bits. Functions of the library are written so that nothing of the kind matters (`plain`).

import { isPtr, isVector, typeOfImp } from "../../ir/imp/build.ts";
import { bitsOfFloat } from "../../ir/imp/scalar.ts";
import type { ImpBinary, ImpExpr, ImpType } from "../../ir/imp/types.ts";
import { operandsOf } from "../../ir/imp/verify-expr.ts";
import { comparisons } from "../../ir/operators.ts";
import { loadText, type Position, type Writer } from "./access.ts";

/** What expressions are written into. */
export interface Around extends Writer {
  /** A block around what `body` adds. */
  nested(open: string, body: () => void): void;
  fresh(hint: string): string;
  local(name: string): string;
  size(name: string): string;
  position(ptr: ImpExpr, offset: number): Position;
  /**
   * A float constant of these bits which no compiler knows, nor that what is added and what is `taken` away again is the
   * same; undefined in the library.
   */
  hiddenFloat(bits: number, taken: boolean): string | undefined;
  /** In the library: nothing is hidden. */
  readonly plain: boolean;
}

/** Subexpressions nested deeper than this get a name: parsers of WGSL stop somewhere beyond a hundred. */
const deepest = 24;

export function wgslType(type: ImpType): string {
  if (isPtr(type)) return "i32";
  return type === "f32x4" ? "vec4f" : type === "i32x4" ? "vec4i" : type;
}

const unsigned = (type: ImpType): string => (isVector(type) ? "vec4u" : "u32");
const isFloat = (type: ImpType): boolean => type === "f32" || type === "f32x4";
const width = (type: ImpType): string => (isVector(type) ? "4" : "1");

const signs = {
  add: "+",
  sub: "-",
  mul: "*",
  eq: "==",
  ne: "!=",
  lt: "<",
  le: "<=",
  gt: ">",
  ge: ">=",
  and: "&",
  or: "|",
  bitand: "&",
  bitor: "|",
  bitxor: "^",
} as const satisfies Partial<Readonly<Record<ImpBinary, string>>>;

export class Expressions {
  readonly #around: Around;
  #depth = 0;

  constructor(around: Around) {
    this.#around = around;
  }

  /** The value of `e` as an operand: a name, a call, or in parentheses. */
  text(e: ImpExpr): string {
    if (++this.#depth <= deepest) {
      const text = this.#plain(e);
      this.#depth--;
      return text;
    }
    const depth = this.#depth;
    this.#depth = 0;
    const name = this.#name(this.#plain(e), "t");
    this.#depth = depth - 1;
    return name;
  }

  #name(text: string, hint: string): string {
    const name = this.#around.fresh(hint);
    this.#around.line(`let ${name} = ${text};`);
    return name;
  }

  /** Operands of one operation. All constants together would be computed, and refused where they overflow, by WGSL. */
  #operands(...parts: readonly ImpExpr[]): string[] {
    const constant = parts.every((p) => p.k === "const");
    return parts.map((p, i) => (constant && i === 0 ? this.#name(this.text(p), "c") : this.text(p)));
  }

  /** As #operands, for arithmetic of floats. */
  #floats(...parts: readonly ImpExpr[]): string[] {
    if (this.#around.plain) return this.#operands(...parts);
    return parts.map((p) => (p.k === "const" ? this.#hidden(p) : this.text(p)));
  }

  /** A constant that compilers do not know. */
  #hidden(e: Extract<ImpExpr, { k: "const" }>, taken = false): string {
    const one = (x: number): string => this.#hiddenFloat(bitsOfFloat(x) >>> 0, taken);
    if (typeof e.value === "number") return e.type === "f32x4" ? `vec4f(${one(e.value)})` : one(e.value);
    return `vec4f(${e.value.map(one).join(", ")})`;
  }

  #hiddenFloat(bits: number, taken = false): string {
    return this.#around.hiddenFloat(bits, taken) ?? `bitcast<f32>(0x${bits.toString(16)}u ^ ${this.#around.call("hidden")}())`;
  }

  #float(x: number): string {
    const bits = bitsOfFloat(x) >>> 0;
    const exponent = (bits >>> 23) & 255;
    // What has no literal, or one that drivers may lose.
    if (exponent === 255 || (exponent === 0 && bits !== 0)) return this.#hiddenFloat(bits);
    const text = String(x);
    return `${x < 0 ? "(" : ""}${/[.e]/.test(text) ? text : `${text}.0`}f${x < 0 ? ")" : ""}`;
  }

  #constant(type: ImpType, value: number | readonly number[]): string {
    const one = (x: number): string => {
      if (type === "bool") return x === 0 ? "false" : "true";
      if (isFloat(type)) return this.#float(x);
      return x < 0 ? `i32(${x})` : String(x);
    };
    if (!isVector(type)) return one(typeof value === "number" ? value : (value[0] ?? 0));
    return `${wgslType(type)}(${typeof value === "number" ? one(value) : value.map(one).join(", ")})`;
  }

  #plain(e: ImpExpr): string {
    const around = this.#around;
    switch (e.k) {
      case "const":
        return this.#constant(e.type, e.value);
      case "var":
        return around.local(e.name);
      case "dim":
        return around.size(e.name);
      case "at":
        return this.text(e.index);
      case "advance":
        return `(${this.#operands(e.ptr, e.elements).join(" + ")})`;
      case "load":
      case "loadSplat":
        return loadText(around.position(e.ptr, e.offset), e.type, e.k === "loadSplat", around);
      case "unary":
        return this.#unary(e);
      case "binary":
        return this.#binary(e);
      case "fma": {
        const [a, b, c = ""] = this.#floats(e.a, e.b, e.c);
        // n·c1 + (n·c2 + x) must not become n·(c1 + c2) + x, as range reductions in the library have it.
        return `fma(${a}, ${b}, ${around.plain && e.c.k === "fma" ? this.#call("opaque", e.type, c) : c})`;
      }
      case "fastMinMax":
        return `${e.op}(${this.#operands(e.a, e.b).join(", ")})`;
      case "select":
        return this.#select(e);
      case "convert":
        return this.#convert(e);
      case "bitcast":
        return `bitcast<${wgslType(e.type)}>(${this.#operands(e.a).join("")})`;
      case "splat":
        return `${wgslType(e.type)}(${this.text(e.a)})`;
      case "lane":
        return `${this.text(e.a)}.${"xyzw".charAt(e.lane)}`;
      case "shuffle":
        return this.#shuffle(e);
      case "halves":
        return this.#halves(e);
      case "across":
        return `${around.call(`${e.op}Across${e.type === "f32" ? "" : "I"}`)}(${this.text(e.a)})`;
      default:
        return e satisfies never;
    }
  }

  #call(name: string, type: ImpType, ...args: readonly string[]): string {
    return `${this.#around.call(name + width(type))}(${args.join(", ")})`;
  }

  #unary(e: Extract<ImpExpr, { k: "unary" }>): string {
    const { op } = e;
    const type = typeOfImp(e.a);
    const [a = ""] = this.#operands(e.a);
    switch (op) {
      case "neg":
        return isFloat(type) && !this.#around.plain ? this.#call("neg", type, a) : `(-${a})`;
      case "not":
        return type === "bool" ? `(!${a})` : `(~${a})`;
      case "floor":
      case "ceil":
        return this.#around.plain ? `${op}(${a})` : this.#call(op, type, a);
      case "abs":
      case "round":
      case "trunc":
        return `${op}(${a})`;
      case "sign":
        return isFloat(type) ? this.#call("sign", type, a) : `sign(${a})`;
      case "sqrt":
        return this.#around.plain ? `sqrt(${a})` : this.#call("sqrt", type, a);
      case "exp":
      case "log":
      case "rsqrt":
      case "sin":
      case "cos":
      case "tanh":
      case "erf":
        return this.#call(op, type, a);
      default:
        return op satisfies never;
    }
  }

  #binary(e: Extract<ImpExpr, { k: "binary" }>): string {
    const type = typeOfImp(e.a);
    if (comparisons.has(e.op)) {
      const truth = this.#comparison(e, type);
      return isVector(type) ? `select(vec4i(0), vec4i(-1), ${truth})` : truth;
    }
    return isFloat(type) ? this.#float2(e, type) : this.#int2(e, type);
  }

  #comparison(e: Extract<ImpExpr, { k: "binary" }>, type: ImpType): string {
    const [a = "", b = ""] = this.#operands(e.a, e.b);
    if (!isFloat(type)) return `(${a} ${signs[e.op as "eq"]} ${b})`;
    if (e.op === "gt" || e.op === "ge") return this.#call(e.op === "gt" ? "lt" : "le", type, b, a);
    return this.#call(e.op, type, a, b);
  }

  #float2(e: Extract<ImpExpr, { k: "binary" }>, type: ImpType): string {
    const { op } = e;
    switch (op) {
      case "add":
      case "mul":
        return `(${this.#floats(e.a, e.b).join(` ${signs[op]} `)})`;
      case "sub": {
        if (this.#around.plain) return `(${this.#operands(e.a, e.b).join(" - ")})`;
        const [a = ""] = this.#floats(e.a);
        return `(${a} - ${e.b.k === "const" ? this.#hidden(e.b, true) : this.#call("opaque", type, this.text(e.b))})`;
      }
      case "div": {
        const [a = "", b = ""] = this.#operands(e.a, e.b);
        return this.#around.plain ? `(${a} / ${b})` : this.#call("div", type, a, b);
      }
      case "min":
      case "max":
      case "mod":
      case "pow":
        return this.#call(op, type, ...this.#operands(e.a, e.b));
      default:
        throw new Error(`${op} has no meaning on ${type}`);
    }
  }

  #int2(e: Extract<ImpExpr, { k: "binary" }>, type: ImpType): string {
    const { op } = e;
    switch (op) {
      case "add":
      case "sub":
      case "mul":
      case "and":
      case "or":
      case "bitand":
      case "bitor":
      case "bitxor":
        return `(${this.#operands(e.a, e.b).join(` ${signs[op]} `)})`;
      case "min":
      case "max":
        return `${op}(${this.#operands(e.a, e.b).join(", ")})`;
      case "shl":
      case "shr":
      case "shru":
        return this.#shift(e, type);
      case "div":
      case "mod":
        return this.#division(e, type);
      default:
        throw new Error(`${op} has no meaning on ${type}`);
    }
  }

  /** By the lowest five bits. */
  #shift(e: Extract<ImpExpr, { k: "binary" }>, type: ImpType): string {
    const u = unsigned(type);
    const [a = "", b = ""] = this.#operands(e.a, e.b);
    const by = e.b.k === "const" && typeof e.b.value === "number" ? `${u}(${e.b.value & 31}u)` : `(bitcast<${u}>(${b}) & ${u}(31u))`;
    if (e.op === "shru") return `bitcast<${wgslType(type)}>(bitcast<${u}>(${a}) >> ${by})`;
    return `(${a} ${e.op === "shl" ? "<<" : ">>"} ${by})`;
  }

  #division(e: Extract<ImpExpr, { k: "binary" }>, type: ImpType): string {
    const divisor = e.b.k === "const" && typeof e.b.value === "number" ? e.b.value : 0;
    const name = wgslType(type);
    const [a = "", b = ""] = this.#operands(e.a, e.b);
    if (divisor > 0 && e.op === "div") return `(${a} / ${name}(${divisor}))`;
    // Two's complement: the low bits are the floor remainder of negative numbers too.
    if (divisor > 0 && (divisor & (divisor - 1)) === 0) return `(${a} & ${name}(${divisor - 1}))`;
    return this.#call(e.op === "div" ? "idiv" : "imod", type, a, b);
  }

  /** A mask as truth values. */
  #truths(e: ImpExpr): string {
    if (e.k === "binary" && comparisons.has(e.op)) return this.#comparison(e, typeOfImp(e.a));
    return `(${this.text(e)} != vec4i(0))`;
  }

  #select(e: Extract<ImpExpr, { k: "select" }>): string {
    if (isVector(typeOfImp(e.cond))) {
      const [a, b] = [this.text(e.a), this.text(e.b)];
      return `select(${b}, ${a}, ${this.#truths(e.cond)})`;
    }
    if (!reads(e.a) && !reads(e.b)) {
      const [cond, a, b] = [this.text(e.cond), this.text(e.a), this.text(e.b)];
      return e.cond.k === "const" ? (e.cond.value === 0 ? b : a) : `select(${b}, ${a}, ${cond})`;
    }
    // What is not chosen may lie out of range.
    const cond = this.text(e.cond);
    const name = this.#around.fresh("chosen");
    const depth = this.#depth;
    this.#around.line(`var ${name}: ${wgslType(e.type)};`);
    for (const [open, side] of [
      [`if (${cond})`, e.a],
      ["else", e.b],
    ] as const) {
      this.#depth = 0;
      this.#around.nested(open, () => this.#around.line(`${name} = ${this.text(side)};`));
    }
    this.#depth = depth;
    return name;
  }

  #convert(e: Extract<ImpExpr, { k: "convert" }>): string {
    const from = typeOfImp(e.a);
    const [a = ""] = this.#operands(e.a);
    if (e.type === "bool") return from === "f32" ? this.#call("truth", from, a) : from === "bool" ? a : `(${a} != 0)`;
    if (isFloat(from) && !isFloat(e.type)) return this.#around.plain ? `${wgslType(e.type)}(${a})` : this.#call("int", from, a);
    return `${wgslType(e.type)}(${a})`;
  }

  #shuffle(e: Extract<ImpExpr, { k: "shuffle" }>): string {
    const all = (side: (lane: number) => boolean): boolean => e.lanes.every(side);
    const letters = (lane: number): string => "xyzw".charAt(lane & 3);
    if (all((lane) => lane < 4)) return `${this.text(e.a)}.${e.lanes.map(letters).join("")}`;
    if (all((lane) => lane >= 4)) return `${this.text(e.b)}.${e.lanes.map(letters).join("")}`;
    const around = this.#around;
    const [a, b] = [around.keep(this.text(e.a), "v"), around.keep(this.text(e.b), "v")];
    return `${wgslType(e.type)}(${e.lanes.map((lane) => `${lane < 4 ? a : b}.${letters(lane)}`).join(", ")})`;
  }

  #halves(e: Extract<ImpExpr, { k: "halves" }>): string {
    const args = e.args.map((a) => this.text(a));
    if (e.op === "dot16" || e.op === "narrow16") return `${this.#around.call(e.op)}(${args.join(", ")})`;
    const all = this.#around.keep(args.join(", "), "v");
    const bytes = this.#around.call(e.op.endsWith("i8") ? "bytesI" : "bytes");
    const [first, second] = e.op.startsWith("low") ? ["x", "y"] : ["z", "w"];
    return `vec4i(${bytes}(${all}.${first}), ${bytes}(${all}.${second}))`;
  }
}

/** Does evaluating `e` read memory? */
function reads(e: ImpExpr): boolean {
  if (e.k === "load" || e.k === "loadSplat") return true;
  return operandsOf(e).some(reads);
}
