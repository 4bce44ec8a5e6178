// A declaration whose name is misspelt makes an error of every use. Where all uses are of one name that nothing declares,
// and the name next to it is declared and never used, the declaration is the mistake, and it is told once. Of a single use
// nobody can say which of the two is wrong: it stays where it was found.

import type { Diagnostic, Note } from "../diagnostics/index.ts";
import type { Span } from "../ir/loc.ts";

/** A name that is used and not declared, and the nearest one that is. */
export interface Missing {
  readonly name: string;
  readonly near: string;
  readonly declared: Span;
}

/** Uses that are told. */
const maximumUses = 6;

const keyOf = ({ name, declared }: Missing): string => `${name} ${declared.file}:${declared.start}`;

/** `missing` of those diagnostics that have one. `sources` is the text of every file. */
export function joinUses(
  diagnostics: readonly Diagnostic[],
  missing: ReadonlyMap<Diagnostic, Missing>,
  sources: ReadonlyMap<string, string>,
): readonly Diagnostic[] {
  const uses = new Map<string, Diagnostic[]>();
  for (const d of diagnostics) {
    const of = missing.get(d);
    if (of !== undefined) uses.set(keyOf(of), [...(uses.get(keyOf(of)) ?? []), d]);
  }
  const told = new Map<Diagnostic, Diagnostic | undefined>();
  for (const [first, ...others] of uses.values()) {
    const of = first === undefined ? undefined : missing.get(first);
    if (first === undefined || of === undefined || others.length === 0 || !isUnused(of.near, sources)) continue;
    const all = [first, ...others];
    const notes = all.slice(0, maximumUses).map((d): Note => ({ span: d.span, message: `${of.name} is used here` }));
    told.set(first, {
      severity: first.severity,
      code: first.code,
      span: of.declared,
      message: `${of.near} is never used, and ${of.name}, which is used ${all.length} times, is not declared`,
      notes,
      help: `did you mean "${of.name}"?`,
    });
    for (const d of others) told.set(d, undefined);
  }
  return diagnostics.flatMap((d) => {
    const instead = told.has(d) ? told.get(d) : d;
    return instead === undefined ? [] : [instead];
  });
}

/** Does the name stand at its declaration alone? Comments and strings do not count. */
function isUnused(name: string, sources: ReadonlyMap<string, string>): boolean {
  let count = 0;
  for (const text of sources.values())
    for (const [token] of text.matchAll(/#[^\n\r]*|"(?:[^"\\\n]|\\.)*"|[A-Za-z_][A-Za-z0-9_]*/g)) if (token === name) count++;
  return count === 1;
}
