// The pictures with text that UHD-tiny is trained on: the same everywhere, no string in two splits, answers that are true.

import sharp from "sharp";
import { describe, expect, test } from "vitest";
import { drawText, letters, styles } from "../examples/read-text/glyphs.ts";
import { score, scores, type Answered } from "../examples/read-text/evaluate.ts";
import { makeScene, native, renderScene, splitOf, type Split } from "../examples/read-text/scene.ts";
import { compileGraph } from "../compiler/compile.ts";
import { bindPlan } from "../compiler/ir/plan/bind.ts";
import { dimEval, dimParse } from "../compiler/ir/dim.ts";
import { graphOf } from "./graphs-support.ts";

const splits: readonly Split[] = ["train", "validation", "test"];
const scenes = splits.flatMap((split) => Array.from({ length: 150 }, (_, i) => ({ split, scene: makeScene(split, 1, i) })));

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
      for (const { question, answer } of scene.questions) {
        const kind = /(number|code|word)\?$/.exec(question)?.[1];
        const of = scene.texts.filter((t) => t.kind === kind);
        if (question.startsWith("how many")) expect(answer).toBe(String(scene.texts.filter((t) => t.kind === "word").length));
        else if (question.startsWith("what is the")) expect(of.map((t) => t.text)).toEqual([answer]);
        else if (question.startsWith("what colour")) expect(of.map((t) => t.colour)).toEqual([answer]);
        else if (question.startsWith("what is at")) expect(scene.texts.map((t) => t.text)).toContain(answer);
        else expect(question).toMatch(/^where is the/);
      }
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
    const { env } = bindPlan(plan, { image: [250, 300, 3], ids: [40] }, { at: 0, past: 0 });
    return plan.steps.reduce((sum, step) => sum + (step.k === "dispatch" ? dimEval(dimParse(step.flops), env) : 0), 0);
  };
  const fixed = { sliced: "false", layers: "5", vit_width: "192", vit_heads: "6", vit_hidden: "800" };
  expect(operations({})).toBeLessThanOrEqual(operations(fixed));
}, 60_000);
