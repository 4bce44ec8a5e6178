// Rendered modules on the device: the plain and the relaxed variant, shared memory and not, at addresses beyond 2 GiB.

import { afterEach, describe, expect, test } from "vitest";
import { dimSymbol } from "../compiler/ir/dim.ts";
import type { ImpExpr, ImpFunction } from "../compiler/ir/imp/types.ts";
import { relaxedProbe } from "../compiler/targets/wasm/capabilities.ts";
import { renderWasm } from "../compiler/targets/wasm/render.ts";
import type { Device, KernelCode } from "../runtime/device.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";
import { chooseVariant } from "../runtime/devices/wasm/module.ts";

const unit: ImpExpr = { k: "var", name: "u", type: "i32" };
const times4: ImpExpr = { k: "binary", op: "mul", a: unit, b: { k: "const", type: "i32", value: 4 }, type: "i32" };
const at = (buffer: string): ImpExpr => ({ k: "at", buffer, index: times4, type: `ptr:${buffer}` });
const load: ImpExpr = { k: "load", ptr: at("x"), offset: 0, type: "f32x4" };

/** y = x·x + x, four elements a unit. */
const square: ImpFunction = {
  name: "square",
  buffers: [
    { name: "x", dtype: "f32", access: "read" },
    { name: "y", dtype: "f32", access: "write" },
  ],
  dims: ["n"],
  scratch: [],
  units: dimSymbol("n"),
  unit: "u",
  lanes: 1,
  body: [
    { k: "let", name: "v", type: "f32x4", value: load, mutable: false },
    {
      k: "store",
      ptr: at("y"),
      offset: 0,
      value: {
        k: "fma",
        a: { k: "var", name: "v", type: "f32x4" },
        b: { k: "var", name: "v", type: "f32x4" },
        c: { k: "var", name: "v", type: "f32x4" },
        type: "f32x4",
      },
    },
  ],
  sources: [],
};

const code = {
  wasm: { plain: renderWasm([square], { relaxed: false, shared: true }), relaxed: renderWasm([square], { relaxed: true, shared: true }) },
} satisfies KernelCode;
const hasRelaxed = WebAssembly.validate(relaxedProbe());

const open: Device[] = [];
afterEach(async () => {
  for (const d of open.splice(0)) await d.close();
});

describe.each([1, 2])("on %i threads", (threads) => {
  test.each(["plain", "relaxed", "auto"] as const)("the %s variant computes", async (simd) => {
    const d = await WasmDevice.create({ threads, simd });
    open.push(d);
    if (simd === "relaxed" && !hasRelaxed) {
      await expect(d.load(code)).rejects.toThrow("relaxed SIMD was asked for");
      return;
    }
    const module = await d.load(code);
    const n = 4 * 3001;
    // Most of the address space lies before the buffers, untouched, so that addresses have their top bit set.
    const before = d.alloc(2.5 * 2 ** 30);
    const x = d.alloc(4 * n);
    const y = d.alloc(4 * n);
    const values = Float32Array.from({ length: n }, (_, i) => (i % 512) / 64 - 4);
    await d.write(x, 0, new Uint8Array(values.buffer));
    const whole = (buffer: typeof x): { buffer: typeof x; offset: number; bytes: number } => ({ buffer, offset: 0, bytes: buffer.bytes });
    await d.submit([
      {
        k: "dispatch",
        module,
        kernel: "square",
        bindings: [whole(x), whole(y)],
        dims: [n / 4],
        units: n / 4,
        scratch: 0,
        flops: 1e9,
        bytes: 0,
      },
    ]);
    // x is a multiple of 1/64 and small: every step is exact, fused or not.
    expect(new Float32Array((await d.read(y, 0, 4 * n)).buffer)).toEqual(values.map((v) => v * v + v));
    d.free(before);
  });
});

test("relaxed code is chosen exactly where the engine has it", () => {
  const chosen = chooseVariant(code.wasm, "auto", true);
  const expected = hasRelaxed ? code.wasm.relaxed : code.wasm.plain;
  expect(Buffer.from(chosen).equals(Buffer.from(expected ?? new Uint8Array()))).toBe(true);
  expect(Buffer.from(chooseVariant(code.wasm, "plain", true)).equals(Buffer.from(code.wasm.plain))).toBe(true);
});
