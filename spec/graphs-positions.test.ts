// Positions and windows of the graphs: interpolated tables, sine-cosine rows, RoI-aligned samples. Expected numbers are
// the published test values, written out, and those that PyTorch gave (spec/fixtures/llava-uhd-tiny.json).

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Graph } from "../compiler/ir/graph/types.ts";
import { property } from "./conformance/property.ts";
import { f32Tensor, graphOf, hows, runGraph, shapeFunction, tinyFixture, type How } from "./graphs-support.ts";

const fixture = tinyFixture();

function close(found: ArrayLike<number>, expected: readonly number[], within: number): void {
  expect(found.length).toBe(expected.length);
  for (const [i, e] of expected.entries())
    expect(Math.abs((found[i] ?? NaN) - e), `element ${i}: ${found[i]} and ${e}`).toBeLessThan(within);
}

/** A table of side×side rows of one number, resized to h×w. */
async function resized(
  how: How,
  side: number,
  table: (row: number, column: number) => number,
  h: number,
  w: number,
): Promise<Float64Array> {
  const graph = graphOf("graphs/positions.uhd", "interpolate", { table_side: side });
  const positions = f32Tensor([side * side, 1], (i) => table(Math.floor(i / side), i % side));
  const { resized: out } = await runGraph(graph, { positions, like: f32Tensor([h, w], () => 0) }, {}, how);
  return out?.data ?? new Float64Array();
}

// [0, 1, 2, 3] resized to 6 and to 3 places.
const six = [-0.086806, 0.40625, 1.212963, 1.787037, 2.59375, 3.086806];
const three = [0.126157, 1.5, 2.873843];

describe.each(hows)("on %s, a position table is resized", (how) => {
  test("along a row, as the published values say", async () => {
    close(await resized(how, 4, (_, column) => column, 1, 6), six, 1e-6);
    close(await resized(how, 4, (_, column) => column, 1, 3), three, 1e-6);
  });

  test("along a column alike, every column the same", async () => {
    close(
      await resized(how, 4, (row) => row, 6, 3),
      six.flatMap((v) => [v, v, v]),
      1e-6,
    );
    close(
      await resized(how, 4, (row) => row, 3, 2),
      three.flatMap((v) => [v, v]),
      1e-6,
    );
  });

  test("to its own size without a change", async () => {
    expect([...(await resized(how, 5, (row, column) => 10 * row + column, 5, 5))]).toEqual(
      Array.from({ length: 25 }, (_, i) => 10 * Math.floor(i / 5) + (i % 5)),
    );
  });

  test.each(fixture.resized)("to $to (rows, columns) as PyTorch does", async ({ to: [h, w], values }) => {
    // The largest entry is 58: six digits of f32.
    close(await resized(how, 4, (row, column) => (4 * row + column) ** 1.5, h, w), values, 2e-5);
  });
});

interface Taps {
  readonly index: readonly (readonly number[])[];
  readonly weight: readonly (readonly number[])[];
}

const patchTaps = shapeFunction("graphs/positions.uhd", "patch_taps");
const tokenTaps = shapeFunction("graphs/positions.uhd", "token_taps");
const sineCosine = shapeFunction("graphs/positions.uhd", "sine_cosine");
const windowSamples = shapeFunction("graphs/spatial-resampler.uhd", "window_samples");

describe("the taps of a position table", () => {
  const side = fc.integer({ min: 1, max: 30 });
  const size = fc.tuple(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 40 }));

  test("sum to 1, 16 a patch, inside the table, the class token's row never among them", () => {
    property(
      fc.tuple(side, fc.array(size, { minLength: 1, maxLength: 3 })),
      ([n, sizes]) => {
        const patches = sizes.reduce((sum, [w, h]) => sum + w * h, 0);
        const plain = patchTaps(sizes, n) as unknown as Taps;
        const classed = tokenTaps(sizes, n) as unknown as Taps;
        expect(plain.index.length).toBe(patches);
        expect(classed.index.length).toBe(patches + sizes.length);
        for (const { index, weight } of [plain, classed]) {
          for (const row of weight) expect(row.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 10);
          for (const row of index) expect(row.length).toBe(16);
        }
        expect(plain.index.every((row) => row.every((i) => i >= 0 && i < n * n))).toBe(true);
        let next = 0;
        for (const [w, h] of sizes) {
          expect(classed.index[next]).toEqual(new Array(16).fill(0));
          expect(classed.weight[next]).toEqual([1, ...new Array<number>(15).fill(0)]);
          for (const row of classed.index.slice(next + 1, next + 1 + w * h)) expect(row.every((i) => i >= 1 && i <= n * n)).toBe(true);
          next += w * h + 1;
        }
      },
      60,
    );
  });
});

describe("sine-cosine positions", () => {
  test("at row 0, column 1 of width 8 are the published ones: the column comes first", () => {
    const rows = sineCosine(2, 8) as readonly (readonly number[])[];
    close(rows[1] ?? [], [0.841471, 0.01, 0.540302, 0.99995, 0, 0, 1, 1], 1e-6);
    close(rows[2] ?? [], [0, 0, 1, 1, 0.841471, 0.01, 0.540302, 0.99995], 1e-6);
  });

  test.each(fixture.positions)("of side $side and width $width are PyTorch's", ({ side, width, values }) => {
    const rows = sineCosine(side, width) as readonly (readonly number[])[];
    close(rows.flat(), values, 1e-12);
  });
});

const choices = [
  [4, 2],
  [3, 2],
  [4, 3],
  [3, 3],
  [2, 4],
  [2, 3],
  [3, 4],
] as const;

describe("the samples of a window", () => {
  test.each(fixture.roi)("of a $size picture are $samples (columns, rows)", ({ size: [w, h], samples: expected }) => {
    expect(windowSamples([w, h])).toEqual(expected);
  });

  test.each(choices)("are %i×%i for a picture of that aspect ratio", (a, b) => {
    expect(windowSamples([6 * a, 6 * b])).toEqual([a, b]);
  });

  test("have the aspect ratio nearest to the picture's, the first of equals", () => {
    property(fc.tuple(fc.integer({ min: 1, max: 576 }), fc.integer({ min: 1, max: 576 })), ([w, h]) => {
      const costs = choices.map(([a, b]) => Math.abs(Math.log(w / h) - Math.log(a / b)));
      expect(windowSamples([w, h])).toEqual(choices[costs.indexOf(Math.min(...costs))]);
    });
  });
});

/** f(y, x) = y·w + x. */
async function windows(how: How, graph: Graph, w: number, h: number): Promise<Float64Array> {
  const { samples: out } = await runGraph(graph, { features: f32Tensor([h, w, 1], (i) => i) }, {}, how);
  return out?.data ?? new Float64Array();
}

describe.each(hows)("on %s, RoI windows", (how) => {
  const graph = graphOf("graphs/spatial-resampler.uhd", "roi_align");

  test("of 24×24 patches have the published samples in the first and in the last window", async () => {
    const all = await windows(how, graph, 24, 24);
    expect(all.length).toBe(144 * 9);
    close(all.subarray(0, 9), [8.3333, 9, 9.6667, 24.3333, 25, 25.6667, 40.3333, 41, 41.6667], 1e-4);
    close(all.subarray(143 * 9), [558.3333, 559, 559, 574.3333, 575, 575, 574.3333, 575, 575], 1e-4);
  });

  test("of 19×29 patches (columns, rows) have two columns and three rows of the published samples", async () => {
    const all = await windows(how, graph, 19, 29);
    expect(all.length).toBe(144 * 6);
    close(all.subarray(0, 6), [8.0486, 8.8403, 23.3542, 24.1458, 38.6597, 39.4514], 1e-4);
  });

  test.each(fixture.roi)("of a $size picture are torchvision's in every sample", async ({ size: [w, h], values }) => {
    close(await windows(how, graph, w, h), values, 2e-4);
  });
});
