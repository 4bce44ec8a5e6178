// Every op and generated graphs on every device, compiled with fusion.

import { conformance } from "./suite.ts";

await conformance(true);
