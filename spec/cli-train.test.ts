// `uhdc train` as a command: it learns, it says which record or setting is wrong, and where a number stopped being finite.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { uhdc } from "./cli-support.ts";
import { makeTraining, metricsOf, tinyModel, trainArguments, turns } from "./train-cli-support.ts";

let folder = "";
const at = (name: string): string => path.join(folder, name);

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "uhd-train-"));
  await makeTraining(folder);
}, 60_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("a training", () => {
  test("learns what its records say, and leaves its figures and its parameters", async () => {
    const args = trainArguments(folder, "learns", "--epochs", "80", "--batch", "3", "--json");
    const { code, stdout } = await uhdc(args);
    const report = JSON.parse(stdout) as { readonly loss: number; readonly steps: number };
    expect([code, report]).toEqual([0, expect.objectContaining({ ok: true, steps: 160, step: 160, skipped: 0 })]);
    const losses = metricsOf(at("learns")).map((line) => (JSON.parse(line) as { readonly loss: number }).loss);
    expect(losses).toHaveLength(160);
    expect(losses[0]).toBeGreaterThan(4);
    expect(report.loss).toBeLessThan(1);
    expect((await sharp(at("learns/loss.png")).metadata()).width).toBe(960);
    const inspected = await uhdc(["inspect", at("learns/model.safetensors"), "--json"]);
    expect(inspected.stdout).toContain("model.embed_tokens.weight");
    expect(inspected.stdout).not.toContain("optimiser");
  });

  test("goes on from its own folder only when it is told to, and only with what it was begun with", async () => {
    const again = await uhdc(trainArguments(folder, "learns", "--epochs", "80", "--batch", "3"));
    expect([again.code, again.stderr]).toEqual([1, expect.stringMatching(/learns has checkpoints of a training/)]);
    const other = await uhdc(trainArguments(folder, "learns", "--epochs", "80", "--batch", "3", "--resume", "--seed", "4"));
    expect([other.code, other.stderr]).toEqual([1, expect.stringMatching(/belongs to another training: seed was 0 and is 4/)]);
    const wider = await uhdc(trainArguments(folder, "learns", "--epochs", "80", "--batch", "3", "--resume", "--set", "d=8"));
    expect([wider.code, wider.stderr]).toEqual([
      1,
      expect.stringMatching(/model\.light\.weight: expected f32\[8, 12\], found f32\[16, 12\]/),
    ]);
  });

  test("in f16 says which steps changed nothing, and goes on with the scale that it had", async () => {
    const halves = 'clip: 1.0\n  compute: "f16"\n  scaling { initial: 16777216, every: 4 }';
    // So large a loss that its derivatives, times such a scale, are beyond halves.
    const text = tinyModel.replace("clip: 1.0", halves).replace(/(cross_entropy\(.*\))/, "$1 * 64");
    writeFileSync(at("halves.uhd"), text);
    const begin = trainArguments(folder, "halves", "--steps", "24", "--batch", "3", "--save", "4", "--json");
    const args = begin.map((a) => (a.endsWith("tiny.uhd") ? at("halves.uhd") : a));
    const whole = await uhdc(args);
    expect([whole.code, whole.stderr]).toEqual([0, expect.stringMatching(/step 1 changes nothing: gradients of the loss times 16777216/)]);
    const lines = metricsOf(at("halves")).map((l) => JSON.parse(l) as { readonly gradientNorm: number | null; readonly lossScale: number });
    const idle = lines.filter((l) => l.gradientNorm === null).length;
    expect(JSON.parse(whole.stdout)).toMatchObject({ step: 24, stepsWithoutChange: idle });
    expect(idle).toBeGreaterThan(3);
    expect(idle).toBeLessThan(20);
    // Half after each of those; twice as much after four others in a row.
    let [scale, good] = [16777216, 0];
    for (const line of lines) {
      expect(line.lossScale).toBe(scale);
      good = line.gradientNorm === null ? 0 : good + 1;
      if (good === 0) scale /= 2;
      if (good === 4) [scale, good] = [scale * 2, 0];
    }
    const other = await uhdc([...args, "--resume"].map((a) => (a === at("halves.uhd") ? at("tiny.uhd") : a)));
    expect([other.code, other.stderr]).toEqual([1, expect.stringMatching(/belongs to another training: compute was/)]);
  });

  test("in bf16 ends at the operation that made a number infinite, forward or backward", async () => {
    writeFileSync(
      at("bfloat.uhd"),
      tinyModel.replace("clip: 1.0", 'clip: 1.0\n  compute: "bf16"').replace(/(cross_entropy\(.*\))/, "$1 * 1e38"),
    );
    const args = trainArguments(folder, "bfloat", "--steps", "3", "--batch", "3");
    const { code, stderr } = await uhdc(args.map((a) => (a.endsWith("tiny.uhd") ? at("bfloat.uhd") : a)));
    expect([code, stderr]).toEqual([1, expect.stringMatching(/bfloat\.uhd:\d+:\d+.* infinite elements/)]);
  });

  test("ends at the first number that is not finite, with its operation and line, and keeps what was good", async () => {
    // A black corner makes log(0).
    const records = Array.from({ length: 8 }, (_, i) => ({
      image: `${i === 5 ? "black" : "red"}.png`,
      conversations: turns("<image>\nwhat colour?", "red"),
    }));
    writeFileSync(at("dark.json"), JSON.stringify(records));
    const args = trainArguments(folder, "dark", "--steps", "20", "--set", "shift=0.0", "--data", at("dark.json"));
    const { code, stderr } = await uhdc(args);
    expect(code).toBe(1);
    const line = tinyModel.split("\n").findIndex((l) => l.includes("log(pixels")) + 1;
    expect(stderr).toMatch(new RegExp(`log at .*tiny\\.uhd:${line}:\\d+, f32\\[.*\\], has 12 infinite elements`));
    expect(stderr).toMatch(/step \d is (NaN|-?Infinity)/);
    const done = metricsOf(at("dark")).length;
    if (done > 0) expect(readFileSync(at(`dark/checkpoint-0000000${done}.safetensors`)).length).toBeGreaterThan(0);
    expect(done).toBeLessThan(4);
  });
});

describe("records that cannot be used", () => {
  const records = [
    { id: "good", image: "red.png", conversations: turns("<image>\nwhat colour?", "red") },
    { id: "role", conversations: [{ from: "robot", value: "hello" }] },
    { id: "gone", image: "gone.png", conversations: turns("<image>\nwhat colour?", "red") },
    { id: "unseen", image: "red.png", conversations: turns("what colour?", "red") },
    { id: "broken", image: "broken.png", conversations: turns("<image>\nwhat colour?", "red") },
  ];
  const lines = (): string => `${records.map((r) => JSON.stringify(r)).join("\n")}\n{"id": "cut", \n`;

  beforeAll(() => {
    writeFileSync(at("bad.jsonl"), lines());
    writeFileSync(at("images/broken.png"), readFileSync(at("images/red.png")).subarray(0, 50));
  });

  test("stop the training before its first step, all of them named", async () => {
    const { code, stderr } = await uhdc(trainArguments(folder, "strict", "--steps", "3", "--data", at("bad.jsonl")));
    expect(code).toBe(1);
    expect(stderr).toMatch(/bad\.jsonl, record 1 \("role"\), line 2: its turn 0 has the unknown role "robot"/);
    expect(stderr).toMatch(/bad\.jsonl, record 2 \("gone"\), line 3: its image .*gone\.png is missing/);
    expect(stderr).toMatch(/bad\.jsonl, record 3 \("unseen"\), line 4: has the image red\.png and no <image>/);
    expect(stderr).toMatch(/bad\.jsonl, record 5, line 6: is not JSON/);
    expect(stderr).toMatch(/--on-bad skip leaves them out/);
  });

  test("are left out with a report where that is wanted", async () => {
    const { code, stdout, stderr } = await uhdc(
      trainArguments(folder, "lenient", "--steps", "3", "--data", at("bad.jsonl"), "--on-bad", "skip", "--json"),
    );
    expect([code, stderr]).toEqual([0, expect.stringMatching(/left out: .*record 4 \("broken"\), line 5: .*broken\.png.*damaged/)]);
    expect(JSON.parse(stdout)).toMatchObject({ step: 3, skipped: 5 });
    const told = readFileSync(at("lenient/skipped.jsonl"), "utf8").trimEnd().split("\n");
    expect(told.map((l) => (JSON.parse(l) as { readonly index: number }).index).sort()).toEqual([1, 2, 3, 4, 5]);
  });

  test("stop it in its midst when only decoding tells", async () => {
    writeFileSync(at("late.json"), JSON.stringify([records[0], records[4]]));
    const { code, stderr } = await uhdc(trainArguments(folder, "late", "--steps", "9", "--data", at("late.json")));
    expect([code, stderr]).toEqual([1, expect.stringMatching(/late\.json, record 1 \("broken"\), line 1: .*broken\.png.*damaged/)]);
  });
});

/** A model whose table lacks some characters. */
function smallTable(): string {
  writeFileSync(at("small.uhd"), tinyModel.replaceAll("104", "90"));
  return at("small.uhd");
}

test.each([
  [
    "a file without a train section",
    () => ["train", "graphs/resampler.uhd", "--data", "d", "--out", "o", "--tokenizer", "t"],
    1,
    /has no train section/,
  ],
  ["a data file that is not there", () => trainArguments(folder, "o1", "--data", at("none.json")), 1, /none\.json cannot be read/],
  [
    "a tokenizer with more tokens than the model",
    () => ["train", smallTable(), ...trainArguments(folder, "o2").slice(2)],
    1,
    /the tokenizer has 98 tokens and the model only 90/,
  ],
  [
    "no beginning of the parameters",
    () => trainArguments(folder, "o3").filter((a) => a !== "--init" && a !== "seeded:1"),
    1,
    /nothing says where they begin/,
  ],
  ["no steps", () => trainArguments(folder, "o4", "--steps", "0"), 2, /--steps takes 1 or more/],
] as const)("%s is refused", async (_, args, expected, says) => {
  const { code, stderr } = await uhdc(args());
  expect([code, stderr]).toEqual([expected, expect.stringMatching(says)]);
});
