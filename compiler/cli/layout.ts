// Reads the slicing layout out of what shape code computed, for graphs that have one: a binding named `layout`
// with the fields of `Layout` in graphs/slicing.uhd. Graphs without it are none the worse.

import type { HostValue } from "../ir/plan/host.ts";

type Pair = readonly [number, number];

export interface LayoutPicture {
  readonly kind: "slice" | "overview";
  /** Left, top, right, bottom of the part of the image it shows. */
  readonly box: readonly [number, number, number, number];
  /** Width and height, as the model sees it. */
  readonly px: Pair;
  readonly patches: Pair;
}

export interface LayoutSummary {
  /** Columns, rows. */
  readonly grid: Pair;
  /** Visual tokens, separators not counted. */
  readonly tokens: number;
  /** In the order of the visual sequence. */
  readonly pictures: readonly LayoutPicture[];
}

type Fields = Readonly<Record<string, HostValue>>;

function fields(value: HostValue | undefined): Fields | undefined {
  return typeof value === "object" && !Array.isArray(value) ? (value as Fields) : undefined;
}

function numbers(value: HostValue | undefined, count: number): readonly number[] | undefined {
  return Array.isArray(value) && value.length === count && value.every((n): n is number => typeof n === "number") ? value : undefined;
}

function pair(value: HostValue | undefined): Pair | undefined {
  const [a, b] = numbers(value, 2) ?? [];
  return a === undefined || b === undefined ? undefined : [a, b];
}

/** Undefined when the graph has no layout of this form. */
export function layoutOf(host: Readonly<Record<string, HostValue>>): LayoutSummary | undefined {
  const layout = fields(host["layout"]);
  const grid = pair(layout?.["grid"]);
  const tokens = layout?.["tokens"];
  const slices = layout?.["slices"];
  const list = layout?.["pictures"];
  if (grid === undefined || typeof tokens !== "number" || typeof slices !== "number" || !Array.isArray(list)) return undefined;
  const first = layout?.["overview_first"] === true;
  const pictures: LayoutPicture[] = [];
  for (const [i, item] of (list as readonly HostValue[]).entries()) {
    const picture = fields(item);
    const [left, top, right, bottom] = numbers(picture?.["box"], 4) ?? [];
    const px = pair(picture?.["px"]);
    const patches = pair(picture?.["patches"]);
    if (left === undefined || top === undefined || right === undefined || bottom === undefined || px === undefined || patches === undefined)
      return undefined;
    const kind = i === (first ? 0 : slices) ? "overview" : "slice";
    pictures.push({ kind, box: [left, top, right, bottom], px, patches });
  }
  return { grid, tokens, pictures };
}

/** "3 pictures: 2 of 406×266 px (29×19 patches), 1 of 406×266 px (29×19 patches)" without the count, equal ones together. */
export function picturesText(pictures: readonly LayoutPicture[]): string {
  const counts = new Map<string, number>();
  for (const p of pictures) {
    const text = `${p.kind === "overview" ? "overview" : "slices"} of ${p.px[0]}×${p.px[1]} px (${p.patches[0]}×${p.patches[1]} patches)`;
    counts.set(text, (counts.get(text) ?? 0) + 1);
  }
  return [...counts]
    .map(([text, n]) => (text.startsWith("overview") ? text : `${n} ${n === 1 ? text.replace("slices", "slice") : text}`))
    .join(", ");
}
