// Language models on this engine and on its peers, greedily, from ids to ids: wllama (llama.cpp in WebAssembly, made to run in
// Node by web-worker.ts) and node-llama-cpp (llama.cpp as native code). Peers are installed on first use, as
// peers/language/package.json pins them. Newer releases of wllama do not run here: version 3 needs JSPI, or a file that npm does not
// ship.

import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { load } from "../../runtime/model/load.ts";
import type { Artefact } from "../../runtime/artefact.ts";
import { root } from "./place.ts";
import { installWebWorkers } from "./web-worker.ts";

export type EngineName = "ours" | "wllama" | "node-llama-cpp";

export interface LanguageEngine extends AsyncDisposable {
  readonly name: string;
  /** The `count` likeliest ids that follow, one after the other, from an empty cache. */
  next(ids: readonly number[], count: number): Promise<readonly number[]>;
}

const folder = path.join(root, "spec/bench/peers/language");
const modules = path.join(folder, "node_modules");
/** Rows of the cache, in every engine. */
export const context = 1024;

/** Packages with llama.cpp for this machine's CPU. */
const native: Readonly<Record<string, string>> = {
  "linux-x64": "linux-x64",
  "linux-arm64": "linux-arm64",
  "darwin-arm64": "mac-arm64-metal",
  "darwin-x64": "mac-x64",
  "win32-x64": "win-x64",
  "win32-arm64": "win-arm64",
};

/** Installs the peers unless they are there. Throws when that fails. */
export async function installLanguagePeers(): Promise<void> {
  const binary = native[`${process.platform}-${process.arch}`];
  if (
    existsSync(path.join(modules, "@wllama/wllama")) &&
    (binary === undefined || existsSync(path.join(modules, "@node-llama-cpp", binary)))
  )
    return;
  const flags = ["--no-save", "--no-package-lock", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund"];
  const npm = (...names: readonly string[]): Promise<unknown> =>
    promisify(execFile)("npm", ["install", ...flags, ...names], { cwd: folder, shell: process.platform === "win32" });
  await npm();
  if (binary !== undefined) await npm(`@node-llama-cpp/${binary}@${versionOf("node-llama-cpp")}`);
}

function versionOf(name: string): string {
  return (JSON.parse(readFileSync(path.join(modules, name, "package.json"), "utf8")) as { readonly version: string }).version;
}

/** `artefact` is graphs/llama.uhd for the model, which only ours needs. */
export async function openEngine(name: EngineName, model: string, threads: number, artefact: string | Artefact): Promise<LanguageEngine> {
  switch (name) {
    case "ours":
      return ours(model, threads, artefact);
    case "wllama":
      return wllama(model, threads);
    case "node-llama-cpp":
      return llamaCpp(model, threads);
    default:
      return name satisfies never;
  }
}

async function ours(model: string, threads: number, graph: string | Artefact): Promise<LanguageEngine> {
  const loaded = await load({ graph, model, threads });
  const { session } = loaded;
  const given = { dtype: "f32", shape: [0, widthOf(session)], data: new Float32Array() } as const;
  return {
    name: "ours",
    next: async (ids, count) => {
      const found: number[] = [];
      let rows: readonly number[] = ids;
      for (let past = 0; found.length < count; rows = found.slice(-1)) {
        const { outputs } = await session.run({ rows: { dtype: "i32", shape: [rows.length], data: Int32Array.from(rows) }, given, past });
        past += rows.length;
        found.push(Number(outputs["next"]?.data[0]));
      }
      return found;
    },
    [Symbol.asyncDispose]: () => loaded.close(),
  };
}

function widthOf({ plan }: Awaited<ReturnType<typeof load>>["session"]): number {
  const given = plan.inputs.find((input) => input.name === "given");
  return Number(given === undefined ? NaN : plan.buffers[given.buffer]?.shape[1]);
}

/** The part of wllama 2 that is used. */
interface Wllama {
  loadModel(files: readonly Blob[], options: Readonly<Record<string, number>>): Promise<void>;
  samplingInit(options: { readonly temp: number }): Promise<void>;
  kvClear(): Promise<void>;
  decode(ids: readonly number[], options: object): Promise<unknown>;
  samplingSample(): Promise<{ readonly token: number }>;
  exit(): Promise<void>;
}

async function wllama(model: string, threads: number): Promise<LanguageEngine> {
  installWebWorkers();
  const base = path.join(modules, "@wllama/wllama/esm");
  const { Wllama: Engine } = (await import(pathToFileURL(path.join(base, "index.js")).href)) as {
    readonly Wllama: new (files: Readonly<Record<string, string>>, options: object) => Wllama;
  };
  const code = (name: string): string => `data:application/wasm;base64,${readFileSync(path.join(base, name)).toString("base64")}`;
  const names = ["single-thread/wllama.wasm", "multi-thread/wllama.wasm"];
  const silent = { debug: () => undefined, log: () => undefined, warn: () => undefined, error: () => undefined };
  const engine = new Engine(Object.fromEntries(names.map((name) => [name, code(name)])), { suppressNativeLog: true, logger: silent });
  await engine.loadModel([new Blob([readFileSync(model)])], { n_threads: threads, n_ctx: context, n_batch: 512 });
  await engine.samplingInit({ temp: 0 });
  return {
    name: `wllama ${versionOf("@wllama/wllama")}`,
    next: async (ids, count) => {
      const found: number[] = [];
      await engine.kvClear();
      for (let rows: readonly number[] = ids; found.length < count; rows = found.slice(-1)) {
        await engine.decode([...rows], {});
        found.push((await engine.samplingSample()).token);
      }
      return found;
    },
    [Symbol.asyncDispose]: () => engine.exit(),
  };
}

/** The part of node-llama-cpp that is used. */
interface LlamaSequence {
  clearHistory(): Promise<void>;
  evaluate(ids: readonly number[], options: { readonly temperature: number }): AsyncGenerator<number, void>;
}
interface LlamaContext {
  getSequence(): LlamaSequence;
}
interface LlamaModel {
  createContext(options: object): Promise<LlamaContext>;
}
interface Llama {
  loadModel(options: object): Promise<LlamaModel>;
  dispose(): Promise<void>;
}

async function llamaCpp(model: string, threads: number): Promise<LanguageEngine> {
  const entry = pathToFileURL(path.join(modules, "node-llama-cpp/dist/index.js")).href;
  const { getLlama } = (await import(entry)) as { readonly getLlama: (options: object) => Promise<Llama> };
  // Never built here: what is compared is what npm ships.
  const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: threads });
  const loaded = await llama.loadModel({ modelPath: model, gpuLayers: 0 });
  const sequence = (await loaded.createContext({ contextSize: context, batchSize: 512, threads, sequences: 1 })).getSequence();
  return {
    name: `node-llama-cpp ${versionOf("node-llama-cpp")}`,
    next: async (ids, count) => {
      const found: number[] = [];
      await sequence.clearHistory();
      for await (const id of sequence.evaluate(ids, { temperature: 0 })) {
        found.push(id);
        if (found.length === count) break;
      }
      return found;
    },
    [Symbol.asyncDispose]: () => llama.dispose(),
  };
}
