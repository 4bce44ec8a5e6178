// One command: builds uhdc and this example, then runs main.ts.   node examples/read-text/train.mjs --help

import { root, start } from "./start.mjs";

process.chdir(root);
await start("main");
