// Generated graphs for fusion: layers as models have them, with readers, shapes and dtypes that make the compiler
// decide. More of what fusion may get wrong than spec/conformance/graphs.ts, and less of what single ops may. Values
// stay in a range where f32 and float64 can be compared, and what is compared exactly is computed exactly.

import * as fc from "fast-check";
import { dim, dimConstant, dimEval, dimMul, dimProduct, dimSymbol, type Dim, type DimEnv } from "../compiler/ir/dim.ts";
import { isFloat, type DType } from "../compiler/ir/dtype.ts";
import { printGraph } from "../compiler/ir/graph/print.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import type { Attrs, Graph, TensorType, ValueId } from "../compiler/ir/graph/types.ts";
import { OpTypeError, type RefTensor } from "../ops/define.ts";
import { typeRule } from "../ops/index.ts";
import { tensor } from "../ops/reference/tensor.ts";

type Tensors = Readonly<Record<string, RefTensor>>;

export interface FusionGraph {
  /** What a failure prints. */
  readonly [fc.toStringMethod]: () => string;
  readonly graph: Graph;
  readonly params: Tensors;
  /** Zero at first. */
  readonly states: Tensors;
  /** Inputs of one run after the other, of different sizes. */
  readonly runs: readonly Tensors[];
}

/** One step: which one, on which earlier values, with which choices. */
type Instruction = readonly [step: number, a: number, b: number, choice: number];

/** Rows, indices, and one more than the segments of the rows. */
const [T, N, P] = [dimSymbol("T"), dimSymbol("N"), dimSymbol("P")];
const width = 6;
/** The largest sizes, and how many elements a value may then have. */
const most: DimEnv = { T: 9, N: 6, P: 3 };
const elements = 3000;

function pick<X>(list: readonly X[], i: number): X | undefined {
  return list[i % Math.max(list.length, 1)];
}

const constantOf = (d: Dim | undefined): number | undefined => (d === undefined ? undefined : dimConstant(d));
const sameShape = (a: readonly Dim[], b: readonly Dim[]): boolean => a.length === b.length && a.every((d, i) => d.text === b[i]?.text);

class Writer {
  readonly builder = new GraphBuilder("fusion", typeRule);
  readonly values: ValueId[] = [];
  /** Values that are computed without rounding: they may be compared with each other. */
  readonly exact = new Set<ValueId>();
  readonly params: Record<string, RefTensor> = {};
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

interface Inputs {
  readonly index: ValueId;
  readonly taps: ValueId;
  readonly segment: ValueId;
  readonly offsets: ValueId;
}

type Step = (w: Writer, a: ValueId, b: number, choice: number, inputs: Inputs) => ValueId | undefined;

const unary = ["neg", "abs", "tanh", "sigmoid", "gelu", "quick_gelu", "relu", "silu", "erf", "sin"];
const binary = ["add", "sub", "maximum", "minimum", "mul"];

/** Exact values moved about, so that flags depend on movement too. */
const moved: Step = function moved(w, _a, b, choice) {
  const x = pick([...w.exact], b);
  const shape = x === undefined ? [] : w.shape(x);
  if (x === undefined || shape.length === 0) return undefined;
  if (choice % 3 === 0) return w.op("transpose", [x], { permutation: shape.map((_, i) => (i + 1) % shape.length) });
  if (choice % 3 === 1) return w.op("concat", [x, x], { axis: choice % shape.length });
  return w.broadcast(x, [dim(2), ...shape]);
};

/** Each step is a piece of a model. One that does not apply to its values gives undefined. */
const steps: readonly Step[] = [
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
    const flag = w.value(b, (t) => t.dtype === "bool");
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

function write(instructions: readonly Instruction[], ends: readonly number[], sizes: readonly Sizes[], seed: number): FusionGraph {
  let state = seed | 0;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return (state >> 8) / 2 ** 23;
  };
  const w = new Writer(random);
  const { builder } = w;
  builder.symbol("T", 0, most.T);
  builder.symbol("N", 0, most.N);
  builder.symbol("P", 2, most.P);
  const input = (name: string, dtype: DType, shape: readonly Dim[]): ValueId => builder.input(name, { dtype, shape });
  const wide = dim(width);
  const given = [
    input("x", "f32", [T, wide]),
    input("y", "f32", [T, wide]),
    input("z", "f32", [dim(2), T, dim(3)]),
    input("u", "u8", [T, wide]),
  ];
  const kept = [builder.state("s", { dtype: "f32", shape: [dim(3), dim(4)] }), builder.state("r", { dtype: "f32", shape: [dim(12)] })];
  w.values.push(...given, ...kept);
  for (const v of given) w.exact.add(v);
  const inputs: Inputs = {
    index: input("index", "i32", [N]),
    taps: input("taps", "i32", [N, dim(3)]),
    segment: input("segment", "i32", [T]),
    offsets: input("offsets", "i32", [P]),
  };
  for (const [step, a, b, choice] of instructions) {
    const from = w.value(a);
    const chosen = pick(steps, step);
    if (from === undefined || chosen === undefined) continue;
    const value = attempt(() => chosen(w, from, b, choice, inputs));
    if (value === undefined) continue;
    const { shape } = builder.typeOf(value);
    if (shape.length > 4 || dimEval(dimProduct(shape), most) > elements) continue;
    w.values.push(value);
    // What is moved, and what whole numbers are made of, is not rounded.
    if (chosen === moved || builder.typeOf(value).dtype === "i32") w.exact.add(value);
  }
  finish(w, ends);
  const graph = builder.build();
  return {
    [fc.toStringMethod]: () =>
      `${printGraph(graph, { locations: false })}runs of ${sizes.map(({ t, n, cuts }) => `T=${t} N=${n} cuts=[${cuts.join()}]`).join(" and ")}`,
    graph,
    params: w.params,
    states: { s: tensor("f32", [3, 4], new Array<number>(12).fill(0)), r: tensor("f32", [12], new Array<number>(12).fill(0)) },
    runs: sizes.map((s) => inputsOf(s, w)),
  };
}

/** A step whose ops do not take its values has not happened. */
function attempt(make: () => ValueId | undefined): ValueId | undefined {
  try {
    return make();
  } catch (error) {
    if (error instanceof OpTypeError) return undefined;
    throw error;
  }
}

/** Every unused value is a result, and some that are used; states get what has their type. */
function finish(w: Writer, ends: readonly number[]): void {
  const { builder } = w;
  const used = new Set(builder.nodesFrom(0).flatMap((node) => (node.kind === "op" ? node.operands : [])));
  const results = w.values.filter((v) => !used.has(v) && builder.nodesFrom(v)[0]?.kind === "op");
  for (const end of ends) results.push(pick(w.values, end) ?? 0);
  for (const [i, value] of results.entries()) builder.output(`out${i}`, value);
  updates(w, ends);
}

/** By the number of ends: none; one takes the old value of the other, which is replaced before it; or any value of its type. */
function updates(w: Writer, ends: readonly number[]): void {
  const { builder } = w;
  const held = new Map(builder.nodesFrom(0).flatMap((n) => (n.kind === "state" ? [[n.name, n] as const] : [])));
  const [s, r] = [held.get("s"), held.get("r")];
  if (ends.length === 0 || s === undefined || r === undefined) return;
  if (ends.length === 1) {
    builder.update("r", w.reshape(s.id, r.type.shape));
    builder.update("s", w.op("cos", [s.id]));
    builder.output("held", r.id);
    return;
  }
  for (const { name, type } of [s, r]) {
    const value = w.value(ends[0] ?? 0, (t) => t.dtype === "f32" && sameShape(t.shape, type.shape));
    if (value !== undefined) builder.update(name, ends.length === 2 ? value : w.op("cos", [value]));
  }
}

interface Sizes {
  readonly t: number;
  readonly n: number;
  /** Where segments end, as parts of all queries. */
  readonly cuts: readonly number[];
}

function inputsOf({ t, n: wanted, cuts }: Sizes, w: Writer): Tensors {
  // Rows of nothing cannot be looked up.
  const n = t === 0 ? 0 : wanted;
  const bytes = (count: number, below: number): number[] => w.numbers(count).map((x) => Math.floor(((x + 1) / 2) * below) % below);
  const offsets = [0, ...cuts.map((c) => Math.floor((c * t) / 8)).sort((a, b) => a - b), t];
  const segment = Array.from({ length: t }, (_, i) => offsets.findLastIndex((o) => o <= i));
  return {
    x: tensor("f32", [t, width], w.numbers(t * width)),
    y: tensor("f32", [t, width], w.numbers(t * width)),
    z: tensor("f32", [2, t, 3], w.numbers(6 * t)),
    u: tensor("u8", [t, width], bytes(t * width, 256)),
    index: tensor("i32", [n], bytes(n, Math.max(t, 1))),
    taps: tensor("i32", [n, 3], bytes(3 * n, Math.max(t, 1))),
    segment: tensor("i32", [t], segment),
    offsets: tensor("i32", [offsets.length], offsets),
  };
}

/** Graphs of up to `longest` steps, with inputs for two runs. */
export function fusionGraphs(longest = 8): fc.Arbitrary<FusionGraph> {
  const instruction: fc.Arbitrary<Instruction> = fc.tuple(fc.nat(steps.length - 1), fc.nat(3), fc.nat(7), fc.nat(7));
  const sizes: fc.Arbitrary<Sizes> = fc.record({
    t: fc.oneof({ weight: 1, arbitrary: fc.constantFrom(0, 1) }, { weight: 4, arbitrary: fc.integer({ min: 2, max: 9 }) }),
    n: fc.nat(6),
    cuts: fc.array(fc.nat(8), { maxLength: 1 }),
  });
  return fc
    .tuple(
      fc.array(instruction, { minLength: 1, maxLength: longest }),
      fc.array(fc.nat(12), { maxLength: 4 }),
      fc.tuple(sizes, sizes),
      fc.integer(),
    )
    .map(([instructions, ends, both, seed]) => write(instructions, ends, both, seed));
}

/** Is an element of the dtype rounded more than f32? */
export const isNarrow = (dtype: DType): boolean => isFloat(dtype) && dtype !== "f32";
