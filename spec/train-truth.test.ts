// Training against PyTorch in float64: slices, encoder, resampler, schema and language model of two layers each, a packed
// batch of samples with and without images. The loss and every gradient of the first step, then fifty steps of AdamW with
// schedule, decay and clipping (spec/fixtures/train-tiny.json, written by spec/oracle/train_torch.py); and, where UHD_PYTHON
// names a Python with PyTorch, random batches live. On WebAssembly; train-webgpu-truth.test.ts is the same on WebGPU.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { run, withoutTorch } from "./train-support.ts";
import { compare, truthFixture, type Batch, type Config, type Result } from "./train-truth-support.ts";

const fixture = truthFixture();

describe("the whole model, two layers each", () => {
  test("has PyTorch's loss and gradients, and goes the same way for fifty steps", async () => {
    const worst = await compare(fixture, fixture.result);
    console.log("against PyTorch in float64, largest relative errors:", worst);
    expect(worst.loss).toBeLessThan(1e-4);
    expect(worst.norm).toBeLessThan(1e-3);
    expect(worst.parameters).toBeLessThan(1e-4);
  }, 120_000);
});

const python = process.env.UHD_PYTHON;

describe("on random batches", () => {
  let reason: string | undefined;
  beforeAll(async () => {
    reason = await withoutTorch(python);
  });

  test("PyTorch, live, agrees", async (context) => {
    if (reason !== undefined || python === undefined) {
      console.warn(`training against PyTorch was not run live: ${reason}`);
      context.skip(`not run: ${reason}`);
      return;
    }
    const seed = Math.floor(Math.random() * 2 ** 31);
    let state = seed;
    const below = (n: number): number => (state = (Math.imul(state, 1103515245) + 12345) >>> 1) % n;
    const batches = Array.from({ length: 2 }, (): Batch => {
      const images: [number, number][] = [];
      const samples = Array.from({ length: 1 + below(3) }, (_s, n) => {
        const tokens = 2 + below(8);
        const places = Array.from({ length: n === 0 ? 1 : below(2) }, () => below(tokens));
        // The first one is cut, so that every parameter takes part.
        for (const _ of places) images.push(n === 0 ? [370 + below(90), 330 + below(60)] : [20 + below(300), 20 + below(300)]);
        return { tokens, images: places };
      });
      const ids = samples.flatMap((s) => Array.from({ length: s.tokens }, () => below(Number(fixture.model["vocabulary"]))));
      return { images, samples, ids, labels: ids.map((id, i) => (i > 0 && below(4) === 0 ? -100 : id)) };
    });
    const config: Config = { ...fixture, optimiser: { ...fixture.optimiser, warmup: 1, steps: 4 }, stride: 1, batches };
    const folder = mkdtempSync(join(tmpdir(), "uhd-train-"));
    try {
      const [given, written] = [join(folder, "config.json"), join(folder, "result.json")];
      writeFileSync(given, JSON.stringify(config));
      await run(python, [fileURLToPath(new URL("oracle/train_torch.py", import.meta.url)), "live", given, written]);
      const worst = await compare(config, JSON.parse(readFileSync(written, "utf8")) as Result);
      console.log(`live, seed ${seed}:`, worst);
      expect(worst.loss).toBeLessThan(1e-4);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }, 300_000);
});
