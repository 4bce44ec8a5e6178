// Every op and generated graphs on every device, compiled without fusion.

import { conformance } from "./suite.ts";

await conformance(false);
