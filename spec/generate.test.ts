// Generation on a tiny language model with random weights: what is streamed is what the whole sequence gives, the cache
// is used across turns, and every way to stop leaves the model usable.

import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadProgram } from "../compiler/check/index.ts";
import { compileGraph, type Compiled } from "../compiler/compile.ts";
import { LanguageModel, type GenerateOptions } from "../runtime/generate.ts";
import { Session } from "../runtime/session.ts";
import type { ChatTemplate, Message } from "../runtime/text/chat.ts";
import type { Tokenizer } from "../runtime/text/tokenizer.ts";

const vocabulary = 96;
const context = 64;

/** Printable ASCII, one token a character; 0 ends an answer. */
const tokenizer: Tokenizer = {
  vocabularySize: vocabulary,
  bos: undefined,
  eos: 0,
  unk: undefined,
  pad: undefined,
  ends: [0],
  specials: new Set([0]),
  prefix: [],
  suffix: [],
  chatTemplate: undefined,
  stripsSpace: false,
  encode: (text) => Array.from(text, (c) => c.charCodeAt(0) - 31),
  decode: (ids) => Array.from(ids, (id) => String.fromCharCode(id + 31)).join(""),
  bytes: (id) => (id === 0 ? new Uint8Array() : Uint8Array.of(id + 31)),
  token: (id) => String.fromCharCode(id + 31),
  id: (token) => token.charCodeAt(0) - 31,
};

const template: ChatTemplate = {
  name: "test",
  render: (messages) => messages.map((m) => (m.role === "user" ? `U${String(m.content)}A` : String(m.content))).join(""),
};

const user = (content: string): Message => ({ role: "user", content });

let compiled: Compiled;
/** How many rows each run was given. */
const given: number[] = [];

async function model(seed = 3): Promise<LanguageModel> {
  const session = await Session.create(compiled, { init: { seed }, threads: 1 });
  const run = session.run.bind(session);
  session.run = (inputs, options) => {
    const rows = inputs["rows"];
    if (typeof rows === "object" && "shape" in rows && Array.isArray(rows.shape)) given.push(Number(rows.shape[0] ?? 0));
    return run(inputs, options);
  };
  return LanguageModel.create(session, tokenizer, template);
}

async function answer(language: LanguageModel, messages: readonly Message[], options: GenerateOptions = {}): Promise<string> {
  let text = "";
  for await (const piece of language.generate(messages, options)) text += piece;
  return text;
}

let language: LanguageModel;

beforeAll(async () => {
  const config = {
    width: "32",
    llama_layers: "2",
    heads: "4",
    kv_heads: "2",
    head_width: "8",
    ffn: "48",
    vocabulary: String(vocabulary),
    tied: "true",
    context: String(context),
  };
  const graph = loadProgram("graphs/llama.uhd", { readText: (f) => readFileSync(f, "utf8"), config }).graphs.get("llama");
  if (graph === undefined) throw new Error("graphs/llama.uhd does not check");
  compiled = compileGraph(graph);
  language = await model();
});

afterAll(async () => {
  await language.close();
});

describe("an answer", () => {
  test("is what computing the whole sequence anew for every token gives", async () => {
    const text = await answer(language, [user("hello")], { maximumTokens: 12 });
    expect(text.length).toBeGreaterThan(0);
    let anew = "";
    while (anew.length < text.length) {
      language.reset();
      anew += await answer(language, [user("hello"), { role: "assistant", content: anew }], { maximumTokens: 1 });
    }
    expect(anew).toBe(text);
  });

  test("takes one row a token after the prompt", async () => {
    language.reset();
    given.length = 0;
    const counts: number[] = [];
    await answer(language, [user("abc")], { maximumTokens: 5, onToken: (count) => counts.push(count) });
    expect(given).toEqual([5, 1, 1, 1, 1]);
    expect(counts).toEqual([1, 2, 3, 4, 5]);
  });

  test("goes on in the next turn from what the cache holds", async () => {
    language.reset();
    const first = await answer(language, [user("abc")], { maximumTokens: 4 });
    const turns = [user("abc"), { role: "assistant", content: first } as const, user("de")];
    given.length = 0;
    const second = await answer(language, turns, { maximumTokens: 4 });
    // The answer's last token was given out, but not yet computed with: it and "UdeA" are new.
    expect(given[0]).toBe(5);
    await using fresh = await model();
    expect(await answer(fresh, turns, { maximumTokens: 4 })).toBe(second);
  });

  test("of another conversation forgets what no longer fits", async () => {
    await answer(language, [user("xyz")], { maximumTokens: 3 });
    const after = await answer(language, [user("xw")], { maximumTokens: 6 });
    await using fresh = await model();
    expect(after).toBe(await answer(fresh, [user("xw")], { maximumTokens: 6 }));
  });

  test("ends at the most tokens, before a stop string, and at the context's end", async () => {
    const whole = await answer(language, [user("hello")], { maximumTokens: 10 });
    expect(await answer(language, [user("hello")], { maximumTokens: 3 })).toBe(whole.slice(0, 3));
    const stop = whole.slice(2, 4);
    expect(await answer(language, [user("hello")], { maximumTokens: 10, stop: [stop] })).toBe(whole.slice(0, whole.indexOf(stop)));
    // The last token is chosen with a full cache, so there is one more than there are places.
    const long = await answer(language, [user("h".repeat(50))]);
    expect(long).toHaveLength(context - 52 + 1);
  });
});

describe("what cannot be answered", () => {
  test("a conversation longer than the context is refused with both lengths", async () => {
    await expect(answer(language, [user("h".repeat(100))])).rejects.toThrow(
      "the conversation is 102 tokens long, and the context holds 64",
    );
    expect(await answer(language, [user("hello")], { maximumTokens: 2 })).toHaveLength(2);
  });

  test("an abort takes effect within a token, and the model answers as before", async () => {
    const before = await answer(language, [user("hello")], { maximumTokens: 6 });
    const abort = new AbortController();
    const reason = new Error("enough");
    let pieces = 0;
    const run = answer(language, [user("hello")], {
      signal: abort.signal,
      onToken: (count) => {
        pieces = count;
        if (count === 2) abort.abort(reason);
      },
    });
    await expect(run).rejects.toBe(reason);
    expect(pieces).toBe(2);
    expect(await answer(language, [user("hello")], { maximumTokens: 6 })).toBe(before);
  });

  test("a second answer at the same time is refused; leaving the loop of the first frees the model", async () => {
    for await (const piece of language.generate([user("hello")])) {
      expect(piece).not.toBe("");
      await expect(answer(language, [user("hello")])).rejects.toThrow("an answer is still being made");
      break;
    }
    expect(await answer(language, [user("hello")], { maximumTokens: 2 })).toHaveLength(2);
  });

  test("a graph that is no language model, and a tokenizer of another one, are refused", async () => {
    const text = "graph double(x: f32[N]) -> y: f32[N] { x + x }";
    const graph = loadProgram("d.uhd", { readText: () => text }).graphs.get("double");
    if (graph === undefined) throw new Error("the program does not check");
    await using other = await Session.create(compileGraph(graph));
    expect(() => LanguageModel.create(other, tokenizer, template)).toThrow("double is not a language model's graph");
    expect(() => LanguageModel.create(language.session, { ...tokenizer, vocabularySize: vocabulary + 1 }, template)).toThrow(
      "the tokenizer has 97 tokens",
    );
  });
});
