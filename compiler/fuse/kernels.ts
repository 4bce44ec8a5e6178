// Kernels from groups: axes, stages and buffers of Kernel IR. A reduction that belongs to a row becomes a `let` before
// the loop over the row's elements, which is why softmax and normalisation are one kernel. Decides nothing.

import { dim, dimAdd, dimConstant, dimDiv, type Dim } from "../ir/dim.ts";
import type { DType } from "../ir/dtype.ts";
import type { ValueId } from "../ir/graph/types.ts";
import type { Loc } from "../ir/loc.ts";
import { add, binary, i32, load, mapOperands, mul, select, typeOfExpr, variable } from "../ir/kernel/build.ts";
import { Interner, substitute } from "../ir/kernel/intern.ts";
import { scalarTypeOf, type Axis, type Expr, type Kernel, type KernelBuffer, type Pattern, type Stage } from "../ir/kernel/types.ts";
import { linearIndex } from "../../ops/expr.ts";
import { Expander, loadName, nodeOf, placeOf, writtenType, type Values } from "./expand.ts";
import { axisName, contractionFold, emptyGroup, expandGroup, type Group } from "./legality.ts";
import { attentionParts, contractionParts, productParts } from "./patterns.ts";
import { rowReductions, rowReductionsOfAll } from "./rows.ts";
import { unpackedPattern } from "./unpacked.ts";

/** What a kernel's buffer holds. */
export type Operand = { readonly k: "value"; readonly id: ValueId } | { readonly k: "pack"; readonly of: ValueId };

export interface BuiltKernel {
  readonly kernel: Kernel;
  /** In the order of the kernel's buffers; the last ones are written, in the order of the group's roots. */
  readonly operands: readonly Operand[];
  readonly group: Group;
  /** At how many positions the kernel makes each value it holds; more than one where it makes elements again. */
  readonly times: ReadonlyMap<ValueId, number>;
}

const packName = (contraction: ValueId): string => `pack ${contraction}`;

export interface PackedType {
  readonly dtype: DType;
  readonly shape: readonly Dim[];
  /** Terms of the sum. */
  readonly depth: Dim;
}

const packedTypes = new WeakMap<Values, Map<ValueId, PackedType>>();

/** The type of a packed operand: panels of columns, [.., ceil(N/panel), K, panel]. */
export function packedType(values: Values, contraction: ValueId): PackedType {
  let known = packedTypes.get(values);
  if (known === undefined) packedTypes.set(values, (known = new Map()));
  const before = known.get(contraction);
  if (before !== undefined) return before;
  const node = nodeOf(values, contraction);
  const { shape } = node.type;
  const parts = productParts(contractionFold(values, emptyGroup(contraction, { contraction })));
  const operand = node.kind === "op" ? node.operands[1] : undefined;
  if (parts === undefined || operand === undefined) throw new Error(`%${contraction} is not a sum of products`);
  const columns = shape.at(-1) ?? dim(1);
  const { panel } = values;
  const panels = dimDiv(dimAdd(columns, dim(panel - 1)), dim(panel));
  const made = {
    dtype: nodeOf(values, operand).type.dtype,
    shape: [...shape.slice(0, -2), panels, parts.depth, dim(panel)],
    depth: parts.depth,
  };
  known.set(contraction, made);
  return made;
}

/** `packed` tells whether a contraction's right operand is laid out in panels. */
export function buildKernel(values: Values, g: Group, packed: ReadonlySet<ValueId>): BuiltKernel {
  if (g.packs !== undefined) return packKernel(values, g, g.packs);
  if (g.contraction !== undefined) return matmulKernel(values, g, g.contraction, packed.has(g.contraction));
  if (g.attention) return attentionKernel(values, g);
  return loopKernel(values, g);
}

function axesOf(shape: readonly Dim[]): readonly Axis[] {
  return shape.map((extent, i) => ({ name: axisName(i), extent }));
}

/** The position of the root's element in its buffer. */
function storeIndex(values: Values, root: ValueId, expander: Expander): Expr {
  const index = writtenType(values, root).shape.map((d, i) => expander.axis(axisName(i), d));
  return expander.simplifier.simplify(placeOf(values, root, index, (value, at) => expander.element(value, at)));
}

function matmulKernel(values: Values, g: Group, contraction: ValueId, packed: boolean): BuiltKernel {
  const { shape } = writtenType(values, g.root);
  const acc = variable("acc", "f32");
  const expander = new Expander(values, { isInlined: (v) => g.inlined.has(v), replace: (v) => (v === contraction ? acc : undefined) });
  const index = shape.map((d, i) => expander.axis(axisName(i), d));
  const value = g.root === contraction ? acc : expander.root(g.root, index);
  const fold = contractionFold(values, g);
  const parts = productParts(fold);
  if (parts === undefined) throw new Error(`%${contraction} is not a sum of products`);
  let sum: Expr = fold;
  let pattern: Pattern | undefined;
  if (packed) {
    const type = packedType(values, contraction);
    const { panel } = values;
    const [n, k] = [index.at(-1) ?? i32(0), variable(parts.fold.axis)];
    expander.simplifier.axis(parts.fold.axis, parts.depth);
    const at = linearIndex([...index.slice(0, -2), binary("div", n, i32(panel)), k, binary("mod", n, i32(panel))], type.shape);
    const b = load(packName(contraction), expander.simplifier.simplify(at), scalarTypeOf(type.dtype));
    if (b.k !== "load") throw new Error("a load is a load");
    sum = { ...parts.fold, body: mul(parts.a, b) };
    const whole = contractionParts(fold);
    if (whole !== undefined) pattern = matmulPattern(shape, parts.fold.axis, whole.a, b);
  } else if (g.direct) {
    const whole = contractionParts(fold);
    if (whole?.b.k === "load") pattern = matmulPattern(shape, whole.fold.axis, whole.a, whole.b);
  } else pattern = unpackedPattern(values, g, contraction, fold);
  const stages: Stage[] = [
    { k: "let", name: "acc", type: "f32", value: sum },
    { k: "store", axes: [], buffer: "out", index: storeIndex(values, g.root, expander), value },
  ];
  const kernel = { axes: axesOf(shape), stages, ...(pattern === undefined ? {} : { pattern }) };
  const times = new Map([...expander.times, [contraction, 1]]);
  return finish(values, g, kernel, times, packed ? contraction : undefined);
}

type Load = Extract<Expr, { k: "load" }>;

function matmulPattern(shape: readonly Dim[], kAxis: string, a: Load, b: Load): Pattern {
  const names = shape.map((_, i) => axisName(i));
  return { k: "matmul", batch: names.slice(0, -2), m: names.at(-2) ?? "", n: names.at(-1) ?? "", kAxis, a, b };
}

function attentionKernel(values: Values, g: Group): BuiltKernel {
  const { expander, value } = expandGroup(values, g);
  const { shape } = writtenType(values, g.root);
  const parts = attentionParts(value);
  const [query, head, feature] = [axisName(0), axisName(1), axisName(2)];
  const stages: Stage[] = [{ k: "store", axes: [], buffer: "out", index: storeIndex(values, g.root, expander), value }];
  const pattern: Pattern | undefined = parts === undefined ? undefined : { k: "attention", query, head, feature, ...parts };
  return finish(values, g, { axes: axesOf(shape), stages, ...(pattern === undefined ? {} : { pattern }) }, expander.times);
}

/** Several values at the same elements: a store each. What several of them need is made once. */
function siblingsKernel(values: Values, g: Group): BuiltKernel {
  const { axes, stores, expander } = siblingValues(values, g);
  const stages = stores.map((s, i): Stage => ({ k: "store", axes: [], buffer: outName(i), index: s.index, value: s.value }));
  return finish(values, g, { axes: axes.filter((a) => dimConstant(a.extent) !== 1), stages }, expander.times);
}

/** The values of a group's roots at the elements that they share, and the place of an element in each of their buffers. */
export function siblingValues(
  values: Values,
  g: Pick<Group, "roots" | "inlined">,
): {
  readonly axes: readonly Axis[];
  readonly stores: readonly { readonly index: Expr; readonly value: Expr }[];
  readonly expander: Expander;
} {
  const roots = new Set(g.roots);
  const expander = new Expander(values, { isInlined: (v) => g.inlined.has(v) || roots.has(v) });
  const { shape } = nodeOf(values, g.roots[0] ?? -1).type;
  const at = shape.map((d, i) => expander.axis(axisName(i), d));
  const index = expander.simplifier.simplify(linearIndex(at, shape));
  return { axes: axesOf(shape), stores: g.roots.map((root) => ({ index, value: expander.root(root, at) })), expander };
}

/** What a row family stores (see row-families.ts), the reductions of a row before it. */
export interface RowFamilyValues {
  readonly axes: readonly Axis[];
  readonly lets: readonly Stage[];
  readonly stores: readonly { readonly axes: readonly Axis[]; readonly index: Expr; readonly value: Expr }[];
  /** By root that others are made of: whether they ask for its elements in their own row alone, and at how many places of it. */
  readonly asked: readonly { readonly id: ValueId; readonly inRow: boolean; readonly places: number }[];
  readonly interner: Interner;
  readonly times: ReadonlyMap<ValueId, number>;
}

export function rowFamilyValues(values: Values, g: Pick<Group, "roots" | "inlined">): RowFamilyValues {
  const roots = new Set(g.roots);
  const asked = new Map<ValueId, Map<Expr, boolean>>();
  const expander: Expander = new Expander(values, {
    isInlined: (v) => g.inlined.has(v) || roots.has(v),
    replace: (v, index) => {
      if (!roots.has(v)) return undefined;
      const at = index.map((i) => expander.simplifier.simplify(i));
      const inRow = at.slice(0, -1).every((e, i) => (e.k === "var" ? e.name === axisName(i) : e.k === "const" && e.value === 0));
      const known = asked.get(v) ?? new Map<Expr, boolean>();
      asked.set(v, known.set(at.at(-1) ?? i32(0), inRow));
      return undefined;
    },
  });
  const stores = g.roots.map((root) => {
    const { shape } = nodeOf(values, root).type;
    const at = shape.map((d, i) => expander.axis(axisName(i), d));
    const inner = axesOf(shape)
      .slice(-1)
      .filter((a) => dimConstant(a.extent) !== 1);
    return { axes: inner, index: expander.simplifier.simplify(linearIndex(at, shape)), value: expander.root(root, at) };
  });
  const lead = nodeOf(values, g.roots[0] ?? -1).type.shape.slice(0, -1);
  const axes = axesOf(lead).filter((a) => dimConstant(a.extent) !== 1);
  const { interner } = expander.simplifier;
  const { lets, values: made } = rowReductionsOfAll(
    stores.map((s) => s.value),
    new Set(axes.map((a) => a.name)),
    interner,
  );
  return {
    axes,
    lets,
    stores: stores.map((s, i) => ({ ...s, value: made[i] ?? s.value })),
    asked: [...asked].map(([id, places]) => ({ id, inRow: [...places.values()].every((x) => x), places: places.size })),
    interner,
    times: expander.times,
  };
}

function rowFamilyKernel(values: Values, g: Group): BuiltKernel {
  const { axes, lets, stores, times } = rowFamilyValues(values, g);
  // Numbers of a row before its elements; those that go over the same elements in one loop.
  const all = stores.map((s, i): Stage => ({ k: "store", axes: s.axes, buffer: outName(i), index: s.index, value: s.value }));
  const sorted = [...all.filter((s) => s.k === "store" && s.axes.length === 0), ...all.filter((s) => s.k === "store" && s.axes.length > 0)];
  return finish(values, g, { axes, stages: [...lets, ...sorted] }, times);
}

const outName = (root: number): string => (root === 0 ? "out" : `out_${root}`);

function loopKernel(values: Values, g: Group): BuiltKernel {
  if (g.rowFamily) return rowFamilyKernel(values, g);
  if (g.roots.length > 1 || values.updated?.has(g.root) === true) return siblingsKernel(values, g);
  const { expander, value } = expandGroup(values, g);
  const { shape } = writtenType(values, g.root);
  const index = storeIndex(values, g.root, expander);
  const axes = axesOf(shape).filter((a) => dimConstant(a.extent) !== 1);
  const rows = g.rows?.map(axisName);
  if (rows === undefined)
    return finish(values, g, { axes, stages: [{ k: "store", axes: [], buffer: "out", index, value }] }, expander.times);
  const { lets, value: rest } = rowReductions(value, new Set(rows), expander.simplifier.interner);
  const inner = axes.filter((a) => !rows.includes(a.name));
  const outer = axes.filter((a) => rows.includes(a.name));
  const body = { axes: outer, stages: [...lets, { k: "store" as const, axes: inner, buffer: "out", index, value: rest }] };
  return finish(values, g, body, expander.times);
}

/** Lays the right operand of a multiply out in panels; columns beyond the last are zero. */
function packKernel(values: Values, g: Group, contraction: ValueId): BuiltKernel {
  const { shape } = nodeOf(values, contraction).type;
  const type = packedType(values, contraction);
  const { panel } = values;
  const expander = new Expander(values, { isInlined: (v) => g.inlined.has(v) });
  const batch = shape.slice(0, -2);
  const names = [...batch.map((_, i) => axisName(i)), "p", "k", "j"];
  const axes: Axis[] = type.shape.map((extent, i) => ({ name: names[i] ?? "", extent }));
  for (const a of axes) expander.simplifier.axis(a.name, a.extent);
  const columns = shape.at(-1) ?? dim(1);
  const n = add(mul(variable("p"), i32(panel)), variable("j"));
  // The sum of products at row 0 names the operand's element at (k, n).
  const at = [...batch.map((d, i) => expander.axis(axisName(i), d)), i32(0), n];
  const parts = productParts(expander.root(contraction, at));
  if (parts === undefined) throw new Error(`%${contraction} is not a sum of products`);
  const k = expander.simplifier.interner.intern(variable("k"));
  const element = expander.simplifier.simplify(substitute(parts.b, parts.fold.axis, k));
  const whole = (dimConstant(columns) ?? 1) % panel === 0;
  const zero: Expr = { k: "const", type: typeOfExpr(element), value: 0 };
  const value = whole ? element : select(binary("lt", n, { k: "dim", dim: columns }), element, zero);
  const index = linearIndex([...batch.map((_, i) => variable(axisName(i))), variable("p"), k, variable("j")], type.shape);
  const stage: Stage = {
    k: "store",
    axes: axes.slice(-2),
    buffer: "out",
    index: expander.simplifier.simplify(index),
    value: expander.simplifier.simplify(value),
  };
  return finish(values, g, { axes: axes.slice(0, -2), stages: [stage] }, expander.times, contraction);
}

type Body = Pick<Kernel, "axes" | "stages"> & { readonly pattern?: Pattern };

/** Numbers the buffers in the order of their first use and collects the places in the source. */
function finish(values: Values, g: Group, body: Body, made: ReadonlyMap<ValueId, number>, packed?: ValueId): BuiltKernel {
  const operands: Operand[] = [];
  const names = new Map<string, string>();
  const buffers: KernelBuffer[] = [];
  const named = (name: string): string => {
    const own = updates.get(name);
    if (own !== undefined) updated.add(own);
    const known = own ?? names.get(name);
    if (known !== undefined) return known;
    const made = `x${operands.length}`;
    names.set(name, made);
    if (packed !== undefined && name === packName(packed)) {
      const { dtype, shape } = packedType(values, packed);
      operands.push({ k: "pack", of: packed });
      buffers.push({ name: made, dtype, shape, access: "read" });
    } else {
      const id = Number(name.slice(1));
      const { dtype, shape } = nodeOf(values, id).type;
      operands.push({ k: "value", id });
      buffers.push({ name: made, dtype, shape, access: "read" });
    }
    return made;
  };
  // A state that is updated is read under the name under which it is written.
  const updates = new Map<string, string>();
  if (g.packs === undefined)
    for (const [i, root] of g.roots.entries()) {
      const state = values.updated?.get(root);
      if (state !== undefined) updates.set(loadName(state), outName(i));
    }
  const updated = new Set<string>();
  const interner = new Interner();
  const done = new Map<Expr, Expr>();
  const rename = (e: Expr): Expr => {
    const before = done.get(e);
    if (before !== undefined) return before;
    const inner = mapOperands(e, rename);
    const made = interner.intern(inner.k === "load" ? { ...inner, buffer: named(inner.buffer) } : inner);
    done.set(e, made);
    return made;
  };
  const stages = body.stages.map((s): Stage =>
    s.k === "let" ? { ...s, value: rename(s.value) } : { ...s, value: rename(s.value), index: rename(s.index) },
  );
  const pattern = body.pattern === undefined ? undefined : renamePattern(body.pattern, rename);
  const packedBuffer = packed === undefined || g.packs !== undefined ? undefined : names.get(packName(packed));
  const outs: KernelBuffer[] = [];
  const out = (i: number, { dtype, shape }: Pick<KernelBuffer, "dtype" | "shape">): void => {
    outs.push({ name: outName(i), dtype, shape, access: updated.has(outName(i)) ? "update" : "write" });
  };
  if (g.packs !== undefined) {
    operands.push({ k: "pack", of: g.packs });
    out(0, packedType(values, g.packs));
  } else
    for (const [i, id] of g.roots.entries()) {
      operands.push({ k: "value", id });
      out(i, nodeOf(values, id).type);
    }
  const kernel: Kernel = {
    name: "",
    axes: body.axes,
    buffers: [...buffers, ...outs],
    stages,
    schedule: packedBuffer === undefined ? [] : [{ k: "packed", buffer: packedBuffer, panel: values.panel }],
    ...(pattern === undefined ? {} : { pattern }),
    sources: sourcesOf(values, g),
  };
  return { kernel, operands, group: g, times: new Map([...made, ...g.roots.map((root) => [root, made.get(root) ?? 1] as const)]) };
}

function renamePattern(p: Pattern, rename: (e: Expr) => Expr): Pattern {
  const load_ = (e: Extract<Expr, { k: "load" }>): Extract<Expr, { k: "load" }> => {
    const made = rename(e);
    if (made.k !== "load") throw new Error("a load is a load");
    return made;
  };
  const buffer = (name: string, type: "f32" | "i32"): string => {
    const made = rename(load(name, i32(0), type));
    return made.k === "load" ? made.buffer : name;
  };
  if (p.k === "quantised") {
    const minima = p.minima === undefined ? {} : { minima: buffer(p.minima, "f32") };
    return { ...p, a: load_(p.a), values: buffer(p.values, "i32"), scales: buffer(p.scales, "f32"), ...minima };
  }
  return p.k === "matmul"
    ? { ...p, a: load_(p.a), b: load_(p.b) }
    : { ...p, from: rename(p.from), to: rename(p.to), q: load_(p.q), key_: load_(p.key_), value: load_(p.value) };
}

/** Every place whose work the kernel does, in the order of the graph, each once. */
export function sourcesOf(values: Values, g: Group): readonly Loc[] {
  const ids = g.packs === undefined ? [...g.inlined, ...g.roots] : [...g.inlined, g.packs];
  const seen = new Map<string, Loc>();
  for (const id of ids.sort((a, b) => a - b)) {
    const { loc } = nodeOf(values, id);
    if (loc.length > 0) seen.set(loc.map((s) => `${s.file}:${s.start}-${s.end}`).join(" "), loc);
  }
  return [...seen.values()];
}
