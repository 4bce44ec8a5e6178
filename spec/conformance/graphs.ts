// Generated graphs: well typed, with symbolic sizes, several ops deep, and inputs on which every value stays in a
// range where f32 and float64 can be compared. For printing, passes, fusion and devices. Does not reach for edge
// cases of single ops: the samples of the table do that.

import * as fc from "fast-check";
import { dim, dimConstant, dimMul, dimSymbol } from "../../compiler/ir/dim.ts";
import { GraphBuilder } from "../../compiler/ir/graph/build.ts";
import type { Graph, TensorType, ValueId } from "../../compiler/ir/graph/types.ts";
import type { RefTensor } from "../../ops/define.ts";
import { typeRule } from "../../ops/index.ts";
import { tensor } from "../../ops/reference/tensor.ts";

export interface GeneratedGraph {
  readonly graph: Graph;
  readonly inputs: Readonly<Record<string, RefTensor>>;
  readonly params: Readonly<Record<string, RefTensor>>;
}

/** One step: which kind of op, on which earlier values, with which choice. */
type Instruction = readonly [kind: number, a: number, b: number, choice: number];

const T = dimSymbol("T");
const N = dimSymbol("N");
const width = 4;

class Writer {
  readonly builder = new GraphBuilder("generated", typeRule);
  readonly floats: ValueId[] = [];
  readonly params: Record<string, RefTensor> = {};
  readonly #random: () => number;

  constructor(random: () => number) {
    this.#random = random;
  }

  data(count: number): number[] {
    return Array.from({ length: count }, () => Math.fround(this.#random()));
  }

  param(shape: readonly number[]): ValueId {
    const name = `p${Object.keys(this.params).length}`;
    this.params[name] = tensor("f32", shape, this.data(shape.reduce((a, b) => a * b, 1)));
    return this.builder.param(name, { dtype: "f32", shape: shape.map((n) => dim(n)) }, { kind: "normal", std: 0.5 });
  }
}

function pick<X>(list: readonly X[], i: number): X {
  const chosen = list[i % list.length];
  if (chosen === undefined) throw new Error("nothing to choose from");
  return chosen;
}

const sameShape = (a: TensorType, b: TensorType): boolean =>
  a.shape.length === b.shape.length && a.shape.every((d, i) => d.text === b.shape[i]?.text);

/** The steps; one that does not apply to the values it names gives undefined and is skipped. */
const steps: readonly ((w: Writer, a: ValueId, b: ValueId, choice: number, index: ValueId) => ValueId | undefined)[] = [
  (w, a, _b, choice) =>
    w.builder.op(pick(["neg", "abs", "tanh", "sigmoid", "gelu", "quick_gelu", "relu", "silu", "gelu_tanh", "erf"], choice), [a]),
  (w, a, b, choice) => {
    const other = w.floats.filter((v) => sameShape(w.builder.typeOf(v), w.builder.typeOf(a)));
    return w.builder.op(pick(["add", "sub", "maximum", "minimum", "mul"], choice), [w.builder.op("tanh", [a]), pick(other, b)]);
  },
  (w, a, _b, choice) => {
    const k = dimConstant(w.builder.typeOf(a).shape.at(-1) ?? T);
    if (k === undefined) return undefined;
    const n = 1 + (choice % 6);
    return w.builder.op("linear", choice % 2 === 0 ? [a, w.param([n, k]), w.param([n])] : [a, w.param([n, k])]);
  },
  (w, a, _b, choice) => {
    const rank = w.builder.typeOf(a).shape.length;
    return rank === 0 ? undefined : w.builder.op("softmax", [a], { axis: choice % rank });
  },
  (w, a, _b, choice) => {
    const d = dimConstant(w.builder.typeOf(a).shape.at(-1) ?? T);
    if (d === undefined || d < 2) return undefined;
    return choice % 2 === 0
      ? w.builder.op("layer_norm", [a, w.param([d]), w.param([d])], { eps: 0.1 })
      : w.builder.op("rms_norm", [a, w.param([d])], { eps: 0.1 });
  },
  (w, a, _b, choice) => {
    const { shape } = w.builder.typeOf(a);
    if (shape.length === 0) return undefined;
    const axis = choice % shape.length;
    const reduced = w.builder.op(pick(["mean", "reduce_max", "reduce_min", "mean"], choice), [a], { axes: [axis], keep: true });
    return choice % 3 === 0 ? reduced : w.builder.op("sub", [a, w.builder.op("broadcast", [reduced], { shape })]);
  },
  (w, a, _b, choice) => {
    const { shape } = w.builder.typeOf(a);
    const order = shape.map((_, i) => (i + 1 + (choice % 2)) % shape.length);
    return shape.length < 2 ? undefined : w.builder.op("transpose", [a], { permutation: order });
  },
  (w, a, _b, choice) => {
    const { shape } = w.builder.typeOf(a);
    const last = dimConstant(shape.at(-1) ?? T);
    if (choice % 2 === 0 && last !== undefined && last % 2 === 0)
      return w.builder.op("reshape", [a], { shape: [...shape.slice(0, -1), dim(2), dim(last / 2)] });
    const [first, second] = shape;
    if (first === undefined || second === undefined) return undefined;
    return w.builder.op("reshape", [a], { shape: [dimMul(first, second), ...shape.slice(2)] });
  },
  (w, a, b, choice) => {
    const { shape } = w.builder.typeOf(a);
    if (shape.length === 0) return undefined;
    const axis = choice % shape.length;
    const others = w.floats.filter((v) => {
      const own = w.builder.typeOf(v).shape;
      return own.length === shape.length && own.every((d, i) => i === axis || d.text === shape[i]?.text);
    });
    return w.builder.op("concat", [a, pick(others, b)], { axis });
  },
  (w, a, b, choice) => {
    const { shape } = w.builder.typeOf(a);
    const axis = choice % Math.max(shape.length, 1);
    const size = dimConstant(shape[axis] ?? T);
    if (size === undefined || size < 1) return undefined;
    const start = b % size;
    return w.builder.op("slice", [a], { axis, start: dim(start), stop: dim(size), step: 1 + (choice % 2) });
  },
  (w, a, b, choice) =>
    w.builder.typeOf(a).shape.length === 0
      ? undefined
      : w.builder.op("pad", [a], { axis: 0, before: dim(b % 3), after: dim(choice % 3), value: 0.5 }),
  (w, a, _b, _choice, index) => (w.builder.typeOf(a).shape[0]?.text === "T" ? w.builder.op("gather", [a, index]) : undefined),
  (w, a) => {
    const rank = w.builder.typeOf(a).shape.length;
    return rank < 2 || rank > 3
      ? undefined
      : w.builder.op("matmul", [w.builder.op("tanh", [a]), w.builder.op("tanh", [a])], { transpose_a: false, transpose_b: true });
  },
  (w, a, b) => {
    const other = pick(
      w.floats.filter((v) => sameShape(w.builder.typeOf(v), w.builder.typeOf(a))),
      b,
    );
    return w.builder.op("select", [w.builder.op("lt", [a, other]), a, other]);
  },
];

function write(instructions: readonly Instruction[], t: number, n: number, seed: number): GeneratedGraph {
  let state = seed | 0;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return (state >> 8) / 2 ** 23;
  };
  const w = new Writer(random);
  w.builder.symbol("T", 1, 64);
  w.builder.symbol("N", 1, 64);
  const inputs: Record<string, RefTensor> = {};
  for (const name of ["x", "y"]) {
    w.floats.push(w.builder.input(name, { dtype: "f32", shape: [T, dim(width)] }));
    inputs[name] = tensor("f32", [t, width], w.data(t * width));
  }
  const index = w.builder.input("index", { dtype: "i32", shape: [N] });
  inputs.index = tensor(
    "i32",
    [n],
    Array.from({ length: n }, () => Math.floor(((random() + 1) / 2) * t) % t),
  );
  for (const [kind, a, b, choice] of instructions) {
    const value = pick(steps, kind)(w, pick(w.floats.toReversed(), a), b, choice, index);
    if (value !== undefined && w.builder.typeOf(value).shape.length <= 4) w.floats.push(value);
  }
  const used = new Set(w.builder.nodesFrom(0).flatMap((node) => (node.kind === "op" ? node.operands : [])));
  const ends = w.floats.filter((v) => !used.has(v));
  for (const [i, value] of (ends.length > 0 ? ends : w.floats.slice(-1)).entries()) w.builder.output(`out${i}`, value);
  return { graph: w.builder.build(), inputs, params: w.params };
}

/** Graphs of up to `most` steps over x, y: f32[T, 4] and index: i32[N], every unused value an output. */
export function generatedGraphs(most = 10): fc.Arbitrary<GeneratedGraph> {
  const instruction: fc.Arbitrary<Instruction> = fc.tuple(fc.nat(steps.length - 1), fc.nat(3), fc.nat(7), fc.nat(7));
  return fc
    .tuple(
      fc.array(instruction, { minLength: 1, maxLength: most }),
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 6 }),
      fc.integer(),
    )
    .map(([instructions, t, n, seed]) => write(instructions, t, n, seed));
}
