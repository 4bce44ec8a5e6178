// Which buffers of a kernel are never in memory that the same dispatch may write. WebGPU does not let one dispatch read a
// buffer of its own as read-only and write it: values of a run share one (the arena), parameters and what is made of them
// do not. Where a step writes such memory itself (when weights are prepared) nothing is promised.

import type { Kernel } from "../ir/kernel/types.ts";
import type { Plan, PlanBuffer } from "../ir/plan/types.ts";

type Place = PlanBuffer["place"]["k"];

const given: ReadonlySet<Place | undefined> = new Set(["param", "constant", "persistent"] as const);
const kept: ReadonlySet<Place | undefined> = new Set(["param", "constant", "persistent", "state"] as const);

/** Names of such buffers, by kernel. */
export function readOnlyBuffers(plan: Plan, kernels: readonly Kernel[]): ReadonlyMap<string, ReadonlySet<string>> {
  const found = new Map(kernels.map((k) => [k.name, new Set(k.buffers.flatMap((b) => (b.access === "read" ? [b.name] : [])))]));
  const buffersOf = new Map(kernels.map((k) => [k.name, k.buffers]));
  for (const step of [...plan.prepare, ...plan.steps]) {
    if (step.k !== "dispatch") continue;
    const names = found.get(step.kernel);
    const places = step.buffers.map((id) => plan.buffers[id]?.place.k);
    const buffers = buffersOf.get(step.kernel) ?? [];
    const writesKept = buffers.some((b, i) => b.access !== "read" && kept.has(places[i]));
    for (const [i, b] of buffers.entries()) if (writesKept || !given.has(places[i])) names?.delete(b.name);
  }
  return found;
}
