// The conformance suite on WebGPU: fewer calls than on other devices, since a driver compiles every new kernel.
// `UHD_GPU_RUNS` sets how many calls of each op there are, 6 otherwise; a third of that for reductions and what contains them.

import { afterAll } from "vitest";
import { compileGraph, type WebGpuCompiled } from "../../compiler/compile.ts";
import { coreFeatures } from "../../compiler/targets/wgsl/types.ts";
import { ops, type OpName } from "../../ops/index.ts";
import type { WebGpuDevice } from "../../runtime/devices/webgpu/device.ts";
import { Session } from "../../runtime/session.ts";
import { tensor } from "../../ops/reference/tensor.ts";
import { batchOf, caseOf } from "./cases.ts";
import { gpuRows } from "./devices.ts";
import { register } from "./suite.ts";
import { toRuntime } from "./tensors.ts";

export const gpuCalls = Math.max(3, Number(process.env["UHD_GPU_RUNS"] ?? 6) || 6);

/** A software driver takes half a second for a kernel with barriers, so ops that need them get fewer calls. */
function callsOf(op: OpName, calls: number): number {
  const { kind } = ops[op];
  return kind === "elementwise" || kind === "movement" ? calls : Math.ceil(calls / 3);
}

/** Registers it on `found`, which is closed at the end: with fusion and without, on one device, since most kernels are the same. */
export async function gpuConformance(driver: string, found: WebGpuDevice | string, calls: number): Promise<void> {
  const features = typeof found === "string" ? coreFeatures : found.features;
  const flushes = typeof found === "string" ? false : await flushesSubnormals(found);
  for (const fuse of [true, false])
    await register({
      title: `${fuse ? "fused" : "unfused"}, ${driver}`,
      rows: gpuRows(found),
      compile: (graph) => compileGraph(graph, { target: "webgpu", features, fuse }),
      declines,
      flushes,
      calls: (op) => callsOf(op, calls),
      // Kernels for any size serve many calls; one in four is compiled for its own.
      symbolic: (i) => (i % 4 === 3 ? "none" : "every"),
      graphs: Math.max(3, Math.floor(calls / 3)),
    });
  afterAll(async () => {
    if (typeof found !== "string") await found.close();
  });
}

/** Whether the driver takes results below the smallest normal number for zeros, as WGSL lets it; asked by a product that is one. */
async function flushesSubnormals(device: WebGpuDevice): Promise<boolean> {
  const { graph, inputs } = batchOf([
    caseOf("mul", { operands: [tensor("f32", [1], [2 ** -100]), tensor("f32", [1], [2 ** -30])], attrs: {} }, "every"),
  ]);
  await using session = await Session.create(compileGraph(graph, { target: "webgpu", features: coreFeatures }), { device });
  const { outputs } = await session.run(Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, toRuntime(t)])));
  return outputs["c0"]?.data[0] === 0;
}

/** Characters of one kernel that a software driver compiles in seconds. */
const mostText = 50_000;

function declines({ wgsl }: WebGpuCompiled): string | undefined {
  const largest = Math.max(0, ...wgsl.flatMap((v) => v.kernels.map((k) => k.code.length)));
  return largest > mostText
    ? `a kernel of ${Math.round(largest / 1000)} KB of WGSL, which a software driver compiles for minutes`
    : undefined;
}
