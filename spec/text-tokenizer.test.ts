// Token ids against independent implementations (the fixture says how it was made), round trips, and sources that cannot
// be used. Where there is a GGUF of SmolLM2 (smollm2.ts), its whole vocabulary is compared too.

import * as fc from "fast-check";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { TextError } from "../runtime/errors.ts";
import { tokenizerOfGgufFile } from "../runtime/text/gguf-file.ts";
import {
  checkIds,
  checkVocabulary,
  loadTokenizer,
  tokenizerFromGguf,
  tokenizerFromJson,
  tokenizerFromSentencePiece,
  type Tokenizer,
} from "../runtime/text/tokenizer.ts";
import { openGguf } from "../runtime/weights/gguf.ts";
import { property } from "./conformance/property.ts";
import { arrayPair, gguf, stringPair, u32Pair } from "./gguf-writer.ts";
import { hasSmollm2, smollm2Path } from "./smollm2.ts";
import { allBytes, fixture, llamaMetadata, llamaPieces, type JsonShell } from "./text-support.ts";

const { byteLevel, scored } = fixture;

/** The ids of all texts, each with its text, so that a failure shows which text differs. */
const encoded = (tokenizer: Tokenizer, texts: readonly string[], specials = false): unknown =>
  texts.map((text) => [text, tokenizer.encode(text, { specials })]);
const expected = (texts: readonly string[], ids: readonly (readonly number[])[]): unknown => texts.map((text, i) => [text, ids[i]]);

/** A tokenizer.json: the fixture's, with the vocabulary and merges of a GGUF's metadata. */
function complete(shell: JsonShell, tokens: readonly string[], merges: readonly (string | readonly string[])[]): unknown {
  return { ...shell, model: { ...shell.model, vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges } };
}

describe("a byte-level tokenizer in GGUF metadata", () => {
  test.each(Object.keys(byteLevel.ids))("gives the ids of the Rust library where words are cut as %s", async (pre) => {
    const tokenizer = await tokenizerFromGguf({ ...byteLevel.metadata, "tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": false });
    expect(encoded(tokenizer, byteLevel.texts)).toEqual(expected(byteLevel.texts, byteLevel.ids[pre] ?? []));
  });

  test("gives its texts", async () => {
    const tokenizer = await tokenizerFromGguf(new Map(Object.entries(byteLevel.metadata)));
    expect(byteLevel.ids.smollm?.map((ids) => tokenizer.decode(ids))).toEqual(byteLevel.decoded);
  });

  test("names SmolLM2's special tokens, of which no text is made on request", async () => {
    const tokenizer = await tokenizerFromGguf(byteLevel.metadata);
    expect(tokenizer).toMatchObject({ bos: 1, eos: 2, unk: 0, pad: 2, ends: [2], prefix: [], suffix: [], vocabularySize: 1452 });
    expect(tokenizer.specials.size).toBe(17);
    const ids = tokenizer.encode("<|im_start|>user\nHi<|im_end|>");
    expect([ids[0], ids.at(-1)]).toEqual([1, 2]);
    expect(tokenizer.decode(ids)).toBe("<|im_start|>user\nHi<|im_end|>");
    expect(tokenizer.decode(ids, { skipSpecials: true })).toBe("user\nHi");
  });

  test("says on request which character its bytes cannot express", async () => {
    const tokenizer = await tokenizerFromGguf(byteLevel.metadata);
    expect(tokenizer.decode(tokenizer.encode("a\u0004b"))).toBe("ab");
    expect(() => tokenizer.encode("a\u0004b", { inexpressible: "error" })).toThrow(
      new TextError('the vocabulary has no tokens for "\\u0004" (U+0004)'),
    );
    expect(tokenizer.encode("plain", { inexpressible: "error" })).toEqual(tokenizer.encode("plain"));
  });

  test("puts BOS and EOS around a text when the metadata say so", async () => {
    const flags = { "tokenizer.ggml.add_bos_token": true, "tokenizer.ggml.add_eos_token": true };
    const tokenizer = await tokenizerFromGguf({ ...byteLevel.metadata, ...flags });
    expect(tokenizer.encode("")).toEqual([1, 2]);
    expect(tokenizer.encode("", { specials: false })).toEqual([]);
  });

  test("is read from the file", async () => {
    const tokens = byteLevel.metadata["tokenizer.ggml.tokens"];
    const merges = byteLevel.metadata["tokenizer.ggml.merges"];
    const bytes = gguf({
      pairs: [
        stringPair("tokenizer.ggml.model", "gpt2"),
        stringPair("tokenizer.ggml.pre", "smollm"),
        arrayPair("tokenizer.ggml.tokens", "string", tokens.length, (out) => tokens.forEach((token) => out.text(token))),
        arrayPair("tokenizer.ggml.token_type", "i32", tokens.length, (out) => tokens.forEach((_, id) => out.u32(id < 17 ? 3 : 1))),
        arrayPair("tokenizer.ggml.merges", "string", merges.length, (out) => merges.forEach((merge) => out.text(merge))),
        u32Pair("tokenizer.ggml.eos_token_id", 2),
      ],
    });
    const file = await openGguf(bytes);
    const tokenizer = await tokenizerOfGgufFile(file);
    await file[Symbol.asyncDispose]();
    expect(tokenizer).toMatchObject({ bos: undefined, eos: 2, vocabularySize: tokens.length });
    expect(encoded(tokenizer, byteLevel.texts)).toEqual(expected(byteLevel.texts, byteLevel.ids.smollm ?? []));
  });

  test("agrees on the whole vocabulary of SmolLM2", async (context) => {
    if (!hasSmollm2(context, "the whole vocabulary of SmolLM2")) return;
    const file = await openGguf(smollm2Path);
    const tokenizer = await tokenizerOfGgufFile(file);
    await file[Symbol.asyncDispose]();
    expect(tokenizer.vocabularySize).toBe(byteLevel.whole.size);
    expect(encoded(tokenizer, byteLevel.texts)).toEqual(expected(byteLevel.texts, byteLevel.whole.ids));
  });
});

describe("a SentencePiece vocabulary", () => {
  test.each(["prefixed", "bare"] as const)(
    "gives SentencePiece's ids and texts, from GGUF metadata and from the model itself (%s)",
    async (which) => {
      const { metadata, model, texts, ids, decoded } = scored[which];
      for (const tokenizer of [await tokenizerFromGguf(metadata), await tokenizerFromSentencePiece(Buffer.from(model, "base64"))]) {
        expect(encoded(tokenizer, texts)).toEqual(expected(texts, ids));
        expect(ids.map((list) => tokenizer.decode(list))).toEqual(decoded);
        expect(tokenizer).toMatchObject({ bos: 1, eos: 2, unk: 0, pad: 0, prefix: [1], suffix: [] });
      }
    },
  );

  test("writes characters without a piece as bytes, byte b as id 3 + b", async () => {
    const tokenizer = await tokenizerFromGguf(llamaMetadata(llamaPieces));
    const space = tokenizer.id("▁") ?? -1;
    expect(tokenizer.encode("\n")).toEqual([1, space, 13]);
    expect(tokenizer.encode("é")).toEqual([1, space, 3 + 0xc3, 3 + 0xa9]);
    expect(tokenizer.encode("the")).toEqual([1, tokenizer.id("▁the")]);
    expect(tokenizer.decode([3 + 0xf0, 3 + 0x9f, 3 + 0x91, 3 + 0x8d])).toBe("👍");
  });

  test("keeps a byte order mark, which is a character here", async () => {
    const tokenizer = await tokenizerFromGguf(llamaMetadata(llamaPieces));
    expect(tokenizer.decode(tokenizer.encode("\ufeffa"), { skipSpecials: true })).toBe("\ufeffa");
  });

  test("round trips any text", async () => {
    const tokenizer = await tokenizerFromGguf(llamaMetadata(llamaPieces));
    property(fc.string({ unit: "binary" }), (text) => {
      expect(tokenizer.decode(tokenizer.encode(text, { specials: false }))).toBe(text.replaceAll("▁", " "));
    });
  });
});

describe("a tokenizer.json", () => {
  test("of SmolLM2 gives the ids of the Rust library, digits of all scripts included", async () => {
    const { "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges } = byteLevel.metadata;
    const tokenizer = await tokenizerFromJson(complete(byteLevel.json, tokens, merges));
    expect(encoded(tokenizer, byteLevel.texts)).toEqual(expected(byteLevel.texts, byteLevel.ids.smollm ?? []));
  });

  test("that puts a space before each text, and cuts words itself, gives them too", async () => {
    const { "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges } = byteLevel.metadata;
    const { json, texts, ids } = byteLevel.spaced;
    const tokenizer = await tokenizerFromJson(complete(json, tokens, merges));
    expect(encoded(tokenizer, texts)).toEqual(expected(texts, ids));
  });

  test.each(scored.prefixed.json.map((entry, i) => [i, entry] as const))(
    "of the LLaMA family gives them, however it is written (%i)",
    async (_, entry) => {
      const tokens = scored.prefixed.metadata["tokenizer.ggml.tokens"];
      const tokenizer = await tokenizerFromJson(complete(entry.json, tokens, mergesOf(tokens)), {
        bos_token: "<s>",
        eos_token: { content: "</s>" },
      });
      expect(encoded(tokenizer, entry.texts, true)).toEqual(expected(entry.texts, entry.ids));
      expect(entry.ids.map((ids) => tokenizer.decode(ids, { skipSpecials: true }))).toEqual(entry.decoded);
      expect(tokenizer).toMatchObject({ bos: 1, eos: 2, unk: 0, pad: 0, prefix: [1], suffix: [] });
    },
  );

  test("is read from a folder, with its configuration and template", async () => {
    const folder = mkdtempSync(join(tmpdir(), "uhd-text-"));
    try {
      await expect(loadTokenizer(folder)).rejects.toThrow(`${folder} has no tokenizer.json and no tokenizer.model`);
      writeFileSync(join(folder, "tokenizer.model"), Buffer.from(scored.prefixed.model, "base64"));
      writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ add_eos_token: true, chat_template: "{{ 1 }}" }));
      const scoredTokenizer = await loadTokenizer(folder);
      expect(scoredTokenizer.encode("")).toEqual([1, 2]);
      expect(scoredTokenizer.chatTemplate).toBe("{{ 1 }}");
      const { "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges } = byteLevel.metadata;
      writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(complete(byteLevel.json, tokens, merges)));
      writeFileSync(
        join(folder, "tokenizer_config.json"),
        JSON.stringify({ eos_token: "<|im_end|>", chat_template: [{ name: "default", template: "x" }] }),
      );
      expect(await loadTokenizer(folder)).toMatchObject({ eos: 2, ends: [2], chatTemplate: "x" });
      writeFileSync(join(folder, "chat_template.jinja"), "from a file");
      expect((await loadTokenizer(folder)).chatTemplate).toBe("from a file");
      writeFileSync(join(folder, "tokenizer.json"), "{");
      await expect(loadTokenizer(folder)).rejects.toThrow(/tokenizer\.json is not JSON/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

/** Merges of a vocabulary whose pieces are in the order of their scores. */
function mergesOf(tokens: readonly string[]): readonly (readonly string[])[] {
  const ids = new Map(tokens.flatMap((token, id) => (id < 259 ? [] : [[token, id] as const])));
  const cut = (token: string): readonly (readonly [string, string])[] =>
    Array.from({ length: token.length - 1 }, (_, i): readonly [string, string] => [token.slice(0, i + 1), token.slice(i + 1)])
      .filter(([left, right]) => ids.has(left) && ids.has(right))
      .sort(([a], [b]) => (ids.get(a) ?? 0) - (ids.get(b) ?? 0));
  return tokens.slice(259).flatMap(cut);
}

describe("byte-level text", () => {
  test("comes back from its ids, whatever it is", async () => {
    const tokenizer = await allBytes();
    property(
      fc.string({
        unit: fc.oneof(fc.constantFrom("a", "ab", " ", "é", "👍", "\n"), fc.string({ unit: "binary", minLength: 1, maxLength: 1 })),
      }),
      (text) => {
        const ids = tokenizer.encode(text);
        expect(tokenizer.decode(ids)).toBe(text);
        checkIds(ids, tokenizer.vocabularySize);
      },
    );
  });

  test("is refused where it is not Unicode", async () => {
    const tokenizer = await allBytes();
    expect(() => tokenizer.encode("ab\ud83dc")).toThrow(
      new TextError("the text is not Unicode: there is half of a surrogate pair, U+D83D, at index 2"),
    );
    expect(() => tokenizer.encode("\udc00")).toThrow(TextError);
    expect(tokenizer.decode(tokenizer.encode("\ud83d\udc4d"))).toBe("👍");
  });

  test("is made only of ids that are tokens", async () => {
    const tokenizer = await allBytes();
    expect(() => tokenizer.decode([5, 269])).toThrow(new TextError("there is no token 269: the vocabulary has 269"));
    expect(() => tokenizer.decode([-200])).toThrow(TextError);
    expect(() => tokenizer.decode([1.5])).toThrow(TextError);
  });
});

describe("a tokenizer and a model", () => {
  const sized = (vocabularySize: number): { vocabularySize: number } => ({ vocabularySize });
  test("belong together when each id has a row, and rows are rounded up", () => {
    expect(() => checkVocabulary(sized(32000), 32000)).not.toThrow();
    expect(() => checkVocabulary(sized(151665), 151936)).not.toThrow();
    expect(() => checkVocabulary(sized(49152), 32000)).toThrow(
      new TextError("the tokenizer has 49152 tokens and the model only 32000: they do not belong together"),
    );
    expect(() => checkVocabulary(sized(32000), 49152)).toThrow(
      new TextError("the model has 49152 tokens and the tokenizer only 32000: they do not belong together"),
    );
  });

  test("share the ids of a prompt", () => {
    expect(() => checkIds([0, 31999], 32000)).not.toThrow();
    expect(() => checkIds([5, 32000], 32000)).toThrow(new TextError("token 1 is 32000, and the vocabulary has 32000"));
    expect(() => checkIds([-200], 32000)).toThrow(TextError);
  });
});

describe("a source that cannot be used", () => {
  const small = (changes: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> => ({
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "b", "ab"],
    "tokenizer.ggml.token_type": [1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
    ...Object.fromEntries(Object.entries(changes).map(([key, value]) => [`tokenizer.ggml.${key}`, value])),
  });

  test.each([
    [{ model: "bert" }, /the tokenizer is "bert"/],
    [{ model: undefined }, /the tokenizer is not there/],
    [{ model: 7 }, /tokenizer\.ggml\.model is not a string/],
    [{ tokens: undefined }, /there is no tokenizer\.ggml\.tokens/],
    [{ tokens: ["a", "b", 3] }, /holds what is not a string/],
    [{ tokens: ["a", "b", "a"] }, /the token "a" is there twice/],
    [{ token_type: [1, 1] }, /token_type has 2 values for 3 tokens/],
    [{ token_type: [1, "x", 1] }, /holds what is not a number/],
    [{ merges: ["a c"] }, /needs "c", which is not in the vocabulary/],
    [{ merges: ["ab"] }, /"ab" is not a merge of two tokens/],
    [{ merges: ["a b c"] }, /is not a merge of two tokens/],
    [{ merges: "a b" }, /merges is not an array/],
    [{ pre: "unheard-of" }, /the pre-tokenizer "unheard-of" is not known; known are default, gpt-2, smollm/],
    [{ pre: "constructor" }, /the pre-tokenizer "constructor" is not known/],
    [{ bos_token_id: 3 }, /bos_token_id is 3, and there are 3 tokens/],
    [{ eos_token_id: -1 }, /eos_token_id is -1/],
    [{ add_bos_token: true }, /add_bos_token is set, and there is no such token/],
    [{ add_bos_token: 1 }, /add_bos_token is not true or false/],
    [{ model: "llama" }, /the tokens have no scores/],
    [{ model: "llama", scores: [0, 0, -1] }, /neither bytes nor an unknown token/],
  ])("says what is wrong with GGUF metadata: %o", async (changes, message) => {
    const failure = await tokenizerFromGguf(small(changes)).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(TextError);
    expect(String(failure)).toMatch(message);
  });

  const json = (changes: object, model: object = {}): object => ({
    added_tokens: [],
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: { a: 0, b: 1, ab: 2 }, merges: ["a b"], ...model },
    ...changes,
  });

  test.each([
    [null, /is not a tokenizer/],
    [[], /is not a tokenizer/],
    [json({}, { type: "Unigram" }), /its model is "Unigram"/],
    [json({}, { vocab: { a: 0, b: 0, ab: 1 } }), /two tokens have the id 0/],
    [json({}, { vocab: { a: 0, b: "1", ab: 2 } }), /the id of "b" is 1/],
    [json({}, { vocab: { a: 0, b: 2 ** 40, ab: 2 } }), /the id of "b" is/],
    [json({}, { merges: [["a"]] }), /is not a merge of two tokens/],
    [json({}, { dropout: 0.1 }), /drops merges at random/],
    [json({}, { unk_token: "<unk>" }), /the unknown token "<unk>" is not in the vocabulary/],
    [json({ added_tokens: [{ content: "x" }] }), /has no content or no id/],
    [json({ added_tokens: [{ content: "x", id: 3, single_word: true }] }), /must be a single word/],
    [json({ decoder: null }), /no decoder/],
    [json({ decoder: { type: "WordPiece" } }), /decoder WordPiece is not known/],
    [json({ normalizer: { type: "BertNormalizer" } }), /normalizer BertNormalizer is not known/],
    [json({ normalizer: {} }), /its normalizer has no type/],
    [json({ pre_tokenizer: { type: "Whitespace" } }), /pre-tokenizer Whitespace is not known/],
    [json({ pre_tokenizer: { type: "Split", pattern: { String: " " }, behavior: "MergedWithNext" } }), /the behaviour "MergedWithNext"/],
    [json({ pre_tokenizer: { type: "Split", pattern: { Regex: "(" }, behavior: "Isolated" } }), /the tokenizer cannot be used/],
    [json({ pre_tokenizer: { type: "Sequence" } }), /has no pretokenizers/],
    [
      json({ post_processor: { type: "TemplateProcessing", single: [{ SpecialToken: { id: "<s>" } }] } }),
      /names a token that it does not define/,
    ],
    [json({ post_processor: { type: "Unheard" } }), /post-processor Unheard is not known/],
    [json({ post_processor: { type: "BertProcessing", cls: ["x", 9], sep: ["y", 9] } }), /names the special token 9/],
  ])("says what is wrong with a tokenizer.json: %o", async (source, message) => {
    const failure = await tokenizerFromJson(source).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(TextError);
    expect(String(failure)).toMatch(message);
  });

  test("says what is wrong with a configuration", async () => {
    await expect(tokenizerFromJson(json({}), { eos_token: "</s>" })).rejects.toThrow(
      new TextError('tokenizer.json: eos_token "</s>" is not in the vocabulary'),
    );
    await expect(tokenizerFromJson(json({}), { eos_token: 2 })).rejects.toThrow(/eos_token of its configuration is not a token/);
    await expect(tokenizerFromJson(json({}), { chat_template: 3 })).rejects.toThrow(/none of its chat templates is the default/);
    await expect(tokenizerFromJson(json({}), "x")).rejects.toThrow(TextError);
  });

  test("is a configuration without a default template beside a SentencePiece model", async () => {
    const model = Buffer.from(scored.prefixed.model, "base64");
    const templates = [
      { name: "tool_use", template: "t" },
      { name: "default", template: "d" },
    ];
    expect((await tokenizerFromSentencePiece(model, { chat_template: templates })).chatTemplate).toBe("d");
    expect((await tokenizerFromSentencePiece(model, {})).chatTemplate).toBeUndefined();
    await expect(tokenizerFromSentencePiece(model, { chat_template: templates.slice(0, 1) })).rejects.toThrow(
      new TextError("tokenizer.model: none of its chat templates is the default"),
    );
  });

  test("is a SentencePiece model that ends too soon or is none", async () => {
    const whole = Buffer.from(scored.prefixed.model, "base64");
    await expect(tokenizerFromSentencePiece(new Uint8Array())).rejects.toThrow(/it has no pieces/);
    await expect(tokenizerFromSentencePiece(Uint8Array.from([0x0a, 0xff]))).rejects.toThrow(/ends within a number/);
    await expect(tokenizerFromSentencePiece(whole.subarray(0, 1000))).rejects.toThrow(TextError);
    await expect(tokenizerFromSentencePiece(new TextEncoder().encode("version https://example.org"))).rejects.toThrow(TextError);
  });

  test("is any damaged SentencePiece model, or one that still makes a tokenizer", async () => {
    const whole = Buffer.from(scored.bare.model, "base64");
    const damage = fc.sample(fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 })), { numRuns: 40, seed: 11 });
    for (const [at, by] of damage) {
      const bytes = Uint8Array.from(whole);
      bytes[at] = (bytes[at] ?? 0) ^ by;
      const made = await tokenizerFromSentencePiece(bytes).catch((error: unknown) => error);
      if (made instanceof Error) expect(made).toBeInstanceOf(TextError);
    }
  });

  test("is a library that cannot be loaded or does not take the definition", async () => {
    class Refusing {
      constructor() {
        throw new Error("no");
      }
      encode(): { ids: number[] } {
        return { ids: [] };
      }
    }
    await expect(tokenizerFromGguf(byteLevel.metadata, { library: { Tokenizer: Refusing } })).rejects.toThrow(
      new TextError("the tokenizer cannot be used: no"),
    );
  });
});
