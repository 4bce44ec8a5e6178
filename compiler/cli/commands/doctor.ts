// uhdc doctor: what this machine can run graphs on, what is missing, and the command that installs it. Compiles and runs
// nothing of the user's.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { mayHaveHardware } from "../../../runtime/devices/choose.ts";
import { describeAdapter, lackingLimits, neededLimits, webGpu, type GpuFeatures } from "../../../runtime/devices/webgpu/adapter.ts";
import { AdapterError } from "../../../runtime/errors.ts";
import { hardwareThreads, machineMemory } from "../../../runtime/platform.ts";
import { relaxedProbe } from "../../targets/wasm/capabilities.ts";
import { CliError } from "../errors.ts";
import { type Terminal } from "../terminal.ts";
import { bytesText } from "../../ir/text.ts";

export interface DoctorOptions {
  readonly json: boolean;
}

const systems = ["debian", "ubuntu", "fedora", "macos", "windows"] as const;
type System = (typeof systems)[number];

const systemNames: Readonly<Record<System, string>> = {
  debian: "Debian",
  ubuntu: "Ubuntu",
  fedora: "Fedora",
  macos: "macOS",
  windows: "Windows",
};

/** Something that would make more run, and how each system gets it. */
interface Missing {
  readonly what: string;
  readonly why: string;
  readonly install: Readonly<Record<System, string>>;
}

interface AdapterReport {
  readonly description: string;
  readonly vendor: string;
  readonly architecture: string;
  /** It computes on the CPU: used only when it is asked for. */
  readonly software: boolean;
  /** What kernels may rely on. */
  readonly uses: GpuFeatures;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
  /** Why our kernels cannot run on it; empty when they can. */
  readonly lacking: readonly string[];
}

export interface DoctorReport {
  readonly ok: boolean;
  /** What `--device auto` takes; null when nothing runs. */
  readonly auto: "wasm" | "webgpu" | null;
  readonly node: string;
  readonly system: System | null;
  readonly memory: number;
  readonly wasm: { readonly simd: boolean; readonly relaxedSimd: boolean; readonly sharedMemory: boolean; readonly threads: number };
  readonly adapters: readonly AdapterReport[];
  readonly missing: readonly Missing[];
}

export async function doctor(options: DoctorOptions, terminal: Terminal): Promise<void> {
  const report = await examine();
  terminal.out(options.json ? JSON.stringify(report, null, 2) : reportText(report));
  if (!report.ok) throw new CliError(3, "");
}

async function examine(): Promise<DoctorReport> {
  const wasm = {
    simd: validates(simdProbe),
    relaxedSimd: validates(Uint8Array.from(relaxedProbe())),
    sharedMemory: typeof SharedArrayBuffer === "function",
    threads: await hardwareThreads(),
  };
  const { adapters, missing } = await gpus();
  const usable = adapters.filter((a) => a.lacking.length === 0);
  const auto = usable.some((a) => !a.software) ? "webgpu" : wasm.simd ? "wasm" : null;
  return {
    ok: wasm.simd || usable.length > 0,
    auto,
    node: process.versions.node,
    system: systemHere() ?? null,
    memory: await machineMemory(),
    wasm,
    adapters,
    missing: wasm.simd ? missing : [newerNode, ...missing],
  };
}

/** Node can be started without WebAssembly. */
function validates(module: Uint8Array<ArrayBuffer>): boolean {
  return typeof WebAssembly === "object" && WebAssembly.validate(module);
}

/** `(module (func (result v128) i32.const 0 i8x16.splat))` */
const simdProbe = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11);

async function gpus(): Promise<{ readonly adapters: readonly AdapterReport[]; readonly missing: readonly Missing[] }> {
  let gpu: GPU;
  try {
    gpu = await webGpu();
  } catch (error) {
    if (!(error instanceof AdapterError)) throw error;
    return {
      adapters: [],
      missing: [{ what: "Dawn, WebGPU for Node", why: error.message.replace(/; `uhdc doctor`.*$/, ""), install: dawnPackage }],
    };
  }
  const asked: readonly GPURequestAdapterOptions[] = [
    { powerPreference: "high-performance" },
    { powerPreference: "low-power" },
    { forceFallbackAdapter: true },
  ];
  const adapters = new Map<string, AdapterReport>();
  for (const wish of asked) {
    const adapter = await gpu.requestAdapter(wish);
    if (adapter === null) continue;
    const { description, software, features: uses } = describeAdapter(adapter.info, adapter.features);
    const limits = Object.fromEntries(Object.keys(neededLimits).map((name) => [name, adapter.limits[name as keyof typeof neededLimits]]));
    const { vendor, architecture } = adapter.info;
    const features = [...adapter.features].sort();
    adapters.set(description, {
      description,
      vendor,
      architecture,
      software,
      uses,
      features,
      limits,
      lacking: lackingLimits(adapter.limits),
    });
  }
  const hardware = [...adapters.values()].some((a) => !a.software && a.lacking.length === 0);
  return { adapters: [...adapters.values()], missing: hardware ? [] : await missingDriver(adapters.size > 0) };
}

const newerNode: Missing = {
  what: "WebAssembly SIMD",
  why: `Node ${process.versions.node} does not have it, or has it switched off`,
  install: each("install Node 20 or newer: https://nodejs.org"),
};

function each(text: string): Readonly<Record<System, string>> {
  return { debian: text, ubuntu: text, fedora: text, macos: text, windows: text };
}

const dawnPackage = each("npm install webgpu");

/** `software`: there is an adapter, which computes on the CPU. */
async function missingDriver(software: boolean): Promise<readonly Missing[]> {
  const linux = process.platform === "linux";
  if (linux && !(await mayHaveHardware())) {
    const why = "this machine has no graphics hardware that Linux knows";
    if (software) return [];
    return [{ what: "a WebGPU adapter", why: `${why}; a software driver can stand in for tests`, install: vulkan }];
  }
  const why = !linux
    ? "the system offers no adapter"
    : vulkanLoader() === undefined
      ? "the Vulkan loader, libvulkan.so.1, is not installed"
      : vulkanDrivers().length === 0
        ? "no Vulkan driver is installed"
        : `the installed Vulkan drivers (${vulkanDrivers().join(", ")}) offer none that WebGPU accepts: Mesa must be 25 or newer, NVIDIA's driver 470 or newer`;
  return [{ what: software ? "a driver for the graphics hardware" : "a WebGPU adapter", why, install: vulkan }];
}

/** Mesa's drivers are for AMD, Intel and the CPU. */
const vulkan: Readonly<Record<System, string>> = {
  debian:
    "sudo apt install mesa-vulkan-drivers libvulkan1   (Debian 12: with -t bookworm-backports; NVIDIA: sudo apt install nvidia-driver)",
  ubuntu: "sudo apt install mesa-vulkan-drivers libvulkan1   (NVIDIA: sudo ubuntu-drivers install)",
  fedora: "sudo dnf install mesa-vulkan-drivers vulkan-loader   (NVIDIA: sudo dnf install akmod-nvidia, from RPM Fusion)",
  macos: "softwareupdate --install --all   (Metal is part of macOS 13 and newer)",
  windows: "winget upgrade --all   (Direct3D 12 is part of Windows 10 and newer; the maker's graphics driver brings the rest)",
};

function vulkanLoader(): string | undefined {
  const folders = [
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/usr/local/lib",
    `/usr/lib/${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu`,
  ];
  const more = (process.env["LD_LIBRARY_PATH"] ?? "").split(":").filter((f) => f !== "");
  return [...more, ...folders].map((folder) => path.join(folder, "libvulkan.so.1")).find((file) => existsSync(file));
}

/** Names of the drivers' descriptions, as the loader finds them. */
function vulkanDrivers(): readonly string[] {
  const named = process.env["VK_DRIVER_FILES"] ?? process.env["VK_ICD_FILENAMES"];
  if (named !== undefined) return named.split(":").filter((file) => existsSync(file));
  return ["/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"].flatMap((folder) =>
    existsSync(folder) ? readdirSync(folder).filter((file) => file.endsWith(".json")) : [],
  );
}

function systemHere(): System | undefined {
  if (process.platform === "darwin") return "macos";
  if (process.platform === "win32") return "windows";
  if (!existsSync("/etc/os-release")) return undefined;
  const ids = /^ID(?:_LIKE)?=.*$/gm;
  const words = [...readFileSync("/etc/os-release", "utf8").matchAll(ids)].flatMap(([line]) =>
    line
      .replace(/^[^=]*=/, "")
      .replaceAll('"', "")
      .split(" "),
  );
  return (["ubuntu", "debian", "fedora"] as const).find((id) => words.includes(id)) ?? (words.includes("rhel") ? "fedora" : undefined);
}

function reportText({ auto, node, memory, wasm, adapters, missing, system }: DoctorReport): string {
  const yes = (has: boolean): string => (has ? "yes" : "no");
  const lines = [
    `node       ${node}, ${process.platform} ${process.arch}, ${bytesText(memory)} of memory`,
    `wasm       SIMD ${yes(wasm.simd)}, relaxed SIMD ${yes(wasm.relaxedSimd)}, shared memory ${yes(wasm.sharedMemory)}, ${wasm.threads} threads`,
  ];
  for (const a of adapters) {
    const subgroups = a.uses.subgroups === 0 ? "no subgroups of one size" : `subgroups of ${a.uses.subgroups}`;
    const f16 = a.uses.f16 ? "16-bit floats" : "no 16-bit floats";
    lines.push(`webgpu     ${a.description}${a.software ? ", which computes on the CPU" : ""}`);
    const time = a.features.includes("timestamp-query") ? "timestamps" : "no timestamps";
    lines.push(`           ${subgroups}, ${f16}, ${time}`);
    const { maxStorageBufferBindingSize: binding = 0, maxBufferSize: buffer = 0 } = a.limits;
    lines.push(`           ${bytesText(binding)} a binding, ${bytesText(buffer)} a buffer; all its features: ${a.features.join(", ")}`);
    for (const limit of a.lacking) lines.push(`           cannot run our kernels: ${limit}`);
  }
  if (adapters.length === 0) lines.push("webgpu     no adapter");
  lines.push(
    `auto       ${auto ?? "nothing here can run a graph"}${auto === "wasm" && adapters.length > 0 ? " (webgpu only when asked for: --device webgpu)" : ""}`,
  );
  for (const { what, why, install } of missing) {
    lines.push("", `missing    ${what}: ${why}`);
    for (const s of system === null ? systems : [system]) lines.push(`           ${systemNames[s].padEnd(8)} ${install[s]}`);
    if (system !== null) lines.push("           other systems: uhdc doctor --json");
  }
  return lines.join("\n");
}
