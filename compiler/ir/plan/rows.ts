// Parameters that are rows of a checkpoint's tensor: what a tensor becomes that is too large for one binding of a device.

import type { Cursor } from "../cursor.ts";

/** Rows first, first + 1, … of the tensor `of`, which has `rows` of them; how many is the parameter's own first size. */
export interface RowsOf {
  readonly of: string;
  readonly first: number;
  readonly rows: number;
}

export function rowsName({ of, first }: RowsOf, count: number): string {
  return `${of}[${first}:${first + count}]`;
}

/** `rows 4096 in 32000 of "w"` */
export function rowsText({ of, first, rows }: RowsOf): string {
  return `rows ${first} in ${rows} of ${JSON.stringify(of)}`;
}

/** Reads what `rowsText` writes, `rows` being taken already. */
export function readRows(c: Cursor): RowsOf {
  const first = c.int();
  c.need("in");
  const rows = c.int();
  c.need("of");
  return { of: c.string(), first, rows };
}
