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
import { load, type GenerateRequest, type ModelOptions, type Model } from "../runtime/model/load.ts";
import { commonPrefix, entriesOf, piecesOf, rowsOf, type Entry } from "../runtime/model/sequence.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { encodePrompt, imagePlaceholder } from "../runtime/text/prompt.ts";
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
  chat = compiled("graphs/llava-uhd-chat.uhd", "llava_uhd_chat", { ...words, ...eyes, vocabulary });
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
    const result = await run(inputs, runOptions);
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

const idsOf = (run: Run): readonly number[] => Array.from((run.inputs["ids"] as Tensor).data as Int32Array);
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
    const past: number[] = [];
    for (const { inputs, outputs } of runs) {
      const { image: pixels, ids, at, past: before } = inputs;
      past.push(Number(before));
      const expected = await reference.run({ image: concrete(pixels), ids: concrete(ids) }, { at: Number(at), past: Number(before) });
      const found = outputs["logits"]?.data ?? [];
      expect(agreement(found as Float32Array, expected["logits"]?.data ?? []).error).toBeLessThan(1e-5);
      expect(outputs["next"]?.data[0]).toBe(expected["next"]?.data[0]);
    }
    // A piece a photo, then a token a run.
    expect(runs.map(pixelsOf)).toEqual(["60×150×3", "40×50×3", "0×0×3", "0×0×3", "0×0×3"]);
    expect(past.slice(2)).toEqual([0, 1, 2].map((i) => (past[2] ?? NaN) + i));
  });

  test("continues from the cache: the second turn runs what is new in it, and no photo again", async () => {
    const { model, runs } = await open(chat);
    await using _ = model;
    const first = await answer(model, { messages, images: photos });
    const rowsBefore = Number(runs[1]?.inputs["past"]);
    const turns: Message[] = [...messages, { role: "assistant", content: first }, user("And now?")];
    runs.length = 0;
    // The same pixels in other memory are the same photo.
    const again = photos.map((p): Tensor<"u8"> => ({ ...p, data: Uint8Array.from(p.data) }));
    const second = await answer(model, { messages: turns, images: again });
    expect(new Set(runs.map(pixelsOf))).toEqual(new Set(["0×0×3"]));
    // Both photos and the text around them are in the cache; the answer, whose bytes are not UTF-8, is read as its text.
    const whole = encodePrompt(tokenizer, vicunaV1.render(turns), 2);
    expect(Number(runs[0]?.inputs["past"])).toBeGreaterThan(rowsBefore);
    expect(idsOf(runs[0] as Run).length).toBeLessThan(whole.length / 2);
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
    const sampled: object = { temperature: 0.7 };
    await refused({ messages, images: photos, ...sampled }, "InputError", /the likeliest token alone, and has no temperature/);
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

describe("a sequence of tokens and photos", () => {
  const shown = (rows: number): Exclude<Entry, number> => ({ photo: photo(rows, 1), rows });

  test("is cut into pieces of one photo at most, which together are the sequence", () => {
    const [a, b] = [shown(4), shown(7)];
    const whole = entriesOf([1, 2, imagePlaceholder, 3, imagePlaceholder, 4, 5], [a, b]);
    expect(rowsOf(whole)).toBe(16);
    expect(piecesOf(whole)).toEqual([
      { ids: [1, 2], shown: a, at: 2 },
      { ids: [3, 4, 5], shown: b, at: 1 },
    ]);
    expect(piecesOf([a, b])).toEqual([
      { ids: [], shown: a, at: 0 },
      { ids: [], shown: b, at: 0 },
    ]);
    expect(piecesOf([7])).toEqual([{ ids: [7], shown: undefined, at: 0 }]);
    expect(piecesOf([])).toEqual([]);
  });

  test("has its last entry never in the cache", () => {
    const [a, b] = [shown(4), shown(7)];
    expect(commonPrefix([1, a, 2], [1, shown(4), 2])).toBe(2);
    expect(commonPrefix([1, a, 2, 3], [1, b, 2, 3])).toBe(1);
    expect(commonPrefix([], [1])).toBe(0);
    expect(commonPrefix([1, a], [1, a])).toBe(1);
  });
});
