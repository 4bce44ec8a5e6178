// The command line on WebGPU: doctor, --device, what is said where there is no adapter, profiles; and that processes end by
// themselves.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { DoctorReport } from "../compiler/cli/commands/doctor.ts";
import { isWrong, type VerifiedValue } from "../compiler/cli/verified.ts";
import { agreement } from "./graphs-support.ts";
import { builtFolder, installRuntime, root, uhdc } from "./cli-support.ts";
import { noGpu } from "./webgpu-support.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-webgpu-cli-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const inFolder = (name: string): string => path.join(folder, name);

/** No Vulkan driver can be found with this. */
const noDriver = { VK_DRIVER_FILES: inFolder("no-driver.json"), VK_ICD_FILENAMES: inFolder("no-driver.json") };
const linux = process.platform === "linux";

const program = inFolder("mean.uhd");
writeFileSync(
  program,
  `module Mix() {
  param weight: f32[4, 3]
  forward(x: f32[N, 3]) -> f32[N, 4] { gelu(linear(x, weight)) }
}

graph mix(image: u8[H in 1..=4096, W in 1..=4096, 3]) -> tokens: f32[H * W, 4] {
  use mix = Mix()
  mix(reshape(cast(image, "f32") / 255, [H * W, 3]))
}
`,
);
const photo = "examples/photos/rocket.jpg";
const on = (device: string, ...more: readonly string[]): readonly string[] => [
  "run",
  program,
  "--image",
  photo,
  "--init",
  "seeded:1",
  "--device",
  device,
  "-o",
  inFolder(device),
  ...more,
];

function tokens(device: string): Float32Array {
  const bytes = readFileSync(inFolder(`${device}/tokens.safetensors`));
  return new Float32Array(new Uint8Array(bytes.subarray(8 + Number(bytes.readBigUInt64LE(0)))).buffer);
}

describe("uhdc doctor", () => {
  test("tells adapters, features and limits, as text and as data", async () => {
    const { code, stdout } = await uhdc(["doctor", "--json"]);
    expect(code).toBe(0);
    const report = JSON.parse(stdout) as DoctorReport;
    expect(report.wasm.simd).toBe(true);
    expect(report.adapters.length > 0).toBe(noGpu === undefined);
    for (const adapter of report.adapters) {
      expect(adapter.limits["maxStorageBuffersPerShaderStage"]).toBeGreaterThanOrEqual(8);
      expect((await uhdc(["doctor"])).stdout).toContain(adapter.description);
    }
  });

  test.runIf(linux)("says what is missing, and how five systems install it", async () => {
    const { code, stdout } = await uhdc(["doctor", "--json"], { env: noDriver });
    expect(code).toBe(0);
    const { missing, auto } = JSON.parse(stdout) as DoctorReport;
    expect(auto).toBe("wasm");
    expect(missing.map((m) => m.what)).toEqual(["a WebGPU adapter"]);
    expect(Object.keys(missing[0]?.install ?? {})).toEqual(["debian", "ubuntu", "fedora", "macos", "windows"]);
    const text = await uhdc(["doctor"], { env: noDriver });
    expect(text.stdout).toMatch(/missing +a WebGPU adapter: .+\n +\w+ +sudo (?:apt|dnf) install/);
  });

  test.runIf(linux)("ends with 3 where nothing runs", async () => {
    const { code, stdout } = await uhdc(["doctor"], { env: noDriver, node: ["--jitless"] });
    expect(code).toBe(3);
    expect(stdout).toContain("nothing here can run a graph");
  });
});

describe("--device", () => {
  test("all devices agree with the float64 reference, and the report says which it was and why", async (context) => {
    if (noGpu !== undefined) context.skip(`not run: ${noGpu}`);
    const gpu = await uhdc([...on("webgpu", "--json", "--profile", "--trace", inFolder("trace.json"))]);
    expect(gpu.code, gpu.stderr).toBe(0);
    expect((await uhdc(on("wasm"))).code).toBe(0);
    expect((await uhdc(on("reference"))).code).toBe(0);
    const exact = tokens("reference");
    expect(agreement(tokens("webgpu"), exact).error).toBeLessThan(1e-5);
    expect(agreement(tokens("wasm"), exact).error).toBeLessThan(1e-5);
    const report = JSON.parse(gpu.stdout) as {
      readonly device: { readonly kind: string; readonly why: string };
      readonly profile: readonly { readonly calls: number; readonly milliseconds: number; readonly places: readonly string[] }[];
    };
    expect(report.device.kind).toBe("webgpu");
    expect(report.device.why).toMatch(/^webgpu, .+: as asked/);
    expect(report.profile.length).toBeGreaterThan(0);
    for (const row of report.profile) {
      expect(row.milliseconds).toBeGreaterThan(0);
      expect(row.places[0]).toMatch(/mean\.uhd:\d+:\d+$/);
    }
    const trace = JSON.parse(readFileSync(inFolder("trace.json"), "utf8")) as { readonly traceEvents: readonly { readonly ph: string }[] };
    expect(trace.traceEvents.filter((e) => e.ph === "X").length).toBeGreaterThan(report.profile.length);
  }, 120_000);

  test("--verify compares what each kernel wrote with the references", async (context) => {
    if (noGpu !== undefined) context.skip(`not run: ${noGpu}`);
    const { code, stdout, stderr } = await uhdc([...on("webgpu", "--verify", "--json")]);
    expect(code, stderr).toBe(0);
    const { verified } = JSON.parse(stdout) as { readonly verified: readonly VerifiedValue[] };
    expect(verified.map((v) => v.at)).toContainEqual(expect.stringMatching(/mean\.uhd:3:\d+$/));
    expect(verified.filter(isWrong)).toEqual([]);
    expect(verified.some((v) => v.error > 0)).toBe(true);
  }, 120_000);

  test.runIf(linux)("webgpu without an adapter is refused with the doctor's hint, and writes nothing", async () => {
    const { code, stdout, stderr } = await uhdc(on("webgpu"), { env: noDriver });
    expect(code).toBe(3);
    expect(stdout).toBe("");
    expect(stderr).toMatch(/no WebGPU adapter: .*`uhdc doctor`/);
  });

  test.each([
    [["--device", "reference", "--profile"], "no kernels to measure"],
    [["--device", "reference", "--prompt", "Hello"], "--prompt is for the others"],
  ])("%j is refused", async (args, message) => {
    const image = args.includes("--prompt") ? [] : ["--image", photo];
    const { code, stderr } = await uhdc(["run", program, ...image, "--init", "seeded:1", ...args]);
    expect(code).toBe(2);
    expect(stderr).toContain(message);
  });
});

describe("an application of the runtime", () => {
  const app = inFolder("app");
  const start = (file: string, text: string, packages: readonly string[]): { readonly status: number | null; readonly stdout: string } => {
    builtFolder();
    rmSync(app, { recursive: true, force: true });
    spawnSync("mkdir", ["-p", app]);
    installRuntime(app);
    for (const name of packages) symlinkSync(path.join(root, "node_modules", name), path.join(app, "node_modules", name), "dir");
    writeFileSync(path.join(app, file), text);
    return spawnSync(process.execPath, [path.join(app, file)], { encoding: "utf8", timeout: 60_000 });
  };

  test("ends by itself, with the device closed or left open", (context) => {
    if (noGpu !== undefined) context.skip(`not run: ${noGpu}`);
    for (const close of ["await device.close();", ""]) {
      const { status, stdout } = start(
        "main.js",
        `import { WebGpuDevice } from "uhd/webgpu";
const device = await WebGpuDevice.create();
const buffer = device.alloc(64);
await device.write(buffer, 0, new Uint8Array(64).fill(7));
console.log((await device.read(buffer, 60, 4)).join());
${close}`,
        ["webgpu"],
      );
      expect(stdout).toBe("7,7,7,7\n");
      expect(status).toBe(0);
    }
  }, 150_000);

  test("without the package gets an AdapterError that says so", () => {
    const { stdout } = start(
      "main.js",
      `import { AdapterError } from "uhd";
import { chooseDevice, WebGpuDevice } from "uhd/webgpu";
const error = await WebGpuDevice.create().catch((e) => e);
console.log(error instanceof AdapterError, error.code, error.message);
const chosen = await chooseDevice({ name: "auto", threads: 1 });
console.log(chosen.why);
await chosen.device.close();`,
      [],
    );
    expect(stdout).toMatch(/^true adapter no WebGPU: the npm package `webgpu` is not installed; `uhdc doctor`.*\nwasm, 1 thread: /);
  });
});
