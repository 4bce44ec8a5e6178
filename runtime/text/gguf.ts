// The tokenizer in the metadata of a GGUF file, as a definition. Takes plain values: how they come out of the file is not
// known here. Two kinds are read, "gpt2" (byte-level pairs with merges) and "llama" (SentencePiece pairs with scores).

import { TextError } from "../errors.ts";
import { byteCharacters, checkModel, isId, mergesOf, sequence, splitOn, wordPattern, type Definition } from "./definition.ts";
import { addedTokens, pieceType, scoredModel, scoredParts, type Piece } from "./scored.ts";

/** Keys and values; arrays are arrays (typed ones too), integers may be bigints. */
export type GgufMetadata = ReadonlyMap<string, unknown> | Readonly<Record<string, unknown>>;

/** The arrays that are read: a reader that leaves arrays in the file has to fetch these. */
export const ggufTokenizerArrays = [
  "tokenizer.ggml.tokens",
  "tokenizer.ggml.token_type",
  "tokenizer.ggml.scores",
  "tokenizer.ggml.merges",
] as const;

const llama3Words = (digits: string): string =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;

/** How words are cut before pairs are merged: patterns, each cutting the pieces of those before it. */
const preTokenizers: Readonly<Record<string, readonly string[]>> = {
  default: ["[\\p{P}\\$\\+<=>\\^~\\|]+", wordPattern, "\\p{N}+", "[0-9][0-9][0-9]"],
  "gpt-2": [wordPattern],
  smollm: ["\\p{N}", wordPattern],
  starcoder: ["\\p{N}", wordPattern],
  refact: ["\\p{N}", wordPattern],
  "command-r": ["\\p{N}", wordPattern],
  "llama-bpe": [llama3Words("\\p{N}{1,3}")],
  qwen2: [llama3Words("\\p{N}")],
};
/** Of these, characters are composed first. */
const composes = new Set(["qwen2"]);
/** Of these, a word that is a token is that token. */
const ignoresMerges = new Set(["llama-bpe"]);

/** Reads the metadata of a GGUF file. Throws TextError. */
export function fromGguf(metadata: GgufMetadata): Definition {
  const values = new Values(metadata);
  const tokens = values.strings("tokens");
  const types = values.numbers("token_type", tokens.length) ?? tokens.map((): number => pieceType.normal);
  if (new Set(tokens).size !== tokens.length) {
    const seen = new Set<string>();
    const twice = tokens.find((token) => seen.size === seen.add(token).size);
    fail(`the token ${JSON.stringify(twice)} is there twice`);
  }
  const kind = values.string("model");
  if (kind === "gpt2") return byteLevel(values, tokens, types);
  if (kind === "llama") return scored(values, tokens, types);
  return fail(`the tokenizer is ${kind === undefined ? "not there" : JSON.stringify(kind)}; "gpt2" and "llama" are known here`);
}

function fail(what: string): never {
  throw new TextError(`GGUF: ${what}`);
}

function byteLevel(values: Values, tokens: readonly string[], types: readonly number[]): Definition {
  const pre = values.string("pre") ?? "default";
  const patterns = Object.hasOwn(preTokenizers, pre) ? preTokenizers[pre] : undefined;
  if (patterns === undefined)
    return fail(`the pre-tokenizer ${JSON.stringify(pre)} is not known; known are ${Object.keys(preTokenizers).join(", ")}`);
  const model = {
    vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
    merges: mergesOf(values.strings("merges"), fail),
    ...{ unkToken: undefined, fuseUnk: false, byteFallback: false },
    ignoreMerges: ignoresMerges.has(pre),
  };
  checkModel(model, fail);
  const bosByDefault = pre === "llama-bpe";
  return {
    model,
    normalizer: composes.has(pre) ? { type: "NFC" } : undefined,
    preTokenizer: sequence("pretokenizers", [...patterns.map(splitOn), byteCharacters]),
    decoder: byteCharacters,
    ...common(values, tokens, types, bosByDefault),
  };
}

function scored(values: Values, tokens: readonly string[], types: readonly number[]): Definition {
  const scores = values.numbers("scores", tokens.length) ?? fail("the tokens have no scores");
  const pieces: readonly Piece[] = tokens.map((token, id) => ({ token, score: scores[id] ?? 0, type: types[id] ?? pieceType.normal }));
  const unk = values.id("unknown_token_id", tokens.length);
  return {
    model: scoredModel(pieces, unk === undefined ? undefined : tokens[unk], fail),
    ...scoredParts(values.flag("add_space_prefix") ?? true),
    ...common(values, tokens, types, true),
  };
}

type Common = Omit<Definition, "model" | "normalizer" | "preTokenizer" | "decoder">;

function common(values: Values, tokens: readonly string[], types: readonly number[], bosByDefault: boolean): Common {
  const id = (key: string): number | undefined => values.id(key, tokens.length);
  const [bos, eos, unk] = [id("bos_token_id"), id("eos_token_id"), id("unknown_token_id")];
  const around = (flag: string, byDefault: boolean, token: number | undefined): readonly number[] => {
    if (!(values.flag(flag) ?? byDefault)) return [];
    return token === undefined ? fail(`${flag} is set, and there is no such token`) : [token];
  };
  const ends = new Set([eos, id("eot_token_id"), id("eom_token_id")].filter((end) => end !== undefined));
  return {
    added: addedTokens(tokens, types),
    prefix: around("add_bos_token", bosByDefault, bos),
    suffix: around("add_eos_token", false, eos),
    size: tokens.length,
    ...{ bos, eos, unk },
    pad: id("padding_token_id") ?? unk,
    ends: [...ends],
    chatTemplate: values.text("tokenizer.chat_template"),
  };
}

/** Typed access to `tokenizer.ggml.*`. */
class Values {
  readonly #get: (key: string) => unknown;

  constructor(metadata: GgufMetadata) {
    const record = metadata as Readonly<Record<string, unknown>>;
    this.#get =
      metadata instanceof Map ? (key) => metadata.get(key) as unknown : (key) => (Object.hasOwn(record, key) ? record[key] : undefined);
  }

  text(key: string): string | undefined {
    const value = this.#get(key);
    return value === undefined || typeof value === "string" ? value : fail(`${key} is not a string`);
  }

  string(key: string): string | undefined {
    return this.text(`tokenizer.ggml.${key}`);
  }

  flag(key: string): boolean | undefined {
    const value = this.#get(`tokenizer.ggml.${key}`);
    return value === undefined || typeof value === "boolean" ? value : fail(`tokenizer.ggml.${key} is not true or false`);
  }

  id(key: string, size: number): number | undefined {
    const value = this.#get(`tokenizer.ggml.${key}`);
    if (value === undefined) return undefined;
    const id = Number(value);
    return isId(id) && id < size ? id : fail(`tokenizer.ggml.${key} is ${String(value)}, and there are ${size} tokens`);
  }

  strings(key: string): readonly string[] {
    const value = this.#get(`tokenizer.ggml.${key}`);
    if (value === undefined) return fail(`there is no tokenizer.ggml.${key}`);
    if (!Array.isArray(value)) return fail(`tokenizer.ggml.${key} is not an array`);
    return value.every((item): item is string => typeof item === "string")
      ? value
      : fail(`tokenizer.ggml.${key} holds what is not a string`);
  }

  /** One for each of `count` tokens. */
  numbers(key: string, count: number): readonly number[] | undefined {
    const value = this.#get(`tokenizer.ggml.${key}`);
    if (value === undefined) return undefined;
    if (!Array.isArray(value) && !ArrayBuffer.isView(value)) return fail(`tokenizer.ggml.${key} is not an array`);
    const list = Array.from(value as ArrayLike<unknown>, Number);
    if (list.length !== count) fail(`tokenizer.ggml.${key} has ${list.length} values for ${count} tokens`);
    return list.some(Number.isNaN) ? fail(`tokenizer.ggml.${key} holds what is not a number`) : list;
  }
}
