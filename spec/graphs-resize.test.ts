// Resizing against Pillow's two passes: every picture a policy cuts, as patches, pixel by pixel
// (spec/fixtures/pillow.json, made by spec/oracle/pillow_resize.py, which says in which order the passes go). Pixels
// are integers, so the float64 evaluator and compiled code must agree with each other exactly.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { afterAll, describe, expect, test } from "vitest";
import type { ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import { image } from "./generator.ts";
import { agreement, compiledHows, graphOf, hows, imageTensor, openRunner, runGraph, type Runner } from "./graphs-support.ts";

interface Fixture {
  /** u8[height, width, 3] in base64. */
  readonly resized: readonly {
    readonly from: readonly [number, number];
    readonly to: readonly [number, number];
    readonly pixels: string;
  }[];
  /** SHA-256 of u8[T, 3, 14, 14]: all patches of all pictures. */
  readonly pictures: readonly {
    readonly policy: string;
    readonly size: readonly [number, number];
    readonly patches: number;
    readonly sha256: string;
  }[];
}

const fixture = JSON.parse(readFileSync(new URL("fixtures/pillow.json", import.meta.url), "utf8")) as Fixture;

/** One picture of the whole image, of `columns`×`rows` patches. */
const onePicture = `
import { Patches } from "./preprocess.uhd"
config columns: int = 1
config rows: int = 1
graph resized(image: u8[H in 1..=20000, W in 1..=20000, 3]) -> patches: u8[T, 3, 14, 14] {
  let size = { px: (14 * columns, 14 * rows), patches: (columns, rows) }
  let layout = {
    grid: (1, 1), slice: size, overview: size, tokens: 1, slices: 0, overview_first: false,
    pictures: [{ box: (0, 0, W, H), px: size.px, patches: size.patches, source: 0, at: (0, 0) }],
    sources: [{ box: (0, 0, W, H), px: size.px }]
  }
  dim P = 1
  ragged T over P = [columns * rows for _ in 0..P]
  use pixels = Patches(14)
  pixels(image, layout, T)
}
`;

/** The bytes of patches u8[rows·columns, 3, 14, 14] as an image [14·rows, 14·columns, 3]. */
function assembled(patches: ArrayLike<number>, columns: number, rows: number): Uint8Array {
  const out = new Uint8Array(columns * rows * 588);
  for (let y = 0; y < 14 * rows; y++) {
    for (let x = 0; x < 14 * columns; x++) {
      const patch = Math.floor(y / 14) * columns + Math.floor(x / 14);
      for (let c = 0; c < 3; c++) out[(y * 14 * columns + x) * 3 + c] = patches[((patch * 3 + c) * 14 + (y % 14)) * 14 + (x % 14)] ?? 0;
    }
  }
  return out;
}

/** Values that were Pillow's. */
let same = 0;
afterAll(() => console.log(`resizing: ${same} values compared with Pillow's, all the same`));

function compare(found: Uint8Array, expected: Uint8Array): void {
  expect(found.length).toBe(expected.length);
  expect(found.filter((value, i) => value !== expected[i]).length, "values that differ").toBe(0);
  same += found.length;
}

describe.each(hows)("on %s", (how) => {
  test.each(fixture.resized)("$from pixels become $to as Pillow's BICUBIC makes them", async ({ from: [w, h], to: [tw, th], pixels }) => {
    const [columns, rows] = [tw / 14, th / 14];
    const graph = graphOf("graphs/one-picture.uhd", "resized", { columns, rows }, { "graphs/one-picture.uhd": onePicture });
    const { patches } = await runGraph(graph, { image: imageTensor(w, h) }, {}, how);
    compare(assembled(patches?.data ?? [], columns, rows), Uint8Array.from(Buffer.from(pixels, "base64")));
  });

  // The evaluator takes a minute for the largest ones.
  const affordable = fixture.pictures.filter(({ size: [w, h] }) => how !== "reference" || w * h < 100_000);
  test.each(affordable)(
    "all pictures of $size by the $policy policy are Pillow's, to the bit",
    async ({ policy, size: [w, h], ...expected }) => {
      const { patches } = await runGraph(graphOf("graphs/preprocess.uhd", "pictures", { policy }), { image: imageTensor(w, h) }, {}, how);
      expect(patches?.shape).toEqual([expected.patches, 3, 14, 14]);
      const bytes = Uint8Array.from(patches?.data ?? []);
      expect(createHash("sha256").update(bytes).digest("hex")).toBe(expected.sha256);
      same += bytes.length;
    },
  );
});

/** Sizes no fixture has: a pixel's width or height, one more than a threshold of slicing. */
const extremes: readonly (readonly [number, number])[] = [
  [1, 1],
  [1, 700],
  [337, 336],
  [10000, 1],
];

describe("images of extreme shape", () => {
  test.each(["paper", "seed", "v1", "minicpm-v"])("by the %s policy give the same pixels compiled as evaluated", async (policy) => {
    const graph = graphOf("graphs/preprocess.uhd", "pictures", { policy });
    const runners: Runner[] = [];
    try {
      for (const how of compiledHows) runners.push(await openRunner(graph, {}, how));
      for (const [w, h] of extremes) {
        const inputs = { image: imageTensor(w, h) };
        const expected = bytesOf(await runGraph(graph, inputs, {}, "reference"));
        for (const runner of runners) expect(Buffer.compare(bytesOf(await runner.run(inputs)), expected), `${w}×${h}`).toBe(0);
      }
    } finally {
      for (const runner of runners) await runner[Symbol.asyncDispose]();
    }
  });

  test("and a fourth channel is ignored", async () => {
    const [three, four] = [3, 4].map((channels) => graphOf("graphs/preprocess.uhd", "pictures", { channels }));
    if (three === undefined || four === undefined) throw new Error("two graphs");
    const expected = bytesOf(await runGraph(three, { image: imageTensor(90, 70) }, {}, "wasm"));
    const rgba: ConcreteTensor = { dtype: "u8", shape: [70, 90, 4], data: Float64Array.from(image(90, 70, 4)) };
    expect(Buffer.compare(bytesOf(await runGraph(four, { image: rgba }, {}, "wasm")), expected)).toBe(0);
    expect(Buffer.compare(bytesOf(await runGraph(four, { image: rgba }, {}, "reference")), expected)).toBe(0);
  });
});

describe("patches are normalised", () => {
  const clip = { mean: [0.48145466, 0.4578275, 0.40821073], deviation: [0.26862954, 0.26130258, 0.27577711] };
  test.each([
    ["paper", clip],
    ["v1", clip],
    ["seed", { mean: [0, 0, 0], deviation: [1, 1, 1] }],
    ["minicpm-v", { mean: [0.5, 0.5, 0.5], deviation: [0.5, 0.5, 0.5] }],
  ] as const)("by the statistics of the %s policy's encoder", async (policy, { mean, deviation }) => {
    const [pixels, normalised] = ["pictures", "preprocess"].map((name) => graphOf("graphs/preprocess.uhd", name, { policy }));
    if (pixels === undefined || normalised === undefined) throw new Error("two graphs");
    const inputs = { image: imageTensor(90, 70) };
    const bytes = bytesOf(await runGraph(pixels, inputs, {}, "wasm"));
    const { patches } = await runGraph(normalised, inputs, {}, "wasm");
    const of = (i: number): number => Math.floor(i / 196) % 3;
    const expected = Float64Array.from(bytes, (byte, i) => (byte / 255 - (mean[of(i)] ?? NaN)) / (deviation[of(i)] ?? NaN));
    expect(agreement(patches?.data ?? [], expected).error).toBeLessThan(1e-6);
  });
});

function bytesOf({ patches }: Readonly<Record<string, ConcreteTensor>>): Uint8Array {
  return Uint8Array.from(patches?.data ?? []);
}
