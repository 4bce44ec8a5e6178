// Products by packed weights on every device: exact where rows are not rounded, within the stated bound where they are
// (Note [Error of rounded rows] in compiler/schedule/quantised-integers.ts); and the operations they are made of.

import * as fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { dim } from "../compiler/ir/dim.ts";
import * as b from "../compiler/ir/imp/build.ts";
import { runImp } from "../compiler/ir/imp/eval.ts";
import { halvesOperands, halvesOps } from "../compiler/ir/imp/ops.ts";
import type { ImpFunction } from "../compiler/ir/imp/types.ts";
import { renderWasm } from "../compiler/targets/wasm/render.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";
import { Session } from "../runtime/session.ts";
import { deviceRows } from "./conformance/devices.ts";
import { seed } from "./conformance/property.ts";
import { fromRuntime, toRuntime } from "./conformance/tensors.ts";
import { cases, expected, make, type Case } from "./quantised-cases.ts";

async function check(c: Case, start: number, rows: typeof deviceRows): Promise<void> {
  const made = make(c, start);
  for (const activations of ["f32", "int16"] as const) {
    const compiled = compileGraph(made.graph, { activations });
    expect(compiled.plainLoops).toEqual([]);
    const { value, allowed } = expected(c, made, activations === "int16" && c.m < 8);
    for (const row of rows) {
      if ((await row.unavailable()) !== undefined) continue;
      const device = await row.open(compiled);
      try {
        await using session = await Session.create(compiled, { device });
        const given = Object.fromEntries(Object.entries(made.inputs).map(([name, t]) => [name, toRuntime(t)]));
        const { outputs } = await session.run(given);
        if (outputs["y"] === undefined) throw new Error("there is no result");
        const found = fromRuntime(outputs["y"]);
        expect(found.shape).toEqual([c.m, c.n]);
        for (const [i, want] of value.entries()) {
          const got = found.data[i] ?? NaN;
          const near = Number.isFinite(want) ? Math.abs(got - want) <= (allowed[i] ?? 0) : Object.is(got, want);
          if (!near) throw new Error(`${row.name}, ${activations}: element ${i} is ${got}, not ${want} ± ${allowed[i] ?? 0}`);
        }
      } finally {
        await row.close(device);
      }
    }
  }
}

afterAll(async () => {
  for (const row of deviceRows) await row.end();
});

describe("a product by a packed weight", () => {
  test("is exact where rows are not rounded and within its bound where they are, on every device", { timeout: 120_000 }, async () => {
    const small = cases.filter((c) => c.m * c.n * c.blocks <= 9 * 70 * 5);
    await fc.assert(
      fc.asyncProperty(small, fc.nat(), (c, start) => check(c, start, deviceRows)),
      { numRuns: 20, seed },
    );
  });

  test("on WebAssembly with larger sizes too", { timeout: 120_000 }, async () => {
    const wasm = deviceRows.filter((r) => r.name.startsWith("wasm"));
    await fc.assert(
      fc.asyncProperty(cases, fc.nat(), (c, start) => check(c, start, wasm)),
      { numRuns: 15, seed },
    );
  });
});

describe("operations on the halves of vectors", () => {
  test("are the same in the emulator and in WebAssembly", async () => {
    const word = fc.oneof(fc.integer(), fc.constantFrom(0, -1, 32767, 32768, -32768, 0x7fff7fff, 0x80008000 | 0, 2147483647, -2147483648));
    const fn: ImpFunction = {
      name: "halves",
      buffers: [
        { name: "x", dtype: "i32", access: "read" },
        { name: "y", dtype: "i32", access: "write" },
      ],
      dims: [],
      scratch: [],
      units: dim(1),
      unit: "unit",
      lanes: 1,
      body: halvesOps.map((op, i) => {
        const operand = (at: number): ReturnType<typeof b.load> => b.load(b.at("x", b.int(at)), "i32x4");
        return b.store(b.at("y", b.int(4 * i)), b.halves(op, ...[operand(0), operand(4)].slice(0, halvesOperands[op])));
      }),
      sources: [],
    };
    await using device = await WasmDevice.create({ threads: 1, simd: "plain" });
    const module = await device.load({ wasm: { plain: renderWasm([fn], { relaxed: false, shared: true }) } });
    await fc.assert(
      fc.asyncProperty(fc.array(word, { minLength: 8, maxLength: 8 }), async (words) => {
        const x = Int32Array.from(words);
        const y = new Int32Array(4 * halvesOps.length);
        runImp(fn, { x, y }, {});
        const [from, to] = [device.alloc(x.byteLength), device.alloc(y.byteLength)];
        await device.write(from, 0, new Uint8Array(x.buffer));
        const bindings = [from, to].map((buffer) => ({ buffer, offset: 0, bytes: buffer.bytes }));
        await device.submit([{ k: "dispatch", module, kernel: "halves", bindings, dims: [], units: 1, scratch: 0, flops: 1, bytes: 0 }]);
        const bytes = await device.read(to, 0, y.byteLength);
        device.free(from);
        device.free(to);
        expect(new Int32Array(bytes.slice().buffer)).toEqual(y);
      }),
      { numRuns: 100, seed },
    );
  });
});
