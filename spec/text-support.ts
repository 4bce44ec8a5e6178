// What tests of text share: the fixture of spec/oracle/tokens.py, and small vocabularies.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Message } from "../runtime/text/chat.ts";
import { characterOfByte } from "../runtime/text/definition.ts";
import { tokenizerFromGguf, type Tokenizer } from "../runtime/text/tokenizer.ts";

type Metadata = Readonly<Record<string, unknown>> & { readonly "tokenizer.ggml.tokens": readonly string[] };
type Ids = readonly (readonly number[])[];

interface TokensFixture {
  readonly byteLevel: {
    readonly metadata: Metadata & { readonly "tokenizer.ggml.merges": readonly string[]; readonly "tokenizer.chat_template": string };
    readonly texts: readonly string[];
    /** By the name of the pre-tokenizer. */
    readonly ids: Readonly<Record<string, Ids>>;
    readonly json: JsonShell;
    /** Where a space is put before each text. */
    readonly spaced: { readonly json: JsonShell; readonly texts: readonly string[]; readonly ids: Ids };
    readonly decoded: readonly string[];
    /** With SmolLM2's whole vocabulary. */
    readonly whole: { readonly size: number; readonly ids: Ids };
    readonly chats: readonly { readonly messages: readonly Message[]; readonly open: boolean; readonly text: string }[];
  };
  readonly scored: Readonly<Record<"prefixed" | "bare", Scored>>;
}

/** A tokenizer.json whose model lacks its vocabulary and merges. */
export interface JsonShell {
  readonly model: Readonly<Record<string, unknown>>;
  readonly [key: string]: unknown;
}

interface Scored {
  /** The SentencePiece model, in base64. */
  readonly model: string;
  readonly metadata: Metadata;
  readonly texts: readonly string[];
  readonly ids: Ids;
  readonly decoded: readonly string[];
  readonly json: readonly {
    readonly json: JsonShell;
    readonly texts: readonly string[];
    readonly ids: Ids;
    readonly decoded: readonly string[];
  }[];
}

export const fixture = JSON.parse(
  readFileSync(fileURLToPath(new URL("fixtures/text-tokens.json", import.meta.url)), "utf8"),
) as TokensFixture;

/** Every byte, a few pairs, and three specials: whatever text there is can be written. */
export async function allBytes(): Promise<Tokenizer> {
  const merges = ["a b", "ab c", "Ġ a", "Ġ Ġ", "Ã ©", "ð Ł", "ðŁ ĳ", "ðŁĳ į", "e n", "en d"];
  return tokenizerFromGguf({
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["<s>", "</s>", "<pad>", ...characterOfByte, ...merges.map((merge) => merge.replace(" ", ""))],
    "tokenizer.ggml.token_type": [3, 3, 3, ...Array.from({ length: 256 + merges.length }, () => 1)],
    "tokenizer.ggml.merges": merges,
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.padding_token_id": 2,
  });
}

/** LLaMA's beginning: three specials, the bytes from id 3, then `pieces`, the better the earlier. */
export function llamaMetadata(pieces: readonly string[]): Readonly<Record<string, unknown>> {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  return {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", ...bytes, ...pieces],
    "tokenizer.ggml.scores": [0, 0, 0, ...bytes.map(() => 0), ...pieces.map((_, i) => -i)],
    "tokenizer.ggml.token_type": [2, 3, 3, ...bytes.map(() => 6), ...pieces.map(() => 1)],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
  };
}

export const llamaPieces = ["▁a", "in", "▁t", "he", "▁the", "ing", ..."▁aeinthgUSER:", "▁U", "▁US"];
