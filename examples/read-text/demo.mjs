// One command: npm run demo -- --help

import { bundled } from "./bundle.mjs";

await bundled("demo.ts");
