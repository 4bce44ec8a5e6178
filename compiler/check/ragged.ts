// Ragged dimensions: segment offsets and segment numbers as tables of the graph, made once, and what
// attention infers from them. A dimension without segments counts as one segment.

import { dim, dimAdd, dimConstant, type Dim } from "../ir/dim.ts";
import type { ValueId } from "../ir/graph/types.ts";
import type { Span } from "../ir/loc.ts";
import type { HostExpr } from "../ir/plan/host.ts";
import type { Expr } from "../syntax/ast.ts";
import { dimExpr } from "./constants.ts";
import { errorValue, type Build, type Cx, type Ragged, type Scope, type Value } from "./context.ts";
import { int, listOf } from "./types.ts";

/** A dimension as one segment. */
export const oneSegment = (d: Dim): Ragged => ({ name: d.text, over: dim(1), lengths: { k: "list", items: [dimExpr(d)] } });

/** Where each segment begins, and the total. */
const begins = (r: Ragged): HostExpr => ({ k: "call", fn: "offsets", args: [r.lengths], loc: "" });

/** The segment that each position belongs to. */
const numbers = (r: Ragged): HostExpr => ({
  k: "for",
  clauses: [
    { k: "in", pattern: ["p", "n"], from: { k: "call", fn: "enumerate", args: [r.lengths], loc: "" } },
    { k: "in", pattern: "_", from: { k: "range", from: { k: "lit", v: 0 }, to: { k: "var", name: "n" } } },
  ],
  body: { k: "var", name: "p" },
});

/** The segments of a dimension, undefined when it has none. */
export function raggedOf(build: Build, d: Dim): Ragged | undefined {
  return build.ragged.get(d.text);
}

function table(build: Build, key: string, name: string, size: Dim, value: HostExpr): ValueId {
  const seen = build.tables.get(key);
  if (seen !== undefined) return seen;
  const id = build.builder.table(build.namer.fresh(name), { dtype: "i32", shape: [size] }, value);
  build.tables.set(key, id);
  return id;
}

/** i32[P+1]: where each segment of `d` begins, and the total. */
function offsetsTable(build: Build, d: Dim): ValueId {
  const r = raggedOf(build, d) ?? oneSegment(d);
  return table(build, `offsets ${d.text}`, `${r.name}.offsets`, dimAdd(r.over, dim(1)), begins(r));
}

/** i32[T]: the segment each position of `d` belongs to. */
function segmentTable(build: Build, d: Dim): ValueId {
  const r = raggedOf(build, d) ?? oneSegment(d);
  return table(build, `segment ${d.text}`, `${r.name}.segment`, d, numbers(r));
}

/**
 * `offsets(T)`, `segment(T)` and `lengths(T)` of a ragged dimension T: tensors in tensor code, lists in shape
 * code; lengths is always a list. Undefined when the call is not one of these.
 */
export function raggedCall(cx: Cx, name: string, e: Extract<Expr, { kind: "call" }>, scope: Scope): Value | undefined {
  if (name !== "offsets" && name !== "segment" && name !== "lengths") return undefined;
  const only = e.args[0];
  const build = cx.build;
  if (build === undefined || only === undefined || e.args.length !== 1 || only.name !== undefined) {
    return name === "offsets" ? undefined : failed(cx, name, e.span);
  }
  const of = only.value.kind === "name" ? scope.find(only.value.name)?.value : undefined;
  const size = of?.k === "host" ? of.dim : undefined;
  const r = size === undefined ? undefined : raggedOf(build, size);
  if (size === undefined || r === undefined)
    return name === "offsets" && of?.k === "host" && of.type.k === "list"
      ? undefined
      : name === "offsets" && of === undefined
        ? undefined
        : failed(cx, name, only.span);
  if (name === "lengths") return { k: "host", type: listOf(int), expr: r.lengths };
  if (scope.hostOnly) return { k: "host", type: listOf(int), expr: name === "offsets" ? begins(r) : numbers(r) };
  return { k: "tensor", id: name === "offsets" ? offsetsTable(build, size) : segmentTable(build, size) };
}

function failed(cx: Cx, name: string, span: Span): Value {
  cx.report.error("UHD0307", span, `${name} takes a ragged dimension`, {
    expected: "the name of a ragged dimension",
    help: "ragged T over P = [length for …] declares one",
  });
  return errorValue;
}

/** The three tables that attention over leading dimensions `tq` and `tk` needs; reports segments that differ. */
export function attentionTables(cx: Cx, build: Build, tq: Dim, tk: Dim, span: Span, kSpan: Span): readonly ValueId[] | undefined {
  const q = raggedOf(build, tq) ?? oneSegment(tq);
  const k = raggedOf(build, tk) ?? oneSegment(tk);
  if (q.over.text !== k.over.text) {
    // An empty loop over one segment is as good as none: sizes decide only where both are known to differ.
    if (!(build.abstract && (dimConstant(q.over) === undefined || dimConstant(k.over) === undefined))) {
      cx.report.error("UHD0307", kSpan, "queries and keys have different segments", {
        expected: `segments over ${q.over.text} (dimension ${tq.text} of the queries)`,
        found: `segments over ${k.over.text} (dimension ${tk.text} of the keys)`,
        notes: [{ span, message: "the queries" }],
      });
      return undefined;
    }
  }
  return [segmentTable(build, tq), offsetsTable(build, tq), offsetsTable(build, tk)];
}
