// What a kernel computes, in operations: the op table's formulas over the nodes it holds, each as often as the kernel
// makes its elements. Attention counts the pairs of queries and keys that see each other, which shape code knows.

import {
  dim,
  dimAdd,
  dimBounds,
  dimEval,
  dimExactDiv,
  dimMin,
  dimMul,
  dimProduct,
  dimSub,
  dimSymbol,
  type Dim,
  type DimEnv,
  type DimSymbol,
} from "../ir/dim.ts";
import { bytesOf } from "../ir/dtype.ts";
import { nodesById } from "../ir/graph/build.ts";
import type { Graph, GraphNode, OpNode, ValueId } from "../ir/graph/types.ts";
import type { HostExpr, HostProgram } from "../ir/plan/host.ts";
import { normaliseAttrs, opOf } from "../../ops/index.ts";
import { parametric } from "../passes/parametric.ts";
import { bufferOf, nodeOf, writtenType, type Values } from "./expand.ts";
import { packedType, type BuiltKernel } from "./kernels.ts";
import { hasFold, type Group } from "./legality.ts";

/** Pairs that attention looks at, by node; and the shape code that defines the sizes they are given as. */
export interface Pairs {
  readonly of: ReadonlyMap<ValueId, Dim>;
  readonly bindings: HostProgram["bindings"];
}

/** A size for each set of segment tables that attention is given. Segments that are not tables count as all pairs. */
export function attentionPairs(graph: Graph): Pairs {
  const nodes = new Map(graph.nodes.map((n) => [n.id, n]));
  const taken = new Set([...graph.symbols.map((s) => s.name), ...graph.host.bindings.map((b) => b.name)]);
  const known = new Map<string, Dim>();
  const of = new Map<ValueId, Dim>();
  const bindings: HostProgram["bindings"][number][] = [];
  for (const node of graph.nodes) {
    if (node.kind !== "op" || opOf(node.op).kind !== "composite") continue;
    const operand = (name: string): GraphNode | undefined =>
      nodes.get(node.operands[opOf(node.op).operands.findIndex((o) => o.name === name)] ?? -1);
    const [segment, queries, keys] = ["q_segment", "q_offsets", "k_offsets"].map(operand);
    if (queries?.kind !== "table" || keys?.kind !== "table") continue;
    const causal = normaliseAttrs(node.op, node.attrs)["causal"] === true;
    // What is summed over queries for each key has the pairs of the attention it is the derivative of.
    const key = `${queries.id} ${keys.id} ${causal}`;
    let pairs = known.get(key);
    if (pairs === undefined) {
      if (segment?.kind !== "table") continue;
      let name = "attention_pairs";
      for (let i = 2; taken.has(name); i++) name = `attention_pairs.${i}`;
      taken.add(name);
      bindings.push({ name, value: pairCount(segment.value, queries.value, keys.value, causal), symbol: true, loc: "" });
      pairs = dimSymbol(name);
      known.set(key, pairs);
    }
    of.set(node.id, pairs);
  }
  return { of, bindings };
}

/** Σ over queries i of the keys it sees: min(end, i + 1 - queries[p + 1] + end) - keys[p] when causal, end - keys[p] otherwise. */
function pairCount(segment: HostExpr, queries: HostExpr, keys: HostExpr, causal: boolean): HostExpr {
  const v = (name: string): HostExpr => ({ k: "var", name });
  const lit = (value: number): HostExpr => ({ k: "lit", v: value });
  const two = (op: "add" | "sub", a: HostExpr, b: HostExpr): HostExpr => ({ k: "binary", op, a, b });
  const call = (fn: string, ...args: readonly HostExpr[]): HostExpr => ({ k: "call", fn, args, loc: "" });
  const index = (of: HostExpr, at: HostExpr): HostExpr => ({ k: "index", of, at });
  const let_ = (pattern: string, value: HostExpr, body: HostExpr): HostExpr => ({ k: "let", pattern, value, body });
  const end = index(v("$keys"), two("add", v("$p"), lit(1)));
  const own = two("add", two("sub", two("add", v("$i"), lit(1)), index(v("$queries"), two("add", v("$p"), lit(1)))), end);
  const seen = two("sub", causal ? call("min", end, own) : end, index(v("$keys"), v("$p")));
  const each: HostExpr = {
    k: "for",
    clauses: [{ k: "in", pattern: "$i", from: { k: "range", from: lit(0), to: call("len", v("$segment")) } }],
    body: let_("$p", index(v("$segment"), v("$i")), call("max", seen, lit(0))),
  };
  return let_("$segment", segment, let_("$queries", queries, let_("$keys", keys, call("sum", each))));
}

/** Operations that one evaluation of `node` is: 2 for a multiply and an addition. */
function nodeFlops(values: Values, pairs: Pairs, node: OpNode): Dim {
  const types = node.operands.map((o) => nodeOf(values, o).type);
  const all = opOf(node.op).flops(types, normaliseAttrs(node.op, node.attrs), node.type);
  const seen = pairs.of.get(node.id);
  const [q, k] = types;
  if (seen === undefined || q === undefined || k === undefined) return all;
  // Attention and the parts of its derivative count every query with every key.
  const each = dimExactDiv(all, dimMul(q.shape[0] ?? dim(1), k.shape[0] ?? dim(1)));
  return each === undefined ? all : dimMul(seen, each);
}

/** Operations of every value that a run computes, once each. What is the same for every run is computed at loading. */
export function usefulFlops(graph: Graph, env: DimEnv): number {
  const values = { nodes: nodesById(graph), symbols: graph.symbols, panel: 1 };
  const pairs = attentionPairs(graph);
  const fixed = parametric(graph);
  return graph.nodes.reduce((sum, n) => (n.kind !== "op" || fixed.has(n.id) ? sum : sum + dimEval(nodeFlops(values, pairs, n), env)), 0);
}

/** Operations that the kernel does: values made at several places count several times, padding counts too. */
export function kernelFlops(values: Values, pairs: Pairs, { group: g, times }: BuiltKernel): Dim {
  if (g.packs !== undefined) return dim(0);
  let sum = dim(0);
  for (const [id, count] of times) {
    const node = nodeOf(values, id);
    if (node.kind !== "op") continue;
    let flops = nodeFlops(values, pairs, node);
    if (id === g.contraction) {
      const { shape, depth } = packedType(values, id);
      const rows = dimProduct(node.type.shape.slice(0, -1));
      flops = dimMul(dim(2), dimMul(dimMul(rows, depth), dimMul(shape.at(-3) ?? dim(1), dim(values.panel))));
    }
    sum = dimAdd(sum, dimMul(dim(count), flops));
  }
  return sum;
}

/**
 * Bytes that the kernel reads and writes, each once: of operands that are looked at in places (rows of a table, a part of
 * a cache) just those places, at most all.
 */
export function kernelBytes(values: Values, { kernel, operands, group: g }: BuiltKernel): Dim {
  const touched = g.packs === undefined ? elementsRead(values, g) : new Map<ValueId, Dim>();
  let sum = dim(0);
  for (const [i, b] of kernel.buffers.entries()) {
    const operand = operands[i];
    const whole = dimProduct(b.shape);
    const part =
      operand?.k !== "value"
        ? operand !== undefined && g.packs === undefined && operand.of !== g.contraction
          ? // The panels of a table, of which rows are looked up: see memory/shared-tables.ts.
            touched.get(bufferOf(values, rightOf(values, operand.of)))
          : undefined
        : g.roots.includes(operand.id)
          ? dimProduct(writtenType(values, operand.id).shape)
          : touched.get(operand.id);
    sum = dimAdd(sum, dimMul(dim(bytesOf(b.dtype)), part === undefined ? whole : least(values, part, whole)));
  }
  return sum;
}

/** What a product multiplies by. */
function rightOf(values: Values, contraction: ValueId): ValueId {
  const node = nodeOf(values, contraction);
  return node.kind === "op" ? (node.operands[1] ?? contraction) : contraction;
}

/** At most how many elements of each value the group's operations ask for. */
function elementsRead(values: Values, g: Group): ReadonlyMap<ValueId, Dim> {
  const asked = new Map<ValueId, Dim>(g.roots.map((root) => [root, dimProduct(writtenType(values, root).shape)]));
  // Readers stand behind what they read, and have larger numbers.
  for (const id of [...g.inlined, ...g.roots].sort((a, b) => b - a)) {
    const node = nodeOf(values, id);
    if (node.kind !== "op") continue;
    const { kind, overwrites } = opOf(node.op);
    const elementwise = kind === "elementwise" || kind === "movement" || (kind === "indexing" && !hasFold(values, node));
    for (const [i, o] of node.operands.entries()) {
      if (id === g.root && overwrites !== undefined && values.inPlace?.has(id) === true && i === 0) continue;
      const whole = dimProduct(nodeOf(values, o).type.shape);
      const mine = elementwise ? least(values, asked.get(id) ?? whole, whole) : whole;
      const view = bufferOf(values, o);
      for (const v of view === o || g.inlined.has(o) ? [o] : [o, view]) {
        const before = asked.get(v);
        asked.set(v, before === undefined || before.text === mine.text ? mine : dimAdd(before, mine));
      }
    }
  }
  return asked;
}

/** The smaller one; a `min` only where the bounds of sizes do not tell which that is. */
function least(values: Values, a: Dim, b: Dim): Dim {
  const known = bounds.get(values) ?? new Map(values.symbols.map((s) => [s.name, s]));
  bounds.set(values, known);
  const { lower, upper } = dimBounds(dimSub(a, b), known);
  if (upper <= 0) return a;
  if (lower >= 0) return b;
  const [only] = a.monomials.length === 1 ? (a.monomials[0]?.atoms ?? []) : [];
  return only?.kind === "min" && (only.a.text === b.text || only.b.text === b.text) ? a : dimMin(a, b);
}

const bounds = new WeakMap<Values, Map<string, DimSymbol>>();
