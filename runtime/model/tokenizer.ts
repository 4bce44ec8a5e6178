// The tokenizer of a model, wherever it is: in a GGUF file, in a checkpoint's folder, or in a file of such a folder.

import { TextError, messageOf } from "../errors.ts";
import { importNode } from "../platform.ts";
import { tokenizerOfGgufFile } from "../text/gguf-file.ts";
import { loadTokenizer, type Tokenizer, type TokenizerOptions } from "../text/tokenizer.ts";
import { openGguf } from "../weights/gguf.ts";

/** A path (Node), or the bytes or Blob of a GGUF file. Throws TextError, or GgufError for a file that breaks the format. */
export async function openTokenizer(from: string | Uint8Array | Blob, options: TokenizerOptions = {}): Promise<Tokenizer> {
  const folder = typeof from === "string" ? await folderOf(from) : undefined;
  if (folder !== undefined) return loadTokenizer(folder, options);
  await using file = await openGguf(from);
  return await tokenizerOfGgufFile(file, options);
}

/** The folder that a tokenizer is in; undefined when it is in the file itself. */
async function folderOf(from: string): Promise<string | undefined> {
  const [{ stat }, { basename, dirname }] = [
    await importNode<typeof import("node:fs/promises")>("fs/promises"),
    await importNode<typeof import("node:path")>("path"),
  ];
  try {
    if ((await stat(from)).isDirectory()) return from;
  } catch (cause) {
    const missing = cause instanceof Error && "code" in cause && cause.code === "ENOENT";
    throw new TextError(`${from} cannot be read: ${missing ? "no such file" : messageOf(cause)}`, { cause });
  }
  return ["tokenizer.json", "tokenizer.model"].includes(basename(from)) ? dirname(from) : undefined;
}
