// What the commands share: reading a program and reporting its diagnostics, choosing a graph.

import { readFileSync } from "node:fs";
import path from "node:path";
import type { Graph } from "../ir/graph/types.ts";
import { loadProgram, type Program } from "../check/index.ts";
import { diagnosticsJson, renderDiagnostics } from "../diagnostics/index.ts";
import { assignments } from "./assignments.ts";
import { CliError, usageError } from "./errors.ts";
import type { Terminal } from "./terminal.ts";

export interface CommonOptions {
  readonly set: readonly string[];
  readonly json: boolean;
}

/** Reads a source file. A missing or unreadable one is the user's error, said with its path. */
export function readSource(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new CliError(1, `${file}: cannot be read (${codeOf(cause)})`, { cause });
  }
}

export function codeOf(error: unknown): string {
  if (error instanceof Error && "code" in error && typeof error.code === "string") {
    return (
      {
        ENOENT: "no such file",
        EACCES: "permission denied",
        EISDIR: "it is a folder",
        ENOTDIR: "part of the path is not a folder",
        ENOSPC: "the disk is full",
      }[error.code] ?? error.code
    );
  }
  return error instanceof Error ? error.message : String(error);
}

/** Loads and checks; prints every diagnostic. Throws with exit code 1 when one is an error. */
export function loadChecked(file: string, options: CommonOptions, terminal: Terminal): Program {
  readSource(file);
  const program = loadProgram(file, { readText: (name) => readFileSync(name, "utf8"), config: assignments(options.set, "--set") });
  const failed = program.diagnostics.some((d) => d.severity === "error");
  // Standard output holds one document: the diagnostics, or what the command makes.
  if (failed && options.json) terminal.out(JSON.stringify({ ok: false, diagnostics: diagnosticsJson(program.diagnostics) }, null, 2));
  else if (program.diagnostics.length > 0) terminal.err(renderDiagnostics(program.diagnostics, program.sources, { color: terminal.color }));
  if (failed) throw new CliError(1, "");
  return program;
}

/** The graph named, or the only one, or the one named like the file. */
export function chooseGraph(program: Program, file: string, name: string | undefined): Graph {
  const names = [...program.graphs.keys()];
  if (name !== undefined) {
    const graph = program.graphs.get(name);
    if (graph === undefined) throw usageError(`${file} has no graph "${name}"; it has ${names.length === 0 ? "none" : names.join(", ")}`);
    return graph;
  }
  const stem = path.basename(file, ".uhd").replaceAll("-", "_");
  const graph = program.graphs.get(stem) ?? (names.length === 1 ? program.graphs.get(names[0] ?? "") : undefined);
  if (graph === undefined) {
    throw usageError(
      names.length === 0
        ? `${file} has no graph to compile`
        : `${file} has ${names.length} graphs; choose one with --graph: ${names.join(", ")}`,
    );
  }
  return graph;
}
