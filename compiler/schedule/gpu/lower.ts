// Kernel IR to Imp IR for GPUs: a unit is a workgroup. Chooses the schedule of a kernel; each stands in a file of its own.
// Units and sizes of a kernel are the same for all capabilities of one target, since its variants share a plan.

import type { ImpFunction } from "../../ir/imp/types.ts";
import type { Kernel } from "../../ir/kernel/types.ts";
import type { Capabilities } from "../capabilities.ts";
import { lowerGpuAttention } from "./attention.ts";
import { lowerGpuAttentionGradient } from "./attention-gradient.ts";
import { lowerGpuMatmul } from "./matmul.ts";
import { lowerPoints } from "./points.ts";
import { lowerGpuQuantised } from "./quantised.ts";
import { lowerRows } from "./rows.ts";

export interface GpuLowered {
  readonly fn: ImpFunction;
  /** False where no builder took the kernel. */
  readonly built: boolean;
}

export function lowerGpu(kernel: Kernel, capabilities: Capabilities): GpuLowered {
  const { gpu } = capabilities;
  if (gpu === undefined) throw new Error(`kernel ${kernel.name} is lowered for a GPU without one's capabilities`);
  const built =
    kernel.pattern?.k === "matmul"
      ? lowerGpuMatmul(kernel, gpu)
      : kernel.pattern?.k === "attention"
        ? lowerGpuAttention(kernel, capabilities, gpu)
        : kernel.pattern?.k === "quantised"
          ? lowerGpuQuantised(kernel, gpu)
          : kernel.pattern === undefined
            ? lowerGpuAttentionGradient(kernel, gpu)
            : undefined;
  if (built !== undefined) return { fn: built, built: true };
  return { fn: lowerRows(kernel, gpu) ?? lowerPoints(kernel), built: false };
}
