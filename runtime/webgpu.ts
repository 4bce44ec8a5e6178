// `uhd/webgpu`: the WebGPU device, and the choice between it and WebAssembly. Everything else is in index.ts.

export { chooseDevice, type ChooseOptions, type ChosenDevice, type Target } from "./devices/choose.ts";
export type { GpuFeatures, GpuOptions, OptionalFeature } from "./devices/webgpu/adapter.ts";
export { WebGpuDevice, type WebGpuDeviceOptions } from "./devices/webgpu/device.ts";
