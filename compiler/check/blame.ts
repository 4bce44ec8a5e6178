// Finds the part of an expression that makes it another type than wanted: the field that is misspelt, missing or of
// another type, however deep in records, lists and branches that are written out. Does not check types.

import { closest, type Note } from "../diagnostics/index.ts";
import type { Expr } from "../syntax/ast.ts";
import type { Cx } from "./context.ts";
import { suggestion } from "./report.ts";
import { fits, hostTypeText, type FieldType, type HostType } from "./types.ts";

/** Reports the smallest part of `e`, just checked, that is to blame. False when that is the whole, which the caller reports. */
export function blame(cx: Cx, e: Expr, wanted: HostType, notes: readonly Note[]): boolean {
  const found = cx.types.get(e);
  if (found === undefined) return false;
  const part = (x: Expr | undefined, want: HostType | undefined, why: readonly Note[] = notes): boolean => {
    const type = x === undefined ? undefined : cx.types.get(x);
    if (x === undefined || want === undefined || type === undefined || fits(type, want)) return false;
    if (!blame(cx, x, want, why))
      cx.report.error("UHD0201", x.span, "this has another type than declared", {
        expected: hostTypeText(want),
        found: hostTypeText(type),
        notes: why,
      });
    return true;
  };
  switch (e.kind) {
    case "record":
      return wanted.k === "record" && blameRecord(cx, e, wanted.fields, notes, part);
    case "list":
      return wanted.k === "list" && e.items.some((i) => part(i, wanted.of));
    case "comprehension":
      return wanted.k === "list" && part(e.body, wanted.of);
    case "tuple":
      return wanted.k === "tuple" && e.items.length === wanted.items.length && e.items.some((item, i) => part(item, wanted.items[i]));
    case "if":
      return part(e.then.value, wanted) || part(e.otherwise.value, wanted);
    case "block":
      return part(e.block.value, wanted);
    default:
      return false;
  }
}

function blameRecord(
  cx: Cx,
  e: Extract<Expr, { kind: "record" }>,
  wanted: readonly FieldType[],
  notes: readonly Note[],
  part: (e: Expr, wanted: HostType, notes: readonly Note[]) => boolean,
): boolean {
  const absent = wanted.filter((w) => !e.fields.some((f) => f.name.name === w.name));
  const unknown = e.fields.filter((f) => !wanted.some((w) => w.name === f.name.name));
  for (const f of unknown) {
    const names = absent.map((w) => w.name);
    const near = closest(f.name.name, names) ?? (names.length === 1 ? names[0] : undefined);
    const hint = suggestion(f.name.name, near, absent.find((w) => w.name === near)?.span);
    cx.report.error("UHD0105", f.name.span, `there is no field ${f.name.name}`, {
      expected: `one of ${wanted.map((w) => w.name).join(", ")}`,
      found: f.name.name,
      ...hint,
      notes: [...(hint.notes ?? []), ...notes],
    });
  }
  if (unknown.length > 0) return true;
  const missing = absent[0];
  if (missing !== undefined) {
    cx.report.error("UHD0201", e.span, `the field ${missing.name} is missing`, {
      expected: `${missing.name}: ${hostTypeText(missing.type)}`,
      found: e.fields.map((f) => f.name.name).join(", "),
      notes: [...(missing.span === undefined ? [] : [{ span: missing.span, message: `${missing.name} is declared here` }]), ...notes],
    });
    return true;
  }
  return e.fields.some((f) => {
    const want = wanted.find((x) => x.name === f.name.name);
    if (want === undefined) return false;
    return part(f.value, want.type, want.span === undefined ? notes : [{ span: want.span, message: `${want.name} is declared here` }]);
  });
}
