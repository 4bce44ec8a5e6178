// How the rate goes over a training. Numbers only.

import type { Schedule } from "../../compiler/ir/plan/training.ts";

/** Steps of the warm-up, of `total` steps. */
function warmupSteps(schedule: Schedule, total: number): number {
  return schedule.warmup.k === "steps" ? schedule.warmup.count : Math.ceil(schedule.warmup.of * total);
}

/** Does the rate depend on how many steps there are in all? */
export function needsTotal(schedule: Schedule): boolean {
  return schedule.kind !== "constant" || schedule.warmup.k === "share";
}

/** The factor of the optimiser's rate in step `step`, counted from 0, of `total`. */
export function rateFactor(schedule: Schedule, step: number, total: number): number {
  const warmup = warmupSteps(schedule, total);
  if (step < warmup) return step / warmup;
  const done = Math.min(1, (step - warmup) / Math.max(1, total - warmup));
  switch (schedule.kind) {
    case "constant":
      return 1;
    case "linear":
      return 1 - done;
    case "cosine":
      return 0.5 * (1 + Math.cos(Math.PI * done));
    default:
      return schedule.kind satisfies never;
  }
}
