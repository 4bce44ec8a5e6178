// Kernels that go over the same elements become one with several stores, and new values of states go over the old ones.
// Works on the groups that groups.ts decided; nothing is computed twice, and nothing stays in memory longer, for it.
//
// Note [Siblings]
//   A kernel joins the last one of its shape where it may: everything else that reads what that one writes stands behind
//   both; what the two read of each other is read at the same element, so that it is at hand; and what the earlier one
//   reads is in memory at the later one's place anyway. The state of an optimiser is the exception: kernels that write
//   nothing but states stand at the end, where no more memory is asked for.
//
// Note [Updated in place]
//   m ← β·m + (1-β)·g costs no second m where one kernel alone reads the old m last, each element where it writes the new
//   one. The store of what is replaced stands behind all stores that are made of it. in-place.ts proves it of the kernel,
//   verify-steps.ts proves of the plan that nothing reads the state afterwards.

import { dimConstant } from "../ir/dim.ts";
import type { Graph, ValueId } from "../ir/graph/types.ts";
import { operandsOf } from "../ir/kernel/build.ts";
import type { Expr } from "../ir/kernel/types.ts";
import { bufferOf, loadName, nodeOf, type Values } from "./expand.ts";
import { siblingValues } from "./kernels.ts";
import { readBy, type Group } from "./legality.ts";
import { Neighbours, readersOf, sizeOf, type SiblingOptions } from "./neighbours.ts";

/** `groups` in the order of the graph. First those join that have something in common, then whole families of one shape. */
export function joinSiblings(graph: Graph, values: Values, groups: readonly Group[], options: SiblingOptions): readonly Group[] {
  const related = new Siblings(graph, values, groups, options, true);
  const first = related.run();
  return new Siblings(graph, values, first, { ...options, gas: options.gas - related.joined }, false).run();
}

interface Family {
  readonly members: number[];
}

class Siblings {
  joined = 0;
  readonly #values: Values;
  readonly #groups: readonly Group[];
  readonly #options: SiblingOptions;
  readonly #related: boolean;
  readonly #near: Neighbours;
  readonly #elementwise = new Map<number, ReadonlyMap<ValueId, boolean>>();

  constructor(graph: Graph, values: Values, groups: readonly Group[], options: SiblingOptions, related: boolean) {
    this.#values = values;
    this.#groups = groups;
    this.#options = options;
    this.#related = related;
    this.#near = new Neighbours(graph, values, groups);
  }

  run(): readonly Group[] {
    const families = new Map<string, Family[]>();
    for (const [i, g] of this.#groups.entries()) {
      if (!this.#isPlain(g)) continue;
      const key = nodeOf(this.#values, g.root)
        .type.shape.map((d) => d.text)
        .join();
      const alike = families.get(key) ?? [];
      families.set(key, alike);
      const family = this.joined >= this.#options.gas ? undefined : alike.findLast((f) => this.#mayJoin(f, i));
      if (family === undefined) alike.push({ members: [i] });
      else {
        family.members.push(i);
        this.joined++;
      }
    }
    const all = [...families.values()].flat().map((f) => f.members);
    return this.#near.joined(all, (members) => this.#near.together(members));
  }

  /** A loop over elements, each of which is a store of its own. */
  #isPlain(g: Group): boolean {
    if (g.packs !== undefined || g.contraction !== undefined || g.attention || g.heavy) return false;
    if (this.#options.fixed.has(g.root) || this.#values.inPlace?.has(g.root) === true) return false;
    const node = nodeOf(this.#values, g.root);
    const own = node.type.shape.filter((d) => dimConstant(d) !== 1).length;
    return node.kind === "op" && (g.rows === undefined || g.rows.length === own);
  }

  #mayJoin({ members }: Family, at: number): boolean {
    const roots = members.flatMap((m) => this.#groups[m]?.roots ?? []);
    const reads = this.#near.reads(at);
    if (this.#related && !roots.some((r) => reads.has(r)) && !members.some((m) => this.#shares(m, at))) return false;
    if (!this.#near.mayWait(members, at, this.#options.buffers)) return false;
    return roots.every((root) => !reads.has(root) || this.#loads(at).get(root) === true);
  }

  /** Do both read a value as large as what they write? */
  #shares(m: number, at: number): boolean {
    const size = sizeOf(this.#values, this.#groups[at]?.root ?? -1).text;
    const theirs = this.#near.reads(at);
    return [...this.#near.reads(m)].some((v) => v !== "pack" && theirs.has(v) && sizeOf(this.#values, v).text === size);
  }

  /** By value that the kernel loads, whether it does so only at the element that it stores. */
  #loads(at: number): ReadonlyMap<ValueId, boolean> {
    const g = this.#groups[at];
    const known = this.#elementwise.get(at) ?? (g === undefined ? new Map<ValueId, boolean>() : elementwiseLoads(this.#values, g));
    this.#elementwise.set(at, known);
    return known;
  }
}

function elementwiseLoads(values: Values, g: Pick<Group, "roots" | "inlined">): ReadonlyMap<ValueId, boolean> {
  const found = new Map<ValueId, boolean>();
  for (const { index, value } of siblingValues(values, g).stores)
    for (const load of loadsIn(value)) {
      const id = Number(load.buffer.slice(1));
      found.set(id, (found.get(id) ?? true) && load.index === index);
    }
  return found;
}

function loadsIn(e: Expr): readonly Extract<Expr, { k: "load" }>[] {
  const found: Extract<Expr, { k: "load" }>[] = [];
  const seen = new Set<Expr>();
  const visit = (x: Expr): void => {
    if (seen.has(x)) return;
    seen.add(x);
    if (x.k === "load") found.push(x);
    for (const part of operandsOf(x)) visit(part);
  };
  visit(e);
  return found;
}

/** See Note [Updated in place]: by new value, the state it goes over; and the groups with their roots in a right order. */
export function updateInPlace(
  graph: Graph,
  values: Values,
  groups: readonly Group[],
  fixed: ReadonlySet<ValueId>,
): { readonly updated: ReadonlyMap<ValueId, ValueId>; readonly groups: readonly Group[] } {
  const stateIds = new Map(graph.nodes.flatMap((n) => (n.kind === "state" ? [[n.name, n.id] as const] : [])));
  const results = new Set(graph.outputs.map((o) => bufferOf(values, o.value)));
  const sources = graph.updates.map((u) => bufferOf(values, u.value));
  const readers = readersOf(groups.map((g) => readBy(values, g)));
  const updated = new Map<ValueId, ValueId>();
  const ordered = groups.map((g, at): Group => {
    const candidates = new Map<ValueId, ValueId>();
    for (const root of g.roots) {
      const of = graph.updates.filter((u) => u.value === root);
      const [only] = of;
      const state = only === undefined ? undefined : stateIds.get(only.state);
      if (state === undefined || of.length > 1 || g.packs !== undefined || g.contraction !== undefined || g.attention || g.heavy) continue;
      if (g.rows !== undefined || fixed.has(root) || values.inPlace?.has(root) === true) continue;
      const { type } = nodeOf(values, root);
      const constant = type.shape.every((d) => dimConstant(d) !== undefined);
      const isRead = (v: ValueId): boolean => results.has(v) || sources.some((s) => s === v && s !== root);
      const last = Math.max(-1, ...(readers.get(state) ?? []));
      if (!constant || isRead(root) || isRead(state) || last > at || (readers.get(root) ?? []).length > 0) continue;
      candidates.set(root, state);
    }
    if (candidates.size === 0) return g;
    const stores = siblingValues(values, g).stores.map(({ index, value }, i) => ({ index, root: g.roots[i] ?? -1, loads: loadsIn(value) }));
    for (const [root, state] of candidates) {
      const own = stores.flatMap(({ index, loads }) => loads.filter((l) => l.buffer === loadName(state) && l.index !== index));
      if (own.length > 0) candidates.delete(root);
    }
    // What reads a state comes before what replaces it.
    const needs = new Map(stores.map(({ root, loads }) => [root, new Set(loads.map((l) => l.buffer))]));
    const roots: ValueId[] = [];
    const rest = [...g.roots];
    while (rest.length > 0) {
      const next = rest.findIndex((root) => {
        const state = candidates.get(root);
        return state === undefined || rest.every((other) => other === root || needs.get(other)?.has(loadName(state)) !== true);
      });
      const at = Math.max(0, next);
      const [root] = rest.splice(at, 1);
      if (root === undefined) break;
      // Two that read each other's states: one of them gets a place of its own.
      if (next < 0) candidates.delete(root);
      roots.push(root);
    }
    for (const [root, state] of candidates) updated.set(root, state);
    return { ...g, roots };
  });
  return { updated, groups: ordered };
}
