// What stands between kernels that could be one: who reads what they write, what would be in memory longer. siblings.ts and
// row-families.ts ask. Joins what it is told to; decides nothing.

import { dimConstant, dimProduct, type Dim } from "../ir/dim.ts";
import type { Graph, ValueId } from "../ir/graph/types.ts";
import { bufferOf, nodeOf, type Values } from "./expand.ts";
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

type Read = ValueId | "pack";

/** Groups in the order in which their kernels run, by their places. */
export class Neighbours {
  readonly #values: Values;
  readonly #groups: readonly Group[];
  readonly #readers: ReadonlyMap<Read, readonly number[]>;
  readonly #reads: readonly ReadonlySet<Read>[];
  readonly #states: ReadonlySet<ValueId>;
  readonly #ends: ReadonlySet<ValueId>;

  constructor(graph: Graph, values: Values, groups: readonly Group[]) {
    this.#values = values;
    this.#groups = groups;
    this.#reads = groups.map((g) => readBy(values, g));
    this.#readers = readersOf(this.#reads);
    this.#states = new Set(graph.updates.map((u) => u.value));
    this.#ends = new Set([...graph.outputs, ...graph.updates].map((o) => bufferOf(values, o.value)));
  }

  reads(at: number): ReadonlySet<Read> {
    return this.#reads[at] ?? new Set();
  }

  /** Could the kernels of `members` as well run at place `at`, as one with that one? */
  mayWait(members: readonly number[], at: number, mostBuffers: number): boolean {
    const roots = members.flatMap((m) => this.#groups[m]?.roots ?? []);
    const own = new Set([...members, at]);
    if (roots.some((root) => (this.#readers.get(root) ?? []).some((r) => r <= at && !own.has(r)))) return false;
    const buffers = new Set([...roots, ...(this.#groups[at]?.roots ?? []), ...[...own].flatMap((m) => [...this.reads(m)])]);
    if (buffers.size > Math.min(mostBuffers, manyBuffers)) return false;
    return this.#isQuiet(members[0] ?? at, at) || members.every((m) => this.#keepsNothing(m, at));
  }

  /** Would rows that others write and `members` are the last to read be in memory at place `at`, if they ran there? */
  holdsLonger(members: readonly number[], at: number): boolean {
    const own = new Set(members.flatMap((m) => this.#groups[m]?.roots ?? []));
    return members
      .flatMap((m) => [...this.reads(m)])
      .some((v) => {
        if (v === "pack" || own.has(v) || !this.#isFreed(v) || (this.#readers.get(v)?.at(-1) ?? -1) >= at) return false;
        const { shape } = nodeOf(this.#values, v).type;
        const [last] = shape.slice(-1);
        return shape.length > 1 && last !== undefined && dimConstant(last) !== 1 && !isSmall(sizeOf(this.#values, v));
      });
  }

  /** One group, at the last one's place; what only its own stores are made of is written no more. */
  together(members: readonly number[]): Group {
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

  /** All groups, families as what `make` makes of them. */
  joined(families: readonly (readonly number[])[], make: (members: readonly number[]) => Group): readonly Group[] {
    const made = new Map<number, Group | undefined>();
    for (const members of families) {
      const last = members.at(-1);
      if (last === undefined || members.length === 1) continue;
      for (const m of members) made.set(m, undefined);
      made.set(last, make(members));
    }
    return this.#groups.flatMap((g, i) => (made.has(i) ? (made.get(i) ?? []) : g));
  }

  /** Do the kernels from one place to another write nothing but states? */
  #isQuiet(from: number, to: number): boolean {
    for (let i = from; i <= to; i++) if (this.#groups[i]?.roots.every((r) => this.#states.has(r)) !== true) return false;
    return true;
  }

  /** Is its memory used for something else behind its last reader? */
  #isFreed(v: ValueId): boolean {
    return nodeOf(this.#values, v).kind === "op" && !this.#ends.has(v);
  }

  /** Is no more in memory at place `at` because the group is there and not where it was? */
  #keepsNothing(m: number, at: number): boolean {
    const written = this.#groups[m]?.roots.map((r) => sizeOf(this.#values, r)) ?? [];
    for (const v of this.reads(m)) {
      if (v === "pack" || !this.#isFreed(v)) continue;
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
}

export function readersOf(reads: readonly ReadonlySet<Read>[]): ReadonlyMap<Read, readonly number[]> {
  const found = new Map<Read, number[]>();
  for (const [i, own] of reads.entries())
    for (const v of own) {
      const list = found.get(v) ?? [];
      list.push(i);
      found.set(v, list);
    }
  return found;
}

export const sizeOf = (values: Values, id: ValueId): Dim => dimProduct(nodeOf(values, id).type.shape);

/** Not worth a thought where memory is counted. */
const smallSize = 4096;

function isSmall(size: Dim): boolean {
  return (dimConstant(size) ?? Infinity) <= smallSize;
}
