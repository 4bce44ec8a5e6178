// May a value be computed inside a kernel? Yes, or no with the reason that `uhdc explain` prints. The answer comes
// from expanding the kernel with the value inlined and looking at the result, not from a list of known shapes.

import { dimConstant, dimProduct, type Dim } from "../ir/dim.ts";
import type { OpNode, ValueId } from "../ir/graph/types.ts";
import { Reads, strideOf } from "../ir/kernel/intern.ts";
import type { Expr } from "../ir/kernel/types.ts";
import { opOf } from "../../ops/index.ts";
import { apart, coefficient } from "../schedule/merge.ts";
import { bufferOf, Expander, isSplat, nodeOf, writtenType, type Values } from "./expand.ts";
import { chainsOf, contractionParts, type ContractionParts } from "./patterns.ts";
import { repeatsRow } from "./rows.ts";

/** One kernel to be: a value that is written, and the values that disappear into it. */
export interface Group {
  readonly root: ValueId;
  /** All values that are written, in the order in which they are; several where siblings.ts made one kernel of some. */
  readonly roots: readonly ValueId[];
  /** The multiply whose right operand this kernel packs into panels; its root is that operand. */
  readonly packs: ValueId | undefined;
  readonly inlined: Set<ValueId>;
  /** The matrix multiply that the kernel does, its root or behind an epilogue. */
  contraction: ValueId | undefined;
  /** The multiply reads its right operand where it lies: nothing packs it. See Note [Read as it lies] in groups.ts. */
  direct: boolean;
  readonly attention: boolean;
  /** What the multiply's left operand, or attention's operands, are made of. */
  readonly operands: Set<ValueId>;
  /** Dimensions of the root whose points each have reductions of their own; undefined when nothing was reduced into it. */
  rows: readonly number[] | undefined;
  /** Several values of each row: see Note [Row families] in row-families.ts. */
  readonly rowFamily: boolean;
  /** It folds over taps or the like for every element. */
  heavy: boolean;
}

export function emptyGroup(root: ValueId, more: Partial<Group> = {}): Group {
  return {
    root,
    roots: [root],
    packs: undefined,
    inlined: new Set(),
    contraction: undefined,
    direct: false,
    attention: false,
    operands: new Set(),
    rows: undefined,
    rowFamily: false,
    heavy: false,
    ...more,
  };
}

export type JoinClass = "free" | "scalar" | "reduction" | "heavy" | "contraction";

export const axisName = (dimension: number): string => `i${dimension}`;

/** The kernel's value with the group's values inlined, and the positions at which `watched` is asked for. */
export interface Trial {
  readonly expander: Expander;
  readonly value: Expr;
  readonly positions: readonly (readonly Expr[])[];
}

export function expandGroup(values: Values, g: Group, extra?: ValueId, watched?: ValueId): Trial {
  const positions = new Map<string, readonly Expr[]>();
  const ids = new Map<Expr, number>();
  const expander: Expander = new Expander(values, {
    isInlined: (v) => g.inlined.has(v) || v === extra,
    replace: (v, index) => {
      if (v !== watched) return undefined;
      const at = index.map((i) => expander.simplifier.simplify(i));
      positions.set(at.map((i) => String(ids.get(i) ?? (ids.set(i, ids.size), ids.get(i)))).join(" "), at);
      return undefined;
    },
  });
  const { shape } = writtenType(values, g.root);
  const value = expander.root(
    g.root,
    shape.map((d, i) => expander.axis(axisName(i), d)),
  );
  return { expander, value, positions: [...positions.values()] };
}

/** Why `node` may not be computed in the kernel of `g`; undefined when it may. */
export function mayJoin(values: Values, g: Group, node: OpNode, cls: JoinClass, costly: boolean): string | undefined {
  if (g.packs !== undefined) return cls === "free" || cls === "scalar" ? undefined : "its reader only lays a weight out in panels";
  switch (cls) {
    case "free":
    case "scalar":
      return elementwise(values, g, node, costly);
    case "contraction":
      return epilogue(values, g, node);
    case "reduction":
      return row(values, g, node);
    case "heavy":
      return once(values, g, node);
    default:
      return cls satisfies never;
  }
}

function elementwise(values: Values, g: Group, node: OpNode, costly: boolean): string | undefined {
  if (g.operands.has(node.id)) return operandOf(values, g, node);
  if (!costly) return undefined;
  const { positions } = expandGroup(values, g, node.id, node.id);
  return positions.length > 1 ? "its reader would make it more than once" : undefined;
}

/** Builders of multiplies and attention read their operands at positions that are linear, from memory. */
function operandOf(values: Values, g: Group, node: OpNode): string | undefined {
  const builder = g.attention ? "attention" : "a matrix multiply";
  const reason = `${builder} reads ${g.attention || g.direct ? "its operands" : "its left operand"} from memory`;
  if (opOf(node.op).view === undefined && opOf(node.op).kind !== "indexing") return reason;
  if (!g.attention) {
    const parts = contractionParts(contractionFold(values, g, node.id));
    return parts === undefined || (g.direct && !isRegular(parts, nodeOf(values, g.contraction ?? g.root).type.shape)) ? reason : undefined;
  }
  // The operand of attention that the node is part of, at a position of its own.
  const root = nodeOf(values, g.root);
  const reads = new Reads();
  for (const [position, operand] of (root.kind === "op" ? root.operands : []).entries()) {
    if (!g.operands.has(operand)) continue;
    const expander = new Expander(values, { isInlined: (v) => g.inlined.has(v) || v === node.id });
    const { shape } = nodeOf(values, operand).type;
    const at = shape.map((d, i) => expander.axis(axisName(i), d));
    const element = expander.simplifier.simplify(expander.element(operand, at));
    if (element.k !== "load") return reason;
    // Queries are looked up one by one, so their rows may lie anywhere; keys and values are walked, or each is looked up
    // at a place that does not depend on the head and the feature.
    const [row, ...walked] = shape.map((_, i) => axisName(i));
    const own = row === undefined || position === 0 || shape.length === 1 || apart(element.index, row, reads) !== undefined;
    if (!own || walked.some((axis) => coefficient(element.index, axis, { reads }) === undefined)) return reason;
  }
  return undefined;
}

/** Can a product read its right operand where it lies: are the places of terms, and of columns, equally far apart? */
export function isRegular({ b, fold }: Pick<ContractionParts, "b" | "fold">, shape: readonly Dim[]): boolean {
  const reads = new Reads();
  return b.k === "load" && [fold.axis, axisName(shape.length - 1)].every((axis) => strideOf(b.index, axis, reads) !== undefined);
}

/** The sum of products of the group's matrix multiply, alone. */
export function contractionFold(values: Values, g: Group, extra?: ValueId): Expr {
  const id = g.contraction ?? g.root;
  const expander = new Expander(values, { isInlined: (v) => g.inlined.has(v) || v === extra });
  const { shape } = nodeOf(values, id).type;
  return expander.root(
    id,
    shape.map((d, i) => expander.axis(axisName(i), d)),
  );
}

function epilogue(values: Values, g: Group, node: OpNode): string | undefined {
  if (g.attention) return "attention reads its operands from memory";
  if (g.contraction !== undefined) return "its reader is a matrix multiply";
  if (g.rows !== undefined) return "its reader reduces, and a matrix multiply has no rows to give";
  if (g.heavy) return "its reader gathers sums for every element";
  const { positions } = expandGroup(values, g, node.id, node.id);
  const { shape } = writtenType(values, g.root);
  const [at] = positions;
  // An axis of size 1 stands at 0.
  const atAxis = (p: Expr | undefined, d: Dim, i: number): boolean =>
    p?.k === "var" ? p.name === axisName(i) : p?.k === "const" && p.value === 0 && dimConstant(d) === 1;
  const same =
    positions.length === 1 &&
    at?.length === shape.length &&
    shape.every((d, i) => atAxis(at[i], d, i)) &&
    dimProduct(shape).text === dimProduct(node.type.shape).text;
  return same ? undefined : "its reader does not read it element by element";
}

function row(values: Values, g: Group, node: OpNode): string | undefined {
  if (g.attention) return "attention reads its operands from memory";
  if (g.contraction !== undefined) return "its reader is a matrix multiply";
  if (g.heavy) return "its reader gathers sums for every element";
  const axes = rowsWith(values, g, node);
  return typeof axes === "string" ? axes : undefined;
}

/** Values in a kernel of one element. */
const mostOfOne = 256;

/** The dimensions of the root that give a row's reductions when `node` is reduced inside the kernel, or why not. */
export function rowsWith(values: Values, g: Group, node: OpNode): readonly number[] | string {
  const { shape } = writtenType(values, g.root);
  const own = shape.flatMap((d, i) => (dimConstant(d) === 1 ? [] : [i]));
  // The norm of all gradients is one element made of a sum for each parameter; what is looked at again for each must end.
  if (own.length === 0 && g.inlined.size >= mostOfOne) return "its reader is one element made of much already";
  const { value, expander } = expandGroup(values, g, node.id);
  const names = new Map(own.map((i) => [axisName(i), i]));
  const reads = new Reads();
  const chains = chainsOf(value);
  // A reduction that is the kernel's own result has every dimension for itself.
  const whole = value.k === "fold";
  let rows: readonly number[] | undefined = whole ? own : g.rows;
  for (const chain of chains) {
    const free = [...reads.of(chain)];
    if (free.some((n) => !names.has(n))) return "it would be reduced again for every element of another reduction";
    const at = free.map((n) => names.get(n) ?? -1).sort((a, b) => a - b);
    if (chain === value) continue;
    if (rows === undefined) rows = at;
    if (at.join() !== rows.join()) return "it would be reduced again for every element";
  }
  // One element has nothing made again.
  if (own.length === 0) return [];
  if (rows === undefined || rows.length === own.length) return whole ? own : "it would be reduced again for every element";
  if (rows.length === 0 && own.length > 0 && !whole) return "its reader could not be divided over threads";
  if (!whole && repeatsRow(value, new Set(rows.map(axisName)), expander.simplifier.interner))
    return "only some elements of a row need it, so it would be reduced again for every element";
  return rows;
}

function once(values: Values, g: Group, node: OpNode): string | undefined {
  if (g.attention) return "attention reads its operands from memory";
  if (g.contraction !== undefined) return "its reader is a matrix multiply";
  if (g.rows !== undefined) return "its reader reduces it, so every element would be made more than once";
  const { value, positions } = expandGroup(values, g, node.id, node.id);
  const { shape } = writtenType(values, g.root);
  const axes = new Set(shape.map((_, i) => axisName(i)));
  const reads = new Reads();
  const nested = chainsOf(value).some((c) => c !== value && [...reads.of(c)].some((n) => !axes.has(n)));
  if (nested || positions.length !== 1 || dimProduct(shape).text !== dimProduct(node.type.shape).text)
    return "every element would be made more than once";
  return undefined;
}

/** Does the definition of an op fold? */
export function hasFold(values: Values, node: OpNode): boolean {
  const expander = new Expander(values, { isInlined: () => false });
  const value = expander.root(
    node.id,
    node.type.shape.map((d, i) => expander.axis(axisName(i), d)),
  );
  return chainsOf(value).length > 0;
}

/**
 * The values that the kernel reads from memory, with `extra` made in it, as far as the graph tells: perhaps some too many. Of
 * what can `never` be in memory it reads the parts.
 */
export function readBy(
  values: Values,
  g: Group,
  extra?: ValueId,
  never: (node: OpNode) => boolean = () => false,
): ReadonlySet<ValueId | "pack"> {
  const found = new Set<ValueId | "pack">();
  const seen = new Set<ValueId>();
  const isNever = (id: ValueId): boolean => {
    const node = nodeOf(values, id);
    return node.kind === "op" && never(node);
  };
  const unpacksWeight = (id: ValueId): boolean => {
    const node = nodeOf(values, id);
    return node.kind === "op" && opOf(node.op).unpacks === true;
  };
  const visit = (id: ValueId): void => {
    const node = nodeOf(values, id);
    if (seen.has(id) || node.kind !== "op") return;
    seen.add(id);
    const multiplies = g.packs === undefined && (id === g.contraction || (id === extra && opOf(node.op).kind === "contraction"));
    for (const [i, o] of node.operands.entries()) {
      // A state that is written in place is not read.
      if (i === 0 && values.inPlace?.has(id) === true && opOf(node.op).overwrites !== undefined) continue;
      // A packed weight is unpacked where it is multiplied by: its parts are read as they are.
      if (multiplies && i === 1 && unpacksWeight(o)) visit(o);
      else if (multiplies && i === 1 && !g.direct) found.add("pack");
      else if (g.inlined.has(o) || o === extra || g.roots.includes(o) || isNever(o)) visit(o);
      else if (!isSplat(nodeOf(values, bufferOf(values, o)))) found.add(bufferOf(values, o));
    }
  };
  if (g.packs === undefined) for (const root of g.roots) visit(root);
  else if (g.inlined.has(g.root) || g.root === extra) visit(g.root);
  else found.add(bufferOf(values, g.root));
  return found;
}
