// Reads the text that print.ts writes. Reports the line and column of what it did not expect; does not check
// that the graph makes sense (see verify.ts).

import { readFramed, type Cursor } from "../cursor.ts";
import type { DimSymbol } from "../dim.ts";
import { isDType } from "../dtype.ts";
import type { Loc } from "../loc.ts";
import { emptyHostProgram, type HostExpr, type HostProgram } from "../plan/host.ts";
import { readPacked } from "../plan/packed.ts";
import { readRows } from "../plan/rows.ts";
import { SpanReader } from "../spans.ts";
import type { Attrs, AttrValue, Graph, GraphNode, ParamInit, TensorType } from "./types.ts";

function parseType(c: Cursor): TensorType {
  const dtype = c.word();
  if (!isDType(dtype)) return c.fail("an element type");
  c.need("[");
  return { dtype, shape: c.list("]", () => c.dim()) };
}

function parseAttr(c: Cursor): AttrValue {
  if (c.take("dims[")) return c.list("]", () => c.dim());
  if (c.take("dim(")) {
    const size = c.dim();
    c.need(")");
    return size;
  }
  if (c.take("[")) return c.list("]", () => c.number());
  if (c.take("true")) return true;
  if (c.take("false")) return false;
  if (c.match(/(?=")/y) !== undefined) return c.string();
  return c.number();
}

function parseAttrs(c: Cursor): Attrs {
  if (!c.take("{")) return {};
  return Object.fromEntries(
    c.list("}", () => {
      const name = c.word();
      c.need(":");
      return [name, parseAttr(c)] as const;
    }),
  );
}

function parseInit(c: Cursor): ParamInit | undefined {
  if (!c.take("~")) return undefined;
  const kind = c.word();
  c.need("(");
  const value = c.number();
  c.need(")");
  if (kind === "constant") return { kind, value };
  return kind === "normal" ? { kind, std: value } : c.fail("constant or normal");
}

function parseNode(c: Cursor, spans: SpanReader): GraphNode {
  const id = c.value();
  c.need("=");
  const word = c.word();
  const finish = <T extends object>(rest: T): T & { id: number; type: TensorType; loc: Loc } => {
    c.need(":");
    const type = parseType(c);
    const loc = c.take("@") ? spans.loc(c) : [];
    return { id, ...rest, type, loc };
  };
  if (c.take("(")) {
    const operands = c.list(")", () => c.value());
    return finish({ kind: "op", op: word, operands, attrs: parseAttrs(c) } as const);
  }
  switch (word) {
    case "input":
    case "state":
      return finish({ kind: word, name: c.string() } as const);
    case "param": {
      const name = c.string();
      const init = parseInit(c);
      const packed = c.take("of ") ? readPacked(c) : undefined;
      const rows = c.take("rows ") ? readRows(c) : undefined;
      return finish({
        kind: "param",
        name,
        ...(init === undefined ? {} : { init }),
        ...(packed === undefined ? {} : { packed }),
        ...(rows === undefined ? {} : { rows }),
      } as const);
    }
    case "constant":
      c.need("[");
      return finish({ kind: "constant", data: c.list("]", () => c.number()) } as const);
    case "table":
      // The text was written from a HostExpr; its shape is checked where it is evaluated.
      return finish({ kind: "table", name: c.string(), value: c.json(true) as HostExpr } as const);
    default:
      return c.fail("an op or a kind of value");
  }
}

/** The graph whose text this is. Throws IrParseError. */
export function parseGraph(text: string): Graph {
  const spans = new SpanReader();
  const symbols: DimSymbol[] = [];
  const nodes: GraphNode[] = [];
  const outputs: { name: string; value: number }[] = [];
  const updates: { state: string; value: number }[] = [];
  let host: HostProgram = emptyHostProgram;
  const open = (c: Cursor): string => {
    c.need("graph");
    const name = c.string();
    c.need("{");
    return name;
  };
  const name = readFramed(text, "graph", open, (c) => {
    if (c.match(/(?=%)/y) !== undefined) nodes.push(parseNode(c, spans));
    else if (c.take("span ")) spans.line(c);
    else if (c.take("symbol ")) symbols.push(parseSymbol(c));
    else if (c.take("argument ")) symbols.push({ ...parseSymbol(c), argument: true });
    else if (c.take("host ")) host = c.json(false) as HostProgram;
    else if (c.take("output ")) outputs.push({ name: c.string(), value: parseTarget(c) });
    else if (c.take("update ")) updates.push({ state: c.string(), value: parseTarget(c) });
    else c.fail("a value, symbol, argument, host, span, output or update");
  });
  return { name, symbols, host, nodes, outputs, updates };
}

function parseTarget(c: Cursor): number {
  c.need("=");
  return c.value();
}

function parseSymbol(c: Cursor): DimSymbol {
  const name = c.word();
  c.need(":");
  const lower = c.int();
  c.need("..");
  const upper = c.match(/\d+/y);
  return upper === undefined ? { name, lower } : { name, lower, upper: Number(upper) };
}
