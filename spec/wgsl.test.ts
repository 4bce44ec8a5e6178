// Kernels as WGSL on the system's driver, and what their text is.

import { openGpu } from "./gpu-support.ts";
import { wgslSuite } from "./wgsl-suite.ts";

wgslSuite("the system's driver", await openGpu("system"));
