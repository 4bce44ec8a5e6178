// A training step within a memory budget: which forward values are kept for the backward pass, and which are computed again.
// Chosen greedily by the bytes that the peak loses for the work that is done again, then planned as the step itself is
// planned; where the plan takes more than was foreseen, chosen again with less. Runs nothing.
//
// Note [What is tried]
//   Layers repeat, so values are taken by the place in the source that makes them: all of one place at once, or all but every
//   second, third, … of them. Dropping the insides of layers leaves what goes from layer to layer, from which a layer is made
//   again when its turn comes; dropping all but every kth of these too leaves segments of k layers: √n of them hold least.
//   In the end what need not have been dropped is kept after all, the dearest first.

import { dim, dimEval, dimParse, type DimEnv } from "../ir/dim.ts";
import { typeText } from "../ir/graph/build.ts";
import type { Graph, GraphNode, ValueId } from "../ir/graph/types.ts";
import { locText } from "../ir/loc.ts";
import { bindPlan, cacheLine, type BoundPlan } from "../ir/plan/bind.ts";
import type { HostValue } from "../ir/plan/host.ts";
import { placeBlock, weightsMemory } from "../ir/plan/memory.ts";
import type { Plan } from "../ir/plan/types.ts";
import { bytesText } from "../ir/text.ts";
import { group, type FuseOptions, type Grouping } from "../fuse/groups.ts";
import type { BuiltKernel } from "../fuse/kernels.ts";
import { KernelTemplates } from "../fuse/templates.ts";
import { attentionPairs } from "../fuse/work.ts";
import { makePlan, type Dispatch } from "../memory/plan.ts";
import { shareTables } from "../memory/shared-tables.ts";
import { forwardOf, recompute } from "./recompute.ts";
import { Rehearsal, type Played, type Saved } from "./rehearsal.ts";

/** The sizes of a run. The optimiser's own inputs are numbers and need not be given. */
export interface RunSizes {
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  readonly given?: Readonly<Record<string, HostValue>>;
}

export interface MemoryBudget {
  /** Of everything that a step holds on the device: parameters, the optimiser's states, and the values of a run. */
  readonly bytes: number;
  /** The budget holds for runs of these sizes; a function is asked when the step is planned. */
  readonly sizes: readonly RunSizes[] | ((plan: Plan) => readonly RunSizes[]);
  /** Where the device's buffers begin; 64 when left out, which is WebAssembly's. */
  readonly alignment?: number | undefined;
}

/** Values of one place in the source. */
export interface SavedValues {
  /** The operation, and `file:line:column`, with what uses that place: `a < b`. */
  readonly op: string;
  readonly at: string;
  readonly type: string;
  readonly count: number;
  /** Of all of them, at the sizes that take most. */
  readonly bytes: number;
}

export interface StepMemory {
  /** What stays between runs. */
  readonly weights: number;
  /** The block of a run, at the sizes that take most. */
  readonly arena: number;
  /** The most that is held at a time. */
  readonly peak: number;
}

/** What became of a budget. */
export interface Recomputation {
  readonly budget: number;
  readonly predicted: StepMemory;
  /** With every value kept, and the optimiser's work in the same order (early.ts). */
  readonly before: StepMemory;
  /** Operations of a run, over all of the sizes: with every value kept, and what is done again. */
  readonly flops: { readonly before: number; readonly again: number };
  readonly kept: readonly SavedValues[];
  readonly recomputed: readonly SavedValues[];
}

/** No choice of what is recomputed fits the budget. */
export class MemoryBudgetError extends Error {
  override readonly name = "MemoryBudgetError";
  /** Bytes that are needed at least. */
  readonly least: number;

  constructor(message: string, least: number) {
    super(message);
    this.least = least;
  }
}

export interface Budgeted {
  readonly graph: Graph;
  readonly report: Recomputation;
}

/** `outputs` are the model's own. Throws MemoryBudgetError. */
export function withinBudget(graph: Graph, fusion: FuseOptions, outputs: ReadonlySet<string>, budget: MemoryBudget): Budgeted {
  const whole = planned(graph, fusion, budget);
  if (whole.memory.peak <= budget.bytes) return { graph, report: reportOf(graph, whole, whole, undefined, new Uint8Array(), budget) };
  const forward = forwardOf(graph, outputs);
  const rehearsal = new Rehearsal(whole.plan, whole.kernels, forward, whole.bound);
  const rest = whole.blocks.map((block, i) => whole.memory.weights + block - (whole.bound[i]?.arenaBytes ?? 0));
  // What the plan took beyond what was foreseen.
  let margin = 0;
  let best: { readonly planned: Planned; readonly graph: Graph; readonly dropped: Uint8Array } | undefined;
  for (let attempt = 0; attempt < attempts; attempt++) {
    const targets = rest.map((r) => budget.bytes - r - margin);
    const { dropped, isEnough } = new Chooser(graph, rehearsal, targets).choose();
    const made = recompute({ graph, grouping: whole.grouping, written: whole.written, forward }, rehearsal.kept(dropped));
    const after = planned(made, fusion, budget);
    if (best === undefined || after.memory.peak < best.planned.memory.peak) best = { planned: after, graph: made, dropped };
    if (after.memory.peak <= budget.bytes) return { graph: made, report: reportOf(graph, whole, after, rehearsal, dropped, budget) };
    // Nothing that could be dropped would help: with less to aim at, the same would be chosen again.
    if (!isEnough) break;
    margin += Math.max(after.memory.peak - budget.bytes, 1);
  }
  throw tooSmall(graph, whole, best?.planned ?? whole, budget);
}

const attempts = 5;

interface Planned {
  readonly plan: Plan;
  readonly grouping: Grouping;
  /** Of the plan's steps, in order. */
  readonly kernels: readonly BuiltKernel[];
  /** Values that kernels write. */
  readonly written: ReadonlySet<ValueId>;
  /** For each of the sizes. */
  readonly bound: readonly BoundPlan[];
  readonly blocks: readonly number[];
  readonly memory: StepMemory;
}

/** The plan of a graph without its kernels: the same buffers and steps as compiled. */
function planned(graph: Graph, fusion: FuseOptions, budget: MemoryBudget): Planned {
  const grouping = group(graph, fusion);
  const packed = new Set(grouping.groups.flatMap((g) => (g.packs === undefined ? [] : [g.packs])));
  const templates = new KernelTemplates(grouping.values, packed);
  const alone = grouping.groups.map((g) => templates.build(g));
  const built = fusion.fuse ? shareTables(graph, grouping, alone) : alone;
  const dispatches = built.map((b, i): Dispatch => ({ built: b, fn: { name: `kernel_${i}`, dims: [], units: dim(1) }, scratch: dim(0) }));
  const plan = makePlan(graph, grouping, attentionPairs(graph), dispatches);
  const sizes = typeof budget.sizes === "function" ? budget.sizes(plan) : budget.sizes;
  const bound = sizes.map(({ shapes, given }) =>
    bindPlan(plan, { ...scalarShapes(plan), ...shapes }, given, undefined, budget.alignment ?? cacheLine),
  );
  const blocks = bound.map((b) => placeBlock(plan, b).bytes);
  const weights = weightsMemory(plan);
  const arena = Math.max(0, ...blocks);
  const kernels = built.filter((b) => !grouping.fixed.has(b.group.root));
  const written = new Set(
    built.flatMap((b) => b.operands.flatMap((o, i) => (b.kernel.buffers[i]?.access !== "read" && o.k === "value" ? [o.id] : []))),
  );
  return {
    plan,
    grouping,
    kernels,
    written,
    bound,
    blocks,
    memory: { weights: weights.kept, arena, peak: Math.max(weights.peak, weights.kept + arena) },
  };
}

function scalarShapes(plan: Plan): Readonly<Record<string, readonly number[]>> {
  return Object.fromEntries(plan.inputs.flatMap(({ name, buffer }) => (plan.buffers[buffer]?.shape.length === 0 ? [[name, []]] : [])));
}

/** A choice: 1 for a buffer whose value is not kept. */
interface Choice {
  readonly dropped: Uint8Array;
  readonly played: Played;
}

class Chooser {
  readonly #rehearsal: Rehearsal;
  /** Bytes that the values of a run may hold, for each of the sizes. */
  readonly #targets: readonly number[];
  readonly #places: readonly (readonly Saved[])[];

  constructor(graph: Graph, rehearsal: Rehearsal, targets: readonly number[]) {
    this.#rehearsal = rehearsal;
    this.#targets = targets;
    this.#places = [...byPlace(graph, rehearsal.saved).values()];
  }

  /** `isEnough` is false when nothing that could be dropped would lose what is too much. */
  choose(): { readonly dropped: Uint8Array; readonly isEnough: boolean } {
    const dropped = this.#rehearsal.nothing();
    let now: Choice = { dropped, played: this.#rehearsal.play(dropped) };
    while (this.#excess(now.played) > 0) {
      const better = this.#best(now);
      if (better === undefined) break;
      now = better;
    }
    return { dropped: this.#keepAgain(now), isEnough: this.#excess(now.played) <= 0 };
  }

  #excess({ peaks }: Played): number {
    return peaks.reduce((most, peak, i) => Math.max(most, peak - (this.#targets[i] ?? 0)), -Infinity);
  }

  /** What loses most bytes of the peak for its work; undefined when nothing loses any. */
  #best(now: Choice): Choice | undefined {
    const over = this.#excess(now.played);
    let best: (Choice & { readonly score: number }) | undefined;
    for (const dropped of this.#moves(now.dropped)) {
      const played = this.#rehearsal.play(dropped);
      const less = Math.min(over, over - this.#excess(played));
      if (less <= 0) continue;
      const score = less / Math.max(1, played.work - now.played.work);
      if (best === undefined || score > best.score) best = { dropped, played, score };
    }
    return best;
  }

  /** See Note [What is tried]. */
  *#moves(before: Uint8Array): Generator<Uint8Array> {
    for (const values of this.#places) {
      const left = values.filter((v) => before[v.buffer] === 0);
      for (const every of segments) {
        if (every === Infinity ? left.length === 0 : every > left.length) continue;
        const dropped = before.slice();
        for (const [i, v] of left.entries()) if (every === Infinity || i % every !== every - 1) dropped[v.buffer] = 1;
        yield dropped;
      }
    }
  }

  /** Without what need not have been dropped, what was made last first: a copy of it lives longest. */
  #keepAgain({ dropped, played }: Choice): Uint8Array {
    const best = dropped.slice();
    const over = Math.max(0, this.#excess(played));
    let { work } = played;
    for (const { buffer } of this.#rehearsal.saved.toReversed()) {
      if (best[buffer] === 0) continue;
      best[buffer] = 0;
      const without = this.#rehearsal.play(best);
      if (Math.max(0, this.#excess(without)) > over || without.work > work) best[buffer] = 1;
      else work = without.work;
    }
    return best;
  }
}

/** How many values of one place are a segment, of which the last is kept; of all of them none is. */
const segments = [Infinity, 2, 3, 4, 6, 8];

function byPlace(graph: Graph, saved: readonly Saved[]): ReadonlyMap<string, readonly Saved[]> {
  const nodes = new Map(graph.nodes.map((n) => [n.id, n]));
  const places = new Map<string, Saved[]>();
  for (const s of saved) {
    const node = nodes.get(s.value);
    const key = node === undefined ? "" : `${opName(node)} ${typeText(node.type)} ${node.loc.map((l) => `${l.file}:${l.start}`).join(" ")}`;
    places.set(key, [...(places.get(key) ?? []), s]);
  }
  return places;
}

const opName = (node: GraphNode): string => (node.kind === "op" ? node.op : node.kind);

function reportOf(
  graph: Graph,
  whole: Planned,
  after: Planned,
  rehearsal: Rehearsal | undefined,
  dropped: Uint8Array,
  budget: MemoryBudget,
): Recomputation {
  const largest = whole.blocks.indexOf(Math.max(...whole.blocks));
  const list = (want: boolean): readonly SavedValues[] => {
    const chosen = (rehearsal?.saved ?? []).filter((s) => (dropped[s.buffer] === 1) === want);
    return [...byPlace(graph, chosen).values()].flatMap((values) => savedValues(graph, values, whole.bound[largest]));
  };
  const flops = (p: Planned): number => p.bound.reduce((sum, { env }) => sum + planFlops(p.plan, env), 0);
  const before = flops(whole);
  return {
    budget: budget.bytes,
    predicted: after.memory,
    before: whole.memory,
    flops: { before, again: flops(after) - before },
    kept: list(false),
    recomputed: list(true),
  };
}

function savedValues(graph: Graph, values: readonly Saved[], bound: BoundPlan | undefined): readonly SavedValues[] {
  const node = graph.nodes.find((n) => n.id === values[0]?.value);
  if (node === undefined) return [];
  const bytes = values.reduce((sum, { buffer }) => sum + (bound?.buffers[buffer]?.bytes ?? 0), 0);
  return [{ op: opName(node), at: placeText(node), type: typeText(node.type), count: values.length, bytes }];
}

/** Where it is written, and where what that belongs to is used: layers share the lines of a normalisation. */
function placeText({ loc }: GraphNode): string {
  return loc.length < 2 ? locText(loc) : `${locText(loc)} < ${locText(loc.slice(1))}`;
}

function planFlops(plan: Plan, env: DimEnv): number {
  return plan.steps.reduce((sum, s) => sum + (s.k === "dispatch" ? dimEval(dimParse(s.flops), env) : 0), 0);
}

/** What the least that was found holds when it holds most. */
function tooSmall(graph: Graph, whole: Planned, least: Planned, budget: MemoryBudget): MemoryBudgetError {
  const at = least.blocks.indexOf(Math.max(...least.blocks));
  const bound = least.bound[at];
  const arena = least.plan.buffers.flatMap((b, id) =>
    b.place.k === "arena"
      ? [{ ...b.place, name: `${b.name}: ${b.dtype}[${b.shape.join(", ")}]`, bytes: bound?.buffers[id]?.bytes ?? 0 }]
      : [],
  );
  const live = new Array<number>(least.plan.steps.length + 1).fill(0);
  for (const b of arena) for (let s = b.first; s <= b.last; s++) live[s] = (live[s] ?? 0) + b.bytes;
  const step = live.indexOf(Math.max(...live));
  const held = arena.filter((b) => b.first <= step && step <= b.last).toSorted((a, b) => b.bytes - a.bytes);
  const { weights, peak } = least.memory;
  const shown = held.slice(0, 4).map((b) => `${b.name}, ${bytesText(b.bytes)}`);
  return new MemoryBudgetError(
    `the training step of ${graph.name} does not fit in ${bytesText(budget.bytes)}: it takes at least ${bytesText(peak)} of the ` +
      `${bytesText(whole.memory.peak)} that it takes when nothing is computed again: ${bytesText(weights)} of parameters and the optimiser's states, and ` +
      `${bytesText(least.memory.arena)} for a run, of which step ${step} of ${least.plan.steps.length} holds most: ${shown.join("; ")}`,
    peak,
  );
}
