// Fusion: which values are computed inside the kernel of their reader and which are written to memory. Walks the
// graph from the outputs to the inputs, so every reader is decided before what it reads; legality.ts says whether a
// value may join a kernel, and if not, why. What is here decides; kernels.ts builds.

import { dimBounds, dimConstant, dimProduct, type Dim, type DimSymbol } from "../ir/dim.ts";
import { bytesOf } from "../ir/dtype.ts";
import type { Graph, GraphNode, OpNode, ValueId } from "../ir/graph/types.ts";
import { locText } from "../ir/loc.ts";
import { opOf } from "../../ops/index.ts";
import type { BindingLimits } from "../passes/limits.ts";
import { parametric } from "../passes/parametric.ts";
import { bufferOf, inPlaceWrites, isSplat, nodeOf, writtenType, type Values } from "./expand.ts";
import { joinRows } from "./row-families.ts";
import { joinSiblings, updateInPlace } from "./siblings.ts";
import { productParts } from "./patterns.ts";
import { contractionFold, emptyGroup, hasFold, isRegular, mayJoin, readBy, rowsWith, type Group } from "./legality.ts";

export interface FuseOptions {
  /** False: a kernel for each operation. */
  readonly fuse: boolean;
  /** Fusions after this many are declined, so that a wrong one can be found by bisection. */
  readonly gas?: number | undefined;
  /** Columns of a panel of a packed operand. */
  readonly panel: number;
  /** What a kernel may bind; anything when left out. */
  readonly limits?: BindingLimits | undefined;
}

/** Why a value was written to memory although a neighbour reads it. */
export interface Declined {
  readonly value: ValueId;
  /** The operation that makes the value and one that reads it. */
  readonly producer: string;
  readonly consumer: string;
  readonly reason: string;
  /** `file:line:col` of the producer. */
  readonly at: string;
}

export interface Grouping {
  readonly values: Values;
  /** By root, in the order of the graph. */
  readonly groups: readonly Group[];
  /** Values that depend on parameters alone: their kernels run once, when weights are loaded. */
  readonly fixed: ReadonlySet<ValueId>;
  readonly declined: readonly Declined[];
}

/** How a value is made, as far as fusion cares. */
type Class = "source" | "free" | "scalar" | "reduction" | "heavy" | "contraction" | "attention";

/** Elements that a workgroup adds up by itself: see Note [Sums of sums]. */
const mostOfOneWorkgroup = 4096;

interface Use {
  readonly by: OpNode;
  readonly operand: number;
}

export function group(graph: Graph, options: FuseOptions): Grouping {
  return new Fuser(graph, options).run();
}

class Fuser {
  private readonly graph: Graph;
  private readonly options: FuseOptions;
  private readonly values: Values;
  private readonly uses = new Map<ValueId, Use[]>();
  private readonly ends: ReadonlySet<ValueId>;
  /** Values that a view of them made be written, and why. */
  private readonly forced = new Map<ValueId, string>();
  private readonly fixed: ReadonlySet<ValueId>;
  private readonly classes = new Map<ValueId, Class>();
  /** Of values that are written: their own group. Of inlined ones: every group they are part of. */
  private readonly rootOf = new Map<ValueId, Group>();
  private readonly memberOf = new Map<ValueId, ReadonlySet<Group>>();
  /** Packed right operands, by the contraction that reads them. */
  private readonly packOf = new Map<ValueId, Group>();
  private readonly declined: Declined[] = [];
  /** Values that cost nothing, through which an op is read that goes over its operands many times. */
  private readonly reread = new Set<ValueId>();
  private accepted = 0;
  private bounds: ReadonlyMap<string, DimSymbol> | undefined;

  constructor(graph: Graph, options: FuseOptions) {
    this.graph = graph;
    this.options = options;
    this.values = {
      nodes: new Map(graph.nodes.map((n) => [n.id, n])),
      symbols: graph.symbols,
      inPlace: inPlaceWrites(graph),
      panel: options.panel,
    };
    for (const n of graph.nodes) {
      if (n.kind !== "op") continue;
      for (const [operand, o] of n.operands.entries()) this.uses.set(o, [...(this.uses.get(o) ?? []), { by: n, operand }]);
    }
    this.fixed = parametric(graph);
    this.ends = new Set([...graph.outputs.map((o) => o.value), ...graph.updates.map((u) => u.value)].map((v) => this.written(v)));
  }

  run(): Grouping {
    for (const node of this.graph.nodes.toReversed()) {
      if (node.kind === "op") this.decide(node);
      // A constant that is the same everywhere is in memory only where it is a result.
      else if (isSplat(node) && this.ends.has(node.id)) this.rootOf.set(node.id, emptyGroup(node.id));
    }
    const order = new Map(this.graph.nodes.map((n, i) => [n.id, i]));
    const place = (g: Group): number => (order.get(g.packs ?? g.root) ?? 0) + (g.packs === undefined ? 0.25 : 0);
    // A packed operand stands just before the multiply that reads it.
    const groups = [...this.rootOf.values(), ...this.packOf.values()].sort((a, b) => place(a) - place(b));
    const { fixed, values } = this;
    const declined = this.declined.toReversed();
    if (!this.options.fuse) return { values, groups, fixed, declined };
    const gas = (this.options.gas ?? Infinity) - this.accepted;
    const options = { buffers: this.mostBuffers, gas, fixed };
    const siblings = joinSiblings(this.graph, values, groups, options);
    const rows = joinRows(this.graph, values, siblings, { ...options, gas: gas - (groups.length - siblings.length) });
    const { updated, groups: all } = updateInPlace(this.graph, values, rows, fixed);
    return { values: { ...values, updated }, groups: all, fixed, declined };
  }

  /** The value whose buffer holds `v`: reshapes are views when fusing. */
  private written(v: ValueId): ValueId {
    return this.options.fuse ? bufferOf(this.values, v) : v;
  }

  private classOf(node: GraphNode): Class {
    const known = this.classes.get(node.id);
    if (known !== undefined) return known;
    const made = classify(node, this.values);
    this.classes.set(node.id, made);
    return made;
  }

  private decide(node: OpNode): void {
    const uses = this.uses.get(node.id) ?? [];
    if (this.ends.has(node.id)) return this.write(node, uses, "it is a result of the graph");
    const forced = this.forced.get(node.id);
    if (forced !== undefined) return this.write(node, uses, forced);
    const targets = this.targets(uses);
    // Nobody reads it (or only views that are decided with their readers).
    if (targets.size === 0) return;
    for (const g of targets) if (this.isOperandOf(g, uses)) g.operands.add(node.id);
    const reason = this.refusal(node, targets);
    if (reason !== undefined) return this.write(node, uses, reason);
    this.accepted++;
    this.memberOf.set(node.id, targets);
    for (const g of targets) this.join(node, g);
  }

  /** Every kernel that reads the value as things stand. */
  private targets(uses: readonly Use[]): ReadonlySet<Group> {
    const found = new Set<Group>();
    for (const { by, operand } of uses) {
      const packed = operand === 1 && this.classOf(by) === "contraction" ? this.packOf.get(by.id) : undefined;
      const own = this.rootOf.get(by.id);
      const groups = packed !== undefined ? [packed] : own !== undefined ? [own] : (this.memberOf.get(by.id) ?? []);
      for (const g of groups) found.add(g);
    }
    return found;
  }

  private refusal(node: OpNode, targets: ReadonlySet<Group>): string | undefined {
    const must = this.mustJoin(node, targets);
    if (!this.options.fuse && !must) return "fusion is off";
    if (this.options.gas !== undefined && this.accepted >= this.options.gas && !must)
      return `the fusion gas of ${this.options.gas} is used up`;
    const cls = this.classOf(node);
    if (cls === "attention") return "attention is a kernel of its own";
    const [only] = targets;
    if (cls !== "free" && (targets.size > 1 || only === undefined)) return `${targets.size} kernels read it`;
    if (
      this.fixed.has(node.id) &&
      !isView(node) &&
      !unpacks(node) &&
      !this.isTooLarge(node) &&
      [...targets].some((g) => !this.fixed.has(g.root) && g.packs === undefined)
    )
      return "it depends on parameters alone, so it is made once";
    const { dtype } = node.type;
    if (cls !== "free" && cls !== "heavy" && dtype !== "f32" && dtype !== "i32" && dtype !== "bool") return `it is rounded to ${dtype}`;
    if (cls === "source") return "it is given";
    const uses = this.uses.get(node.id) ?? [];
    if (uses.some(({ by }) => opOf(by.op).rereads === true || this.reread.has(by.id))) {
      if (cls !== "free") return "its reader goes over it many times";
      this.reread.add(node.id);
    }
    if (cls === "reduction" && only !== undefined && this.isMuchForOne(node, only)) return "one workgroup would make all of it";
    const costly = cls === "scalar" && this.isCostly(node.id);
    for (const g of targets) {
      const reason = mayJoin(this.values, g, node, cls, costly);
      if (reason !== undefined) return reason;
      const buffers = this.buffersWith(g, node.id);
      if (buffers > this.mostBuffers && buffers > this.buffersWith(g))
        return `its reader would have ${buffers} buffers, and the device takes ${this.mostBuffers}`;
    }
    return undefined;
  }

  // Note [Sums of sums]
  //   A kernel of one element is one workgroup on a GPU. Where it adds up what are sums themselves (the norm of all gradients
  //   is made of a sum for each row of each parameter), those are better made by a workgroup each, unless they are few.

  /** Would one workgroup of a GPU make many sums, to add them up? */
  private isMuchForOne(node: OpNode, g: Group): boolean {
    if (this.options.limits === undefined || node.operands.length === 0) return false;
    const least = (shape: readonly Dim[]): number => shape.reduce((n, d) => n * dimBounds(d, this.symbols).lower, 1);
    const operand = nodeOf(this.values, node.operands[0] ?? -1);
    return (
      dimConstant(dimProduct(writtenType(this.values, g.root).shape)) === 1 &&
      least(node.type.shape) > 1 &&
      least(operand.type.shape) > mostOfOneWorkgroup
    );
  }

  private get symbols(): ReadonlyMap<string, DimSymbol> {
    return (this.bounds ??= new Map(this.graph.symbols.map((s) => [s.name, s])));
  }

  private get mostBuffers(): number {
    return this.options.limits?.buffers ?? Infinity;
  }

  /** Buffers of the kernel, with a value made in it; 0 where nothing limits them. Packed weights are read as they are in memory. */
  private buffersWith(g: Group, extra?: ValueId): number {
    return this.mostBuffers === Infinity ? 0 : readBy(this.values, g, extra, (node) => unpacks(node) || this.isTooLarge(node)).size + 1;
  }

  /** A view through which a kernel that could not bind all it reads sees a value that several of its operands share. */
  private mustJoin(node: OpNode, targets: ReadonlySet<Group>): boolean {
    return isView(node) && [...targets].some((g) => this.buffersWith(g) > this.mostBuffers);
  }

  /** Could no kernel bind it? Then it cannot be made once, and its readers read what it is made of. */
  private isTooLarge({ type: { dtype, shape } }: OpNode): boolean {
    const most = this.options.limits?.bytes ?? Infinity;
    return shape.reduce((n, d) => n * dimBounds(d, this.symbols).lower, bytesOf(dtype)) > most;
  }

  private readonly costs = new Map<ValueId, boolean>();

  /** Does making one element take a reduction's worth of work (unless something on the way is written)? */
  private isCostly(value: ValueId): boolean {
    const known = this.costs.get(value);
    if (known !== undefined) return known;
    const node = nodeOf(this.values, value);
    const cls = this.classOf(node);
    // What a row's reduction gives is made once a row, and a costly value with several readers is written anyway.
    const made =
      cls === "heavy" ||
      cls === "contraction" ||
      ((cls === "scalar" || cls === "free") && node.kind === "op" && node.operands.some((o) => this.isAlone(o) && this.isCostly(o)));
    this.costs.set(value, made);
    return made;
  }

  /** Nothing else would have it written. */
  private isAlone(value: ValueId): boolean {
    return (this.uses.get(value)?.length ?? 0) <= 1 && !this.ends.has(value);
  }

  /** Is what `uses` read part of the operands that the kernel's builder reads itself? */
  private isOperandOf(g: Group, uses: readonly Use[]): boolean {
    const own = g.attention ? g.root : g.contraction;
    return uses.some(({ by, operand }) => (by.id === own && (g.attention || operand === 0 || g.direct)) || g.operands.has(by.id));
  }

  private join(node: OpNode, g: Group): void {
    const cls = this.classOf(node);
    if (cls === "reduction") {
      const rows = rowsWith(this.values, g, node);
      if (typeof rows !== "string") g.rows = rows;
    }
    g.inlined.add(node.id);
    if (cls === "contraction") this.contract(g, node);
    else if (cls === "heavy") g.heavy = true;
  }

  private contract(g: Group, node: OpNode): void {
    g.contraction = node.id;
    if (!this.options.fuse || this.packOf.has(node.id)) return;
    // What is packed stays as it is in memory; the kernel unpacks it.
    const right = this.values.nodes.get(node.operands[1] ?? -1);
    if (right?.kind === "op" && unpacks(right) && !this.ends.has(right.id)) return;
    if (!g.attention && this.liesRegularly(node)) {
      g.direct = true;
      return;
    }
    this.packOf.set(node.id, emptyGroup(node.operands[1] ?? -1, { packs: node.id }));
  }

  // Note [Read as it lies]
  //   Packing a right operand that is made in every run is one more kernel and one more copy in memory. On CPUs the product
  //   reads such an operand where it is, eight columns at a time; where those do not lie side by side it copies them to scratch
  //   (schedule/product.ts). Packing is worth it where it is done once, when parameters are loaded.

  /** May the product read its right operand as it lies? */
  private liesRegularly(node: OpNode): boolean {
    const [, right] = node.operands;
    if (right === undefined || this.options.limits !== undefined || this.fixed.has(right)) return false;
    if (node.type.shape.length !== 2 || nodeOf(this.values, right).type.dtype !== "f32") return false;
    const inlined = new Set<ValueId>();
    for (let at = nodeOf(this.values, right); at.kind === "op" && isView(at) && !this.ends.has(at.id);) {
      inlined.add(at.id);
      at = nodeOf(this.values, at.operands[0] ?? -1);
    }
    const parts = productParts(contractionFold(this.values, emptyGroup(node.id, { contraction: node.id, inlined })));
    return parts !== undefined && isRegular(parts, node.type.shape);
  }

  private write(node: OpNode, uses: readonly Use[], reason: string): void {
    const view = this.written(node.id);
    if (view !== node.id) {
      this.forced.set(view, reason);
      return;
    }
    const cls = this.classOf(node);
    const g = emptyGroup(node.id, { attention: cls === "attention", heavy: cls === "heavy" });
    this.rootOf.set(node.id, g);
    if (cls === "contraction") this.contract(g, node);
    const reader = uses[0]?.by;
    if (reader !== undefined && this.options.fuse) {
      this.declined.push({ value: node.id, producer: node.op, consumer: reader.op, reason, at: locText(node.loc) });
    }
  }
}

function classify(node: GraphNode, values: Values): Class {
  if (node.kind !== "op") return "source";
  const { kind } = opOf(node.op);
  switch (kind) {
    case "elementwise":
      return "scalar";
    case "movement":
      return "free";
    case "indexing":
      return hasFold(values, node) ? "heavy" : "free";
    case "reduction":
      return "reduction";
    case "contraction":
      return "contraction";
    case "composite":
      return "attention";
    default:
      return kind satisfies never;
  }
}

const unpacks = (node: OpNode): boolean => opOf(node.op).unpacks === true;

/** Reading through it costs nothing: the position is linear in the position of the result. */
function isView(node: OpNode): boolean {
  return opOf(node.op).view !== undefined;
}
