// Helpers of lowerings: linear indices, nested folds and short names. Does not know any op.

import type { Dim } from "../compiler/ir/dim.ts";
import { add, binary, dimExpr, fold, i32, mul, select, variable } from "../compiler/ir/kernel/build.ts";
import type { Expr, FoldOp } from "../compiler/ir/kernel/types.ts";

/** Row-major linear position of `index` in `shape`. */
export function linearIndex(index: readonly Expr[], shape: readonly Dim[]): Expr {
  let linear: Expr | undefined;
  for (const [axis, at] of index.entries()) {
    const size = shape[axis];
    if (size === undefined) throw new RangeError(`index has ${index.length} parts for ${shape.length} dimensions`);
    linear = linear === undefined ? at : add(mul(linear, dimExpr(size)), at);
  }
  return linear ?? i32(0);
}

/** Folds over several axes, outermost first; `body` gets one index per axis. */
export function foldOver(
  op: FoldOp,
  extents: readonly Dim[],
  fresh: (hint: string) => string,
  body: (index: readonly Expr[]) => Expr,
): Expr {
  const names = extents.map((_, i) => fresh(`r${i}`));
  let result = body(names.map((name) => variable(name)));
  for (let i = extents.length - 1; i >= 0; i--) {
    const extent = extents[i];
    const name = names[i];
    if (extent !== undefined && name !== undefined) result = fold(op, name, i32(0), dimExpr(extent), result);
  }
  return result;
}

export const lt = (a: Expr, b: Expr): Expr => binary("lt", a, b);
export const ge = (a: Expr, b: Expr): Expr => binary("ge", a, b);
export const eq = (a: Expr, b: Expr): Expr => binary("eq", a, b);
export const ne = (a: Expr, b: Expr): Expr => binary("ne", a, b);
export const and = (a: Expr, b: Expr): Expr => binary("and", a, b);
export const or = (a: Expr, b: Expr): Expr => binary("or", a, b);

/** An i32 clamped to 0 … 255. */
export function clip8(value: Expr): Expr {
  return select(lt(value, i32(0)), i32(0), select(binary("gt", value, i32(255)), i32(255), value));
}

/** Part `axis` of an index that has it. */
export function part(index: readonly Expr[], axis: number): Expr {
  const at = index[axis];
  if (at === undefined) throw new RangeError(`index has no part ${axis}`);
  return at;
}
