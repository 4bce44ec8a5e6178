// Builds uhdc, then asks the trained UHD-tiny about a picture (demo.ts).   npm run demo -- --help

import { start } from "./start.mjs";

await start("demo");
