// Turns an error that reached the top into a message and an exit code. Matches on the names of error
// classes, so that failing costs no import of the parts that did not run.

import type { ExitCode } from "./errors.ts";

const codes: Readonly<Record<string, ExitCode>> = {
  HostError: 1,
  DimError: 1,
  ImageError: 1,
  SafetensorsError: 1,
  WeightsError: 1,
  ArtefactError: 1,
  ArtefactWriteError: 1,
  InputError: 1,
  PlanError: 1,
  PlanMemoryError: 3,
  DeviceError: 3,
  DeviceLostError: 3,
  OutOfMemoryError: 3,
};

export function explainFailure(error: unknown): { readonly message: string; readonly code: ExitCode } {
  if (!(error instanceof Error)) return { message: `uhdc: ${String(error)}`, code: 1 };
  if (error.name === "AbortError") return { message: "stopped", code: 1 };
  const code = codes[error.name];
  const causes: string[] = [];
  for (let at: unknown = error.cause; at instanceof Error && causes.length < 8; at = at.cause) causes.push(`  because: ${at.message}`);
  if (code !== undefined) return { message: [error.message, ...causes].join("\n"), code };
  // A defect of ours: the stack is what a report needs.
  return { message: `uhdc: internal error, please report it\n${error.stack ?? error.message}`, code: 1 };
}
