// The peers: installed from the lock file beside them on first use, with scripts off, apart from the product's own
// packages. Runs ONNX models on them. A peer that cannot be had is a reason, not an error.

import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import type { EncodedModel, OnnxGraph } from "./onnx.ts";
import { log, root } from "./place.ts";

export type PeerName = "onnxruntime-web" | "onnxruntime-node";

export const onnxPeers: readonly PeerName[] = ["onnxruntime-web", "onnxruntime-node"];

/** What gpu-peers.ts runs. */
const gpuPackages = ["@jax-js/jax", "@tensorflow/tfjs-backend-webgpu", "@tensorflow/tfjs-core"] as const;
type Package = PeerName | (typeof gpuPackages)[number];

const folder = path.join(root, "spec/bench/peers");

/** Tells the processes of the benches why the peers could not be installed. */
export const noPeersVariable = "UHD_BENCH_NO_PEERS";

/** The part of onnxruntime-common that is used; both peers have it. */
interface OrtTensor {
  readonly data: Float32Array;
}
interface OrtSession {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  run(feeds: Readonly<Record<string, OrtTensor>>): Promise<Readonly<Record<string, OrtTensor>>>;
  release(): Promise<void>;
}
export interface Ort {
  readonly env: { logLevel: string; readonly wasm: { numThreads: number; wasmPaths: string } };
  readonly Tensor: new (type: "float32", data: Float32Array, dims: readonly number[]) => OrtTensor;
  readonly InferenceSession: {
    create(model: Uint8Array | string, options: Readonly<Record<string, unknown>>): Promise<OrtSession>;
  };
}

/** Installs what the lock file pins unless it is there; a reason when that fails. */
export async function installPeers(): Promise<string | undefined> {
  if ([...onnxPeers, ...gpuPackages].every((name) => installed(name))) return undefined;
  log("installing the peers (spec/bench/peers)");
  const flags = ["--ignore-scripts", "--omit-lockfile-registry-resolved", "--no-audit", "--no-fund"];
  try {
    await promisify(execFile)("npm", ["ci", ...flags], { cwd: folder, shell: process.platform === "win32" });
    return undefined;
  } catch (error) {
    return `npm ci failed: ${error instanceof Error ? (error.message.split("\n").find((line) => line.startsWith("npm error")) ?? error.message) : String(error)}`;
  }
}

function wanted(name: Package): string {
  const { dependencies } = JSON.parse(readFileSync(path.join(folder, "package.json"), "utf8")) as {
    dependencies: Record<string, string>;
  };
  return dependencies[name] ?? "";
}

function installed(name: Package): boolean {
  const file = path.join(folder, "node_modules", name, "package.json");
  return existsSync(file) && (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version === wanted(name);
}

/** What finds the package, and its version. Throws where it is not there. */
export function packageOf(name: PeerName): { readonly from: string; readonly version: string } {
  if (!installed(name)) throw new Error(process.env[noPeersVariable] ?? "it is not installed");
  return { from: path.join(folder, "package.json"), version: wanted(name) };
}

/** A model on a peer, ready to run. */
interface PeerModel extends AsyncDisposable {
  readonly name: string;
  run(inputs: Readonly<Record<string, { readonly dims: readonly number[]; readonly data: Float32Array }>>): Promise<Float32Array>;
}

/** Loads the model. Throws when the peer is not there or refuses the model. */
export async function openOnnx(name: PeerName, graph: OnnxGraph, threads: number, provider?: "webgpu"): Promise<PeerModel> {
  const { from, version } = packageOf(name);
  const web = name === "onnxruntime-web";
  const ort = web ? await importWeb(threads) : (createRequire(from)(name) as Ort);
  ort.env.logLevel = "error";
  const encoded = graph.encode(web ? "beside" : "inside");
  const session = await ort.InferenceSession.create(encoded.model, {
    executionProviders: [provider ?? (web ? "wasm" : "cpu")],
    graphOptimizationLevel: "all",
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    executionMode: "sequential",
    logSeverityLevel: 3,
    ...(web ? { externalData: externalData(encoded) } : {}),
  });
  const output = session.outputNames[0] ?? "";
  return {
    name: `${name} ${version}`,
    run: async (inputs) => {
      const feeds = Object.entries(inputs).map(([key, { dims, data }]) => [key, new ort.Tensor("float32", data, dims)] as const);
      const result = (await session.run(Object.fromEntries(feeds)))[output];
      if (result === undefined) throw new Error(`${name} gave no ${output}`);
      return result.data;
    },
    [Symbol.asyncDispose]: () => session.release(),
  };
}

/** The module settles its threads when it first runs: one thread count a process. */
async function importWeb(threads: number): Promise<Ort> {
  const dist = path.join(folder, "node_modules/onnxruntime-web/dist");
  const ort = (await import(pathToFileURL(path.join(dist, "ort.node.min.mjs")).href)) as Ort;
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = pathToFileURL(`${dist}${path.sep}`).href;
  return ort;
}

function externalData(encoded: EncodedModel): readonly { readonly path: string; readonly data: Uint8Array }[] {
  return [...encoded.external].map(([location, data]) => ({ path: location, data }));
}
