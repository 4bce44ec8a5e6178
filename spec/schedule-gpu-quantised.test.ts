// The builder of products by packed weights for GPUs: every format, shape and epilogue, few rows and many, executed by the
// emulator for each size of subgroups and by this machine's adapter, against a float64 loop.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { compileGraph, type WebGpuCompiled } from "../compiler/compile.ts";
import type { WgslFeatures } from "../compiler/targets/wgsl/types.ts";
import type { RefTensor } from "../ops/define.ts";
import { Session } from "../runtime/session.ts";
import { runs, seed } from "./conformance/property.ts";
import { fromRuntime, toRuntime } from "./conformance/tensors.ts";
import { emulated } from "./gpu-emulator.ts";
import { cases, expected, make, type Case } from "./quantised-cases.ts";
import { gpuDevice } from "./webgpu-support.ts";

const features: readonly WgslFeatures[] = ([4, 8, 32] as const).map((subgroups) => ({ subgroups, f16: false }));

function compiled(c: Case, start: number): { readonly made: ReturnType<typeof make>; readonly program: WebGpuCompiled } {
  const made = make(c, start);
  const program = compileGraph(made.graph, { target: "webgpu", features });
  expect(program.plainLoops).toEqual([]);
  return { made, program };
}

function compare(c: Case, made: ReturnType<typeof make>, found: RefTensor | undefined, where: string): void {
  const { value, allowed } = expected(c, made, false);
  expect(found?.shape).toEqual([c.m, c.n]);
  for (const [i, want] of value.entries()) {
    const got = found?.data[i] ?? NaN;
    const near = Number.isFinite(want) ? Math.abs(got - want) <= (allowed[i] ?? 0) : Object.is(got, want);
    if (!near) throw new Error(`${where}: element ${i} is ${got}, not ${want} ± ${allowed[i] ?? 0}`);
  }
}

async function check(c: Case, start: number): Promise<void> {
  const { made, program } = compiled(c, start);
  for (const variant of program.imp.variants.keys())
    compare(c, made, (await emulated(program, variant, made.inputs))["y"], `subgroups of ${features[variant]?.subgroups ?? 0}`);
}

const base: Case = { m: 1, symbolic: true, n: 70, blocks: 9, bits: 4, minima: true, epilogue: "bias", gathered: false, odd: undefined };

describe("a product by a packed weight on GPUs", () => {
  test("agrees with a float64 loop for any size, format and epilogue", { timeout: 60_000 }, async () => {
    const small = cases.filter((c) => c.m * c.n * c.blocks <= 13 * 70 * 5);
    await fc.assert(
      fc.asyncProperty(small, fc.nat(), (c, start) => check(c, start)),
      { numRuns: Math.min(runs, 25), seed },
    );
  });

  test.each([true, false])(
    "agrees around the rows of a tile and of a workgroup, sizes of a run: %s",
    { timeout: 60_000 },
    async (symbolic) => {
      for (const m of [0, 1, 3, 4, 5, 16, 17]) await check({ ...base, m, symbolic, n: 33, blocks: 2 }, m);
    },
  );

  test("keeps what is not finite in its row", async () => {
    for (const odd of [NaN, Infinity, -Infinity]) await check({ ...base, m: 5, n: 9, odd }, 3);
  });

  test("has the same units and sizes for all subgroups, and uses those that hold a team", () => {
    const { imp } = compiled(base, 1).program;
    const functions = imp.variants.map(([fn]) => fn);
    expect(new Set(functions.map((fn) => `${fn?.units.text ?? ""} ${fn?.dims.join() ?? ""}`)).size).toBe(1);
    expect(functions.map((fn) => fn?.subgroup)).toEqual([undefined, 8, 32, undefined]);
  });

  // A software driver compiles each of them for seconds.
  test("gives the same on this machine's adapter, with its features and without", { timeout: 120_000 }, async (context) => {
    await using device = await gpuDevice(context);
    const fixed: Case = { ...base, symbolic: false, blocks: 2 };
    for (const [c, all] of [
      [fixed, false],
      [{ ...fixed, bits: 8, minima: false, m: 4 }, true],
    ] as const) {
      const made = make(c, 5);
      const { plan, wgsl } = compileGraph(made.graph, { target: "webgpu", features: device.features });
      await using session = await Session.create({ plan, wgsl: all ? wgsl : wgsl.slice(-1) }, { device });
      const { outputs } = await session.run(Object.fromEntries(Object.entries(made.inputs).map(([name, t]) => [name, toRuntime(t)])));
      compare(c, made, outputs["y"] === undefined ? undefined : fromRuntime(outputs["y"]), device.description);
    }
  });
});
