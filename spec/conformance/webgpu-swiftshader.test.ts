// The same on a second driver, Chromium's SwiftShader, which has neither 16-bit floats nor Mesa's compiler: kernels must not lean on
// one driver.

import { openGpu } from "../gpu-support.ts";
import { WebGpuDevice } from "../../runtime/devices/webgpu/device.ts";
import { gpuCalls, gpuConformance } from "./webgpu.ts";

const found = await openGpu("swiftshader");

await gpuConformance(
  "SwiftShader",
  typeof found === "string" ? found : await WebGpuDevice.create({ device: found.device, limits: "default" }),
  gpuCalls,
);
