// Plain WebGPU for tests: a device of the system's driver or of SwiftShader, or the reason why there is none, and one
// kernel run on it with no more around it than WebGPU asks for. Sessions and arenas are runtime/devices/webgpu.

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { constants, tmpdir } from "node:os";
import path from "node:path";
import { brotliDecompressSync } from "node:zlib";
import { dimEval, type DimEnv } from "../compiler/ir/dim.ts";
import type { ImpMemory } from "../compiler/ir/imp/eval.ts";
import type { ImpFunction } from "../compiler/ir/imp/types.ts";
import type { WgslFeatures, WgslKernel } from "../compiler/targets/wgsl/types.ts";

/** system: what the machine has (Mesa's lavapipe in CI). null: checks WGSL, runs nothing, needs no driver. */
export type Driver = "system" | "swiftshader" | "null";

export interface Gpu {
  readonly device: GPUDevice;
  readonly name: string;
  /** The most that kernels may rely on. */
  readonly features: WgslFeatures;
}

/** Dawn crashes or hangs the process when an instance is collected while a promise is pending. */
const kept = Symbol.for("uhd.tests.webgpu");

async function dawn(flags: readonly string[]): Promise<GPU> {
  const { create } = (await import("webgpu")) as { create(flags: string[]): GPU };
  const made = create([...flags]);
  const holder = globalThis as { [kept]?: GPU[] };
  (holder[kept] ??= []).push(made);
  return made;
}

/**
 * Makes SwiftShader the only driver of this process, which must not have used Vulkan yet. The npm package of Chromium for
 * servers, x86-64 alone, carries it. Gives the reason why it cannot.
 */
function useSwiftShader(): string | undefined {
  if (process.platform !== "linux" || process.arch !== "x64")
    return `SwiftShader is for Linux on x86-64, not ${process.platform} ${process.arch}`;
  let archive: string;
  try {
    const entry = createRequire(import.meta.url).resolve("@sparticuz/chromium");
    archive = path.join(entry.slice(0, entry.lastIndexOf("chromium") + 8), "bin", "swiftshader.tar.br");
  } catch {
    return "the npm package @sparticuz/chromium, which has SwiftShader, is not installed";
  }
  if (!existsSync(archive)) return `${path.basename(archive)} is not in @sparticuz/chromium`;
  const folder = mkdtempSync(path.join(tmpdir(), "uhd-swiftshader-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  unpack(brotliDecompressSync(readFileSync(archive)), folder);
  const icd = path.join(folder, "vk_swiftshader_icd.json");
  writeFileSync(
    icd,
    JSON.stringify({
      file_format_version: "1.0.0",
      ICD: { library_path: path.join(folder, "libvk_swiftshader.so"), api_version: "1.3.0" },
    }),
  );
  process.env.VK_ICD_FILENAMES = icd;
  process.env.VK_DRIVER_FILES = icd;
  const neverUnload = 0x1000;
  try {
    process.dlopen(
      { exports: {} },
      path.join(folder, "libvulkan.so.1"),
      constants.dlopen.RTLD_NOW | constants.dlopen.RTLD_GLOBAL | neverUnload,
    );
  } catch {
    // It is no module of Node and says so, but it stays loaded.
  }
  return undefined;
}

/** The files of a tar archive, without their folders. */
function unpack(archive: Uint8Array, folder: string): void {
  const text = (from: number, length: number): string =>
    Buffer.from(archive.buffer, archive.byteOffset + from, length)
      .toString("latin1")
      .replace(/\0.*$/s, "");
  for (let at = 0; at + 512 <= archive.length;) {
    const [name, bytes, kind] = [text(at, 100), parseInt(text(at + 124, 12), 8), text(at + 156, 1)];
    if (name === "") return;
    if (kind === "0" || kind === "") writeFileSync(path.join(folder, path.basename(name)), archive.subarray(at + 512, at + 512 + bytes));
    at += 512 + Math.ceil(bytes / 512) * 512;
  }
}

/** A device within WebGPU's default limits, or why there is none. Once in a process. */
export async function openGpu(driver: Driver): Promise<Gpu | string> {
  if (driver === "swiftshader") {
    const fault = useSwiftShader();
    if (fault !== undefined) return fault;
  }
  let gpu: GPU;
  try {
    gpu = await dawn(driver === "null" ? ["backend=null"] : []);
  } catch (error) {
    return `the npm package webgpu does not load: ${error instanceof Error ? error.message : String(error)}`;
  }
  const adapter = await gpu.requestAdapter();
  if (adapter === null) return "there is no Vulkan driver that Dawn accepts";
  const wanted = (["shader-f16", "subgroups"] as const).filter((f) => adapter.features.has(f));
  const device = await adapter.requestDevice({ requiredFeatures: wanted });
  const { subgroupMinSize: least, subgroupMaxSize: most, description } = adapter.info;
  const sizes = [4, 8, 16, 32, 64] as const;
  const subgroups = device.features.has("subgroups") && least === most ? (sizes.find((n) => n === least) ?? 0) : 0;
  return { device, name: description, features: { subgroups, f16: device.features.has("shader-f16") } };
}

const pipelines = new Map<string, Promise<GPUComputePipeline>>();

/** The kernel's pipeline; rejects with the compiler's messages and the text when it is refused. Kept by text. */
export function pipelineOf({ device }: Gpu, kernel: WgslKernel): Promise<GPUComputePipeline> {
  const known = pipelines.get(kernel.code);
  if (known !== undefined) return known;
  const made = build(device, kernel);
  pipelines.set(kernel.code, made);
  return made;
}

async function build(device: GPUDevice, kernel: WgslKernel): Promise<GPUComputePipeline> {
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code: kernel.code });
  const info = await module.getCompilationInfo();
  const refused = await device.popErrorScope();
  const messages = info.messages.filter((m) => m.type === "error").map((m) => `${m.lineNum}:${m.linePos} ${m.message}`);
  if (messages.length > 0 || refused !== null) throw new Error(`${messages.join("\n") || (refused?.message ?? "")}\n${kernel.code}`);
  const storage = kernel.bindings.map((b): GPUBufferBindingLayout => ({ type: b === "read" ? "read-only-storage" : "storage" }));
  const entries = [...storage, { type: "uniform" } as const].map((buffer, binding) => ({ binding, visibility: 4, buffer }));
  const layout = device.createPipelineLayout({ bindGroupLayouts: [device.createBindGroupLayout({ entries })] });
  return device.createComputePipelineAsync({ layout, compute: { module, entryPoint: "main" } });
}

const usage = { mapRead: 1, copySource: 4, copyTarget: 8, uniform: 64, storage: 128 } as const;

const slack = 64;

/** Runs all units of the kernel of `fn`; what it wrote is then in `buffers`, as after compileImp. */
export async function runOnGpu(
  gpu: Gpu,
  kernel: WgslKernel,
  fn: ImpFunction,
  buffers: Readonly<Record<string, ImpMemory>>,
  dims: DimEnv,
): Promise<void> {
  const { device } = gpu;
  const pipeline = await pipelineOf(gpu, kernel);
  const units = dimEval(fn.units, dims);
  const made: GPUBuffer[] = [];
  const upload = (bytes: Uint8Array, size: number, kind: number): GPUBuffer => {
    const buffer = device.createBuffer({ size, usage: kind | usage.copyTarget | usage.copySource });
    made.push(buffer);
    const padded = new Uint8Array(size);
    padded.set(bytes);
    device.queue.writeBuffer(buffer, 0, padded);
    return buffer;
  };
  const bytesOf = (m: ImpMemory): Uint8Array => new Uint8Array(m.buffer, m.byteOffset, m.byteLength);
  const memories = fn.buffers.map((b) => buffers[b.name] ?? new Float32Array(0));
  const bound = memories.map((m) => upload(bytesOf(m), (m.byteLength + slack + 15) & ~15, usage.storage));
  const args = Int32Array.from([units, ...fn.dims.map((d) => dims[d] ?? 0)]);
  const uniform = upload(bytesOf(args), (args.byteLength + 15) & ~15, usage.uniform);
  const group = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [...bound, uniform].map((buffer, binding) => ({ binding, resource: { buffer } })),
  });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  const x = Math.max(1, Math.min(units, 65535));
  if (units > 0) pass.dispatchWorkgroups(x, Math.ceil(units / x));
  pass.end();
  const total = bound.reduce((n, b) => n + b.size, 0);
  const staging = device.createBuffer({ size: Math.max(4, total), usage: usage.mapRead | usage.copyTarget });
  made.push(staging);
  let at = 0;
  for (const buffer of bound) {
    encoder.copyBufferToBuffer(buffer, 0, staging, at, buffer.size);
    at += buffer.size;
  }
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(1);
  const all = new Uint8Array(staging.getMappedRange());
  at = 0;
  memories.forEach((m, i) => {
    bytesOf(m).set(all.subarray(at, at + m.byteLength));
    at += bound[i]?.size ?? 0;
  });
  staging.unmap();
  for (const buffer of made) buffer.destroy();
}
