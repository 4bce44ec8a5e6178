// Attention of few queries over many keys as two kernels: one whose units have a part of the keys each, and one that joins
// what the parts found. Says what both compute, in Kernel IR; the first is attention's builder's (attention.ts), the second
// is plain loops. Decides whether it is worth it; GPUs have other ways (gpu/attention.ts).
//
// Note [Attention in parts]. A token that looks at thousands of others is one query, and its heads are all the units there
// are: three of SmolLM2's, which are two rounds on two threads and leave a machine of eight mostly idle. So the keys are cut
// into runs, which go to the parts in turn, and each part is a unit more. How many parts there are depends on the number of
// queries alone: results are the same on any number of threads. Part by part a row has
//   top = max score, total = Σ 2^(score - top), mixed = Σ 2^(score - top) · value   over its keys
// and the whole is Σ mixed·w / Σ total·w with w = 2^(top - the largest top). Rows without a key have the top -infinity in
// all parts, which makes zeros of them; scores of -infinity count as the least number, so that they are not taken for none.

import { dim, dimAdd, dimBounds, dimConstant, dimDiv, dimMax, dimMin, dimMul, dimProduct, type Dim, type DimSymbol } from "../ir/dim.ts";
import { add, binary, bool, dimExpr, div, f32, fold, i32, load, mod, mul, select, sub, unary, variable } from "../ir/kernel/build.ts";
import type { Expr, Kernel, KernelBuffer, Stage } from "../ir/kernel/types.ts";
import { lowest } from "./attention-parts.ts";

/** Keys that go to a part at once: long enough to pay for its softmax, short enough that parts get alike. */
export const partKeys = 128;
const mostParts = 8;
/** Queries times parts, at most: rows that the second kernel reads. */
const mostRows = 64;
/** With fewer keys than this there is nothing to share out. */
const leastKeys = 4 * partKeys;

export interface SplitAttention {
  readonly parts: Kernel;
  readonly join: Kernel;
  /** What the first kernel hands to the second; both have it as a buffer, the first as its only result. */
  readonly between: KernelBuffer;
}

/** Undefined where the keys are not worth sharing, or the kernel is not attention alone. */
export function splitAttention(kernel: Kernel, symbols: ReadonlyMap<string, DimSymbol>): SplitAttention | undefined {
  const { pattern, stages, axes } = kernel;
  const [stage] = stages;
  if (pattern?.k !== "attention" || pattern.part !== undefined || stages.length !== 1 || stage?.k !== "store" || stage.axes.length > 0)
    return undefined;
  const out = kernel.buffers.find((b) => b.name === stage.buffer);
  const [query, head, feature] = [pattern.query, pattern.head, pattern.feature].map((name) => axes.find((a) => a.name === name));
  const keys = kernel.buffers.find((b) => b.name === pattern.key_.buffer)?.shape[0];
  if (axes.length !== 3 || query === undefined || head === undefined || feature === undefined || keys === undefined) return undefined;
  const features = dimConstant(feature.extent);
  if (out === undefined || out.access !== "write" || features === undefined) return undefined;
  // Queries that look at each other are as many as the keys.
  if (query.extent.text === keys.text || (dimConstant(keys) ?? leastKeys) < leastKeys) return undefined;
  const count = partsOf(query.extent);
  // Of a graph whose queries are always many, not even the kernel that joins one part would be worth it.
  if (dimBounds(count, symbols).upper < mostParts) return undefined;

  const names = new Set([...kernel.buffers, ...axes].map((x) => x.name));
  const fresh = (hint: string): string => {
    let name = hint;
    for (let i = 2; names.has(name); i++) name = `${hint}${i}`;
    names.add(name);
    return name;
  };
  const [part, between] = [fresh("part"), fresh("parts")];
  const width = features + 2;
  const shape = [count, query.extent, head.extent, dim(width)];
  /** Where the row of a part begins. */
  const row = (of: Expr): Expr => {
    const before = add(mul(of, dimExpr(query.extent)), variable(query.name));
    return mul(add(mul(before, dimExpr(head.extent)), variable(head.name)), i32(width));
  };
  const buffer = (access: "read" | "write"): KernelBuffer => ({ name: between, dtype: "f32", shape, access });
  const reads = kernel.buffers.filter((b) => b.access === "read");
  return {
    parts: {
      ...kernel,
      axes: [{ name: part, extent: count }, query, head],
      buffers: [...reads, buffer("write")],
      stages: partStages(pattern, { part, count, between, features: feature.extent, row: row(variable(part)), width }),
      pattern: { ...pattern, part: { axis: part, count, keys: partKeys } },
    },
    join: {
      name: `${kernel.name}_join`,
      axes: [query, head],
      buffers: [buffer("read"), out],
      stages: joinStages({ count, between, row, width }, [feature], stage),
      schedule: [],
      sources: kernel.sources,
    },
    between: buffer("write"),
  };
}

/** As many parts as there is room for; one where queries are many, since those are units already. */
function partsOf(queries: Dim): Dim {
  return dimMax(dim(1), dimMin(dim(mostParts), dimDiv(dim(mostRows), dimMax(dim(1), queries))));
}

const powerOfTwo = (e: Expr): Expr => unary("exp", mul(e, f32(Math.fround(Math.LN2))));

type Attention = Extract<NonNullable<Kernel["pattern"]>, { k: "attention" }>;

function partStages(
  p: Attention,
  at: {
    readonly part: string;
    readonly count: Dim;
    readonly between: string;
    readonly features: Dim;
    readonly row: Expr;
    readonly width: number;
  },
): readonly Stage[] {
  const dot = fold("sum", p.inner, i32(0), dimExpr(p.innerExtent), mul(p.q, p.key_));
  const score = mul(dot, f32(Math.fround(p.scale * Math.LOG2E)));
  const mine = binary("eq", mod(div(variable(p.key), i32(partKeys)), dimExpr(at.count)), variable(at.part));
  const over = (op: "sum" | "max", value: Expr, otherwise: number): Expr =>
    fold(op, p.key, p.from, p.to, select(mine, value, f32(otherwise)));
  const power = powerOfTwo(sub(score, variable("top", "f32")));
  const store = (index: Expr, value: Expr): Stage => ({ k: "store", axes: [], buffer: at.between, index, value });
  const [top, total] = [variable("top", "f32"), variable("total", "f32")];
  return [
    { k: "let", name: "top", type: "f32", value: over("max", binary("max", score, f32(lowest)), -Infinity) },
    { k: "let", name: "total", type: "f32", value: over("sum", power, 0) },
    {
      k: "store",
      axes: [{ name: p.feature, extent: at.features }],
      buffer: at.between,
      index: add(at.row, variable(p.feature)),
      value: over("sum", mul(power, p.value), 0),
    },
    store(add(at.row, i32(at.width - 2)), top),
    store(add(at.row, i32(at.width - 1)), total),
  ];
}

function joinStages(
  at: { readonly count: Dim; readonly between: string; readonly row: (part: Expr) => Expr; readonly width: number },
  axes: readonly { readonly name: string; readonly extent: Dim }[],
  stage: Extract<Stage, { k: "store" }>,
): readonly Stage[] {
  const read = (part: Expr, offset: Expr): Expr => load(at.between, add(at.row(part), offset), "f32");
  const [topAt, totalAt] = [i32(at.width - 2), i32(at.width - 1)];
  const top = variable("top", "f32");
  const parts = Array.from({ length: mostParts }, (_, n) => ({ number: i32(n), found: `found${n}`, weight: `weight${n}` }));
  type Part = (typeof parts)[number];
  /** Parts without keys are nothing, and need not be read. */
  const of = ({ found }: Part, value: Expr): Expr => select(variable(found, "bool"), value, f32(0));
  /** What the parts have at a place of their rows, weighted. */
  const sum = (offset: Expr): Expr => parts.map((p) => of(p, mul(variable(p.weight, "f32"), read(p.number, offset)))).reduce(add);
  const feature = variable(axes[0]?.name ?? "");
  return [
    { k: "let", name: "top", type: "f32", value: fold("max", "part", i32(0), dimExpr(at.count), read(variable("part"), topAt)) },
    ...parts.flatMap((p): readonly Stage[] => {
      const there = binary("lt", p.number, dimExpr(at.count));
      const found = select(there, binary("ne", read(p.number, topAt), f32(-Infinity)), bool(false));
      return [
        { k: "let", name: p.found, type: "bool", value: found },
        { k: "let", name: p.weight, type: "f32", value: of(p, powerOfTwo(sub(read(p.number, topAt), top))) },
      ];
    }),
    { k: "let", name: "total", type: "f32", value: sum(totalAt) },
    {
      k: "store",
      axes,
      buffer: stage.buffer,
      index: stage.index,
      value: select(binary("eq", top, f32(-Infinity)), f32(0), div(sum(feature), variable("total", "f32"))),
    },
  ];
}

/** Operations of the joining kernel: a product and a sum for each number of each part, and the weights. */
export function joinFlops({ between }: SplitAttention): Dim {
  return dimMul(dim(3), dimProduct(between.shape));
}

export function joinBytes({ between, join }: SplitAttention): Dim {
  const out = join.buffers.at(-1)?.shape ?? [];
  return dimMul(dim(4), dimAdd(dimProduct(between.shape), dimProduct(out)));
}
