// Generation for several sequences in one graph (graphs/llama-chat.uhd), on a tiny model: what one conversation, a batch
// and a search give, against the plain graph and against a search in float64 that has no cache and computes every beam
// anew. And what a token costs: no allocation, the same sizes, the rows that are new.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import type { Graph } from "../compiler/ir/graph/types.ts";
import { LanguageModel, type GenerateOptions, type PromptPart } from "../runtime/generate.ts";
import { Session } from "../runtime/session.ts";
import type { Tensor } from "../runtime/tensor.ts";
import type { ChatTemplate, Message } from "../runtime/text/chat.ts";
import type { Tokenizer } from "../runtime/text/tokenizer.ts";
import { generatedParams, generatedWeights, graphOf, openRunner, type Runner } from "./graphs-support.ts";

const vocabulary = 96;
const context = 160;
const config = { width: 32, llama_layers: 2, heads: 4, kv_heads: 2, head_width: 8, ffn: 48, vocabulary, tied: true, context };

/** Printable ASCII, one token a character. */
const tokenizerWith = (ends: readonly number[]): Tokenizer => ({
  vocabularySize: vocabulary,
  bos: undefined,
  eos: ends[0],
  unk: undefined,
  pad: undefined,
  ends,
  specials: new Set(ends),
  prefix: [],
  suffix: [],
  chatTemplate: undefined,
  stripsSpace: false,
  encode: (text) => Array.from(text, (c) => c.charCodeAt(0) - 31),
  decode: (ids) => Array.from(ids, (id) => String.fromCharCode(id + 31)).join(""),
  bytes: (id) => (ends.includes(id) ? new Uint8Array() : Uint8Array.of(id + 31)),
  token: (id) => String.fromCharCode(id + 31),
  id: (token) => token.charCodeAt(0) - 31,
});
const template: ChatTemplate = { name: "test", render: (messages) => messages.map((m) => String(m.content)).join("") };
const user = (content: string): Message => ({ role: "user", content });
const idsOf = (text: string): readonly number[] => Array.from(text, (c) => c.charCodeAt(0) - 31);

let graph: Graph;
let shared: Session;
let plain: Session;
let model: LanguageModel;
/** Rows of each run. */
const given: number[] = [];

beforeAll(async () => {
  graph = graphOf("graphs/llama-chat.uhd", "llama_chat", { ...config, sequences: 5, candidates: 15 });
  shared = await Session.create(compileGraph(graph), { threads: 1, weights: generatedWeights(graph) });
  const one = graphOf("graphs/llama.uhd", "llama", config);
  plain = await Session.create(compileGraph(one), { threads: 1, weights: generatedWeights(one) });
  const run = shared.run.bind(shared);
  shared.run = (inputs, options) => {
    const rows = inputs["rows"];
    if (typeof rows === "object" && "shape" in rows && Array.isArray(rows.shape)) given.push(Number(rows.shape[0]));
    return run(inputs, options);
  };
  model = LanguageModel.create(shared, tokenizerWith([0]), template);
});

afterAll(async () => {
  await shared.close();
  await plain.close();
});

async function answer(of: LanguageModel, text: string | readonly Message[], options: GenerateOptions = {}): Promise<string> {
  let all = "";
  const messages = typeof text === "string" ? [user(text)] : text;
  for await (const piece of of.generate(messages, { maximumTokens: 12, ...options })) all += piece;
  return all;
}

async function answers(of: LanguageModel, texts: readonly string[], options: GenerateOptions = {}): Promise<readonly string[]> {
  const all = texts.map(() => "");
  const turns = texts.map((text) => [user(text)]);
  for await (const { conversation, text } of of.generateAll(turns, { maximumTokens: 12, ...options })) all[conversation] += text;
  return all;
}

describe("one conversation", () => {
  test("gets the answer of the plain graph, also in a second turn, with only what is new computed", async () => {
    const other = LanguageModel.create(plain, tokenizerWith([0]), template);
    const first = await answer(model, "hello there");
    expect(first).toBe(await answer(other, "hello there"));
    const turns = [user("hello there"), { role: "assistant", content: first } as const, user(" and more")];
    given.length = 0;
    const second = await answer(model, turns);
    expect(given[0]).toBeLessThan(12);
    expect(given.slice(1)).toEqual(given.slice(1).map(() => 1));
    other.reset();
    expect(second).toBe(await answer(other, turns));
    model.reset();
    expect(await answer(model, turns)).toBe(second);
  });

  test("is drawn alike from the same seed, and otherwise from another", async () => {
    const drawn = (seed: number): Promise<string> =>
      answer(model, "dice", { temperature: 3, topK: 50, topP: 0.99, seed, maximumTokens: 30 });
    const first = await drawn(7);
    expect(await drawn(7)).toBe(first);
    expect(await drawn(8)).not.toBe(first);
    expect(await drawn(2 ** 40 + 7)).not.toBe(first);
    // Without a seed each answer is another.
    expect(await answer(model, "dice", { temperature: 3, maximumTokens: 30 })).not.toBe(
      await answer(model, "dice", { temperature: 3, maximumTokens: 30 }),
    );
    expect(await answer(model, "dice", { temperature: 0 })).toBe(await answer(model, "dice"));
    expect(await answer(model, "dice", { topK: 1 })).toBe(await answer(model, "dice"));
  });

  test("says nothing twice where repeating costs enough", async () => {
    const text = await answer(model, "abc", { repetitionPenalty: 1e30, maximumTokens: 40 });
    expect(new Set(`abc${text}`).size).toBe(43);
    expect(new Set(await answer(model, "abc", { maximumTokens: 40 })).size).toBeLessThan(40);
  });

  test("ends before a stop string and at the most tokens, drawn or not", async () => {
    for (const how of [{}, { temperature: 2, seed: 3 }, { numBeams: 3 }]) {
      const whole = await answer(model, "stop", how);
      const stop = whole.slice(4, 6);
      expect(await answer(model, "stop", { ...how, stop: [stop] })).toBe(whole.slice(0, whole.indexOf(stop)));
      if (!("numBeams" in how)) expect(await answer(model, "stop", { ...how, maximumTokens: 5 })).toBe(whole.slice(0, 5));
    }
  });
});

describe("rows of embeddings", () => {
  /** What the tokens of `text` are in the embedding table. */
  const rowsOf = (text: string): Tensor<"f32"> => {
    const table = generatedWeights(graph).get("model.embed_tokens.weight")?.data;
    const data = Float32Array.from(
      idsOf(text).flatMap((id) => Array.from(table?.subarray(id * config.width, (id + 1) * config.width) ?? [])),
    );
    return { dtype: "f32", shape: [text.length, config.width], data };
  };

  test("are read where they stand, drawn or searched, and remembered for the next turn", async () => {
    const [photo, again] = [rowsOf("photo"), rowsOf("photo")];
    const prompt = (rows: Tensor<"f32">): PromptPart[] => [...idsOf("a "), rows, ...idsOf(" of")];
    for (const how of [{}, { temperature: 2, seed: 4 }, { numBeams: 3 }]) {
      const options = { ...how, maximumTokens: 8 };
      const expected = await answer(model, "a photo of", options);
      let found = "";
      for await (const piece of model.generate(prompt(photo), options)) found += piece;
      expect(found).toBe(expected);
      given.length = 0;
      for await (const piece of model.generate([...prompt(photo), ...idsOf(" it")], options)) expect(piece).not.toBe("");
      expect(given[0]).toBeLessThan(5);
      // Another tensor is another picture, though its numbers are the same.
      given.length = 0;
      for await (const piece of model.generate(prompt(again), options)) expect(piece).not.toBe("");
      expect(given[0]).toBe(8);
    }
  });

  test("of another width are refused", async () => {
    const rows: Tensor<"f32"> = { dtype: "f32", shape: [2, 3], data: new Float32Array(6) };
    await expect(model.generate([1, rows]).next()).rejects.toThrow("rows of a prompt are f32[rows, 32], not f32[2, 3]");
  });
});

describe("a token", () => {
  test("allocates nothing after the first, and every run has the sizes of the one before", async () => {
    for (const how of [{}, { temperature: 1, topK: 20, topP: 0.9, minP: 0.01, repetitionPenalty: 1.1, seed: 1 }, { numBeams: 5 }]) {
      model.reset();
      const used: number[] = [];
      await answer(model, "sizes", { ...how, maximumTokens: 20, onToken: () => used.push(shared.device.used) });
      expect(used).toHaveLength(20);
      // A search has its full width from the second run on.
      expect(new Set(used.slice(2)).size).toBe(1);
    }
  });

  test("gives back to the host ids alone", async () => {
    const read: string[][] = [];
    const run = shared.run.bind(shared);
    shared.run = async (inputs, options) => {
      const result = await run(inputs, options);
      read.push(Object.keys(result.outputs));
      return result;
    };
    await answer(model, "only", { maximumTokens: 2 });
    await answer(model, "only", { maximumTokens: 2, temperature: 1 });
    await answer(model, "only", { maximumTokens: 2, numBeams: 2 });
    shared.run = run;
    // A search also gets its candidates' scores.
    expect(new Set(read.map((names) => names.join()))).toEqual(new Set(["next", "choices", "places,scores"]));
  });
});

describe("a batch", () => {
  const texts = ["hello", "x", "a longer one than the others", "hello", "17 + 4 =", "last", "seven of them"];

  test("gives each conversation its own answer, though there are more than go together", async () => {
    const alone: string[] = [];
    for (const text of texts) {
      model.reset();
      alone.push(await answer(model, text));
    }
    given.length = 0;
    expect(await answers(model, texts)).toEqual(alone);
    // Five go together while they last, each with a row.
    expect(given).toContain(5);
    expect(given.length).toBeLessThan(12 * 3);
  });

  test("draws for each conversation by its number, however they go together", async () => {
    const options = { temperature: 2, seed: 5 };
    const together = await answers(model, texts, options);
    expect(together[0]).toBe(await answer(model, texts[0] ?? "", options));
    expect(together[3]).not.toBe(together[0]);
    expect(await answers(model, texts, options)).toEqual(together);
  });

  test("of searches gives what each search alone gives", async () => {
    const alone: string[] = [];
    for (const text of texts.slice(0, 3)) alone.push(await answer(model, text, { numBeams: 3 }));
    expect(await answers(model, texts.slice(0, 3), { numBeams: 3 })).toEqual(alone);
  });

  test("left in the middle, or aborted, leaves the model and all of its cache usable", async () => {
    for await (const piece of model.generateAll(texts.map((t) => [user(t)]))) {
      expect(piece.text).not.toBe("");
      break;
    }
    const abort = new AbortController();
    const running = answers(model, texts, { signal: abort.signal, onToken: (n) => n === 2 && abort.abort(new Error("enough")) });
    await expect(running).rejects.toThrow("enough");
    // As long as the cache is.
    expect(await answer(model, "h".repeat(context - 4), { maximumTokens: 100 })).toHaveLength(5);
  });
});

// ---- Beam search --------------------------------------------------------------------------------------------------

/** Logarithms of probabilities of the next token, in float64, without a cache. */
async function logProbabilities(runner: Runner, ids: readonly number[]): Promise<readonly number[]> {
  const rows = { dtype: "i32" as const, shape: [ids.length], data: Float64Array.from(ids) };
  const none = { dtype: "f32" as const, shape: [0, config.width], data: new Float64Array() };
  const { logits } = await runner.run({ rows, given: none }, { past: 0 });
  const x = Array.from(logits?.data ?? []);
  const top = Math.max(...x);
  const total = Math.log(x.reduce((sum, v) => sum + Math.exp(v - top), 0));
  return x.map((v) => v - top - total);
}

interface Search {
  readonly numBeams: number;
  readonly lengthPenalty: number;
  readonly earlyStopping: boolean | "never";
  readonly maximumTokens: number;
}

/** Hugging Face's search, written from its description: `ids` of the answer, without its end. */
async function plainSearch(runner: Runner, prompt: readonly number[], ends: readonly number[], s: Search): Promise<readonly number[]> {
  let beams = [{ ids: [] as readonly number[], sum: 0 }];
  let finished: { readonly ids: readonly number[]; readonly score: number }[] = [];
  const keep = (ids: readonly number[], sum: number, length: number): void => {
    finished = [...finished, { ids, score: sum / length ** s.lengthPenalty }].sort((a, b) => b.score - a.score).slice(0, s.numBeams);
  };
  for (let length = 1; length <= s.maximumTokens; length++) {
    const all: { readonly ids: readonly number[]; readonly id: number; readonly sum: number }[] = [];
    for (const beam of beams) {
      const likely = await logProbabilities(runner, [...prompt, ...beam.ids]);
      likely.forEach((p, id) => all.push({ ids: beam.ids, id, sum: beam.sum + p }));
    }
    const best = all.sort((a, b) => b.sum - a.sum).slice(0, Math.max(2, 1 + ends.length) * s.numBeams);
    beams = [];
    for (const [rank, c] of best.entries()) {
      if (ends.includes(c.id)) {
        if (rank < s.numBeams) keep(c.ids, c.sum, length);
      } else beams.push({ ids: [...c.ids, c.id], sum: c.sum });
      if (beams.length === s.numBeams) break;
    }
    if (finished.length < s.numBeams) continue;
    const longest = s.earlyStopping === "never" && s.lengthPenalty > 0 ? s.maximumTokens : length;
    const attainable = (best[0]?.sum ?? 0) / longest ** s.lengthPenalty;
    if (s.earlyStopping === true || (finished.at(-1)?.score ?? -Infinity) >= attainable) return finished[0]?.ids ?? [];
  }
  for (const beam of beams) keep(beam.ids, beam.sum, s.maximumTokens);
  return finished[0]?.ids ?? [];
}

describe("a search", () => {
  let reference: Runner;
  let ends: readonly number[];

  beforeAll(async () => {
    const one = graphOf("graphs/llama.uhd", "llama", config);
    reference = await openRunner(one, generatedParams(one), "reference");
    // Two likely tokens end answers, so that some of the beams do end.
    const found = await plainSearch(reference, idsOf("end"), [], { numBeams: 3, lengthPenalty: 1, earlyStopping: false, maximumTokens: 6 });
    ends = [found[3] ?? 0, found[5] ?? 0];
  });

  test.each([
    { numBeams: 1, lengthPenalty: 1, earlyStopping: false },
    { numBeams: 3, lengthPenalty: 1, earlyStopping: false },
    { numBeams: 5, lengthPenalty: 1, earlyStopping: false },
    { numBeams: 3, lengthPenalty: 2.5, earlyStopping: true },
    { numBeams: 5, lengthPenalty: -1, earlyStopping: "never" },
    { numBeams: 3, lengthPenalty: 0.5, earlyStopping: "never" },
  ] as const)(
    "of $numBeams beams, length penalty $lengthPenalty, early stopping $earlyStopping, finds what a plain one finds",
    async (how) => {
      const searching = LanguageModel.create(shared, tokenizerWith(ends), template);
      for (const prompt of ["end", "another"]) {
        const expected = await plainSearch(reference, idsOf(prompt), ends, { ...how, maximumTokens: 8 });
        searching.reset();
        const found = await answer(searching, prompt, { ...how, maximumTokens: 8 });
        if (how.numBeams > 1) expect(idsOf(found)).toEqual(expected);
        // One beam is no search: the likeliest token each time.
        else expect(found).toBe(await answer(searching, prompt, { maximumTokens: 8 }));
        searching.reset();
      }
    },
  );
});

// ---- What is refused ----------------------------------------------------------------------------------------------

test.each([
  [{ temperature: -1 }, "temperature is -1: expected a number above 0, or 0 for the likeliest token"],
  [{ temperature: NaN }, "temperature is NaN"],
  [{ topK: 1.5 }, "topK is 1.5: expected a whole number from 1 up, or 0 for all"],
  [{ topP: 0 }, "topP is 0: expected a number above 0 and up to 1"],
  [{ topP: 1.01 }, "topP is 1.01"],
  [{ minP: 2 }, "minP is 2: expected a number from 0 to 1"],
  [{ repetitionPenalty: 0 }, "repetitionPenalty is 0: expected a number above 0"],
  [{ seed: -1 }, "seed is -1: expected a whole number from 0 up"],
  [{ numBeams: 0 }, "numBeams is 0: expected a whole number from 1 up"],
  [{ numBeams: 6 }, "numBeams is 6, and llama_chat has 5"],
  [{ numBeams: 2, temperature: 0.5, doSample: true }, "a search takes the likeliest tokens, so it goes without doSample"],
  [{ doSample: true, temperature: 0 }, "doSample wants one above 0"],
  [{ maximumTokens: -2 }, "maximumTokens is -2"],
  [{ lengthPenalty: Infinity }, "lengthPenalty is Infinity"],
])("%o is refused before anything runs", async (options, message) => {
  await expect(answer(model, "hello", options)).rejects.toThrow(message);
  await expect(answer(model, "hello", options)).rejects.toMatchObject({ name: "InputError" });
});

test.each([
  [{ temperature: 0.5 }, "no sampling"],
  [{ repetitionPenalty: 1.2 }, "no penalty for repetition"],
  [{ numBeams: 2 }, "llama has 1"],
])("the plain graph refuses %o", async (options, message) => {
  const one = LanguageModel.create(plain, tokenizerWith([0]), template);
  await expect(answer(one, "hello", options)).rejects.toThrow(message);
});

test("logits that are not numbers are an error, and leave the model usable", async () => {
  const broken = new Map(generatedWeights(graph));
  const norm = broken.get("model.norm.weight");
  if (norm === undefined) throw new Error("there is no norm");
  broken.set("model.norm.weight", { ...norm, data: Float32Array.from(norm.data, () => NaN) } as typeof norm);
  await using session = await Session.create(compileGraph(graph), { threads: 1, weights: broken });
  const nan = LanguageModel.create(session, tokenizerWith([0]), template);
  for (const how of [{}, { temperature: 1 }, { numBeams: 2 }])
    await expect(answer(nan, "hello", how)).rejects.toThrow("the model's logits are not numbers");
});
