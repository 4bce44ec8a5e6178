// Kernels as WGSL on a second driver. A test file has a process of its own, which a Vulkan driver is chosen for once.

import { openGpu } from "./gpu-support.ts";
import { wgslSuite } from "./wgsl-suite.ts";

wgslSuite("SwiftShader", await openGpu("swiftshader"));
