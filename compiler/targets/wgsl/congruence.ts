// What is known of integers modulo powers of two: which accesses of four neighbours begin at a multiple of four. Looks at
// a whole function at once, without the order of its statements. Knows nothing about sizes.

import type { ImpExpr, ImpFunction, ImpStmt } from "../../ir/imp/types.ts";

/** The number is `rest` + a multiple of `modulus`, a power of two; 0 ≤ rest < modulus. */
export interface Congruence {
  readonly modulus: number;
  readonly rest: number;
}

const most = 65536;
const anything: Congruence = { modulus: 1, rest: 0 };

function make(modulus: number, rest: number): Congruence {
  return { modulus, rest: ((rest % modulus) + modulus) % modulus };
}

/** The largest power of two that divides `n`, at most `most`. */
function power(n: number): number {
  if (n === 0) return most;
  const low = n & -n;
  return low <= 0 || low > most ? most : low;
}

/** What holds of both. */
function join(a: Congruence | undefined, b: Congruence | undefined): Congruence | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  return make(Math.min(a.modulus, b.modulus, power(a.rest - b.rest)), a.rest);
}

/** What is known of every integer and pointer (as an index) of one function. */
export class Congruences {
  /** Nothing yet: what has not been reached. */
  readonly #locals = new Map<string, Congruence>();
  #changed = true;

  constructor(fn: ImpFunction) {
    this.#locals.set(fn.unit, anything);
    if (fn.lane !== undefined) this.#locals.set(fn.lane, anything);
    while (this.#changed) {
      this.#changed = false;
      this.#block(fn.body);
    }
  }

  /** Undefined for what never gets a value. */
  of(e: ImpExpr): Congruence | undefined {
    switch (e.k) {
      case "const":
        return e.type === "i32" && typeof e.value === "number" ? make(most, e.value) : anything;
      case "var":
        return this.#locals.get(e.name);
      case "at":
        return this.of(e.index);
      case "advance":
        return sum(this.of(e.ptr), this.of(e.elements), 1);
      case "select":
        return join(this.of(e.a), this.of(e.b));
      case "binary":
        return this.#binary(e);
      case "dim":
      case "load":
      case "loadSplat":
      case "unary":
      case "fma":
      case "fastMinMax":
      case "convert":
      case "bitcast":
      case "splat":
      case "lane":
      case "shuffle":
      case "halves":
      case "across":
        return anything;
      default:
        return e satisfies never;
    }
  }

  #binary(e: Extract<ImpExpr, { k: "binary" }>): Congruence | undefined {
    const [a, b] = [this.of(e.a), this.of(e.b)];
    if (a === undefined || b === undefined) return undefined;
    switch (e.op) {
      case "add":
        return sum(a, b, 1);
      case "sub":
        return sum(a, b, -1);
      case "mul":
        return product(a, b);
      case "shl":
        return b.modulus === most ? product(a, make(most, 2 ** (b.rest & 31))) : anything;
      case "bitand":
        return make(Math.max(...[a, b].map((x) => (x.rest === 0 ? x.modulus : power(x.rest)))), 0);
      case "min":
      case "max":
        return join(a, b);
      default:
        return anything;
    }
  }

  /** Moduli only become smaller, so this ends. */
  #learn(name: string, value: Congruence | undefined): void {
    const known = this.#locals.get(name);
    const next = join(known, value);
    if (next === undefined || (known?.modulus === next.modulus && known.rest === next.rest)) return;
    this.#locals.set(name, next);
    this.#changed = true;
  }

  #block(body: readonly ImpStmt[]): void {
    for (const s of body) {
      switch (s.k) {
        case "let":
        case "assign":
        case "uniform":
          this.#learn(s.name, this.of(s.value));
          break;
        case "for": {
          const from = this.of(s.from);
          if (from !== undefined) this.#learn(s.name, make(Math.min(from.modulus, power(s.step)), from.rest));
          this.#block(s.body);
          break;
        }
        case "exchange":
          this.#learn(s.name, anything);
          break;
        case "while":
          this.#block(s.body);
          break;
        case "if":
          this.#block(s.then);
          this.#block(s.else);
          break;
        default:
      }
    }
  }
}

function sum(a: Congruence | undefined, b: Congruence | undefined, sign: 1 | -1): Congruence | undefined {
  if (a === undefined || b === undefined) return undefined;
  return make(Math.min(a.modulus, b.modulus), a.rest + sign * b.rest);
}

/** (ra + ma·i)·(rb + mb·j) = ra·rb + multiples of ma·mb, ma·rb and mb·ra. */
function product(a: Congruence, b: Congruence): Congruence {
  const modulus = Math.min(most, a.modulus * b.modulus, a.modulus * power(b.rest), b.modulus * power(a.rest));
  return make(modulus, a.rest * b.rest);
}
