// The matrix-multiply builder: every shape, batch, layout of A and epilogue, executed by the emulator and as
// WebAssembly on the device in both variants, against a float64 loop.

import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { dimEval } from "../compiler/ir/dim.ts";
import { fromBfloat, fromHalf } from "../compiler/ir/imp/scalar.ts";
import { runImp } from "../compiler/ir/imp/eval.ts";
import type { ImpFunction } from "../compiler/ir/imp/types.ts";
import { plainWasm, relaxedProbe, relaxedWasm } from "../compiler/targets/wasm/capabilities.ts";
import { renderWasm } from "../compiler/targets/wasm/render.ts";
import { scratchBytes } from "../compiler/targets/wasm/sizes.ts";
import { scalarCapabilities } from "../compiler/schedule/capabilities.ts";
import { lowerMatmul } from "../compiler/schedule/matmul.ts";
import type { Device } from "../runtime/device.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";
import { runs, seed } from "./conformance/property.ts";
import {
  constant,
  epilogues,
  matmulData,
  matmulExpected,
  matmulKernel,
  rightLayouts,
  symbolic,
  type Case,
  type Data,
  type Made,
  type Size,
} from "./schedule-matmul-cases.ts";

const hasRelaxed = WebAssembly.validate(relaxedProbe());
const variants = hasRelaxed ? (["plain", "relaxed"] as const) : (["plain"] as const);
type Variant = (typeof variants)[number];
const devices = new Map<Variant, Device>();

beforeAll(async () => {
  for (const v of variants) devices.set(v, await WasmDevice.create({ threads: 2, simd: v }));
});
afterAll(async () => {
  for (const d of devices.values()) await d.close();
});

function lowered(made: Made, relaxed: boolean): ImpFunction {
  const fn = lowerMatmul(made.kernel, relaxed ? relaxedWasm : plainWasm);
  if (fn === undefined) throw new Error("the builder declined");
  return fn;
}

const copied = (data: Data): Data["memory"] =>
  Object.fromEntries(Object.entries(data.memory).map(([name, values]) => [name, values.slice()]));

/** Runs on the device and leaves what was written in `memory`. */
async function onDevice(variant: Variant, fn: ImpFunction, made: Made, memory: Data["memory"]): Promise<void> {
  const device = devices.get(variant);
  if (device === undefined) throw new Error("no such device");
  const relaxed = variant === "relaxed";
  const code = renderWasm([fn], { relaxed, shared: true });
  const module = await device.load({
    wasm: relaxed ? { plain: renderWasm([fn], { relaxed: false, shared: true }), relaxed: code } : { plain: code },
  });
  const buffers = [];
  for (const b of fn.buffers) {
    const values = memory[b.name];
    if (values === undefined) throw new Error(`no memory for ${b.name}`);
    const buffer = device.alloc(values.byteLength);
    await device.write(buffer, 0, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    buffers.push(buffer);
  }
  await device.submit([
    {
      k: "dispatch",
      module,
      kernel: fn.name,
      bindings: buffers.map((buffer) => ({ buffer, offset: 0, bytes: buffer.bytes })),
      dims: fn.dims.map((d) => made.dims[d] ?? NaN),
      units: dimEval(fn.units, made.dims),
      scratch: dimEval(scratchBytes(fn), made.dims),
      flops: 1e9,
      bytes: 0,
    },
  ]);
  for (const [i, b] of fn.buffers.entries()) {
    const [buffer, values] = [buffers[i], memory[b.name]];
    if (buffer === undefined || values === undefined) continue;
    if (b.access === "write")
      new Uint8Array(values.buffer, values.byteOffset, values.byteLength).set(await device.read(buffer, 0, values.byteLength));
    device.free(buffer);
  }
}

function compare(c: Case, data: Data, memory: Data["memory"], on: string): void {
  for (const { name, values, slack } of matmulExpected(c, data)) {
    const got = memory[name];
    for (const [i, value] of values.entries()) {
      const raw = got?.[i] ?? NaN;
      const found = name !== "Y" || c.out === "f32" ? raw : c.out === "f16" ? fromHalf(raw) : fromBfloat(raw);
      if (!(Math.abs(found - value) <= (slack[i] ?? 0)))
        throw new Error(`${on}: ${name}[${i}] is ${found}, not ${value} ± ${slack[i] ?? 0}`);
    }
  }
}

async function check(c: Case, at: number, emulated = true): Promise<void> {
  const made = matmulKernel(c);
  const data = matmulData(c, made, at);
  for (const relaxed of emulated ? [false, true] : []) {
    const memory = copied(data);
    runImp(lowered(made, relaxed), memory, made.dims);
    compare(c, data, memory, `emulator, ${relaxed ? "relaxed" : "plain"}`);
  }
  for (const v of variants) {
    const memory = copied(data);
    await onDevice(v, lowered(made, v === "relaxed"), made, memory);
    compare(c, data, memory, `device, ${v}`);
  }
}

const size = (max: number): fc.Arbitrary<Size> =>
  fc.record({ value: fc.oneof(fc.nat(max), fc.constantFrom(0, 1, 8, 12, 24)), symbolic: fc.boolean() });
const cases: fc.Arbitrary<Case> = fc
  .record({
    batch: fc.array(size(3), { maxLength: 2 }),
    m: size(30),
    n: size(30),
    k: size(30),
    sharedB: fc.boolean(),
    a: fc.constantFrom("rows", "gathered", "columns"),
    epilogue: fc.constantFrom(...epilogues),
    out: fc.constantFrom("f32", "f32", "f16", "bf16"),
    swapped: fc.boolean(),
    right: fc.constantFrom(...rightLayouts),
  })
  // What lies a size of the run apart when M, N or K is symbolic: the builder declines those.
  .map((c) => (c.a === "columns" ? { ...c, m: constant(c.m.value) } : c))
  .map((c) => (c.right === "columns" ? { ...c, k: constant(c.k.value) } : c.right === "panels" ? c : { ...c, n: constant(c.n.value) }));

const plainCase: Case = {
  batch: [],
  m: symbolic(577),
  n: constant(16),
  k: constant(24),
  sharedB: false,
  a: "rows",
  epilogue: "gelu",
  out: "f32",
  swapped: false,
};

describe("the matrix-multiply builder", () => {
  test("agrees with a float64 loop for any size, batch, layout and epilogue", async () => {
    await fc.assert(
      fc.asyncProperty(cases, fc.integer(), (c, at) => check(c, at)),
      { numRuns: runs, seed },
    );
  }, 120_000);

  test.each(epilogues)("agrees over several blocks of rows, epilogue %s", async (epilogue) => {
    for (const m of [95, 96, 97, 577, 769]) await check({ ...plainCase, epilogue, m: symbolic(m) }, m);
    await check({ ...plainCase, epilogue, m: constant(193), n: symbolic(21) }, 1);
  });

  test.each([constant(4000), symbolic(4000)])("agrees when A is larger than a group of blocks, K %o", async (k) => {
    await check({ ...plainCase, m: symbolic(250), n: constant(17), k, epilogue: "bias" }, 2, false);
  });

  test.each(["rows", "columns", "apart"] as const)("agrees over several blocks of rows, the right operand in %s", async (right) => {
    for (const m of [383, 385, 800]) await check({ ...plainCase, right, m: symbolic(m) }, m);
    await check({ ...plainCase, right, m: constant(97), n: constant(21), k: constant(27) }, 1);
    // Rows that lie far apart, and columns that do.
    await check({ ...plainCase, right, m: symbolic(13), n: constant(1040), k: constant(9) }, 2);
    await check({ ...plainCase, right, m: symbolic(13), n: constant(9), k: constant(1039) }, 3);
  });

  test("gives NaN and infinity where arithmetic does, and keeps them in their row", () => {
    const c: Case = { ...plainCase, m: symbolic(7), epilogue: "bias" };
    const made = matmulKernel(c);
    const data = matmulData(c, made, 5);
    const k = c.k.value;
    const a = data.memory.A;
    if (a === undefined) throw new Error("no A");
    a.fill(NaN, 3 * k, 4 * k);
    a[5 * k] = Infinity;
    runImp(lowered(made, false), data.memory, made.dims);
    const y = data.memory.Y ?? [];
    for (let i = 0; i < 7; i++)
      for (let j = 0; j < 16; j++) {
        const value = y[i * 16 + j] ?? 0;
        if (i === 3) expect(value).toBeNaN();
        else expect(Number.isFinite(value)).toBe(i !== 5);
      }
  });

  test("has the same units in both variants", () => {
    const made = matmulKernel(plainCase);
    expect(lowered(made, true).units.text).toBe(lowered(made, false).units.text);
  });

  test("declines what it cannot address", () => {
    const made = matmulKernel(plainCase);
    expect(lowerMatmul({ ...made.kernel, schedule: [] }, plainWasm)).toBeUndefined();
    for (const right of ["rows", "columns"] as const)
      expect(lowerMatmul(matmulKernel({ ...plainCase, right, n: symbolic(16), k: symbolic(24) }).kernel, plainWasm)).toBeUndefined();
    expect(lowerMatmul(made.kernel, scalarCapabilities)).toBeUndefined();
    const narrow = made.kernel.buffers.map((b) => (b.name === "A" ? { ...b, dtype: "f16" as const } : b));
    expect(lowerMatmul({ ...made.kernel, buffers: narrow }, plainWasm)).toBeUndefined();
    expect(lowerMatmul(matmulKernel({ ...plainCase, a: "columns" }).kernel, plainWasm)).toBeUndefined();
    const { pattern: _, ...unknown } = made.kernel;
    expect(lowerMatmul(unknown, plainWasm)).toBeUndefined();
  });

  test.each([
    ["plain", false],
    ["relaxed", true],
  ] as const)("a kernel of 577×1024×4096 with bias and GELU is small, %s", (_, relaxed) => {
    const made = matmulKernel({ ...plainCase, n: constant(4096), k: constant(1024) });
    const bytes = renderWasm([lowered(made, relaxed)], { relaxed, shared: true }).length;
    console.log(`577×1024×4096 with bias and quick GELU, ${relaxed ? "relaxed" : "plain"}: ${bytes} bytes`);
    expect(bytes).toBeLessThan(6000);
  });
});
