// Turns a step of a plan into a command of a device: dims evaluated, buffers bound.

import { dimEval, dimParse, type Dim, type DimEnv } from "../compiler/ir/dim.ts";
import type { BufferId, Plan, Step } from "../compiler/ir/plan/types.ts";
import type { Binding, Command, KernelModule } from "./device.ts";
import { ArtefactError } from "./errors.ts";

const parsed = new Map<string, Dim>();

/** The value of a dim's text. Texts repeat from step to step and run to run: each is parsed once. */
export function sizeOf(text: string, env: DimEnv): number {
  let dim = parsed.get(text);
  if (dim === undefined) {
    if (parsed.size >= 10_000) parsed.clear();
    parsed.set(text, (dim = dimParse(text)));
  }
  return dimEval(dim, env);
}

/** `env` has the plan's symbols; `bind` gives each buffer's place. */
export function commandOf(plan: Plan, step: Step, module: KernelModule, env: DimEnv, bind: (id: BufferId) => Binding): Command {
  switch (step.k) {
    case "copy": {
      const from = bind(step.from);
      const to = bind(step.to);
      const bytes = Math.min(from.bytes, to.bytes);
      return { k: "copy", from: { ...from, bytes }, to: { ...to, bytes } };
    }
    case "dispatch": {
      const kernel = plan.kernels.find((k) => k.name === step.kernel);
      if (kernel === undefined) throw new ArtefactError(`plan ${plan.name} has no kernel ${step.kernel}`);
      const dims = step.dims.map((text) => sizeOf(text, env));
      const own: DimEnv = Object.fromEntries(kernel.dims.map((name, i) => [name, dims[i] ?? 0]));
      return {
        k: "dispatch",
        module,
        kernel: step.kernel,
        bindings: step.buffers.map(bind),
        dims,
        units: sizeOf(kernel.units, own),
        scratch: sizeOf(kernel.scratch, own),
        flops: sizeOf(step.flops, env),
        bytes: sizeOf(step.bytes, env),
        sources: step.sources,
      };
    }
    default:
      return step satisfies never;
  }
}
