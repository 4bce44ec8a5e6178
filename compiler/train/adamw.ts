// One AdamW step as graph ops: gradients of several runs added up, their norm, clipping, moments, the new parameter.
// A step whose gradient is not finite changes nothing. Knows neither the loss nor what made the gradients.
//
//   m ← β₁m + (1-β₁)g    v ← β₂v + (1-β₂)g²    p ← p(1 - rate·decay) - rate · (m/(1-β₁ᵗ)) / (√v/√(1-β₂ᵗ) + eps)

import type { GraphBuilder } from "../ir/graph/build.ts";
import type { ParamInit, TensorType, ValueId } from "../ir/graph/types.ts";
import { largestScale, type Recipe, type TrainedParameter } from "../ir/plan/training.ts";
import { add, broadcastTo, div, mul, splat, sub } from "../../ops/emit.ts";

/** A parameter that is a state of the graph, with its gradient in this run. */
export interface Trained {
  readonly name: string;
  readonly value: ValueId;
  readonly gradient: ValueId;
  readonly type: TensorType;
  readonly init?: ParamInit;
  /** It is no parameter of the graph as it is written. */
  readonly added: boolean;
  readonly rate: number;
  readonly decay: number;
}

export interface StepNames {
  readonly inputs: Recipe["inputs"];
  readonly gradientNorm: string;
}

export interface StepSettings {
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly clip?: number | undefined;
  readonly accumulate: number;
  /** Where the loss was multiplied before it was differentiated. */
  readonly scaling?: { readonly every: number; readonly scale: ValueId } | undefined;
}

/** States of loss scaling. */
export const scaleName = "optimiser.scale";
export const goodName = "optimiser.good";

const scalar = { dtype: "f32", shape: [] } as const;

/** Adds the step to a graph: inputs, the optimiser's states, updates, and the norm as an output. */
export function adamw(
  b: GraphBuilder,
  loss: ValueId,
  trained: readonly Trained[],
  s: StepSettings,
): StepNames & { readonly parameters: readonly TrainedParameter[] } {
  const several = s.accumulate > 1;
  const names = {
    factor: "train.factor",
    firstCorrection: "train.correction1",
    secondCorrection: "train.correction2",
    ...(several ? { share: "train.share", ends: "train.ends" } : {}),
  };
  const input = (name: string): ValueId => b.input(name, scalar);
  const [factor, first, second] = [input(names.factor), input(names.firstCorrection), input(names.secondCorrection)];
  const share = several ? input("train.share") : undefined;
  const ends = several ? input("train.ends") : undefined;

  // Exact: the scale is a power of two.
  const unscale = s.scaling === undefined ? undefined : div(b, splat(b, s.scaling.scale, 1), s.scaling.scale);
  const factors = [share, unscale].filter((f) => f !== undefined);
  const part = factors.length === 0 ? undefined : factors.reduce((a, f) => mul(b, a, f));
  const sums = trained.map((p) => {
    const own = part === undefined ? p.gradient : mul(b, p.gradient, wide(b, part, p.value));
    if (share === undefined) return { ...p, sum: undefined, total: own };
    const sum = b.state(`optimiser.sum.${p.name}`, p.type);
    return { ...p, sum, total: add(b, sum, own) };
  });
  const squares = sums.map((p) => squareSum(b, p.total));
  const square = squares.reduce((a, x) => add(b, a, x), b.constant("f32", [], [0]));
  const norm = b.op("sqrt", [square]);
  b.output(gradientNorm, norm);
  const finiteLoss = isFinite(b, loss);
  const finite = b.op("logical_and", [isFinite(b, square), finiteLoss]);
  const ending = ends === undefined ? undefined : b.op("gt", [ends, splat(b, ends, 0)]);
  const applies = ending === undefined ? finite : b.op("logical_and", [finite, ending]);
  if (s.scaling !== undefined) {
    // A loss that is not finite is no matter of the scale: the training ends there.
    const counts = ending === undefined ? finiteLoss : b.op("logical_and", [finiteLoss, ending]);
    updateScale(b, s.scaling, applies, counts);
  }
  const clipping = s.clip === undefined ? undefined : clipFactor(b, norm, s.clip);

  const parameters = sums.map((p): TrainedParameter => {
    const before = b.at([]);
    const like = p.value;
    const over = (v: ValueId): ValueId => wide(b, v, like);
    const number = (x: number): ValueId => splat(b, like, x);
    const [m, v] = [b.state(`optimiser.first.${p.name}`, p.type), b.state(`optimiser.second.${p.name}`, p.type)];
    const g = clipping === undefined ? p.total : mul(b, p.total, over(clipping));
    const [beta1, beta2] = s.betas;
    const when = (now: ValueId, old: ValueId): ValueId => b.op("select", [over(applies), now, old]);
    const newM = when(add(b, mul(b, m, number(beta1)), mul(b, g, number(1 - beta1))), m);
    const newV = when(add(b, mul(b, v, number(beta2)), mul(b, mul(b, g, g), number(1 - beta2))), v);
    const rate = mul(b, factor, splat(b, factor, p.rate));
    const root = add(b, mul(b, b.op("sqrt", [newV]), over(second)), number(s.eps));
    const step = div(b, mul(b, newM, over(mul(b, rate, first))), root);
    const kept = p.decay === 0 ? p.value : mul(b, p.value, over(sub(b, splat(b, rate, 1), mul(b, rate, splat(b, rate, p.decay)))));
    const states = { first: `optimiser.first.${p.name}`, second: `optimiser.second.${p.name}` };
    b.update(states.first, newM);
    b.update(states.second, newV);
    b.update(p.name, when(sub(b, kept, step), p.value));
    if (p.sum !== undefined && ending !== undefined)
      b.update(`optimiser.sum.${p.name}`, b.op("select", [over(ending), number(0), p.total]));
    b.at(before);
    return {
      name: p.name,
      shape: p.type.shape.map((d) => Number(d.text)),
      ...(p.init === undefined ? {} : { init: p.init }),
      ...states,
      ...(p.added ? { added: true as const } : {}),
      ...(p.sum === undefined ? {} : { sum: `optimiser.sum.${p.name}` }),
      rate: p.rate,
      decay: p.decay,
    };
  });
  return { inputs: names, gradientNorm, parameters };
}

const gradientNorm = "train.gradient_norm";

/** Twice the scale after enough good steps in a row, half of it after a bad one. */
function updateScale(b: GraphBuilder, { every, scale }: NonNullable<StepSettings["scaling"]>, applies: ValueId, counts: ValueId): void {
  const number = (x: number): ValueId => splat(b, scale, x);
  const good = b.state(goodName, scalar);
  const more = add(b, good, number(1));
  const grows = b.op("ge", [more, number(every)]);
  const larger = b.op("select", [grows, b.op("minimum", [mul(b, scale, number(2)), number(largestScale)]), scale]);
  const smaller = b.op("maximum", [mul(b, scale, number(0.5)), number(1)]);
  const when = (now: ValueId, old: ValueId): ValueId => b.op("select", [counts, now, old]);
  b.update(scaleName, when(b.op("select", [applies, larger, smaller]), scale));
  b.update(goodName, when(b.op("select", [applies, b.op("select", [grows, number(0), more]), number(0)]), good));
}

/** A scalar over the shape of `like`. */
function wide(b: GraphBuilder, value: ValueId, like: ValueId): ValueId {
  return broadcastTo(b, value, b.typeOf(like).shape);
}

/** Σ x², row by row first: rows are added on several threads, and one long sum in f32 would lose what is small. */
function squareSum(b: GraphBuilder, x: ValueId): ValueId {
  const { shape } = b.typeOf(x);
  const square = mul(b, x, x);
  if (shape.length === 0) return square;
  const rows = b.op("reduce_sum", [square], { axes: [shape.length - 1], keep: false });
  if (shape.length === 1) return rows;
  return b.op("reduce_sum", [rows], { axes: shape.slice(1).map((_, i) => i), keep: false });
}

/** Infinity and NaN minus themselves are NaN. */
function isFinite(b: GraphBuilder, x: ValueId): ValueId {
  return b.op("eq", [sub(b, x, x), splat(b, x, 0)]);
}

/** min(1, most / (norm + 1e-6)), as PyTorch's clip_grad_norm_ has it. */
function clipFactor(b: GraphBuilder, norm: ValueId, most: number): ValueId {
  const ratio = div(b, splat(b, norm, most), add(b, norm, splat(b, norm, 1e-6)));
  return b.op("minimum", [ratio, splat(b, norm, 1)]);
}
