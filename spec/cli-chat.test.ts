// uhdc chat as a user runs it. With the real model (examples/smollm2/fetch.mjs brings it) it must answer; without, that
// part says that it did not run.

import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { build } from "esbuild";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hasSmollm2, smollm2Path } from "./smollm2.ts";

const root = path.resolve(import.meta.dirname, "..");
let folder = "";
let program = "";

interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

function uhdc(args: readonly string[], input = ""): Promise<Ended> {
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [program, "chat", ...args], { cwd: root, maxBuffer: 1 << 24 }, (error, out, err) => {
      resolve({ code: error === null ? 0 : typeof error.code === "number" ? error.code : -1, out, err });
    });
    child.stdin?.end(input);
  });
}

beforeAll(async () => {
  // Beside the sources, so that it finds the graphs and the packages as the built one does.
  folder = mkdtempSync(path.join(root, "node_modules", ".uhdc-chat-"));
  program = path.join(folder, "cli", "uhdc.js");
  await build({
    entryPoints: [path.join(root, "compiler/cli/uhdc.ts")],
    outdir: path.join(folder, "cli"),
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node20",
    packages: "external",
    logLevel: "silent",
  });
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("uhdc chat refuses", () => {
  test("a model that is not there, a file that is none, and a folder without one", async () => {
    const missing = await uhdc(["nowhere.gguf", "--prompt", "hello"]);
    expect(missing).toMatchObject({
      code: 1,
      out: "",
      err: expect.stringContaining("nowhere.gguf: cannot be read (no such file)") as string,
    });
    const wrong = await uhdc(["package.json", "--prompt", "hello"]);
    expect(wrong).toMatchObject({ code: 1, out: "", err: expect.stringContaining("package.json") as string });
    expect(wrong.err).not.toContain("internal error");
    const empty = mkdtempSync(path.join(tmpdir(), "uhd-chat-"));
    try {
      expect(await uhdc([empty, "--prompt", "hello"])).toMatchObject({
        code: 1,
        err: expect.stringContaining("config.json: cannot be read") as string,
      });
      writeFileSync(path.join(empty, "config.json"), '{"hidden_size": "wide"}');
      const odd = await uhdc([empty, "--prompt", "hello"]);
      writeFileSync(path.join(empty, "config.json"), '{"model_type": "llama", "rope_scaling": {"rope_type": "llama3", "factor": 8}}');
      const scaled = await uhdc([empty, "--prompt", "hello"]);
      expect(scaled).toMatchObject({ code: 1, err: expect.stringContaining("does not compute models whose rope_scaling is") as string });
      writeFileSync(path.join(empty, "config.json"), '{"model_type": "qwen2"}');
      const other = await uhdc([empty, "--prompt", "hello"]);
      expect(other).toMatchObject({ code: 1, err: expect.stringContaining('whose model_type is "qwen2"; expected llama') as string });
      expect(odd).toMatchObject({ code: 1, err: expect.stringContaining('expected a number as hidden_size, found "wide"') as string });
    } finally {
      rmSync(empty, { recursive: true });
    }
  });

  test("options that do not go together", async () => {
    expect(await uhdc(["m.gguf", "--init", "random", "--prompt", "x"])).toMatchObject({
      code: 2,
      err: expect.stringContaining("--init takes seeded:N") as string,
    });
    expect(await uhdc(["m.gguf", "--threads", "0", "--prompt", "x"])).toMatchObject({ code: 2 });
    expect((await uhdc(["--help"])).out).toContain("Examples:");
  });
});

describe("SmolLM2 answers", () => {
  test("a question, as data", { timeout: 120_000 }, async (context) => {
    if (!hasSmollm2(context, "uhdc chat's answer to a question")) return;
    const { code, out } = await uhdc([smollm2Path, "--prompt", "What is the capital of France?", "--max-tokens", "16", "--json"]);
    expect(code).toBe(0);
    const events = out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { event: string; text: string });
    expect(events.at(-1)).toMatchObject({ event: "answer", text: "The capital of France is Paris.", tokens: 8, untrained: false });
    expect(events.slice(0, -1).every(({ event }) => event === "piece")).toBe(true);
    expect(
      events
        .slice(0, -1)
        .map(({ text }) => text)
        .join(""),
    ).toBe("The capital of France is Paris.");
  });

  test("a conversation, a line a turn", { timeout: 120_000 }, async (context) => {
    if (!hasSmollm2(context, "a conversation with uhdc chat")) return;
    const { code, out } = await uhdc([smollm2Path, "--max-tokens", "12"], "What is the capital of France?\nAnd of Italy?\n");
    expect(code).toBe(0);
    expect(out.split("\n")[0]).toBe("The capital of France is Paris.");
    expect(out).toContain("Rome");
  });
});
