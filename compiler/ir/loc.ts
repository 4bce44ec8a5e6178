// Where something in a .uhd file came from. Spans are data: no file is read here.

/** A half-open range of a source file. Offsets are UTF-16 code units; lines and columns count from 1. */
export interface Span {
  readonly file: string;
  readonly start: number;
  readonly end: number;
  readonly line: number;
  readonly column: number;
  readonly endLine: number;
  readonly endColumn: number;
}

/** The chain of places a value came from: the innermost expression first, then the calls and module uses around it. */
export type Loc = readonly Span[];

export const noLoc: Loc = [];

/** `file:line:col` of the innermost place, or `<generated>` where a pass made the value from nothing. */
export function locText(loc: Loc): string {
  const span = loc[0];
  return span === undefined ? "<generated>" : `${span.file}:${span.line}:${span.column}`;
}
