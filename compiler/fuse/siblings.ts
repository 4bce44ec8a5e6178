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

import { dimConstant, dimProduct, type Dim } from "../ir/dim.ts";
import type { Graph, ValueId } from "../ir/graph/types.ts";
import { operandsOf } from "../ir/kernel/build.ts";
import type { Expr } from "../ir/kernel/types.ts";
import { bufferOf, loadName, nodeOf, type Values } from "./expand.ts";
import { siblingValues } from "./kernels.ts";
import { readBy, type Group } from "./legality.ts";

export interface SiblingOptions {
  /** Buffers of a kernel at most. */
  readonly buffers: number;
  /** How many may join. */
  readonly gas: number;
  readonly fixed: ReadonlySet<ValueId>;
}

/** A function takes a pointer for each buffer; more than this many tell an engine nothing and make it slow to compile. */
const manyBuffers = 96;

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
  readonly #readers: ReadonlyMap<ValueId | "pack", readonly number[]>;
  readonly #reads: readonly ReadonlySet<ValueId | "pack">[];
  readonly #states: ReadonlySet<ValueId>;
  readonly #ends: ReadonlySet<ValueId>;
  readonly #elementwise = new Map<number, ReadonlyMap<ValueId, boolean>>();

  constructor(graph: Graph, values: Values, groups: readonly Group[], options: SiblingOptions, related: boolean) {
    this.#values = values;
    this.#groups = groups;
    this.#options = options;
    this.#related = related;
    this.#reads = groups.map((g) => readBy(values, g));
    this.#readers = readersOf(this.#reads);
    this.#states = new Set(graph.updates.map((u) => u.value));
    this.#ends = new Set([...graph.outputs, ...graph.updates].map((o) => bufferOf(values, o.value)));
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
    const made = new Map<number, Group | undefined>();
    for (const { members } of [...families.values()].flat()) {
      const last = members.at(-1);
      if (last === undefined || members.length === 1) continue;
      for (const m of members) made.set(m, undefined);
      made.set(last, this.#together(members));
    }
    return this.#groups.flatMap((g, i) => (made.has(i) ? (made.get(i) ?? []) : g));
  }

  /** One group; what only its own stores are made of is written no more. */
  #together(members: readonly number[]): Group {
    const groups = members.flatMap((m) => this.#groups[m] ?? []);
    const last = groups.at(-1);
    if (last === undefined) throw new Error("a family has members");
    const own = new Set(members);
    const all = groups.flatMap((g) => g.roots);
    const isInside = (v: ValueId): boolean =>
      v !== last.root &&
      !this.#ends.has(v) &&
      (this.#readers.get(v) ?? []).every((r) => own.has(r)) &&
      (this.#readers.get(v) ?? []).length > 0;
    const inlined = new Set([...groups.flatMap((g) => [...g.inlined]), ...all.filter(isInside)]);
    return { ...last, roots: all.filter((v) => !isInside(v)), inlined };
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
    const own = new Set([...members, at]);
    const reads = this.#reads[at] ?? new Set();
    if (this.#related && !roots.some((r) => reads.has(r)) && !members.some((m) => this.#shares(m, at))) return false;
    if (roots.some((root) => (this.#readers.get(root) ?? []).some((r) => r <= at && !own.has(r)))) return false;
    const buffers = new Set([
      ...roots,
      ...(this.#groups[at]?.roots ?? []),
      ...members.flatMap((m) => [...(this.#reads[m] ?? [])]),
      ...reads,
    ]);
    if (buffers.size > Math.min(this.#options.buffers, manyBuffers)) return false;
    if (!this.#isQuiet(members[0] ?? at, at) && !members.every((m) => this.#keepsNothing(m, at))) return false;
    return roots.every((root) => !reads.has(root) || this.#loads(at).get(root) === true);
  }

  /** Do both read a value as large as what they write? */
  #shares(m: number, at: number): boolean {
    const size = sizeOf(this.#values, this.#groups[at]?.root ?? -1).text;
    return [...(this.#reads[m] ?? [])].some(
      (v) => v !== "pack" && this.#reads[at]?.has(v) === true && sizeOf(this.#values, v).text === size,
    );
  }

  /** Do the kernels from one place to another write nothing but states? */
  #isQuiet(from: number, to: number): boolean {
    for (let i = from; i <= to; i++) if (this.#groups[i]?.roots.every((r) => this.#states.has(r)) !== true) return false;
    return true;
  }

  /** Is no more in memory at place `at` because the group is there and not where it was? */
  #keepsNothing(m: number, at: number): boolean {
    const written = this.#groups[m]?.roots.map((r) => sizeOf(this.#values, r)) ?? [];
    for (const v of this.#reads[m] ?? []) {
      if (v === "pack" || nodeOf(this.#values, v).kind !== "op" || this.#ends.has(v)) continue;
      if ((this.#readers.get(v)?.at(-1) ?? -1) >= at) continue;
      const size = sizeOf(this.#values, v);
      if (isSmall(size)) continue;
      // What is written later makes up for what is read later.
      const same = written.findIndex((w) => w.text === size.text);
      if (same < 0) return false;
      written.splice(same, 1);
    }
    return true;
  }

  /** By value that the kernel loads, whether it does so only at the element that it stores. */
  #loads(at: number): ReadonlyMap<ValueId, boolean> {
    const g = this.#groups[at];
    const known = this.#elementwise.get(at) ?? (g === undefined ? new Map<ValueId, boolean>() : elementwiseLoads(this.#values, g));
    this.#elementwise.set(at, known);
    return known;
  }
}

function readersOf(reads: readonly ReadonlySet<ValueId | "pack">[]): ReadonlyMap<ValueId | "pack", readonly number[]> {
  const found = new Map<ValueId | "pack", number[]>();
  for (const [i, own] of reads.entries())
    for (const v of own) {
      const list = found.get(v) ?? [];
      list.push(i);
      found.set(v, list);
    }
  return found;
}

const sizeOf = (values: Values, id: ValueId): Dim => dimProduct(nodeOf(values, id).type.shape);

/** Not worth a thought where memory is counted. */
const smallSize = 4096;

function isSmall(size: Dim): boolean {
  return (dimConstant(size) ?? Infinity) <= smallSize;
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
