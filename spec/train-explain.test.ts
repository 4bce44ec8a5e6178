// uhdc explain --train: what is trained, what it costs, and that the memory it tells is what a step takes.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import type { Explanation } from "../compiler/cli/commands/explain.ts";
import { Trainer } from "../runtime/train/trainer.ts";
import { uhdc } from "./cli-support.ts";
import { trainStep } from "./train-support.ts";

const text = `module Layer(inputs: int, outputs: int) {
  param weight: f32[outputs, inputs]
  forward(x: f32[N, inputs]) -> f32[N, outputs] { linear(x, weight) }
}
graph g(x: f32[N in 1..=64, 12], labels: i32[N]) -> loss: f32[] {
  use first = Layer(12, 32)
  use second = Layer(32, 5)
  cross_entropy(second(gelu(first(x))), labels)
}
train {
  loss: "loss"
  trainable: ["second.*"]
  optimiser { rate: 0.01 }
  schedule { kind: "cosine" }
  accumulate: 2
}
`;

const folder = mkdtempSync(join(tmpdir(), "uhd-explain-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("tells the training step: parameters, optimiser, kernels, and the memory that a step takes", async () => {
  const file = join(folder, "g.uhd");
  writeFileSync(file, text);
  const plain = await uhdc(["explain", "--train", file, "--size", "N=20"]);
  expect(plain.stderr).toBe("");
  expect(plain.stdout).toContain("544 parameters\ntrained: 1 parameters of 160 elements (29.4 %)");
  expect(plain.stdout).toContain("optimiser: AdamW, 1.88 KiB; rate 0.01, cosine; 2 runs a step");
  expect(plain.stdout).not.toContain("slow:");
  const { stdout } = await uhdc(["explain", "--train", file, "--size", "N=20", "--json"]);
  const explained = JSON.parse(stdout) as Explanation;
  expect(explained.training).toMatchObject({ trained: { parameters: 1, elements: 160 }, optimiser: 1920, accumulate: 2 });
  await using trainer = await Trainer.create(trainStep(text), { threads: 1, init: { seed: 1 }, steps: 3 });
  const { memory } = await trainer.step({
    x: { dtype: "f32", shape: [20, 12], data: new Float32Array(240).fill(0.5) },
    labels: { dtype: "i32", shape: [20], data: new Int32Array(20) },
  });
  expect(memory.arena).toBe(explained.memory.arena);
  expect(Math.abs(memory.weights / explained.memory.weights - 1)).toBeLessThan(0.02);
});

test("a file without a train section is a mistake of the command line", async () => {
  const file = join(folder, "none.uhd");
  writeFileSync(file, text.slice(0, text.indexOf("train {")));
  const { code, stderr } = await uhdc(["explain", "--train", file, "--size", "N=20"]);
  expect(code).toBe(2);
  expect(stderr).toContain("has no train section");
});
