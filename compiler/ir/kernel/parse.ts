// Reads the text that print.ts writes. Reports the line and column of what it did not expect; does not check that
// the kernel makes sense (see verify.ts).

import { readFramed, type Cursor } from "../cursor.ts";
import type { Dim } from "../dim.ts";
import { isDType } from "../dtype.ts";
import type { Loc } from "../loc.ts";
import { SpanReader } from "../spans.ts";
import { Declared } from "./expr-text.ts";
import { ExprReader } from "./parse-expr.ts";
import type { Axis, Expr, Kernel, KernelBuffer, Pattern, ScheduleItem, Stage } from "./types.ts";

/** The kernel whose text this is; its name is empty where the text leaves it out. Throws IrParseError. */
export function parseKernel(text: string): Kernel {
  const axes: Axis[] = [];
  const buffers: KernelBuffer[] = [];
  const stages: Stage[] = [];
  const schedule: ScheduleItem[] = [];
  const sources: Loc[] = [];
  const spans = new SpanReader();
  let reader: ExprReader | undefined;
  let pattern: Pattern | undefined;
  const open = (c: Cursor): string => {
    c.need("kernel");
    const name = c.sees(/"/y) ? c.string() : "";
    c.need("{");
    return name;
  };
  const name = readFramed(text, "kernel", open, (c) => {
    if (c.take("span ")) spans.line(c);
    else if (c.take("axis ")) axes.push(parseAxis(c));
    else if (reader === undefined && c.take("read ")) buffers.push(parseBuffer(c, "read"));
    else if (reader === undefined && c.take("write ")) buffers.push(parseBuffer(c, "write"));
    else if (reader === undefined && c.take("update ")) buffers.push(parseBuffer(c, "update"));
    else if (c.take("source")) sources.push(spans.loc(c));
    else if (c.take("schedule ")) schedule.push(parseSchedule(c));
    else {
      // Buffers come first: expressions take their types from them.
      reader ??= new ExprReader(new Declared(buffers));
      if (c.take("%")) reader.definition(c);
      else if (c.take("let ")) stages.push(parseLet(c, reader));
      else if (c.take("store ")) stages.push(parseStore(c, reader));
      else if (pattern === undefined && c.take("pattern ")) pattern = parsePattern(c, reader);
      else c.fail("an axis, buffer, definition, stage, schedule, pattern or source");
    }
  });
  return { name, axes, buffers, stages, schedule, ...(pattern === undefined ? {} : { pattern }), sources };
}

function parseAxis(c: Cursor): Axis {
  const name = c.name();
  c.need(":");
  return { name, extent: c.dim() };
}

function parseBuffer(c: Cursor, access: KernelBuffer["access"]): KernelBuffer {
  const name = c.name();
  c.need(":");
  const dtype = c.word();
  if (!isDType(dtype)) return c.fail("an element type");
  c.need("[");
  return { name, dtype, shape: c.list("]", () => c.dim()), access };
}

function parseLet(c: Cursor, reader: ExprReader): Stage {
  const name = c.name();
  c.need(":");
  const type = reader.scalarType(c);
  c.need("=");
  const value = reader.expr(c);
  reader.declared.let(name, type);
  return { k: "let", name, type, value };
}

function parseStore(c: Cursor, reader: ExprReader): Stage {
  const buffer = c.name();
  c.need("[");
  const index = reader.expr(c);
  c.need("]");
  const axes: Axis[] = [];
  if (c.take("over")) {
    do axes.push(parseAxis(c));
    while (c.take(","));
  }
  c.need("=");
  return { k: "store", axes, buffer, index, value: reader.expr(c) };
}

function parseSchedule(c: Cursor): ScheduleItem {
  const k = c.word();
  switch (k) {
    case "vectorise":
      return { k, axis: c.name(), width: c.int() };
    case "tile":
      return { k, axis: c.name(), size: c.int() };
    case "unroll":
      return { k, axis: c.name(), by: c.int() };
    case "packed":
      return { k, buffer: c.name(), panel: c.int() };
    case "rounded":
      return { k, buffer: c.name() };
    case "parallel":
      c.need("[");
      return { k, axes: c.list("]", () => c.name()) };
    default:
      return c.fail("vectorise, tile, unroll, packed, rounded or parallel before this");
  }
}

function parsePattern(c: Cursor, reader: ExprReader): Pattern {
  let first = true;
  /** The value of the next field, which must have this name. */
  const field = <T>(name: string, value: () => T): T => {
    if (!first) c.need(",");
    first = false;
    c.need(name);
    c.need("=");
    return value();
  };
  const name = (of: string): string => field(of, () => c.name());
  const load = (of: string): Extract<Expr, { k: "load" }> => field(of, () => reader.load(c));
  const expr = (of: string): Expr => field(of, () => reader.expr(c));
  const k = c.word();
  c.need("(");
  let pattern: Pattern;
  if (k === "matmul") {
    const batch = field("batch", () => {
      c.need("[");
      return c.list("]", () => c.name());
    });
    pattern = { k, batch, m: name("m"), n: name("n"), kAxis: name("k"), a: load("a"), b: load("b") };
  } else if (k === "quantised") {
    const [m, n, kAxis, a] = [name("m"), name("n"), name("k"), load("a")];
    const bits = field("bits", () => c.int());
    if (bits !== 4 && bits !== 8) return c.fail("4 or 8 bits before this");
    pattern = { k, m, n, kAxis, a, bits, values: name("values"), scales: name("scales") };
    if (!c.sees(/\)/y)) pattern = { ...pattern, minima: name("minima") };
  } else if (k === "attention") {
    const size = (of: string): Dim =>
      field(of, () => {
        c.need("{");
        const dim = c.dim();
        c.need("}");
        return dim;
      });
    pattern = {
      k,
      query: name("query"),
      head: name("head"),
      key: name("key"),
      inner: name("inner"),
      feature: name("feature"),
      innerExtent: size("innerExtent"),
      scale: field("scale", () => c.number()),
      from: expr("from"),
      to: expr("to"),
      q: load("q"),
      key_: load("k"),
      value: load("v"),
    };
    if (!c.sees(/\)/y)) pattern = { ...pattern, part: { axis: name("part"), count: size("count"), keys: field("keys", () => c.int()) } };
  } else return c.fail("matmul, quantised or attention before this");
  c.need(")");
  return pattern;
}
