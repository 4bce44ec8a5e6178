// What the tests of the checker share: programs given as text, and what must be told of a wrong one. Has no tests.

import { expect } from "vitest";
import { loadProgram, type Program } from "../compiler/check/index.ts";
import { renderDiagnostics, type Diagnostic } from "../compiler/diagnostics/index.ts";
import type { Span } from "../compiler/ir/loc.ts";

/** Checks files given as text; the first is the program. */
export function checkFiles(files: Readonly<Record<string, string>>, config: Readonly<Record<string, string>> = {}): Program {
  const main = Object.keys(files)[0] ?? "";
  return loadProgram(main, {
    readText: (file) => {
      const text = files[file];
      if (text === undefined) throw Object.assign(new Error("no such file"), { code: "ENOENT" });
      return text;
    },
    config,
  });
}

export const check = (text: string, config?: Readonly<Record<string, string>>): Program => checkFiles({ "main.uhd": text }, config);

const under = (program: Program, span: Span): string => (program.sources.get(span.file) ?? "").slice(span.start, span.end);

interface Expected {
  readonly code: string;
  /** The underlined text. */
  readonly at: string;
  readonly expected?: string | RegExp;
  readonly found?: string | RegExp;
  /** Texts that notes underline, all of them among the notes. */
  readonly notes?: readonly string[];
  readonly help?: string | RegExp;
}

export function matches(program: Program, d: Diagnostic | undefined, e: Expected): void {
  const text = renderDiagnostics(program.diagnostics, program.sources, { color: false });
  expect(d, text).toBeDefined();
  if (d === undefined) return;
  expect([d.code, under(program, d.span)], text).toEqual([e.code, e.at]);
  const agrees = (value: string | undefined, wanted: string | RegExp | undefined): void => {
    if (wanted === undefined) return;
    if (typeof wanted === "string") expect(value, text).toBe(wanted);
    else expect(value, text).toMatch(wanted);
  };
  agrees(d.expected, e.expected);
  agrees(d.found, e.found);
  agrees(d.help, e.help);
  const notes = d.notes.flatMap((n) => (n.span === undefined ? [] : [under(program, n.span)]));
  expect(notes, text).toEqual(expect.arrayContaining([...(e.notes ?? [])]));
}

/** The program has exactly this error. */
export function refused(text: string, expected: Expected, config?: Readonly<Record<string, string>>): void {
  const program = check(text, config);
  expect(program.diagnostics.length, renderDiagnostics(program.diagnostics, program.sources, { color: false })).toBe(1);
  matches(program, program.diagnostics[0], expected);
}
