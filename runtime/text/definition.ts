// What a tokenizer is, in the shape of Hugging Face's tokenizer.json, checked: a file is not trusted. Whatever the source
// was (tokenizer.json, GGUF, a SentencePiece model), it becomes a `Definition`, and only that is given to the library
// that tokenises. Here are the checks and the few places where the library's meaning of a file is not that of the
// original; no text is tokenised here.
//
// Note [Where the library differs]
//   @huggingface/tokenizers 0.2 is a second implementation of the Rust library of the same name. Where they would give
//   different ids, the definition is written so that they agree, or refused when it cannot be:
//   - `Digits` knows only 0…9 there; all of Unicode's category N here, as in Rust. It becomes a `Split` on \p{N}.
//   - `ByteLevel` with its own pattern takes JavaScript's \s, which has U+FEFF and lacks U+0085. It becomes a `Split` on
//     the pattern, for which the library translates \s, and a `ByteLevel` without a pattern. The space that it may put
//     before a text becomes a `Replace` before both.
//   - `Metaspace` never splits there; in Rust it does unless `split` is false. An older name of `prepend_scheme` is unknown.
//   - An inverted or string-valued `Split`; one that merges with its neighbours is not implemented, nor are added tokens that
//     must be single words.
//   - Bytes without a token are left out after merging there, before it in Rust, so that their neighbours merge.
//   - "$" in what a `Replace` puts in is taken for a reference to the match.

import { TextError } from "../errors.ts";
import { isRecord } from "../json.ts";

export interface JsonPart {
  readonly type: string;
  readonly [key: string]: unknown;
}

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  readonly normalized: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
}

/** A byte-pair model: the vocabulary, and which pairs become one token, most urgent first. */
export interface BpeModel {
  readonly vocab: Readonly<Record<string, number>>;
  readonly merges: readonly (readonly [string, string])[];
  readonly unkToken: string | undefined;
  readonly fuseUnk: boolean;
  /** Characters without a token become tokens of their UTF-8 bytes, `<0x0A>`. */
  readonly byteFallback: boolean;
  /** A word that is a token is that token, whatever the merges say. */
  readonly ignoreMerges: boolean;
}

export interface Definition {
  readonly model: BpeModel;
  readonly added: readonly AddedToken[];
  readonly normalizer: JsonPart | undefined;
  readonly preTokenizer: JsonPart | undefined;
  readonly decoder: JsonPart | undefined;
  /** Ids before and after a text that is encoded with specials: BOS, EOS. */
  readonly prefix: readonly number[];
  readonly suffix: readonly number[];
  /** One more than the largest id. */
  readonly size: number;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  readonly unk: number | undefined;
  readonly pad: number | undefined;
  /** Ids that end an answer: `eos` and what the source names beside it. */
  readonly ends: readonly number[];
  readonly chatTemplate: string | undefined;
}

/** GPT-2's pattern of words. */
export const wordPattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** GPT-2's alphabet: printable characters of Latin-1 stand for themselves, the other bytes for U+0100 and following. */
export const characterOfByte: readonly string[] = (() => {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : next++);
  });
})();

/** No vocabulary has so many; a file with larger ids is damaged. */
const maximumId = 1 << 24;

/** Each match of the pattern is a piece, and so is what lies between. */
export const splitOn = (regex: string): JsonPart => ({ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false });
export const sequence = (key: "pretokenizers" | "normalizers" | "decoders", parts: readonly JsonPart[]): JsonPart => ({
  type: "Sequence",
  [key]: parts,
});
/** Bytes as the 256 characters of byte-level vocabularies. */
export const byteCharacters: JsonPart = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };

/** Reads a parsed tokenizer.json and, if there is one, its tokenizer_config.json. Throws TextError. */
export function fromTokenizerJson(json: unknown, config: unknown, name = "tokenizer.json"): Definition {
  const fail = (what: string): never => {
    throw new TextError(`${name}: ${what}`);
  };
  if (!isRecord(json) || !isRecord(json.model)) return fail("is not a tokenizer: it has no model");
  if (config !== undefined && !isRecord(config)) return fail("its configuration is not an object");
  const model = bpeModel(json.model, fail);
  const added = addedTokens(json.added_tokens ?? [], fail);
  const part = (key: string): JsonPart | undefined => optionalPart(json[key], key, fail);
  const vocabulary = new Map(Object.entries(model.vocab));
  for (const token of added) vocabulary.set(token.content, token.id);
  const named = (key: string): number | undefined => {
    const token = config?.[key];
    const content = isRecord(token) ? token.content : token;
    if (content === undefined || content === null) return undefined;
    if (typeof content !== "string") return fail(`${key} of its configuration is not a token`);
    return vocabulary.get(content) ?? fail(`${key} ${JSON.stringify(content)} is not in the vocabulary`);
  };
  const unk = named("unk_token") ?? (model.unkToken === undefined ? undefined : vocabulary.get(model.unkToken));
  const eos = named("eos_token");
  return {
    model,
    added,
    normalizer: part("normalizer"),
    preTokenizer: part("pre_tokenizer"),
    decoder: part("decoder"),
    ...aroundText(part("post_processor"), fail),
    size: [...vocabulary.values()].reduce((most, id) => Math.max(most, id + 1), 0),
    bos: named("bos_token"),
    eos,
    unk,
    pad: named("pad_token") ?? unk,
    ends: eos === undefined ? [] : [eos],
    chatTemplate: chatTemplateOf(config?.chat_template, fail),
  };
}

/** Throws TextError that names the source. */
export type Fail = (what: string) => never;

function bpeModel(json: Readonly<Record<string, unknown>>, fail: Fail): BpeModel {
  const { type, vocab, merges, unk_token: unk, dropout } = json;
  if (type !== undefined && type !== "BPE") fail(`its model is ${JSON.stringify(type)}; only BPE is known here`);
  if (!isRecord(vocab) || !Array.isArray(merges)) return fail("its model has no vocabulary or no merges");
  if (dropout !== undefined && dropout !== null && dropout !== 0) fail("it drops merges at random");
  if (unk !== undefined && unk !== null && typeof unk !== "string") fail("its unknown token is not a string");
  for (const key of ["continuing_subword_prefix", "end_of_word_suffix"] as const) {
    if (json[key] !== undefined && json[key] !== null && json[key] !== "") fail(`its model has a ${key}, which is not known here`);
  }
  const model: BpeModel = {
    vocab: vocab as Readonly<Record<string, number>>,
    merges: mergesOf(merges, fail),
    unkToken: typeof unk === "string" ? unk : undefined,
    fuseUnk: json.fuse_unk === true,
    byteFallback: json.byte_fallback === true,
    ignoreMerges: json.ignore_merges === true,
  };
  checkModel(model, fail);
  return model;
}

/** Each merge is two tokens in a list, or in a string with a space between them. */
export function mergesOf(merges: readonly unknown[], fail: Fail): BpeModel["merges"] {
  return merges.map((merge) => {
    const pair: readonly unknown[] = typeof merge === "string" ? merge.split(" ") : Array.isArray(merge) ? merge : [];
    const [left, right] = pair;
    return pair.length === 2 && typeof left === "string" && typeof right === "string" && left !== "" && right !== ""
      ? [left, right]
      : fail(`${JSON.stringify(merge)} is not a merge of two tokens`);
  });
}

/** Ids are integers in range, each of one token, and merges are of tokens to tokens. */
export function checkModel(model: BpeModel, fail: Fail): void {
  const ids = new Set<number>();
  const vocabulary = new Set<string>();
  for (const [token, id] of Object.entries(model.vocab)) {
    if (!isId(id)) fail(`the id of ${JSON.stringify(token)} is ${String(id)}`);
    if (ids.has(id)) fail(`two tokens have the id ${id}`);
    ids.add(id);
    vocabulary.add(token);
  }
  for (const [left, right] of model.merges) {
    const lacking = [left, right, left + right].find((token) => !vocabulary.has(token));
    if (lacking !== undefined)
      fail(
        `the merge of ${JSON.stringify(left)} and ${JSON.stringify(right)} needs ${JSON.stringify(lacking)}, which is not in the vocabulary`,
      );
  }
  if (model.unkToken !== undefined && !vocabulary.has(model.unkToken))
    fail(`the unknown token ${JSON.stringify(model.unkToken)} is not in the vocabulary`);
}

export function isId(id: unknown): id is number {
  return typeof id === "number" && Number.isInteger(id) && id >= 0 && id < maximumId;
}

function addedTokens(list: unknown, fail: Fail): readonly AddedToken[] {
  if (!Array.isArray(list)) return fail("its added tokens are not a list");
  return list.map((entry: unknown) => {
    if (!isRecord(entry)) return fail("an added token is not an object");
    const { content, id } = entry;
    if (typeof content !== "string" || content === "" || !isId(id))
      return fail(`the added token ${JSON.stringify(entry)} has no content or no id`);
    if (entry.single_word === true) fail(`the added token ${JSON.stringify(content)} must be a single word, which is not known here`);
    const special = entry.special === true;
    const normalized = typeof entry.normalized === "boolean" ? entry.normalized : !special;
    return { id, content, special, normalized, lstrip: entry.lstrip === true, rstrip: entry.rstrip === true };
  });
}

function optionalPart(value: unknown, key: string, fail: Fail): JsonPart | undefined {
  if (value === undefined || value === null) return undefined;
  return isPart(value) ? value : fail(`its ${key} has no type`);
}

function isPart(value: unknown): value is JsonPart {
  return isRecord(value) && typeof value.type === "string";
}

/** The parts of a `Sequence`, and of sequences in it; of anything else, itself. */
export function partsOf(part: JsonPart | undefined, key: string): readonly JsonPart[] {
  if (part === undefined) return [];
  if (part.type !== "Sequence") return [part];
  const parts = part[key];
  if (!Array.isArray(parts)) throw new TextError(`a sequence of a tokenizer has no ${key}`);
  return parts.flatMap((p: unknown) => {
    if (!isPart(p)) throw new TextError(`one of a tokenizer's ${key} has no type`);
    return partsOf(p, key);
  });
}

/** What a post-processor puts before and after one text. */
function aroundText(part: JsonPart | undefined, fail: Fail): Pick<Definition, "prefix" | "suffix"> {
  const prefix: number[] = [];
  const suffix: number[] = [];
  for (const p of partsOf(part, "processors")) {
    if (p.type === "ByteLevel") continue;
    if (p.type === "RobertaProcessing" || p.type === "BertProcessing") {
      for (const [key, ids] of [
        ["cls", prefix],
        ["sep", suffix],
      ] as const) {
        const pair: unknown = p[key];
        const id: unknown = Array.isArray(pair) ? pair[1] : undefined;
        ids.push(isId(id) ? id : fail(`its post-processor has no ${key}`));
      }
      continue;
    }
    if (p.type !== "TemplateProcessing" || !Array.isArray(p.single)) return fail(`its post-processor ${p.type} is not known here`);
    let ids = prefix;
    for (const item of p.single as readonly unknown[]) {
      if (isRecord(item) && isRecord(item.Sequence)) ids = suffix;
      else ids.push(...templateIds(item, p.special_tokens, fail));
    }
  }
  return { prefix, suffix };
}

function templateIds(item: unknown, table: unknown, fail: Fail): readonly number[] {
  const token = isRecord(item) && isRecord(item.SpecialToken) ? item.SpecialToken.id : undefined;
  const entry = typeof token === "string" && isRecord(table) ? table[token] : undefined;
  const ids: unknown = isRecord(entry) ? entry.ids : undefined;
  return Array.isArray(ids) && ids.every(isId) ? ids : fail("its post-processor names a token that it does not define");
}

/** One template, or the one named "default" of several. */
export function chatTemplateOf(template: unknown, fail: Fail): string | undefined {
  if (template === undefined || template === null) return undefined;
  if (typeof template === "string") return template;
  const named = Array.isArray(template) ? (template as readonly unknown[]).find((t) => isRecord(t) && t.name === "default") : undefined;
  return isRecord(named) && typeof named.template === "string" ? named.template : fail("none of its chat templates is the default");
}

/** The object that the library is given: see Note [Where the library differs]. */
export function libraryJson(definition: Definition): Readonly<Record<string, unknown>> {
  const { model } = definition;
  return {
    version: "1.0",
    added_tokens: definition.added,
    normalizer: normalizerFor(definition.normalizer),
    pre_tokenizer: preTokenizerFor(definition.preTokenizer, model),
    // Specials are put around the ids by our own code, from ids; the library does it from text.
    post_processor: null,
    decoder: null,
    model: {
      type: "BPE",
      vocab: model.vocab,
      merges: model.merges,
      unk_token: model.unkToken ?? null,
      fuse_unk: model.fuseUnk,
      byte_fallback: model.byteFallback,
      ignore_merges: model.ignoreMerges,
    },
  };
}

const normalizers = new Set(["Prepend", "Replace", "NFC", "NFD", "NFKC", "NFKD", "Lowercase"]);

function normalizerFor(part: JsonPart | undefined): JsonPart | null {
  const parts = partsOf(part, "normalizers").map((p) => {
    if (!normalizers.has(p.type)) throw new TextError(`a tokenizer's normalizer ${p.type} is not known here`);
    return p.type === "Replace" && typeof p.content === "string" ? { ...p, content: p.content.replaceAll("$", "$$$$") } : p;
  });
  return parts.length === 0 ? null : sequence("normalizers", parts);
}

function preTokenizerFor(part: JsonPart | undefined, model: BpeModel): JsonPart | null {
  const parts = partsOf(part, "pretokenizers").flatMap((p): readonly JsonPart[] => {
    switch (p.type) {
      case "Digits":
        return [splitOn(p.individual_digits === true ? "\\p{N}" : "\\p{N}+")];
      case "ByteLevel":
        return [
          ...(p.add_prefix_space === true ? [spaceBefore] : []),
          ...(p.use_regex === false ? [] : [splitOn(wordPattern)]),
          byteCharacters,
          ...withoutMissing(model),
        ];
      case "Split":
        return [splitFor(p)];
      case "Metaspace":
        return metaspaceFor(p);
      default:
        throw new TextError(`a tokenizer's pre-tokenizer ${p.type} is not known here`);
    }
  });
  return parts.length === 0 ? null : sequence("pretokenizers", parts);
}

/** Puts a space before a text that is not empty and does not begin with one. In the library's patterns "^" is any line's begin. */
const spaceBefore: JsonPart = { type: "Replace", pattern: { Regex: "(?<![\\p{L}\\P{L}])(?=[^ ])" }, content: " " };

/** Takes out the bytes for which there is no token of any kind. */
function withoutMissing(model: BpeModel): readonly JsonPart[] {
  if (model.unkToken !== undefined || model.byteFallback) return [];
  const missing = characterOfByte.filter((character) => !Object.hasOwn(model.vocab, character));
  const codes = missing.map((character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return codes.length === 0 ? [] : [{ type: "Replace", pattern: { Regex: `[${codes.join("")}]` }, content: "" }];
}

function splitFor(part: JsonPart): JsonPart {
  const pattern = isRecord(part.pattern) ? part.pattern : {};
  const regex = typeof pattern.String === "string" ? pattern.String.replace(/[.*+?^${}()|[\]\\]/g, "\\$&") : pattern.Regex;
  if (typeof regex !== "string") throw new TextError("a tokenizer splits text on no pattern");
  // What is isolated is so on both sides of an inversion.
  if (part.behavior === "Isolated") return splitOn(regex);
  if (part.behavior === "Removed") return { ...splitOn(regex), behavior: "Removed", invert: part.invert === true };
  throw new TextError(`a tokenizer splits text with the behaviour ${JSON.stringify(part.behavior)}, which is not known here`);
}

function metaspaceFor(part: JsonPart): readonly JsonPart[] {
  const space = typeof part.replacement === "string" ? part.replacement : "▁";
  const scheme = part.prepend_scheme ?? (part.add_prefix_space === false ? "never" : "always");
  const replaced = { type: "Metaspace", replacement: space, prepend_scheme: scheme };
  return part.split === false ? [replaced] : [replaced, splitOn(`${space}[^${space}]*|[^${space}]+`)];
}
