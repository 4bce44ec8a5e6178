// Says no, before anything is allocated, to a run that needs more memory than there is. Does not allocate.

import { isKept } from "../compiler/ir/plan/memory.ts";
import type { Plan } from "../compiler/ir/plan/types.ts";
import { formatBytes, ResourceError } from "./errors.ts";
import type { Layout } from "./layout.ts";
import { typeText } from "./tensor.ts";

/** Throws ResourceError, naming the largest value, unless `weights` bytes and a run of this layout fit in `available`. */
export function checkMemory(plan: Plan, layout: Layout, weights: number, available: number): void {
  const needed = weights + layout.bytes;
  if (needed <= available) return;
  const largest = largestValue(plan, layout);
  throw new ResourceError(
    `${plan.name} needs ${formatBytes(needed)} for these inputs (weights ${formatBytes(weights)}, arena ${formatBytes(layout.bytes)}) and there are ${formatBytes(available)}; ` +
      `the largest value is ${largest.name}, ${largest.type}, ${formatBytes(largest.bytes)}`,
    needed,
    available,
  );
}

/** Of the run's values, and of the weights when one of those is larger. */
function largestValue(plan: Plan, layout: Layout): { readonly name: string; readonly type: string; readonly bytes: number } {
  let best = layout.largest();
  for (const [id, buffer] of plan.buffers.entries()) {
    if (!isKept(buffer)) continue;
    const bytes = layout.allocatedBytes(id);
    if (bytes > best.bytes) best = { name: buffer.name, type: typeText(buffer.dtype, layout.shape(id)), bytes };
  }
  return best;
}
