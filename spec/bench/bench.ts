// npm run bench: every bench in a process of its own (thread pools settle once a process, and no bench leaves memory or
// compiled code to the next), on this engine and on others that are named. What is measured is in cases/.

import { fork } from "node:child_process";
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { Case } from "./cases/case.ts";
import { decoding } from "./cases/decode.ts";
import { layer, matmuls } from "./cases/encoder.ts";
import { packedWeights } from "./cases/packed.ts";
import { language } from "./cases/language.ts";
import { pictures } from "./cases/pictures.ts";
import { preprocesses } from "./cases/preprocess.ts";
import { bundleSize, compileTime, peakMemory } from "./cases/product.ts";
import { webgpuCold } from "./cases/webgpu-cold.ts";
import { trainingLayer, trainingStep } from "./cases/training.ts";
import { webgpuLayer, webgpuMatmuls } from "./cases/webgpu.ts";
import { webgpuTraining } from "./cases/webgpu-training.ts";
import { installPeers, noPeersVariable } from "./peers.ts";
import { log } from "./place.ts";
import { failedRow, table, type Engine, type Row } from "./rows.ts";
import { threadsText, type Context } from "./versus.ts";

const cases: readonly Case[] = [
  ...matmuls,
  ...packedWeights,
  ...language,
  layer,
  ...decoding,
  ...preprocesses,
  ...webgpuMatmuls,
  webgpuLayer,
  ...webgpuCold,
  trainingStep,
  trainingLayer,
  webgpuTraining,
  compileTime,
  bundleSize,
  peakMemory,
  pictures,
];

const helpText = `Compares uhd with ONNX Runtime, TensorFlow.js, jax-js, sharp, llama.cpp and PyTorch (of the Python that UHD_PYTHON names), in turns
on this machine, and with its own limits.

npm run bench -- [options]

  --quick         ends in 5 minutes (for each Node): fewer rounds, an encoder of few layers
  --filter NAME   only benches whose name contains NAME; may be repeated
  --threads N     this many threads instead of each bench's own choice; may be repeated
  --node PATH     measures under this Node too; may be repeated (or UHD_BENCH_NODE)
  --json FILE     writes the rows: {name, threads, ours, peer, peerName, ratio, unit, …}
  --list          names the benches
  --help

ratio is peer / ours, the median over interleaved rounds: above 1 ours is faster (or smaller). Node 22 and later have
relaxed SIMD and run other kernels than Node 20; each block says which. The first run installs the peers that
spec/bench/peers/package-lock.json pins. A peer's results are compared with ours before anything is timed; where they
differ, the bench fails. A bench that failed or whose peer was not there has a row that says so, without a ratio.

Examples:
  npm run bench -- --quick --json bench.json
  npm run bench -- --filter matmul --threads 1 --node ~/node24/bin/node

Exit codes: 0 every row has its ratio; 1 one has none; 2 the command line is wrong.`;

/** --quick stops after this many milliseconds on each engine. */
const quickLimit = 290_000;
const lateText = "the 5 minutes of --quick were over";

interface Options {
  readonly quick: boolean;
  readonly filter: readonly string[];
  readonly threads: readonly number[];
  readonly node: readonly string[];
  readonly json: string | undefined;
  readonly list: boolean;
  readonly help: boolean;
  /** Of the processes that the bench starts: the one bench they run. */
  readonly only: string | undefined;
}

/** What the process of one bench answers. */
type Answer = { readonly rows: readonly Row[] } | { readonly failure: string };

class UsageError extends Error {}

async function main(): Promise<number> {
  const values = readOptions();
  if (values.help) {
    console.log(helpText);
    return 0;
  }
  if (values.only !== undefined) return answer(values.only, values);
  const chosen = cases.filter(({ name }) => values.filter.length === 0 || values.filter.some((text) => name.includes(text)));
  if (chosen.length === 0) throw new UsageError(`no bench is called that; there are\n${cases.map(({ name }) => `  ${name}`).join("\n")}`);
  if (values.list) {
    console.log(chosen.map(({ name }) => name).join("\n"));
    return 0;
  }
  return everything(chosen, values);
}

function readOptions(): Options {
  try {
    const { values } = parseArgs({
      options: {
        quick: { type: "boolean" },
        filter: { type: "string", multiple: true },
        threads: { type: "string", multiple: true },
        node: { type: "string", multiple: true },
        json: { type: "string" },
        list: { type: "boolean" },
        help: { type: "boolean" },
        only: { type: "string" },
      },
    });
    const { quick = false, filter = [], threads = [], node = [], json, list = false, help = false, only } = values;
    return { quick, filter, threads: threads.map(threadCount), node, json, list, help, only };
  } catch (error) {
    if (error instanceof TypeError) throw new UsageError(error.message);
    throw error;
  }
}

function threadCount(text: string): number {
  if (!/^[1-9]\d?$/.test(text)) throw new UsageError(`--threads takes a number from 1 to 99, found "${text}"`);
  return Number(text);
}

async function everything(chosen: readonly Case[], values: Options): Promise<number> {
  const reason = await installPeers();
  if (reason !== undefined) log(`the peers cannot be installed: ${reason}`);
  const fromEnvironment = process.env["UHD_BENCH_NODE"];
  const others = values.node.length > 0 || fromEnvironment === undefined || fromEnvironment === "" ? values.node : [fromEnvironment];
  const engines: Engine[] = [];
  for (const node of [process.execPath, ...others]) engines.push(await onEngine(node, chosen, values, reason));
  console.log(table(engines));
  const all = engines.flatMap(({ rows }) => rows);
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(all, null, 2)}\n`);
  const without = all.filter((row) => row.ratio === null);
  for (const { engine, name, threads, peerName, notRun } of without)
    log(`no ratio: ${engine}, ${name}, ${threadsText(threads)}, ${peerName}: ${notRun ?? "no reason given"}`);
  return without.length === 0 ? 0 : 1;
}

async function onEngine(node: string, chosen: readonly Case[], values: Options, noPeers: string | undefined): Promise<Engine> {
  const deadline = values.quick ? performance.now() + quickLimit : Infinity;
  const rows: Row[] = [];
  for (const { name, threads } of chosen) {
    for (const count of values.threads.length === 0 ? threads : values.threads) {
      log(`${name}, ${threadsText(count)}`);
      const args = ["--only", name, "--threads", String(count), ...(values.quick ? ["--quick"] : [])];
      const result = await inProcess(node, args, count, noPeers, deadline);
      if ("rows" in result) rows.push(...result.rows);
      else rows.push(failedRow(name, count, node, result.failure));
    }
  }
  // Of an engine that ran nothing only the path is known.
  const engine = rows.find((row) => row.ours !== null)?.engine ?? node;
  return { engine, rows: rows.map((row) => ({ ...row, engine })) };
}

function inProcess(node: string, args: readonly string[], threads: number, noPeers: string | undefined, deadline: number): Promise<Answer> {
  const timeout = Math.ceil(deadline - performance.now());
  if (timeout <= 0) return Promise.resolve({ failure: lateText });
  return new Promise((resolve) => {
    const child = fork(fileURLToPath(import.meta.url), args, {
      execPath: node,
      execArgv: [],
      // Peers that work in libuv's pool get as many threads as we do.
      env: { ...process.env, UV_THREADPOOL_SIZE: String(threads), ...(noPeers === undefined ? {} : { [noPeersVariable]: noPeers }) },
      stdio: ["ignore", "ignore", "inherit", "ipc"],
      ...(timeout === Infinity ? {} : { timeout }),
    });
    let received: Answer | undefined;
    child.on("message", (message) => (received = message as Answer));
    child.on("error", (error) => {
      resolve({ failure: error.message });
    });
    child.on("exit", (code, signal) => {
      const late = performance.now() >= deadline;
      resolve(received ?? { failure: late ? lateText : `its process ended with ${signal ?? `code ${code ?? "unknown"}`}` });
    });
  });
}

/** In the process of one bench: runs it and sends its rows. */
async function answer(name: string, values: Options): Promise<number> {
  const found = cases.find((one) => one.name === name);
  if (found === undefined) throw new UsageError(`no bench is called ${name}`);
  const context: Context = {
    threads: values.threads[0] ?? found.threads[0] ?? 1,
    quick: values.quick,
    engine: `Node ${process.versions.node}`,
  };
  let message: Answer;
  try {
    message = { rows: await found.run(context) };
  } catch (error) {
    log(error instanceof Error ? (error.stack ?? error.message) : String(error));
    message = { failure: error instanceof Error ? error.message : String(error) };
  }
  await new Promise<void>((resolve) => {
    if (process.send === undefined) resolve(console.log(JSON.stringify(message, null, 2)));
    else process.send(message, () => resolve());
  });
  return "rows" in message ? 0 : 1;
}

try {
  // Thread pools of the peers would keep the process alive.
  process.exit(await main());
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  log(`${error.message}\n(--help for the options)`);
  process.exit(2);
}
