// The runtime as a browser gets it: bundled, small, without the compiler and without Node. The bundle then runs in
// a context that has what a browser has (no process, no setImmediate, Workers that are started from Blobs).

import { resolveObjectURL } from "node:buffer";
import path from "node:path";
import { fileURLToPath } from "node:url";
import vm from "node:vm";
import { Worker as NodeWorker } from "node:worker_threads";
import { gzipSync } from "node:zlib";
import { build, type BuildResult } from "esbuild";
import { beforeAll, describe, expect, test } from "vitest";
import { handKernels } from "./runtime-kernels.ts";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");

type Bundle = BuildResult<{ metafile: true; write: false }>;
let bundle: Bundle;
let code = "";

beforeAll(async () => {
  bundle = await build({
    absWorkingDir: root,
    entryPoints: ["runtime/index.ts"],
    bundle: true,
    minify: true,
    platform: "browser",
    format: "iife",
    globalName: "uhd",
    target: "es2022",
    metafile: true,
    write: false,
    logLevel: "silent",
  });
  code = bundle.outputFiles[0]?.text ?? "";
});

describe("the runtime's bundle for browsers", () => {
  test("is under 60 KB compressed", () => {
    expect(code.length).toBeGreaterThan(10_000);
    expect(gzipSync(code).byteLength).toBeLessThan(60_000);
  });

  test("holds the plan's types and shape code of the compiler, and nothing else of it", () => {
    const inputs = Object.keys(bundle.metafile.inputs);
    expect(inputs.filter((file) => !/^(runtime\/|compiler\/ir\/(plan\/|dim\.ts|dtype\.ts))/.test(file))).toEqual([]);
  });

  test("imports nothing and makes no code from text", () => {
    expect(bundle.metafile.outputs[Object.keys(bundle.metafile.outputs)[0] ?? ""]?.imports).toEqual([]);
    expect(code).not.toMatch(/\beval\s*\(|new Function\b|\brequire\s*\(/);
  });
});

/** A browser's Worker, made of a thread whose script cannot see Node. */
class BlobWorker {
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onerror: ((event: { message: string }) => void) | null = null;
  #thread: Promise<NodeWorker>;
  static started = 0;

  constructor(url: string) {
    BlobWorker.started++;
    this.#thread = this.#start(url);
  }

  async #start(url: string): Promise<NodeWorker> {
    const script = await resolveObjectURL(url)?.text();
    const shell = `
      import { parentPort } from "node:worker_threads";
      globalThis.self = { postMessage: (m) => parentPort.postMessage(m), set onmessage(f) { parentPort.on("message", (data) => f({ data })); } };
      globalThis.process = undefined;
      (0, eval)(${JSON.stringify(script)});`;
    const thread = new NodeWorker(new URL(`data:text/javascript,${encodeURIComponent(shell)}`));
    thread.on("message", (data) => this.onmessage?.({ data }));
    thread.on("error", (error) => this.onerror?.({ message: error.message }));
    return thread;
  }

  postMessage(message: unknown): void {
    void this.#thread.then((t) => t.postMessage(message));
  }

  terminate(): void {
    void this.#thread.then((t) => t.terminate());
  }
}

/** Runs `body` (an async function's text) with the bundle as `uhd` and `kernels`, among a browser's globals. */
async function inBrowser(body: string, globals: Record<string, unknown> = {}): Promise<unknown> {
  const context = vm.createContext({
    Blob,
    URL,
    performance,
    TextDecoder,
    TextEncoder,
    MessageChannel,
    AbortController,
    AbortSignal,
    crypto,
    fetch,
    setTimeout,
    Worker: BlobWorker,
    navigator: { hardwareConcurrency: 2 },
    kernels: Array.from(handKernels()),
    ...globals,
  });
  vm.runInContext(code, context);
  return (await vm.runInContext(`(async () => JSON.stringify(await (async () => { ${body} })()))()`, context)) as string;
}

const doubling = `
  const device = await uhd.WasmDevice.create();
  const module = await device.load({ wasm: { plain: Uint8Array.from(kernels) } });
  const x = device.alloc(40000);
  const y = device.alloc(40000);
  await device.write(x, 0, new Uint8Array(Float32Array.from({ length: 10000 }, (_, i) => i).buffer));
  const whole = (buffer) => ({ buffer, offset: 0, bytes: 40000 });
  for (let i = 0; i < 50; i++) await device.submit([{ k: "dispatch", module, kernel: "affine", bindings: [whole(x), whole(y)], dims: [], units: 10000, scratch: 0, flops: 1e9, bytes: 0 }]);
  const out = new Float32Array((await device.read(y, 0, 40000)).buffer);
  const threads = device.threads;
  await device.close();
  return { threads, right: out.every((v, i) => v === 2 * i + 1) };`;

describe("in a browser's environment", () => {
  test("the device starts Workers from Blobs and runs kernels on all threads", async () => {
    BlobWorker.started = 0;
    expect(await inBrowser(doubling)).toBe('{"threads":2,"right":true}');
    expect(BlobWorker.started).toBe(1);
  });

  test("without shared memory it runs on one thread", async () => {
    BlobWorker.started = 0;
    expect(await inBrowser(`delete globalThis.SharedArrayBuffer; ${doubling}`)).toBe('{"threads":1,"right":true}');
    expect(BlobWorker.started).toBe(0);
  });

  test("what needs Node says so", async () => {
    expect(await inBrowser(`return String(await uhd.openSafetensors("x.safetensors").catch((e) => e));`)).toMatch(
      /SafetensorsError: x\.safetensors cannot be opened: this needs Node/,
    );
    expect(await inBrowser(`return String(await uhd.decodeImage("x.png").catch((e) => e));`)).toMatch(
      /ImageError: x\.png: cannot be read: this needs Node/,
    );
  });

  test("safetensors come from Blobs", async () => {
    const text = `
      const parts = uhd.encodeSafetensors(new Map([["a", { dtype: "f32", shape: [2], data: Float32Array.of(1, 2) }]]));
      const file = await uhd.openSafetensors(new Blob(parts));
      return [...file.tensors.keys()];`;
    expect(await inBrowser(text)).toBe('["a"]');
  });
});
