// Where the functions of the WebAssembly renderer read and write: addresses in the memory of a device, for distances
// that an instruction can hold and for those that lead below the buffer before they lead into it.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { dim, dimEval } from "../compiler/ir/dim.ts";
import { add, f32, i32, load, mul, variable } from "../compiler/ir/kernel/build.ts";
import type { Expr, Kernel } from "../compiler/ir/kernel/types.ts";
import { lowerKernel } from "../compiler/schedule/lower.ts";
import { scalarCapabilities, type Capabilities } from "../compiler/schedule/capabilities.ts";
import { plainWasm } from "../compiler/targets/wasm/capabilities.ts";
import { firstAddress } from "../compiler/targets/wasm/memory.ts";
import { renderWasm } from "../compiler/targets/wasm/render.ts";
import { heapAddress } from "../runtime/devices/wasm/control.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";

let device: WasmDevice;
beforeAll(async () => {
  device = await WasmDevice.create({ threads: 1, simd: "plain" });
});
afterAll(() => device.close());

/** y[i] = 2·x[index] for i < count, where x is the first buffer of the memory and x[j] is j. */
async function reads(index: (i: Expr) => Expr, count: number, elements: number, capabilities: Capabilities): Promise<Float32Array> {
  const kernel: Kernel = {
    name: "k",
    axes: [{ name: "i", extent: dim(count) }],
    buffers: [
      { name: "x", dtype: "f32", shape: [dim(elements)], access: "read" },
      { name: "y", dtype: "f32", shape: [dim(count)], access: "write" },
    ],
    stages: [{ k: "store", axes: [], buffer: "y", index: variable("i"), value: mul(load("x", index(variable("i")), "f32"), f32(2)) }],
    schedule: [],
    sources: [],
  };
  const fn = lowerKernel(kernel, capabilities);
  const module = await device.load({ wasm: { plain: renderWasm([fn], { relaxed: false, shared: true }) } });
  const [x, y] = [device.alloc(4 * elements), device.alloc(4 * count)];
  const values = Float32Array.from({ length: elements }, (_, j) => j);
  await device.write(x, 0, new Uint8Array(values.buffer));
  await device.submit([
    {
      k: "dispatch",
      module,
      kernel: "k",
      bindings: [x, y].map((buffer) => ({ buffer, offset: 0, bytes: buffer.bytes })),
      dims: [],
      units: dimEval(fn.units, {}),
      scratch: 0,
      flops: count,
      bytes: 0,
    },
  ]);
  const result = await device.read(y, 0, 4 * count);
  for (const buffer of [x, y]) device.free(buffer);
  return new Float32Array(result.buffer, result.byteOffset, count);
}

describe("a load reads the element that its index says", () => {
  test.each([
    { name: "one by one", capabilities: scalarCapabilities },
    { name: "four at a time", capabilities: plainWasm },
  ])("though the part of the index that varies is far below zero, $name", async ({ capabilities }) => {
    const backwards = (i: Expr): Expr => add(mul(i, i32(-1)), i32(29_999));
    const found = await reads(backwards, 30_000, 30_000, capabilities);
    expect(found.findIndex((value, i) => value !== 2 * (29_999 - i))).toBe(-1);
  });
});

test("the device gives no address below those that the functions rely on", () => expect(heapAddress).toBeGreaterThanOrEqual(firstAddress));
