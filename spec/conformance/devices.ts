// The devices that the conformance suite runs on, one row each: the evaluator of Kernel IR, the emulator of Imp IR in
// both variants, and WebAssembly with one thread, two threads and relaxed SIMD; and WebGPU with what an adapter has and
// without it. A row that cannot be had on a machine says why.

import type { Compiled, WebGpuCompiled } from "../../compiler/compile.ts";
import { bytesOf, type DType } from "../../compiler/ir/dtype.ts";
import { compileImp, type ImpMemory } from "../../compiler/ir/imp/eval.ts";
import type { ImpFunction } from "../../compiler/ir/imp/types.ts";
import { evalKernel } from "../../compiler/ir/kernel/eval.ts";
import { relaxedProbe } from "../../compiler/targets/wasm/capabilities.ts";
import type { Artefact } from "../../runtime/artefact.ts";
import type { Device } from "../../runtime/device.ts";
import { WasmDevice, type WasmDeviceOptions } from "../../runtime/devices/wasm/device.ts";
import { WebGpuDevice } from "../../runtime/devices/webgpu/device.ts";
import { AdapterError } from "../../runtime/errors.ts";
import { arrays } from "../../runtime/tensor.ts";
import { InterpreterDevice, type ExecuteKernel } from "./interpreter-device.ts";

/** `C` is what the row's kernels are compiled to. */
export interface DeviceRow<C extends Artefact> {
  readonly name: string;
  /** Why the device cannot be had here; undefined when it can. */
  unavailable(): Promise<string | undefined>;
  /** A device for `compiled`. It may be the one that served before. */
  open(compiled: C): Promise<Device>;
  /** What of `compiled` the device gets; all of it where nothing is said. */
  readonly part?: (compiled: C) => Artefact;
  close(device: Device): Promise<void>;
  /** Called once, after everything: closes what was kept open. */
  end(): Promise<void>;
}

/** The elements of a binding, as a device's memory has them. */
function elements(bytes: Uint8Array, dtype: DType): ImpMemory {
  return new arrays[dtype](bytes.buffer, bytes.byteOffset, Math.floor(bytes.byteLength / bytesOf(dtype)));
}

function byName<T extends { readonly name: string; readonly dtype: DType }>(
  buffers: readonly T[],
  bytes: readonly Uint8Array[],
): Record<string, ImpMemory> {
  return Object.fromEntries(buffers.map((b, i) => [b.name, elements(bytes[i] ?? new Uint8Array(0), b.dtype)]));
}

function sizes(names: readonly string[], values: readonly number[]): Record<string, number> {
  return Object.fromEntries(names.map((name, i) => [name, values[i] ?? NaN]));
}

/** A row whose kernels are interpreted. */
function interpreted(name: string, execute: (compiled: Compiled) => ExecuteKernel): DeviceRow<Compiled> {
  return {
    name,
    unavailable: async () => undefined,
    open: async (compiled) => new InterpreterDevice(name, new Set(compiled.plan.kernels.map((k) => k.name)), execute(compiled)),
    close: (device) => device.close(),
    end: async () => undefined,
  };
}

const kernelEvaluator = interpreted("kernel evaluator", ({ kernels, plan }) => {
  const known = new Map(kernels.map((kernel, i) => [kernel.name, { kernel, dims: plan.kernels[i]?.dims ?? [] }]));
  return (name, bytes, dims) => {
    const found = known.get(name);
    if (found === undefined) throw new Error(`there is no kernel ${name}`);
    evalKernel(found.kernel, byName(found.kernel.buffers, bytes), sizes(found.dims, dims));
  };
});

function emulator(name: string, functions: (compiled: Compiled) => readonly ImpFunction[]): DeviceRow<Compiled> {
  return interpreted(name, (compiled) => {
    const known = new Map(functions(compiled).map((fn) => [fn.name, { fn, run: compileImp(fn) }]));
    return (kernel, bytes, dims, units) => {
      const found = known.get(kernel);
      if (found === undefined) throw new Error(`there is no function ${kernel}`);
      found.run(byName(found.fn.buffers, bytes), sizes(found.fn.dims, dims), { begin: 0, end: units });
    };
  });
}

/** One device serves many batches: starting threads takes longer than a batch. */
function wasm(name: string, options: WasmDeviceOptions): DeviceRow<Compiled> {
  let device: Promise<WasmDevice> | undefined;
  return {
    name,
    unavailable: async () =>
      options.simd === "relaxed" && !WebAssembly.validate(Uint8Array.from(relaxedProbe()))
        ? `this engine (Node ${process.versions.node}) does not validate relaxed SIMD`
        : undefined,
    open: () => (device ??= WasmDevice.create(options)),
    close: async () => undefined,
    end: async () => {
      await (await device)?.close();
      device = undefined;
    },
  };
}

export const deviceRows: readonly DeviceRow<Compiled>[] = [
  kernelEvaluator,
  emulator("imp emulator, plain", (compiled) => compiled.imp.plain),
  emulator("imp emulator, relaxed", (compiled) => compiled.imp.relaxed),
  wasm("wasm plain, 1 thread", { threads: 1, simd: "plain" }),
  wasm("wasm plain, 2 threads", { threads: 2, simd: "plain" }),
  wasm("wasm relaxed", { threads: 1, simd: "relaxed" }),
];

/** A GPU within WebGPU's default limits, or the reason why there is none. */
export async function systemGpu(): Promise<WebGpuDevice | string> {
  try {
    return await WebGpuDevice.create({ limits: "default" });
  } catch (error) {
    if (error instanceof AdapterError) return error.message;
    throw error;
  }
}

/**
 * The kernels for what the adapter has, and those that need no feature, on one device: equal kernels are compiled once.
 * `found` is the device, which stays open, or why there is none.
 */
export function gpuRows(found: WebGpuDevice | string): readonly DeviceRow<WebGpuCompiled>[] {
  const row = (name: string, part?: (compiled: WebGpuCompiled) => Artefact): DeviceRow<WebGpuCompiled> => ({
    name,
    unavailable: async () => (typeof found === "string" ? found : undefined),
    open: async () => {
      if (typeof found === "string") throw new Error(found);
      return found;
    },
    close: async () => undefined,
    end: async () => undefined,
    ...(part === undefined ? {} : { part }),
  });
  return [
    row("webgpu, all features of the adapter"),
    row("webgpu, no features", (compiled) => ({ plan: compiled.plan, wgsl: compiled.wgsl.slice(-1) })),
  ];
}
