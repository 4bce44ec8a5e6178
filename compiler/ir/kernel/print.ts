// The canonical text of a kernel: `parseKernel(printKernel(k))` equals k, places of the .uhd file included. Does
// not check the kernel (see verify.ts).

import { SpanWriter } from "../spans.ts";
import { nameText, numberText } from "../text.ts";
import { ExprWriter } from "./expr-text.ts";
import type { Axis, Expr, Kernel, Pattern, ScheduleItem, Stage } from "./types.ts";

interface PrintKernelOptions {
  /** The kernel's own name; true when left out. */
  readonly names?: boolean;
  /** The places in .uhd files; true when left out. */
  readonly sources?: boolean;
}

/**
 * With `names` and `sources` false, the text is a key of what the kernel does and how: two kernels have the same
 * exactly when they differ in name and sources at most. It is linear in the number of different expressions.
 */
export function printKernel(kernel: Kernel, { names = true, sources = true }: PrintKernelOptions = {}): string {
  const writer = new ExprWriter(kernel.buffers);
  for (const stage of kernel.stages) {
    if (stage.k === "store") writer.count(stage.index);
    writer.count(stage.value);
  }
  if (kernel.pattern !== undefined) for (const e of patternExprs(kernel.pattern)) writer.count(e);
  const spans = new SpanWriter();
  const locs = sources ? kernel.sources.map((loc) => `  source ${spans.loc(loc)}`.trimEnd()) : [];
  const lines = [
    ...kernel.axes.map((a) => `axis ${axisText(a)}`),
    ...kernel.buffers.map((b) => `${b.access} ${nameText(b.name)}: ${b.dtype}[${b.shape.map((d) => d.text).join(", ")}]`),
  ];
  // The lines of definitions are added while the line that needs them is made.
  for (const stage of kernel.stages) {
    const text = stageText(stage, writer, lines);
    lines.push(text);
  }
  lines.push(...kernel.schedule.map(scheduleText));
  if (kernel.pattern !== undefined) {
    const text = patternText(kernel.pattern, writer, lines);
    lines.push(text);
  }
  return [
    `kernel ${names ? `${JSON.stringify(kernel.name)} ` : ""}{`,
    ...spans.lines(),
    ...lines.map((l) => `  ${l}`),
    ...locs,
    "}",
    "",
  ].join("\n");
}

function axisText(a: Axis): string {
  return `${nameText(a.name)}: ${a.extent.text}`;
}

function stageText(stage: Stage, writer: ExprWriter, lines: string[]): string {
  switch (stage.k) {
    case "let": {
      const value = writer.text(stage.value, lines);
      writer.declared.let(stage.name, stage.type);
      return `let ${nameText(stage.name)}: ${stage.type} = ${value}`;
    }
    case "store": {
      const over = stage.axes.length === 0 ? "" : ` over ${stage.axes.map(axisText).join(", ")}`;
      const index = writer.text(stage.index, lines);
      return `store ${nameText(stage.buffer)}[${index}]${over} = ${writer.text(stage.value, lines)}`;
    }
    default:
      return stage satisfies never;
  }
}

function scheduleText(item: ScheduleItem): string {
  switch (item.k) {
    case "vectorise":
      return `schedule vectorise ${nameText(item.axis)} ${item.width}`;
    case "tile":
      return `schedule tile ${nameText(item.axis)} ${item.size}`;
    case "unroll":
      return `schedule unroll ${nameText(item.axis)} ${item.by}`;
    case "packed":
      return `schedule packed ${nameText(item.buffer)} ${item.panel}`;
    case "rounded":
      return `schedule rounded ${nameText(item.buffer)}`;
    case "parallel":
      return `schedule parallel [${item.axes.map(nameText).join(", ")}]`;
    default:
      return item satisfies never;
  }
}

function patternExprs(p: Pattern): readonly Expr[] {
  return p.k === "matmul" ? [p.a, p.b] : p.k === "quantised" ? [p.a] : [p.from, p.to, p.q, p.key_, p.value];
}

function patternText(p: Pattern, writer: ExprWriter, lines: string[]): string {
  const expr = (name: string, e: Expr): string => `${name} = ${writer.text(e, lines)}`;
  const name = (field: string, value: string): string => `${field} = ${nameText(value)}`;
  const fields =
    p.k === "matmul"
      ? [
          `batch = [${p.batch.map(nameText).join(", ")}]`,
          name("m", p.m),
          name("n", p.n),
          name("k", p.kAxis),
          expr("a", p.a),
          expr("b", p.b),
        ]
      : p.k === "quantised"
        ? [
            name("m", p.m),
            name("n", p.n),
            name("k", p.kAxis),
            expr("a", p.a),
            `bits = ${p.bits}`,
            name("values", p.values),
            name("scales", p.scales),
            ...(p.minima === undefined ? [] : [name("minima", p.minima)]),
          ]
        : [
            name("query", p.query),
            name("head", p.head),
            name("key", p.key),
            name("inner", p.inner),
            name("feature", p.feature),
            `innerExtent = {${p.innerExtent.text}}`,
            `scale = ${numberText(p.scale)}`,
            expr("from", p.from),
            expr("to", p.to),
            expr("q", p.q),
            expr("k", p.key_),
            expr("v", p.value),
            ...(p.part === undefined ? [] : [name("part", p.part.axis), `count = {${p.part.count.text}}`, `keys = ${p.part.keys}`]),
          ];
  return `pattern ${p.k}(${fields.join(", ")})`;
}
