// uhdc compile: writes an artefact, or prints one level of the program. Does not run anything.

import { createHash } from "node:crypto";
import { writeArtefact } from "../../artefact.ts";
import type { Compiled, WebGpuCompiled } from "../../compile.ts";
import { closest } from "../../diagnostics/index.ts";
import { printGraph } from "../../ir/graph/print.ts";
import { printImp } from "../../ir/imp/print.ts";
import { printKernel } from "../../ir/kernel/print.ts";
import { printPlan } from "../../ir/plan/print.ts";
import { compileFileFor, type CompilingOptions } from "../compiling.ts";
import { usageError } from "../errors.ts";
import { millisecondsText, type Terminal } from "../terminal.ts";
import { bytesText } from "../../ir/text.ts";

type Level = "graph" | "kernel" | "imp" | "plan" | "wasm" | "wgsl";

export interface CompileOptions extends CompilingOptions {
  /** A checkpoint whose sizes the config of a language model's graph takes. */
  readonly model?: string;
  readonly out?: string;
  readonly emit?: Level;
  /** wasm when left out, and webgpu where WGSL is asked for. */
  readonly target?: "wasm" | "webgpu";
  readonly dumpAfter: readonly string[];
}

export async function compile(file: string, given: CompileOptions, terminal: Terminal): Promise<void> {
  const { out, emit, dumpAfter } = given;
  if (out !== undefined && emit !== undefined)
    throw usageError("--emit prints instead of writing an artefact: give -o or --emit, not both");
  if (out === undefined && emit === undefined && dumpAfter.length === 0)
    throw usageError("say where the artefact goes with -o FOLDER, or what to print with --emit LEVEL or --dump-after PASS");
  const options = { ...given, set: [...(await sizesOf(given.model)), ...given.set] };
  if (emit === "wasm" && !options.json && process.stdout.isTTY)
    throw usageError("--emit wasm writes bytes, and standard output is a terminal: redirect it to a file");
  const target = options.target ?? (emit === "wgsl" ? "webgpu" : "wasm");
  if (emit === "wasm" && target === "webgpu") throw usageError("--target webgpu makes WGSL, not WebAssembly: give --emit wgsl");
  if (emit === "wgsl" && target === "wasm") throw usageError("--target wasm makes WebAssembly, not WGSL: give --emit wasm");
  const seen = new Set<string>();
  const { compiled, milliseconds } = compileFileFor(file, options, { target }, terminal, (pass, text) => {
    seen.add(pass);
    if (dumpAfter.includes(pass)) terminal.err(`# after ${pass}\n${text()}`);
  });
  unknownPasses(dumpAfter, seen);
  if (emit !== undefined) return print(compiled, emit, options.json, terminal);
  if (out !== undefined) await write(compiled, out, milliseconds, options.json, terminal);
}

/** Config values of a checkpoint's language model, with a cache of 2048 tokens where it was trained for more. */
async function sizesOf(model: string | undefined): Promise<readonly string[]> {
  if (model === undefined) return [];
  const { describeModel } = await import("../language-model.ts");
  const { config, context } = await describeModel(model);
  return Object.entries({ ...config, context: Math.min(context, 2048) }).map(([name, value]) => `${name}=${value}`);
}

function unknownPasses(asked: readonly string[], seen: ReadonlySet<string>): void {
  const unknown = asked.filter((pass) => !seen.has(pass));
  if (unknown.length === 0) return;
  const near = closest(unknown[0] ?? "", [...seen]);
  throw usageError(
    `no pass "${unknown.join('", "')}" ran${near === undefined ? "" : `; did you mean "${near}"?`}\nThe passes, in order: ${[...seen].join(", ")}`,
  );
}

type AnyCompiled = Compiled | WebGpuCompiled;

function print(compiled: AnyCompiled, level: Level, json: boolean, terminal: Terminal): void {
  const about = { name: compiled.plan.name, level };
  if ("wgsl" in compiled && json && level === "wgsl") {
    terminal.out(JSON.stringify({ ...about, variants: compiled.wgsl }, null, 2));
    return;
  }
  if ("modules" in compiled && level === "wasm") {
    const { plain, relaxed } = compiled.modules;
    if (json) terminal.out(JSON.stringify({ ...about, plain: described(plain), relaxed: described(relaxed) }, null, 2));
    // The plain variant: every engine with SIMD reads it.
    else process.stdout.write(plain);
    return;
  }
  const text = levelText(compiled, level);
  terminal.out(json ? JSON.stringify({ ...about, text }, null, 2) : text);
}

function levelText(compiled: AnyCompiled, level: Level): string {
  switch (level) {
    case "graph":
      return printGraph(compiled.graph);
    case "kernel":
      return compiled.kernels.map((kernel) => printKernel(kernel)).join("\n");
    case "imp":
      return compiled.imp.plain.map((fn) => printImp(fn)).join("\n");
    case "plan":
      return printPlan(compiled.plan);
    case "wasm":
    case "wgsl": {
      // The variant without features: every adapter reads it.
      const kernels = "wgsl" in compiled ? (compiled.wgsl.at(-1)?.kernels ?? []) : [];
      return kernels.map((k) => `// ${k.name}\n${k.code}`).join("\n");
    }
    default:
      return level satisfies never;
  }
}

function described(bytes: Uint8Array): { readonly bytes: number; readonly sha256: string } {
  return { bytes: bytes.byteLength, sha256: createHash("sha256").update(bytes).digest("hex") };
}

async function write(
  compiled: AnyCompiled,
  out: string,
  before: { readonly check: number; readonly compile: number },
  json: boolean,
  terminal: Terminal,
): Promise<void> {
  const begin = performance.now();
  const files = await writeArtefact(out, compiled);
  const written = performance.now() - begin;
  // performance.now() counts from the start of the process.
  const milliseconds = { ...before, write: written, total: performance.now() };
  const { plan, kernels } = compiled;
  const parts = [...files].map(([name, bytes]) => ({ name, ...described(bytes) }));
  if (json) {
    const summary = {
      ok: true,
      name: plan.name,
      out,
      files: parts,
      kernels: kernels.map((k) => k.name),
      steps: plan.steps.length,
      prepare: plan.prepare.length,
      parameters: plan.params.length,
      milliseconds,
    };
    return terminal.out(JSON.stringify(summary, null, 2));
  }
  const size = bytesText(parts.reduce((sum, f) => sum + f.bytes, 0));
  terminal.out(
    `${out}: ${plan.name}, ${kernels.length} kernels, ${plan.steps.length} steps, ${plan.params.length} parameters; ${parts.length} files, ${size}\n` +
      `check ${millisecondsText(before.check)}, compile ${millisecondsText(before.compile)}, write ${millisecondsText(written)}; ${millisecondsText(milliseconds.total)} since the process started`,
  );
}
