// Documents that know where they may be broken, laid out to a width: the engine under the formatter. Knows
// nothing of the language. After Wadler's "A prettier printer", with comments that wait for the end of the line.

export type Doc =
  | string
  | readonly Doc[]
  /** A space, or a new line when the group around it does not fit; `soft` is nothing instead of a space; `hard` always breaks. */
  | { readonly k: "line"; readonly soft: boolean; readonly hard: boolean }
  | { readonly k: "indent"; readonly doc: Doc }
  /** Laid out on one line when that fits and nothing inside must break. */
  | { readonly k: "group"; readonly doc: Doc; readonly broken: boolean }
  /** Text for the end of the current line; breaks every group around it. */
  | { readonly k: "suffix"; readonly text: string };

export const line: Doc = { k: "line", soft: false, hard: false };
export const softline: Doc = { k: "line", soft: true, hard: false };
export const hardline: Doc = { k: "line", soft: false, hard: true };

export function indent(doc: Doc): Doc {
  return { k: "indent", doc };
}

export function group(doc: Doc, broken = false): Doc {
  return { k: "group", doc, broken: broken || mustBreak(doc) };
}

export function suffix(text: string): Doc {
  return { k: "suffix", text };
}

/** The documents with `separator` between them. */
export function join(separator: Doc, docs: readonly Doc[]): Doc {
  return docs.flatMap((d, i) => (i === 0 ? [d] : [separator, d]));
}

function isList(doc: Doc): doc is readonly Doc[] {
  return Array.isArray(doc);
}

function mustBreak(doc: Doc): boolean {
  if (typeof doc === "string") return false;
  if (isList(doc)) return doc.some(mustBreak);
  switch (doc.k) {
    case "line":
      return doc.hard;
    case "suffix":
      return true;
    case "group":
      return doc.broken;
    case "indent":
      return mustBreak(doc.doc);
    default:
      return doc satisfies never;
  }
}

interface Command {
  readonly doc: Doc;
  readonly indent: number;
  readonly flat: boolean;
}

/** Text of the document; groups that do not fit in `width` columns are broken, outermost first. */
export function layout(root: Doc, width: number): string {
  const lines: string[] = [];
  let out = "";
  let column = 0;
  let waiting = "";
  const newline = (indentation: number): void => {
    lines.push((out + waiting).trimEnd());
    out = " ".repeat(indentation);
    waiting = "";
    column = indentation;
  };
  const stack: Command[] = [{ doc: root, indent: 0, flat: false }];
  for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
    const { doc, indent: level, flat } = next;
    if (typeof doc === "string") {
      out += doc;
      column += doc.length;
    } else if (isList(doc)) {
      for (let i = doc.length - 1; i >= 0; i--) stack.push({ doc: doc[i] ?? "", indent: level, flat });
    } else if (doc.k === "indent") stack.push({ doc: doc.doc, indent: level + 2, flat });
    else if (doc.k === "suffix") waiting += doc.text;
    else if (doc.k === "group") {
      const one = { doc: doc.doc, indent: level, flat: true };
      const fitting = !doc.broken && (flat || fits(one, stack, width - column));
      stack.push({ ...one, flat: fitting });
    } else if (doc.hard || !flat) newline(level);
    else if (!doc.soft) {
      out += " ";
      column++;
    }
  }
  return [...lines, (out + waiting).trimEnd()].join("\n");
}

/** True when `first`, and what follows it up to the first place that will break, is no wider than `room`. */
function fits(first: Command, rest: readonly Command[], room: number): boolean {
  const stack: Command[] = [first];
  let below = rest.length;
  while (room >= 0) {
    const next = stack.pop() ?? rest[--below];
    if (next === undefined) return true;
    const { doc, flat } = next;
    if (typeof doc === "string") room -= doc.length;
    else if (isList(doc)) for (let i = doc.length - 1; i >= 0; i--) stack.push({ ...next, doc: doc[i] ?? "" });
    else if (doc.k === "indent") stack.push({ ...next, doc: doc.doc });
    else if (doc.k === "group") stack.push({ ...next, doc: doc.doc, flat: flat && !doc.broken });
    else if (doc.k === "line") {
      if (doc.hard || !flat) return true;
      if (!doc.soft) room--;
    }
  }
  return false;
}
