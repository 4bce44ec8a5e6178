// Turns an error that reached the top into a message and an exit code. Matches on the names of error
// classes, so that failing costs no import of the parts that did not run.

import type { ExitCode } from "./errors.ts";

const codes: Readonly<Record<string, ExitCode>> = {
  // Shape code has no answer, or a size does not fit.
  HostError: 1,
  DimError: 1,
  BindError: 1,
  ImageError: 1,
  SafetensorsError: 1,
  GgufError: 1,
  PickleError: 1,
  TextError: 1,
  WeightsError: 1,
  ArtefactError: 1,
  ArtefactWriteError: 1,
  TargetLimitError: 1,
  InputError: 1,
  TrainingCheckpointError: 1,
  TrainingCompileError: 1,
  TrainingDataError: 1,
  TrainingError: 1,
  AutodiffError: 1,
  MemoryBudgetError: 3,
  ResourceError: 3,
  OutOfMemoryError: 3,
  DeviceError: 3,
  ValidationError: 3,
  DeviceLostError: 3,
  AdapterError: 3,
};

export function explainFailure(error: unknown): { readonly message: string; readonly code: ExitCode } {
  if (!(error instanceof Error)) return { message: `uhdc: ${String(error)}`, code: 1 };
  if (error.name === "AbortError") return { message: "stopped", code: 1 };
  const code = codes[error.name];
  // Most messages say their cause already.
  const causes: string[] = [];
  let said = error.message;
  for (let at: unknown = error.cause; at instanceof Error && causes.length < 8; at = at.cause) {
    if (!said.includes(at.message)) causes.push(`  because: ${at.message}`);
    said += at.message;
  }
  if (code !== undefined) return { message: [error.message, ...causes].join("\n"), code };
  // A defect of ours: the stack is what a report needs.
  return { message: `uhdc: internal error, please report it\n${error.stack ?? error.message}`, code: 1 };
}
