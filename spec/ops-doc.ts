// Writes spec/ops.md from the op table. Everything said there is read from the definitions; this file only lays
// it out.

import { attrText } from "../compiler/ir/graph/print.ts";
import type { AttrSpec, Derivative, OpDefinition, OpKind, Tolerance } from "../ops/define.ts";
import { opNames, ops } from "../ops/index.ts";

const kinds: Readonly<Record<OpKind, string>> = {
  elementwise:
    "Each element of the result is made from the elements at the same position. Operands have one shape: broadcasting is an op of its own.",
  movement: "Elements are placed, repeated or left out; none is computed.",
  reduction: "Dimensions are folded into one value.",
  contraction: "Products are added over a shared dimension.",
  indexing: "Positions come from integer tensors.",
  composite: "Made of other ops. Fusion turns each into as few kernels as it can; attention has a kernel of its own.",
};

const cell = (text: string): string => text.replaceAll("|", "\\|").replaceAll("\n", " ");

function attrLine(a: AttrSpec): string {
  const fallback = a.default === undefined ? "" : `, default \`${attrText(a.default)}\``;
  return `  - attribute \`${a.name}\` (${a.type}${fallback}): ${a.doc}`;
}

function derivativeText(d: Derivative): string {
  switch (d.kind) {
    case "vjp":
      return "a rule of its own";
    case "viaDecomposition":
      return "through its decomposition";
    case "nonDifferentiable":
      return `none: ${d.reason}`;
    default:
      return d satisfies never;
  }
}

function toleranceText(t: Tolerance): string {
  if (t.absolute === 0 && t.relative === 0) return `exact. ${t.why}`;
  const number = (x: number): string => String(Number(x.toPrecision(2)));
  const of = t.ofMax === true ? "the largest element" : "the element";
  return `${number(t.absolute)} + ${number(t.relative)} of ${of}. ${t.why}`;
}

function signature(op: OpDefinition): string {
  const operands = op.operands.map((o) => (op.variadic === true ? `${o.name}…` : o.optional === true ? `[${o.name}]` : o.name));
  return `${op.name}(${operands.join(", ")})`;
}

function section(op: OpDefinition): string {
  return [
    `- **\`${signature(op)}\`** ${cell(op.doc)}`,
    ...op.operands.map((o) => `  - \`${o.name}\`: ${o.doc}`),
    ...op.attrs.map(attrLine),
    `  - derivative: ${derivativeText(op.derivative)}`,
    `  - tolerance against the reference: ${toleranceText(op.tolerance)}`,
  ].join("\n");
}

/** The whole page. */
export function opsDocument(): string {
  const all = opNames.map((name) => ops[name]);
  const groups = (Object.keys(kinds) as OpKind[]).map((kind) => {
    const members = all.filter((op) => op.kind === kind);
    return [`## ${kind[0]?.toUpperCase() ?? ""}${kind.slice(1)}`, "", kinds[kind], "", ...members.map(section)].join("\n");
  });
  return [
    "# The ops",
    "",
    "Generated from the op table (`ops/`); `npx vitest run spec/ops-doc.test.ts -u` writes it again, and a test fails when it is stale.",
    "",
    `There are ${all.length} ops. Sizes may be symbolic everywhere except where an op says otherwise. A tolerance is what a device's f32 result may differ from the exact float64 reference by; integers and bools are compared exactly, and so are NaN and infinities. Attributes without a default must be given.`,
    "",
    groups.join("\n\n"),
    "",
  ].join("\n");
}
