// uhdc chat where tokens are drawn or searched. With the real model (examples/smollm2/fetch.mjs brings it) it must answer;
// without, that part says that it did not run.

import { describe, expect, test } from "vitest";
import { uhdc } from "./cli-support.ts";
import { hasSmollm2, smollm2Path } from "./smollm2.ts";

describe("uhdc chat refuses", () => {
  test.each([
    [["--temperature", "-1"], 'expected a number above 0, or 0 for the likeliest token, found "-1"'],
    [["--temperature", "warm"], 'expected a number above 0, or 0 for the likeliest token, found "warm"'],
    [["--top-k", "2.5"], 'expected a whole number from 1 up, or 0 for all, found "2.5"'],
    [["--top-p", "0"], 'expected a number above 0 and up to 1, found "0"'],
    [["--min-p", "1.5"], 'expected a number from 0 to 1, found "1.5"'],
    [["--repetition-penalty", "0"], 'expected a number above 0, found "0"'],
    [["--seed", "-3"], 'expected a whole number from 0 up to 9007199254740991, found "-3"'],
    [["--beams", "0"], 'expected a whole number from 1 up, found "0"'],
  ])("%s", async (args, message) => {
    const { code, stdout, stderr } = await uhdc(["chat", "model.gguf", ...args]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(message);
  });

  test("nothing that its help does not name", async () => {
    const { stdout } = await uhdc(["chat", "--help"]);
    for (const name of ["temperature", "top-k", "top-p", "min-p", "repetition-penalty", "seed", "beams"])
      expect(stdout).toContain(`--${name} <`);
  });
});

describe("uhdc chat with SmolLM2", () => {
  const ask = async (...args: readonly string[]): Promise<string> => {
    const options = ["--prompt", "Name a colour.", "--max-tokens", "12", "--context", "256", "--device", "wasm"];
    const { code, stdout, stderr } = await uhdc(["chat", smollm2Path, ...options, ...args]);
    expect(code, stderr).toBe(0);
    return stdout.trim();
  };

  test("draws the same from the same seed, and searches", { timeout: 120_000 }, async (context) => {
    if (!hasSmollm2(context, "uhdc chat that draws and searches")) return;
    const drawn = await ask("--temperature", "1.2", "--top-p", "0.95", "--seed", "5");
    expect(drawn).not.toBe("");
    expect(await ask("--temperature", "1.2", "--top-p", "0.95", "--seed", "5")).toBe(drawn);
    expect(await ask("--beams", "3")).not.toBe("");
  });

  test("a search goes without drawing", async (context) => {
    if (!hasSmollm2(context, "uhdc chat --beams --temperature")) return;
    const { code, stderr } = await uhdc(["chat", smollm2Path, "--beams", "2", "--temperature", "0.5", "--prompt", "x"]);
    expect(code).toBe(2);
    expect(stderr).toContain("--beams searches for the likeliest answer: it goes without --temperature");
  });
});
