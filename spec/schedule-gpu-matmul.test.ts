// The matrix-multiply builder for GPUs: every shape, batch, layout of A and epilogue, executed by the emulator for each
// size of subgroups, against a float64 loop.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { fromBfloat, fromHalf } from "../compiler/ir/imp/scalar.ts";
import { runImp } from "../compiler/ir/imp/eval.ts";
import type { ImpFunction } from "../compiler/ir/imp/types.ts";
import { verifyImp } from "../compiler/ir/imp/verify.ts";
import { gpuPanel, type GpuCapabilities } from "../compiler/schedule/capabilities.ts";
import { lowerGpuMatmul } from "../compiler/schedule/gpu/matmul.ts";
import { renderWgsl } from "../compiler/targets/wgsl/render.ts";
import { runs, seed } from "./conformance/property.ts";
import {
  constant,
  epilogues,
  matmulData,
  matmulExpected,
  matmulKernel,
  symbolic,
  type Case,
  type Made,
  type Size,
} from "./schedule-matmul-cases.ts";

const sizes = [0, 4, 8, 32] as const;

function lowered(made: Made, subgroups: GpuCapabilities["subgroups"]): ImpFunction {
  const fn = lowerGpuMatmul(made.kernel, { subgroups });
  if (fn === undefined) throw new Error("the builder declined");
  expect(verifyImp(fn)).toEqual([]);
  return fn;
}

function check(given: Case, at: number): void {
  const c: Case = { ...given, panel: gpuPanel };
  const made = matmulKernel(c);
  const data = matmulData(c, made, at);
  for (const subgroups of sizes) {
    const memory = Object.fromEntries(Object.entries(data.memory).map(([name, values]) => [name, values.slice()]));
    runImp(lowered(made, subgroups), memory, made.dims);
    for (const { name, values, slack } of matmulExpected(c, data)) {
      for (const [i, value] of values.entries()) {
        const raw = memory[name]?.[i] ?? NaN;
        const found = name !== "Y" || c.out === "f32" ? raw : c.out === "f16" ? fromHalf(raw) : fromBfloat(raw);
        if (!(Math.abs(found - value) <= (slack[i] ?? 0)))
          throw new Error(`subgroups of ${subgroups}: ${name}[${i}] is ${found}, not ${value} ± ${slack[i] ?? 0}`);
      }
    }
  }
}

const size = (max: number): fc.Arbitrary<Size> =>
  fc.record({ value: fc.oneof(fc.nat(max), fc.constantFrom(0, 1, 2, 4)), symbolic: fc.boolean() });
const cases: fc.Arbitrary<Case> = fc
  .record({
    batch: fc.array(size(2), { maxLength: 2 }),
    m: fc.oneof(size(14), size(90)),
    n: fc.oneof(size(40), size(140)),
    k: size(24),
    sharedB: fc.boolean(),
    a: fc.constantFrom("rows", "gathered", "columns"),
    epilogue: fc.constantFrom(...epilogues),
    out: fc.constantFrom("f32", "f32", "f16", "bf16"),
    swapped: fc.boolean(),
    weights: fc.constantFrom("f32", "f16"),
    left: fc.constantFrom("f32", "f32", "f16", "bf16"),
  })
  .map((c) => (c.a === "columns" ? { ...c, m: constant(c.m.value) } : c));

const plainCase: Case = {
  batch: [],
  m: symbolic(81),
  n: constant(16),
  k: constant(24),
  sharedB: false,
  a: "rows",
  epilogue: "gelu",
  out: "f32",
  swapped: false,
  panel: gpuPanel,
};

describe("the matrix-multiply builder for GPUs", () => {
  test("agrees with a float64 loop for any size, batch, layout and epilogue", () => {
    fc.assert(
      fc.property(cases, fc.integer(), (c, at) => check(c, at)),
      { numRuns: Math.min(runs, 80), seed },
    );
  }, 60_000);

  test.each([constant, symbolic])("agrees for one and two rows, whose steps the invocations divide among themselves", (size_) => {
    for (const m of [1, 2, 3])
      for (const k of [0, 1, 15, 16, 33, 100]) check({ ...plainCase, m: size_(m), k: size_(k), n: symbolic(37) }, m);
  });

  test("gives NaN and infinity where arithmetic does, and keeps them in their row", () => {
    for (const subgroups of sizes) {
      const c: Case = { ...plainCase, m: symbolic(43), epilogue: "bias" };
      const made = matmulKernel(c);
      const data = matmulData(c, made, 5);
      const k = c.k.value;
      const a = data.memory.A;
      if (a === undefined) throw new Error("no A");
      a.fill(NaN, 3 * k, 4 * k);
      a[5 * k] = Infinity;
      runImp(lowered(made, subgroups), data.memory, made.dims);
      const y = data.memory.Y ?? [];
      for (let i = 0; i < 43; i++)
        for (let j = 0; j < 16; j++) {
          const value = y[i * 16 + j] ?? 0;
          if (i === 3) expect(value).toBeNaN();
          else expect(Number.isFinite(value)).toBe(i !== 5);
        }
    }
  });

  test("has the same units and sizes for all subgroups: variants share a plan", () => {
    for (const m of [constant(1), constant(577), symbolic(577)]) {
      const made = matmulKernel({ ...plainCase, m });
      const functions = sizes.map((s) => lowered(made, s));
      expect(new Set(functions.map((fn) => `${fn.units.text} ${fn.dims.join()}`)).size).toBe(1);
    }
  });

  test("reads whole vectors of both operands, unless a subgroup exchanges single numbers", () => {
    const made = matmulKernel({ ...plainCase, n: constant(4096), k: constant(1024) });
    for (const subgroups of sizes) {
      const { code } = renderWgsl(lowered(made, subgroups), { features: { subgroups, f16: false }, readOnly: new Set(["A", "B"]) });
      for (const name of subgroups === 4 || subgroups === 8 ? ["B"] : ["A", "B"])
        expect(code).toMatch(new RegExp(`var<storage, read> p_${name}: array<vec4<?f`));
    }
  });
});
