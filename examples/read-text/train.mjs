// One command: node examples/read-text/train.mjs --help

import { bundled } from "./bundle.mjs";

await bundled("main.ts");
