// Kernels that follow each other row by row become one: a normalisation whose mean, deviation and normalised rows the backward
// pass reads is one kernel that stores them all. Works on the groups that siblings.ts leaves.
//
// Note [Row families]
//   A kernel joins the last one of its rows where it reads what that one writes, and of it nothing but its own row. Values of
//   that row are then made again, from what the row is made of, wherever one is asked for, and sums of the row once (rows.ts).
//   So a value that is expensive is not made at two places. What is read and written, and when, is as Note [Siblings] says;
//   and nothing as wide as the rows is in memory longer: logits would be, beside all that is made of them.

import { dimConstant } from "../ir/dim.ts";
import type { Graph, ValueId } from "../ir/graph/types.ts";
import { operandsOf } from "../ir/kernel/build.ts";
import type { Expr } from "../ir/kernel/types.ts";
import { loadName, nodeOf, type Values } from "./expand.ts";
import { rowFamilyValues } from "./kernels.ts";
import type { Group } from "./legality.ts";
import { Neighbours, type SiblingOptions } from "./neighbours.ts";
import { repeatsRow } from "./rows.ts";

/** `groups` in the order of the graph. */
export function joinRows(graph: Graph, values: Values, groups: readonly Group[], options: SiblingOptions): readonly Group[] {
  return new RowFamilies(graph, values, groups, options).run();
}

class RowFamilies {
  readonly #values: Values;
  readonly #groups: readonly Group[];
  readonly #options: SiblingOptions;
  readonly #near: Neighbours;

  constructor(graph: Graph, values: Values, groups: readonly Group[], options: SiblingOptions) {
    this.#values = values;
    this.#groups = groups;
    this.#options = options;
    this.#near = new Neighbours(graph, values, groups);
  }

  run(): readonly Group[] {
    /** Members by the rows they go over, the last family alone: others read what that one wrote. */
    const open = new Map<string, number[]>();
    const families: number[][] = [];
    let gas = this.#options.gas;
    for (const [i, g] of this.#groups.entries()) {
      const key = this.#rowsOf(g);
      if (key === undefined) continue;
      const family = open.get(key);
      if (family !== undefined && gas > 0 && this.#mayJoin(family, i)) {
        family.push(i);
        gas--;
        continue;
      }
      const made = [i];
      open.set(key, made);
      families.push(made);
    }
    return this.#near.joined(families, (members) => this.#together(members));
  }

  /** The sizes that a row has one of each of; undefined where the group has no rows that could be shared. */
  #rowsOf(g: Group): string | undefined {
    if (g.packs !== undefined || g.contraction !== undefined || g.attention || g.heavy) return undefined;
    if (this.#options.fixed.has(g.root) || this.#values.inPlace?.has(g.root) === true) return undefined;
    const { shape } = nodeOf(this.#values, g.root).type;
    const lead = shape.slice(0, -1);
    const rows = lead.flatMap((d, i) => (dimConstant(d) === 1 ? [] : [i]));
    if (rows.length === 0 || (g.rows !== undefined && g.rows.join() !== rows.join())) return undefined;
    return lead.map((d) => d.text).join();
  }

  #mayJoin(members: readonly number[], at: number): boolean {
    const all = [...members, at].flatMap((m) => this.#groups[m] ?? []);
    const roots = members.flatMap((m) => this.#groups[m]?.roots ?? []);
    const reads = this.#near.reads(at);
    if (!roots.some((r) => reads.has(r))) return false;
    const columns = all.flatMap((g) => g.roots).map((r) => nodeOf(this.#values, r).type.shape.at(-1));
    const wide = new Set(columns.flatMap((d) => (d === undefined || dimConstant(d) === 1 ? [] : [d.text])));
    if (wide.size > 1 || !this.#near.mayWait(members, at, this.#options.buffers)) return false;
    if (this.#near.holdsLonger(members, at)) return false;
    return this.#isOfRow(this.#together([...members, at]), roots);
  }

  #together(members: readonly number[]): Group {
    const made = this.#near.together(members);
    const { shape } = nodeOf(this.#values, made.root).type;
    return { ...made, rowFamily: true, rows: shape.slice(0, -1).flatMap((d, i) => (dimConstant(d) === 1 ? [] : [i])) };
  }

  /** Has the row sums, and are the earlier ones' values asked for in it alone, what is costly at one place, no sum for every element? */
  #isOfRow(family: Group, earlier: readonly ValueId[]): boolean {
    const { lets, stores, axes, asked, interner } = rowFamilyValues(this.#values, family);
    if (lets.length === 0) return false;
    const rows = new Set(axes.map((a) => a.name));
    const own = new Set(earlier.map(loadName));
    for (const { value } of stores)
      if (repeatsRow(value, rows, interner) || some(value, (e) => e.k === "load" && own.has(e.buffer))) return false;
    for (const { id, inRow, places } of asked) if (!inRow || (places > 1 && isCostly(this.#definition(family, id)))) return false;
    return true;
  }

  #definition(family: Group, id: ValueId): Expr {
    const own = { ...family, roots: [id], root: id };
    return rowFamilyValues(this.#values, own).stores[0]?.value ?? { k: "const", type: "i32", value: 0 };
  }
}

function isCostly(value: Expr): boolean {
  return some(
    value,
    (e) => (e.k === "unary" && costly.has(e.op)) || (e.k === "binary" && e.op === "pow") || e.k === "iterate" || e.k === "fold",
  );
}

/** Polynomials of many terms on every target. */
const costly: ReadonlySet<string> = new Set(["exp", "log", "sin", "cos", "tanh", "erf"]);

function some(e: Expr, is: (e: Expr) => boolean): boolean {
  const seen = new Set<Expr>();
  const visit = (x: Expr): boolean => {
    if (seen.has(x)) return false;
    seen.add(x);
    return is(x) || operandsOf(x).some(visit);
  };
  return visit(e);
}
