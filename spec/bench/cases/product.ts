// What has a limit instead of a peer: compiling from process start, the runtime's size in a browser, and the memory of
// a full-size run.

import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { writeArtefact } from "../../../compiler/artefact.ts";
import { compileBench } from "../ours.ts";
import { log, root } from "../place.ts";
import { bundled } from "../program.ts";
import { limited, type Context } from "../versus.ts";
import type { Case } from "./case.ts";

const executeFile = promisify(execFile);

/** Runs a script under this engine; when it fails, with the first lines of what it said. */
async function execute(args: readonly string[]): Promise<string> {
  try {
    return (await executeFile(process.execPath, args, { cwd: root })).stdout;
  } catch (error) {
    const said =
      error instanceof Error && "stderr" in error ? String(error.stderr).trim().split("\n").slice(0, 4).join("\n") : String(error);
    throw new Error(`node ${args.join(" ")} failed: ${said}`, { cause: error });
  }
}

/** Runs `body` with a folder that is gone afterwards. */
async function withFolder<T>(body: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(path.join(os.tmpdir(), "uhd-bench-"));
  try {
    return await body(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const compileName = "uhdc compile graphs/llava-uhd.uhd";

/** The built command line, from the start of its process to its end. */
export const compileTime: Case = {
  name: compileName,
  threads: [1],
  run: (context: Context) =>
    withFolder(async (folder) => {
      // Built here, so that what is timed is never an older build.
      const product = path.join("dist", "bench", "product");
      await execute(["esbuild.config.js", product]);
      const uhdc = path.join(root, product, "compiler/cli/uhdc.js");
      const times: number[] = [];
      // The first reads the files from the disk and is not counted.
      for (let i = 0; i <= (context.quick ? 3 : 7); i++) {
        log(`${compileName}: run ${i + 1}`);
        const begin = performance.now();
        await execute([uhdc, "compile", "graphs/llava-uhd.uhd", "-o", path.join(folder, String(i))]);
        if (i > 0) times.push(performance.now() - begin);
      }
      return [limited(context, { name: compileName, ours: times, limit: 2000, limitName: "limit", unit: "ms" })];
    }),
};

const bundleName = "runtime bundle for browsers, gzip";

export const bundleSize: Case = {
  name: bundleName,
  threads: [1],
  run: async (context: Context) => {
    const bundle = await build({
      absWorkingDir: root,
      entryPoints: ["runtime/index.ts"],
      bundle: true,
      minify: true,
      platform: "browser",
      format: "esm",
      target: "es2022",
      write: false,
      logLevel: "silent",
    });
    const [file] = bundle.outputFiles;
    if (file === undefined) throw new Error("the bundle has no file");
    const bytes = gzipSync(file.contents).byteLength;
    return [limited(context, { name: bundleName, ours: [bytes], limit: 60_000, limitName: "limit", unit: "bytes" })];
  },
};

const memoryName = "peak memory of llava-uhd, 672×1008";

/** The runtime alone in a process of its own, with an artefact from disk. */
export const peakMemory: Case = {
  name: memoryName,
  threads: [2],
  run: (context: Context) =>
    withFolder(async (folder) => {
      const layers = context.quick ? 4 : 23;
      const script = await bundled("memory");
      const artefact = path.join(folder, "llava-uhd");
      await writeArtefact(artefact, compileBench("graphs/llava-uhd.uhd", "llava_uhd", { layers }));
      log(`${memoryName}: running`);
      const stdout = await execute([script, artefact, String(context.threads)]);
      const { resident, weights, arena } = JSON.parse(stdout) as { resident: number; weights: number; arena: number };
      const row = {
        name: context.quick ? `${memoryName} (${layers} layers)` : memoryName,
        ours: [resident],
        limit: 1.25 * (weights + arena),
        limitName: "1.25 × (weights + arena)",
        unit: "bytes",
      } as const;
      return [limited(context, row)];
    }),
};
