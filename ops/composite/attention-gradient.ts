// What the derivative of attention is made of, without a matrix of scores: the logarithm of each query's sum of powers,
// from which every weight is made again where it is needed, and the cotangents of queries, keys and values. With
// w[t, s] = exp(scale · q[t]·k[s] - log[t]) and δ[t] = g[t]·result[t]:
//   dq[t] = scale · Σₛ w (g[t]·v[s] - δ[t]) k[s]    dk[s] = scale · Σₜ w (g[t]·v[s] - δ[t]) q[t]    dv[s] = Σₜ w g[t]
// Those of keys and values are by query head; the heads that share a key head are added behind.

import { dim, dimAdd, dimConstant, dimExactDiv, dimMul, type Dim } from "../../compiler/ir/dim.ts";
import type { Attrs, TensorType } from "../../compiler/ir/graph/types.ts";
import { add, binary, dimExpr, div, f32, fold, i32, mul, select, sub, unary, variable } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp, OpTypeError, type ElementContext, type OpDefinition, type OperandSpec, type RefTensor } from "../define.ts";
import { lt, part } from "../expr.ts";
import { item, tabulate, tensor } from "../reference/tensor.ts";
import { boolAttr, floatAttr, needDType, needRank, needSameSize, operandAt, sizeAt, typeText } from "../rules.ts";
import { reals, rough, tensorOf, type Arb, type FC } from "../sampling.ts";
import { ofLargest } from "../tolerances.ts";
import type { OpSample } from "../define.ts";

const scale = floatAttr("scale", "As attention's.");
const causal = boolAttr("causal", "As attention's.", false);

const operand = {
  q: { name: "q", doc: "f32[Tq, Hq, D]" },
  k: { name: "k", doc: "f32[Tk, Hk, D]; Hq is a multiple of Hk" },
  v: { name: "v", doc: "f32[Tk, Hk, Dv]" },
  q_segment: { name: "q_segment", doc: "i32[Tq], ascending, in 0 … P-1" },
  k_segment: { name: "k_segment", doc: "i32[Tk], ascending, in 0 … P-1" },
  q_offsets: { name: "q_offsets", doc: "i32[P+1]: where the queries of each segment begin" },
  k_offsets: { name: "k_offsets", doc: "i32[P+1]: where the keys of each segment begin" },
  log: { name: "log", doc: "f32[Tq, Hq]: of attention_log" },
  delta: { name: "delta", doc: "f32[Tq, Hq]: g · result, summed over features" },
  g: { name: "g", doc: "f32[Tq, Hq, Dv]: the cotangent of attention's result" },
} satisfies Record<string, OperandSpec>;

type Name = keyof typeof operand;

const ranks: Readonly<Record<Name, number>> = {
  q: 3,
  k: 3,
  v: 3,
  q_segment: 1,
  k_segment: 1,
  q_offsets: 1,
  k_offsets: 1,
  log: 2,
  delta: 2,
  g: 3,
};

/** Sizes that must be equal: an operand's dimension, and the first one that has it. */
const equal: readonly (readonly [Name, number, Name, number])[] = [
  ["k", 2, "q", 2],
  ["v", 0, "k", 0],
  ["v", 1, "k", 1],
  ["q_segment", 0, "q", 0],
  ["k_segment", 0, "k", 0],
  ["k_offsets", 0, "q_offsets", 0],
  ["log", 0, "q", 0],
  ["log", 1, "q", 1],
  ["delta", 0, "q", 0],
  ["delta", 1, "q", 1],
  ["g", 0, "q", 0],
  ["g", 1, "q", 1],
  ["g", 2, "v", 2],
];

const groupOf = (hq: Dim, hk: Dim): Dim | undefined => (hq.text === hk.text ? dim(1) : dimExactDiv(hq, hk));

/** What an op computes, by names of its operands. */
interface Part {
  readonly name: string;
  readonly doc: string;
  readonly operands: readonly Name[];
  readonly result: (size: (name: Name, axis: number) => Dim) => readonly Dim[];
  /** The element at `at`, in float64. */
  readonly reference: (r: Reference, at: readonly number[]) => number;
  readonly element: (e: Element, at: readonly Expr[]) => Expr;
  /** Multiply-adds for each pair of a query and a key it sees, and head. */
  readonly terms: (size: (name: Name, axis: number) => Dim) => Dim;
}

/** Reads operands of a reference by name. */
class Reference {
  readonly #operands: ReadonlyMap<Name, RefTensor>;
  readonly scale: number;
  readonly causal: boolean;

  constructor(names: readonly Name[], operands: readonly RefTensor[], attrs: Attrs) {
    this.#operands = new Map(names.map((n, i) => [n, operandAt(operands, i)]));
    this.scale = Math.fround(scale.of(attrs));
    this.causal = causal.of(attrs);
  }

  of(name: Name): RefTensor {
    const found = this.#operands.get(name);
    if (found === undefined) throw new RangeError(`there is no operand ${name}`);
    return found;
  }

  at(name: Name, ...index: readonly number[]): number {
    const { shape, data } = this.of(name);
    return item(
      data,
      index.reduce((linear, i, axis) => linear * item(shape, axis) + i, 0),
    );
  }

  /** The key head of a query head. */
  group(h: number): number {
    return Math.floor(h / (item(this.of("q").shape, 1) / item(this.of("k").shape, 1)));
  }

  dot(a: Name, i: readonly number[], b: Name, j: readonly number[]): number {
    let sum = 0;
    for (let d = 0; d < item(this.of(a).shape, 2); d++) sum += this.at(a, ...i, d) * this.at(b, ...j, d);
    return sum;
  }

  score(t: number, s: number, h: number): number {
    return this.scale * this.dot("q", [t, h], "k", [s, this.group(h)]);
  }

  weight(t: number, s: number, h: number): number {
    return Math.exp(this.score(t, s, h) - this.at("log", t, h));
  }

  /** w (g·v - δ) */
  slope(t: number, s: number, h: number): number {
    return this.weight(t, s, h) * (this.dot("g", [t, h], "v", [s, this.group(h)]) - this.at("delta", t, h));
  }

  /** Keys that query t sees, and queries that see key s: from and to. */
  keys(t: number): readonly [number, number] {
    const p = this.at("q_segment", t);
    const end = this.at("k_offsets", p + 1);
    return [this.at("k_offsets", p), this.causal ? Math.min(end, t + 1 - this.at("q_offsets", p + 1) + end) : end];
  }

  queries(s: number): readonly [number, number] {
    const p = this.at("k_segment", s);
    const [first, end] = [this.at("q_offsets", p), this.at("q_offsets", p + 1)];
    return [this.causal ? Math.max(first, s - this.at("k_offsets", p + 1) + end) : first, end];
  }

  sum([from, to]: readonly [number, number], term: (i: number) => number): number {
    let sum = 0;
    for (let i = from; i < to; i++) sum += term(i);
    return sum;
  }
}

/** The same as expressions of a kernel. */
class Element {
  readonly #names: readonly Name[];
  readonly #context: ElementContext;
  readonly scale: Expr;

  constructor(names: readonly Name[], context: ElementContext) {
    this.#names = names;
    this.#context = context;
    this.scale = f32(scale.of(context.attrs));
  }

  at(name: Name, ...index: readonly Expr[]): Expr {
    return this.#context.at(this.#names.indexOf(name), index);
  }

  type(name: Name): TensorType {
    return operandAt(this.#context.types, this.#names.indexOf(name));
  }

  group(h: Expr): Expr {
    const by = groupOf(sizeAt(this.type("q").shape, 1), sizeAt(this.type("k").shape, 1)) ?? dim(1);
    return dimConstant(by) === 1 ? h : div(h, dimExpr(by));
  }

  dot(a: Name, i: readonly Expr[], b: Name, j: readonly Expr[]): Expr {
    const inner = this.#context.fresh("d");
    const product = mul(this.at(a, ...i, variable(inner)), this.at(b, ...j, variable(inner)));
    return fold("sum", inner, i32(0), dimExpr(sizeAt(this.type(a).shape, 2)), product);
  }

  over(op: "sum" | "max", hint: string, [from, to]: readonly [Expr, Expr], body: (i: Expr) => Expr): Expr {
    const name = this.#context.fresh(hint);
    return fold(op, name, from, to, body(variable(name)));
  }

  keys(t: Expr): readonly [Expr, Expr] {
    const p = this.at("q_segment", t);
    const after = add(p, i32(1));
    const end = this.at("k_offsets", after);
    if (!causal.of(this.#context.attrs)) return [this.at("k_offsets", p), end];
    return [this.at("k_offsets", p), binary("min", end, add(sub(add(t, i32(1)), this.at("q_offsets", after)), end))];
  }

  queries(s: Expr): readonly [Expr, Expr] {
    const p = this.at("k_segment", s);
    const after = add(p, i32(1));
    const [first, end] = [this.at("q_offsets", p), this.at("q_offsets", after)];
    if (!causal.of(this.#context.attrs)) return [first, end];
    return [binary("max", first, add(sub(s, this.at("k_offsets", after)), end)), end];
  }
}

const parts: readonly Part[] = [
  {
    name: "attention_log",
    doc: "log Σₛ exp(scale · q[t, h] · k[s, g]) over the keys that attention's query t sees; 0 where it sees none.",
    operands: ["q", "k", "q_segment", "q_offsets", "k_offsets"],
    result: (size) => [size("q", 0), size("q", 1)],
    reference: (r, [t = 0, h = 0]) => {
      const [from, to] = r.keys(t);
      if (from >= to) return 0;
      const scores = Array.from({ length: to - from }, (_, i) => r.score(t, from + i, h));
      const top = scores.reduce((a, b) => Math.max(a, b), -Infinity);
      return top + Math.log(scores.reduce((sum, s) => sum + Math.exp(s - top), 0));
    },
    element: (e, at) => {
      const [t, h] = [part(at, 0), part(at, 1)];
      const range = e.keys(t);
      const score = (s: Expr): Expr => mul(e.dot("q", [t, h], "k", [s, e.group(h)]), e.scale);
      const top = e.over("max", "s", range, score);
      const total = e.over("sum", "s", range, (s) => unary("exp", sub(score(s), top)));
      return select(lt(...range), add(top, unary("log", total)), f32(0));
    },
    terms: (size) => size("q", 2),
  },
  {
    name: "attention_dq",
    doc: "scale · Σₛ w[t, s, h] · (g[t, h] · v[s, g] - delta[t, h]) · k[s, g] over the keys that attention's query t sees, w = exp(scale · q · k - log): the cotangent of q.",
    operands: ["q", "k", "v", "q_segment", "q_offsets", "k_offsets", "log", "delta", "g"],
    result: (size) => [size("q", 0), size("q", 1), size("q", 2)],
    reference: (r, [t = 0, h = 0, d = 0]) => r.scale * r.sum(r.keys(t), (s) => r.slope(t, s, h) * r.at("k", s, r.group(h), d)),
    element: (e, at) => {
      const [t, h, d] = [part(at, 0), part(at, 1), part(at, 2)];
      const g = e.group(h);
      const sum = e.over("sum", "s", e.keys(t), (s) => {
        const weight = unary("exp", sub(mul(e.dot("q", [t, h], "k", [s, g]), e.scale), e.at("log", t, h)));
        const slope = sub(e.dot("g", [t, h], "v", [s, g]), e.at("delta", t, h));
        return mul(mul(weight, slope), e.at("k", s, g, d));
      });
      return mul(sum, e.scale);
    },
    terms: (size) => dimAdd(dimMul(dim(2), size("q", 2)), size("v", 2)),
  },
  {
    name: "attention_dk",
    doc: "scale · Σₜ w[t, s, h] · (g[t, h] · v[s, g] - delta[t, h]) · q[t, h] over the queries of attention that see key s: what query head h adds to the cotangent of k.",
    operands: ["q", "k", "v", "k_segment", "q_offsets", "k_offsets", "log", "delta", "g"],
    result: (size) => [size("k", 0), size("q", 1), size("q", 2)],
    reference: (r, [s = 0, h = 0, d = 0]) => r.scale * r.sum(r.queries(s), (t) => r.slope(t, s, h) * r.at("q", t, h, d)),
    element: (e, at) => {
      const [s, h, d] = [part(at, 0), part(at, 1), part(at, 2)];
      const g = e.group(h);
      const sum = e.over("sum", "t", e.queries(s), (t) => {
        const weight = unary("exp", sub(mul(e.dot("k", [s, g], "q", [t, h]), e.scale), e.at("log", t, h)));
        const slope = sub(e.dot("v", [s, g], "g", [t, h]), e.at("delta", t, h));
        return mul(mul(weight, slope), e.at("q", t, h, d));
      });
      return mul(sum, e.scale);
    },
    terms: (size) => dimAdd(dimMul(dim(2), size("q", 2)), size("v", 2)),
  },
  {
    name: "attention_dv",
    doc: "Σₜ w[t, s, h] · g[t, h] over the queries of attention that see key s: what query head h adds to the cotangent of v.",
    operands: ["q", "k", "k_segment", "q_offsets", "k_offsets", "log", "g"],
    result: (size) => [size("k", 0), size("q", 1), size("g", 2)],
    reference: (r, [s = 0, h = 0, d = 0]) => r.sum(r.queries(s), (t) => r.weight(t, s, h) * r.at("g", t, h, d)),
    element: (e, at) => {
      const [s, h, d] = [part(at, 0), part(at, 1), part(at, 2)];
      return e.over("sum", "t", e.queries(s), (t) => {
        const weight = unary("exp", sub(mul(e.dot("k", [s, e.group(h)], "q", [t, h]), e.scale), e.at("log", t, h)));
        return mul(weight, e.at("g", t, h, d));
      });
    },
    terms: (size) => dimAdd(size("q", 2), size("g", 2)),
  },
];

function define(p: Part): OpDefinition {
  const sizes = (operands: readonly TensorType[]) => (name: Name, axis: number) =>
    sizeAt(operandAt(operands, p.operands.indexOf(name)).shape, axis);
  return defineOp({
    name: p.name,
    doc: p.doc,
    kind: "composite",
    operands: p.operands.map((n) => operand[n]),
    attrs: [scale.spec, causal.spec],
    type: (operands, attrs) => {
      scale.of(attrs);
      causal.of(attrs);
      for (const [i, name] of p.operands.entries()) {
        const wanted = /segment|offsets/.test(name) ? "i32" : "f32";
        needDType(operands, i, (d) => d === wanted, wanted);
        needRank(operands, i, ranks[name]);
      }
      const place = (name: Name): number => p.operands.indexOf(name);
      for (const [a, axis, b, other] of equal) if (place(a) >= 0 && place(b) >= 0) needSameSize(operands, place(a), axis, place(b), other);
      const size = sizes(operands);
      if (groupOf(size("q", 1), size("k", 1)) === undefined)
        throw new OpTypeError(
          1,
          "the heads of q are not a multiple of the heads of k",
          `a divisor of ${size("q", 1).text} heads`,
          typeText(operandAt(operands, 1)),
          0,
          [size("q", 1), size("k", 1)].some((d) => dimConstant(d) === undefined),
        );
      return { dtype: "f32", shape: p.result(size) };
    },
    reference: (operands, attrs, out) => {
      const r = new Reference(p.operands, operands, attrs);
      return tabulate("f32", out.shape, (at) => p.reference(r, at));
    },
    lowering: { kind: "element", emit: (index, context) => p.element(new Element(p.operands, context), index) },
    derivative: { kind: "nonDifferentiable", reason: "it is a derivative itself, and second ones are not asked for" },
    flops: (operands) => {
      const size = sizes(operands);
      const pairs = dimMul(dimMul(size("q", 0), size("q", 1)), size("k", 0));
      return dimMul(dimMul(dim(2), pairs), p.terms(size));
    },
    recompute: false,
    tolerance: ofLargest(
      2e-5,
      4e-6,
      "Scores, weights and their sums are f32, and differences of nearly equal numbers are multiplied by them.",
    ),
    samples: (fc) => samples(fc, p.operands),
  });
}

/** Calls whose `log` is near the true one, so that weights are no larger than a few. */
function samples(fc: FC, names: readonly Name[]): Arb<OpSample> {
  const segments = fc.array(
    fc.tuple(fc.nat(5), fc.oneof({ weight: 5, arbitrary: fc.integer({ min: 1, max: 6 }) }, { weight: 1, arbitrary: fc.constant(0) })),
    {
      minLength: 1,
      maxLength: 3,
    },
  );
  const heads = fc.constantFrom([1, 1], [2, 1], [2, 2], [4, 2], [3, 1]);
  return fc
    .tuple(segments, heads, fc.constantFrom(1, 2, 4, 5, 8), fc.constantFrom(1, 3, 4, 8), fc.boolean())
    .chain(([lengths, [hq = 1, hk = 1], d, dv, isCausal]) => {
      const running = (of: (pair: readonly [number, number]) => number): number[] =>
        lengths.reduce<number[]>((all, pair) => [...all, (all.at(-1) ?? 0) + of(pair)], [0]);
      const [qs, ks] = [running(([n]) => n), running(([, n]) => n)];
      const [tq, tk] = [qs.at(-1) ?? 0, ks.at(-1) ?? 0];
      const f = (shape: readonly number[], lowest = -2): Arb<RefTensor> => tensorOf(fc, "f32", shape, reals(fc, lowest, 2));
      const list = (values: readonly number[]): Arb<RefTensor> => fc.constant(tensor("i32", [values.length], values));
      const each: Readonly<Record<Name, Arb<RefTensor>>> = {
        q: f([tq, hq, d]),
        k: f([tk, hk, d]),
        v: f([tk, hk, dv]),
        q_segment: list(lengths.flatMap(([n], p) => new Array<number>(n).fill(p))),
        k_segment: list(lengths.flatMap(([, n], p) => new Array<number>(n).fill(p))),
        q_offsets: list(qs),
        k_offsets: list(ks),
        log: f([tq, hq], 0),
        delta: f([tq, hq]),
        g: f([tq, hq, dv]),
      };
      return fc.tuple(...names.map((n) => each[n])).map((all) => rough(all, { scale: d ** -0.5, causal: isCausal }));
    });
}

const [log, dq, dk, dv] = parts.map(define);
if (log === undefined || dq === undefined || dk === undefined || dv === undefined) throw new Error("there are four parts");

export const attentionGradientOps = { attention_log: log, attention_dq: dq, attention_dk: dk, attention_dv: dv };
