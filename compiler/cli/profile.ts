// What the time of a run went to: a table by kernel, and a trace for Chrome's viewer (chrome://tracing, ui.perfetto.dev).
// Measures nothing: the device did.

import type { RunResult } from "../../runtime/session.ts";
import { dimEval, dimParse } from "../ir/dim.ts";
import type { Plan, Step } from "../ir/plan/types.ts";
import { millisecondsText, tableText } from "./terminal.ts";

/** All steps of a run that the same kernel did. */
export interface ProfileRow {
  /** "copy" for copies. */
  readonly kernel: string;
  readonly calls: number;
  readonly milliseconds: number;
  /** Of the time of all steps. */
  readonly share: number;
  /** Operations in a nanosecond. */
  readonly gflops: number;
  /** `file:line:column` of the first value that it computes, in the order of the calls. */
  readonly places: readonly string[];
}

const numberOf = (text: string, result: RunResult): number => dimEval(dimParse(text), result.sizes);

function nameOf(step: Step): string {
  return step.k === "dispatch" ? step.kernel : "copy";
}

function placeOf(step: Step): string | undefined {
  return step.k === "dispatch" ? step.sources[0]?.split(" < ")[0] : undefined;
}

/** The longest first. */
export function profileRows(plan: Plan, result: RunResult): readonly ProfileRow[] {
  const total = result.steps.reduce((a, b) => a + b, 0);
  const sums = new Map<string, { calls: number; milliseconds: number; flops: number; places: Set<string> }>();
  for (const [i, step] of plan.steps.entries()) {
    const sum = sums.get(nameOf(step)) ?? { calls: 0, milliseconds: 0, flops: 0, places: new Set<string>() };
    sums.set(nameOf(step), sum);
    sum.calls++;
    sum.milliseconds += result.steps[i] ?? 0;
    sum.flops += step.k === "dispatch" ? numberOf(step.flops, result) : 0;
    const place = placeOf(step);
    if (place !== undefined) sum.places.add(place);
  }
  return [...sums]
    .map(([kernel, { calls, milliseconds, flops, places }]) => ({
      kernel,
      calls,
      milliseconds,
      share: total > 0 ? milliseconds / total : 0,
      gflops: milliseconds > 0 ? flops / milliseconds / 1e6 : 0,
      places: [...places],
    }))
    .toSorted((a, b) => b.milliseconds - a.milliseconds);
}

export function profileText(rows: readonly ProfileRow[]): string {
  const total = rows.reduce((sum, r) => sum + r.milliseconds, 0);
  const cells = rows.map((r) => [
    r.kernel,
    String(r.calls),
    r.milliseconds.toFixed(3),
    `${(100 * r.share).toFixed(1)} %`,
    r.gflops.toFixed(1),
    `${r.places[0] ?? ""}${r.places.length > 1 ? ` and ${r.places.length - 1} more` : ""}`,
  ]);
  const table = tableText([["kernel", "calls", "ms", "share", "GFLOPS", "where"], ...cells], [1, 2, 3, 4]);
  return `${table}\n${millisecondsText(total)} in ${rows.reduce((sum, r) => sum + r.calls, 0)} steps`;
}

/** Something the host did, in milliseconds since the process began. */
export interface HostSpan {
  readonly name: string;
  readonly begin: number;
  readonly milliseconds: number;
}

/** Chrome's trace format: what the host did on one line, the device's steps on another. `runBegin`: when the run began. */
export function traceJson(plan: Plan, result: RunResult, device: string, spans: readonly HostSpan[], runBegin: number): string {
  const event = (name: string, thread: number, begin: number, milliseconds: number, args: object): object => ({
    name,
    ph: "X",
    pid: 1,
    tid: thread,
    ts: begin * 1000,
    dur: milliseconds * 1000,
    args,
  });
  const named = (thread: number, name: string): object => ({ name: "thread_name", ph: "M", pid: 1, tid: thread, args: { name } });
  let at = runBegin;
  const beforeSteps = result.stages.slice(0, 2).map(({ stage, milliseconds }) => {
    at += milliseconds;
    return event(stage, 1, at - milliseconds, milliseconds, {});
  });
  const steps = plan.steps.map((step, i) => {
    const args =
      step.k === "dispatch"
        ? { stage: step.stage, sources: step.sources, flops: numberOf(step.flops, result), bytes: numberOf(step.bytes, result) }
        : {};
    return event(nameOf(step), 2, at + (result.begins[i] ?? 0), result.steps[i] ?? 0, args);
  });
  const outputs = result.stages.at(-1);
  const end =
    outputs === undefined ? [] : [event(outputs.stage, 1, runBegin + result.milliseconds - outputs.milliseconds, outputs.milliseconds, {})];
  const host = spans.map((s) => event(s.name, 1, s.begin, s.milliseconds, {}));
  return JSON.stringify({
    displayTimeUnit: "ms",
    traceEvents: [named(1, "host"), named(2, device), ...host, ...beforeSteps, ...steps, ...end],
  });
}
