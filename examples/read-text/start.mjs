// Builds uhdc and one program of this folder, then runs that with the arguments of this process.

import { spawnSync } from "node:child_process";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");

/** `program`: the name of a .ts file beside this one. */
export async function start(program) {
  const { status } = spawnSync(process.execPath, ["esbuild.config.js"], { cwd: root, stdio: "inherit" });
  if (status !== 0) process.exit(1);
  const outfile = path.join(root, "dist/examples", `${program}.js`);
  await build({
    absWorkingDir: root,
    entryPoints: [`examples/read-text/${program}.ts`],
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    packages: "external",
    logLevel: "warning",
  });
  await import(pathToFileURL(outfile).href);
}
