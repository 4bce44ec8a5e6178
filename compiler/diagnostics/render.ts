// Diagnostics as text for people: place, message, the source line with the span underlined, notes, help.

import type { Span } from "../ir/loc.ts";
import type { Diagnostic } from "./index.ts";

const colors = { error: "31;1", warning: "33;1", place: "36", bold: "1", note: "34;1" } as const;

/** Longest piece of a source line that is shown; longer lines are cut around the span. */
const shownWidth = 110;

/** One block of text for each diagnostic, a blank line between. `sources` has the text of each file, by name. */
export function renderDiagnostics(
  diagnostics: readonly Diagnostic[],
  sources: ReadonlyMap<string, string>,
  options: { readonly color: boolean },
): string {
  const paint = (style: keyof typeof colors, text: string): string => (options.color ? `\u001b[${colors[style]}m${text}\u001b[0m` : text);
  const place = (span: Span): string => paint("place", `${span.file}:${span.line}:${span.column}`);
  const blocks = diagnostics.map((d) => {
    const lines = [
      `${place(d.span)}: ${paint(d.severity, `${d.severity}[${d.code}]`)}: ${paint("bold", d.message)}`,
      ...excerpt(d.span, sources, (t) => paint(d.severity, t)),
    ];
    if (d.expected !== undefined) lines.push(`  expected: ${d.expected}`);
    if (d.found !== undefined) lines.push(`     found: ${d.found}`);
    for (const note of d.notes) {
      lines.push(
        note.span === undefined
          ? `  ${paint("note", "note")}: ${note.message}`
          : `${place(note.span)}: ${paint("note", "note")}: ${note.message}`,
      );
      if (note.span !== undefined) lines.push(...excerpt(note.span, sources, (t) => paint("note", t)));
    }
    if (d.help !== undefined) lines.push(`  ${paint("note", "help")}: ${d.help}`);
    return lines.join("\n");
  });
  return blocks.join("\n\n");
}

function excerpt(span: Span, sources: ReadonlyMap<string, string>, paint: (text: string) => string): readonly string[] {
  const text = sources.get(span.file);
  if (text === undefined) return [];
  const lineStart = text.lastIndexOf("\n", span.start - 1) + 1;
  const newline = text.indexOf("\n", span.start);
  const raw = text.slice(lineStart, newline < 0 ? text.length : newline).replace(/\r$/, "");
  const from = Math.min(span.start - lineStart, raw.length);
  // A span over several lines is underlined to the end of its first.
  const to = Math.min(Math.max(span.end - lineStart, from + 1), Math.max(raw.length, from + 1));
  const cut = raw.length > shownWidth ? Math.max(0, Math.min(from - 20, raw.length - shownWidth)) : 0;
  const head = cut > 0 ? "…" : "";
  const shown = head + raw.slice(cut, cut + shownWidth) + (cut + shownWidth < raw.length ? "…" : "");
  // Tabs stay tabs in the line under it, so that the caret stands right in any terminal.
  const indent = head.replace(/./gu, " ") + raw.slice(cut, from).replace(/[^\t]/g, " ");
  const number = String(span.line);
  const gutter = " ".repeat(number.length);
  const width = Math.max(1, Math.min(to, cut + shownWidth) - from);
  return [` ${number} | ${shown}`, ` ${gutter} | ${indent}${paint("^".repeat(width))}`];
}
