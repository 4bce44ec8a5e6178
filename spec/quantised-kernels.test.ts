// Products by packed weights on every device: exact where rows are not rounded, within the stated bound where they are
// (Note [Error of rounded rows] in compiler/schedule/quantised-integers.ts); and the operations they are made of.

import * as fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { dim } from "../compiler/ir/dim.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import * as b from "../compiler/ir/imp/build.ts";
import { runImp } from "../compiler/ir/imp/eval.ts";
import { halvesOperands, halvesOps } from "../compiler/ir/imp/ops.ts";
import type { ImpFunction } from "../compiler/ir/imp/types.ts";
import { renderWasm } from "../compiler/targets/wasm/render.ts";
import type { RefTensor } from "../ops/define.ts";
import { referenceOf, typeRule } from "../ops/index.ts";
import { toF16 } from "../ops/reference/numbers.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";
import { Session } from "../runtime/session.ts";
import { deviceRows } from "./conformance/devices.ts";
import { seed } from "./conformance/property.ts";
import { fromRuntime, toRuntime } from "./conformance/tensors.ts";

interface Case {
  readonly m: number;
  /** M is known only at run time. */
  readonly symbolic: boolean;
  readonly n: number;
  readonly blocks: number;
  readonly bits: 4 | 8;
  readonly minima: boolean;
  readonly epilogue: "none" | "bias" | "relu";
  /** Rows of A are looked up. */
  readonly gathered: boolean;
  /** An element of A that is not finite, if any. */
  readonly odd: number | undefined;
}

const cases: fc.Arbitrary<Case> = fc.record({
  m: fc.oneof({ weight: 3, arbitrary: fc.constantFrom(0, 1, 2, 5, 7, 8, 9, 13) }, { weight: 1, arbitrary: fc.constantFrom(96, 97, 130) }),
  symbolic: fc.boolean(),
  n: fc.oneof({ weight: 4, arbitrary: fc.constantFrom(0, 1, 3, 4, 8, 31, 32, 33, 70) }, { weight: 1, arbitrary: fc.constantFrom(1030) }),
  blocks: fc.constantFrom(1, 2, 3, 4, 5, 9),
  bits: fc.constantFrom(4, 8),
  minima: fc.boolean(),
  epilogue: fc.constantFrom("none", "bias", "relu"),
  gathered: fc.boolean(),
  odd: fc.oneof({ weight: 4, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: fc.constantFrom(NaN, Infinity, -Infinity) }),
});

interface Made {
  readonly graph: ReturnType<GraphBuilder["build"]>;
  readonly inputs: Readonly<Record<string, RefTensor>>;
  readonly weight: RefTensor;
  readonly x: RefTensor;
  readonly bias: RefTensor;
}

/** Numbers that are the same for the same seed. */
function random(start: number): () => number {
  let state = start | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 4294967296;
  };
}

function make(c: Case, start: number): Made {
  const next = random(start);
  const k = c.blocks * 32;
  const of = (dtype: RefTensor["dtype"], shape: readonly number[], element: (i: number) => number): RefTensor => ({
    dtype,
    shape,
    data: Float64Array.from({ length: shape.reduce((p, d) => p * d, 1) }, (_, i) => element(i)),
  });
  const words = of("i32", [c.n, c.blocks * c.bits], () => (next() * 4294967296) | 0);
  const scales = of("f16", [c.n, c.blocks], () => toF16(0.02 * (next() - 0.3)));
  const minima = of("f16", [c.n, c.blocks], () => toF16(-0.1 * next()));
  // Blocks of very different sizes, and of zeros.
  const x = of("f32", [c.m, k], (i) => Math.fround((next() - 0.5) * ([1, 100, 1e-3, 0][Math.floor(i / 32) % 4] ?? 0)));
  if (c.odd !== undefined && x.data.length > 0) x.data[Math.floor(next() * x.data.length)] = c.odd;
  const bias = of("f32", [c.n], () => Math.fround(next() - 0.5));
  const index = of("i32", [c.m], (i) => c.m - 1 - i);
  const g = new GraphBuilder("product", typeRule);
  const rows = c.symbolic ? g.symbol("M", 0, 4096) : dim(c.m);
  const type = (t: RefTensor, first = dim(t.shape[0] ?? 0)): { dtype: RefTensor["dtype"]; shape: readonly ReturnType<typeof dim>[] } => ({
    dtype: t.dtype,
    shape: [first, ...t.shape.slice(1).map(dim)],
  });
  const given = {
    x,
    words,
    scales,
    ...(c.minima ? { minima } : {}),
    ...(c.gathered ? { index } : {}),
    ...(c.epilogue === "bias" ? { bias } : {}),
  };
  let a = g.input("x", type(x, rows));
  if (c.gathered) a = g.op("gather", [a, g.input("index", type(index, rows))]);
  const parts = [g.input("words", type(words)), g.input("scales", type(scales)), ...(c.minima ? [g.input("minima", type(minima))] : [])];
  const w = g.op("unpack", parts, { bits: c.bits });
  let y = g.op("matmul", [a, w], { transpose_a: false, transpose_b: true });
  if (c.epilogue === "bias") y = g.op("add", [y, g.op("broadcast", [g.input("bias", type(bias))], { shape: [rows, dim(c.n)] })]);
  if (c.epilogue === "relu") y = g.op("maximum", [y, g.constant("f32", [rows, dim(c.n)], [0])]);
  g.output("y", y);
  const unpacked = c.minima ? [words, scales, minima] : [words, scales];
  const weight = referenceOf("unpack", unpacked, { bits: c.bits }, { dtype: "f32", shape: [c.n, k] });
  return { graph: g.build(), inputs: given, weight, x, bias };
}

/** The result in float64, and how far from it each element may be. */
function expected(c: Case, { weight, x, bias }: Made, rounded: boolean): { readonly value: Float64Array; readonly allowed: Float64Array } {
  const k = c.blocks * 32;
  const value = new Float64Array(c.m * c.n);
  const allowed = new Float64Array(c.m * c.n);
  const at = (t: RefTensor, i: number): number => t.data[i] ?? NaN;
  for (let m = 0; m < c.m; m++) {
    const row = (c.gathered ? c.m - 1 - m : m) * k;
    const largest = Array.from({ length: c.blocks }, (_, block) =>
      Math.max(...x.data.subarray(row + block * 32, row + block * 32 + 32).map(Math.abs)),
    );
    for (let n = 0; n < c.n; n++) {
      const start = c.epilogue === "bias" ? at(bias, n) : 0;
      let [sum, terms, bound] = [start, Math.abs(start), 0];
      for (let i = 0; i < k; i++) {
        const w = at(weight, n * k + i);
        sum += at(x, row + i) * w;
        // Minima are added apart: what they cancel counts too.
        terms += Math.abs(largest[Math.floor(i / 32)] ?? 0) * (Math.abs(w) + (c.minima || c.bits === 4 ? 0.3 : 0));
        if (rounded) bound += ((largest[Math.floor(i / 32)] ?? 0) / 65000) * Math.abs(w);
      }
      const y = c.epilogue === "relu" ? (Number.isNaN(sum) ? NaN : Math.max(sum, 0)) : sum;
      value[m * c.n + n] = y;
      // What is not finite is not rounded.
      allowed[m * c.n + n] = Number.isFinite(sum) ? bound + 2e-6 * terms + 1e-30 : 0;
    }
  }
  return { value, allowed };
}

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
