// Diagnostics: what is wrong, where, what was expected and found, and what to do. Data first; render.ts makes
// text for people. Codes: UHD00xx lexical and syntax, 01xx names, 02xx shape code, 03xx tensors,
// 04xx modules, imports and configuration, 05xx plans and resources. spec/language.md lists them.

import type { Span } from "../ir/loc.ts";

export { renderDiagnostics } from "./render.ts";
export { closest } from "./closest.ts";

export interface Note {
  readonly message: string;
  /** The other end of a conflict. */
  readonly span?: Span;
}

export interface Diagnostic {
  readonly severity: "error" | "warning";
  readonly code: string;
  readonly span: Span;
  readonly message: string;
  readonly expected?: string;
  readonly found?: string;
  readonly notes: readonly Note[];
  /** What to do. */
  readonly help?: string;
}

/** The same facts as plain data, for `--json`. */
export function diagnosticsJson(diagnostics: readonly Diagnostic[]): readonly unknown[] {
  return diagnostics.map((d) => ({
    severity: d.severity,
    code: d.code,
    message: d.message,
    ...d.span,
    ...(d.expected === undefined ? {} : { expected: d.expected }),
    ...(d.found === undefined ? {} : { found: d.found }),
    notes: d.notes.map((n) => ({ message: n.message, ...(n.span === undefined ? {} : { span: n.span }) })),
    ...(d.help === undefined ? {} : { help: d.help }),
  }));
}
