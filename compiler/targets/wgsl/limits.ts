// What WGSL within WebGPU's default limits cannot express of a function that is otherwise sound.

import { dimConstant } from "../../ir/dim.ts";
import type { ImpFunction } from "../../ir/imp/types.ts";
import type { WgslFeatures } from "./types.ts";

/** WebGPU's defaults. */
export const webgpuLimits = { storageBuffers: 8, lanes: 256, workgroupBytes: 16384 } as const;

/** Bytes of workgroup memory: narrow elements have a word each, f16 two bytes where there is shader-f16. */
export function workgroupBytes(fn: ImpFunction, features: WgslFeatures): number {
  const bytes = fn.scratch.map((s) => {
    if (s.space !== "workgroup") return 0;
    return Math.ceil(((dimConstant(s.size) ?? 0) * (s.dtype === "f16" && features.f16 ? 2 : 4)) / 16) * 16;
  });
  return bytes.reduce((a, b) => a + b, 0);
}

/** Each reason why `fn` cannot be rendered, as a sentence. */
export function wgslFaults(fn: ImpFunction, features: WgslFeatures): readonly string[] {
  const faults: string[] = [];
  const { storageBuffers, lanes, workgroupBytes: most } = webgpuLimits;
  if (fn.buffers.length > storageBuffers) faults.push(`${fn.buffers.length} buffers, WebGPU binds ${storageBuffers}`);
  if (fn.lanes > lanes) faults.push(`${fn.lanes} lanes, WebGPU has ${lanes}`);
  for (const s of fn.scratch)
    if (dimConstant(s.size) === undefined) faults.push(`scratch ${s.name} has ${s.size.text} elements, WGSL needs a constant`);
  const bytes = workgroupBytes(fn, features);
  if (bytes > most) faults.push(`${bytes} bytes of workgroup memory, WebGPU has ${most}`);
  if (fn.subgroup !== undefined && fn.subgroup !== features.subgroups)
    faults.push(
      `it relies on subgroups of ${fn.subgroup}, ${features.subgroups === 0 ? "there are none" : `they have ${features.subgroups}`}`,
    );
  return faults;
}
