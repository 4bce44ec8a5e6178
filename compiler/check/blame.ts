// Finds the part of an expression that makes it another type than wanted: the field that is misspelt, missing or of
// another type, however deep in records, lists and branches that are written out. Does not check types.

import { closest, type Note } from "../diagnostics/index.ts";
import type { Expr } from "../syntax/ast.ts";
import type { Cx } from "./context.ts";
import { suggestion } from "./report.ts";
import { fits, hostTypeText, type FieldType, type HostType } from "./types.ts";

/** Reports the smallest part of `e` that is to blame. False when that is the whole, which the caller reports. */
export function blame(cx: Cx, e: Expr, found: HostType, wanted: HostType, notes: readonly Note[]): boolean {
  switch (e.kind) {
    case "record":
      return found.k === "record" && wanted.k === "record" && blameRecord(cx, e, found.fields, wanted.fields, notes);
    case "list":
      return (
        found.k === "list" &&
        wanted.k === "list" &&
        e.items.some((i) => i.kind !== "list" && !simple(i) && blame(cx, i, found.of, wanted.of, notes))
      );
    case "comprehension":
      return found.k === "list" && wanted.k === "list" && blame(cx, e.body, found.of, wanted.of, notes);
    case "tuple":
      return (
        found.k === "tuple" &&
        wanted.k === "tuple" &&
        found.items.length === wanted.items.length &&
        e.items.some((item, i) => {
          const [f, w] = [found.items[i], wanted.items[i]];
          return f !== undefined && w !== undefined && !fits(f, w) && part(cx, item, f, w, notes);
        })
      );
    case "if":
      return [e.then.value, e.otherwise.value].some((v) => v !== undefined && !simple(v) && blame(cx, v, found, wanted, notes));
    case "block":
      return e.block.value !== undefined && blame(cx, e.block.value, found, wanted, notes);
    default:
      return false;
  }
}

/** Whether an expression's own type may differ from the type it is part of (a branch that is an int among floats). */
function simple(e: Expr): boolean {
  return !["record", "comprehension", "tuple", "if", "block"].includes(e.kind);
}

function part(cx: Cx, e: Expr, found: HostType, wanted: HostType, notes: readonly Note[]): boolean {
  if (!blame(cx, e, found, wanted, notes))
    cx.report.error("UHD0201", e.span, "this has another type than declared", {
      expected: hostTypeText(wanted),
      found: hostTypeText(found),
      notes,
    });
  return true;
}

function blameRecord(
  cx: Cx,
  e: Extract<Expr, { kind: "record" }>,
  found: readonly FieldType[],
  wanted: readonly FieldType[],
  notes: readonly Note[],
): boolean {
  const absent = wanted.filter((w) => !found.some((f) => f.name === w.name));
  const unknown = e.fields.filter((f) => !wanted.some((w) => w.name === f.name.name));
  for (const f of unknown) {
    const names = absent.map((w) => w.name);
    const near = closest(f.name.name, names) ?? (names.length === 1 ? names[0] : undefined);
    const hint = suggestion(near, absent.find((w) => w.name === near)?.span);
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
    const [own, want] = [found.find((x) => x.name === f.name.name), wanted.find((x) => x.name === f.name.name)];
    if (own === undefined || want === undefined || fits(own.type, want.type)) return false;
    const declared = want.span === undefined ? notes : [{ span: want.span, message: `${want.name} is declared here` }];
    return part(cx, f.value, own.type, want.type, declared);
  });
}
