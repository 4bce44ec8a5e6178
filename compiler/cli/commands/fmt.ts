// uhdc fmt: the formatter over files or standard input.

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { renderDiagnostics } from "../../diagnostics/index.ts";
import { formatFile } from "../../syntax/format.ts";
import { parseFile } from "../../syntax/index.ts";
import { readSource } from "../common.ts";
import { CliError } from "../errors.ts";
import type { Terminal } from "../terminal.ts";

export interface FormatOptions {
  readonly check: boolean;
}

export function fmt(files: readonly string[], options: FormatOptions, terminal: Terminal): void {
  let failed = 0;
  let unformatted = 0;
  for (const file of files) {
    const text = file === "-" ? readFileSync(0, "utf8") : readSource(file);
    const name = file === "-" ? "<stdin>" : file;
    const { diagnostics } = parseFile(name, text);
    if (diagnostics.some((d) => d.severity === "error")) {
      // A file that does not parse is left as it is.
      terminal.err(renderDiagnostics(diagnostics, new Map([[name, text]]), { color: terminal.color }));
      failed++;
      continue;
    }
    const formatted = formatFile(text, name);
    if (file === "-") {
      if (options.check) unformatted += formatted === text ? 0 : 1;
      else terminal.out(formatted);
    } else if (formatted !== text) {
      unformatted++;
      if (options.check) terminal.err(`${file}: not formatted`);
      else {
        const temporary = `${file}.${process.pid}.tmp`;
        writeFileSync(temporary, formatted);
        renameSync(temporary, file);
        terminal.err(`${file}: formatted`);
      }
    }
  }
  if (failed > 0 || (options.check && unformatted > 0)) throw new CliError(1, "");
}
