// The order in which weights are prepared. A step holds parameters that go when it is done, beside all that stays of the steps
// before it: so those that hold most come first, while there is little. Weights that are packed are then never much more on
// the device than in the end (tied embeddings of a small model are a fifth of it, held twice for a moment). Changes no step.

import { isKept, keptBytes, stepBuffers, usesOf } from "../ir/plan/memory.ts";
import type { BufferId, Plan, Step } from "../ir/plan/types.ts";

/** The plan, with the steps of `prepare` that read nothing of other steps in front, by what they hold for the moment. */
export function largestFirst(plan: Plan): Plan {
  const uses = usesOf(plan);
  const made = new Set(plan.prepare.flatMap((s) => (s.k === "copy" ? [s.to] : s.buffers.slice(-writtenBy(plan, s)))));
  const bytes = (id: BufferId): number => {
    const buffer = plan.buffers[id];
    return buffer === undefined || !isKept(buffer) || uses.get(id)?.kept === true ? 0 : keptBytes(buffer);
  };
  const held = (s: Step): number => [...new Set(stepBuffers(s))].reduce((sum, id) => sum + bytes(id), 0);
  const alone = (s: Step): boolean => stepBuffers(s).filter((id) => made.has(id)).length <= (s.k === "copy" ? 1 : writtenBy(plan, s));
  const first = plan.prepare.filter(alone).map((step) => ({ step, held: held(step) }));
  const sorted = first.sort((a, b) => b.held - a.held).map(({ step }) => step);
  return { ...plan, prepare: [...sorted, ...plan.prepare.filter((s) => !alone(s))] };
}

function writtenBy(plan: Plan, step: Extract<Step, { k: "dispatch" }>): number {
  return plan.kernels.find((k) => k.name === step.kernel)?.written ?? 1;
}
