// The four slicing policies of graphs/slicing.uhd against the published figures and against a second implementation
// in Python (spec/oracle/slicing.py). Nothing of the policies is written here.

import { readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { loadProgram } from "../compiler/check/index.ts";
import type { HostValue } from "../compiler/ir/plan/host.ts";
import { callHostFunction, HostError } from "../compiler/ir/plan/host-eval.ts";
import { property } from "./conformance/property.ts";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const program = loadProgram(path.join(root, "graphs/slicing.uhd"), { readText: (file) => readFileSync(file, "utf8") });

type Pair = readonly [number, number];

interface Size {
  readonly px: Pair;
  readonly patches: Pair;
}

interface Layout {
  readonly grid: Pair;
  readonly slice: Size;
  readonly overview: Size;
  readonly tokens: number;
  readonly slices: number;
  readonly overview_first: boolean;
  readonly pictures: readonly (Size & {
    readonly box: readonly [number, number, number, number];
    readonly source: number;
    readonly at: Pair;
  })[];
  readonly sources: readonly { readonly box: readonly [number, number, number, number]; readonly px: Pair }[];
}

function call(name: string, args: readonly HostValue[]): unknown {
  const fn = program.functions.get(name);
  if (fn === undefined) throw new Error(`slicing.uhd has no ${name}`);
  return callHostFunction(fn.program, fn.name, args);
}

const layout = (policy: string, W: number, H: number): Layout => call(policy, [W, H]) as Layout;

test("slicing.uhd checks and declares the policies", () => {
  expect(program.diagnostics).toEqual([]);
  expect([...program.functions.keys()]).toEqual(expect.arrayContaining(["paper", "seed", "v1", "minicpm_v", "by_policy"]));
});

/** Image; grid (undefined: not sliced); pixels and patches of a slice (undefined: none) and of the overview; tokens. */
type Row = readonly [image: Pair, grid: Pair | undefined, slice: Size | undefined, overview: Size | undefined, tokens: number];

const size = (w: number, h: number): Size => ({ px: [w, h], patches: [w / 14, h / 14] });

// seed has one size for slices and overview; 1×1 is one picture.
const seed: readonly Row[] = [
  [[336, 336], [1, 1], size(336, 336), size(336, 336), 64],
  [[672, 1008], [2, 3], size(266, 406), size(266, 406), 448],
  [[1008, 672], [3, 2], size(406, 266), size(406, 266), 448],
  [[1024, 768], [3, 2], size(378, 280), size(378, 280), 448],
  [[1920, 1080], [3, 2], size(448, 252), size(448, 252), 448],
  [[300, 1200], [1, 4], size(168, 672), size(168, 672), 320],
  [[100, 100], [1, 1], size(336, 336), size(336, 336), 64],
];

const v1: readonly Row[] = [
  [[336, 336], undefined, undefined, size(336, 336), 144],
  [[672, 1008], [2, 3], size(336, 336), size(266, 406), 1008],
  [[1008, 672], [3, 2], size(336, 336), size(406, 266), 1008],
  [[1024, 768], [3, 2], size(308, 350), size(378, 280), 1008],
  [[1920, 1080], [3, 2], size(364, 308), size(448, 252), 1008],
  [[300, 1200], [1, 4], size(336, 336), size(168, 672), 720],
  [[100, 100], undefined, undefined, size(336, 336), 144],
];

const minicpm: readonly Row[] = [
  [[336, 336], undefined, undefined, size(448, 448), 64],
  [[672, 1008], [2, 2], size(364, 546), size(364, 546), 320],
  [[1008, 672], [2, 2], size(546, 364), size(546, 364), 320],
  [[1024, 768], [2, 2], size(518, 392), size(518, 392), 320],
  [[1920, 1080], [4, 2], size(420, 476), size(602, 336), 576],
  [[300, 1200], [1, 3], size(392, 518), size(224, 896), 256],
  [[100, 100], undefined, undefined, size(448, 448), 64],
];

const patches = (w: number, h: number): Size => size(14 * w, 14 * h);

// The overview of 5000×5000 is the 24×24 of a square.
const paper: readonly Row[] = [
  [[336, 336], undefined, undefined, patches(24, 24), 64],
  [[672, 1008], [2, 3], patches(24, 24), patches(19, 29), 448],
  [[1024, 768], [3, 2], patches(22, 25), patches(27, 20), 448],
  [[1920, 1080], [3, 2], patches(26, 22), patches(32, 18), 448],
  [[5000, 5000], [3, 2], patches(19, 29), patches(24, 24), 448],
  [[1, 1000], undefined, undefined, patches(1, 576), 64],
];

describe.each([
  ["paper", paper],
  ["seed", seed],
  ["v1", v1],
  ["minicpm_v", minicpm],
] as const)("the worked examples of %s", (policy, rows) => {
  test.each(rows)("%j", ([W, H], grid, slice, overview, tokens) => {
    const found = layout(policy, W, H);
    expect(found.grid).toEqual(grid ?? [1, 1]);
    expect(found.slice).toEqual(slice ?? { px: [0, 0], patches: [0, 0] });
    expect(found.overview).toEqual(overview);
    expect(found.tokens).toBe(tokens);
    const one = grid === undefined || (grid[0] === 1 && grid[1] === 1);
    expect(found.slices).toBe(one ? 0 : grid[0] * grid[1]);
    expect(found.pictures).toHaveLength(one ? 1 : grid[0] * grid[1] + 1);
  });
});

describe("the tie trap", () => {
  test("|ln(3/2)| is one unit in the last place below |ln(2/3)|, so a square image has 3 columns and 2 rows", () => {
    expect(Math.abs(Math.log(3 / 2))).toBe(0.4054651081081644);
    expect(Math.abs(Math.log(2 / 3))).toBe(0.40546510810816444);
    for (const policy of ["paper", "seed", "v1"]) {
      expect(layout(policy, 5000, 5000).grid, policy).toEqual([3, 2]);
    }
  });

  test("two slices of a square stand one over the other, because (1, 2) comes first and is not beaten", () => {
    // 400² has ⌈1.42⌉ = 2 slices: candidates 1×2, 2×1, 1×3, 3×1.
    expect(layout("paper", 400, 400).grid).toEqual([1, 2]);
    expect(layout("v1", 400, 400).grid).toEqual([1, 2]);
  });
});

describe("thin and tiny images", () => {
  test.each([
    [1, 1],
    [1, 1000],
    [1000, 1],
    [1, 10000],
    [10000, 1],
    [20000, 20000],
    [1, 20000],
  ])("%i×%i gives pictures of at least one patch; of the paper policy at most 576 a side", (W, H) => {
    for (const policy of ["paper", "seed", "v1", "minicpm_v"]) {
      const found = layout(policy, W, H);
      expect(found.pictures.length, policy).toBeGreaterThan(0);
      for (const p of found.pictures) {
        expect(p.px, policy).toEqual(p.patches.map((n) => 14 * n));
        expect(Math.min(...p.patches), policy).toBeGreaterThanOrEqual(1);
      }
    }
    for (const p of layout("paper", W, H).pictures) expect(Math.max(...p.patches)).toBeLessThanOrEqual(576);
  });
});

describe("the second implementation", () => {
  type Fixture = readonly [number, number, string, Pair | null, Pair | null, Pair];
  const rows = JSON.parse(readFileSync(path.join(root, "spec/fixtures/slicing.json"), "utf8")) as readonly Fixture[];

  test("the fixture has all policies on hundreds of sizes", () => {
    expect(rows.length).toBeGreaterThan(900);
    expect([...new Set(rows.map((r) => r[2]))].sort()).toEqual(["minicpm_v", "paper", "seed", "v1"]);
  });

  test("it agrees on grid, slice and overview of every row", () => {
    const wrong: string[] = [];
    for (const [W, H, policy, grid, slice, overview] of rows) {
      const found = layout(policy, W, H);
      const text = JSON.stringify([found.grid, found.slice.patches, found.overview.patches]);
      const expected = JSON.stringify([grid ?? [1, 1], slice ?? [0, 0], overview]);
      if (text !== expected) wrong.push(`${policy} ${W}×${H}: ${text}, expected ${expected}`);
    }
    expect(wrong).toEqual([]);
  });
});

describe("what holds of every layout", () => {
  const sizes = fc.tuple(
    fc.constantFrom("paper", "seed", "v1", "minicpm_v"),
    fc.oneof(fc.integer({ min: 1, max: 20000 }), fc.integer({ min: 1, max: 700 })),
    fc.oneof(fc.integer({ min: 1, max: 20000 }), fc.integer({ min: 1, max: 700 })),
  );

  test("tokens count the pictures, cells tile the image, windows lie in their sources", () => {
    property(sizes, ([policy, W, H]) => {
      const found = layout(policy, W, H);
      const queries = policy === "v1" ? 144 : 64;
      expect(found.tokens).toBe(queries * found.pictures.length);
      for (const p of found.pictures) {
        const source = found.sources[p.source];
        if (source === undefined) throw new Error(`there is no source ${p.source}`);
        expect(p.at[0] + p.px[0]).toBeLessThanOrEqual(source.px[0]);
        expect(p.at[1] + p.px[1]).toBeLessThanOrEqual(source.px[1]);
        expect(source.box[0]).toBeGreaterThanOrEqual(0);
        expect(source.box[2]).toBeLessThanOrEqual(W);
        expect(source.box[3]).toBeLessThanOrEqual(H);
      }
      const cells = found.overview_first ? found.pictures.slice(1) : found.pictures.slice(0, -1);
      expect(cells.length).toBe(found.slices);
      const area = cells.reduce((sum, c) => sum + (c.box[2] - c.box[0]) * (c.box[3] - c.box[1]), 0);
      if (found.slices > 0) expect(area).toBe(W * H);
    });
  });

  test("the paper policy has at most 6 slices of at most 576 patches", () => {
    property(sizes, ([, W, H]) => {
      const found = layout("paper", W, H);
      expect(found.slices).toBeLessThanOrEqual(6);
      for (const p of found.pictures) {
        const [w, h] = p.patches;
        if (Math.min(w, h) > 1) expect(w * h).toBeLessThanOrEqual(576);
      }
    });
  });
});

test("a policy is chosen by its name, and an unknown one is an error that names the place", () => {
  expect(call("by_policy", ["minicpm-v", 1920, 1080])).toEqual(call("minicpm_v", [1920, 1080]));
  expect(() => call("by_policy", ["papier", 1920, 1080])).toThrow(HostError);
  expect(() => call("by_policy", ["papier", 1920, 1080])).toThrow(/slicing\.uhd:\d+:\d+.*no candidate/);
});
