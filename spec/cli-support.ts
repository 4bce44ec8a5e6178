// Runs the command line as users get it: built, in a process of its own. Each test file builds once, into a folder that
// goes away with it.

import { spawn, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");

let built: string | undefined;

/** The folder of a fresh build. Inside node_modules, so that the build finds its packages. */
export function builtFolder(): string {
  if (built !== undefined) return built;
  const cache = path.join(root, "node_modules/.cache");
  mkdirSync(cache, { recursive: true });
  const folder = mkdtempSync(path.join(cache, "uhd-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  const { status, stderr } = spawnSync(process.execPath, ["esbuild.config.js", path.relative(root, folder)], {
    cwd: root,
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`the build failed:\n${stderr}`);
  built = folder;
  return folder;
}

/** Makes `folder` an application that has the runtime's package, and no file of the compiler. */
export function installRuntime(folder: string): void {
  const installed = path.join(folder, "node_modules/uhd");
  mkdirSync(path.join(installed, "dist"), { recursive: true });
  cpSync(path.join(builtFolder(), "runtime"), path.join(installed, "dist/runtime"), { recursive: true });
  cpSync(path.join(root, "package.json"), path.join(installed, "package.json"));
  writeFileSync(path.join(folder, "package.json"), '{ "type": "module" }');
}

export interface CliResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Standard output as it came. */
  readonly bytes: Buffer;
}

export interface CliOptions {
  readonly input?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Options of Node. */
  readonly node?: readonly string[];
}

/** `uhdc ARGS`, in the repository's folder. */
export function uhdc(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  const cli = path.join(builtFolder(), "compiler/cli/uhdc.js");
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...(options.node ?? []), cli, ...args], { cwd: root, env: { ...process.env, ...options.env } });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => out.push(chunk));
    child.stderr.on("data", (chunk: Buffer) => err.push(chunk));
    child.on("error", reject);
    child.on("close", (code) => {
      const bytes = Buffer.concat(out);
      resolve({ code, bytes, stdout: bytes.toString("utf8"), stderr: Buffer.concat(err).toString("utf8") });
    });
    child.stdin.end(options.input ?? "");
  });
}

/** LLaVA-UHD made small enough to run in a moment: every part is there. */
export const smallGraph: readonly string[] = [
  "graphs/llava-uhd.uhd",
  ...Object.entries({
    layers: 2,
    vit_width: 64,
    vit_heads: 2,
    vit_hidden: 128,
    vit_side: 4,
    width: 64,
    head_width: 32,
    resampler_side: 2,
  }).flatMap(([name, value]) => ["--set", `${name}=${value}`]),
];
