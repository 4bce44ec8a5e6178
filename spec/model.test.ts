// load() and conversations with photos, on tiny models with random weights: every logit against the float64 evaluator of
// the whole graph, from pixels on; what the cache saves; and everything that is refused.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeArtefact } from "../compiler/artefact.ts";
import { compileGraph, type Compiled } from "../compiler/compile.ts";
import type { ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import type { Graph } from "../compiler/ir/graph/types.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";
import type { GenerateOptions } from "../runtime/generate.ts";
import { load, type Conversation, type GenerateRequest, type ModelOptions, type Model } from "../runtime/model/load.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { encodePrompt } from "../runtime/text/prompt.ts";
import { vicunaV1, type Message } from "../runtime/text/chat.ts";
import { tokenizerFromGguf, type Tokenizer } from "../runtime/text/tokenizer.ts";
import { fromRuntime } from "./conformance/tensors.ts";
import { image } from "./generator.ts";
import { agreement, generatedParams, generatedWeights, graphOf, openRunner } from "./graphs-support.ts";
import { llamaMetadata, llamaPieces } from "./text-support.ts";

const context = 160;
const words = { width: 48, head_width: 16, llama_layers: 2, heads: 3, kv_heads: 1, ffn: 64, context, tied: true };
const eyes = { layers: 2, vit_width: 32, vit_heads: 2, vit_hidden: 48, vit_side: 4, resampler_side: 2, embedding_table: false };

let tokenizer: Tokenizer;
let chat: { readonly graph: Graph; readonly compiled: Compiled };
let text: { readonly graph: Graph; readonly compiled: Compiled };
let folder = "";

function compiled(file: string, name: string, config: Readonly<Record<string, number | boolean>>): { graph: Graph; compiled: Compiled } {
  const graph = graphOf(file, name, config);
  return { graph, compiled: compileGraph(graph) };
}

beforeAll(async () => {
  tokenizer = await tokenizerFromGguf(llamaMetadata(llamaPieces));
  const vocabulary = tokenizer.vocabularySize;
  chat = compiled("graphs/llava-uhd-chat.uhd", "llava_uhd_chat", { ...words, ...eyes, vocabulary, sequences: 3, candidates: 9 });
  text = compiled("graphs/llama.uhd", "llama", { ...words, vocabulary });
  folder = mkdtempSync(path.join(tmpdir(), "uhd-model-"));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const photo = (width: number, height: number): Tensor<"u8"> => ({ dtype: "u8", shape: [height, width, 3], data: image(width, height, 3) });
const brief: Message = { role: "system", content: "Be brief." };
const user = (content: string): Message => ({ role: "user", content });

/** One run of the graph, with what it gave. */
interface Run {
  readonly inputs: Parameters<Model["session"]["run"]>[0];
  readonly outputs: Readonly<Record<string, Tensor>>;
}

/** A model on the generator's weights that tells what its session is given. */
async function open(which: typeof chat, options: ModelOptions = {}): Promise<{ readonly model: Model; readonly runs: Run[] }> {
  const model = await load({
    graph: which.compiled,
    vision: generatedWeights(which.graph),
    tokenizer,
    template: "vicuna_v1",
    threads: 1,
    ...options,
  });
  const runs: Run[] = [];
  const run = model.session.run.bind(model.session);
  model.session.run = async (inputs, runOptions) => {
    const result = await run(inputs, { ...runOptions, outputs: undefined });
    runs.push({ inputs: inputs as Run["inputs"], outputs: result.outputs });
    return result;
  };
  return { model, runs };
}

async function answer(model: Model, request: GenerateRequest): Promise<string> {
  let all = "";
  for await (const piece of model.generate({ maximumTokens: 6, ...request })) all += piece;
  return all;
}

const listOf = (run: Run | undefined, name: string): readonly number[] => Array.from((run?.inputs[name] as Tensor | undefined)?.data ?? []);
/** Rows that stand before those of the run. */
const pastOf = (run: Run | undefined): number => listOf(run, "position")[0] ?? NaN;
const pixelsOf = (run: Run): string => (run.inputs["image"] as Tensor).shape.join("×");

describe("a conversation with photos", () => {
  const messages = [brief, user("<image>\nWhat is in <image> that is not in the first?")];
  const photos = [photo(150, 60), photo(50, 40)];

  test("gives, at every token, the logits of the float64 evaluator of the whole graph", { timeout: 60_000 }, async () => {
    const { model, runs } = await open(chat);
    await using _ = model;
    await answer(model, { messages, images: photos, maximumTokens: 4 });
    await using reference = await openRunner(chat.graph, generatedParams(chat.graph), "reference");
    const concrete = (value: unknown): ConcreteTensor => fromRuntime(value as Tensor);
    for (const { inputs, outputs } of runs) {
      const tensors = Object.entries(inputs).filter(([, value]) => typeof value === "object");
      const given = Object.fromEntries(tensors.map(([name, value]) => [name, concrete(value)]));
      const expected = await reference.run(given, { sampled: 0, beams: 0 });
      const found = outputs["logits"]?.data ?? [];
      expect(agreement(found as Float32Array, expected["logits"]?.data ?? []).error).toBeLessThan(1e-5);
      expect(outputs["next"]?.data[0]).toBe(expected["next"]?.data[0]);
    }
    // A piece a photo, then a token a run.
    expect(runs.map(pixelsOf)).toEqual(["60×150×3", "40×50×3", "0×0×3", "0×0×3", "0×0×3"]);
    expect(runs.slice(2).map(pastOf)).toEqual([0, 1, 2].map((i) => pastOf(runs[2]) + i));
  });

  test("continues from the cache: the second turn runs what is new in it, and no photo again", async () => {
    const { model, runs } = await open(chat);
    await using _ = model;
    const first = await answer(model, { messages, images: photos });
    const rowsBefore = pastOf(runs[1]);
    const turns: Message[] = [...messages, { role: "assistant", content: first }, user("And now?")];
    runs.length = 0;
    // The same pixels in other memory are the same photo.
    const again = photos.map((p): Tensor<"u8"> => ({ ...p, data: Uint8Array.from(p.data) }));
    const second = await answer(model, { messages: turns, images: again });
    expect(new Set(runs.map(pixelsOf))).toEqual(new Set(["0×0×3"]));
    // Both photos and the text around them are in the cache; the answer, whose bytes are not UTF-8, is read as its text.
    const whole = encodePrompt(tokenizer, vicunaV1.render(turns), 2);
    expect(pastOf(runs[0])).toBeGreaterThan(rowsBefore);
    expect(listOf(runs[0], "rows").length).toBeLessThan(whole.length / 2);
    const { model: fresh } = await open(chat);
    await using __ = fresh;
    expect(await answer(fresh, { messages: turns, images: photos })).toBe(second);
  });

  test("runs from the first photo that is another one", async () => {
    const { model, runs } = await open(chat);
    await using _ = model;
    await answer(model, { messages, images: photos });
    runs.length = 0;
    const other = [photos[0] as Tensor<"u8">, photo(40, 50)];
    const found = await answer(model, { messages, images: other });
    expect(pixelsOf(runs[0] as Run)).toBe("50×40×3");
    expect(runs.map(pixelsOf)).not.toContain("60×150×3");
    model.reset();
    expect(await answer(model, { messages, images: other })).toBe(found);
  });

  test("takes photos as parts of messages, as files, as bytes and as pixels, alike", async () => {
    const [pixels] = photos;
    if (pixels === undefined) throw new Error("there is no photo");
    const bytes = await sharp(pixels.data, { raw: { width: 150, height: 60, channels: 3 } })
      .png()
      .toBuffer();
    const file = path.join(folder, "photo.png");
    writeFileSync(file, bytes);
    const { model, runs } = await open(chat);
    await using _ = model;
    const expected = await answer(model, { messages: [brief, user("<image>\nWhat?")], images: [pixels] });
    runs.length = 0;
    for (const picture of [file, new Uint8Array(bytes), new Blob([new Uint8Array(bytes)])]) {
      const said: Message = {
        role: "user",
        content: [
          { type: "text", text: "What?" },
          { type: "image", image: picture },
        ],
      };
      expect(await answer(model, { messages: [brief, said] })).toBe(expected);
    }
    expect(runs.map(pixelsOf)).not.toContain("60×150×3");
  });

  test("may have no photo, photos side by side, and one at its end", async () => {
    const { model } = await open(chat);
    await using _ = model;
    for (const [content, images] of [
      ["no photo", []],
      ["<image><image>", photos],
      ["a<image>", photos.slice(0, 1)],
    ] as const) {
      const request = { messages: [brief, user(content)], images };
      const found = await answer(model, request);
      model.reset();
      expect(await answer(model, request), content).toBe(found);
    }
  });

  test("is refused with images and image tokens that are not as many, and with both kinds of images", async () => {
    const { model, runs } = await open(chat);
    await using _ = model;
    const [one] = photos;
    if (one === undefined) throw new Error("there is no photo");
    const refused = async (request: GenerateRequest, name: string, message: RegExp): Promise<void> => {
      await expect(answer(model, request)).rejects.toMatchObject({ name, message: expect.stringMatching(message) as string });
    };
    await refused(
      { messages: [user("<image> <image>")], images: [one] },
      "TextError",
      /an image token without an image: .* 2 image tokens/,
    );
    await refused({ messages: [user("What?")], images: [one] }, "TextError", /an image without an image token/);
    await refused({ messages: [user("<image>")] }, "TextError", /an image token without an image/);
    const part: Message = { role: "user", content: [{ type: "image", image: one }] };
    await refused({ messages: [part], images: [one] }, "TextError", /here are both/);
    await refused({ messages: [user("<image>")], images: ["nowhere.jpg"] }, "ImageError", /nowhere\.jpg/);
    await refused({ messages: [user("<image>")], images: [new Uint8Array([1, 2, 3])] }, "ImageError", /not a JPEG/);
    const grey: Tensor<"u8"> = { dtype: "u8", shape: [4, 4, 1], data: new Uint8Array(16) };
    await refused({ messages: [user("<image>")], images: [grey] }, "ImageError", /of 1 channels/);
    await refused({ messages, images: photos, topP: 2 }, "InputError", /topP is 2/);
    await refused({ messages, images: photos, numBeams: 4 }, "InputError", /numBeams is 4, and llava_uhd_chat has 3/);
    await refused({ messages: [user("\ud800")] }, "TextError", /half of a surrogate pair/);
    expect(runs).toEqual([]);
  });

  test("is refused, before anything runs, when photos and text are longer than the context", async () => {
    const { model, runs } = await open(chat);
    await using _ = model;
    const many = Array.from({ length: 12 }, () => photo(400, 380));
    const long = { messages: [brief, user("<image>".repeat(12))], images: many };
    await expect(answer(model, long)).rejects.toMatchObject({
      name: "TextError",
      message: expect.stringMatching(/tokens long, \d+ of them for its images, and the context holds 160/) as string,
    });
    expect(runs).toEqual([]);
    expect((await answer(model, { messages, images: photos })).length).toBeGreaterThan(0);
  });

  test("stops within one token when it is aborted, also between photos, and goes on as if nothing had been", async () => {
    const { model, runs } = await open(chat);
    await using _ = model;
    const expected = await answer(model, { messages, images: photos });
    for (const allowed of [1, 3]) {
      model.reset();
      runs.length = 0;
      const abort = new AbortController();
      const reason = new Error("enough");
      const run = model.session.run;
      model.session.run = async (...args) => {
        const result = await run(...args);
        if (runs.length === allowed) abort.abort(reason);
        return result;
      };
      await expect(answer(model, { messages, images: photos, signal: abort.signal })).rejects.toBe(reason);
      model.session.run = run;
      expect(runs).toHaveLength(allowed);
      expect(await answer(model, { messages, images: photos })).toBe(expected);
    }
  });
});

describe("an answer to photos", () => {
  const messages = [brief, user("<image>\nWhat is in <image> that is not in the first?")];
  const photos = [photo(150, 60), photo(50, 40)];
  const request: Conversation = { messages, images: photos };

  test("is drawn alike from the same seed, and searched, in the same two runs of photos", async () => {
    const { model, runs } = await open(chat);
    await using _ = model;
    const likeliest = await answer(model, request);
    const drawn = (seed: number): Promise<string> => answer(model, { ...request, temperature: 3, topK: 200, topP: 0.99, minP: 1e-4, seed });
    const first = await drawn(7);
    expect(await drawn(7)).toBe(first);
    expect(await drawn(8)).not.toBe(first);
    expect(await answer(model, { ...request, topK: 1 })).toBe(likeliest);
    expect(await answer(model, { ...request, temperature: 0 })).toBe(likeliest);
    expect(await answer(model, { ...request, repetitionPenalty: 1e30 })).not.toBe(likeliest);
    expect(model.mostBeams).toBe(3);
    const searched = await answer(model, { ...request, numBeams: 3 });
    // Only the first answer computed the photos.
    expect(runs.filter((run) => pixelsOf(run) !== "0×0×3")).toHaveLength(2);
    for (const how of [{ numBeams: 3 }, { temperature: 3, topK: 200, topP: 0.99, minP: 1e-4, seed: 7 }]) {
      model.reset();
      runs.length = 0;
      expect(await answer(model, { ...request, ...how })).toBe("numBeams" in how ? searched : first);
      expect(runs.map(pixelsOf).slice(0, 3)).toEqual(["60×150×3", "40×50×3", "0×0×3"]);
    }
  });

  test("by a search has a score that no drawn answer exceeds", async () => {
    const { model, runs } = await open(chat);
    await using _ = model;
    runs.length = 0;
    await answer(model, { ...request, numBeams: 3, maximumTokens: 1 });
    // After one token the best beam is the likeliest token.
    const scores = Array.from(runs.at(-1)?.outputs["scores"]?.data ?? []);
    expect(scores).toHaveLength(9);
    expect(scores).toEqual(scores.toSorted((a, b) => b - a));
    const logits = Array.from(runs.at(-1)?.outputs["logits"]?.data ?? []);
    const top = Math.max(...logits);
    expect(scores[0]).toBeCloseTo(-Math.log(logits.reduce((sum, x) => sum + Math.exp(x - top), 0)), 4);
  });
});

describe("several conversations", () => {
  const two: Conversation = { messages: [brief, user("<image>\nWhat is in <image>?")], images: [photo(30, 40), photo(50, 40)] };
  const conversations: readonly Conversation[] = [
    { messages: [brief, user("Hello")] },
    { messages: [brief, user("<image>What?")], images: [photo(40, 40)] },
    two,
    { messages: [brief, user("Who?")] },
    { messages: [brief, user("<image>And this?")], images: [photo(40, 40)] },
  ];

  async function answers(model: Model, options: GenerateOptions = {}): Promise<readonly string[]> {
    const all = conversations.map(() => "");
    for await (const { conversation, text } of model.generateAll(conversations, { maximumTokens: 6, ...options })) {
      expect(text).not.toBe("");
      all[conversation] += text;
    }
    return all;
  }

  test("get the answers that each gets alone, with photos or without, by the likeliest token and by a search", async () => {
    const { model, runs } = await open(chat);
    await using _ = model;
    for (const how of [{}, { numBeams: 2 }]) {
      const alone: string[] = [];
      for (const one of conversations) {
        model.reset();
        alone.push(await answer(model, { ...one, ...how }));
      }
      runs.length = 0;
      expect(await answers(model, how)).toEqual(alone);
      // A run computes as many as the graph has sequences, while they last.
      if (!("numBeams" in how)) expect(new Set(runs.map((run) => listOf(run, "read").length))).toEqual(new Set([1, 2, 3]));
    }
  });

  test("come piece by piece, each told by its number, and are drawn by it", async () => {
    const { model } = await open(chat);
    await using _ = model;
    const told: number[] = [];
    const options = { temperature: 2, seed: 3, maximumTokens: 6 };
    for await (const { conversation } of model.generateAll(conversations.slice(0, 2), options)) told.push(conversation);
    expect(told.indexOf(1)).toBeLessThan(told.lastIndexOf(0));
    const drawn = await answers(model, options);
    expect(await answers(model, options)).toEqual(drawn);
    expect(drawn[0]).toBe(await answer(model, { ...(conversations[0] as Conversation), ...options }));
  });

  test("end together within a token of an abort, and a bad one is told before any runs", async () => {
    const { model, runs } = await open(chat);
    await using _ = model;
    const expected = await answer(model, { ...two, maximumTokens: 6 });
    const abort = new AbortController();
    const reason = new Error("enough");
    let steps = 0;
    const onToken = (count: number): void => {
      steps = count;
      if (count === 2) abort.abort(reason);
    };
    await expect(answers(model, { signal: abort.signal, onToken })).rejects.toBe(reason);
    expect(steps).toBe(2);
    for await (const piece of model.generateAll(conversations, { maximumTokens: 6 })) {
      expect(piece.text).not.toBe("");
      break;
    }
    runs.length = 0;
    const bad = [...conversations, { messages: [user("<image>")] }];
    await expect(model.generateAll(bad).next()).rejects.toMatchObject({ name: "TextError" });
    await expect(
      model.generateAll([...conversations, { messages: [user("<image>")], images: ["nowhere.jpg"] }]).next(),
    ).rejects.toMatchObject({
      name: "ImageError",
    });
    expect(runs).toEqual([]);
    expect(await answer(model, { ...two, maximumTokens: 6 })).toBe(expected);
  });

  test("follow each other where the graph has one sequence", async () => {
    const { model } = await open(text);
    await using _ = model;
    const some = conversations.filter(({ images }) => images === undefined);
    const alone: string[] = [];
    for (const one of some) alone.push(await answer(model, one));
    const found = some.map(() => "");
    for await (const piece of model.generateAll(some, { maximumTokens: 6 })) found[piece.conversation] += piece.text;
    expect(found).toEqual(alone);
    await expect(answer(model, { ...(some[0] as Conversation), temperature: 1 })).rejects.toThrow("has no sampling");
    await expect(answer(model, { ...(some[0] as Conversation), numBeams: 2 })).rejects.toThrow("numBeams is 2");
  });
});

describe("load()", () => {
  test("says what is untrained, and gives the graph of text its turn", async () => {
    await using model = await load({ graph: text.compiled, tokenizer, template: "vicuna_v1", init: { seed: 5 }, threads: 1 });
    expect(model.untrained).toHaveLength(text.compiled.plan.params.length);
    expect(model.takesPictures).toBe(false);
    expect(model.context).toBe(context);
    const found = await answer(model, { messages: [brief, user("Hello")] });
    expect(found.length).toBeGreaterThan(0);
    await expect(answer(model, { messages: [user("<image>")], images: [photo(20, 20)] })).rejects.toThrow("llama takes no images");
  });

  test("takes everything from one folder: tokenizer, weights and artefact", async () => {
    const place = path.join(folder, "model");
    await writeArtefact(place, text.compiled);
    await expect(load({ model: place })).rejects.toMatchObject({
      name: "TextError",
      message: expect.stringMatching(/no tokenizer\.json/) as string,
    });
    await expect(load({ model: folder })).rejects.toMatchObject({ name: "ArtefactError" });
    await expect(load({ graph: place })).rejects.toMatchObject({ name: "TextError" });
    await expect(load({ graph: place, tokenizer: path.join(folder, "none.gguf") })).rejects.toMatchObject({
      name: "TextError",
      message: expect.stringMatching(/none\.gguf cannot be read: no such file/) as string,
    });
    await using model = await load({ graph: place, tokenizer, template: "vicuna_v1", init: { seed: 5 }, threads: 1 });
    await using other = await load({ graph: text.compiled, tokenizer, template: "vicuna_v1", init: { seed: 5 }, threads: 1 });
    const messages = [brief, user("Hello")];
    expect(await answer(model, { messages })).toBe(await answer(other, { messages }));
  });

  test("refuses a tokenizer of another model, a template that is not there, and a graph that is no model", async () => {
    const options = { graph: text.compiled, init: { seed: 1 }, threads: 1, template: "vicuna_v1" } as const;
    await expect(load({ ...options, tokenizer: { ...tokenizer, vocabularySize: tokenizer.vocabularySize + 1 } })).rejects.toThrow(
      "do not belong together",
    );
    await expect(load({ ...options, tokenizer, template: "alpaca" })).rejects.toThrow(
      'there is no chat template "alpaca"; there are vicuna_v1, plain',
    );
    await expect(load({ ...options, tokenizer, template: undefined })).rejects.toThrow("the model brings no chat template");
    const other = compiled("graphs/positions.uhd", "interpolate", {});
    await expect(load({ ...options, graph: other.compiled, tokenizer })).rejects.toThrow("is not a language model's graph");
    await expect(load({ ...options, init: undefined, tokenizer })).rejects.toMatchObject({ name: "WeightsError" });
  });

  test("that is aborted or fails leaves nothing on a device that it was given", async () => {
    await using device = await WasmDevice.create({ threads: 1 });
    const options = { graph: chat.compiled, tokenizer, template: "vicuna_v1", device } as const;
    // What the device keeps for itself is made with the first kernels.
    await (await load({ ...options, init: { seed: 1 } })).close();
    const before = device.used;
    const abort = new AbortController();
    const reason = new Error("enough");
    const loading = load({ ...options, init: { seed: 1 }, signal: abort.signal, onProgress: () => abort.abort(reason) });
    await expect(loading).rejects.toBe(reason);
    expect(device.used).toBe(before);
    await expect(load({ ...options, init: { seed: 1 }, tokenizer: { ...tokenizer, vocabularySize: 9999 } })).rejects.toMatchObject({
      name: "TextError",
    });
    expect(device.used).toBe(before);
    const model = await load({ ...options, init: { seed: 1 } });
    expect(device.used).toBeGreaterThan(before);
    await model.close();
    expect(device.used).toBe(before);
  });
});
