// The tokenizer of a GGUF file that is open: its vocabulary is read from the file only here.

import { isGgufArray, readGgufArray, type GgufFile } from "../weights/gguf.ts";
import { ggufTokenizerArrays } from "./gguf.ts";
import { tokenizerFromGguf, type Tokenizer, type TokenizerOptions } from "./tokenizer.ts";

/** Throws TextError when the file's tokenizer cannot be used, GgufError when it cannot be read. */
export async function tokenizerOfGgufFile(file: Pick<GgufFile, "source" | "metadata">, options: TokenizerOptions = {}): Promise<Tokenizer> {
  const metadata = new Map<string, unknown>(file.metadata);
  for (const key of ggufTokenizerArrays) {
    const value = file.metadata.get(key);
    if (isGgufArray(value)) metadata.set(key, await readGgufArray(file, value));
  }
  return tokenizerFromGguf(metadata, options);
}
