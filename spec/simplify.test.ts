// Index arithmetic: what the simplifier makes of an expression has the same value at every point of the axes, floats
// stay as they are written, and the identities it knows are listed with what they give.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { dim, dimAdd, dimEval, dimMul, dimSymbol, type Dim, type DimEnv, type DimSymbol } from "../compiler/ir/dim.ts";
import * as b from "../compiler/ir/kernel/build.ts";
import { evalKernel } from "../compiler/ir/kernel/eval.ts";
import { exprText } from "../compiler/ir/kernel/expr-text.ts";
import { Simplifier } from "../compiler/ir/kernel/simplify.ts";
import type { Axis, Expr, Kernel, KernelBuffer } from "../compiler/ir/kernel/types.ts";
import { property } from "./conformance/property.ts";

const [T, N] = [dimSymbol("T"), dimSymbol("N")];
const symbols: readonly DimSymbol[] = [
  { name: "T", lower: 0, upper: 6 },
  { name: "N", lower: 1, upper: 5 },
];
const axes: readonly Axis[] = [
  { name: "i", extent: dim(4) },
  { name: "j", extent: T },
  { name: "k", extent: N },
];
const sizes: readonly DimEnv[] = [
  { T: 0, N: 1 },
  { T: 1, N: 1 },
  { T: 6, N: 5 },
  { T: 3, N: 4 },
];
/** Elements of both buffers: as many as the largest sizes reach. */
const length = 16;
const integers = Int32Array.from([0, 1, -1, 2, 7, -7, 100, -100, 2147483647, -2147483648, 65536, -65537, 3, 5, 12, 9]);
const reals = Float32Array.from([0, -0, 1, -1, NaN, Infinity, -Infinity, 0.5, 1e-45, 3e38, -3e38, 2, 1.5, -2.5, 1e-10, 7]);

const buffersOf = (type: "i32" | "f32"): readonly KernelBuffer[] => [
  { name: "x", dtype: "i32", shape: [dim(length)], access: "read" },
  { name: "y", dtype: "f32", shape: [dim(length)], access: "read" },
  { name: "out", dtype: type, shape: axes.map((a) => a.extent), access: "write" },
];

function simplifier(): Simplifier {
  const made = new Simplifier(symbols);
  for (const a of axes) made.axis(a.name, a.extent);
  return made;
}

/** The value of `e` at every point of the axes. An access out of range throws. */
function valuesOf(e: Expr, env: DimEnv): readonly number[] {
  const type = b.typeOfExpr(e) === "f32" ? "f32" : "i32";
  const index = b.add(b.mul(b.add(b.mul(b.variable("i"), b.dimExpr(T)), b.variable("j")), b.dimExpr(N)), b.variable("k"));
  const kernel: Kernel = {
    name: "value",
    axes,
    buffers: buffersOf(type),
    stages: [{ k: "store", axes: [], buffer: "out", index, value: b.cast(e, type) }],
    schedule: [],
    sources: [],
  };
  const count = axes.reduce((n, a) => n * dimEval(a.extent, env), 1);
  const out = type === "f32" ? new Float32Array(count) : new Int32Array(count);
  evalKernel(kernel, { x: integers, y: reals, out }, env);
  return [...out];
}

const text = (e: Expr): string => exprText(e, buffersOf("i32"), 400);

function same(before: Expr, after: Expr): void {
  for (const env of sizes) {
    const [a, c] = [valuesOf(before, env), valuesOf(after, env)];
    for (const [at, x] of a.entries()) {
      if (!Object.is(x, c[at]))
        throw new Error(`T=${env.T ?? ""} N=${env.N ?? ""}, point ${at}: ${text(before)} is ${x}, ${text(after)} is ${c[at] ?? ""}`);
    }
  }
}

/** An index that is in range wherever it comes from: the remainder has the sign of the divisor. */
const within = (e: Expr): Expr => b.mod(e, b.i32(length));

interface Scope {
  /** Axes of folds around the expression. */
  readonly folds: readonly string[];
}

const sizeExprs = [b.dimExpr(T), b.dimExpr(N), b.dimExpr(dimAdd(T, dim(1))), b.dimExpr(dimMul(T, N)), b.dimExpr(dimMul(dim(3), N))];

/** Expressions as functions of where they stand, so that an axis of a fold is read only inside it. */
type Open = (scope: Scope) => Expr;

const { whole, real } = fc.letrec<{ whole: Open; real: Open }>((tie) => {
  const small = fc.integer({ min: -9, max: 12 });
  const constant = fc.oneof(
    { weight: 8, arbitrary: small },
    { weight: 1, arbitrary: fc.constantFrom(2147483647, -2147483648, 65536, 1 << 30) },
  );
  const leaf: fc.Arbitrary<Open> = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.constantFrom("i", "j", "k").map(
        (name): Open =>
          () =>
            b.variable(name),
      ),
    },
    {
      weight: 3,
      arbitrary: constant.map(
        (n): Open =>
          () =>
            b.i32(n),
      ),
    },
    {
      weight: 2,
      arbitrary: fc.constantFrom(...sizeExprs).map(
        (e): Open =>
          () =>
            e,
      ),
    },
    {
      weight: 2,
      arbitrary: fc.nat(3).map(
        (n): Open =>
          ({ folds }) =>
            b.variable(folds[n % Math.max(folds.length, 1)] ?? "i"),
      ),
    },
  );
  const two = fc.tuple(tie("whole"), tie("whole"));
  const compared = fc.tuple(fc.constantFrom("lt", "le", "eq", "ne", "ge", "gt"), two).map(
    ([op, [x, y]]): Open =>
      (scope) =>
        b.binary(op, x(scope), y(scope)),
  );
  const folded = (body: fc.Arbitrary<Open>): fc.Arbitrary<Open> =>
    fc
      .tuple(fc.constantFrom("sum", "max", "min", "product"), fc.constantFrom(b.i32(3), b.dimExpr(T), b.dimExpr(N)), fc.nat(1), body)
      .map(([op, to, from, inner]): Open => (scope) => {
        // Folds right inside each other have names of their own; those beside each other are told apart below.
        const axis = `f${scope.folds.length}`;
        return b.fold(op, axis, b.i32(from), to, inner({ folds: [...scope.folds, axis] }));
      });
  return {
    whole: fc.oneof(
      { depthSize: "small", withCrossShrink: true },
      { weight: 3, arbitrary: leaf },
      {
        weight: 8,
        arbitrary: fc.tuple(fc.constantFrom("add", "add", "sub", "mul", "div", "mod", "min", "max"), two).map(
          ([op, [x, y]]): Open =>
            (scope) =>
              b.binary(op, x(scope), y(scope)),
        ),
      },
      {
        weight: 4,
        arbitrary: fc
          .tuple(fc.constantFrom("mul", "div", "mod"), tie("whole"), fc.oneof(small.map(b.i32), fc.constantFrom(...sizeExprs)))
          .map(
            ([op, x, y]): Open =>
              (scope) =>
                b.binary(op, x(scope), y),
          ),
      },
      {
        weight: 2,
        arbitrary: tie("whole").map(
          (x): Open =>
            (scope) =>
              b.load("x", within(x(scope)), "i32"),
        ),
      },
      {
        weight: 1,
        arbitrary: fc.tuple(compared, two).map(
          ([cond, [x, y]]): Open =>
            (scope) =>
              b.select(cond(scope), x(scope), y(scope)),
        ),
      },
      { weight: 1, arbitrary: folded(tie("whole")) },
      {
        weight: 1,
        arbitrary: tie("real").map(
          (x): Open =>
            (scope) =>
              b.cast(x(scope), "i32"),
        ),
      },
    ),
    real: fc.oneof(
      { depthSize: "small", withCrossShrink: true },
      {
        weight: 2,
        arbitrary: fc.constantFrom(0, -0, 1, NaN, Infinity, 0.5).map(
          (x): Open =>
            () =>
              b.f32(x),
        ),
      },
      {
        weight: 3,
        arbitrary: tie("whole").map(
          (x): Open =>
            (scope) =>
              b.load("y", within(x(scope)), "f32"),
        ),
      },
      {
        weight: 1,
        arbitrary: tie("whole").map(
          (x): Open =>
            (scope) =>
              b.cast(x(scope), "f32"),
        ),
      },
      {
        weight: 4,
        arbitrary: fc.tuple(fc.constantFrom("add", "sub", "mul", "div", "min", "max"), tie("real"), tie("real")).map(
          ([op, x, y]): Open =>
            (scope) =>
              b.binary(op, x(scope), y(scope)),
        ),
      },
      {
        weight: 1,
        arbitrary: fc.tuple(compared, tie("real"), tie("real")).map(
          ([cond, x, y]): Open =>
            (scope) =>
              b.select(cond(scope), x(scope), y(scope)),
        ),
      },
      { weight: 1, arbitrary: folded(tie("real")) },
    ),
  };
});

/** Every fold gets a name of its own, as the compiler gives them. */
function apart(e: Expr, names: ReadonlyMap<string, string> = new Map(), next = { n: 0 }): Expr {
  const inner = (x: Expr, under = names): Expr => apart(x, under, next);
  switch (e.k) {
    case "const":
    case "dim":
      return e;
    case "var":
      return { ...e, name: names.get(e.name) ?? e.name };
    case "load":
      return { ...e, index: inner(e.index) };
    case "unary":
    case "cast":
    case "bitcast":
      return { ...e, a: inner(e.a) };
    case "binary":
      return { ...e, a: inner(e.a), b: inner(e.b) };
    case "select":
      return { ...e, cond: inner(e.cond), a: inner(e.a), b: inner(e.b) };
    case "fold": {
      const axis = `f.${++next.n}`;
      return { ...e, axis, from: inner(e.from), to: inner(e.to), body: inner(e.body, new Map([...names, [e.axis, axis]])) };
    }
    case "iterate":
      return { ...e, init: inner(e.init), body: inner(e.body) };
    default:
      return e satisfies never;
  }
}

const closed = (open: fc.Arbitrary<Open>): fc.Arbitrary<Expr> => open.map((make) => apart(make({ folds: [] })));

describe("a simplified expression", () => {
  test("of integers has the same value at every point, wrapped around 32 bits or not", () => {
    property(closed(whole), (e) => {
      const s = simplifier();
      const once = s.simplify(e);
      same(e, once);
      same(e, s.again(once));
    });
  });

  test("of floats has the same value at every point, NaN and -0 included", () => {
    property(closed(real), (e) => {
      const s = simplifier();
      same(e, s.again(s.simplify(e)));
    });
  });

  test("is its own simplification", () => {
    property(closed(whole), (e) => {
      const s = simplifier();
      const once = s.again(s.simplify(e));
      expect(text(s.again(once))).toBe(text(once));
    });
  });

  test("has the floats as they were written", () => {
    const floats = fc.letrec<{ e: Expr }>((tie) => ({
      e: fc.oneof(
        { depthSize: "small" },
        fc.constantFrom(0, -0, 1, NaN, Infinity).map(b.f32),
        fc.nat(15).map((n) => b.load("y", b.i32(n), "f32")),
        fc.tuple(fc.constantFrom("add", "sub", "mul", "div", "mod", "pow"), tie("e"), tie("e")).map(([op, x, y]) => b.binary(op, x, y)),
        fc.tuple(fc.constantFrom("neg", "exp", "abs"), tie("e")).map(([op, x]) => b.unary(op, x)),
      ),
    })).e;
    property(floats, (e) => {
      expect(text(simplifier().simplify(e))).toBe(text(e));
    });
  });
});

describe("a linear index", () => {
  /** Shapes of 1 to 4 sizes, known or not. */
  const shape = fc.array(fc.constantFrom<Dim>(dim(1), dim(2), dim(4), T, N, dimMul(dim(2), N), dimAdd(T, dim(2))), {
    minLength: 1,
    maxLength: 4,
  });
  const axis = fc.constantFrom("i", "j", "k");
  const factor = fc.oneof(
    fc.nat(8).map((n) => dim(n)),
    fc.constantFrom<Dim>(T, N, dimMul(T, N), dimMul(dim(4), N), dimMul(dim(2), T)),
  );
  const natural = fc
    .array(fc.tuple(axis, factor), { minLength: 1, maxLength: 4 })
    .chain((terms) =>
      fc
        .oneof(fc.nat(5).map(dim), fc.constantFrom<Dim>(T, dimMul(T, N)))
        .map((constant) => terms.reduce((sum, [name, by]) => b.add(sum, b.mul(b.variable(name), b.dimExpr(by))), b.dimExpr(constant))),
    );

  /** Repeated division, as the words of Kernel IR say it. */
  function byHand(linear: Expr, of: readonly Dim[]): readonly Expr[] {
    const index: Expr[] = [];
    let rest = linear;
    for (let at = of.length - 1; at > 0; at--) {
      const size = b.dimExpr(of[at] ?? dim(1));
      index.unshift(b.mod(rest, size));
      rest = b.div(rest, size);
    }
    return [rest, ...index];
  }

  test("is split into positions as repeated division does it", () => {
    property(fc.tuple(natural, shape), ([linear, of]) => {
      const parts = simplifier().split(linear, of);
      expect(parts.length).toBe(of.length);
      for (const [at, part] of byHand(linear, of).entries()) same(part, parts[at] ?? b.i32(-1));
    });
  });

  test("of a tensor's own axes is split into these axes without a division", () => {
    const own = [dim(4), T, N];
    const linear = b.add(b.mul(b.add(b.mul(b.variable("i"), b.dimExpr(T)), b.variable("j")), b.dimExpr(N)), b.variable("k"));
    expect(simplifier().split(linear, own).map(text)).toEqual(["i", "j", "k"]);
    expect(
      simplifier()
        .split(linear, [dimMul(dim(4), T), N])
        .map(text),
    ).toEqual(["i * {T} + j", "k"]);
  });
});

describe("the identities", () => {
  const [i, j, k] = [b.variable("i"), b.variable("j"), b.variable("k")];
  const n = (x: number): Expr => b.i32(x);
  const cases: readonly (readonly [string, Expr, string])[] = [
    ["equal terms are added up", b.add(b.mul(i, n(3)), b.add(j, i)), "i * 4 + j"],
    ["what cancels is gone", b.sub(b.add(i, j), i), "j"],
    ["a factor goes into a sum", b.mul(b.add(i, n(2)), n(3)), "i * 3 + 6"],
    ["sizes are factors", b.mul(b.add(i, j), b.dimExpr(N)), "i * {N} + j * {N}"],
    ["a quotient by a size", b.div(b.add(b.mul(i, b.dimExpr(N)), k), b.dimExpr(N)), "i"],
    ["a remainder by a size", b.mod(b.add(b.mul(i, b.dimExpr(N)), k), b.dimExpr(N)), "k"],
    ["an exact quotient may be negative", b.div(b.sub(b.mul(i, n(4)), n(8)), n(4)), "i + -2"],
    ["a remainder may be of a negative number", b.mod(b.add(b.mul(j, n(4)), b.sub(i, n(4))), n(4)), "i"],
    ["a choice that is made", b.select(b.bool(true), i, j), "i"],
  ];
  test.each(cases)("%s", (_, before, after) => {
    const made = simplifier().simplify(before);
    expect(text(made)).toBe(after);
    same(before, made);
  });

  const kept: readonly (readonly [string, Expr])[] = [
    ["a quotient that truncates towards zero", b.div(b.add(b.mul(j, n(4)), b.sub(i, n(4))), n(4))],
    ["a quotient of values, which may have wrapped around", b.div(b.mul(b.load("x", i, "i32"), n(4)), n(4))],
    ["a quotient of axes that wrap around", b.div(b.mul(i, n(1 << 30)), n(1 << 30))],
    ["a quotient by a size that may be zero", b.div(b.mul(i, b.dimExpr(T)), b.dimExpr(T))],
    ["a quotient by zero", b.div(b.mul(i, n(4)), n(0))],
    ["a product beyond 32 bits", b.mul(b.mul(i, n(2147483647)), n(2147483647))],
    ["a sum of constants beyond 32 bits", b.add(b.add(i, n(2147483647)), n(2147483647))],
  ];
  test.each(kept)("do not touch %s", (_, e) => {
    const made = simplifier().simplify(e);
    same(e, made);
    expect(made.k).toBe("binary");
    if (made.k === "binary" && e.k === "binary") expect(made.op).toBe(e.op);
  });
});
