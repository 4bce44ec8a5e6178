// The build: the command line and the compiler's module share chunks, so that `uhdc --help` loads nothing of the
// compiler; the runtime's entries share nothing with them. Declarations are made by
// `tsc -p tsconfig.types.json`. Run it with `node esbuild.config.js [FOLDER]`.

import { chmod, readdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
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
  metafile: true,
};

/** Writes dist's JavaScript to `outdir`, and the licences of the packages that are in it. */
async function buildAll(outdir) {
  const results = await Promise.all([
    build({
      ...common,
      outdir,
      entryPoints: ["runtime/index.ts", "runtime/webgpu.ts", "runtime/train.ts"],
      splitting: true,
      chunkNames: "runtime/chunks/[name]-[hash]",
    }),
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
  await writeFile(path.resolve(root, outdir, "compiler/LICENSES.txt"), await licences(results));
  await chmod(path.resolve(root, outdir, "compiler/cli/uhdc.js"), 0o755);
}

/** The licence of every package that a build took code from. */
async function licences(results) {
  const files = results.flatMap((r) => Object.keys(r.metafile.inputs));
  const packages = new Set(files.flatMap((file) => /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(file)?.[1] ?? []));
  const texts = [];
  for (const name of [...packages].sort()) {
    const folder = path.join(root, "node_modules", name);
    const { license } = JSON.parse(await readFile(path.join(folder, "package.json"), "utf8"));
    const file = (await readdir(folder)).find((f) => /^licen[cs]e/i.test(f));
    texts.push(`${name}: ${license}\n\n${file === undefined ? "" : await readFile(path.join(folder, file), "utf8")}`);
  }
  return texts.join(`\n${"-".repeat(80)}\n\n`);
}

const outdir = process.argv[2] ?? "dist";
// Chunks have hashes in their names: old ones would stay for ever.
await rm(path.resolve(root, outdir, "compiler/chunks"), { recursive: true, force: true });
await buildAll(outdir);
