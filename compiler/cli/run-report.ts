// What uhdc run tells at the end, as data and as text.

import type { StageTime } from "../../runtime/session.ts";
import { typeText, type Tensor } from "../../runtime/tensor.ts";
import { decodeElements } from "../../ops/reference/elements.ts";
import { picturesText, type LayoutSummary } from "./layout.ts";
import { profileText, type ProfileRow } from "./profile.ts";
import { millisecondsText } from "./terminal.ts";
import { bytesText } from "../ir/text.ts";
import { verificationText, type VerifiedValue } from "./verified.ts";

export interface RunReport {
  readonly ok: true;
  readonly name: string;
  /** Null for a run on tensors alone. */
  readonly image: { readonly path: string; readonly width: number; readonly height: number; readonly format: string } | null;
  readonly inputs: Readonly<Record<string, TensorSummary>>;
  /** Null, as the next two, when the graph has no slicing layout. */
  readonly tokens: number | null;
  readonly pictures: number | null;
  readonly layout: LayoutSummary | null;
  readonly outputs: Readonly<Record<string, OutputSummary>>;
  readonly untrained: boolean;
  readonly parameters: { readonly total: number; readonly untrained: number; readonly seed?: number };
  /** `why` this one: as asked, or what was found. */
  readonly device: { readonly kind: string; readonly threads: number; readonly description?: string; readonly why: string };
  readonly milliseconds: RunTimes;
  /** Bytes. */
  readonly memory: { readonly weights: number; readonly arena: number; readonly peakRss: number };
  readonly profile?: readonly ProfileRow[];
  /** Of every value that a kernel wrote, in the order of the graph. */
  readonly verified?: readonly VerifiedValue[];
  readonly files: readonly string[];
}

export interface TensorSummary {
  readonly dtype: string;
  readonly shape: readonly number[];
}

export interface OutputSummary extends TensorSummary {
  /** Of what is finite; null when nothing is. */
  readonly least: number | null;
  readonly most: number | null;
  /** How many elements are NaN or infinite. */
  readonly notFinite: number;
}

/** By what was done; beside that, `stages` of the run, and `total` since the process started. */
export type RunTimes = { readonly [what: string]: number | readonly StageTime[] } & {
  readonly stages: readonly StageTime[];
  readonly total: number;
};

export function typesOf(tensors: Readonly<Record<string, Tensor>>): Readonly<Record<string, TensorSummary>> {
  return Object.fromEntries(Object.entries(tensors).map(([name, { dtype, shape }]) => [name, { dtype, shape }]));
}

export function summaryOf(outputs: Readonly<Record<string, Tensor>>): Readonly<Record<string, OutputSummary>> {
  return Object.fromEntries(Object.entries(outputs).map(([name, t]) => [name, { dtype: t.dtype, shape: t.shape, ...rangeOf(t) }]));
}

function rangeOf({ dtype, data }: Tensor): Omit<OutputSummary, keyof TensorSummary> {
  let [least, most, notFinite] = [Infinity, -Infinity, 0];
  // In parts: of a whole sequence the values in float64 would be what takes most memory.
  for (let from = 0; from < data.length; from += 65536) {
    for (const x of decodeElements(dtype, data.subarray(from, from + 65536))) {
      if (!Number.isFinite(x)) notFinite++;
      else {
        if (x < least) least = x;
        if (x > most) most = x;
      }
    }
  }
  return least > most ? { least: null, most: null, notFinite } : { least, most, notFinite };
}

function outputText({ dtype, shape, least, most, notFinite }: OutputSummary): string {
  const number = (x: number): string => String(Number(x.toPrecision(4)));
  const range = least === null || most === null ? [] : [`from ${number(least)} to ${number(most)}`];
  return [typeText(dtype, shape), ...range, ...(notFinite > 0 ? [`${notFinite} NaN or infinite`] : [])].join(", ");
}

export function reportText(report: RunReport): string {
  const { image, parameters, device, memory, layout } = report;
  const lines: [string, string][] =
    image === null
      ? Object.entries(report.inputs).map(([name, { dtype, shape }]) => [name, typeText(dtype, shape)])
      : [["photo", `${image.path}, ${image.width}×${image.height}`]];
  if (layout !== null) {
    lines.push(["grid", `${layout.grid[0]}×${layout.grid[1]}${layout.pictures.length === 1 ? ", not sliced" : ""}`]);
    lines.push(["pictures", `${layout.pictures.length}: ${picturesText(layout.pictures)}`]);
    lines.push(["tokens", `${layout.tokens}, separators not counted`]);
  }
  for (const [name, output] of Object.entries(report.outputs)) lines.push([name, outputText(output)]);
  if (parameters.untrained > 0) {
    const share = parameters.untrained === parameters.total ? "all" : `${parameters.untrained} of`;
    lines.push([
      "weights",
      `untrained: ${share} ${parameters.total} parameters are random, from seed ${parameters.seed ?? 0}; the numbers mean nothing`,
    ]);
  }
  const text = (entries: readonly (readonly [string, number])[]): string =>
    entries.map(([name, ms]) => `${name} ${millisecondsText(ms)}`).join(", ");
  const { total, stages, ...times } = report.milliseconds;
  const done = Object.entries(times).flatMap(([name, ms]) => (typeof ms === "number" ? [[name, ms] as const] : []));
  lines.push(["times", `${text(done)}; ${millisecondsText(total)} since the process started`]);
  const where = device.description ?? `${device.threads} thread${device.threads === 1 ? "" : "s"}`;
  const parts = stages.length > 0 ? `${text(stages.map((s) => [s.stage, s.milliseconds]))}, ` : "";
  lines.push(["run", `${parts}on ${device.kind} with ${where}`]);
  lines.push([
    "memory",
    `weights ${bytesText(memory.weights)}, arena ${bytesText(memory.arena)}, most resident ${bytesText(memory.peakRss)}`,
  ]);
  lines.push(["wrote", report.files.join(", ")]);
  const body = lines.map(([name, value]) => `${name.padEnd(9)} ${value}`).join("\n");
  return [
    body,
    ...(report.profile === undefined ? [] : [profileText(report.profile)]),
    ...(report.verified === undefined ? [] : [verificationText(report.verified)]),
  ].join("\n\n");
}
