// Training data: which records are read and which are told, in what order they come, and what of a conversation is learnt.

import * as fc from "fast-check";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import sharp from "sharp";
import { Loader, type LoaderOptions } from "../runtime/train/loader.ts";
import { epochOrder } from "../runtime/train/order.ts";
import { RecordFile } from "../runtime/train/records.ts";
import { ignored, textSample } from "../runtime/train/sample.ts";
import { plain, vicunaV1, type Message } from "../runtime/text/chat.ts";
import type { Tensor } from "../runtime/tensor.ts";
import type { Tokenizer } from "../runtime/text/tokenizer.ts";
import { property } from "./conformance/property.ts";
import { allBytes } from "./text-support.ts";

let folder = "";
let tokenizer: Tokenizer;

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "uhd-train-data-"));
  tokenizer = await allBytes();
  const pixels = await sharp({ create: { width: 6, height: 4, channels: 3, background: "#123456" } })
    .png()
    .toBuffer();
  writeFileSync(path.join(folder, "a.png"), pixels);
  writeFileSync(path.join(folder, "cut.png"), pixels.subarray(0, 60));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const turns = (...values: readonly string[]): readonly object[] =>
  values.map((value, i) => ({ from: i % 2 === 0 ? "human" : "gpt", value }));

function file(name: string, text: string): string {
  const at = path.join(folder, name);
  writeFileSync(at, text);
  return at;
}

async function opened(name: string, text: string): Promise<RecordFile> {
  return RecordFile.open(file(name, text), { images: folder });
}

describe("a data file", () => {
  const good = [
    { id: "a", image: "a.png", conversations: turns("Look: <image> please", "A cat.") },
    { id: "b", conversations: turns('What is [a] {list}, "in" text?', "One, \\ two.", "And?", "No.") },
  ];

  test("is a list, or a record a line, and gives the same records", async () => {
    for (const text of [
      JSON.stringify(good),
      JSON.stringify(good, null, 2),
      good.map((r) => JSON.stringify(r)).join("\n"),
      `\uFEFF\n ${JSON.stringify(good)}\n`,
    ]) {
      await using records = await opened("good.json", text);
      expect(records.bad).toEqual([]);
      expect(records.lengths).toEqual([5, -11]);
      expect((await records.read(0)).messages).toEqual([
        { role: "user", content: "<image>\nLook:  please" },
        { role: "assistant", content: "A cat." },
      ]);
      expect((await records.read(1)).messages.map((m) => m.content)).toEqual([
        'What is [a] {list}, "in" text?',
        "One, \\ two.",
        "And?",
        "No.",
      ]);
    }
  });

  test("is read in pieces, whatever lies on their borders", async () => {
    const many = Array.from({ length: 40 }, (_, i) => ({ id: String(i), conversations: turns(`q${i}`, 'é"}],[{'.repeat(9000 + i)) }));
    await using records = await opened("long.json", JSON.stringify(many));
    expect(records.lengths).toHaveLength(40);
    expect((await records.read(39)).messages[1]?.content).toBe('é"}],[{'.repeat(9039));
  });

  const bad: readonly (readonly [string, unknown, RegExp])[] = [
    [
      "unknown role",
      { id: "x", conversations: [{ from: "robot", value: "hi" }] },
      /record 1 \("x"\), line 2: .*turn 0 has the unknown role "robot"/,
    ],
    ["a turn out of turn", { conversations: [...turns("a"), { from: "human", value: "b" }] }, /turn 1 is of human, out of turn/],
    ["no answer", { conversations: turns("a") }, /nobody answers/],
    ["an image without <image>", { image: "a.png", conversations: turns("a", "b") }, /has the image a\.png and no <image>/],
    ["<image> without an image", { conversations: turns("<image>", "b") }, /has <image> in its turns and no image/],
    ["<image> twice", { image: "a.png", conversations: turns("<image> <image>", "b") }, /<image> 2 times/],
    ["<image> in an answer", { image: "a.png", conversations: turns("<image>", "b<image>") }, /turn 1, an answer/],
    ["an image that is missing", { image: "no.png", conversations: turns("<image>", "b") }, /no\.png is missing/],
    ["an image outside the folder", { image: "../a.png", conversations: turns("<image>", "b") }, /is outside/],
    ["no object", [1], /is not an object/],
    ["no conversations", { id: 3 }, /record 1 \("3"\), line 2: has no conversations/],
  ];

  test.each(bad)("names a record with %s, its file and its line, and keeps the others", async (_, record, says) => {
    const name = file("bad.jsonl", [good[1], record, good[1]].map((r) => JSON.stringify(r)).join("\n"));
    await using records = await RecordFile.open(name, { images: folder });
    expect(records.lengths).toHaveLength(2);
    expect(records.bad).toHaveLength(1);
    expect(records.bad.map((b) => `${b.place}: ${b.reason}`).join()).toMatch(says);
    expect(records.bad[0]?.place.startsWith(name)).toBe(true);
  });

  test("names a line that is not JSON, in lines and in a list", async () => {
    await using lines = await opened("lines.jsonl", `${JSON.stringify(good[1])}\n{"id": \n\n${JSON.stringify(good[1])}`);
    expect(lines.bad.map((b) => b.place)).toEqual([`${path.join(folder, "lines.jsonl")}, record 1, line 2`]);
    await using list = await opened("list.json", `[${JSON.stringify(good[1])},\n{"id": tru},\n${JSON.stringify(good[1])}]`);
    expect(list.bad.map((b) => b.place)).toEqual([`${path.join(folder, "list.json")}, record 1, line 2`]);
    expect(list.lengths).toHaveLength(2);
  });

  test("is refused where it ends within its list, goes on after it, or cannot be read", async () => {
    await expect(opened("cut.json", '[{"id": 1},\n {"id"')).rejects.toThrow(/cut\.json ends within its list \(line 2\)/);
    await expect(opened("on.json", "[]\n]")).rejects.toThrow(/goes on after the end of its list \(line 2\)/);
    await expect(opened("comma.json", "[{},,{}]")).rejects.toThrow(/a comma without a record/);
    await expect(RecordFile.open(path.join(folder, "none.json"))).rejects.toThrow(/none\.json cannot be read/);
    await using empty = await opened("empty.json", "");
    expect(empty.lengths).toEqual([]);
  });
});

describe("the order of records", () => {
  const cases = fc.record({
    lengths: fc.array(
      fc.integer({ min: -30, max: 30 }).filter((n) => n !== 0),
      { maxLength: 60 },
    ),
    seed: fc.nat(),
    batch: fc.integer({ min: 1, max: 5 }),
    shards: fc.integer({ min: 1, max: 3 }),
  });

  test("has each once, and is the same for the same seed and epoch", () => {
    property(cases, ({ lengths, ...options }) => {
      const order = epochOrder(lengths, 1, options);
      expect(order.toSorted((a, b) => a - b)).toEqual(lengths.map((_, i) => i));
      expect(epochOrder(lengths, 1, options)).toEqual(order);
    });
  });

  test("is another in each epoch and for each seed", () => {
    const lengths = Array.from({ length: 50 }, (_, i) => i + 1);
    const options = { seed: 1, batch: 4, shards: 1 };
    const orders = [epochOrder(lengths, 0, options), epochOrder(lengths, 1, options), epochOrder(lengths, 0, { ...options, seed: 2 })];
    expect(new Set(orders.map((o) => o.join())).size).toBe(3);
  });

  test("has steps of one modality, but for the last, and long samples first in a step", () => {
    property(cases, ({ lengths, ...options }) => {
      const size = options.batch * options.shards;
      const order = epochOrder(lengths, 0, options);
      const kinds = lengths.map((n) => Math.sign(n));
      const mixed = (list: readonly number[]): number =>
        Math.min(list.filter((i) => kinds[i] === 1).length, list.filter((i) => kinds[i] === -1).length);
      const rest = [1, -1].reduce((n, kind) => {
        const count = kinds.filter((k) => k === kind).length;
        return n + (count === 0 ? 0 : count % size === 0 ? size : count % size);
      }, 0);
      const full = new Set(kinds).size === 2 ? order.length - rest : order.length;
      for (let at = 0; at < full; at += size) {
        const step = order.slice(at, Math.min(at + size, full));
        expect(mixed(step)).toBe(0);
        const words = step.map((i) => Math.abs(lengths[i] ?? 0));
        if (options.shards === 1) expect(words).toEqual(words.toSorted((a, b) => b - a));
      }
    });
  });

  test("gives the shards of a step loads as equal as greed makes them", () => {
    // Ten words in all: 5 + 1 and 3 + 2, each two records.
    const order = epochOrder([5, 3, 2, 1], 0, { seed: 7, batch: 2, shards: 2 });
    expect(order.map((i) => [5, 3, 2, 1][i])).toEqual([5, 1, 3, 2]);
  });
});

/** The text of the tokens that are learnt. */
function learnt(sample: { readonly ids: Int32Array; readonly labels: Int32Array }): string {
  return tokenizer.decode(sample.labels.filter((label) => label !== ignored));
}

describe("what is learnt", () => {
  const text = (messages: readonly Message[], maximum = 4000) => textSample(messages, { template: vicunaV1, tokenizer, maximum });

  test("of a conversation are the answers and what ends them", () => {
    const said = fc.string({ unit: fc.constantFrom("a", "b", " ", "é", "USER:", "ASSISTANT:", "\n"), minLength: 1, maxLength: 8 });
    property(fc.array(fc.tuple(said, said), { minLength: 1, maxLength: 4 }), (rounds) => {
      const messages = rounds.flatMap(([user, assistant]): Message[] => [
        { role: "user", content: user },
        { role: "assistant", content: assistant },
      ]);
      const sample = text(messages);
      expect(learnt(sample)).toBe(rounds.map(([, answer]) => ` ${answer}</s>`).join(""));
      expect(sample.labels.every((label, i) => label === ignored || label === sample.ids[i])).toBe(true);
      expect(sample.supervised).toBe(sample.labels.filter((l) => l !== ignored).length);
    });
  });

  test("leaves out the picture, and says how many tokens come before it", () => {
    const sample = text([
      { role: "user", content: "<image>\nWhat?" },
      { role: "assistant", content: "Red" },
    ]);
    expect(learnt(sample)).toBe(" Red</s>");
    expect(tokenizer.decode(sample.ids.slice(0, sample.at))).toMatch(/answers to the user's questions\. USER: $/);
    expect(tokenizer.decode(sample.ids.slice(sample.at))).toBe("\nWhat? ASSISTANT: Red</s>");
  });

  test("of a caption is the caption with its newline, and the question plays no part", () => {
    const messages: Message[] = [
      { role: "user", content: "<image>\nDescribe." },
      { role: "assistant", content: "A cat." },
    ];
    const sample = textSample(messages, { template: plain, tokenizer, maximum: 100 });
    expect(tokenizer.decode(sample.ids)).toBe("A cat.\n");
    expect([...sample.labels]).toEqual([...sample.ids]);
    expect(sample.at).toBe(0);
  });

  test("ends where the sequence does, and a sample without any is refused", () => {
    const messages: Message[] = [
      { role: "user", content: "a" },
      { role: "assistant", content: "bbbb" },
    ];
    const { length } = text(messages).ids;
    const cut = text(messages, length - 3);
    expect([cut.ids.length, learnt(cut)]).toEqual([length - 3, " bb"]);
    expect(() => text(messages, 20)).toThrow(/no answer begins within 20 tokens/);
  });

  test("is nothing where the tokenizer merges an answer with what stands before it", () => {
    const merging = { ...tokenizer, encode: (t: string) => (t.endsWith(":") ? [1] : [2, 3]) };
    expect(() =>
      textSample(
        [
          { role: "user", content: "a" },
          { role: "assistant", content: "b" },
        ],
        { template: vicunaV1, tokenizer: merging, maximum: 9 },
      ),
    ).toThrow(/cannot be told from those around it/);
  });
});

/** As many patches of 2×2 pixels as there are in the top left corner, without looking where they lie. */
async function cut(image: Tensor<"u8">): Promise<Tensor<"u8">> {
  const n = Math.min(2, Math.floor(image.data.length / 12));
  return { dtype: "u8", shape: [n, 3, 2, 2], data: image.data.slice(0, 12 * n) };
}

describe("batches", () => {
  const options = (more: Partial<LoaderOptions> = {}): LoaderOptions => ({
    template: vicunaV1,
    tokenizer,
    maximum: 500,
    images: folder,
    seed: 5,
    perRun: 3,
    runs: 1,
    cut,
    onBad: "skip",
    ...more,
  });
  const list = (n: number): string =>
    JSON.stringify(
      Array.from({ length: n }, (_, i) =>
        i % 3 === 0
          ? { id: `${i}`, conversations: turns(`q ${i}`, `${i}`) }
          : { id: `${i}`, image: i === 4 ? "cut.png" : "a.png", conversations: turns(`<image> q ${i}`, `${i}`) },
      ),
    );
  const answers = (batch: { readonly samples: readonly { readonly labels: Int32Array; readonly ids: Int32Array }[] }): string =>
    batch.samples.map((s) => learnt(s)).join();

  test("have pictures as pixels, and none where a record has none", async () => {
    await using records = await opened("batches.json", list(2));
    const { samples } = await new Loader(records, options({ perRun: 1, runs: 2 })).next();
    const pictures = samples.map((s) => s.picture && [s.picture.width, s.picture.height, ...s.picture.patches.shape]);
    expect(pictures).toHaveLength(2);
    expect(pictures).toContainEqual([6, 4, 2, 3, 2, 2]);
    expect(pictures).toContainEqual(undefined);
  });

  test("go on at any position as if they had never stopped", async () => {
    await using records = await opened("batches.json", list(11));
    const loader = new Loader(records, options());
    const whole = [];
    for (let i = 0; i < 9; i++) whole.push(await loader.next());
    expect(whole.slice(0, 4).flatMap((b) => b.samples)).toHaveLength(10);
    for (const [i, from] of [...whole.entries()].slice(0, 8)) {
      const again = new Loader(records, options(), from.position);
      for (const expected of whole.slice(i + 1)) {
        const batch = await again.next();
        expect([batch.position, answers(batch)]).toEqual([expected.position, answers(expected)]);
      }
    }
  });

  test("leave out a picture that is damaged, with its record and file, or stop at it", async () => {
    await using records = await opened("batches.json", list(6));
    const loader = new Loader(records, options({ perRun: 2, runs: 3 }));
    const { skipped, samples } = await loader.next();
    expect(samples).toHaveLength(5);
    expect(skipped.map((b) => `${b.place}: ${b.reason}`).join()).toMatch(/batches\.json, record 4 \("4"\), line 1: .*cut\.png.*damaged/);
    const strict = new Loader(records, options({ perRun: 6, onBad: "stop" }));
    await expect(strict.next()).rejects.toThrow(/record 4 \("4"\), line 1: .*cut\.png/);
  });

  test("end in an error when no record is good", async () => {
    await using none = await opened("none.jsonl", "{]\n");
    await expect(new Loader(none, options()).next()).rejects.toThrow(/no record that can be trained on/);
    await using cut = await opened("cut.json", JSON.stringify([{ image: "cut.png", conversations: turns("<image>", "b") }]));
    await expect(new Loader(cut, options()).next()).rejects.toThrow(/no record that can be trained on/);
  });
});
