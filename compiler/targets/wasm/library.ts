// Functions that kernels call instead of inlining: sin, cos, pow and the floor remainder, one f32 at a time in
// float64, where a short series is exact enough. Written as small expression trees and emitted as WebAssembly.

import { Code, f32, f64, i32 as int, type ValueType, type WasmFunction } from "./encoder.ts";
import { op, saturating } from "./opcodes.ts";

export type LibraryName = "sin" | "cos" | "pow" | "mod";

/** Arguments of each, all f32. */
const arity: Readonly<Record<LibraryName, number>> = { sin: 1, cos: 1, pow: 2, mod: 2 };

/** Stack code over f64 locals: a function that emits. */
type Emit = (c: Code) => void;

const num =
  (value: number): Emit =>
  (c) =>
    void c.f64(value);
const local =
  (index: number): Emit =>
  (c) =>
    void c.get(index);
const two =
  (opcode: number) =>
  (a: Emit, b: Emit): Emit =>
  (c) => {
    a(c);
    b(c);
    c.op(opcode);
  };
const one =
  (opcode: number) =>
  (a: Emit): Emit =>
  (c) => {
    a(c);
    c.op(opcode);
  };
const add = two(op.f64_add);
const sub = two(op.f64_sub);
const mul = two(op.f64_mul);
const div = two(op.f64_div);
const lt = two(op.f64_lt);
const le = two(op.f64_le);
const eq = two(op.f64_eq);
const ne = two(op.f64_ne);
const and = two(op.i32_and);
const or = two(op.i32_or);
const floor = one(op.f64_floor);
const nearest = one(op.f64_nearest);
const neg = one(op.f64_neg);
const abs = one(op.f64_abs);
const choose =
  (cond: Emit, a: Emit, b: Emit): Emit =>
  (c) => {
    a(c);
    b(c);
    cond(c);
    c.op(op.select);
  };
const poly = (x: Emit, coefficients: readonly number[]): Emit =>
  coefficients.slice(1).reduce<Emit>((sum, k) => add(mul(sum, x), num(k)), num(coefficients[0] ?? 0));

/** A function body under construction: f32 arguments promoted to f64 locals, then named values. */
class Body {
  readonly code: Code;
  readonly args: readonly Emit[];
  constructor(params: number) {
    this.code = new Code(params);
    this.args = Array.from({ length: params }, (_, i) => {
      const l = this.code.local(f64);
      this.code.get(i).op(op.f64_promote_f32).set(l);
      return local(l);
    });
  }
  keep(value: Emit, type: ValueType = f64): Emit {
    const l = this.code.local(type);
    value(this.code);
    this.code.set(l);
    return local(l);
  }
  result(value: Emit): Uint8Array {
    value(this.code);
    this.code.op(op.f32_demote_f64);
    return this.code.body();
  }
}

const halfPi = [1.57079632673412561417, 6.0771005063039659766e-11, 2.02226624879595063154e-21] as const;

/** Quadrant and remainder of x by π/2 in three parts (fdlibm's split, exact for |x| < 2^20·π/2; beyond, errors grow with |x|). */
function trigonometric(cosine: boolean): Uint8Array {
  const b = new Body(1);
  const x = b.args[0] ?? num(0);
  const k = b.keep(nearest(mul(x, num(0.63661977236758134308))));
  const r = b.keep(sub(sub(sub(x, mul(k, num(halfPi[0]))), mul(k, num(halfPi[1]))), mul(k, num(halfPi[2]))));
  const s = b.keep(mul(r, r));
  const sine = b.keep(
    mul(
      r,
      poly(
        s,
        [
          1.5896230157654656806e-10, -2.50507477628578072866e-8, 2.75573136213857245213e-6, -1.98412698295895385996e-4,
          8.33333333332211858878e-3, -1.66666666666666307295e-1, 1,
        ],
      ),
    ),
  );
  const cos = b.keep(
    poly(
      s,
      [
        -1.135853652138768173e-11, 2.08757008419747316778e-9, -2.75573141792967388112e-7, 2.48015872888517045348e-5,
        -1.38888888888730564116e-3, 4.16666666666665929218e-2, -0.5, 1,
      ],
    ),
  );
  const turn = b.keep((c) => {
    k(c);
    c.op(0xfc)
      .op(saturating.i32_trunc_sat_f64_s)
      .i32(cosine ? 1 : 0)
      .op(op.i32_add);
  }, int);
  const bit =
    (mask: number): Emit =>
    (c) => {
      turn(c);
      c.i32(mask).op(op.i32_and);
    };
  const value = b.keep(choose(bit(1), cos, sine));
  const signed = choose(bit(2), neg(value), value);
  // Infinities give infinity - infinity, which is NaN. The reduction loses the sign of -0.
  return b.result(cosine ? signed : choose(eq(x, num(0)), x, signed));
}

/** a - b·floor(a/b), with the sign of b; the quotient's rounding is mended once. */
function remainder(): Uint8Array {
  const b = new Body(2);
  const [x = num(0), y = num(0)] = b.args;
  const q = b.keep(floor(div(x, y)));
  const r = b.keep(sub(x, mul(q, y)));
  const wrong = and(ne(r, num(0)), or(and(lt(r, num(0)), lt(num(0), y)), and(lt(num(0), r), lt(y, num(0)))));
  const low = b.keep(choose(wrong, add(r, y), r));
  const high = b.keep(choose(le(abs(y), abs(low)), sub(low, y), low));
  // A finite number by an infinity: itself, or the infinity when the signs differ.
  const infinite = and(eq(abs(y), num(Infinity)), lt(abs(x), num(Infinity)));
  const across = and(ne(x, num(0)), (c) => {
    lt(x, num(0))(c);
    lt(y, num(0))(c);
    c.op(op.i32_ne);
  });
  // A remainder of zero has the sign of the dividend.
  return b.result(choose(infinite, choose(across, y, x), choose(eq(high, num(0)), mul(x, num(0)), high)));
}

/** x^y = e^{y·ln|x|} in float64, with IEEE's special cases. */
function power(): Uint8Array {
  const b = new Body(2);
  const [x = num(0), y = num(0)] = b.args;
  const a = b.keep(abs(x));
  // |x| as m·2^e with m in [1, 2): every f32, denormal or not, is a normal f64.
  const bits = b.code.local(0x7e as ValueType);
  a(b.code);
  b.code.op(0xbd).set(bits);
  const e = b.keep((c) => {
    c.get(bits);
    c.op(0x42).op(52).op(0x88).op(0xa7).i32(1023).op(op.i32_sub).op(op.f64_convert_i32_s);
  });
  const m0 = b.keep((c) => {
    c.get(bits);
    // (bits & 0x000fffffffffffff) | 0x3ff0000000000000
    c.op(0x42);
    c.bytes.all([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x07]);
    c.op(0x83).op(0x42);
    c.bytes.all([0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0xf8, 0x3f]);
    c.op(0x84).op(0xbf);
  });
  const high = b.keep(lt(num(Math.SQRT2), m0), int);
  const m = b.keep(choose(high, mul(m0, num(0.5)), m0));
  const exponent = b.keep(choose(high, add(e, num(1)), e));
  const f = b.keep(div(sub(m, num(1)), add(m, num(1))));
  const s = b.keep(mul(f, f));
  const series = poly(s, [1 / 17, 1 / 15, 1 / 13, 1 / 11, 1 / 9, 1 / 7, 1 / 5, 1 / 3, 1]);
  const log = b.keep(add(mul(exponent, num(Math.LN2)), mul(mul(num(2), f), series)));
  const t = b.keep(mul(y, log));
  // Beyond ±200 the f32 result is 0 or infinity.
  const u = b.keep(choose(lt(t, num(-200)), num(-200), choose(lt(num(200), t), num(200), t)));
  const n = b.keep(nearest(mul(u, num(Math.LOG2E))));
  const r = b.keep(sub(u, mul(n, num(Math.LN2))));
  const factorial = [479001600, 39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2, 1, 1];
  const mantissa = b.keep(
    poly(
      r,
      factorial.map((k) => 1 / k),
    ),
  );
  const scale: Emit = (c) => {
    n(c);
    c.op(0xfc).op(saturating.i32_trunc_sat_f64_s).i32(1023).op(op.i32_add).op(0xac).op(0x42).op(52).op(0x86).op(0xbf);
  };
  const size = b.keep(mul(mantissa, scale));
  const whole = b.keep(eq(floor(y), y), int);
  const odd = b.keep(and(whole, ne(mul(num(2), floor(mul(y, num(0.5)))), y)), int);
  const negative = b.keep(lt(x, num(0)), int);
  const minusZero = (c: Code): void => {
    // 1/x < 0 for -0.
    and(eq(x, num(0)), lt(div(num(1), x), num(0)))(c);
  };
  const signed = b.keep(choose(and(negative, odd), neg(size), size));
  const defined = b.keep(
    choose(
      and(and(negative, lt(a, num(Infinity))), (c) => {
        whole(c);
        c.op(op.i32_eqz);
      }),
      num(NaN),
      signed,
    ),
  );
  const flip = or(and(negative, odd), and(minusZero, odd));
  const zeroBase = choose(lt(y, num(0)), choose(flip, num(-Infinity), num(Infinity)), choose(flip, num(-0), num(0)));
  const infiniteBase = choose(lt(y, num(0)), choose(flip, num(-0), num(0)), choose(flip, num(-Infinity), num(Infinity)));
  const based = b.keep(choose(eq(a, num(0)), zeroBase, choose(eq(a, num(Infinity)), infiniteBase, defined)));
  // y = ±inf: by |x| against 1, and 1 where |x| is 1.
  const grows = (c: Code): void => {
    lt(num(1), a)(c);
    lt(y, num(0))(c);
    c.op(op.i32_ne);
  };
  const infinitePower = choose(eq(a, num(1)), num(1), choose(grows, num(Infinity), num(0)));
  const powered = b.keep(choose(eq(abs(y), num(Infinity)), infinitePower, based));
  const anyNaN = or(ne(x, x), ne(y, y));
  // Anything to the power 0, NaN too, and 1 to any power, NaN too, is 1.
  return b.result(choose(or(eq(y, num(0)), eq(x, num(1))), num(1), choose(anyNaN, num(NaN), powered)));
}

export function libraryFunction(name: LibraryName): WasmFunction {
  const bodies: Readonly<Record<LibraryName, () => Uint8Array>> = {
    sin: () => trigonometric(false),
    cos: () => trigonometric(true),
    pow: power,
    mod: remainder,
  };
  return { params: Array.from({ length: arity[name] }, () => f32), results: [f32], body: bodies[name]() };
}
