// The device of a command: chosen from --device, told on stderr with the reason, and what code must be compiled for it.
// The float64 evaluator is not one of them (reference.ts).

import type { Artefact } from "../../runtime/artefact.ts";
import type { Device } from "../../runtime/device.ts";
import { chooseDevice, type ChosenDevice, type Target } from "../../runtime/devices/choose.ts";
import { WebGpuDevice } from "../../runtime/devices/webgpu/device.ts";
import type { TargetOptions } from "./compiling.ts";
import type { Terminal } from "./terminal.ts";

export const deviceNames = ["auto", "webgpu", "wasm", "reference"] as const;
export type DeviceName = (typeof deviceNames)[number];

export type RealDevice = Exclude<DeviceName, "reference">;

/** What was left to us is told, on stderr. */
export function tellDevice(name: DeviceName, { why }: ChosenDevice, terminal: Terminal): void {
  if (name === "auto") terminal.err(`device: ${why}`);
}

/** For commands that compile: opens the device of --device. */
export function openDevice(name: RealDevice, threads: number | undefined, targets?: readonly Target[]): Promise<ChosenDevice> {
  return chooseDevice({ name, threads, targets });
}

/** What an artefact has code for. */
export function targetsOf({ modules, wgsl }: Artefact): readonly Target[] {
  return [...(modules === undefined ? [] : (["wasm"] as const)), ...(wgsl === undefined ? [] : (["webgpu"] as const))];
}

/** What to compile so that `device` runs it, with what its adapter has. */
export function targetOf(device: Device): TargetOptions {
  return device instanceof WebGpuDevice ? { target: "webgpu", features: device.features } : { target: "wasm" };
}
