// Makes the pictures, trains UHD-tiny and what it is compared with, and evaluates them on strings that none has seen. A model
// learns in four stages: its visual encoder letters and colours of patches, its resampler to keep them in its tokens, then the
// whole what is written in pictures of one slice, in which colours and where, then questions about pictures of every size.
// What is there already is not done again, and a training that was stopped goes on. `node examples/read-text/train.mjs --help`.

import { spawn } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { UhdError } from "../../runtime/errors.ts";
import { openCheckpoint } from "../../runtime/weights/checkpoint.ts";
import { rewrite } from "../../runtime/weights/write.ts";
import { writeSplit, writeTokenizer } from "./dataset.ts";
import { trainEncoder } from "./encoder.ts";
import { evaluate, scores, type Score } from "./evaluate.ts";

/** Config values of each model. `uhdc explain` counts no fewer operations for `fixed` than for `uhd`. */
export const models: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  uhd: {},
  fixed: { sliced: "false", layers: "5", vit_width: "192", vit_heads: "6", vit_hidden: "800" },
  unmarked: { marked: "false" },
};

const help = `Trains UHD-tiny to read text in pictures, and tells how well it does.

  --out <folder>     pictures, trainings and results; default out/read-text
  --models <names>   of ${Object.keys(models).join(", ")}; default all
  --seeds <list>     default 1,2,3
  --pictures <n>     of the training split; default 60000
  --small <n>        pictures of one slice, for the third stage; default 100000
  --test <n>         pictures of the test split; default 400
  --letters <n>      steps of the first stage, 32 pictures each: letters and colours of patches; default 12000
  --tokens <n>       steps of the second, 32 pictures each: the same, of the resampler's tokens; default 9000. A model without
                     a resampler has as many more steps of the first
  --written <n>      steps of the third, 32 pictures each: what is written, how and where; default 8000
  --steps <n>        steps of the fourth, 8 pictures each: questions; default 10000
  --threads <n>      default: those of the machine`;

const { values } = parseArgs({
  options: {
    out: { type: "string", default: "out/read-text" },
    models: { type: "string", default: Object.keys(models).join(",") },
    seeds: { type: "string", default: "1,2,3" },
    pictures: { type: "string", default: "60000" },
    small: { type: "string", default: "100000" },
    test: { type: "string", default: "400" },
    letters: { type: "string", default: "12000" },
    tokens: { type: "string", default: "9000" },
    written: { type: "string", default: "8000" },
    steps: { type: "string", default: "10000" },
    threads: { type: "string" },
    help: { type: "boolean", default: false },
  },
});

const graph = "graphs/uhd-tiny.uhd";

/** A stage ended before its last step; what is done is saved. */
class Stopped extends Error {
  override readonly name = "Stopped";
}

async function main(uhdc: string): Promise<void> {
  if (values.help) {
    console.log(help);
    return;
  }
  const data = path.join(values.out, "data");
  await makeData(data);
  const results: Record<string, Readonly<Record<string, Score>>> = {};
  for (const name of values.models.split(",")) {
    const config = models[name];
    if (config === undefined) throw new Error(`there is no model ${name}; there are ${Object.keys(models).join(", ")}`);
    for (const seed of values.seeds.split(",")) {
      const out = path.join(values.out, `${name}-${seed}`);
      const stage = { uhdc, config, seed, data };
      const reads = await trained(
        { ...stage, out: `${out}-written`, records: "small", steps: values.written, batch: "32", rate: "0.002" },
        () => encoderOf(config, seed),
      );
      const model = await trained({ ...stage, out, records: "train", steps: values.steps, batch: "8", rate: "0.001" }, () =>
        Promise.resolve(reads),
      );
      const began = performance.now();
      const answered = await evaluate({ graph, config, model: await halved(model), folder: data, split: "test" });
      writeFileSync(path.join(out, "answers.json"), JSON.stringify(answered, null, 1));
      const found = scores(answered);
      results[`${name}, seed ${seed}`] = found;
      console.log(`${name}, seed ${seed} (answers in ${((performance.now() - began) / 1000).toFixed(0)} s)`);
      for (const [about, s] of Object.entries(found)) console.log(`  ${about.padEnd(8)} ${scoreText(s)}`);
    }
  }
  writeFileSync(path.join(values.out, "results.json"), `${JSON.stringify(results, null, 1)}\n`);
  console.log(`over seeds\n${overSeeds(results)}`);
}

const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;
const scoreText = (s: Score): string => `${percent(s.share)} of ${s.questions} right, 95% interval ${percent(s.low)} to ${percent(s.high)}`;

/** Mean of the seeds, with the 95% interval that Student's t gives to so few. */
function overSeeds(results: Readonly<Record<string, Readonly<Record<string, Score>>>>): string {
  const quantiles = [NaN, 12.706, 4.303, 3.182, 2.776, 2.571];
  const names = [...new Set(Object.keys(results).map((key) => key.split(",")[0] ?? ""))];
  return names
    .flatMap((name) => {
      const runs = Object.entries(results).flatMap(([key, s]) => (key.startsWith(`${name},`) ? [s] : []));
      return Object.keys(runs[0] ?? {}).map((about) => {
        const shares = runs.map((r) => r[about]?.share ?? 0);
        const mean = shares.reduce((a, b) => a + b, 0) / shares.length;
        const variance = shares.reduce((sum, x) => sum + (x - mean) ** 2, 0) / Math.max(1, shares.length - 1);
        const half = (quantiles[shares.length - 1] ?? 1.96) * Math.sqrt(variance / shares.length);
        const interval = shares.length === 1 ? "one seed" : `± ${(100 * half).toFixed(1)} points, ${shares.length} seeds`;
        return `  ${name.padEnd(9)} ${about.padEnd(8)} ${percent(mean)} (${interval})`;
      });
    })
    .join("\n");
}

async function makeData(folder: string): Promise<void> {
  const made = path.join(folder, "made.json");
  const wanted = JSON.stringify({ pictures: values.pictures, small: values.small, test: values.test });
  if (existsSync(made) && readFileSync(made, "utf8") === wanted) return;
  await writeTokenizer(path.join(folder, "tokenizer"));
  await writeSplit(folder, "train", Number(values.pictures), 1);
  await writeSplit(folder, "train", Number(values.small), 1, "small");
  await writeSplit(folder, "validation", Math.min(200, Number(values.test)), 1);
  await writeSplit(folder, "test", Number(values.test), 1);
  writeFileSync(made, wanted);
}

/** Where a training of answers begins: an encoder, and a resampler where there is one, that all models of one shape share. */
async function encoderOf(config: Readonly<Record<string, string>>, seed: string): Promise<string> {
  const own = Object.fromEntries(Object.entries(config).filter(([name]) => name === "layers" || name.startsWith("vit_")));
  const named = (...parts: readonly string[]): string => [...parts, ...Object.values(own), seed].join("-");
  const [letters, tokens] = [Number(values.letters), Number(values.tokens)];
  if (config["sliced"] === "false") return seeing(named("encoder"), own, seed, letters + tokens);
  const encoder = await seeing(named("encoder"), own, seed, letters);
  return seeing(named("tokens"), { ...own, compressed: "true", rate: "0.003" }, seed, tokens, encoder);
}

async function seeing(name: string, config: Readonly<Record<string, string>>, seed: string, steps: number, from?: string): Promise<string> {
  const out = path.join(values.out, name);
  const model = path.join(out, "model.safetensors");
  if (existsSync(model)) return model;
  const began = performance.now();
  let first: number | undefined;
  const sum = { letters: 0, colours: 0, loss: 0 };
  let count = 0;
  const found = await interruptible((signal) =>
    trainEncoder({
      config,
      from,
      seed: Number(seed),
      steps,
      scenes: 4,
      threads: values.threads === undefined ? undefined : Number(values.threads),
      out,
      signal,
      onStep(step, figures) {
        first ??= step - 1;
        count++;
        for (const key of ["letters", "colours", "loss"] as const) sum[key] += figures[key];
        if (step % 100 !== 0 && step !== steps) return;
        const left = ((performance.now() - began) / 1000 / (step - first)) * (steps - step);
        console.error(
          `${name}: step ${step} of ${steps}, loss ${(sum.loss / count).toFixed(3)}, ${percent(sum.letters / count)} of letters and ` +
            `${percent(sum.colours / count)} of colours found, ${left.toFixed(0)} s left`,
        );
        Object.assign(sum, { letters: 0, colours: 0, loss: 0 });
        count = 0;
      },
    }),
  );
  if (found === undefined) throw new Stopped(`${name} was stopped and is saved; the same command goes on with it`);
  return found;
}

/** The same parameters in f16, for use: that file is what is evaluated, and what comes with the package. */
async function halved(model: string): Promise<string> {
  const out = model.replace(/\.safetensors$/, "-f16.safetensors");
  const checkpoint = await openCheckpoint([model]);
  try {
    await rewrite(out, checkpoint.tensors, { dtype: "f16", metadata: { format: "pt" } });
  } finally {
    await checkpoint.close();
  }
  return out;
}

/** Ctrl-C reaches what is running, which saves and ends; this program ends after it. */
async function interruptible<R>(run: (signal: AbortSignal) => Promise<R>): Promise<R> {
  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.on("SIGINT", stop);
  try {
    return await run(abort.signal);
  } finally {
    process.off("SIGINT", stop);
  }
}

interface Stage {
  readonly uhdc: string;
  readonly config: Readonly<Record<string, string>>;
  readonly seed: string;
  readonly data: string;
  readonly out: string;
  /** The name of the records and the folder of their images. */
  readonly records: string;
  readonly steps: string;
  readonly batch: string;
  readonly rate: string;
}

/** The parameters of a stage, which begins with those of `from`. */
async function trained(
  { uhdc, config, seed, data, out, records, steps, batch, rate }: Stage,
  from: () => Promise<string>,
): Promise<string> {
  const model = path.join(out, "model.safetensors");
  if (existsSync(model)) return model;
  const given = {
    data: `${data}/${records}.json`,
    images: `${data}/images`,
    tokenizer: `${data}/tokenizer`,
    out,
    weights: await from(),
    init: `seeded:${seed}`,
    ...{ seed, steps, batch, save: "100" },
    ...(values.threads === undefined ? {} : { threads: values.threads }),
  };
  const options = Object.entries(given).flatMap(([name, value]) => [`--${name}`, value]);
  const sets = Object.entries({ ...config, rate }).flatMap(([name, value]) => ["--set", `${name}=${value}`]);
  // The signal of Ctrl-C goes to the training too.
  await interruptible(
    () =>
      new Promise<void>((resolve, reject) => {
        const child = spawn(process.execPath, [uhdc, "train", graph, "--resume", ...options, ...sets], { stdio: "inherit" });
        child.on("error", reject);
        child.on("close", (code) =>
          code === 0 ? resolve() : reject(new Stopped(`the training ended with ${String(code)}; the same command goes on with it`)),
        );
      }),
  );
  return model;
}

try {
  await main("dist/compiler/cli/uhdc.js");
} catch (error) {
  console.error(error instanceof UhdError || error instanceof Stopped ? error.message : error);
  process.exitCode = 1;
}
