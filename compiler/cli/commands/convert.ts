// uhdc convert: any checkpoint that `--weights` takes, as one safetensors file. The file appears under its name when it
// is complete. Ctrl-C stops it and leaves no file.

import { openCheckpoint } from "../../../runtime/weights/checkpoint.ts";
import { listed } from "../../../runtime/weights/stored.ts";
import { rewrite } from "../../../runtime/weights/write.ts";
import type { PackedFormat } from "../../ir/plan/packed.ts";
import { usageError } from "../errors.ts";
import { millisecondsText, type Terminal } from "../terminal.ts";
import { bytesText } from "../../ir/text.ts";

export interface ConvertOptions {
  readonly out: string;
  readonly dtype?: "f32" | "f16" | "bf16";
  /** The form matrices are packed in. */
  readonly quantise?: "int8" | "int4" | PackedFormat;
  /** Matrices whose names contain one of these stay as they are. */
  readonly keep: readonly string[];
  /** `FROM=TO`, each: what names begin with, and what that becomes. */
  readonly rename: readonly string[];
  readonly json: boolean;
}

export async function convert(inputs: readonly string[], options: ConvertOptions, terminal: Terminal): Promise<void> {
  const rename = options.rename.map(ruleOf);
  const { quantise } = options;
  const format = quantise === "int8" ? "q8_0" : quantise === "int4" ? "q4_0" : quantise;
  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  const begin = performance.now();
  const checkpoint = await openCheckpoint(inputs);
  try {
    const written = await rewrite(options.out, checkpoint.tensors, {
      dtype: options.dtype,
      quantise: format === undefined ? undefined : (name) => (options.keep.some((part) => name.includes(part)) ? undefined : format),
      rename,
      // What the libraries of PyTorch ask for.
      metadata: { format: "pt" },
      signal: abort.signal,
      onBytes: (done, total) => terminal.progress(`${bytesText(done)} of ${bytesText(total)}`),
    });
    terminal.done();
    const { tensors, elements, bytes, infinite } = written;
    if (infinite.length > 0) terminal.err(`warning: infinite in f16, which ends at 65504: ${listed(infinite)}`);
    const milliseconds = performance.now() - begin;
    const summary = { ok: true, out: options.out, format: checkpoint.format, tensors, elements, bytes, infinite, milliseconds };
    const text = `${options.out}: ${tensors} tensors, ${elements} parameters, ${bytesText(bytes)}, in ${millisecondsText(milliseconds)}`;
    terminal.out(options.json ? JSON.stringify(summary, null, 2) : text);
  } finally {
    terminal.done();
    await checkpoint.close();
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  }
}

function ruleOf(text: string): readonly [string, string] {
  const at = text.indexOf("=");
  if (at < 0) throw usageError(`--rename takes FROM=TO, found "${text}"`);
  return [text.slice(0, at), text.slice(at + 1)];
}
