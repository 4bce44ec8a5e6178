// The bytes of each token. Text is made of tokens by joining their bytes, so that a character that is spread over
// several tokens comes out whole. Which bytes a token has is what the tokenizer's decoder says: characters that stand for
// bytes (GPT-2), or text in which "▁" stands for a space, with `<0x0A>` for single bytes (SentencePiece).

import { TextError } from "../errors.ts";
import { characterOfByte, partsOf, type Definition, type JsonPart } from "./definition.ts";

export interface Spelling {
  /** The bytes of a token that is not an added one. */
  bytes(token: string): Uint8Array;
  /** One space at the very beginning of a text is not part of it. */
  readonly stripsSpace: boolean;
  /** Each character of a token stands for a byte: see `characterOfByte`. */
  readonly byteLevel: boolean;
}

const utf8 = new TextEncoder();

const byteOfCharacter = new Map(characterOfByte.map((character, byte) => [character, byte]));

const byteLevel: Spelling = {
  stripsSpace: false,
  byteLevel: true,
  bytes(token) {
    const bytes = Array.from(token, (c) => byteOfCharacter.get(c));
    return bytes.every((b) => b !== undefined) ? Uint8Array.from(bytes) : utf8.encode(token);
  },
};

/** Throws TextError for a decoder that joins tokens in any other way. */
export function spellingOf(definition: Definition): Spelling {
  const parts = partsOf(definition.decoder, "decoders");
  const [first] = parts;
  if (first?.type === "ByteLevel" && parts.length === 1) return byteLevel;
  if (first?.type === "Metaspace" && parts.length === 1) return metaspace(first);
  const replaced: (readonly [string, string])[] = [];
  let byteFallback = false;
  let stripsSpace = false;
  for (const part of parts) {
    if (part.type === "Replace") replaced.push(replacement(part));
    else if (part.type === "ByteFallback") byteFallback = true;
    else if (part.type === "Strip" && part.content === " " && part.start === 1 && part.stop === 0) stripsSpace = true;
    else if (part.type !== "Fuse") throw new TextError(`a tokenizer's decoder ${part.type} is not known here`);
  }
  if (parts.length === 0) throw new TextError("a tokenizer has no decoder: how its tokens are joined is not known");
  return {
    bytes: (token) => (byteFallback ? byteToken(token) : undefined) ?? utf8.encode(replaceAll(token, replaced)),
    stripsSpace,
    byteLevel: false,
  };
}

function metaspace(part: JsonPart): Spelling {
  const space = typeof part.replacement === "string" ? part.replacement : "▁";
  const prepends = part.prepend_scheme !== "never" && part.add_prefix_space !== false;
  return { bytes: (token) => utf8.encode(token.replaceAll(space, " ")), stripsSpace: prepends, byteLevel: false };
}

function replacement(part: JsonPart): readonly [string, string] {
  const pattern = part.pattern as { readonly String?: unknown } | undefined;
  if (typeof pattern?.String !== "string" || typeof part.content !== "string")
    throw new TextError("a tokenizer's decoder replaces a pattern that is not a string");
  return [pattern.String, part.content];
}

function replaceAll(token: string, pairs: readonly (readonly [string, string])[]): string {
  return pairs.reduce((text, [from, to]) => text.replaceAll(from, () => to), token);
}

/** The byte of `<0x0A>`. */
function byteToken(token: string): Uint8Array | undefined {
  const hex = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
  return hex === undefined ? undefined : Uint8Array.of(Number.parseInt(hex, 16));
}
