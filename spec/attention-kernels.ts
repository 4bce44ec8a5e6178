// The kernel that fusion makes of one attention op, written from the op's own lowering, and data for it.

import { dim, dimMul, dimSymbol, type Dim } from "../compiler/ir/dim.ts";
import { add, dimExpr, load, mul, variable } from "../compiler/ir/kernel/build.ts";
import type { Expr, Kernel, KernelBuffer } from "../compiler/ir/kernel/types.ts";
import type { TensorType } from "../compiler/ir/graph/types.ts";
import { attention } from "../ops/composite/attention.ts";
import type { RefTensor } from "../ops/define.ts";
import { tensor } from "../ops/reference/tensor.ts";

export interface AttentionCase {
  /** Queries and keys of each segment. */
  readonly segments: readonly (readonly [queries: number, keys: number])[];
  readonly heads: number;
  readonly keyHeads: number;
  readonly d: number;
  readonly dv: number;
  readonly causal: boolean;
  readonly scale: number;
  /** q, k and v are slices of one [T, (heads + 2·keyHeads)·d] buffer; needs dv = d and as many keys as queries. */
  readonly packed?: boolean;
  /** The segment of each query where they do not lie in order, which the op forbids and a kernel does not need. */
  readonly segmentOf?: readonly number[];
  /** Counts of queries, keys and segments are sizes of a run. */
  readonly symbolic?: boolean;
}

export const total = (c: AttentionCase, which: 0 | 1): number => c.segments.reduce((n, s) => n + s[which], 0);

const f32 = (shape: readonly Dim[]): TensorType => ({ dtype: "f32", shape });
const i32 = (shape: readonly Dim[]): TensorType => ({ dtype: "i32", shape });

/** The parts of an expression that are `k`. */
function pick<K extends Expr["k"]>(e: Expr, k: K): Extract<Expr, { k: K }> {
  if (e.k !== k) throw new Error(`the lowering of attention has ${e.k} where ${k} was expected`);
  return e as Extract<Expr, { k: K }>;
}

const segmentsOf = (c: AttentionCase): readonly number[] => c.segmentOf ?? c.segments.flatMap(([n], p) => new Array<number>(n).fill(p));

export function attentionKernel(c: AttentionCase, name = "attend"): Kernel {
  const size = (symbol: string, n: number): Dim => (c.symbolic === true ? dimSymbol(symbol) : dim(n));
  const tq = size("T", total(c, 0));
  const tk = c.packed === true ? tq : size("S", total(c, 1));
  const after = c.symbolic === true ? dimSymbol("P1") : dim(c.segments.length + 1);
  const [h, hk, d, dv] = [dim(c.heads), dim(c.keyHeads), dim(c.d), dim(c.dv)];
  const types: readonly TensorType[] = [f32([tq, h, d]), f32([tk, hk, d]), f32([tk, hk, dv]), i32([tq]), i32([after]), i32([after])];
  const out = f32([tq, h, dv]);
  const rowMajor = (shape: readonly Dim[], index: readonly Expr[]): Expr =>
    index.reduce((sum, i, n) => (n === 0 ? i : add(mul(sum, dimExpr(shape[n] ?? dim(1))), i)));
  const whole = c.heads + 2 * c.keyHeads;
  const names = c.packed === true ? ["qkv", "qkv", "qkv"] : ["q", "k", "v"];
  const place = (operand: number, index: readonly Expr[]): Expr => {
    const shape = types[operand]?.shape ?? [];
    if (c.packed !== true || operand > 2) return rowMajor(shape, index);
    const offset = [0, c.heads * c.d, (c.heads + c.keyHeads) * c.d][operand] ?? 0;
    const [row, head, feature] = index;
    if (row === undefined || head === undefined || feature === undefined) throw new Error("q, k and v have three axes");
    return add(add(mul(row, dimExpr(whole * c.d)), add(mul(head, dimExpr(c.d)), dimExpr(offset))), feature);
  };
  const bufferOf = (operand: number): string => names[operand] ?? ["segment", "q_offsets", "k_offsets"][operand - 3] ?? "";
  const at = (operand: number, index: readonly Expr[]): Expr => load(bufferOf(operand), place(operand, index), operand < 3 ? "f32" : "i32");
  if (attention.lowering.kind !== "element") throw new Error("attention has a direct kernel");
  let fresh = 0;
  const [t, head, e] = [variable("t"), variable("h"), variable("e")];
  const value = attention.lowering.emit([t, head, e], {
    attrs: { scale: c.scale, causal: c.causal },
    types,
    out,
    at,
    atLinear: () => {
      throw new Error("attention reads by position");
    },
    fresh: (hint) => `${hint}${++fresh}`,
  });
  // select(from < to, Σ exp(score - top)·v / Σ exp(score - top), 0)
  const chosen = pick(value, "select");
  const bounds = pick(chosen.cond, "binary");
  const mixed = pick(pick(chosen.a, "binary").a, "fold");
  const weighted = pick(mixed.body, "binary");
  const score = pick(pick(pick(weighted.a, "unary").a, "binary").a, "binary");
  const dot = pick(score.a, "fold");
  const product = pick(dot.body, "binary");
  const buffers: readonly KernelBuffer[] = [
    ...(c.packed === true
      ? [{ name: "qkv", dtype: "f32" as const, shape: [tq, dimMul(dim(whole), d)], access: "read" as const }]
      : [0, 1, 2].map((n) => ({ name: bufferOf(n), dtype: "f32" as const, shape: types[n]?.shape ?? [], access: "read" as const }))),
    ...[3, ...(c.causal ? [4] : []), 5].map((n) => ({
      name: bufferOf(n),
      dtype: "i32" as const,
      shape: types[n]?.shape ?? [],
      access: "read" as const,
    })),
    { name: "out", dtype: "f32", shape: out.shape, access: "write" },
  ];
  return {
    name,
    axes: [
      { name: "t", extent: tq },
      { name: "h", extent: h },
      { name: "e", extent: dv },
    ],
    buffers,
    stages: [{ k: "store", axes: [], buffer: "out", index: rowMajor(out.shape, [t, head, e]), value }],
    schedule: [],
    pattern: {
      k: "attention",
      query: "t",
      head: "h",
      key: mixed.axis,
      inner: dot.axis,
      feature: "e",
      innerExtent: d,
      scale: Math.fround(c.scale),
      from: bounds.a,
      to: bounds.b,
      q: pick(product.a, "load"),
      key_: pick(product.b, "load"),
      value: pick(weighted.b, "load"),
    },
    sources: [],
  };
}

/** The sizes of a run. */
export function sizesOf(c: AttentionCase): Readonly<Record<string, number>> {
  return { T: total(c, 0), S: total(c, 1), P: c.segments.length, P1: c.segments.length + 1 };
}

export interface AttentionData {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

/** Numbers in -1 … 1 from a seed (xorshift). */
export function noise(count: number, seed: number, size = 1): Float32Array {
  let state = (seed * 2654435761) | 1;
  return Float32Array.from({ length: count }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state / 2 ** 31) * size;
  });
}

export function randomData(c: AttentionCase, seed: number, size = 1): AttentionData {
  const [tq, tk] = [total(c, 0), total(c, 1)];
  return {
    q: noise(tq * c.heads * c.d, seed, size),
    k: noise(tk * c.keyHeads * c.d, seed + 1, size),
    v: noise(tk * c.keyHeads * c.dv, seed + 2, size),
  };
}

function offsets(c: AttentionCase, which: 0 | 1): number[] {
  return c.segments.reduce<number[]>((all, s) => [...all, (all.at(-1) ?? 0) + s[which]], [0]);
}

/** The kernel's memory by its buffers' names. */
export function memoryOf(c: AttentionCase, data: AttentionData): Record<string, Float32Array | Int32Array> {
  const memory: Record<string, Float32Array | Int32Array> = {
    segment: Int32Array.from(segmentsOf(c)),
    q_offsets: Int32Array.from(offsets(c, 0)),
    k_offsets: Int32Array.from(offsets(c, 1)),
    out: new Float32Array(total(c, 0) * c.heads * c.dv).fill(12345),
  };
  if (c.packed !== true) return { ...memory, ...data };
  const [row, wide, narrow] = [(c.heads + 2 * c.keyHeads) * c.d, c.heads * c.d, c.keyHeads * c.d];
  const qkv = new Float32Array(total(c, 0) * row);
  for (let t = 0; t < total(c, 0); t++) {
    qkv.set(data.q.subarray(t * wide, (t + 1) * wide), t * row);
    qkv.set(data.k.subarray(t * narrow, (t + 1) * narrow), t * row + wide);
    qkv.set(data.v.subarray(t * narrow, (t + 1) * narrow), t * row + wide + narrow);
  }
  return { ...memory, qkv };
}

/** What the op says. */
export function expected(c: AttentionCase, data: AttentionData): RefTensor {
  const [tq, tk] = [total(c, 0), total(c, 1)];
  const of = (shape: readonly number[], values: Float32Array): RefTensor => tensor("f32", shape, [...values]);
  const ints = (values: readonly number[]): RefTensor => tensor("i32", [values.length], [...values]);
  return attention.reference(
    [
      of([tq, c.heads, c.d], data.q),
      of([tk, c.keyHeads, c.d], data.k),
      of([tk, c.keyHeads, c.dv], data.v),
      ints(segmentsOf(c)),
      ints(offsets(c, 0)),
      ints(offsets(c, 1)),
    ],
    { scale: c.scale, causal: c.causal },
    { dtype: "f32", shape: [tq, c.heads, c.dv] },
  );
}
