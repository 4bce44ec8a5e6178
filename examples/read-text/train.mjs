// One command: builds uhdc and this example, then runs main.ts.   node examples/read-text/train.mjs --help

import { spawnSync } from "node:child_process";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
process.chdir(root);
const { status } = spawnSync(process.execPath, ["esbuild.config.js"], { stdio: "inherit" });
if (status !== 0) process.exit(1);
const outfile = path.join(root, "dist/examples/read-text.js");
await build({
  entryPoints: ["examples/read-text/main.ts"],
  outfile,
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  packages: "external",
  logLevel: "warning",
});
await import(pathToFileURL(outfile).href);
