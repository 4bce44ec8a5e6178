// Tokenizers: text to ids by `@huggingface/tokenizers`, which is loaded when the first tokenizer is; ids to text by the
// bytes of tokens (spelling.ts). Sources are parsed tokenizer.json files, the metadata of GGUF files and SentencePiece
// models. Does not know prompts or images (prompt.ts), nor any algorithm of tokenisation.

import { messageOf, TextError } from "../errors.ts";
import { importNode } from "../platform.ts";
import { characterOfByte, fromTokenizerJson, libraryJson, type Definition } from "./definition.ts";
import { fromGguf, type GgufMetadata } from "./gguf.ts";
import { fromSentencePiece } from "./sentencepiece.ts";
import { spellingOf, type Spelling } from "./spelling.ts";
import { checkUnicode, TextStream } from "./stream.ts";

export interface EncodeOptions {
  /** Put the ids around the text that the tokenizer's source wants: BOS before LLaMA's. Default true. */
  readonly specials?: boolean | undefined;
  /**
   * What becomes of a character some of whose bytes a byte-level vocabulary lacks. SmolLM2's lacks some control characters
   * and the planes 4 to 11. Default "drop": only the bytes that have tokens are kept, as in other implementations.
   */
  readonly inexpressible?: "drop" | "error" | undefined;
}

export interface Tokenizer {
  /** One more than the largest id. */
  readonly vocabularySize: number;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  readonly unk: number | undefined;
  /** The unknown token, where the source names none. */
  readonly pad: number | undefined;
  /** Ids after which an answer is over. */
  readonly ends: readonly number[];
  /** Tokens that are not text. Written out in a text that is encoded, they are recognised. */
  readonly specials: ReadonlySet<number>;
  /** Ids that `encode` puts before and after a text. */
  readonly prefix: readonly number[];
  readonly suffix: readonly number[];
  /** A template of the model's own, in Jinja. */
  readonly chatTemplate: string | undefined;
  /** A space at the very beginning of a text is the tokenizer's own, and `decode` leaves it out. */
  readonly stripsSpace: boolean;
  /** Throws TextError for a string with half a surrogate pair. */
  encode(text: string, options?: EncodeOptions): number[];
  /** Throws TextError for an id that is not in the vocabulary. */
  decode(ids: Iterable<number>, options?: { readonly skipSpecials?: boolean | undefined }): string;
  /** The bytes that a token adds to a text. Throws TextError for an id that is not in the vocabulary. */
  bytes(id: number): Uint8Array;
  token(id: number): string | undefined;
  id(token: string): number | undefined;
}

/** `import * as library from "@huggingface/tokenizers"`: pass it where a bundler has to see the import. */
export interface TokenizersLibrary {
  readonly Tokenizer: new (json: object, config: object) => LibraryTokenizer;
}

/** What of the library's class is used here. */
interface LibraryTokenizer {
  encode(text: string, options: { readonly add_special_tokens: boolean }): { readonly ids: (number | undefined)[] };
}

export interface TokenizerOptions {
  readonly library?: TokenizersLibrary | undefined;
}

/** A parsed tokenizer.json, and the parsed tokenizer_config.json beside it. */
export async function tokenizerFromJson(json: unknown, config?: unknown, options: TokenizerOptions = {}): Promise<Tokenizer> {
  return makeTokenizer(fromTokenizerJson(json, config), options);
}

/** The metadata of a GGUF file, arrays as arrays. */
export async function tokenizerFromGguf(metadata: GgufMetadata, options: TokenizerOptions = {}): Promise<Tokenizer> {
  return makeTokenizer(fromGguf(metadata), options);
}

/** The bytes of a SentencePiece model (tokenizer.model), and the parsed tokenizer_config.json beside it. */
export async function tokenizerFromSentencePiece(model: Uint8Array, config?: unknown, options: TokenizerOptions = {}): Promise<Tokenizer> {
  return makeTokenizer(fromSentencePiece(model, config), options);
}

/** The folder of a checkpoint: its tokenizer.json, else its tokenizer.model, with tokenizer_config.json and chat_template.jinja. */
export async function loadTokenizer(folder: string, options: TokenizerOptions = {}): Promise<Tokenizer> {
  const [config, json] = [await readJson(folder, "tokenizer_config.json"), await readJson(folder, "tokenizer.json")];
  const template = await readOptional(folder, "chat_template.jinja");
  const model = json === undefined ? await readOptional(folder, "tokenizer.model") : undefined;
  if (json === undefined && model === undefined) throw new TextError(`${folder} has no tokenizer.json and no tokenizer.model`);
  const definition =
    model === undefined
      ? fromTokenizerJson(json, config, `${folder}/tokenizer.json`)
      : fromSentencePiece(model, config, `${folder}/tokenizer.model`);
  return makeTokenizer(template === undefined ? definition : { ...definition, chatTemplate: new TextDecoder().decode(template) }, options);
}

async function readJson(folder: string, name: string): Promise<unknown> {
  const bytes = await readOptional(folder, name);
  if (bytes === undefined) return undefined;
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new TextError(`${folder}/${name} is not JSON: ${messageOf(cause)}`, { cause });
  }
}

/** undefined when there is no such file; other failures are errors. */
async function readOptional(folder: string, name: string): Promise<Uint8Array | undefined> {
  try {
    const { readFile } = await importNode<typeof import("node:fs/promises")>("fs/promises");
    return await readFile(`${folder}/${name}`);
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
    throw new TextError(`${folder}/${name} cannot be read: ${messageOf(cause)}`, { cause });
  }
}

async function loadLibrary(): Promise<TokenizersLibrary> {
  try {
    // Through a variable, so that a browser bundle does not try to contain it.
    const specifier = "@huggingface/tokenizers";
    return (await import(/* @vite-ignore */ specifier)) as TokenizersLibrary;
  } catch (cause) {
    throw new TextError(`text is tokenised with the package "@huggingface/tokenizers", which cannot be loaded: ${messageOf(cause)}`, {
      cause,
    });
  }
}

async function makeTokenizer(definition: Definition, options: TokenizerOptions): Promise<Tokenizer> {
  const spelling = spellingOf(definition);
  const json = libraryJson(definition);
  const { Tokenizer: Library } = options.library ?? (await loadLibrary());
  let library: LibraryTokenizer;
  try {
    library = new Library(json, {});
  } catch (cause) {
    throw new TextError(`the tokenizer cannot be used: ${messageOf(cause)}`, { cause });
  }

  const ids = new Map(Object.entries(definition.model.vocab));
  const tokens = new Map(Array.from(ids, ([token, id]) => [id, token]));
  for (const token of definition.added) {
    ids.set(token.content, token.id);
    tokens.set(token.id, token.content);
  }
  const spelled = new Map<number, Uint8Array>(definition.added.map(({ id, content }) => [id, new TextEncoder().encode(content)]));
  const { prefix, suffix, bos, eos, unk, pad, ends, chatTemplate } = definition;

  const tokenizer: Tokenizer = {
    ...{ vocabularySize: definition.size, bos, eos, unk, pad, ends, prefix, suffix, chatTemplate },
    specials: new Set(definition.added.filter((token) => token.special).map((token) => token.id)),
    stripsSpace: spelling.stripsSpace,
    encode(text, { specials = true, inexpressible = "drop" } = {}) {
      checkUnicode(text, "the text");
      const inner = library.encode(text, { add_special_tokens: false }).ids.map((id) => {
        if (id === undefined) throw new TextError("the tokenizer made a token that is not in its vocabulary");
        return id;
      });
      if (inexpressible === "error") checkExpressible(text, spelling, ids);
      return specials ? [...prefix, ...inner, ...suffix] : inner;
    },
    decode(list, { skipSpecials = false } = {}) {
      const stream = new TextStream(tokenizer, { skipSpecials });
      let text = "";
      for (const id of list) text += stream.push(id);
      return text + stream.end();
    },
    bytes(id) {
      const known = spelled.get(id);
      if (known !== undefined) return known;
      const token = tokens.get(id);
      if (token === undefined) throw new TextError(`there is no token ${id}: the vocabulary has ${definition.size}`);
      const bytes = spelling.bytes(token);
      spelled.set(id, bytes);
      return bytes;
    },
    token: (id) => tokens.get(id),
    id: (token) => ids.get(token),
  };
  for (const id of [...prefix, ...suffix, ...ends, bos, eos, unk, pad]) {
    if (id !== undefined && !tokens.has(id))
      throw new TextError(`the tokenizer names the special token ${id}, which is not in its vocabulary`);
  }
  return tokenizer;
}

/** Throws TextError for the first character that has no token, where neither bytes nor an unknown token stand for it. */
function checkExpressible(text: string, spelling: Spelling, ids: ReadonlyMap<string, number>): void {
  if (!spelling.byteLevel) return;
  for (const character of new Set(text)) {
    if (new TextEncoder().encode(character).every((byte) => ids.has(characterOfByte[byte] ?? ""))) continue;
    const code = (character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0");
    throw new TextError(`the vocabulary has no tokens for ${JSON.stringify(character)} (U+${code})`);
  }
}

/** How many rows a model's embedding may have beyond the tokenizer's ids: widths are rounded up. */
const maximumPadding = 1024;

/**
 * Throws TextError when a tokenizer is not for a model whose embedding has `rows` rows: ids without a row, or so many
 * rows without an id that they cannot be padding.
 */
export function checkVocabulary(tokenizer: Pick<Tokenizer, "vocabularySize">, rows: number): void {
  const size = tokenizer.vocabularySize;
  if (size > rows) throw new TextError(`the tokenizer has ${size} tokens and the model only ${rows}: they do not belong together`);
  if (rows - size > maximumPadding) {
    throw new TextError(`the model has ${rows} tokens and the tokenizer only ${size}: they do not belong together`);
  }
}

/** Throws TextError for the first id that is not a token of a model with `rows` rows. */
export function checkIds(ids: readonly number[], rows: number): void {
  ids.forEach((id, at) => {
    if (!Number.isInteger(id) || id < 0 || id >= rows) throw new TextError(`token ${at} is ${id}, and the vocabulary has ${rows}`);
  });
}
