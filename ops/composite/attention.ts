// attention over ragged segments: a direct kernel that never holds the scores, a derivative that does not either
// (attention-gradient.ts), and a dense decomposition for who has neither.

import { dim, dimAdd, dimConstant, dimExactDiv, dimMul, type Dim } from "../../compiler/ir/dim.ts";
import type { Attrs, ValueId } from "../../compiler/ir/graph/types.ts";
import {
  add as addExpr,
  binary,
  dimExpr,
  div as divExpr,
  f32,
  fold,
  i32,
  mul as mulExpr,
  select,
  sub as subExpr,
  unary,
  variable,
} from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp, OpTypeError, type Emit } from "../define.ts";
import { add, broadcastTo, div, reshape, scale as scaled, splat, sub, unreduce, zerosLike } from "../emit.ts";
import { lt, part } from "../expr.ts";
import { item, tabulate, tensor } from "../reference/tensor.ts";
import { boolAttr, floatAttr, needDType, needRank, needSameSize, operandAt, sizeAt, typeText } from "../rules.ts";
import { reals, smooth, tensorOf } from "../sampling.ts";
import { ofLargest } from "../tolerances.ts";

const scale = floatAttr("scale", "Multiplies the scores; D^-½ as a rule.");
const causal = boolAttr(
  "causal",
  "A query sees no key that is later than itself; the last query of a segment stands at its last key.",
  false,
);

/** Query heads that share a key head. */
function groups(q: readonly Dim[], k: readonly Dim[]): Dim | undefined {
  const [hq, hk] = [sizeAt(q, 1), sizeAt(k, 1)];
  return hq.text === hk.text ? dim(1) : dimExactDiv(hq, hk);
}

export const attention = defineOp({
  name: "attention",
  doc: "result[t, h] = Σₛ softmaxₛ(scale · q[t, h] · k[s, g]) · v[s, g], where s runs over the keys of t's own segment, k_offsets[p] … k_offsets[p+1]-1 with p = q_segment[t], and g = h / (Hq/Hk). Segments do not see each other; one without keys gives zeros.",
  kind: "composite",
  operands: [
    { name: "q", doc: "f32[Tq, Hq, D]" },
    { name: "k", doc: "f32[Tk, Hk, D]; Hq is a multiple of Hk" },
    { name: "v", doc: "f32[Tk, Hk, Dv]" },
    { name: "q_segment", doc: "i32[Tq], ascending, in 0 … P-1" },
    { name: "q_offsets", doc: "i32[P+1], ascending from 0 to Tq: where the queries of each segment begin; read when causal" },
    { name: "k_offsets", doc: "i32[P+1], ascending from 0 to Tk: where the keys of each segment begin" },
  ],
  attrs: [scale.spec, causal.spec],
  type: (operands, attrs) => {
    scale.of(attrs);
    causal.of(attrs);
    for (const i of [0, 1, 2]) {
      needDType(operands, i, (d) => d === "f32", "f32");
      needRank(operands, i, 3);
    }
    for (const i of [3, 4, 5]) {
      needDType(operands, i, (d) => d === "i32", "i32");
      needRank(operands, i, 1);
    }
    needSameSize(operands, 1, 2, 0, 2);
    needSameSize(operands, 2, 0, 1, 0);
    needSameSize(operands, 2, 1, 1, 1);
    needSameSize(operands, 3, 0, 0, 0);
    needSameSize(operands, 5, 0, 4, 0);
    const [q, k, v] = [operandAt(operands, 0), operandAt(operands, 1), operandAt(operands, 2)];
    if (groups(q.shape, k.shape) === undefined)
      throw new OpTypeError(
        1,
        "the heads of q are not a multiple of the heads of k",
        `a divisor of ${sizeAt(q.shape, 1).text} heads`,
        typeText(k),
        0,
        [q, k].some((t) => dimConstant(sizeAt(t.shape, 1)) === undefined),
      );
    return { dtype: "f32", shape: [sizeAt(q.shape, 0), sizeAt(q.shape, 1), sizeAt(v.shape, 2)] };
  },
  reference: (operands, attrs, out) => {
    const [q, k, v] = [operandAt(operands, 0), operandAt(operands, 1), operandAt(operands, 2)];
    const [segment, qOffsets, kOffsets] = [operandAt(operands, 3), operandAt(operands, 4), operandAt(operands, 5)];
    const [hq, d] = [item(q.shape, 1), item(q.shape, 2)];
    const [hk, dv] = [item(k.shape, 1), item(v.shape, 2)];
    // Positions come row-major, so what all elements of one head share is computed at its first.
    let powers: number[] = [];
    let [from, sum] = [0, 0];
    return tabulate("f32", out.shape, ([t = 0, h = 0, e = 0]) => {
      const g = Math.floor(h / (hq / hk));
      if (e === 0) {
        const p = item(segment.data, t);
        from = item(kOffsets.data, p);
        const end = item(kOffsets.data, p + 1);
        const to = causal.of(attrs) ? Math.min(end, t + 1 - item(qOffsets.data, p + 1) + end) : end;
        const scores: number[] = [];
        for (let s = from; s < to; s++) {
          let dot = 0;
          for (let i = 0; i < d; i++) dot += (q.data[(t * hq + h) * d + i] ?? NaN) * (k.data[(s * hk + g) * d + i] ?? NaN);
          scores.push(dot * Math.fround(scale.of(attrs)));
        }
        const top = scores.reduce((a, b) => Math.max(a, b), -Infinity);
        powers = scores.map((s) => Math.exp(s - top));
        sum = powers.reduce((a, b) => a + b, 0);
      }
      return powers.length === 0 ? 0 : powers.reduce((a, w, i) => a + w * (v.data[((from + i) * hk + g) * dv + e] ?? NaN), 0) / sum;
    });
  },
  lowering: {
    kind: "element",
    emit: (index, { at, types, attrs, fresh }) => {
      const [t, h, e] = [part(index, 0), part(index, 1), part(index, 2)];
      const [q, k] = [operandAt(types, 0), operandAt(types, 1)];
      const group = groups(q.shape, k.shape) ?? dim(1);
      const g = dimConstant(group) === 1 ? h : divExpr(h, dimExpr(group));
      const p = at(3, [t]);
      const after = addExpr(p, i32(1));
      const from = at(5, [p]);
      const end = at(5, [after]);
      const to = causal.of(attrs) ? binary("min", end, addExpr(subExpr(addExpr(t, i32(1)), at(4, [after])), end)) : end;
      const score = (s: Expr): Expr => {
        const inner = fresh("d");
        const dot = fold(
          "sum",
          inner,
          i32(0),
          dimExpr(sizeAt(q.shape, 2)),
          mulExpr(at(0, [t, h, variable(inner)]), at(1, [s, g, variable(inner)])),
        );
        return mulExpr(dot, f32(scale.of(attrs)));
      };
      const over = (op: "sum" | "max", hint: string, body: (s: Expr) => Expr): Expr => {
        const s = fresh(hint);
        return fold(op, s, from, to, body(variable(s)));
      };
      const top = over("max", "s", score);
      const weight = (s: Expr): Expr => unary("exp", subExpr(score(s), top));
      const total = over("sum", "s", weight);
      const mixed = over("sum", "s", (s) => mulExpr(weight(s), at(2, [s, g, e])));
      return select(lt(from, to), divExpr(mixed, total), f32(0));
    },
  },
  decomposition: dense,
  derivative: {
    kind: "vjp",
    build: (emit, { operands, output, cotangent, attrs }) => gradients(emit, operands, output, cotangent, attrs),
  },
  // As if every query saw every key: which keys it sees is known only at run time.
  flops: (operands, _attrs, out) => {
    const [q, k] = [operandAt(operands, 0), operandAt(operands, 1)];
    const pairs = dimMul(dimMul(sizeAt(q.shape, 0), sizeAt(q.shape, 1)), sizeAt(k.shape, 0));
    return dimMul(dimMul(dim(2), pairs), dimAdd(sizeAt(q.shape, 2), sizeAt(out.shape, 2)));
  },
  recompute: false,
  tolerance: ofLargest(
    8e-6,
    2e-6,
    "Scores, weights and their sums are f32; the result is a weighted mean of values, so the error scales with the largest.",
  ),
  samples: (fc) =>
    fc
      .tuple(
        fc.array(
          fc.tuple(fc.nat(4), fc.oneof({ weight: 5, arbitrary: fc.integer({ min: 1, max: 6 }) }, { weight: 1, arbitrary: fc.constant(0) })),
          { minLength: 1, maxLength: 3 },
        ),
        fc.constantFrom([1, 1], [2, 1], [2, 2], [4, 2], [3, 1]),
        fc.constantFrom(1, 2, 4, 5, 8),
        fc.constantFrom(1, 3, 4, 8),
        fc.boolean(),
      )
      .chain(([segments, heads, d, dv, isCausal]) => {
        const [hq = 1, hk = 1] = heads;
        const running = (of: (pair: readonly [number, number]) => number): number[] =>
          segments.reduce<number[]>((all, pair) => [...all, (all.at(-1) ?? 0) + of(pair)], [0]);
        const [qs, ks] = [running(([n]) => n), running(([, n]) => n)];
        const [tq, tk] = [qs.at(-1) ?? 0, ks.at(-1) ?? 0];
        const segment = segments.flatMap(([n], p) => new Array<number>(n).fill(p));
        const of = (shape: readonly number[]) => tensorOf(fc, "f32", shape, reals(fc, -2, 2));
        return fc.tuple(of([tq, hq, d]), of([tk, hk, d]), of([tk, hk, dv])).map((qkv) =>
          smooth([...qkv, tensor("i32", [tq], segment), tensor("i32", [qs.length], qs), tensor("i32", [ks.length], ks)], {
            scale: d ** -0.5,
            causal: isCausal,
          }),
        );
      }),
});

/** Cotangents of q, k and v; what several query heads add to a key head is summed. */
function gradients(emit: Emit, operands: readonly ValueId[], output: ValueId, g: ValueId, attrs: Attrs): readonly (ValueId | undefined)[] {
  const [q, k, v] = [operandAt(operands, 0), operandAt(operands, 1), operandAt(operands, 2)];
  const [segment, qOffsets, kOffsets] = [operandAt(operands, 3), operandAt(operands, 4), operandAt(operands, 5)];
  const log = emit.op("attention_log", [q, k, segment, qOffsets, kOffsets], attrs);
  const delta = emit.op("reduce_sum", [emit.op("mul", [g, output])], { axes: [2], keep: false });
  // Keys that begin where queries do are in their segments.
  const ofKey = kOffsets === qOffsets ? segment : keySegments(emit, kOffsets, sizeAt(emit.typeOf(k).shape, 0));
  const dq = emit.op("attention_dq", [q, k, v, segment, qOffsets, kOffsets, log, delta, g], attrs);
  const dk = emit.op("attention_dk", [q, k, v, ofKey, qOffsets, kOffsets, log, delta, g], attrs);
  const dv = emit.op("attention_dv", [q, k, ofKey, qOffsets, kOffsets, log, g], attrs);
  const together = (x: ValueId): ValueId => {
    const [t, hq, d] = emit.typeOf(x).shape;
    const hk = sizeAt(emit.typeOf(k).shape, 1);
    if (t === undefined || hq === undefined || d === undefined || hq.text === hk.text) return x;
    const shared = reshape(emit, x, [t, hk, groups([t, hq], [t, hk]) ?? dim(1), d]);
    return emit.op("reduce_sum", [shared], { axes: [2], keep: false });
  };
  return [dq, together(dk), together(dv), undefined, undefined, undefined];
}

/** i32[Tk]: the segment of each key, which is how many of the segments behind the first begin at it or before. */
function keySegments(emit: Emit, offsets: ValueId, tk: Dim): ValueId {
  const size = sizeAt(emit.typeOf(offsets).shape, 0);
  const ends = emit.op("slice", [offsets], { axis: 0, start: dim(1), stop: size, step: 1 });
  const shape = [tk, sizeAt(emit.typeOf(ends).shape, 0)];
  const key = emit.op("iota", [], { shape, axis: 0, dtype: "i32" });
  const before = emit.op("cast", [emit.op("le", [broadcastTo(emit, ends, shape), key])], { dtype: "i32" });
  return emit.op("reduce_sum", [before], { axes: [1], keep: false });
}

/**
 * Scores of all queries with all keys, [Hk, G, Tq, Tk], masked to the pairs that may see each other. Masked scores
 * are the lowest finite number before exp, never -infinity, so that a row without keys gives 0 and not NaN, and
 * no cotangent is multiplied by infinity.
 */
function dense(emit: Emit, operands: readonly ValueId[], attrs: Attrs): ValueId {
  const [q, k, v] = [operandAt(operands, 0), operandAt(operands, 1), operandAt(operands, 2)];
  const [tq, hq, d] = ((s) => [sizeAt(s, 0), sizeAt(s, 1), sizeAt(s, 2)] as const)(emit.typeOf(q).shape);
  const [tk, hk, dv] = ((s) => [sizeAt(s, 0), sizeAt(s, 1), sizeAt(s, 2)] as const)(emit.typeOf(v).shape);
  const group = groups([tq, hq], [tk, hk]) ?? dim(1);
  const rows = dimMul(group, tq);
  // [Tq, Hk, G, D] -> [Hk, G·Tq, D]: the queries of one key head are one matrix.
  const queries = reshape(emit, emit.op("transpose", [reshape(emit, q, [tq, hk, group, d])], { permutation: [1, 2, 0, 3] }), [hk, rows, d]);
  const keys = emit.op("transpose", [k], { permutation: [1, 0, 2] });
  const values = emit.op("transpose", [v], { permutation: [1, 0, 2] });
  const scores = scaled(emit, emit.op("matmul", [queries, keys], { transpose_a: false, transpose_b: true }), scale.of(attrs));
  const shape = [hk, group, tq, tk];
  const seen = broadcastTo(emit, visible(emit, operands, attrs, tq, tk), shape);
  const all = reshape(emit, scores, shape);
  const masked = emit.op("select", [seen, all, splat(emit, all, -3.4028234663852886e38)]);
  const top = emit.op("reduce_max", [masked], { axes: [3], keep: true });
  const raised = emit.op("exp", [sub(emit, masked, unreduce(emit, top, [3], shape))]);
  const powers = emit.op("select", [seen, raised, zerosLike(emit, raised)]);
  const sum = emit.op("reduce_sum", [powers], { axes: [3], keep: true });
  const divisor = emit.op("select", [emit.op("eq", [sum, zerosLike(emit, sum)]), splat(emit, sum, 1), sum]);
  const weights = reshape(emit, div(emit, powers, unreduce(emit, divisor, [3], shape)), [hk, rows, tk]);
  const mixed = emit.op("matmul", [weights, values], { transpose_a: false, transpose_b: false });
  return reshape(emit, emit.op("transpose", [reshape(emit, mixed, [hk, group, tq, dv])], { permutation: [2, 0, 1, 3] }), [tq, hq, dv]);
}

/** bool[Tq, Tk]: whether the query may see the key. */
function visible(emit: Emit, operands: readonly ValueId[], attrs: Attrs, tq: Dim, tk: Dim): ValueId {
  const [segment, qOffsets, kOffsets] = [operandAt(operands, 3), operandAt(operands, 4), operandAt(operands, 5)];
  const after = add(emit, segment, splat(emit, segment, 1));
  const column = (x: ValueId): ValueId => broadcastTo(emit, reshape(emit, x, [tq, dim(1)]), [tq, tk]);
  const key = emit.op("iota", [], { shape: [tq, tk], axis: 1, dtype: "i32" });
  const end = emit.op("gather", [kOffsets, after]);
  let to = end;
  if (causal.of(attrs)) {
    const next = emit.op("iota", [], { shape: [tq], axis: 0, dtype: "i32" });
    const distance = sub(emit, add(emit, next, splat(emit, next, 1)), emit.op("gather", [qOffsets, after]));
    to = emit.op("minimum", [end, add(emit, distance, end)]);
  }
  const begun = emit.op("ge", [key, column(emit.op("gather", [kOffsets, segment]))]);
  return emit.op("logical_and", [begun, emit.op("lt", [key, column(to)])]);
}
