// Transcendental functions as polynomials over operations that every target has, for f32 and f32x4 alike. Each
// says its range reduction and source of coefficients. NaN, infinities, signed zeros and denormals follow the
// float64 function rounded to f32; errors are at most 4 units in the last place (spec/conformance).

import { typeOfImp } from "../ir/imp/build.ts";
import type { ImpBinary, ImpExpr, ImpUnary } from "../ir/imp/types.ts";

interface Expansion {
  /** Evaluated in order; each may use those before it. */
  readonly lets: readonly { readonly name: string; readonly value: ImpExpr }[];
  readonly result: ImpExpr;
}

/** Ops with an expansion here. The others are instructions, or functions of library.ts. */
type Expanded = Extract<ImpUnary, "exp" | "log" | "tanh" | "erf" | "rsqrt" | "sign">;

type Float = "f32" | "f32x4";

/** Builds expressions over one float type and its integer twin. */
class Builder {
  readonly lets: { name: string; value: ImpExpr }[] = [];
  private readonly float: Float;
  private readonly integer: "i32" | "i32x4";
  private readonly fresh: () => string;

  constructor(float: Float, fresh: () => string) {
    this.float = float;
    this.integer = float === "f32" ? "i32" : "i32x4";
    this.fresh = fresh;
  }

  keep(value: ImpExpr): ImpExpr {
    const name = this.fresh();
    this.lets.push({ name, value });
    return { k: "var", name, type: typeOfImp(value) };
  }

  f = (value: number): ImpExpr => ({ k: "const", type: this.float, value });
  i = (value: number): ImpExpr => ({ k: "const", type: this.integer, value });
  private both(op: ImpBinary, a: ImpExpr, b: ImpExpr): ImpExpr {
    return { k: "binary", op, a, b, type: typeOfImp(a) };
  }
  add = (a: ImpExpr, b: ImpExpr): ImpExpr => this.both("add", a, b);
  sub = (a: ImpExpr, b: ImpExpr): ImpExpr => this.both("sub", a, b);
  mul = (a: ImpExpr, b: ImpExpr): ImpExpr => this.both("mul", a, b);
  div = (a: ImpExpr, b: ImpExpr): ImpExpr => this.both("div", a, b);
  bits = (op: "bitand" | "bitor" | "shl" | "shr", a: ImpExpr, b: ImpExpr): ImpExpr => this.both(op, a, b);
  fma = (a: ImpExpr, b: ImpExpr, c: ImpExpr): ImpExpr => ({ k: "fma", a, b, c, type: this.float });
  un = (op: ImpUnary, a: ImpExpr): ImpExpr => ({ k: "unary", op, a, type: this.float });
  less = (a: ImpExpr, b: ImpExpr): ImpExpr => ({ k: "binary", op: "lt", a, b, type: this.float === "f32" ? "bool" : "i32x4" });
  same = (a: ImpExpr, b: ImpExpr): ImpExpr => ({ k: "binary", op: "eq", a, b, type: this.float === "f32" ? "bool" : "i32x4" });
  choose = (cond: ImpExpr, a: ImpExpr, b: ImpExpr): ImpExpr => ({ k: "select", cond, a, b, type: typeOfImp(a) });
  toInt = (a: ImpExpr): ImpExpr => ({ k: "convert", a, type: this.integer });
  toFloat = (a: ImpExpr): ImpExpr => ({ k: "convert", a, type: this.float });
  asInt = (a: ImpExpr): ImpExpr => ({ k: "bitcast", a, type: this.integer });
  asFloat = (a: ImpExpr): ImpExpr => ({ k: "bitcast", a, type: this.float });
  /** Keeps NaN of `a`. */
  atMost = (a: ImpExpr, b: number): ImpExpr => ({ k: "fastMinMax", op: "min", a, b: this.f(b), type: this.float });
  atLeast = (a: ImpExpr, b: number): ImpExpr => ({ k: "fastMinMax", op: "max", a, b: this.f(b), type: this.float });
  /** Horner's scheme that goes on from a sum. */
  polyFrom = (sum: ImpExpr, x: ImpExpr, coefficients: readonly number[]): ImpExpr =>
    coefficients.reduce((a, c) => this.fma(a, x, this.f(c)), sum);
  /** Horner's scheme, highest coefficient first. */
  poly = (x: ImpExpr, coefficients: readonly number[]): ImpExpr =>
    coefficients.slice(1).reduce((sum, c) => this.fma(sum, x, this.f(c)), this.f(coefficients[0] ?? 0));
}

/** `op(x)` over basic operations; `x` must be cheap to repeat (a variable). */
export function expand(op: Expanded, x: ImpExpr, type: Float, fresh: () => string): Expansion {
  const b = new Builder(type, fresh);
  const result = expansions[op](b, x);
  return { lets: b.lets, result };
}

const expansions: Readonly<Record<Expanded, (b: Builder, x: ImpExpr) => ImpExpr>> = {
  // e^x = 2^n · e^r, n = round(x·log2 e), |r| ≤ ln2/2; degree-5 remainder (Cephes expf). 2^n in two factors, so
  // that results below the normal range and just above the largest round as they should.
  exp: (b, x) => {
    const c = b.keep(b.atLeast(b.atMost(x, 89), -104));
    const n = b.keep(b.un("round", b.mul(c, b.f(1.44269504088896341))));
    const r = b.keep(b.fma(n, b.f(2.1219444e-4), b.fma(n, b.f(-0.693359375), c)));
    const p = b.poly(r, [1.98756915e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1]);
    const y = b.keep(b.add(b.fma(p, b.mul(r, r), r), b.f(1)));
    const whole = b.keep(b.toInt(n));
    const half = b.keep(b.bits("shr", whole, b.i(1)));
    const power = (k: ImpExpr): ImpExpr => b.asFloat(b.bits("shl", b.add(k, b.i(127)), b.i(23)));
    return b.mul(b.mul(y, power(half)), power(b.sub(whole, half)));
  },
  // ln x = e·ln2 + ln m, m in [√½, √2) (Cephes logf).
  log: (b, x) => {
    const small = b.keep(b.less(x, b.f(1.17549435e-38)));
    const scaled = b.keep(b.asInt(b.choose(small, b.mul(x, b.f(8388608)), x)));
    const mantissa = b.keep(b.asFloat(b.bits("bitor", b.bits("bitand", scaled, b.i(0x007fffff)), b.i(0x3f000000))));
    const low = b.keep(b.less(mantissa, b.f(0.707106781186547524)));
    const e0 = b.sub(b.bits("shr", scaled, b.i(23)), b.choose(small, b.i(149), b.i(126)));
    const e = b.keep(b.toFloat(b.sub(e0, b.choose(low, b.i(1), b.i(0)))));
    const m = b.keep(b.sub(b.choose(low, b.add(mantissa, mantissa), mantissa), b.f(1)));
    const z = b.keep(b.mul(m, m));
    const p = b.poly(
      m,
      [
        7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1,
        -2.4999993993e-1, 3.3333331174e-1,
      ],
    );
    const y = b.keep(b.fma(z, b.f(-0.5), b.fma(e, b.f(-2.1219444e-4), b.mul(b.mul(m, z), p))));
    const finite = b.keep(b.fma(e, b.f(0.693359375), b.add(m, y)));
    // x ≥ 0 is false for NaN too.
    const defined = b.choose(b.less(x, b.f(Infinity)), finite, x);
    const positive = b.choose(b.same(x, b.f(0)), b.f(-Infinity), defined);
    return b.choose(b.less(x, b.f(0)), b.f(NaN), positive);
  },
  // Near zero an odd polynomial (Cephes tanhf); elsewhere 1 - 2/(e^{2|x|} + 1) with the sign of x.
  tanh: (b, x) => {
    const a = b.keep(b.un("abs", x));
    const s = b.keep(b.mul(x, x));
    const p = b.poly(s, [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1]);
    // The sum would lose the sign of -0; the result has x's sign anyway.
    const near = b.keep(b.asFloat(b.bits("bitor", b.asInt(b.fma(b.mul(p, s), x, x)), b.bits("bitand", b.asInt(x), b.i(-2147483648)))));
    const t = b.keep(b.sub(b.f(1), b.div(b.f(2), b.add(b.un("exp", b.add(a, a)), b.f(1)))));
    return b.choose(b.less(a, b.f(0.625)), near, b.choose(b.less(x, b.f(0)), b.un("neg", t), t));
  },
  // Two ranges; beyond 475/512, 1 - e^{q(|x|)} (minimax coefficients published by N. Juffa, 2012-2021).
  erf: (b, x) => {
    const t = b.keep(b.un("abs", x));
    const s = b.keep(b.mul(x, x));
    const r1 = b.fma(b.f(-1.7285347e-5), t, b.f(3.83197126e-4));
    const u = b.fma(b.f(-3.88396438e-3), t, b.f(2.42546219e-2));
    const q = b.keep(b.polyFrom(b.fma(r1, s, u), t, [-1.06777877e-1, -6.34846687e-1, -1.28717512e-1]));
    const far = b.keep(b.sub(b.f(1), b.un("exp", b.fma(q, t, b.un("neg", t)))));
    const p = b.poly(s, [-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1]);
    const near = b.keep(b.fma(p, x, x));
    return b.choose(b.less(b.f(0.927734375), t), b.choose(b.less(x, b.f(0)), b.un("neg", far), far), near);
  },
  rsqrt: (b, x) => b.div(b.f(1), b.un("sqrt", x)),
  // Zeros keep their sign and NaN stays.
  sign: (b, x) => b.choose(b.less(b.f(0), x), b.f(1), b.choose(b.less(x, b.f(0)), b.f(-1), x)),
};

export function isExpanded(op: ImpUnary): op is Expanded {
  return Object.hasOwn(expansions, op);
}
