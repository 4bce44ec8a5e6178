// The stages in which UHD-tiny's visual encoder learns letters and its resampler to keep them (examples/read-text/encoder.ts):
// what they are shown is the same each time, they learn, and a training that was stopped goes on as if it had not been.

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
  // A step's own loss says most about its pictures.
  const mean = (some: readonly EncoderFigures[]): number => some.reduce((sum, f) => sum + f.loss, 0) / some.length;
  expect(mean(figures.slice(-4))).toBeLessThan(0.75 * mean(figures.slice(0, 4)));
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
  await using file = await openSafetensors(whole ?? "");
  const shapes = [...file.tensors].map(([name, { shape }]) => [name, shape]);
  const { rate: _, ...sizes } = config;
  const own = [...paramShapes(graphOf("graphs/uhd-tiny.uhd", "uhd_tiny", sizes))].filter(([name]) => name.startsWith("vision_model."));
  expect(Object.fromEntries(shapes)).toEqual(Object.fromEntries(own));
  await expect(trainEncoder(options("stopped", { seed: 4 }))).rejects.toThrow(/seed/);

  // From there the resampler, whose tokens are to keep what the encoder sees; the encoder goes on to learn.
  const compressing = { ...config, compressed: "true", width: "48" };
  const tokens = await trainEncoder(options("tokens", { config: compressing, from: whole, steps: 2 }));
  await using both = await openSafetensors(tokens ?? "");
  const learnt = paramShapes(graphOf("graphs/uhd-tiny.uhd", "uhd_tiny", { ...sizes, width: "48", head_width: "16" }));
  const used = [...learnt].filter(([name]) => name.startsWith("vision_model.") || name.startsWith("model.mm_projector."));
  expect(Object.fromEntries([...both.tensors].map(([name, { shape }]) => [name, shape]))).toEqual(Object.fromEntries(used));
}, 60_000);
