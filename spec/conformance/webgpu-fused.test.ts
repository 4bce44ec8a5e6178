// Every op and generated graphs on the WebGPU adapter of this machine, software included, compiled with fusion.

import { systemGpu } from "./devices.ts";
import { gpuConformance } from "./webgpu.ts";

await gpuConformance("this machine's adapter", true, systemGpu);
