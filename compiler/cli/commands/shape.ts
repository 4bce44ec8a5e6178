// uhdc shape: evaluate a shape function, once or for each line of standard input.

import { createInterface } from "node:readline";
import type { HostValue } from "../../ir/plan/host.ts";
import { callHostFunction, HostError } from "../../ir/plan/host-eval.ts";
import type { Program } from "../../check/index.ts";
import { loadChecked, type CommonOptions } from "../common.ts";
import { CliError, usageError } from "../errors.ts";
import type { Terminal } from "../terminal.ts";
import { closest } from "../../diagnostics/index.ts";

export interface ShapeOptions extends Omit<CommonOptions, "json"> {
  readonly batch: boolean;
}

/** A command-line argument as a host value: JSON where it is JSON, otherwise the text itself. */
function argument(text: string): HostValue {
  try {
    const value: unknown = JSON.parse(text);
    if (value !== null) return value as HostValue;
  } catch {
    return text;
  }
  return text;
}

export async function shape(file: string, name: string, args: readonly string[], options: ShapeOptions, terminal: Terminal): Promise<void> {
  const program = loadChecked(file, { set: options.set, json: false }, terminal);
  const fn = program.functions.get(name);
  if (fn === undefined) {
    const near = closest(name, [...program.functions.keys()]);
    throw usageError(
      `${file} has no shape function "${name}"${near === undefined ? "" : `; did you mean "${near}"?`} It has: ${[...program.functions.keys()].join(", ") || "none"}`,
    );
  }
  if (!options.batch) {
    terminal.out(JSON.stringify(call(program, name, args), null, 2));
    return;
  }
  if (args.length > 0) throw usageError("--batch reads the arguments from standard input; give none on the command line");
  let line = 0;
  for await (const text of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    line++;
    const words = text
      .trim()
      .split(/\s+/)
      .filter((w) => w !== "");
    if (words.length === 0) continue;
    try {
      terminal.out(JSON.stringify(call(program, name, words)));
    } catch (error) {
      throw error instanceof CliError ? new CliError(error.code, `<stdin>:${line}: ${error.message}`, { cause: error }) : error;
    }
  }
}

function call(program: Program, name: string, texts: readonly string[]): HostValue {
  const fn = program.functions.get(name);
  if (fn === undefined) throw usageError(`no shape function "${name}"`);
  const values = texts.map(argument);
  if (values.length !== fn.params.length) {
    throw usageError(
      `${name} takes ${fn.params.length} argument${fn.params.length === 1 ? "" : "s"} (${fn.params.map((p) => `${p.name}: ${p.type}`).join(", ")}), found ${values.length}`,
    );
  }
  fn.params.forEach((p, i) => {
    const value = values[i];
    const fits =
      p.type === "int"
        ? Number.isSafeInteger(value)
        : p.type === "float"
          ? typeof value === "number"
          : p.type === "bool"
            ? typeof value === "boolean"
            : p.type === "string"
              ? typeof value === "string"
              : typeof value === "object";
    if (!fits) throw usageError(`${name}: argument ${i + 1} (${p.name}) is ${p.type}, found ${texts[i] ?? ""}`);
  });
  try {
    return callHostFunction(fn.program, fn.name, values);
  } catch (cause) {
    if (cause instanceof HostError) throw new CliError(1, `${name}(${texts.join(", ")}): ${cause.message}`, { cause });
    throw cause;
  }
}
