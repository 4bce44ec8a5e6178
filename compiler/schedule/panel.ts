// Copies eight columns of a matrix to scratch, as the tile of matrix products reads them: [K][8]. Decides nothing: see
// Note [Panels in scratch] in matmul.ts.

import { advance, at, binary, int, load, shuffle, store } from "../ir/imp/build.ts";
import type { ImpExpr } from "../ir/imp/types.ts";
import type { Statements } from "./statements.ts";
import { tileColumns } from "./tile.ts";

type Four<T> = readonly [T, T, T, T];

export const four = <T>(make: (i: number) => T): Four<T> => [make(0), make(1), make(2), make(3)];

interface Columns {
  /** Where each column begins; one where eight lie side by side. */
  readonly columns: readonly ImpExpr[];
  /** Elements from one k to the next. */
  readonly step: number;
  /** How many k there are. */
  readonly count: ImpExpr;
  /** Scratch for the panel. */
  readonly panel: string;
}

export function copyColumns(out: Statements, { columns, step, count, panel }: Columns): void {
  const into = out.mutable("into", at(panel, int(0)));
  const from = columns.map((c) => out.mutable("from", c));
  const advanced = (s: Statements, steps: number): void => {
    for (const f of from) s.set(f, advance(f, int(steps * step)));
    s.set(into, advance(into, int(steps * tileColumns)));
  };
  const [first, ...others] = from;
  if (first === undefined) throw new Error("a panel has columns");
  if (others.length === 0) {
    out.loop("k", int(0), count, 1, (_, inside) => {
      const halves = [0, 4].map((c) => inside.keep("x", load(first, "f32x4", c)));
      halves.forEach((x, h) => inside.push(store(into, x, 4 * h)));
      advanced(inside, 1);
    });
    return;
  }
  // Columns that are rows in memory: four elements of four of them become four of the panel's halves.
  const many = step === 1 ? out.keep("many", binary("bitand", count, int(-4))) : int(0);
  if (step === 1)
    out.loop("k", int(0), many, 4, (_, inside) => {
      for (const half of [0, 4]) {
        const x = four((c) => inside.keep("x", load(from[half + c] ?? first, "f32x4", 0)));
        transposed(inside, x).forEach((row, k) => inside.push(store(into, row, k * tileColumns + half)));
      }
      advanced(inside, 4);
    });
  out.loop("k", many, count, 1, (_, inside) => {
    for (const [c, f] of from.entries()) inside.push(store(into, load(f, "f32", 0), c));
    advanced(inside, 1);
  });
}

/** Lane j of vector i becomes lane i of vector j. */
export function transposed(out: Statements, [a, b, c, d]: Four<ImpExpr>): Four<ImpExpr> {
  const pair = (x: ImpExpr, y: ImpExpr, lanes: Four<number>): ImpExpr => out.keep("t", shuffle(x, y, lanes));
  const [ab, cd] = [pair(a, b, [0, 4, 1, 5]), pair(c, d, [0, 4, 1, 5])];
  const [ab2, cd2] = [pair(a, b, [2, 6, 3, 7]), pair(c, d, [2, 6, 3, 7])];
  return [shuffle(ab, cd, [0, 1, 4, 5]), shuffle(ab, cd, [2, 3, 6, 7]), shuffle(ab2, cd2, [0, 1, 4, 5]), shuffle(ab2, cd2, [2, 3, 6, 7])];
}
