// The build: the command line and the compiler's module share chunks, so that `uhdc --help` loads nothing of the
// compiler; the runtime is one file of its own that shares nothing with them. Declarations are made by
// `tsc -p tsconfig.types.json`. Run it with `node esbuild.config.js [FOLDER]`, or call `buildAll(FOLDER)`.

import { chmod, rm } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const root = path.dirname(fileURLToPath(import.meta.url));

/** @type {import("esbuild").BuildOptions} */
const common = {
  absWorkingDir: root,
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  outbase: ".",
  // Both are large and loaded only when they are needed: sharp by photos, ts-morph by the artefact's typed module.
  external: ["sharp", "ts-morph"],
  legalComments: "eof",
  logLevel: "warning",
};

/** Writes dist's JavaScript to `outdir`. */
export async function buildAll(outdir) {
  await Promise.all([
    build({ ...common, outdir, entryPoints: ["runtime/index.ts"] }),
    build({
      ...common,
      outdir,
      entryPoints: ["compiler/cli/uhdc.ts", "compiler/index.ts"],
      splitting: true,
      // commander is CommonJS and asks for Node's own modules with require.
      banner: { js: 'import { createRequire } from "node:module";\nconst require = createRequire(import.meta.url);' },
      chunkNames: "compiler/chunks/[name]-[hash]",
    }),
  ]);
  await chmod(path.join(root, outdir, "compiler/cli/uhdc.js"), 0o755);
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const outdir = process.argv[2] ?? "dist";
  // Chunks have hashes in their names: old ones would stay for ever.
  await rm(path.join(root, outdir, "compiler/chunks"), { recursive: true, force: true });
  await buildAll(outdir);
}
