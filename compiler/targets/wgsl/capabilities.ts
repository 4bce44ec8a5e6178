// What schedules may rely on where kernels become WGSL.

import type { Capabilities } from "../../schedule/capabilities.ts";
import type { WgslFeatures } from "./types.ts";

export function webgpuCapabilities(features: WgslFeatures): Capabilities {
  return { vector: 4, matmulRows: 4, gpu: { subgroups: features.subgroups } };
}
