// Builds uhdc and one program of this example, and runs the program in the repository's folder.

import { spawnSync } from "node:child_process";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

/** `entry` is a file of this folder. Paths that the user names stay relative to where the user is: UHD_CWD. */
export async function bundled(entry) {
  const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
  process.env.UHD_CWD ??= process.env.INIT_CWD ?? process.cwd();
  process.chdir(root);
  const { status } = spawnSync(process.execPath, ["esbuild.config.js"], { stdio: ["inherit", "ignore", "inherit"] });
  if (status !== 0) process.exit(1);
  const outfile = path.join(root, "dist/examples/read-text", entry.replace(/\.ts$/, ".js"));
  await build({
    entryPoints: [path.join("examples/read-text", entry)],
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
