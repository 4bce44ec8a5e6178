// The register tile of every matrix product: `rows` × 8 accumulators, one row of A splatted at a time, eight
// columns of B as two vectors. Emits the loop over k; callers make the pointers and use the accumulators.
// Note [One k-step a basic block]: V8 in Node 20 and 22 moves all loads of a basic block above its arithmetic and
// runs out of registers. A fence after each step keeps the tile in registers, if the pointer it tests has moved since
// the fence before: engines drop a branch whose condition is known. So A's pointers advance in every step, which also
// leaves one constant distance a row instead of one a row and step (11 against 44 GFLOPS on Node 20).

import { advance, assign, binary, bind, constantOf, fma, int, load, loadSplat, local, loop, vector } from "../ir/imp/build.ts";
import type { ImpExpr, ImpStmt } from "../ir/imp/types.ts";

/** Columns of a tile: two vectors. */
export const tileColumns = 8;

interface Tile {
  readonly rows: number;
  /** Makes names that no other statement has. */
  readonly fresh: (hint: string) => string;
  /** Positions of A at the first k: one a row, or one for all rows with `rowStride` elements between rows. */
  readonly a: readonly ImpExpr[];
  readonly rowStride: number;
  /** Elements of A from one k to the next. */
  readonly aStep: number;
  /** Position of B's eight columns at the first k. */
  readonly b: ImpExpr;
  /** Elements of B from one k to the next. */
  readonly bStep: ImpExpr;
  /** How many k there are. */
  readonly count: ImpExpr;
  /** Steps of k written out in the loop's body. */
  readonly unroll: number;
  /** What the accumulators begin with, by row and half; zero when left out. */
  readonly initial?: (row: number, half: 0 | 1) => ImpExpr;
}

interface TileResult {
  readonly statements: readonly ImpStmt[];
  /** The sums, f32x4: columns 0-3 and 4-7 of each row. */
  readonly sums: readonly (readonly [ImpExpr, ImpExpr])[];
}

export function tile(t: Tile): TileResult {
  const statements: ImpStmt[] = [];
  const mutable = (hint: string, value: ImpExpr): ImpExpr & { readonly k: "var" } => {
    const name = t.fresh(hint);
    const made = bind(name, value, true);
    statements.push(made);
    return { k: "var", name, type: made.k === "let" ? made.type : "i32" };
  };
  const zero = vector("f32x4", 0);
  const halves = [0, 1] as const;
  const sums = Array.from({ length: t.rows }, (_, r) => halves.map((h) => mutable("sum", t.initial?.(r, h) ?? zero)));
  const a = t.a.map((p) => mutable("a", p));
  const b = mutable("b", t.b);
  const keep = sums.flat().map((s) => s.name);
  const [firstA] = a;
  if (firstA === undefined) throw new Error("a tile needs a pointer to A");
  const bStep = constantOf(t.bStep);

  const step = (j: number): ImpStmt[] => {
    const out: ImpStmt[] = [];
    const columns = halves.map((h) => {
      const name = t.fresh("col");
      out.push(bind(name, load(b, "f32x4", (bStep ?? 0) * j + 4 * h)));
      return local(name, "f32x4");
    });
    for (const [r, pair] of sums.entries()) {
      const name = t.fresh("row");
      const [from, offset] = a.length === 1 ? [firstA, r * t.rowStride] : [a[r] ?? firstA, 0];
      out.push(bind(name, loadSplat(from, "f32x4", offset)));
      for (const [h, sum] of pair.entries()) out.push(assign(sum.name, fma(local(name, "f32x4"), columns[h] ?? zero, sum)));
    }
    if (bStep === undefined) out.push(assign(b.name, advance(b, t.bStep)));
    out.push(...a.map((p) => assign(p.name, advance(p, int(t.aStep)))));
    out.push({ k: "fence", ptr: firstA.name, keep });
    return out;
  };
  const steps = (n: number): ImpStmt[] => [
    ...Array.from({ length: n }, (_, j) => step(j)).flat(),
    ...(bStep === undefined ? [] : [assign(b.name, advance(b, int(n * bStep)))]),
  ];

  const count = constantOf(t.count);
  const whole = count === undefined ? undefined : count - (count % t.unroll);
  const many = whole === undefined ? binary("bitand", t.count, int(-t.unroll)) : int(whole);
  if (whole !== 0) statements.push(loop(t.fresh("k"), int(0), many, t.unroll, steps(t.unroll)));
  if (count === undefined || whole !== count) statements.push(loop(t.fresh("k"), many, t.count, 1, steps(1)));
  return { statements, sums: sums.map(([x = firstA, y = firstA]) => [x, y]) };
}
