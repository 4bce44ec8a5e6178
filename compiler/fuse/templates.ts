// Repeated layers are the same groups over other values. A group is described by its structure, values numbered in the
// order in which they are met; equal descriptions share one kernel, built once. The description is compared whole.

import type { AttrValue, ValueId } from "../ir/graph/types.ts";
import { typeText } from "../ir/graph/build.ts";
import { attrText } from "../ir/graph/print.ts";
import { opOf } from "../../ops/index.ts";
import { nodeOf, type Values } from "./expand.ts";
import { buildKernel, sourcesOf, type BuiltKernel, type Operand } from "./kernels.ts";
import type { Group } from "./legality.ts";

interface Template {
  readonly built: BuiltKernel;
  /** The template's values in the order they are met. */
  readonly order: readonly ValueId[];
}

export interface TemplatedKernel extends BuiltKernel {
  /** The same object for groups of the same structure. */
  readonly template: object;
}

/** Builds kernels, each structure once. */
export class KernelTemplates {
  private readonly known = new Map<string, Template>();
  private readonly values: Values;
  private readonly packed: ReadonlySet<ValueId>;

  constructor(values: Values, packed: ReadonlySet<ValueId>) {
    this.values = values;
    this.packed = packed;
  }

  build(g: Group): TemplatedKernel {
    const { text, order } = this.describe(g);
    const template = this.known.get(text);
    if (template === undefined) {
      const built = buildKernel(this.values, g, this.packed);
      this.known.set(text, { built, order });
      return { ...built, template: built };
    }
    const { built } = template;
    const at = new Map(template.order.map((v, i) => [v, order[i] ?? v]));
    const mine = (v: ValueId): ValueId => at.get(v) ?? v;
    return {
      kernel: { ...built.kernel, sources: sourcesOf(this.values, g) },
      operands: built.operands.map((o): Operand => (o.k === "value" ? { k: "value", id: mine(o.id) } : { k: "pack", of: mine(o.of) })),
      group: g,
      times: new Map([...built.times].map(([v, n]) => [mine(v), n])),
      template: built,
    };
  }

  private describe(g: Group): { readonly text: string; readonly order: readonly ValueId[] } {
    const order: ValueId[] = [];
    const seen = new Map<ValueId, number>();
    const lines: string[] = [];
    // The operand that a pack is of is read, unless it is made there.
    const inside = (v: ValueId): boolean =>
      (g.packs === undefined && g.roots.includes(v)) || v === g.packs || v === g.contraction || g.inlined.has(v);
    const visit = (v: ValueId): number => {
      const before = seen.get(v);
      if (before !== undefined) return before;
      const number = order.length;
      seen.set(v, number);
      order.push(v);
      const node = nodeOf(this.values, v);
      const line = lines.length;
      lines.push("");
      let text: string = node.kind;
      if (node.kind === "constant" && node.data.length === 1) text = `constant ${Object.is(node.data[0], -0) ? "-0" : node.data[0]}`;
      // Views stand for what they look at, whether they are inlined or not: their operand decides which buffer is read.
      else if (node.kind === "op") {
        const attrs = Object.entries(node.attrs).map(([name, value]: [string, AttrValue]) => `${name}=${attrText(value)}`);
        const goesOn = inside(v) || opOf(node.op).view === "order";
        text = goesOn ? `${node.op} {${attrs.join(" ")}} (${node.operands.map(visit).join(" ")})` : "written";
      }
      lines[line] = `${number} ${inside(v) ? "+" : ""}${text} ${typeText(node.type)}`;
      return number;
    };
    visit(g.packs ?? g.root);
    // Which state is updated is part of the structure: it is read under the name of what is written.
    const roots = g.roots.map((root) => {
      const state = this.values.updated?.get(root);
      return `${visit(root)}${state === undefined ? "" : ` over ${visit(state)}`}`;
    });
    const place = this.values.inPlace?.has(g.root) === true ? "in place " : "";
    const kind = `${place}${g.packs === undefined ? "" : "packs "}${g.attention ? "attention " : ""}${g.heavy ? "heavy " : ""}${g.rowFamily ? "row family " : ""}rows ${g.rows?.join() ?? "none"} roots ${roots.join()}`;
    const own =
      g.contraction === undefined
        ? ""
        : `contraction ${seen.get(g.contraction) ?? "outside"} ${this.packed.has(g.contraction)} ${g.direct}`;
    return { text: [kind, own, ...lines].join("\n"), order };
  }
}
