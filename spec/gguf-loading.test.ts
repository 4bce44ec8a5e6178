// How much memory loading a GGUF file takes.

import { spawn } from "node:child_process";
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { build } from "esbuild";
import { afterAll, describe, expect, test } from "vitest";
import { gguf, stringPair, u32Pair } from "./gguf-writer.ts";
import { hasSmollm2, smollm2Path } from "./smollm2.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-gguf-loading-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const root = path.resolve(import.meta.dirname, "..");

describe("loading", () => {
  /** Loads every tensor of a file into the WebAssembly device in a process of its own; gives MiB. */
  async function measured(file: string, format?: "q8_0" | "q4_1"): Promise<{ readonly device: number; readonly over: number }> {
    const script = path.join(folder, "load.mjs");
    await build({
      stdin: {
        resolveDir: root,
        loader: "ts",
        contents: `
          import { WasmDevice } from "./runtime/devices/wasm/device.ts";
          import { prepare } from "./runtime/prepare.ts";
          import { openCheckpoint } from "./runtime/weights/checkpoint.ts";
          import { openParams } from "./runtime/weights/load.ts";
          const from = process.argv[2];
          const checkpoint = await openCheckpoint(from);
          const format = process.argv[3];
          const bits = format === "q8_0" ? 8 : 4;
          const params = [];
          for (const [of, { shape }] of checkpoint.tensors) {
            const add = (name, dtype, own, packed) => params.push({ name, dtype, shape: own, buffer: params.length, ...packed });
            const [rows, row] = shape;
            if (format === undefined || shape.length !== 2) add(of, "f32", [...shape], {});
            else
              for (const part of ["values", "scales", ...(format === "q4_1" ? ["minima"] : [])]) {
                const own = [rows, part === "values" ? (row * bits) / 32 : row / 32];
                add(of + "." + part, part === "values" ? "i32" : "f16", own, { packed: { of, shape, format, part } });
              }
          }
          await checkpoint.close();
          const plan = {
            name: "all", params, prepare: [], steps: [], states: [], inputs: [],
            buffers: params.map((p) => ({ name: p.name, dtype: p.dtype, shape: p.shape.map(String), slack: 0, place: { k: "param" } })),
            outputs: params.map((p) => ({ name: p.name, buffer: p.buffer })),
          };
          const source = await openParams(params, { from }, undefined);
          const device = await WasmDevice.create({ threads: 1 });
          const before = process.memoryUsage().rss;
          const weights = await prepare(plan, device, undefined, source, { limit: Infinity });
          const peak = process.resourceUsage().maxRSS * 1024;
          console.log(JSON.stringify({ device: weights.bytes / 2 ** 20, over: (peak - before - weights.bytes) / 2 ** 20 }));
          await device.close();`,
      },
      bundle: true,
      platform: "node",
      format: "esm",
      outfile: script,
      external: ["sharp"],
      logLevel: "silent",
    });
    return new Promise((resolve, reject) => {
      const child = spawn(process.execPath, [script, file, ...(format === undefined ? [] : [format])], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      let out = "";
      child.stdout.on("data", (chunk: Buffer) => (out += chunk.toString()));
      child.on("error", reject);
      child.on("close", () => {
        try {
          resolve(JSON.parse(out) as { device: number; over: number });
        } catch (cause) {
          reject(new Error(`loading printed ${JSON.stringify(out)}`, { cause }));
        }
      });
    });
  }

  test("takes less than 64 MiB beside the device's copy, also where rows are moved", async () => {
    // 32 heads of 128 rows; the blocks are a hole in the file, which reads as zeros.
    const columns = 8192;
    const rows = 4096;
    const bytes = (rows * columns * 34) / 32;
    const head = gguf({
      pairs: [stringPair("general.architecture", "llama"), u32Pair("llama.attention.head_count", 32)],
      tensors: ["attn_q", "ffn_up"].map((part, i) => ({
        name: `blk.0.${part}.weight`,
        shape: [rows, columns],
        type: 8,
        data: new Uint8Array(),
        offset: i * bytes,
      })),
    });
    const on = path.join(folder, "large.gguf");
    const handle = openSync(on, "w");
    writeSync(handle, head);
    ftruncateSync(handle, head.length + 2 * bytes);
    closeSync(handle);
    const { device, over } = await measured(on);
    expect(device).toBeGreaterThan(255);
    expect(over).toBeLessThan(64);
  }, 60_000);

  test.each(["q8_0", "q4_1"] as const)(
    "so it does where weights are packed as %s, from blocks of that form or another",
    async (format) => {
      const [rows, columns] = [4096, 8192];
      const head = gguf({
        pairs: [stringPair("general.architecture", "llama"), u32Pair("llama.attention.head_count", 32)],
        tensors: [{ name: "blk.0.attn_q.weight", shape: [rows, columns], type: 8, data: new Uint8Array() }],
      });
      const on = path.join(folder, "packed.gguf");
      const handle = openSync(on, "w");
      writeSync(handle, head);
      ftruncateSync(handle, head.length + (rows * columns * 34) / 32);
      closeSync(handle);
      const { device, over } = await measured(on, format);
      expect(device).toBeCloseTo(format === "q8_0" ? 34 : 20, 1);
      expect(over).toBeLessThan(64);
    },
    60_000,
  );

  test("SmolLM2-135M too", async (context) => {
    if (!hasSmollm2(context, "the memory that loading SmolLM2-135M takes")) return;
    const { device, over } = await measured(smollm2Path);
    expect(device).toBeGreaterThan(512);
    expect(over).toBeLessThan(64);
  }, 60_000);
});
