// The builder for sums of rows by an index: which kernels it takes, and that what it pushes is what the body pulls: to the
// bit, with NaN and infinities, where the sum is one loop, and for numbers whose sums are exact where it is two. Executed by the emulator; WebAssembly is compared by the conformance of scatter_add, gather_sum and gather.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { runImp } from "../compiler/ir/imp/eval.ts";
import { verifyImp } from "../compiler/ir/imp/verify.ts";
import { evalKernel } from "../compiler/ir/kernel/eval.ts";
import { parseKernel } from "../compiler/ir/kernel/parse.ts";
import { lower, lowerKernel } from "../compiler/schedule/lower.ts";
import { scalarCapabilities } from "../compiler/schedule/capabilities.ts";
import { lowerScatter } from "../compiler/schedule/scatter.ts";
import { plainWasm } from "../compiler/targets/wasm/capabilities.ts";
import { trainStep } from "./train-support.ts";
import { runs, seed } from "./conformance/property.ts";

const body = (value: string, columns: number | string = "D"): string => `kernel "sums" {
  axis i0: N
  axis i1: ${columns}
  read x0: i32[M, 2]
  read x1: f32[M, ${columns}]
  read x2: f32[N, ${columns}]
  write out: f32[N, ${columns}]
  store out[i0 * ${columns === "D" ? "{D}" : columns} + i1] = ${value}
}
`;
const at = (columns: number | string): string => `r0.1 * ${columns === "D" ? "{D}" : columns} + i1`;
const forms: Readonly<Record<string, (columns: number | string) => string>> = {
  "one index": (c) => `sum(r0.1 = 0 .. {M}, select(x0[r0.1 * 2] == i0, x1[${at(c)}], 0.0))`,
  "the row on the left": (c) => `sum(r0.1 = 0 .. {M}, select(i0 == x0[r0.1 * 2], x1[${at(c)}], 0.0))`,
  "several taps and a factor of the row": (c) =>
    `sum(r0.1 = 0 .. {M}, sum(r1.2 = 0 .. 2, select(x0[r0.1 * 2 + r1.2] == i0, f32(x0[r0.1 * 2]) * x1[${at(c)}], 0.0)))`,
  "something after it": (c) =>
    `sum(r0.1 = 0 .. {M}, select(x0[r0.1 * 2] == i0, x1[${at(c)}], 0.0)) * 0.5 + x2[i0 * ${c === "D" ? "{D}" : c} + i1]`,
};

const special = fc.constantFrom(-0, 0, NaN, Infinity);

describe("sums of rows by an index", () => {
  test.each(Object.keys(forms))("are pushed as they would be pulled: %s", (form) => {
    fc.assert(
      fc.property(
        fc.record({ N: fc.integer({ min: 0, max: 9 }), M: fc.integer({ min: 0, max: 12 }), D: fc.integer({ min: 0, max: 37 }) }),
        fc.boolean(),
        fc.infiniteStream(fc.oneof(form.startsWith("several") ? fc.integer({ min: -99, max: 99 }) : fc.float(), special)),
        fc.infiniteStream(fc.integer({ min: -2, max: 10 })),
        (dims, known, numbers, places) => {
          const columns = known && dims.D > 0 ? dims.D : "D";
          const kernel = parseKernel(body(forms[form]?.(columns) ?? "", columns));
          const fn = lowerScatter(kernel, plainWasm);
          if (fn === undefined) throw new Error("the builder declined");
          expect(verifyImp(fn)).toEqual([]);
          const take = <T>(n: number, from: Iterator<T>): T[] => Array.from({ length: n }, () => from.next().value as T);
          const memory = () => ({ out: new Float32Array(dims.N * dims.D).fill(7) });
          const given = {
            x0: Int32Array.from(take(dims.M * 2, places)),
            x1: Float32Array.from(take(dims.M * dims.D, numbers)),
            x2: Float32Array.from(take(dims.N * dims.D, numbers)),
          };
          const [pushed, pulled] = [memory(), memory()];
          runImp(fn, { ...given, ...pushed }, dims);
          evalKernel(kernel, { ...given, ...pulled }, dims);
          expect(pushed.out).toEqual(pulled.out);
        },
      ),
      { numRuns: runs, seed },
    );
  });

  test("are taken on CPUs with vectors only", () => {
    const kernel = parseKernel(body(forms["one index"]?.("D") ?? ""));
    expect(lower(kernel, plainWasm).built).toBe(true);
    expect(lower(kernel, scalarCapabilities).built).toBe(false);
  });

  test.each([
    ["a product", `product(r0.1 = 0 .. {M}, select(x0[r0.1 * 2] == i0, x1[${at("D")}], 0.0))`],
    ["another value where the index differs", `sum(r0.1 = 0 .. {M}, select(x0[r0.1 * 2] == i0, x1[${at("D")}], 1.0))`],
    ["an index that depends on the row", `sum(r0.1 = 0 .. {M}, select(x0[r0.1 * 2] + i0 == i0, x1[${at("D")}], 0.0))`],
    ["bounds that depend on the row", `sum(r0.1 = 0 .. i0, select(x0[r0.1 * 2] == i0, x1[${at("D")}], 0.0))`],
    ["columns that lie apart", `sum(r0.1 = 0 .. {M}, select(x0[r0.1 * 2] == i0, x1[i1 * {M} + r0.1], 0.0))`],
  ])("are left to the loops of the body: %s", (_, value) => {
    const kernel = parseKernel(body(value));
    expect(lowerScatter(kernel, plainWasm)).toBeUndefined();
    expect(verifyImp(lowerKernel(kernel, plainWasm))).toEqual([]);
  });

  test("are what the derivatives of gathers become, also where gradients of several runs are added up", () => {
    const text = `
module Table() {
  param weight: f32[5, 8]
  forward(ids: i32[L], y: f32[L, 8]) -> f32[] { reduce_sum(gather(weight, ids) * y, axes: [0, 1]) }
}
graph g(ids: i32[L], y: f32[L, 8]) -> loss: f32[] {
  use rows = Table()
  rows(ids, y)
}
train { graph: "g" loss: "loss" trainable: ["**"] optimiser { name: "adamw" rate: 0.1 } accumulate: 2 }
`;
    const { kernels } = trainStep(text);
    const sums = kernels.filter((k) => lowerScatter(k, plainWasm) !== undefined);
    expect(sums.map((k) => k.buffers.some((b) => b.dtype === "i32"))).toContain(true);
  });
});
