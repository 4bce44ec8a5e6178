// The plan: kernels in order, a buffer for every value that is written, and its lifetime. What depends on parameters
// alone goes to `prepare` and is kept. Offsets are not here: compiler/ir/plan/bind.ts places buffers when sizes are
// known, the same way for a run and for `uhdc explain`.

import type { Dim } from "../ir/dim.ts";
import type { DType } from "../ir/dtype.ts";
import type { Graph, GraphNode, ValueId } from "../ir/graph/types.ts";
import type { ImpFunction } from "../ir/imp/types.ts";
import type { Loc, Span } from "../ir/loc.ts";
import type { HostTable } from "../ir/plan/host.ts";
import type { BufferId, Plan, PlanBuffer, PlanKernel, PlanParam, Step } from "../ir/plan/types.ts";
import { bufferOf, isSplat, nodeOf } from "../fuse/expand.ts";
import type { Declined, Grouping } from "../fuse/groups.ts";
import { packedType, type BuiltKernel, type Operand } from "../fuse/kernels.ts";
import { kernelBytes, kernelFlops, type Pairs } from "../fuse/work.ts";
import type { Kernel } from "../ir/kernel/types.ts";
import { joinBytes, joinFlops, type SplitAttention } from "../schedule/attention-split.ts";
import { largestFirst } from "./largest-first.ts";
import { limitsOf } from "./limits.ts";

export interface Dispatch {
  readonly built: BuiltKernel;
  /** The kernel's function, one for all dispatches of the same kernel. */
  readonly fn: Pick<ImpFunction, "name" | "dims" | "units">;
  /** Bytes of private memory a thread needs; the most that any variant of the function does. */
  readonly scratch: Dim;
  /** Which of the two kernels of an attention in parts it is; the first one's step is followed by the second's. */
  readonly split?: SplitAttention & { readonly of: "parts" | "join" };
}

/** What the dispatch runs, in place of the group's kernel where that is split. */
const kernelOf = ({ built, split }: Dispatch): Kernel => (split === undefined ? built.kernel : split[split.of]);

export function makePlan(graph: Graph, grouping: Grouping, pairs: Pairs, dispatches: readonly Dispatch[]): Plan {
  return largestFirst(new Planner(graph, grouping, pairs).plan(dispatches));
}

interface Lifetime {
  first: number;
  last: number;
}

class Planner {
  private readonly graph: Graph;
  private readonly grouping: Grouping;
  private readonly pairs: Pairs;
  private readonly buffers: PlanBuffer[] = [];
  private readonly ids = new Map<string, BufferId>();
  private readonly tables: HostTable[] = [];
  private readonly lifetimes = new Map<BufferId, Lifetime>();
  /** How many of a kernel's buffers are written. */
  private readonly writtenOf = new Map<string, number>();
  private readonly reasons: ReadonlyMap<ValueId, Declined>;
  /** Values that are a result's own buffer, and the result's type. */
  private readonly results = new Map<ValueId, { readonly name: string; readonly shape: readonly Dim[] }>();

  constructor(graph: Graph, grouping: Grouping, pairs: Pairs) {
    this.graph = graph;
    this.grouping = grouping;
    this.pairs = pairs;
    this.reasons = new Map(grouping.declined.map((d) => [d.value, d]));
  }

  plan(dispatches: readonly Dispatch[]): Plan {
    const { graph } = this;
    const made = new Set(dispatches.filter((d) => d.built.group.packs === undefined).flatMap((d) => d.built.group.roots));
    for (const o of graph.outputs) {
      const value = this.written(o.value, made);
      // What is written in place is in the state's buffer; a result is a copy of it.
      const own = !this.grouping.fixed.has(value) && this.stateOf(value) === undefined;
      if (made.has(value) && own && !this.results.has(value))
        this.results.set(value, { name: o.name, shape: nodeOf(this.grouping.values, o.value).type.shape });
    }
    for (const n of graph.nodes) if (n.kind === "input" || n.kind === "state") this.bufferFor({ k: "value", id: n.id });
    const prepare: Step[] = [];
    const steps: Step[] = [];
    for (const d of dispatches) {
      const fixed = this.isFixed(d.built.group.root);
      const list = fixed ? prepare : steps;
      list.push(this.dispatch(d, fixed ? undefined : steps));
    }
    const outputs = graph.outputs.map((o) => ({ name: o.name, buffer: this.output(o.name, o.value, made, steps) }));
    const states = this.states(made, steps);
    const params: PlanParam[] = graph.nodes.flatMap((n) =>
      n.kind === "param"
        ? [
            {
              name: n.name,
              dtype: n.type.dtype,
              shape: n.type.shape.map((d) => Number(d.text)),
              buffer: this.bufferFor({ k: "value", id: n.id }),
              ...(n.init === undefined ? {} : { init: n.init }),
              ...(n.packed === undefined ? {} : { packed: n.packed }),
              ...(n.rows === undefined ? {} : { rows: n.rows }),
            },
          ]
        : [],
    );
    return {
      format: "uhd-plan",
      version: 1,
      name: graph.name,
      symbols: [...graph.symbols, ...this.pairs.bindings.map((b) => ({ name: b.name, lower: 0 }))],
      limits: limitsOf(graph),
      host: { ...graph.host, bindings: [...graph.host.bindings, ...this.pairs.bindings] },
      tables: this.tables,
      inputs: graph.nodes.flatMap((n) => (n.kind === "input" ? [{ name: n.name, buffer: this.bufferFor({ k: "value", id: n.id }) }] : [])),
      outputs,
      params,
      states,
      buffers: this.buffers.map((b, id) => this.withLifetime(b, id)),
      kernels: planKernels(dispatches),
      prepare,
      steps,
    };
  }

  /** The value that is in memory for `value`: itself where a kernel writes it, else what it is a view of. */
  private written(value: ValueId, made: ReadonlySet<ValueId>): ValueId {
    return made.has(value) ? value : bufferOf(this.grouping.values, value);
  }

  /** The state that a value is written into. */
  private stateOf(value: ValueId): ValueId | undefined {
    const { inPlace, updated } = this.grouping.values;
    return inPlace?.get(value) ?? updated?.get(value);
  }

  private isFixed(value: ValueId): boolean {
    return this.grouping.fixed.has(value);
  }

  private dispatch(dispatch: Dispatch, steps: readonly Step[] | undefined): Step {
    const { built, fn, split } = dispatch;
    this.writtenOf.set(fn.name, built.group.roots.length);
    const at = steps?.length;
    const buffers = this.buffersOf(dispatch);
    if (at !== undefined) for (const b of buffers) this.touch(b, at);
    const joins = split?.of === "join";
    const unfused = steps === undefined || joins ? undefined : this.unfused(built, steps);
    return {
      k: "dispatch",
      kernel: fn.name,
      buffers,
      dims: fn.dims,
      extents: kernelOf(dispatch).axes.map((a) => a.extent.text),
      sources: built.kernel.sources.map(chainText),
      flops: (joins ? joinFlops(split) : kernelFlops(this.grouping.values, this.pairs, built)).text,
      bytes: (joins ? joinBytes(split) : kernelBytes(this.grouping.values, built)).text,
      ...(unfused === undefined ? {} : { unfused }),
      stage: stageOf(built.kernel.sources, this.graph.name),
    };
  }

  /** In the order of the kernel's. What the parts of an attention found is handed on in a buffer of its own. */
  private buffersOf({ built, split }: Dispatch): readonly BufferId[] {
    const buffers = built.operands.map((o) => this.bufferFor(o));
    if (split === undefined) return buffers;
    const key = `s${built.group.root}`;
    const { dtype, shape } = split.between;
    const between =
      this.ids.get(key) ??
      this.add(
        `parts.${built.group.root}`,
        dtype,
        shape,
        this.isFixed(built.group.root) ? { k: "persistent" } : { k: "arena", first: -1, last: -1 },
      );
    this.ids.set(key, between);
    return split.of === "parts" ? [...buffers.slice(0, -1), between] : [between, ...buffers.slice(-1)];
  }

  /** Why this step is not one with the step before it. */
  private unfused(built: BuiltKernel, steps: readonly Step[]): string | undefined {
    const before = steps.at(-1);
    const written = before?.k === "dispatch" ? before.buffers.slice(-(this.writtenOf.get(before.kernel) ?? 1)) : [];
    for (const o of built.operands.slice(0, -built.group.roots.length)) {
      if (o.k === "pack" || !written.includes(this.bufferFor(o))) continue;
      const declined = this.reasons.get(o.id);
      if (declined !== undefined) return `${declined.producer} → ${declined.consumer}: ${declined.reason}`;
    }
    return undefined;
  }

  private output(name: string, value: ValueId, made: ReadonlySet<ValueId>, steps: Step[]): BufferId {
    const source = this.written(value, made);
    const from = this.bufferFor({ k: "value", id: source });
    if (this.results.get(source)?.name === name) return from;
    // The result is an input, a parameter, or another result too: it gets a copy.
    const { dtype, shape } = nodeOf(this.grouping.values, value).type;
    const to = this.add(name, dtype, shape, { k: "output" });
    this.touch(from, steps.length);
    steps.push({ k: "copy", from, to });
    return to;
  }

  /** New values replace old ones when every step is done, one after the other. */
  private states(made: ReadonlySet<ValueId>, steps: Step[]): Plan["states"] {
    const all = this.graph.nodes.flatMap((n): Plan["states"] => {
      if (n.kind !== "state") return [];
      const buffer = this.bufferFor({ k: "value", id: n.id });
      const update = this.graph.updates.find((u) => u.state === n.name);
      if (update === undefined) return [{ name: n.name, buffer }];
      const from = this.bufferFor({ k: "value", id: this.written(update.value, made) });
      if (from === buffer || this.buffers[from]?.place.k !== "state") return [{ name: n.name, buffer, update: from }];
      // The old value of another state may be replaced before it gets here, so it is put aside.
      const { dtype, shape } = n.type;
      const kept = this.add(`next.${n.name}`, dtype, shape, { k: "arena", first: -1, last: -1 });
      this.touch(kept, steps.length);
      steps.push({ k: "copy", from, to: kept });
      return [{ name: n.name, buffer, update: kept }];
    });
    for (const s of all) if (s.update !== undefined) this.touch(s.update, steps.length);
    return all;
  }

  private bufferFor(operand: Operand): BufferId {
    const key = operand.k === "value" ? `v${operand.id}` : `p${operand.of}`;
    const known = this.ids.get(key);
    if (known !== undefined) return known;
    const id = operand.k === "value" ? this.valueBuffer(operand.id) : this.packBuffer(operand.of);
    this.ids.set(key, id);
    return id;
  }

  private packBuffer(contraction: ValueId): BufferId {
    const { values } = this.grouping;
    const node = nodeOf(values, contraction);
    const operand = node.kind === "op" ? (node.operands[1] ?? -1) : -1;
    const { dtype, shape } = packedType(values, contraction);
    const source = nodeOf(values, operand);
    const name = `${"name" in source ? source.name : `v${operand}`} in panels of ${contraction}`;
    return this.add(name, dtype, shape, this.isFixed(operand) ? { k: "persistent" } : { k: "arena", first: -1, last: -1 });
  }

  private valueBuffer(id: ValueId): BufferId {
    const state = this.stateOf(id);
    if (state !== undefined) return this.bufferFor({ k: "value", id: state });
    const node = nodeOf(this.grouping.values, id);
    const { dtype, shape } = node.type;
    switch (node.kind) {
      case "input":
        return this.add(node.name, dtype, shape, { k: "input" });
      case "param":
        return this.add(node.name, dtype, shape, { k: "param" });
      case "state":
        return this.add(node.name, dtype, shape, { k: "state" });
      case "constant":
        return isSplat(node) ? this.madeBuffer(node, "constant") : this.constant(node);
      case "table":
        this.tables.push({ name: node.name, dtype, shape: shape.map((d) => d.text), value: node.value });
        return this.add(node.name, dtype, shape, { k: "table", table: this.tables.length - 1 });
      case "op":
        return this.madeBuffer(node, node.op);
      default:
        return node satisfies never;
    }
  }

  /** What a kernel writes. */
  private madeBuffer({ id, type: { dtype, shape } }: GraphNode, by: string): BufferId {
    const result = this.results.get(id);
    if (result !== undefined) return this.add(result.name, dtype, result.shape, { k: "output" });
    return this.add(`${by}.${id}`, dtype, shape, this.isFixed(id) ? { k: "persistent" } : { k: "arena", first: -1, last: -1 });
  }

  private constant(node: Extract<GraphNode, { kind: "constant" }>): BufferId {
    const { dtype, shape } = node.type;
    return this.add(`constant.${node.id}`, dtype, shape, { k: "constant", data: node.data });
  }

  private add(name: string, dtype: DType, shape: readonly Dim[], place: PlanBuffer["place"]): BufferId {
    this.buffers.push({ name, dtype, shape: shape.map((d) => d.text), slack: 0, place });
    return this.buffers.length - 1;
  }

  private touch(id: BufferId, step: number): void {
    const lifetime = this.lifetimes.get(id);
    if (lifetime === undefined) this.lifetimes.set(id, { first: step, last: step });
    else lifetime.last = Math.max(lifetime.last, step);
  }

  private withLifetime(buffer: PlanBuffer, id: BufferId): PlanBuffer {
    if (buffer.place.k !== "arena") return buffer;
    const lifetime = this.lifetimes.get(id);
    return lifetime === undefined ? buffer : { ...buffer, place: { k: "arena", ...lifetime } };
  }
}

function planKernels(dispatches: readonly Dispatch[]): readonly PlanKernel[] {
  const kernels = new Map<string, PlanKernel>();
  for (const dispatch of dispatches) {
    const { built, fn, scratch } = dispatch;
    if (kernels.has(fn.name)) continue;
    kernels.set(fn.name, {
      name: fn.name,
      dims: fn.dims,
      bufferCount: kernelOf(dispatch).buffers.length,
      ...(built.group.roots.length === 1 ? {} : { written: built.group.roots.length }),
      scratch: scratch.text,
      units: fn.units.text,
    });
  }
  return [...kernels.values()];
}

const spanText = (s: Span): string => `${s.file}:${s.line}:${s.column}`;

/** Innermost place first, then the calls around it. */
function chainText(loc: Loc): string {
  return loc.map(spanText).join(" < ");
}

/** What the step belongs to, for timing: the file of the outermost module around it, or the graph itself. */
function stageOf(sources: readonly Loc[], graph: string): string {
  const loc = sources.at(-1);
  const file = loc?.at(-2)?.file ?? loc?.at(-1)?.file;
  return file === undefined ? graph : file.replace(/^.*\//, "").replace(/\.uhd$/, "");
}
