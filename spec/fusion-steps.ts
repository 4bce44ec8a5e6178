// The steps that generated graphs for fusion are made of (see fusion-graphs.ts): pieces of models, written by choices.

import { dim, dimConstant, dimMul, dimProduct, dimSymbol, type Dim } from "../compiler/ir/dim.ts";
import type { DType } from "../compiler/ir/dtype.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import type { Attrs, TensorType, ValueId } from "../compiler/ir/graph/types.ts";
import type { RefTensor } from "../ops/define.ts";
import { typeRule } from "../ops/index.ts";
import { tensor } from "../ops/reference/tensor.ts";

/** Rows, indices, and one more than the segments of the rows. */
export const [T, N, P] = [dimSymbol("T"), dimSymbol("N"), dimSymbol("P")];
/** Columns of the inputs. */
export const width = 6;

export function pick<X>(list: readonly X[], i: number): X | undefined {
  return list[i % Math.max(list.length, 1)];
}

const constantOf = (d: Dim | undefined): number | undefined => (d === undefined ? undefined : dimConstant(d));
export const sameShape = (a: readonly Dim[], b: readonly Dim[]): boolean =>
  a.length === b.length && a.every((d, i) => d.text === b[i]?.text);

export class Writer {
  readonly builder = new GraphBuilder("fusion", typeRule);
  readonly values: ValueId[] = [];
  /** Values that are computed without rounding: they may be compared with each other. */
  readonly exact = new Set<ValueId>();
  readonly params: Record<string, RefTensor> = {};
  /** The cache with rows written into it. */
  appended: ValueId | undefined;
  private readonly random: () => number;

  constructor(random: () => number) {
    this.random = random;
  }

  shape(v: ValueId): readonly Dim[] {
    return this.builder.typeOf(v).shape;
  }

  op(name: string, operands: readonly ValueId[], attrs: Attrs = {}): ValueId {
    return this.builder.op(name, operands, attrs);
  }

  numbers(count: number): number[] {
    return Array.from({ length: count }, () => Math.fround(this.random()));
  }

  param(shape: readonly number[]): ValueId {
    const name = `p${Object.keys(this.params).length}`;
    this.params[name] = tensor("f32", shape, this.numbers(shape.reduce((a, b) => a * b, 1)));
    return this.builder.param(name, { dtype: "f32", shape: shape.map(dim) });
  }

  /** A value of this dtype, near the end first. */
  value(i: number, fits: (type: TensorType) => boolean = (t) => t.dtype === "f32"): ValueId | undefined {
    return pick(this.values.filter((v) => fits(this.builder.typeOf(v))).toReversed(), i);
  }

  /** A matrix with this many rows and a known number of columns. */
  rows(size: string, i: number): ValueId | undefined {
    return this.value(
      i,
      (t) => t.dtype === "f32" && t.shape.length === 2 && t.shape[0]?.text === size && constantOf(t.shape[1]) !== undefined,
    );
  }

  like(v: ValueId, i: number): ValueId {
    const { dtype, shape } = this.builder.typeOf(v);
    return this.value(i, (t) => t.dtype === dtype && sameShape(t.shape, shape)) ?? v;
  }

  broadcast(v: ValueId, shape: readonly Dim[]): ValueId {
    return this.op("broadcast", [v], { shape });
  }

  reshape(v: ValueId, shape: readonly Dim[]): ValueId {
    return this.op("reshape", [v], { shape });
  }

  tame(v: ValueId): ValueId {
    return this.op("tanh", [v]);
  }

  /** x·Wᵀ + b over the last dimension, which must be known. */
  linear(x: ValueId, n: number, biased: boolean): ValueId | undefined {
    const k = constantOf(this.shape(x).at(-1));
    if (k === undefined) return undefined;
    return this.op("linear", biased ? [x, this.param([n, k]), this.param([n])] : [x, this.param([n, k])]);
  }
}

/** Rows of the cache: as many as the most rows that are written, and some before and behind them. */
export const capacity = 16;

export interface Inputs {
  readonly cache: ValueId;
  readonly index: ValueId;
  readonly taps: ValueId;
  readonly segment: ValueId;
  readonly offsets: ValueId;
}

type Step = (w: Writer, a: ValueId, b: number, choice: number, inputs: Inputs) => ValueId | undefined;

const unary = ["neg", "abs", "tanh", "sigmoid", "gelu", "quick_gelu", "relu", "silu", "erf", "sin"];
const binary = ["add", "sub", "maximum", "minimum", "mul"];

/** Exact values moved about, so that flags depend on movement too. */
export const moved: Step = function moved(w, _a, b, choice) {
  const x = pick([...w.exact], b);
  const shape = x === undefined ? [] : w.shape(x);
  if (x === undefined || shape.length === 0) return undefined;
  if (choice % 3 === 0) return w.op("transpose", [x], { permutation: shape.map((_, i) => (i + 1) % shape.length) });
  if (choice % 3 === 1) return w.op("concat", [x, x], { axis: choice % shape.length });
  return w.broadcast(x, [dim(2), ...shape]);
};

/** Each step is a piece of a model. One that does not apply to its values gives undefined. */
export const steps: readonly Step[] = [
  moved,
  function elementwise(w, a, b, choice) {
    if (choice % 2 === 0) return w.op(pick(unary, b + choice) ?? "neg", [a]);
    return w.op(pick(binary, choice) ?? "add", [w.tame(a), w.like(a, b)]);
  },
  function linear(w, a, b, choice) {
    return w.linear(a, 1 + (b % 9), choice % 2 === 0);
  },
  function epilogueThroughMovement(w, a, b, choice) {
    const y = w.linear(a, 4, true);
    if (y === undefined) return undefined;
    const shape = w.shape(y);
    const moved =
      choice % 4 === 0
        ? w.reshape(y, [...shape.slice(0, -1), dim(2), dim(2)])
        : choice % 4 === 1
          ? w.op("transpose", [y], { permutation: shape.map((_, i) => (i + 1) % shape.length) })
          : choice % 4 === 2
            ? w.op("slice", [y], { axis: -1, start: dim(b % 3), stop: dim(4), step: 1 + (b % 2) })
            : w.broadcast(y, [dim(2), ...shape]);
    const active = w.op(pick(unary, b) ?? "neg", [moved]);
    return choice < 4 ? active : w.op("add", [active, w.like(active, b)]);
  },
  function block(w, a, b, choice) {
    // A feed-forward block; twice gives layers that are alike.
    const k = constantOf(w.shape(a).at(-1));
    if (k === undefined || k === 0) return undefined;
    let x = a;
    for (let i = 0; i < 1 + (choice % 2); i++) {
      const normal = w.op("rms_norm", [x, w.param([k])], { eps: 0.1 });
      const inner = w.linear(normal, 3 + (b % 7), true);
      const outer = inner === undefined ? undefined : w.linear(w.op("gelu", [inner]), k, true);
      if (outer === undefined) return undefined;
      x = w.op("add", [choice % 3 === 0 ? w.op("mul", [outer, w.tame(x)]) : outer, x]);
    }
    return x;
  },
  function softmax(w, a, _b, choice) {
    const rank = w.shape(a).length;
    return rank === 0 ? undefined : w.op(choice % 3 === 0 ? "log_softmax" : "softmax", [a], { axis: choice % rank });
  },
  function norm(w, a, b, choice) {
    // Of a value that is costly to make, half of the time.
    const x = choice % 4 < 2 ? a : w.linear(w.tame(a), 5, true);
    if (x === undefined) return undefined;
    const d = constantOf(w.shape(x).at(-1));
    if (d === undefined) return undefined;
    const active = b % 3 === 0 ? w.op("gelu", [x]) : x;
    return choice % 2 === 0
      ? w.op("layer_norm", [active, w.param([d]), w.param([d])], { eps: 0.1 })
      : w.op("rms_norm", [active, w.param([d])], { eps: 0.1 });
  },
  function reduce(w, a, b, choice) {
    const shape = w.shape(a);
    const axes = shape.flatMap((_, i) => (((choice + 1) >> i) & 1 ? [i] : []));
    const keep = b % 2 === 0;
    const reduced = w.op(pick(["mean", "reduce_sum", "reduce_max", "reduce_min"], b) ?? "mean", [a], { axes, keep });
    if (!keep || b % 4 === 0) return reduced;
    return w.op("sub", [a, w.broadcast(reduced, shape)]);
  },
  function centred(w, a, b, choice) {
    const shape = w.shape(a);
    const axes = shape.flatMap((_, i) => (((choice + 1) >> i) & 1 ? [i] : []));
    const reduced = w.op(pick(["reduce_max", "reduce_min", "mean"], b) ?? "mean", [w.tame(a)], { axes, keep: true });
    return w.op("mul", [w.tame(a), w.broadcast(w.op("sigmoid", [reduced]), shape)]);
  },
  function transpose(w, a, _b, choice) {
    const shape = w.shape(a);
    if (shape.length < 2) return undefined;
    const order = shape.map((_, i) => i);
    const [x, y] = [choice % shape.length, (choice + 1 + (choice >> 2)) % shape.length];
    [order[x], order[y]] = [order[y] ?? 0, order[x] ?? 0];
    return w.op("transpose", [a], { permutation: order });
  },
  function reshape(w, a, b, choice) {
    const shape = w.shape(a);
    const last = constantOf(shape.at(-1));
    switch (choice % 5) {
      case 0:
        return w.reshape(a, [dimProduct(shape)]);
      case 1: {
        const at = b % (shape.length + 1);
        return w.reshape(a, [...shape.slice(0, at), dim(1), ...shape.slice(at)]);
      }
      case 2:
        return w.reshape(
          a,
          shape.filter((d) => dimConstant(d) !== 1),
        );
      case 3:
        return last !== undefined && last > 0 && last % 2 === 0 ? w.reshape(a, [...shape.slice(0, -1), dim(2), dim(last / 2)]) : undefined;
      default: {
        const [first, second] = shape;
        return first === undefined || second === undefined ? undefined : w.reshape(a, [dimMul(first, second), ...shape.slice(2)]);
      }
    }
  },
  function broadcast(w, a, b, choice) {
    const shape = w.shape(a);
    const wide = shape.map((d) => (dimConstant(d) === 1 ? (pick([dim(1), dim(3), N], b) ?? d) : d));
    return w.broadcast(a, choice % 2 === 0 ? wide : [pick([dim(2), N, dim(1)], choice) ?? dim(1), ...wide]);
  },
  function concat(w, a, b, choice) {
    const shape = w.shape(a);
    if (shape.length === 0) return undefined;
    const axis = (choice >> 1) % shape.length;
    const fits = (t: TensorType): boolean =>
      t.dtype === "f32" && t.shape.length === shape.length && t.shape.every((d, i) => i === axis || d.text === shape[i]?.text);
    const other = w.value(b, fits) ?? a;
    // Rows of which only some are reduced.
    const active = choice % 2 === 0 ? other : b % 2 === 0 ? w.op("gelu", [other]) : w.op("softmax", [other], { axis: -1 });
    return w.op("concat", choice % 3 === 0 ? [a, active, a] : [active, a], { axis });
  },
  function slice(w, a, b, choice) {
    const shape = w.shape(a);
    if (shape.length === 0) return undefined;
    const axis = choice % shape.length;
    const size = shape[axis] ?? dim(0);
    const known = dimConstant(size);
    if (known === undefined) return w.op("slice", [a], { axis, start: dim(0), stop: size, step: 1 + (b % 3) });
    // Empty now and then.
    const start = b === 7 ? known : b % Math.max(known, 1);
    return w.op("slice", [a], { axis, start: dim(start), stop: dim(known), step: 1 + (choice % 2) });
  },
  function pad(w, a, b, choice) {
    const rank = w.shape(a).length;
    if (rank === 0) return undefined;
    return w.op("pad", [a], { axis: choice % rank, before: dim(b % 3), after: dim(choice % 3), value: b % 2 === 0 ? 0.5 : -1 });
  },
  function gather(w, a, b, choice, { index }) {
    const [rows] = w.shape(a);
    if (rows === undefined) return undefined;
    const active = choice % 2 === 0 ? a : w.op("gelu", [a]);
    if (rows.text === "T") return w.op("gather", [active, index]);
    const known = dimConstant(rows);
    if (known === undefined || known === 0) return undefined;
    const at = w.op("add", [index, w.builder.constant("i32", w.shape(index), [b])]);
    return w.op("gather", [active, w.op("mod", [at, w.builder.constant("i32", w.shape(index), [known])])]);
  },
  function gatherSum(w, _a, a, choice, { taps }) {
    const x = w.rows("T", a);
    if (x === undefined) return undefined;
    const weights = w.broadcast(w.op("sigmoid", [w.param([3])]), [N, dim(3)]);
    return w.op("gather_sum", [choice % 2 === 0 ? x : w.tame(x), taps, weights]);
  },
  function scatter(w, _a, b, choice, { index }) {
    const x = w.rows("N", b);
    if (x === undefined) return undefined;
    return w.op("scatter_add", [index, choice % 2 === 0 ? x : w.tame(x)], { rows: choice % 3 === 0 ? T : dim(16) });
  },
  function product(w, a, b, choice) {
    const shape = w.shape(a);
    if (shape.length < 2) return undefined;
    const [last, before] = [shape.at(-1), shape.at(-2)];
    for (const kind of [choice, choice + 1, choice + 2, choice + 3]) {
      const attrs = { transpose_a: kind % 4 >= 2, transpose_b: kind % 2 === 0 };
      const other = w.value(b, (t) => {
        if (t.dtype !== "f32" || t.shape.length !== shape.length || !sameShape(t.shape.slice(0, -2), shape.slice(0, -2))) return false;
        return t.shape.at(attrs.transpose_b ? -1 : -2)?.text === (attrs.transpose_a ? before : last)?.text;
      });
      if (other === undefined) continue;
      const made = w.op("matmul", [w.tame(a), choice < 4 ? w.op("sin", [other]) : other], attrs);
      return b % 2 === 0 ? made : w.op("relu", [made]);
    }
    return undefined;
  },
  function heads(w, _a, b, choice) {
    // Attention in single steps: products over slices that were moved, and a softmax between them.
    const x = w.rows("T", b);
    if (x === undefined) return undefined;
    const [n, d] = [1 + (choice % 2), 1 + (b % 3)];
    const all = w.linear(w.tame(x), 3 * n * d, choice % 3 !== 0);
    if (all === undefined) return undefined;
    const head = (i: number): ValueId => {
      const own = w.op("slice", [all], { axis: 1, start: dim(i * n * d), stop: dim((i + 1) * n * d), step: 1 });
      return w.op("transpose", [w.reshape(own, [T, dim(n), dim(d)])], { permutation: [1, 0, 2] });
    };
    const scores = w.op("matmul", [head(0), head(1)], { transpose_a: false, transpose_b: true });
    const mixed = w.op("matmul", [w.op("softmax", [scores], { axis: -1 }), head(2)], { transpose_a: false, transpose_b: false });
    return w.reshape(w.op("transpose", [mixed], { permutation: [1, 0, 2] }), [T, dim(n * d)]);
  },
  function gated(w, a, b, choice) {
    const [gate, value] = [w.linear(a, 1 + (b % 5), choice % 2 === 0), w.linear(a, 1 + (b % 5), choice % 2 === 0)];
    if (gate === undefined || value === undefined) return undefined;
    const product = w.op("mul", [w.op("silu", [gate]), w.tame(value)]);
    return choice < 4 ? product : w.op("concat", [product, value, gate], { axis: -1 });
  },
  function byWeight(w, a, b, choice) {
    const [rows, columns] = w.shape(a);
    if (w.shape(a).length !== 2 || rows === undefined || columns === undefined) return undefined;
    const n = 1 + (b % 10);
    if (choice % 3 === 0) {
      const k = constantOf(rows);
      return k === undefined ? undefined : w.op("matmul", [a, w.param([k, n])], { transpose_a: true, transpose_b: false });
    }
    const k = constantOf(columns);
    if (k === undefined) return undefined;
    return choice % 3 === 1
      ? w.op("matmul", [a, w.param([k, n])], { transpose_a: false, transpose_b: false })
      : w.op("matmul", [w.param([n, k]), w.tame(a)], { transpose_a: false, transpose_b: true });
  },
  function largest(w, a, b, choice) {
    // Of exact values, and used to look up others.
    const x = pick([...w.exact], b);
    const shape = x === undefined ? [] : w.shape(x);
    const [axis, rows] = [shape.length - 1, constantOf(w.shape(a)[0])];
    const known = constantOf(shape[axis]);
    if (x === undefined || known === undefined || known === 0 || !["f32", "i32"].includes(w.builder.typeOf(x).dtype)) return undefined;
    const at = w.op("argmax", [x], { axis });
    if (rows === undefined || rows === 0 || choice % 2 === 0) return at;
    return w.op("gather", [a, w.op("mod", [at, w.builder.constant("i32", w.shape(at), [rows])])]);
  },
  function attention(w, _a, b, choice, { segment, offsets }) {
    const of = w.rows("T", b);
    if (of === undefined) return undefined;
    const [heads, d] = [1 + (b % 2), 1 + (choice % 4)];
    const x = w.tame(of);
    const project = (): ValueId => w.reshape(w.linear(x, heads * d, choice % 2 === 0) ?? x, [T, dim(heads), dim(d)]);
    const [q, key, value] = [project(), project(), project()];
    const out = w.op("attention", [choice < 4 ? q : w.tame(q), key, value, segment, offsets, offsets], { scale: 0.5, causal: b % 3 === 0 });
    return w.reshape(out, [T, dim(heads * d)]);
  },
  function choose(w, _a, b, choice) {
    const known = w.value(b, (t) => t.dtype === "bool");
    const x = pick([...w.exact], b);
    const flag = known ?? (x === undefined ? undefined : w.op("lt", [x, w.op("neg", [x])]));
    const a = flag === undefined ? undefined : w.value(choice, (t) => t.dtype === "f32" && sameShape(t.shape, w.shape(flag)));
    if (flag === undefined || a === undefined) return undefined;
    const cond = choice % 2 === 0 ? flag : w.op("logical_not", [flag]);
    return w.op("select", [cond, a, w.op("neg", [w.like(a, b)])]);
  },
  function compare(w, _a, b, choice) {
    const a = pick([...w.exact], b);
    if (a === undefined) return undefined;
    const { shape, dtype } = w.builder.typeOf(a);
    const other = pick(
      [...w.exact].filter((v) => w.builder.typeOf(v).dtype === dtype && sameShape(w.shape(v), shape)),
      b + choice,
    );
    if (other === undefined) return undefined;
    return w.op(pick(["lt", "ge", "eq", "ne"], choice) ?? "lt", [a, other]);
  },
  function logic(w, _a, b, choice) {
    const flag = w.value(b, (t) => t.dtype === "bool");
    if (flag === undefined) return undefined;
    if (choice % 2 === 0) return w.op("cast", [flag], { dtype: choice % 4 === 0 ? "f32" : "i32" });
    return w.op(choice % 4 === 1 ? "logical_or" : "logical_and", [flag, w.like(flag, choice)]);
  },
  function whole(w, _a, b, choice) {
    const x = w.value(b, (t) => t.dtype === "i32" || t.dtype === "u8");
    if (x === undefined) return undefined;
    const { dtype, shape } = w.builder.typeOf(x);
    if (dtype === "u8") return w.op("cast", [x], { dtype: choice % 2 === 0 ? "f32" : "i32" });
    if (choice === 0) return w.op("cast", [x], { dtype: "u8" });
    if (choice === 1) return w.op("mul", [w.op("cast", [x], { dtype: "f32" }), w.builder.constant("f32", shape, [2 ** -8])]);
    const by = w.builder.constant("i32", shape, [choice === 2 ? -3 : choice]);
    return w.op(pick(["div", "mod", "sub", "minimum", "add"], choice + b) ?? "add", [x, by]);
  },
  function positions(w, a, b, choice) {
    const shape = w.shape(a);
    if (shape.length === 0) return undefined;
    const at = w.op("iota", [], { shape, axis: choice % shape.length, dtype: b % 2 === 0 ? "i32" : "f32" });
    return b % 2 === 0 ? at : w.op("add", [a, w.op("sin", [at])]);
  },
  function narrow(w, a, b, choice) {
    const dtype: DType = choice % 2 === 0 ? "f16" : "bf16";
    const small = w.value(b, (t) => t.dtype === dtype);
    if (small === undefined || choice < 3) return w.op("cast", [choice === 2 ? w.tame(a) : a], { dtype });
    if (choice < 5) return w.op("cast", [small], { dtype: "f32" });
    return w.op(pick(["add", "maximum", "sub"], b) ?? "add", [small, w.like(small, choice)]);
  },
  function movedNarrow(w, _a, b, choice) {
    const x = w.value(b, (t) => t.dtype !== "f32" && t.shape.length > 0);
    if (x === undefined) return undefined;
    const shape = w.shape(x);
    if (choice % 3 === 0) return w.op("concat", [x, w.like(x, choice)], { axis: choice % shape.length });
    if (choice % 3 === 1) return w.reshape(x, [dimProduct(shape)]);
    return shape.length < 2 ? undefined : w.op("transpose", [x], { permutation: shape.map((_, i) => (i + 1) % shape.length) });
  },
  function append(w, _a, b, choice, { cache }) {
    const rows = w.rows(choice % 3 === 0 ? "N" : "T", b);
    if (rows === undefined) return undefined;
    const made = choice % 2 === 0 ? rows : w.linear(rows, width, true);
    if (made === undefined || constantOf(w.shape(made)[1]) !== width) return undefined;
    // The old rows are read too, now and then: then nothing may be written in place.
    const whole = choice === 5 ? w.op("sin", [cache]) : choice === 7 ? (w.appended ?? cache) : cache;
    w.appended = w.op("write_rows", [whole, w.tame(made)], { at: dim(b % 6) });
    return b % 2 === 0 ? w.appended : w.op("reduce_max", [w.appended], { axes: [b % 3 === 0 ? 0 : 1], keep: false });
  },
  function ofParameters(w, _a, b, choice) {
    const p = w.param([2 + (b % 3), 3]);
    const active = w.op(pick(unary, choice) ?? "tanh", [p]);
    if (choice % 3 === 0) return w.op("softmax", [active], { axis: choice % 2 });
    return choice % 3 === 1 ? w.op("transpose", [active], { permutation: [1, 0] }) : w.reshape(active, [dim(3), dim(2 + (b % 3))]);
  },
  function weightOfParameters(w, a, b, choice) {
    const k = constantOf(w.shape(a).at(-1));
    if (k === undefined) return undefined;
    const weight = choice % 2 === 0 ? w.op("tanh", [w.param([3, k])]) : w.op("transpose", [w.param([k, 3])], { permutation: [1, 0] });
    const bias = b % 2 === 0 ? w.op("sin", [w.param([3])]) : w.param([3]);
    return w.op("linear", [a, weight, bias]);
  },
  function constants(w, a, b, choice) {
    const shape = w.shape(a);
    if (choice % 2 === 0) return w.op("mul", [a, w.builder.constant("f32", shape, [b / 4 - 1])]);
    const table = w.builder.constant("f32", [dim(3)], [0.5, -1, 2]);
    return choice === 1 ? w.builder.constant("f32", [dim(2), N], [0.25]) : w.op("sin", [table]);
  },
];
