// Generated graphs for fusion: layers as models have them, with readers, shapes and dtypes that make the compiler
// decide. More of what fusion may get wrong than spec/conformance/graphs.ts, and less of what single ops may. Values
// stay in a range where f32 and float64 can be compared, and what is compared exactly is computed exactly.

import * as fc from "fast-check";
import { dim, dimEval, dimProduct, type Dim, type DimEnv } from "../compiler/ir/dim.ts";
import { isFloat, type DType } from "../compiler/ir/dtype.ts";
import { printGraph } from "../compiler/ir/graph/print.ts";
import type { Graph, ValueId } from "../compiler/ir/graph/types.ts";
import { OpTypeError, type RefTensor } from "../ops/define.ts";
import { tensor } from "../ops/reference/tensor.ts";
import { capacity, moved, N, P, pick, sameShape, steps, T, width, Writer, type Inputs } from "./fusion-steps.ts";

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

/** The largest sizes, and how many elements a value may then have. */
const most: DimEnv = { T: 9, N: 6, P: 3 };
const elements = 3000;

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
  const cache = builder.state("c", { dtype: "f32", shape: [dim(capacity), wide] });
  w.values.push(...given, cache, ...kept);
  for (const v of given) w.exact.add(v);
  const inputs: Inputs = {
    cache,
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
    states: { s: zeros([3, 4]), r: zeros([12]), c: zeros([capacity, width]) },
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
  if (w.appended !== undefined) builder.update("c", w.appended);
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

const zeros = (shape: readonly number[]): RefTensor => tensor("f32", shape, new Array<number>(shape.reduce((a, b) => a * b, 1)).fill(0));

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
