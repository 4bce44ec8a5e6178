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

function dawn(): { readonly GPUComputePassEncoder: { readonly prototype: GPUComputePassEncoder } } {
  return (createRequire(path.join(root, "package.json"))("webgpu") as { readonly globals: ReturnType<typeof dawn> }).globals;
}

/** Kernels that `work` launches, whoever does it. */
export async function launches(work: () => Promise<unknown>): Promise<number> {
  const { prototype } = dawn().GPUComputePassEncoder;
  const { dispatchWorkgroups } = prototype;
  let count = 0;
  prototype.dispatchWorkgroups = function (this: GPUComputePassEncoder, ...counts): undefined {
    count++;
    dispatchWorkgroups.apply(this, counts);
  };
  try {
    await work();
  } finally {
    prototype.dispatchWorkgroups = dispatchWorkgroups;
  }
  return count;
}

/** What `navigator.gpu` is in a browser. */
async function likeABrowser(): Promise<void> {
  const globals = dawn();
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

export interface JaxArray {
  /** Another reference: operations use up the ones they are given. */
  readonly ref: JaxArray;
  reshape(shape: readonly number[]): JaxArray;
  transpose(): JaxArray;
  add(other: JaxArray | number): JaxArray;
  sub(other: JaxArray | number): JaxArray;
  mul(other: JaxArray | number): JaxArray;
  div(other: JaxArray | number): JaxArray;
  mean(): JaxArray;
  data(): Promise<Float32Array>;
  dispose(): void;
}
export type JaxTree = Readonly<Record<string, JaxArray>>;
export interface Jax {
  init(device: string): Promise<readonly string[]>;
  defaultDevice(device: string): void;
  jit<A extends readonly unknown[], R>(f: (...args: A) => R): (...args: A) => R;
  /** Of the first argument. */
  valueAndGrad<A extends readonly unknown[]>(f: (p: JaxTree, ...args: A) => JaxArray): (p: JaxTree, ...args: A) => [JaxArray, JaxTree];
  readonly numpy: {
    array(data: Float32Array | number): JaxArray;
    matmul(a: JaxArray, b: JaxArray): JaxArray;
    sqrt(a: JaxArray): JaxArray;
  };
  readonly nn: {
    standardize(x: JaxArray, axis: number, options: { readonly epsilon: number }): JaxArray;
    dotProductAttention(q: JaxArray, k: JaxArray, v: JaxArray): JaxArray;
    sigmoid(x: JaxArray): JaxArray;
  };
  readonly tree: { ref(tree: JaxTree): JaxTree; dispose(tree: JaxTree): void };
}

/** Node 20 has no iterator helpers; its einsum reads what it is given with two of them. */
function iteratorHelpers(): void {
  const prototype = Object.getPrototypeOf(Object.getPrototypeOf([].values())) as Record<string, unknown>;
  const missing: Record<string, unknown> = {
    *map(this: Iterable<unknown>, f: (x: unknown) => unknown) {
      for (const x of this) yield f(x);
    },
    *filter(this: Iterable<unknown>, f: (x: unknown) => boolean) {
      for (const x of this) if (f(x)) yield x;
    },
  };
  for (const [name, value] of Object.entries(missing))
    if (!(name in prototype)) Object.defineProperty(prototype, name, { value, configurable: true, writable: true });
}

/** The library on the adapter that Dawn gives, and its name with its version. */
export async function openedJax(): Promise<{ readonly jax: Jax; readonly name: string }> {
  const version = versionOf("@jax-js/jax");
  await likeABrowser();
  iteratorHelpers();
  const jax = (await import(pathToFileURL(path.join(folder, "@jax-js/jax/dist/index.js")).href)) as Jax;
  if (!(await jax.init("webgpu")).includes("webgpu")) throw new Error("its WebGPU backend does not start");
  jax.defaultDevice("webgpu");
  return { jax, name: `jax-js ${version}` };
}

export async function openJax({ m, k, n, x, b }: Multiply): Promise<Opened> {
  const { jax, name } = await openedJax();
  const { numpy } = jax;
  const matrix = numpy.array(b).reshape([k, n]);
  const run = async (): Promise<Float32Array> => numpy.matmul(numpy.array(x).reshape([m, k]), matrix.ref).data();
  return { name, run, result: run, [Symbol.asyncDispose]: async () => undefined };
}
