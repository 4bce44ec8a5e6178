// uhdc inspect: what is in a checkpoint (any that `--weights` takes) or in an artefact. Reads headers only, so it is as
// quick for 100 GB as for one. Does not print values.

import { existsSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { loadArtefact } from "../../../runtime/artefact.ts";
import { isRecord } from "../../../runtime/json.ts";
import { elementCount } from "../../../runtime/tensor.ts";
import { openCheckpoint } from "../../../runtime/weights/checkpoint.ts";
import { isGgufArray, type GgufValue } from "../../../runtime/weights/gguf.ts";
import { bytesOf } from "../../ir/dtype.ts";
import { codeOf } from "../common.ts";
import { CliError } from "../errors.ts";
import { tableText, type Terminal } from "../terminal.ts";
import { bytesText } from "../../ir/text.ts";

export interface InspectOptions {
  readonly json: boolean;
}

interface Row {
  readonly name: string;
  /** As the file has it: "F32", "Q4_K", … */
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: number;
  /** The file's own name, where that is another. */
  readonly nameInFile?: string;
}

interface Inspected {
  readonly path: string;
  readonly format: string;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: readonly Row[];
  /** What else there is to say, by its name. */
  readonly more: Readonly<Record<string, unknown>>;
}

export async function inspect(file: string, options: InspectOptions, terminal: Terminal): Promise<void> {
  const found = isArtefact(file) ? await inspectArtefact(file) : await inspectCheckpoint(file);
  terminal.out(options.json ? JSON.stringify(asJson(found), null, 2) : asText(found));
}

function isFolder(file: string): boolean {
  return statSync(file, { throwIfNoEntry: false })?.isDirectory() === true;
}

function isArtefact(file: string): boolean {
  return isFolder(file) && existsSync(path.join(file, "manifest.json")) && existsSync(path.join(file, "plan.json"));
}

async function inspectArtefact(folder: string): Promise<Inspected> {
  const { plan } = await loadArtefact(folder);
  const tensors = plan.params.map(({ name, dtype, shape }) => {
    return { name, dtype: dtype.toUpperCase(), shape, bytes: shape.reduce((n, d) => n * d, bytesOf(dtype)) };
  });
  const more = { graph: plan.name, kernels: plan.kernels.length, steps: plan.steps.length, prepare: plan.prepare.length };
  return { path: folder, format: "artefact", metadata: new Map(), tensors, more };
}

async function inspectCheckpoint(file: string): Promise<Inspected> {
  const checkpoint = await openCheckpoint(file);
  try {
    const tensors = [...checkpoint.tensors].map(([name, { type, shape, bytes, nameInFile }]) => {
      return { name, dtype: type, shape, bytes, ...(nameInFile === undefined ? {} : { nameInFile }) };
    });
    const { format, metadata } = checkpoint;
    return { path: file, format, metadata, tensors, more: isFolder(file) ? configOf(path.join(file, "config.json")) : {} };
  } finally {
    await checkpoint.close();
  }
}

/** What a Hugging Face folder says of its model. */
function configOf(file: string): Readonly<Record<string, unknown>> {
  if (!existsSync(file)) return {};
  let config: unknown;
  try {
    config = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new CliError(1, `${file}: cannot be read (${codeOf(cause)})`, { cause });
  }
  if (!isRecord(config)) throw new CliError(1, `${file}: is not a JSON object`);
  const { architectures, model_type: model } = config;
  return {
    ...(Array.isArray(architectures) ? { architectures } : {}),
    ...(typeof model === "string" ? { model } : {}),
  };
}

function totals(tensors: readonly Row[]): { readonly tensors: number; readonly elements: number; readonly bytes: number } {
  return {
    tensors: tensors.length,
    elements: tensors.reduce((n, t) => n + elementCount(t.shape), 0),
    bytes: tensors.reduce((n, t) => n + t.bytes, 0),
  };
}

function asJson({ path: file, format, metadata, tensors, more }: Inspected): unknown {
  const value = (v: GgufValue): unknown => {
    if (isGgufArray(v)) return { items: v.items, length: v.length };
    return typeof v === "bigint" ? String(v) : v;
  };
  const pairs = Object.fromEntries([...metadata].map(([key, v]) => [key, value(v)]));
  return { ok: true, path: file, format, ...more, total: totals(tensors), metadata: pairs, tensors };
}

/** Characters of a value that are shown. */
const shown = 100;

function asText({ path: file, format, metadata, tensors, more }: Inspected): string {
  const { elements, bytes } = totals(tensors);
  const types = new Map<string, number>();
  for (const { dtype } of tensors) types.set(dtype, (types.get(dtype) ?? 0) + 1);
  const kinds = [...types].map(([type, count]) => `${count} ${type}`).join(", ");
  const lines = [
    `${printable(file)}: ${format}, ${tensors.length} tensors${kinds === "" ? "" : ` (${kinds})`}, ${elements} parameters, ${bytesText(bytes)}`,
    ...Object.entries(more).map(
      ([name, value]) => `${name}: ${printable(Array.isArray(value) ? value.map(String).join(", ") : String(value))}`,
    ),
  ];
  if (metadata.size > 0) {
    const rows = [...metadata].map(([key, value]) => [`  ${printable(key)}`, valueText(value)]);
    lines.push("", "metadata", tableText(rows));
  }
  if (tensors.length > 0) {
    const rows = tensors.map((t) => [
      `  ${printable(t.name)}`,
      t.dtype,
      `[${t.shape.join(", ")}]`,
      bytesText(t.bytes),
      printable(t.nameInFile ?? ""),
    ]);
    lines.push("", "tensors", tableText(rows, [3]));
  }
  return lines.join("\n");
}

function valueText(value: GgufValue): string {
  if (isGgufArray(value)) return `${value.length} × ${value.items}`;
  if (typeof value !== "string") return String(value);
  const text = value.length > shown ? `${value.slice(0, shown)}… (${value.length} characters)` : value;
  return printable(text);
}

/** Names come from files that are not trusted: nothing in them may move a terminal's cursor or hide text. */
function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\u2028\u2029]/gu, (character) => {
    if (character === "\n") return "\\n";
    return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`;
  });
}
