// A training that is killed at any moment goes on equal to the bit to one that was not: parameters, optimiser, order of the
// data, metrics.

import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { builtFolder, root, uhdc } from "./cli-support.ts";
import { seed } from "./conformance/property.ts";
import { makeTraining, metricsOf, startTraining, trainArguments, type Training } from "./train-cli-support.ts";
import { randomStream } from "../runtime/train/random.ts";

const steps = 150;
const wanted = ["--steps", String(steps), "--batch", "2", "--save", "3", "--seed", "9"];
let folder = "";

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "uhd-resume-"));
  await makeTraining(folder);
  const whole = await uhdc(trainArguments(folder, "whole", ...wanted, "--keep", "1000"));
  expect([whole.code, whole.stderr]).toEqual([0, expect.any(String)]);
}, 60_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const lastCheckpoint = `checkpoint-${String(steps).padStart(8, "0")}.safetensors`;

/** The step of the newest checkpoint, 0 when there is none. */
function newest(out: string): number {
  const names = existsSync(out) ? readdirSync(out) : [];
  return names.reduce((most, name) => Math.max(most, Number(/^checkpoint-(\d+)\.safetensors$/.exec(name)?.[1] ?? 0)), 0);
}

/** Resolves when there is a checkpoint of a later step, or the training has ended. */
async function checkpointAfter(out: string, step: number, { child }: Training): Promise<void> {
  while (newest(out) <= step && child.exitCode === null && child.signalCode === null) await setTimeout(2);
}

function expectEqualToWhole(out: string): void {
  for (const name of ["model.safetensors", lastCheckpoint]) {
    const [one, other] = [readFileSync(path.join(folder, "whole", name)), readFileSync(path.join(folder, out, name))];
    expect([out, name, one.equals(other)]).toEqual([out, name, true]);
  }
  expect(metricsOf(path.join(folder, out))).toEqual(metricsOf(path.join(folder, "whole")));
}

test("a training that is killed twenty times ends as one that was never killed", async () => {
  const random = randomStream(seed, "kill");
  let kills = 0;
  let begun = 0;
  const finished: string[] = [];
  for (let round = 0; kills < 20 || finished.length === 0; round++) {
    expect(round, `seed ${seed}: the training does not get on`).toBeLessThan(200);
    const out = `killed-${finished.length}`;
    const training = startTraining(trainArguments(folder, out, ...wanted, "--resume"));
    // Once twenty kills are done, it may end.
    if (kills < 20) {
      // Some while it loads, most while it trains and writes: so many checkpoints on, and a moment more.
      if (random.below(6) === 0) await setTimeout(random.below(700));
      else {
        await checkpointAfter(path.join(folder, out), newest(path.join(folder, out)) + 3 * random.below(4), training);
        await setTimeout(random.below(12));
      }
      training.child.kill("SIGKILL");
    }
    const { code, signal, stderr } = await training.ended;
    if (signal === "SIGKILL") kills++;
    else {
      expect([code, stderr]).toEqual([0, expect.any(String)]);
      finished.push(out);
    }
    if (/goes on after step \d/.test(stderr)) begun++;
  }
  expect(kills).toBeGreaterThanOrEqual(20);
  // Killing it only before its first checkpoint would show nothing.
  expect(begun).toBeGreaterThanOrEqual(5);
  for (const out of finished) expectEqualToWhole(out);
  // Half-written files of the killed are gone.
  for (const out of finished)
    expect(readdirSync(path.join(folder, out)).filter((n) => n.includes("checkpoint-") && n.endsWith(".tmp"))).toEqual([]);
}, 150_000);

test("Ctrl-C saves what is done, and the training goes on from there to the same end", async () => {
  const training = startTraining(trainArguments(folder, "stopped", ...wanted, "--resume"));
  await checkpointAfter(path.join(folder, "stopped"), 9, training);
  training.child.kill("SIGINT");
  const { code, stderr } = await training.ended;
  expect([code, stderr]).toEqual([1, expect.stringMatching(/stopped after step \d+ of 150; --resume goes on/)]);
  const again = await uhdc(trainArguments(folder, "stopped", ...wanted, "--resume", "--json"));
  expect([again.code, JSON.parse(again.stdout)]).toEqual([0, expect.objectContaining({ ok: true, step: steps, skipped: 0 })]);
  expectEqualToWhole("stopped");
}, 60_000);

// A limit on the size of files is the nearest thing to a full disk that every system lets a test make.
test.skipIf(process.platform === "win32")(
  "a disk that takes no more leaves the last checkpoint as it was, and says so",
  async () => {
    const out = path.join(folder, "full");
    mkdirSync(out);
    for (const name of ["checkpoint-00000012.safetensors", "metrics.jsonl"]) cpSync(path.join(folder, "whole", name), path.join(out, name));
    const before = readFileSync(path.join(out, "checkpoint-00000012.safetensors"));
    const limited = await limitedTraining(trainArguments(folder, "full", ...wanted, "--resume"), 24);
    expect([limited.code, limited.stderr]).toEqual([1, expect.stringMatching(/checkpoint-00000015\.safetensors cannot be written/)]);
    expect(readFileSync(path.join(out, "checkpoint-00000012.safetensors")).equals(before)).toBe(true);
    expect((await uhdc(trainArguments(folder, "full", ...wanted, "--resume"))).code).toBe(0);
    expectEqualToWhole("full");
  },
  90_000,
);

/** In a shell that lets no file grow beyond so many blocks of 512 bytes. */
async function limitedTraining(
  args: readonly string[],
  blocks: number,
): Promise<{ readonly code: number | null; readonly stderr: string }> {
  const script = `trap '' XFSZ; ulimit -f ${blocks}; exec "$@"`;
  const child = spawn("sh", ["-c", script, "sh", process.execPath, path.join(builtFolder(), "compiler/cli/uhdc.js"), ...args], {
    cwd: root,
    stdio: ["ignore", "ignore", "pipe"],
  });
  let stderr = "";
  child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString("utf8")));
  return new Promise((resolve) => child.on("close", (code) => resolve({ code, stderr })));
}
