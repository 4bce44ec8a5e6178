// What the tests of `uhdc train` share: a model so small that its step takes a millisecond, records with pictures, and
// trainings as processes that can be watched and killed.

import { spawn, type ChildProcess } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import sharp from "sharp";
import { writeTokenizer } from "../examples/read-text/dataset.ts";
import { builtFolder, root } from "./cli-support.ts";

/** A token is told from the one before it and from the upper left corner of its picture. */
export const tinyModel = `config d: int = 16
config accumulate: int = 2
config shift: float = 0.5

type Sample = { tokens: int, images: [int] }

module Model() {
  param embed: f32[104, d] at "embed_tokens.weight" ~ normal(0.5)
  param light: f32[d, 12] at "light.weight" ~ normal(0.5)
  param none: f32[1, d] at "none.weight" ~ normal(0.5)
  param head: f32[104, d] at "head.weight" ~ normal(0.3)
  forward(patches: u8[N, 3, 2, 2], before: i32[L], image: i32[L]) -> f32[L, 104] {
    let pixels = cast(reshape(patches, [N, 12]), f32) / 255
    let seen = concat(linear(log(pixels + shift), light), none, axis: 0)
    linear(tanh(gather(embed, before) + gather(seen, image)), head)
  }
}

graph pictures(image: u8[H in 2..=4096, W in 2..=4096, 3]) -> patches: u8[1, 3, 2, 2] {
  reshape(transpose(image[0:2, 0:2], permutation: [2, 0, 1]), [1, 3, 2, 2])
}

graph learn(
  patches: u8[N in 0..=1000, 3, 2, 2],
  ids: i32[L in 1..=100000],
  labels: i32[L],
  images: [(int, int)],
  samples: [Sample]
) -> loss: f32[] {
  use model = Model() at "model"
  table before: i32[L] = [max(i - 1, 0) for i in 0..L]
  let seen = offsets([len(s.images) for s in samples])
  table image: i32[L] = [
    if len(s.images) == 0 { N } else { seen[i] }
    for (i, s) in enumerate(samples) for _ in 0..s.tokens
  ]
  cross_entropy(model(patches, gather(ids, before), image), labels)
}

train {
  graph: "learn"
  loss: "loss"
  trainable: ["**"]
  optimiser { name: "adamw", rate: 0.01, decay: 0.01 }
  schedule { kind: "cosine", warmup: 0.05 }
  clip: 1.0
  accumulate: accumulate
}
`;

export interface Turn {
  readonly from: string;
  readonly value: string;
}

export const turns = (...values: readonly string[]): readonly Turn[] =>
  values.map((value, i) => ({ from: i % 2 === 0 ? "human" : "gpt", value }));

const shades: Readonly<Record<string, string>> = { red: "#d02020", green: "#20c040", blue: "#2030d0", black: "#000000" };

/** Writes model, tokenizer, pictures and twelve records into a folder. */
export async function makeTraining(folder: string): Promise<void> {
  mkdirSync(path.join(folder, "images"), { recursive: true });
  writeFileSync(path.join(folder, "tiny.uhd"), tinyModel);
  await writeTokenizer(path.join(folder, "tokenizer"));
  for (const [name, background] of Object.entries(shades)) {
    const pixels = await sharp({ create: { width: 5, height: 3, channels: 3, background } })
      .png()
      .toBuffer();
    writeFileSync(path.join(folder, `images/${name}.png`), pixels);
  }
  const records = Array.from({ length: 12 }, (_, i) => {
    const name = ["red", "green", "blue"][i % 3] ?? "red";
    return i % 4 === 3
      ? { id: `t${i}`, conversations: turns(`what is ${i}?`, `${i}`) }
      : { id: `p${i}`, image: `${name}.png`, conversations: turns("<image>\nwhat colour?", name) };
  });
  writeFileSync(path.join(folder, "data.json"), JSON.stringify(records, null, 1));
}

/** Arguments of `uhdc train` in a folder that makeTraining made. */
export function trainArguments(folder: string, out: string, ...more: readonly string[]): readonly string[] {
  const at = (name: string): string => path.join(folder, name);
  const fixed = ["--data", at("data.json"), "--images", at("images"), "--tokenizer", at("tokenizer"), "--out", at(out)];
  return ["train", at("tiny.uhd"), ...fixed, "--init", "seeded:1", "--threads", "1", ...more];
}

export interface Training {
  readonly child: ChildProcess;
  /** How it ended. */
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null; readonly stderr: string }>;
}

export function startTraining(args: readonly string[]): Training {
  const child = spawn(process.execPath, [path.join(builtFolder(), "compiler/cli/uhdc.js"), ...args], {
    cwd: root,
    stdio: ["ignore", "ignore", "pipe"],
  });
  let stderr = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    stderr += chunk.toString("utf8");
  });
  const ended = new Promise<Awaited<Training["ended"]>>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, stderr }));
  });
  return { child, ended };
}

/** The lines of a training's metrics without the times. */
export function metricsOf(folder: string): readonly string[] {
  const text = readFileSync(path.join(folder, "metrics.jsonl"), "utf8");
  return text
    .trimEnd()
    .split("\n")
    .map((line) => {
      const { milliseconds: _, ...rest } = JSON.parse(line) as Readonly<Record<string, unknown>>;
      return JSON.stringify(rest);
    });
}
