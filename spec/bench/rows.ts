// What a bench reports: its rows, as data and as a table. Measures nothing.

import type { Spread } from "./measure.ts";

export interface Row {
  readonly name: string;
  readonly threads: number;
  /** Median, in `unit`; lower is better for every unit. null when the bench failed: see `notRun`. */
  readonly ours: number | null;
  /** The same of the peer, or the limit that ours should stay under. */
  readonly peer: number | null;
  readonly peerName: string;
  /** peer / ours, the median over rounds: above 1 ours is better. */
  readonly ratio: number | null;
  readonly unit: "ms" | "bytes" | "kernels";
  /** Absent for what is measured once. */
  readonly spread?: { readonly ours: Spread; readonly peer: Spread; readonly ratio: Spread };
  readonly rounds: number;
  /** The ratio that is aimed at. */
  readonly goal?: number;
  /** How far the results of the two were apart. */
  readonly difference?: string;
  /** Why there is no ratio: the bench failed, or its peer was not there. */
  readonly notRun?: string;
  readonly note?: string;
  /** e.g. "Node 20.20.2" */
  readonly engine: string;
  readonly variant?: "plain" | "relaxed";
}

export interface Engine {
  readonly engine: string;
  readonly rows: readonly Row[];
}

/** The row of a bench that gave none, so that it is missed neither in the table nor in the data. */
export function failedRow(name: string, threads: number, engine: string, failure: string): Row {
  return { name, threads, ours: null, peer: null, peerName: "–", ratio: null, unit: "ms", rounds: 0, notRun: failure, engine };
}

/** Three significant digits, and a larger unit where that reads better. */
export function quantity(value: number | null, unit: Row["unit"]): string {
  if (value === null) return "–";
  if (unit === "kernels") return String(value);
  if (unit === "ms") return value >= 10_000 ? `${(value / 1000).toFixed(1)} s` : `${significant(value)} ms`;
  if (value >= 1e6) return `${significant(value / 1e6)} MB`;
  return `${(value / 1e3).toFixed(1)} kB`;
}

function significant(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

function range(s: Spread): string {
  return `${s.lower.toFixed(2)}–${s.upper.toFixed(2)}`;
}

/** One block for each engine: name, threads, ours, peer, ratio with its quartiles, goal. */
export function table(engines: readonly Engine[]): string {
  return engines.map(({ engine, rows }) => [heading(engine, rows), ...lines(rows)].join("\n")).join("\n\n");
}

function heading(engine: string, rows: readonly Row[]): string {
  const variants = [...new Set(rows.flatMap((row) => (row.variant === undefined ? [] : [row.variant])))];
  return variants.length === 0 ? engine : `${engine}, ${variants.join(" and ")} SIMD`;
}

function lines(rows: readonly Row[]): string[] {
  const head = ["bench", "threads", "ours", "peer", "ratio", "quartiles", "goal", ""];
  const body = rows.map((row) => [
    row.name,
    String(row.threads),
    quantity(row.ours, row.unit),
    `${quantity(row.peer, row.unit)} ${row.peerName}`,
    row.ratio === null ? "–" : `${row.ratio.toFixed(2)}×`,
    row.spread === undefined ? "" : range(row.spread.ratio),
    row.goal === undefined ? "" : `${row.goal.toFixed(2)}${row.ratio !== null && !(row.ratio >= row.goal) ? " below" : ""}`,
    [row.notRun === undefined ? "" : `not run: ${row.notRun}`, row.note ?? ""]
      .filter((text) => text !== "")
      .join("; ")
      // Reasons are other programs' words and may have several lines.
      .replaceAll(/\s*\n\s*/g, "; "),
  ]);
  const all = [head, ...body];
  const widths = head.map((_, column) => Math.max(...all.map((cells) => cells[column]?.length ?? 0)));
  return all.map((cells) =>
    cells
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}
