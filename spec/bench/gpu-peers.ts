// Peers of the WebGPU benches that are no ONNX runtimes: TensorFlow.js and jax-js, in Node on the same adapter through Dawn.
// Both look for a browser's navigator. A peer that cannot be had is a reason, not an error.

import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { webGpu } from "../../runtime/devices/webgpu/adapter.ts";
import { noPeersVariable } from "./peers.ts";
import { root } from "./place.ts";
import type { Opened } from "./versus.ts";

/** x [m, k] times a constant [k, n]. */
export interface Multiply {
  readonly m: number;
  readonly k: number;
  readonly n: number;
  readonly x: Float32Array;
  readonly b: Float32Array;
}

const folder = path.join(root, "spec/bench/peers/node_modules");

/** A package's version; throws where it is not installed. */
function versionOf(name: string): string {
  const file = path.join(folder, name, "package.json");
  if (!existsSync(file)) throw new Error(process.env[noPeersVariable] ?? "it is not installed");
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}

/** What `navigator.gpu` is in a browser. */
async function likeABrowser(): Promise<void> {
  const { globals } = createRequire(path.join(root, "package.json"))("webgpu") as { readonly globals: object };
  Object.assign(globalThis, globals);
  Object.defineProperty(globalThis, "navigator", { value: { gpu: await webGpu(), userAgent: "node" }, configurable: true });
}

const require = createRequire(path.join(folder, "..", "package.json"));

interface TfTensor {
  data(): Promise<Float32Array>;
  dispose(): void;
}
interface Tf {
  env(): { set(name: string, value: boolean): void };
  setBackend(name: string): Promise<boolean>;
  ready(): Promise<void>;
  tensor2d(data: Float32Array, shape: readonly [number, number]): TfTensor;
  matMul(a: TfTensor, b: TfTensor): TfTensor;
}

export async function openTfjs({ m, k, n, x, b }: Multiply): Promise<Opened> {
  const version = versionOf("@tensorflow/tfjs-backend-webgpu");
  await likeABrowser();
  const tf = require("@tensorflow/tfjs-core") as Tf;
  require("@tensorflow/tfjs-backend-webgpu");
  // Otherwise small work is done on the CPU.
  tf.env().set("WEBGPU_CPU_FORWARD", false);
  if (!(await tf.setBackend("webgpu"))) throw new Error("its WebGPU backend does not start");
  await tf.ready();
  const matrix = tf.tensor2d(b, [k, n]);
  const run = async (): Promise<Float32Array> => {
    const given = tf.tensor2d(x, [m, k]);
    const product = tf.matMul(given, matrix);
    const result = await product.data();
    given.dispose();
    product.dispose();
    return result;
  };
  return { name: `tfjs-webgpu ${version}`, run, result: run, [Symbol.asyncDispose]: async () => matrix.dispose() };
}

interface JaxArray {
  /** Another reference: operations use up the ones they are given. */
  readonly ref: JaxArray;
  reshape(shape: readonly number[]): JaxArray;
  data(): Promise<Float32Array>;
}
interface Jax {
  init(device: string): Promise<readonly string[]>;
  defaultDevice(device: string): void;
  readonly numpy: { array(data: Float32Array): JaxArray; matmul(a: JaxArray, b: JaxArray): JaxArray };
}

export async function openJax({ m, k, n, x, b }: Multiply): Promise<Opened> {
  const version = versionOf("@jax-js/jax");
  await likeABrowser();
  const jax = (await import(pathToFileURL(path.join(folder, "@jax-js/jax/dist/index.js")).href)) as Jax;
  if (!(await jax.init("webgpu")).includes("webgpu")) throw new Error("its WebGPU backend does not start");
  jax.defaultDevice("webgpu");
  const { numpy } = jax;
  const matrix = numpy.array(b).reshape([k, n]);
  const run = async (): Promise<Float32Array> => numpy.matmul(numpy.array(x).reshape([m, k]), matrix.ref).data();
  return { name: `jax-js ${version}`, run, result: run, [Symbol.asyncDispose]: async () => undefined };
}
