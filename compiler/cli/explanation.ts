// What `uhdc explain` shows people: equal layers and equal values once, with how often. The facts are in
// commands/explain.ts.

import type { Declined } from "../compile.ts";
import type { Explanation, ExplainedBuffer, ExplainedKernel } from "./commands/explain.ts";
import { picturesText } from "./layout.ts";
import { repeats } from "./repeats.ts";
import { countText, tableText } from "./terminal.ts";
import { bytesText } from "../ir/text.ts";

export function explanationText(e: Explanation): string {
  return [header(e), kernelsText(e.kernels), operations(e), warnings(e), unquantised(e), unfused(e), recomputation(e), memory(e)]
    .filter((part) => part !== "")
    .join("\n\n");
}

function header(e: Explanation): string {
  const sizes = Object.entries(e.sizes).map(([name, value]) => `${name} = ${value}`);
  const lines = [`${e.name}: ${sizes.join(", ")}`, `${e.parameters.toLocaleString("en")} parameters`];
  if (e.training !== null) {
    const { trained, optimiser, accumulate, schedule, rate, compute, scaling } = e.training;
    const share = ((100 * trained.elements) / Math.max(1, e.parameters)).toFixed(1);
    lines.push(`trained: ${trained.parameters} parameters of ${trained.elements.toLocaleString("en")} elements (${share} %)`);
    lines.push(
      `optimiser: AdamW, ${bytesText(optimiser)}; rate ${rate}, ${schedule.kind}; ${accumulate} run${accumulate === 1 ? "" : "s"} a step`,
    );
    if (compute !== "f32") {
      const times = scaling === null ? "" : `; the loss times ${scaling.initial} at first, twice that after ${scaling.every} good steps`;
      lines.push(`products of ${compute}, added in f32${times}`);
    }
  }
  for (const { format, weights, elements, bytes } of e.packed)
    lines.push(`${weights} weights packed as ${format}: ${elements.toLocaleString("en")} parameters in ${bytesText(bytes)}`);
  if (e.layout !== null) {
    lines.push(`grid ${e.layout.grid[0]}×${e.layout.grid[1]}, ${e.layout.pictures.length} pictures: ${picturesText(e.layout.pictures)}`);
    lines.push(`${e.layout.tokens} visual tokens, separators not counted`);
  }
  return lines.join("\n");
}

/** Innermost lines, by file: `graphs/clip-vit.uhd:20,22 layers.uhd:9`. */
function sourceText(sources: readonly string[]): string {
  const lines = new Map<string, Set<string>>();
  for (const chain of sources) {
    const [, file, line] = /^(.*?):(\d+):\d+/.exec(chain) ?? [];
    if (file !== undefined && line !== undefined) lines.set(file, (lines.get(file) ?? new Set()).add(line));
  }
  return [...lines].map(([file, numbers]) => `${file}:${[...numbers].join(",")}`).join(" ");
}

function kernelsText(kernels: readonly ExplainedKernel[]): string {
  const rows: (readonly string[])[] = [["", "step", "kernel", "stage", "operations", "bytes", "from"]];
  for (const run of repeats(kernels, (k) => JSON.stringify([k.name, k.stage, k.sources, k.flops, k.bytes]))) {
    run.items.forEach((k, i) => {
      const times = run.times === 1 ? "" : i === 0 ? `${run.times} ×` : "  ¦";
      rows.push([times, String(k.step), k.name, k.stage, countText(k.flops), bytesText(k.bytes), sourceText(k.sources)]);
    });
  }
  const different = new Set(kernels.map((k) => k.name)).size;
  return `${kernels.length} steps, ${different} different kernels\n${tableText(rows, [0, 1, 4, 5])}`;
}

function operations(e: Explanation): string {
  const { useful, executed } = e.flops;
  const share = executed === 0 ? "" : ` (useful / executed ${(useful / executed).toFixed(2)})`;
  return `operations: ${countText(useful)} useful, ${countText(executed)} executed${share}`;
}

/** What makes a run slow and could be written otherwise. */
function warnings(e: Explanation): string {
  const lines: string[] = [];
  if (e.plainLoops.length > 0) lines.push(`slow: ${e.plainLoops.join(", ")} run as plain loops, because no builder takes their operands`);
  for (const { name, bytes } of e.copiedStates)
    lines.push(`slow: the state ${name} (${bytesText(bytes)}) is copied at the end of each run; write_rows of it alone is done in place`);
  return lines.join("\n");
}

/** One line for each reason, with the first names it concerns. */
function unquantised(e: Explanation): string {
  if (e.unquantised.length === 0) return "";
  const reasons = new Map<string, string[]>();
  for (const { name, reason } of e.unquantised) reasons.set(reason, [...(reasons.get(reason) ?? []), name]);
  const rows = [...reasons].map(([reason, names]) => [
    names.length === 1 ? "" : `${names.length} ×`,
    names.length === 1 ? (names[0] ?? "") : `${names[0] ?? ""}, …`,
    reason,
  ]);
  return `not packed\n${tableText(rows, [0])}`;
}

/** One line for each reason and place, with how many pairs of values it concerns. */
function unfused(e: Explanation): string {
  if (e.declined.length === 0) return "";
  const groups = new Map<string, { readonly first: Declined; count: number }>();
  for (const d of e.declined) {
    const key = JSON.stringify([d.reason, d.at]);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, { first: d, count: 1 });
    else group.count++;
  }
  const rows = [...groups.values()].map(({ first, count }) => [
    count === 1 ? "" : `${count} ×`,
    `${first.producer} → ${first.consumer}`,
    first.at,
    first.reason,
  ]);
  return `not fused\n${tableText(rows, [0])}`;
}

/** What a budget made of the values that the backward pass reads. */
function recomputation({ recomputation: r }: Explanation): string {
  if (r === null) return "";
  const share = ((100 * r.flops.again) / Math.max(1, r.flops.before)).toFixed(1);
  const lines = [
    `memory budget ${bytesText(r.budget)}: predicted peak ${bytesText(r.predicted.peak)}, of ${bytesText(r.before.peak)} with nothing computed again; ` +
      `${countText(Math.max(0, r.flops.again))} operations more (${share} %)`,
  ];
  for (const [what, values] of [
    ["computed again", r.recomputed],
    ["kept for the backward pass", r.kept],
  ] as const) {
    if (values.length === 0) continue;
    const rows = values.map((v) => [v.count === 1 ? "" : `${v.count} ×`, bytesText(v.bytes), v.op, v.at, v.type]);
    lines.push(`${what}\n${tableText([["", "bytes", "operation", "at", "type"], ...rows], [0, 1])}`);
  }
  return lines.join("\n");
}

function memory(e: Explanation): string {
  const { weights, state, arena, peak } = e.memory;
  const kept = state === 0 ? "" : ` (${bytesText(state)} of it state)`;
  const rows: (readonly string[])[] = [["", "offset", "bytes", "steps", "value"]];
  const places = new Map<string, ExplainedBuffer[]>();
  for (const b of e.arena) {
    const key = `${b.offset} ${b.type}`;
    places.set(key, [...(places.get(key) ?? []), b]);
  }
  for (const [first, ...others] of places.values()) {
    if (first === undefined) continue;
    const last = others.at(-1) ?? first;
    const steps = others.length === 0 ? `${first.first}…${first.last}` : `${first.first}…${first.last}, …, ${last.first}…${last.last}`;
    rows.push([
      others.length === 0 ? "" : `${others.length + 1} ×`,
      String(first.offset),
      bytesText(first.bytes),
      steps,
      `${first.name}: ${first.type}`,
    ]);
  }
  return `memory: weights ${bytesText(weights)}${kept}, arena ${bytesText(arena)}, peak ${bytesText(peak)}\n${tableText(rows, [0, 1, 2])}`;
}
