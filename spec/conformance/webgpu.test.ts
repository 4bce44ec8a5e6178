// Every op and generated graphs on the WebGPU adapter of this machine, software included.

import { systemGpu } from "./devices.ts";
import { gpuCalls, gpuConformance } from "./webgpu.ts";

await gpuConformance("this machine's adapter", await systemGpu(), gpuCalls);
