// Where `uhdc train` computes: the device of --device with the step compiled for it, or the float64 evaluator. Trains nothing.

import type { Device } from "../../runtime/device.ts";
import { Trainer } from "../../runtime/train/trainer.ts";
import type { TrainerOptions } from "../../runtime/train/types.ts";
import type { Program } from "../check/index.ts";
import type { MemoryBudget } from "../train/budget.ts";
import { compileTraining, type CompiledTraining, type WebGpuCompiledTraining } from "../train/index.ts";
import { openDevice, targetOf, tellDevice, type DeviceName } from "./device.ts";
import { referenceSession } from "./reference-training.ts";
import type { Terminal } from "./terminal.ts";

export interface TrainingPlace extends AsyncDisposable {
  /** What a checkpoint's settings say of it: sums in another order have other bits. */
  readonly kind: string;
  readonly compiled: CompiledTraining | WebGpuCompiledTraining;
  /** Undefined for the evaluator. */
  readonly device: Device | undefined;
  trainer(options: Omit<TrainerOptions, "device" | "threads">): Promise<Trainer>;
}

/** Says on stderr what was chosen, where that was left to us. Throws AdapterError and what compileTraining throws. */
export async function openTrainingPlace(
  program: Program,
  { device: name, threads, json }: { readonly device: DeviceName; readonly threads?: number | undefined; readonly json: boolean },
  memory: MemoryBudget | undefined,
  terminal: Terminal,
): Promise<TrainingPlace> {
  if (name === "reference") {
    const compiled = compileTraining(program);
    return {
      kind: "reference",
      compiled,
      device: undefined,
      trainer: (options) =>
        Trainer.over(compiled, options, (weights) => referenceSession(program, compiled.plan, weights, options.init?.seed)),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  }
  const chosen = await openDevice(name, threads);
  const { device } = chosen;
  try {
    if (!json) tellDevice(name, chosen, terminal);
    const target = targetOf(device);
    const compiled = target.target === "webgpu" ? compileTraining(program, { ...target, memory }) : compileTraining(program, { memory });
    return {
      kind: chosen.target,
      compiled,
      device,
      trainer: (options) => Trainer.create(compiled, { ...options, device }),
      [Symbol.asyncDispose]: () => device.close(),
    };
  } catch (error) {
    await device.close();
    throw error;
  }
}
