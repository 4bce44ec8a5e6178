// `uhdc explain`: facts about a run before it happens. What it says of memory is compared with what a run reports, and
// its arena is checked for values that overlap while both live.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import type { Explanation } from "../compiler/cli/commands/explain.ts";
import { repeats } from "../compiler/cli/repeats.ts";
import { smallGraph, uhdc } from "./cli-support.ts";
import { property } from "./conformance/property.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-explain-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function explainJson(args: readonly string[]): Promise<Explanation> {
  const result = await uhdc(["explain", ...args, "--json"]);
  expect(result.stderr).toBe("");
  expect(result.code).toBe(0);
  return JSON.parse(result.stdout) as Explanation;
}

describe("uhdc explain", () => {
  test("tells pictures, tokens, kernels with their lines, operations and memory as data", async () => {
    const e = await explainJson([...smallGraph, "--image-size", "672x1008"]);
    expect(e).toMatchObject({ name: "llava_uhd", pictures: 7, tokens: 448, layout: { grid: [2, 3] } });
    expect(e.sizes).toMatchObject({ H: 1008, W: 672, P: 7 });
    for (const kernel of [...e.kernels, ...e.prepare]) {
      expect(kernel.name).not.toBe("");
      expect(kernel.flops).toBeGreaterThanOrEqual(0);
      expect(kernel.bytes).toBeGreaterThan(0);
    }
    // Every kernel says where it comes from: a file of ours, with line and column.
    for (const kernel of e.kernels) expect(kernel.sources.join(" ")).toMatch(/graphs\/[a-z-]+\.uhd:\d+:\d+/);
    expect(e.flops.executed).toBe(e.kernels.reduce((sum, k) => sum + k.flops, 0));
    expect(e.memory.peak).toBeGreaterThanOrEqual(e.memory.weights + e.memory.arena);
    for (const d of e.declined) expect(d.reason).not.toBe("");
  });

  test("tells of a state that is copied, and of a result that is", async () => {
    const file = path.join(folder, "states.uhd");
    const text = `
graph states(x: f32[4]) -> (sum: f32[4], same: f32[4]) {
  state total: f32[4]
  let next = total + x
  total = next
  (next, x)
}`;
    writeFileSync(file, text);
    const e = await explainJson([file]);
    expect(e.copiedStates).toEqual([{ name: "total", bytes: 16 }]);
    // Read and written, four bytes an element.
    expect(e.kernels.find((k) => k.name === "copy")).toMatchObject({ bytes: 32 });
    expect((await uhdc(["explain", file])).stdout).toContain("the state total (16 B) is copied at the end of each run");
    const cache = await explainJson(["graphs/llama.uhd", "--set", "llama_layers=1", "--size", "N=1", "--size", "V=0", "--size", "past=5"]);
    expect(cache.copiedStates).toEqual([]);
    expect(cache.plainLoops).toEqual([]);
  });

  test("executes useful operations only", async () => {
    const { flops } = await explainJson([...smallGraph, "--image-size", "672x1008"]);
    expect(flops.useful / flops.executed).toBeGreaterThan(0.995);
    expect(flops.useful / flops.executed).toBeLessThan(1.005);
  });

  test("places no two values that live at one step on each other", async () => {
    const { arena, memory } = await explainJson([...smallGraph, "--image-size", "300x500"]);
    expect(arena.length).toBeGreaterThan(10);
    for (const [i, a] of arena.entries()) {
      expect(a.offset + a.bytes).toBeLessThanOrEqual(memory.arena);
      for (const b of arena.slice(i + 1)) {
        const together = a.first <= b.last && b.first <= a.last;
        const apart = a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
        if (together && !apart) throw new Error(`${a.name} and ${b.name} overlap: ${JSON.stringify([a, b])}`);
      }
    }
  });

  test("reports the memory that a run uses", async () => {
    const e = await explainJson([...smallGraph, "--image-size", "640x427"]);
    const ran = await uhdc([
      "run",
      ...smallGraph,
      "--image",
      "examples/photos/rocket.jpg",
      "--init",
      "seeded:1",
      "-o",
      path.join(folder, "out"),
      "--json",
    ]);
    const { memory } = JSON.parse(ran.stdout) as { readonly memory: { readonly weights: number; readonly arena: number } };
    expect(memory).toMatchObject({ arena: e.memory.arena, weights: e.memory.weights });
  });

  test("shows people equal layers once, with why neighbours stay apart", async () => {
    const { code, stdout } = await uhdc(["explain", ...smallGraph, "--set", "layers=9", "--image-size", "672x1008"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/grid 2×3, 7 pictures: 6 slices of 336×336 px \(24×24 patches\), overview of/);
    expect(stdout).toMatch(/\d+ ×/);
    expect(stdout).toMatch(/^operations: [\d.]+ [kMG] useful, [\d.]+ [kMG] executed \(useful \/ executed 1\.00\)$/m);
    expect(stdout).toMatch(/^memory: weights .*, arena .*, peak /m);
    expect(stdout).toMatch(/^not fused$/m);
    // The nine layers add no nine-fold text.
    const { stdout: two } = await uhdc(["explain", ...smallGraph, "--image-size", "672x1008"]);
    expect(stdout.split("\n").length).toBeLessThan(two.split("\n").length * 1.6);
  });

  test("has more kernels when nothing is fused, and says so when gas runs out", async () => {
    const fused = await explainJson([...smallGraph, "--image-size", "400x300"]);
    const apart = await explainJson([...smallGraph, "--image-size", "400x300", "--no-fuse"]);
    const some = await explainJson([...smallGraph, "--image-size", "400x300", "--fusion-gas", "5"]);
    expect(apart.kernels.length).toBeGreaterThan(some.kernels.length);
    expect(some.kernels.length).toBeGreaterThan(fused.kernels.length);
    expect(some.declined.map((d) => d.reason)).toContain("the fusion gas of 5 is used up");
  });

  test.each([
    ["no size", [], /needs the size of H, W: give --image-size WIDTHxHEIGHT or --size H=… --size W=…/],
    ["a size that is not one", ["--image-size", "672"], /--image-size takes WIDTHxHEIGHT/],
    ["a dimension that is not there", ["--image-size", "9x9", "--size", "Z=1"], /no input dimension Z; it has H, W/],
    ["a dimension that is not a number", ["--image-size", "9x9", "--size", "W=many"], /--size W takes a whole number/],
  ])("refuses %s as a mistake of the command line", async (_, args, message) => {
    const { code, stderr } = await uhdc(["explain", ...smallGraph, ...args]);
    expect(stderr).toMatch(message);
    expect(code).toBe(2);
  });

  test("refuses a size outside the graph's bounds as a mistake of the input", async () => {
    const { code, stderr } = await uhdc(["explain", ...smallGraph, "--image-size", "30000x10"]);
    expect(stderr).toMatch(/W is 30000, outside 1…20000/);
    expect(code).toBe(1);
  });
});

describe("repeated blocks", () => {
  test("are found whole, once, with their number", () => {
    const runs = repeats([..."xabcabcabcyy"], (c) => c);
    expect(runs.map((r) => [r.at, r.items.join(""), r.times])).toEqual([
      [0, "x", 1],
      [1, "abc", 3],
      [10, "y", 2],
    ]);
  });

  test("give back the list when they are written out", () => {
    property(fc.array(fc.constantFrom("a", "b", "c"), { maxLength: 60 }), (list) => {
      const runs = repeats(list, (c) => c);
      expect(runs.flatMap((r) => Array.from({ length: r.times }, () => r.items).flat())).toEqual(list);
    });
  });
});
