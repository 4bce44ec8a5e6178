// How much memory a plan takes on a device: what stays between runs, the most that is held while weights are prepared, and
// the one block of a run. The runtime allocates by these functions, so what is predicted is what is taken. Allocates nothing.

import { dimConstant, dimParse } from "../dim.ts";
import { bytesOf } from "../dtype.ts";
import { BindError, type BoundPlan } from "./bind.ts";
import type { BufferId, Plan, PlanBuffer, Step } from "./types.ts";

/** Kernels may read this far past the end of every buffer. */
const slackBytes = 64;

/** Every buffer a step reads or writes. */
export function stepBuffers(step: Step): readonly BufferId[] {
  switch (step.k) {
    case "dispatch":
      return step.buffers;
    case "copy":
      return [step.from, step.to];
    default:
      return step satisfies never;
  }
}

/** Whether a run finds the buffer on the device instead of in its arena. */
export function isKept(buffer: PlanBuffer): boolean {
  switch (buffer.place.k) {
    case "param":
    case "constant":
    case "persistent":
    case "state":
      return true;
    case "input":
    case "output":
    case "table":
    case "arena":
      return false;
    default:
      return buffer.place satisfies never;
  }
}

/** Bytes of a buffer that is kept. */
export function keptBytes(buffer: PlanBuffer): number {
  const elements = buffer.shape.reduce((n, text) => {
    const size = dimConstant(dimParse(text));
    if (size === undefined || size < 0)
      throw new BindError(`buffer ${buffer.name} is kept between runs, and its size ${text} is not constant`);
    return n * size;
  }, 1);
  return (elements + buffer.slack) * bytesOf(buffer.dtype);
}

export interface Use {
  readonly kept: boolean;
  /** Last step of `prepare` that names it; -1 when none does. */
  last: number;
}

/** Who needs which buffer that is kept, or made while weights are prepared, for how long. */
export function usesOf(plan: Plan): ReadonlyMap<BufferId, Use> {
  const uses = new Map<BufferId, Use>();
  const inRuns = new Set([
    ...plan.steps.flatMap(stepBuffers),
    ...plan.outputs.map((o) => o.buffer),
    ...plan.states.flatMap((s) => (s.update === undefined ? [s.buffer] : [s.buffer, s.update])),
  ]);
  for (const id of inRuns) {
    const buffer = plan.buffers[id];
    if (buffer !== undefined && isKept(buffer)) uses.set(id, { kept: true, last: -1 });
  }
  for (const [i, step] of plan.prepare.entries()) {
    for (const id of stepBuffers(step)) {
      const use = uses.get(id);
      if (use === undefined) uses.set(id, { kept: false, last: i });
      else use.last = i;
    }
  }
  return uses;
}

/** Bytes that stay, and the most that `prepare` holds at any moment. */
export function weightsMemory(plan: Plan): { readonly kept: number; readonly peak: number } {
  const uses = usesOf(plan);
  const size = (id: BufferId): number => keptBytes(bufferOf(plan, id));
  let kept = 0;
  for (const [id, use] of uses) if (use.kept) kept += size(id);
  let now = 0;
  let peak = kept;
  const alive = new Set<BufferId>();
  for (const [i, step] of plan.prepare.entries()) {
    for (const id of stepBuffers(step)) {
      if (alive.has(id)) continue;
      alive.add(id);
      now += size(id);
    }
    peak = Math.max(peak, now);
    for (const id of new Set(stepBuffers(step))) {
      const use = uses.get(id);
      if (use === undefined || use.kept || use.last !== i) continue;
      alive.delete(id);
      now -= size(id);
    }
  }
  return { kept, peak };
}

function bufferOf(plan: Plan, id: BufferId): PlanBuffer {
  const buffer = plan.buffers[id];
  if (buffer === undefined) throw new BindError(`plan ${plan.name} has no buffer ${id}`);
  return buffer;
}

/** One block for everything that a run has besides the weights: the arena, then inputs, outputs and tables. */
export function placeBlock(plan: Plan, bound: BoundPlan): { readonly offsets: ReadonlyMap<BufferId, number>; readonly bytes: number } {
  const { alignment } = bound;
  const offsets = new Map<BufferId, number>();
  let at = bound.arenaBytes;
  for (const [id, { place }] of plan.buffers.entries()) {
    if (place.k === "arena") offsets.set(id, bound.buffers[id]?.offset ?? 0);
    if (place.k !== "input" && place.k !== "output" && place.k !== "table") continue;
    at = Math.ceil(at / alignment) * alignment;
    offsets.set(id, at);
    at += (bound.buffers[id]?.bytes ?? 0) + slackBytes;
  }
  return { offsets, bytes: at };
}
