// The stage in which UHD-tiny's visual encoder learns letters (examples/read-text/encoder.ts): what it is shown is the same
// each time, it learns, and a training that was stopped goes on as if it had not been.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, expect, test } from "vitest";
import { picturesOf, trainEncoder, type EncoderFigures, type EncoderOptions } from "../examples/read-text/encoder.ts";
import { openSafetensors } from "../runtime/weights/safetensors.ts";
import { graphOf, paramShapes } from "./graphs-support.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-encoder-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const config = { layers: "1", vit_width: "32", vit_heads: "1", vit_hidden: "64", rate: "0.01" };
const options = (name: string, more: Partial<EncoderOptions> = {}): EncoderOptions => ({
  ...{ config, seed: 3, steps: 12, scenes: 1, threads: 1, out: path.join(folder, name) },
  ...more,
});

test("the pictures of a step are the same whenever they are asked for, and others in each", async () => {
  const [one, again, other] = await Promise.all([picturesOf(3, 5, 2), picturesOf(3, 5, 2), picturesOf(3, 6, 2)]);
  expect(one.length).toBe(16);
  expect(again).toEqual(one);
  expect(other).not.toEqual(one);
});

test("it learns, and stopped at any step it goes on to the same parameters, which are those of UHD-tiny's encoder", async () => {
  const figures: EncoderFigures[] = [];
  const whole = await trainEncoder(options("whole", { onStep: (_, f) => figures.push(f) }));
  expect(figures.length).toBe(12);
  expect(figures.at(-1)?.loss).toBeLessThan(0.75 * (figures[0]?.loss ?? NaN));
  for (let stops = 0; ; stops++) {
    const abort = new AbortController();
    const model = await trainEncoder(
      options("stopped", { signal: abort.signal, onStep: (step) => void (step === 5 || step === 9 ? abort.abort() : undefined) }),
    );
    if (model === undefined) continue;
    expect(stops).toBe(2);
    expect(readFileSync(model).equals(readFileSync(whole ?? ""))).toBe(true);
    break;
  }
  const { tensors } = await openSafetensors(whole ?? "");
  const shapes = [...tensors].map(([name, { shape }]) => [name, shape]);
  const { rate: _, ...sizes } = config;
  const own = [...paramShapes(graphOf("graphs/uhd-tiny.uhd", "uhd_tiny", sizes))].filter(([name]) => name.startsWith("vision_model."));
  expect(Object.fromEntries(shapes)).toEqual(Object.fromEntries(own));
  await expect(trainEncoder(options("stopped", { seed: 4 }))).rejects.toThrow(/seed/);
}, 60_000);
