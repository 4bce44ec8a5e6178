// WebGPU devices for tests: one of any adapter, software included, or the reason why there is none. Kernels written by
// hand, so that the device is tested without the compiler.

import type { TestContext } from "vitest";
import type { Binding, Command, DeviceBuffer, KernelCode, KernelModule, WgslKernelCode } from "../runtime/device.ts";
import { findAdapter } from "../runtime/devices/webgpu/adapter.ts";
import { WebGpuDevice, type WebGpuDeviceOptions } from "../runtime/devices/webgpu/device.ts";
import { AdapterError } from "../runtime/errors.ts";

/** Why there is no adapter; undefined when there is one. */
export const noGpu: string | undefined = await findAdapter().then(
  () => undefined,
  (error: unknown) => {
    if (error instanceof AdapterError) return error.message;
    throw error;
  },
);

/** A device within WebGPU's default limits. Ends the test as not run where there is no adapter. */
export async function gpuDevice(context: TestContext, options: WebGpuDeviceOptions = {}): Promise<WebGpuDevice> {
  if (noGpu !== undefined) context.skip(`not run: ${noGpu}`);
  return WebGpuDevice.create({ limits: "default", ...options });
}

/** `bindings.length` buffers b0 …, sizes n0 …; `body` is run by invocation `i` of unit `u`, 64 of them a unit. */
export function handKernel(name: string, bindings: WgslKernelCode["bindings"], sizes: number, body: string): WgslKernelCode {
  const lanes = 64;
  const buffers = bindings.map((access, i) => `@group(0) @binding(${i}) var<storage, ${access}> b${i}: array<f32>;`);
  const names = Array.from({ length: sizes }, (_, i) => `n${i}: i32`);
  const padding = Array.from({ length: (4 - ((1 + sizes) % 4)) % 4 }, (_, i) => `p${i}: i32`);
  const code = `${buffers.join("\n")}
struct Arguments { ${["units: i32", ...names, ...padding].join(", ")} }
@group(0) @binding(${bindings.length}) var<uniform> a: Arguments;
@compute @workgroup_size(${lanes}) fn main(@builtin(workgroup_id) w: vec3u, @builtin(num_workgroups) g: vec3u, @builtin(local_invocation_index) l: u32) {
  let u = i32(w.x + w.y * g.x);
  if (u >= a.units) { return; }
  let i = u * ${lanes} + i32(l);
  ${body}
}`;
  return { name, code, lanes, bindings, requires: [] };
}

export function handCode(...kernels: readonly WgslKernelCode[]): KernelCode {
  return { wgsl: [{ features: { subgroups: 0, f16: false }, kernels }] };
}

export function whole(buffer: DeviceBuffer): Binding {
  return { buffer, offset: 0, bytes: buffer.bytes };
}

export function dispatch(
  module: KernelModule,
  kernel: string,
  bindings: readonly Binding[],
  dims: readonly number[],
  units: number,
  more: { readonly flops?: number; readonly sources?: readonly string[] } = {},
): Command {
  return { k: "dispatch", module, kernel, bindings, dims, units, scratch: 0, flops: 0, bytes: 0, ...more };
}

export async function floats(device: WebGpuDevice, buffer: DeviceBuffer, count = buffer.bytes / 4): Promise<number[]> {
  return [...new Float32Array((await device.read(buffer, 0, 4 * count)).buffer)];
}

export async function filled(device: WebGpuDevice, values: readonly number[]): Promise<DeviceBuffer> {
  const buffer = device.alloc(4 * values.length);
  await device.write(buffer, 0, new Uint8Array(Float32Array.from(values).buffer));
  return buffer;
}
