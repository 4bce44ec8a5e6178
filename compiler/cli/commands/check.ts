// uhdc check: every error of every file.

import { readFileSync } from "node:fs";
import { loadProgram } from "../../check/index.ts";
import { diagnosticsJson, renderDiagnostics, type Diagnostic } from "../../diagnostics/index.ts";
import { assignments } from "../assignments.ts";
import { readSource, type CommonOptions } from "../common.ts";
import { CliError } from "../errors.ts";
import type { Terminal } from "../terminal.ts";

export function check(files: readonly string[], options: CommonOptions, terminal: Terminal): void {
  const config = assignments(options.set, "--set");
  const all: Diagnostic[] = [];
  const seen = new Set<string>();
  const checked: { file: string; graphs: readonly string[]; functions: readonly string[] }[] = [];
  for (const file of files) {
    readSource(file);
    const program = loadProgram(file, { readText: (name) => readFileSync(name, "utf8"), config });
    // A file that several of the named ones import is reported once.
    const fresh = program.diagnostics.filter((d) => {
      const key = `${d.code} ${d.span.file}:${d.span.start}-${d.span.end} ${d.message}`;
      return !seen.has(key) && seen.add(key);
    });
    all.push(...fresh);
    checked.push({ file, graphs: [...program.graphs.keys()], functions: [...program.functions.keys()] });
    if (!options.json && fresh.length > 0) terminal.err(renderDiagnostics(fresh, program.sources, { color: terminal.color }));
  }
  const errors = all.filter((d) => d.severity === "error").length;
  if (options.json) {
    terminal.out(JSON.stringify({ ok: errors === 0, files: checked, diagnostics: diagnosticsJson(all) }, null, 2));
  } else if (errors === 0) {
    for (const c of checked) terminal.err(`${c.file}: ok${c.graphs.length > 0 ? ` (graphs: ${c.graphs.join(", ")})` : ""}`);
  }
  if (errors > 0) throw new CliError(1, options.json ? "" : `${errors} error${errors === 1 ? "" : "s"}`);
}
