// Which device a run gets when none is given: a GPU where there is a real one, else WebAssembly; and why. Does not compile.

import type { Device } from "../device.ts";
import { AdapterError } from "../errors.ts";
import { importNode, isNode } from "../platform.ts";
import { findAdapter } from "./webgpu/adapter.ts";
import { WasmDevice } from "./wasm/device.ts";
import { WebGpuDevice } from "./webgpu/device.ts";

/** What kernels may be for. */
export type Target = "wasm" | "webgpu";

export interface ChooseOptions {
  /** "auto": a GPU that is one, or WebAssembly. "webgpu" takes an adapter that computes on the CPU, too. */
  readonly name: "auto" | Target;
  /** Of the WebAssembly device. */
  readonly threads?: number | undefined;
  /** What there is code for, where it is compiled already. */
  readonly targets?: readonly Target[] | undefined;
}

export interface ChosenDevice {
  readonly device: Device;
  readonly target: Target;
  /** "wasm: this machine has no graphics hardware" */
  readonly why: string;
}

/** Opens it. Throws AdapterError when a GPU was asked for and cannot be had. */
export async function chooseDevice({ name, threads, targets = ["wasm", "webgpu"] }: ChooseOptions): Promise<ChosenDevice> {
  const wasm = async (why: string): Promise<ChosenDevice> => {
    const device = await WasmDevice.create({ threads });
    return { device, target: "wasm", why: `wasm, ${device.threads} thread${device.threads === 1 ? "" : "s"}: ${why}` };
  };
  const webgpu = async (why: string): Promise<ChosenDevice> => {
    const device = await WebGpuDevice.create();
    return { device, target: "webgpu", why: `webgpu, ${device.description}: ${why}${device.software ? "; it computes on the CPU" : ""}` };
  };
  switch (name) {
    case "wasm":
      return wasm("as asked");
    case "webgpu":
      return webgpu("as asked");
    case "auto": {
      if (!targets.includes("webgpu")) return wasm("the graph is compiled for nothing else");
      const without = await noHardware();
      if (without === undefined) return webgpu("a GPU is there");
      if (targets.includes("wasm")) return wasm(without);
      throw new AdapterError(`the graph is compiled for webgpu alone, and ${without}; compile it for wasm, or choose --device webgpu`);
    }
    default:
      return name satisfies never;
  }
}

/** Why no hardware computes for WebGPU here; undefined when some does. */
export async function noHardware(): Promise<string | undefined> {
  // Asking for adapters loads drivers, which takes a tenth of a second: not where there is nothing to find.
  if (!(await mayHaveHardware())) return "this machine has no graphics hardware";
  try {
    const { software, description } = await findAdapter();
    return software ? `the only WebGPU adapter, ${description}, computes on the CPU` : undefined;
  } catch (error) {
    if (error instanceof AdapterError) return error.message;
    throw error;
  }
}

/** False only where the system shows that it has no GPU. */
export async function mayHaveHardware(): Promise<boolean> {
  if (!isNode || process.platform !== "linux") return true;
  const { readdirSync } = await importNode<typeof import("node:fs")>("fs");
  const entries = (folder: string): readonly string[] => {
    try {
      return readdirSync(folder);
    } catch {
      return [];
    }
  };
  // Render nodes of kernel drivers; NVIDIA's own driver; Windows' GPU seen from its Linux subsystem.
  return (
    entries("/dev/dri").some((f) => f.startsWith("renderD")) || entries("/dev").some((f) => /^(?:nvidia\d+|dxg|mali\d*|kgsl-3d0)$/.test(f))
  );
}
