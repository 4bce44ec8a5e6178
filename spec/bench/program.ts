// The programs that benches start in processes of their own, as applications would have them: one file each, without the
// compiler where they do not import it.

import path from "node:path";
import { build } from "esbuild";
import { root } from "./place.ts";

/** Bundles spec/bench/NAME.ts and gives the file. */
export async function bundled(name: string): Promise<string> {
  const outfile = path.join(root, "dist/bench", `${name}.js`);
  await build({
    absWorkingDir: root,
    entryPoints: [`spec/bench/${name}.ts`],
    outfile,
    bundle: true,
    minify: true,
    platform: "node",
    format: "esm",
    target: "node20",
    packages: "external",
    logLevel: "silent",
  });
  return outfile;
}
