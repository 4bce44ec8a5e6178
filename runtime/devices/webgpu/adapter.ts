// Finds WebGPU: the browser's own, or Dawn's Node bindings (`webgpu`, an optional package), and an adapter with what our
// kernels need. Tells hardware from software. Makes no buffers and compiles nothing.

import { AdapterError, messageOf } from "../../errors.ts";
import { isNode } from "../../platform.ts";
import type { WgslVariant } from "../../device.ts";

/** What kernels may rely on. */
export type GpuFeatures = WgslVariant["features"];

/** Features that are used where an adapter has them; each can be hidden, and everything works without. */
export const optionalFeatures = ["subgroups", "shader-f16", "timestamp-query"] as const;
export type OptionalFeature = (typeof optionalFeatures)[number];

/** An adapter and what matters about it. */
export interface FoundAdapter {
  readonly adapter: GPUAdapter;
  readonly description: string;
  /** It computes on the CPU. */
  readonly software: boolean;
  readonly features: GpuFeatures;
}

/** What every adapter must have for the kernels that the compiler writes: WebGPU's defaults. */
export const neededLimits = {
  maxStorageBuffersPerShaderStage: 8,
  maxStorageBufferBindingSize: 2 ** 27,
  maxBufferSize: 2 ** 28,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeWorkgroupsPerDimension: 65535,
} as const satisfies Partial<Record<keyof GPUSupportedLimits, number>>;

export const doctorHint = "`uhdc doctor` says what is missing and how to install it";

interface DawnModule {
  create(flags: string[]): GPU;
}

/** Dawn's objects crash or hang the process when this is collected while a promise is pending, so it is kept for good. */
const kept = Symbol.for("uhd.webgpu");

/** Flags for Dawn: "adapter=NAME" chooses one, "backend=null" validates only. */
async function dawn(flags: readonly string[]): Promise<GPU> {
  const holder = globalThis as { [kept]?: Map<string, GPU> };
  const instances = (holder[kept] ??= new Map<string, GPU>());
  // Times are read to be compared with each other, not to spy on anyone.
  const all = ["disable-dawn-features=timestamp_quantization", ...flags];
  const key = all.join(" ");
  const before = instances.get(key);
  if (before !== undefined) return before;
  // A name that bundlers cannot see: browsers bring their own.
  const specifier = "webgpu";
  let module: DawnModule;
  try {
    module = (await import(/* @vite-ignore */ specifier)) as DawnModule;
  } catch (cause) {
    const missing = cause instanceof Error && "code" in cause && cause.code === "ERR_MODULE_NOT_FOUND";
    const why = missing ? "the npm package `webgpu` is not installed" : `the npm package \`webgpu\` does not load (${messageOf(cause)})`;
    throw new AdapterError(`no WebGPU: ${why}; ${doctorHint}`, { cause });
  }
  const made = module.create([...all]);
  instances.set(key, made);
  return made;
}

export interface GpuOptions {
  /** For environments that have their own. */
  readonly gpu?: GPU | undefined;
  /** For Dawn. */
  readonly flags?: readonly string[] | undefined;
}

/** The browser's WebGPU or Dawn's. Throws AdapterError where there is neither. */
export async function webGpu({ gpu, flags = [] }: GpuOptions = {}): Promise<GPU> {
  if (gpu !== undefined) return gpu;
  if (isNode) return dawn(flags);
  const own = (globalThis as { readonly navigator?: { readonly gpu?: GPU } }).navigator?.gpu;
  if (own === undefined) throw new AdapterError("no WebGPU: this browser has none, or the page is not served over https or from localhost");
  return own;
}

/** The adapter that is likely to be fastest. Throws AdapterError where there is none, or none with the needed limits. */
export async function findAdapter(options: GpuOptions = {}): Promise<FoundAdapter> {
  const gpu = await webGpu(options);
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (adapter === null) throw new AdapterError(`no WebGPU adapter: there is no graphics driver that can be used; ${doctorHint}`);
  const found = { adapter, ...describeAdapter(adapter.info, adapter.features) };
  const lacking = lackingLimits(adapter.limits);
  if (lacking.length > 0)
    throw new AdapterError(`the adapter ${found.description} cannot run our kernels: ${lacking.join(", ")}; ${doctorHint}`);
  return found;
}

/** "maxBufferSize is 1024, and 268435456 is needed", one for each limit that is too low. */
export function lackingLimits(limits: GPUSupportedLimits): readonly string[] {
  return Object.entries(neededLimits).flatMap(([name, needed]) => {
    const has = limits[name as keyof typeof neededLimits];
    return has >= needed ? [] : [`${name} is ${has}, and ${needed} is needed`];
  });
}

const softwareNames = /swiftshader|llvmpipe|lavapipe|softpipe|software|basic render|\bwarp\b/i;

/** From what an adapter or a device says of itself. */
export function describeAdapter(info: GPUAdapterInfo, has: GPUSupportedFeatures): Omit<FoundAdapter, "adapter"> {
  const names = [info.vendor, info.architecture, info.device, info.description];
  const description =
    info.description || info.device || [info.vendor, info.architecture].filter((s) => s !== "").join(" ") || "unnamed adapter";
  return {
    description,
    software: info.isFallbackAdapter || names.some((name) => softwareNames.test(name)),
    features: { subgroups: has.has("subgroups") ? subgroupSize(info) : 0, f16: has.has("shader-f16") },
  };
}

/** Kernels may rely on a subgroup's size only where an adapter has just one. */
function subgroupSize({ subgroupMinSize: least, subgroupMaxSize: most }: GPUAdapterInfo): GpuFeatures["subgroups"] {
  if (least !== most) return 0;
  return least === 4 || least === 8 || least === 16 || least === 32 || least === 64 ? least : 0;
}
