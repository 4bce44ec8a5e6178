// The canonical text of a graph: one line a value. `parseGraph(printGraph(g))` equals g, locations, attributes
// and host code included. Does not check the graph (see verify.ts).

import type { Dim } from "../dim.ts";
import type { Loc } from "../loc.ts";
import { packedText } from "../plan/packed.ts";
import { rowsText } from "../plan/rows.ts";
import { SpanWriter } from "../spans.ts";
import { jsonText, numberText } from "../text.ts";
import { typeText } from "./build.ts";
import type { Attrs, AttrValue, Graph, GraphNode } from "./types.ts";

function isDim(value: AttrValue): value is Dim {
  return typeof value === "object" && "monomials" in value;
}

/** `3`, `true`, `"text"`, `[1, 2]`, `dim(T + 1)` or `dims[T, 4]`. */
export function attrText(value: AttrValue): string {
  if (typeof value === "number") return numberText(value);
  if (typeof value === "boolean") return String(value);
  if (typeof value === "string") return JSON.stringify(value);
  if (isDim(value)) return `dim(${value.text})`;
  const dims = value.filter((v): v is Dim => typeof v === "object");
  if (dims.length > 0) return `dims[${dims.map((d) => d.text).join(", ")}]`;
  return `[${value.map((v) => (typeof v === "number" ? numberText(v) : v.text)).join(", ")}]`;
}

export function attrsText(attrs: Attrs): string {
  const entries = Object.entries(attrs);
  return entries.length === 0 ? "" : ` {${entries.map(([name, value]) => `${name}: ${attrText(value)}`).join(", ")}}`;
}

/** A node without its location: `%5 = add(%3, %4) : f32[T, 4]`. */
export function nodeText(node: GraphNode): string {
  return `%${node.id} = ${definition(node)} : ${typeText(node.type)}`;
}

function definition(node: GraphNode): string {
  switch (node.kind) {
    case "input":
    case "state":
      return `${node.kind} ${JSON.stringify(node.name)}`;
    case "param": {
      const init =
        node.init === undefined
          ? ""
          : node.init.kind === "constant"
            ? ` ~ constant(${numberText(node.init.value)})`
            : ` ~ normal(${numberText(node.init.std)})`;
      const packed = node.packed === undefined ? "" : ` of ${packedText(node.packed)}`;
      const rows = node.rows === undefined ? "" : ` ${rowsText(node.rows)}`;
      return `param ${JSON.stringify(node.name)}${init}${packed}${rows}`;
    }
    case "constant":
      return `constant [${node.data.map(numberText).join(", ")}]`;
    case "table":
      return `table ${JSON.stringify(node.name)} ${jsonText(node.value)}`;
    case "op":
      return `${node.op}(${node.operands.map((v) => `%${v}`).join(", ")})${attrsText(node.attrs)}`;
    default:
      return node satisfies never;
  }
}

/**
 * The whole graph. Spans are numbered and listed first, since the outer ones of a chain repeat on many values.
 * With `locations: false` they are left out, for reading and for snapshots; the text then reads back without them.
 */
export function printGraph(graph: Graph, options: { readonly locations?: boolean } = {}): string {
  const spans = new SpanWriter();
  const locText = (loc: Loc): string => (options.locations === false || loc.length === 0 ? "" : ` @ ${spans.loc(loc)}`);
  const values = graph.nodes.map((node) => `  ${nodeText(node)}${locText(node.loc)}`);
  const symbols = graph.symbols.map((s) => `  ${s.argument === true ? "argument" : "symbol"} ${s.name}: ${s.lower}..${s.upper ?? ""}`);
  const host =
    graph.host.functions.length + graph.host.bindings.length + (graph.host.given?.length ?? 0) === 0
      ? []
      : [`  host ${jsonText(graph.host)}`];
  return [
    `graph ${JSON.stringify(graph.name)} {`,
    ...spans.lines(),
    ...symbols,
    ...host,
    ...values,
    ...graph.outputs.map((o) => `  output ${JSON.stringify(o.name)} = %${o.value}`),
    ...graph.updates.map((u) => `  update ${JSON.stringify(u.state)} = %${u.value}`),
    "}",
    "",
  ].join("\n");
}
