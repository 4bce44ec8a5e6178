// The pictures with text that UHD-tiny is trained on: the same everywhere, no string in two splits, answers that are true.

import sharp from "sharp";
import { describe, expect, test } from "vitest";
import { drawText, letters, styles } from "../examples/read-text/glyphs.ts";
import { score, scores, type Answered } from "../examples/read-text/evaluate.ts";
import { cutAt } from "../examples/read-text/encoder.ts";
import {
  colours,
  makeScene,
  native,
  placeName,
  renderScene,
  splitOf,
  type PlacedText,
  type Scene,
  type Split,
} from "../examples/read-text/scene.ts";
import { compileGraph } from "../compiler/compile.ts";
import { bindPlan } from "../compiler/ir/plan/bind.ts";
import { dimEval, dimParse } from "../compiler/ir/dim.ts";
import { graphOf } from "./graphs-support.ts";

const splits: readonly Split[] = ["train", "validation", "test"];
const scenes = splits.flatMap((split) => Array.from({ length: 150 }, (_, i) => ({ split, scene: makeScene(split, 1, i) })));

/** All that a question could be answered with. */
function answersOf(question: string, { texts, width, height }: Scene): readonly string[] {
  const kind = /(number|code|word)\?$/.exec(question)?.[1];
  const of = texts.filter((t) => t.kind === kind);
  const where = (t: PlacedText): string => placeName(t.x + t.width / 2, t.y + t.height / 2, width, height);
  const place = /^what is at the (.*)\?$/.exec(question)?.[1];
  if (question === "how many words?") return [String(texts.filter((t) => t.kind === "word").length)];
  if (place !== undefined) return texts.filter((t) => where(t) === place).map((t) => t.text);
  if (question === `what is the ${kind}?`) return of.map((t) => t.text);
  if (question === `what colour is the ${kind}?`) return of.map((t) => t.colour);
  return question === `where is the ${kind}?` ? of.map(where) : [];
}

describe("scenes", () => {
  test("are the same for the same seed, and others for another", async () => {
    const [one, again, other] = [makeScene("train", 1, 3), makeScene("train", 1, 3), makeScene("train", 2, 3)];
    expect(again).toEqual(one);
    expect(other.svg).not.toBe(one.svg);
    expect(Buffer.from(await renderScene(one)).equals(Buffer.from(await renderScene(again)))).toBe(true);
  });

  test("show strings of their own split alone", () => {
    for (const { split, scene } of scenes) for (const { text } of scene.texts) expect([text, splitOf(text)]).toEqual([text, split]);
    const of = (split: Split): Set<string> => new Set(scenes.flatMap((s) => (s.split === split ? s.scene.texts.map((t) => t.text) : [])));
    for (const a of splits) for (const b of splits) if (a !== b) expect([...of(a)].filter((t) => of(b).has(t))).toEqual([]);
  });

  test("have every size up to six native pictures, and text that shrinking makes illegible", () => {
    const areas = scenes.map(({ scene }) => (scene.width * scene.height) / native ** 2);
    expect(Math.max(...areas)).toBeLessThanOrEqual(6);
    expect(areas.filter((a) => a < 1).length).toBeGreaterThan(30);
    expect(areas.filter((a) => a > 4).length).toBeGreaterThan(100);
    const aspects = scenes.map(({ scene }) => scene.width / scene.height);
    expect([Math.min(...aspects) < 0.5, Math.max(...aspects) > 2]).toEqual([true, true]);
    const reading = scenes.flatMap(({ scene }) => scene.questions.filter((q) => q.about === "read"));
    expect(reading.filter((q) => (q.native ?? 9) < 5).length / reading.length).toBeGreaterThan(0.2);
  });

  test("are asked what has one answer, which is true", () => {
    for (const { scene } of scenes) {
      expect(scene.questions.length).toBeGreaterThan(0);
      for (const { question, answer } of scene.questions) expect([question, answersOf(question, scene)]).toEqual([question, [answer]]);
    }
  });

  test("of the small sort are native pictures at most, asked for all that is written, all colours, and two things more", () => {
    const counts = { texts: 0, writtenFirst: 0, others: new Map<string, number>() };
    for (let i = 0; i < 100; i++) {
      const scene = makeScene("train", 1, i, "small");
      const { width, height, texts, questions } = scene;
      expect(width * height).toBeLessThanOrEqual(native ** 2);
      expect(texts.length).toBeLessThanOrEqual(5);
      const lines = [...texts].sort((a, b) => a.y - b.y || a.x - b.x);
      const whole = [
        ["what is written?", lines.map((t) => t.text).join(" ")],
        ["in which colours?", lines.map((t) => t.colour).join(" ")],
      ];
      const asked = questions.map((q) => [q.question, q.answer]);
      expect(asked.slice(0, 2).sort()).toEqual(texts.length === 0 ? [] : whole.sort());
      expect(asked.length).toBeLessThanOrEqual(4);
      for (const { question, answer, about } of questions.slice(2)) {
        expect([question, answersOf(question, scene)]).toEqual([question, [answer]]);
        counts.others.set(about, 1 + (counts.others.get(about) ?? 0));
      }
      counts.texts += texts.length;
      if (questions[0]?.question === "what is written?") counts.writtenFirst++;
    }
    expect(counts.texts).toBeGreaterThan(150);
    for (const about of ["colour", "count", "place"]) expect([about, (counts.others.get(about) ?? 0) > 20]).toEqual([about, true]);
    expect(counts.others.size).toBe(3);
    expect(counts.writtenFirst).toBeGreaterThan(30);
    expect(counts.writtenFirst).toBeLessThan(70);
  });

  test("of the crowded sort have many texts, none over another", () => {
    for (let i = 0; i < 20; i++) {
      const { width, height, texts } = makeScene("train", 1, i, "crowded");
      expect(texts.length).toBeGreaterThan((2 * width * height) / native ** 2);
      for (const a of texts)
        for (const b of texts)
          if (a !== b) expect(a.x + a.width < b.x || b.x + b.width < a.x || a.y + a.height < b.y || b.y + b.height < a.y).toBe(true);
    }
  });

  test("show what they say: text stands inside the picture, in its colour", async () => {
    for (const { scene } of scenes.slice(0, 20)) {
      const { data, info } = await sharp(Buffer.from(await renderScene(scene)))
        .removeAlpha()
        .raw()
        .toBuffer({ resolveWithObject: true });
      for (const t of scene.texts.filter(({ colour }) => colour === "red")) {
        let red = 0;
        for (let y = t.y; y < t.y + t.height + 4 && y < info.height; y++)
          for (let x = t.x; x < t.x + t.width && x < info.width; x++) {
            const [r = 0, g = 0, b = 0] = data.subarray(3 * (y * info.width + x), 3 * (y * info.width + x) + 3);
            if (r > 150 && g < 110 && b < 110) red++;
          }
        expect(red).toBeGreaterThan(t.text.length * 4);
      }
    }
  });

  test("have a glyph for every letter in every style, each another picture", async () => {
    for (const style of styles) {
      const seen = new Set<string>();
      for (const letter of letters) {
        const drawn = drawText(letter, style, 24);
        const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40">${drawn.svg("#000", "#fff")}</svg>`;
        seen.add((await sharp(Buffer.from(svg)).flatten({ background: "#fff" }).raw().toBuffer()).toString("base64"));
      }
      expect([style.name, seen.size]).toEqual([style.name, letters.length]);
    }
    expect(() => drawText("a", styles[0] ?? raise(), 10)).toThrow(/no glyph/);
  });

  test("have each letter's middle where it is said to be", async () => {
    for (const style of styles) {
      const drawn = drawText("III", style, 36);
      const size = { width: drawn.width + 8, height: drawn.height + 8 };
      const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${size.width}" height="${size.height}">${drawn.svg("#000", "#fff")}</svg>`;
      const { data, info } = await sharp(Buffer.from(svg)).flatten({ background: "#fff" }).raw().toBuffer({ resolveWithObject: true });
      expect(drawn.centres.length).toBe(3);
      for (const [x, y] of drawn.centres) expect(data[info.channels * (Math.round(y) * info.width + Math.round(x))]).toBeLessThan(60);
    }
  });
});

describe("pictures that letters are learnt from", () => {
  test("are cut out of a scene, with each letter in the half of the patch where its middle is", async () => {
    const scene = makeScene("train", 1001, 4, "crowded");
    const { data, info } = await sharp(Buffer.from(await renderScene(scene)))
      .removeAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true });
    const [left, top] = [-20, 10];
    const cut = cutAt(scene, data, info.width, info.height, left, top);
    for (const [x, y] of [
      [0, 0],
      [19, 50],
      [20, 0],
      [60, 40],
      [111, 111],
    ] as const) {
      const inside = x + left >= 0 && x + left < info.width && y + top < info.height;
      const expected = inside ? data.subarray(3 * ((y + top) * info.width + x + left)).subarray(0, 3) : [128, 128, 128];
      expect([...cut.pixels.subarray(3 * (y * native + x)).subarray(0, 3)]).toEqual([...expected]);
    }
    const side = native / 14;
    let found = 0;
    for (const { text, colour, x, y, centres } of scene.texts)
      for (const [i, [cx, cy]] of centres.entries()) {
        const [column, row] = [x + cx - left, y + cy - top];
        if (column < 0 || row < 0 || column >= native || row >= native) continue;
        found++;
        const at = Math.floor(row / 14) * side + Math.floor(column / 14);
        expect((column % 14 < 7 ? cut.left : cut.right)[at]).toBe(letters.indexOf(text[i] ?? ""));
        expect(Object.keys(colours)[cut.colour[at] ?? -1]).toBe(colour);
      }
    expect(found).toBeGreaterThan(3);
    const none = cut.left.filter((l) => l === letters.length).length + cut.right.filter((l) => l === letters.length).length;
    expect(none).toBe(2 * side * side - found);
  });
});

function raise(): never {
  throw new Error("there is no style");
}

describe("the evaluation", () => {
  const answers = (n: number, right: (i: number) => boolean): readonly Answered[] =>
    Array.from({ length: n }, (_, i) => ({
      question: "q",
      answer: "a",
      about: i % 2 === 0 ? "read" : "count",
      native: 4,
      image: `${i >> 1}`,
      given: "a",
      right: right(i),
    }));

  test("gives shares with intervals that hold them, and none where all or nothing is right", () => {
    const half = score(answers(400, (i) => i % 4 < 2));
    expect(half.share).toBe(0.5);
    expect([half.low < 0.5, half.low > 0.38, half.high > 0.5, half.high < 0.62]).toEqual([true, true, true, true]);
    expect(score(answers(40, () => true))).toEqual({ questions: 40, share: 1, low: 1, high: 1 });
    expect(score([])).toEqual({ questions: 0, share: 0, low: 0, high: 0 });
    expect(Object.keys(scores(answers(4, () => true)))).toEqual(["all", "count", "read", "small"]);
  });
});

test("UHD-tiny does no more operations than the model of one fixed picture, for the largest image", () => {
  const operations = (config: Readonly<Record<string, string>>): number => {
    const { plan } = compileGraph(graphOf("graphs/uhd-tiny.uhd", "uhd_tiny", config));
    // A question of 40 letters about the largest picture.
    const bound = (rows: number) =>
      bindPlan(
        plan,
        {
          image: [250, 300, 3],
          ...{ rows: [rows], position: [rows], place: [rows], segment: [rows], cached: [rows], given: [0, 96] },
          ...{ offsets: [2], row_offsets: [2], read: [1], read_segment: [1], read_offsets: [2] },
          ...{ settings: [1, 4], choice: [1, 5], history: [0], stamp: [1] },
        },
        { sampled: 0, beams: 0 },
      ).env;
    const env = bound(40 + (bound(40)["S"] ?? NaN));
    return plan.steps.reduce((sum, step) => sum + (step.k === "dispatch" ? dimEval(dimParse(step.flops), env) : 0), 0);
  };
  const fixed = { sliced: "false", layers: "5", vit_width: "192", vit_heads: "6", vit_hidden: "800" };
  expect(operations({})).toBeLessThanOrEqual(operations(fixed));
}, 60_000);
