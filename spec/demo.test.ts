// `npm run demo`: the trained UHD-tiny that comes with the package answers about a picture, and says what it cannot take.

import { execFile } from "node:child_process";
import path from "node:path";
import { build } from "esbuild";
import { beforeAll, expect, test } from "vitest";
import { makeScene } from "../examples/read-text/scene.ts";
import { root } from "./cli-support.ts";

const program = path.join(root, "dist/examples/demo.js");

beforeAll(async () => {
  await build({
    absWorkingDir: root,
    entryPoints: ["examples/read-text/demo.ts"],
    outfile: program,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    packages: "external",
  });
});

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function demo(...args: readonly string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(process.execPath, [program, ...args], { cwd: root }, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
    );
  });
}

test("answers about its sample, an object a line", async () => {
  const { code, stdout, stderr } = await demo("--json", "--threads", "1");
  expect(code, stderr).toBe(0);
  const answers = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { readonly question: string; readonly answer: string });
  expect(answers.length).toBe(6);
  const { questions } = makeScene("test", 1, sample);
  // The scene's own questions are some of those that are asked. What it says is a fact of the weights: see the card.
  const asked = answers.filter((a) => questions.some((q) => q.question === a.question));
  expect(asked.length).toBeGreaterThan(0);
  for (const { answer } of answers) expect(answer).toMatch(/^[ -~]+$/);
}, 120_000);

test("refuses what it cannot take, and says why", async () => {
  const none = await demo("no-such-picture.png");
  expect([none.code, none.stdout]).toEqual([1, ""]);
  expect(none.stderr).toContain("no-such-picture.png: no picture that can be read");
  const threads = await demo("--threads", "none");
  expect([threads.code, threads.stderr]).toEqual([2, '--threads takes a whole number from 1, not "none"\n']);
  const option = await demo("--colour");
  expect(option.code).toBe(2);
  expect(option.stderr).toContain("npm run demo -- [picture] [question …]");
  const help = await demo("--help");
  expect([help.code, help.stderr]).toEqual([0, ""]);
}, 60_000);

/** The number of the scene that sample.png shows. */
const sample = 45;
