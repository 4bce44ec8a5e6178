// What the tests of training share: a program in text, its compiled step, a trainer of it, and PyTorch where it is.

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import { loadProgram, type Program } from "../compiler/check/index.ts";
import type { CompileOptions } from "../compiler/compile.ts";
import { compileTraining, type CompiledTraining } from "../compiler/train/index.ts";

/** The program of a text, or of a file of the repository; imports are read from graphs/. */
export function trainProgram(text: string, config: Readonly<Record<string, string>> = {}, path = "graphs/test.uhd"): Program {
  return loadProgram(path, {
    readText: (file) => (file === path && text !== "" ? text : readFileSync(new URL(`../${file}`, import.meta.url), "utf8")),
    config,
  });
}

/** The compiled step. Throws at the first diagnostic. */
export function trainStep(text: string, config: Readonly<Record<string, string>> = {}, options: CompileOptions = {}): CompiledTraining {
  const program = trainProgram(text, config);
  const [first] = program.diagnostics;
  if (first !== undefined) throw new Error(`${first.span.line}: ${first.message} (${program.diagnostics.length} problems)`);
  return compileTraining(program, options);
}

export const run = promisify(execFile);

/** Why there is no PyTorch to compare with; undefined when there is. */
export async function withoutTorch(python: string | undefined): Promise<string | undefined> {
  if (python === undefined || python === "") return "UHD_PYTHON names no Python with torch and numpy";
  try {
    await run(python, ["-c", "import torch, numpy"]);
    return undefined;
  } catch (error) {
    return `${python} cannot import torch and numpy: ${error instanceof Error ? (error.message.split("\n").at(-2) ?? "") : String(error)}`;
  }
}
