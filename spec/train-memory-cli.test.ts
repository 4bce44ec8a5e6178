// --memory of uhdc explain --train and uhdc train: what is shown, what is refused, and that a training within a budget
// learns what one without it does.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { InvalidArgumentError } from "commander";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Explanation } from "../compiler/cli/commands/explain.ts";
import { memoryBytes } from "../compiler/cli/memory-option.ts";
import { uhdc } from "./cli-support.ts";
import { makeTraining, metricsOf, tinyModel, trainArguments } from "./train-cli-support.ts";

let folder = "";
const at = (name: string): string => path.join(folder, name);

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "uhd-memory-"));
  await makeTraining(folder);
  // Deeper, so that there is something to compute again.
  const deep = "repeat i in 0..6 { h = h + tanh(linear(tanh(h), deep[i].weight)) }";
  const text = tinyModel
    .replace("module Model", "module Deep() {\n  param weight: f32[d, d] ~ normal(0.2)\n}\n\nmodule Model")
    .replace("  param head:", "  use deep[6] = Deep()\n  param head:")
    .replace(
      "    linear(tanh(gather(embed, before) + gather(seen, image)), head)",
      `    var h = gather(embed, before) + gather(seen, image)\n    ${deep}\n    linear(h, head)`,
    );
  writeFileSync(at("tiny.uhd"), text);
}, 60_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const sizes = ["--size", "N=4", "--size", "L=400", "--size", "images=[[5,3]]", "--size", 'samples=[{"tokens":400,"images":[3]}]'];

test("explain shows what is kept, what is computed again and the predicted peak", async () => {
  const explained = async (...more: readonly string[]): Promise<Explanation> => {
    const { stdout, stderr } = await uhdc(["explain", "--train", at("tiny.uhd"), ...sizes, "--json", ...more]);
    expect(stderr).toBe("");
    return JSON.parse(stdout) as Explanation;
  };
  const whole = await explained();
  expect(whole.recomputation).toBeNull();
  const budget = Math.floor(whole.memory.peak * 0.8);
  const { recomputation, memory } = await explained("--memory", `${budget}B`);
  expect(Math.abs((recomputation?.before.peak ?? 0) / whole.memory.peak - 1)).toBeLessThan(0.01);
  expect(recomputation?.predicted.peak).toBe(memory.peak);
  expect(memory.peak).toBeLessThanOrEqual(budget);
  const { stdout } = await uhdc(["explain", "--train", at("tiny.uhd"), ...sizes, "--memory", `${budget}B`]);
  expect(stdout).toMatch(
    /memory budget [\d.]+ KiB: predicted peak [\d.]+ KiB, of [\d.]+ KiB with nothing computed again; .* operations more/,
  );
  expect(stdout).toMatch(/computed again\n +bytes +operation +at +type\n.*tanh +.*tiny\.uhd:\d+/);
  expect(stdout).toMatch(/kept for the backward pass\n/);
  const { code, stderr } = await uhdc(["explain", at("tiny.uhd"), "--graph", "learn", ...sizes, "--memory", "1GiB"]);
  expect([code, stderr]).toEqual([2, expect.stringContaining("--memory is of a training step")]);
});

test("a training finds the sizes of its largest batches, keeps within its budget, and learns the same", async () => {
  const arguments_ = (out: string, ...more: readonly string[]): readonly string[] =>
    trainArguments(folder, out, "--steps", "6", "--batch", "3", "--device", "wasm", ...more);
  expect((await uhdc(arguments_("free"))).code).toBe(0);
  const little = await uhdc(arguments_("little", "--memory", "1kB"));
  expect([little.code, little.stderr]).toEqual([3, expect.stringMatching(/does not fit in 1000 B: it takes at least ([\d.]+) KiB/)]);
  const [, least = "", before = ""] = /at least ([\d.]+) KiB of the ([\d.]+) KiB/.exec(little.stderr) ?? [];
  expect(Number(least)).toBeLessThan(0.9 * Number(before));
  const bytes = Math.ceil(1024 * (0.7 * Number(least) + 0.3 * Number(before)));
  const within = await uhdc(arguments_("within", "--memory", `${bytes}B`));
  expect([within.code, within.stderr]).toEqual([0, expect.not.stringContaining("more than --memory")]);
  expect(metricsOf(at("within"))).toEqual(metricsOf(at("free")));
  const other = await uhdc(arguments_("within", "--resume"));
  expect([other.code, other.stderr]).toEqual([1, expect.stringMatching(/memory was \d+ bytes and is not set/)]);
  const small = await uhdc(
    arguments_(
      "small",
      "--memory",
      "500kB",
      "--size",
      "N=0",
      ...sizes.slice(2, 4),
      "--size",
      "images=[]",
      "--size",
      'samples=[{"tokens":400,"images":[]}]',
    ),
  );
  expect([small.code, small.stderr]).toEqual([0, expect.any(String)]);
});

test("amounts are read as people write them", () => {
  expect(["2GiB", "800 MiB", "1.5kib", "500MB", "7b"].map(memoryBytes)).toEqual([2 ** 31, 800 * 2 ** 20, 1536, 5e8, 7]);
  for (const text of ["", "2", "GiB", "-1GiB", "0B", "2 GiBs", "1e3B", "9999999999TiB"])
    expect(() => memoryBytes(text), text).toThrow(InvalidArgumentError);
});
