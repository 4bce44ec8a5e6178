// What rendered kernels must do on a driver, checked against the emulator: the same suite for every driver
// (wgsl.test.ts, wgsl-swiftshader.test.ts), with the adapter's features and without.

import * as fc from "fast-check";
import { describe, expect, test, type TestContext } from "vitest";
import { dim, dimSymbol } from "../compiler/ir/dim.ts";
import type { DType } from "../compiler/ir/dtype.ts";
import * as b from "../compiler/ir/imp/build.ts";
import { compileImp, type ImpMemory } from "../compiler/ir/imp/eval.ts";
import { impBinaryOps, impBinaryTakes, impUnaryOps, impUnaryTakes } from "../compiler/ir/imp/ops.ts";
import type { ImpBinary, ImpExpr, ImpFunction, ImpStmt, ImpType, ImpUnary } from "../compiler/ir/imp/types.ts";
import { verifyImp } from "../compiler/ir/imp/verify.ts";
import { renderWgsl } from "../compiler/targets/wgsl/render.ts";
import { coreFeatures, type WgslFeatures } from "../compiler/targets/wgsl/types.ts";
import { runs, seed } from "./conformance/property.ts";
import { decodeElements, encodeElements } from "../ops/reference/elements.ts";
import { runOnGpu, type Gpu } from "./gpu-support.ts";
import { programs } from "./wgsl-programs.ts";

type Memory = Record<string, ImpMemory>;

/** Relative error and what is added to it near 0; nothing: the same number, with its sign. */
interface Within {
  readonly relative: number;
  readonly absolute: number;
}

const exact: Within = { relative: 0, absolute: 0 };
const ulp = 2 ** -23;
/** The operations that are approximated; 1.2e-38: results below the normal numbers may be 0. */
const approximate: Partial<Readonly<Record<ImpUnary | ImpBinary, Within>>> = {
  exp: { relative: 4 * ulp, absolute: 1.2e-38 },
  log: { relative: 4 * ulp, absolute: 1e-7 },
  tanh: { relative: 6 * ulp, absolute: 1.2e-38 },
  erf: { relative: 6 * ulp, absolute: 1.2e-38 },
  rsqrt: { relative: 2 * ulp, absolute: 1.2e-38 },
  sin: { relative: 4 * ulp, absolute: 1.2e-38 },
  cos: { relative: 4 * ulp, absolute: 1.2e-38 },
  pow: { relative: 6 * ulp, absolute: 1.2e-38 },
  // WGSL allows drivers to take what is below the normal numbers for 0, and SwiftShader does.
  add: { relative: 0, absolute: 1.2e-38 },
  sub: { relative: 0, absolute: 1.2e-38 },
  mul: { relative: 0, absolute: 1.2e-38 },
  div: { relative: 0, absolute: 1.2e-38 },
  mod: { relative: 0, absolute: 1.2e-38 },
};

/** The first element that differs, in words. */
function differs(dtype: DType, want: ImpMemory, got: ImpMemory, { relative, absolute }: Within): string | undefined {
  const [expected, found] = [decodeElements(dtype, want), decodeElements(dtype, got)];
  for (const [n, x] of expected.entries()) {
    const y = found[n] ?? NaN;
    if (Object.is(x, y)) continue;
    const signs = x === 0 && y === 0;
    if (!signs && absolute > 0 && Math.abs(x - y) <= absolute + relative * Math.abs(x)) continue;
    return `element ${n} is ${Object.is(y, -0) ? "-0" : y} instead of ${Object.is(x, -0) ? "-0" : x}`;
  }
  return undefined;
}

const clone = (memory: Memory): Memory => Object.fromEntries(Object.entries(memory).map(([name, m]) => [name, m.slice()]));

/** Runs the function on the driver and in the emulator; the first buffer that differs, in words. */
async function compare(
  gpu: Gpu,
  fn: ImpFunction,
  memory: Memory,
  dims: Readonly<Record<string, number>>,
  { features = coreFeatures, within = exact, arena = false }: { features?: WgslFeatures; within?: Within; arena?: boolean } = {},
): Promise<string | undefined> {
  expect(verifyImp(fn)).toEqual([]);
  const readOnly = new Set(arena ? [] : fn.buffers.filter((x) => x.access === "read").map((x) => x.name));
  const kernel = renderWgsl(fn, { features, readOnly });
  const [want, got] = [clone(memory), clone(memory)];
  compileImp(fn)(want, dims);
  await runOnGpu(gpu, kernel, fn, got, dims);
  for (const { name, dtype } of fn.buffers) {
    const [x, y] = [want[name], got[name]];
    const fault = x === undefined || y === undefined ? "it is not there" : differs(dtype, x, y, within);
    if (fault !== undefined) return `${name}: ${fault}\n${kernel.code}`;
  }
  return undefined;
}

const specialFloats = [
  0,
  -0,
  NaN,
  Infinity,
  -Infinity,
  1,
  -1,
  0.5,
  -0.5,
  1.5,
  2.5,
  -2.5,
  3,
  -7.1,
  0.3,
  1e-5,
  -1e-5,
  100,
  -100,
  88.5,
  -87,
  12345.678,
  8388609,
  -4194304.5,
  1e10,
  2147483648,
  -2147483648,
  3e38,
  -3e38,
  1.2e-38,
  1e-40,
  -1e-40,
  0.7853982,
  1.5707964,
  1.0000001,
].map(Math.fround);
const specialIntegers = [
  0, 1, -1, 2, 3, -3, 7, -8, 31, 32, 33, 64, 255, -256, 65536, 1000003, 16777217, 2147483647, -2147483647, -2147483648,
];

interface Operands {
  readonly type: ImpType;
  /** Each with every other, in order. */
  readonly values: readonly number[];
}

/** WGSL allows drivers to take numbers below the normal ones for 0 in arithmetic, which makes infinity times them NaN. */
const flushed: ReadonlySet<string> = new Set(["add", "sub", "mul"]);

const operandsOf = (type: ImpType, tiny = true): Operands => {
  if (type === "bool") return { type, values: [0, 1] };
  if (type === "i32" || type === "i32x4") return { type, values: specialIntegers };
  return { type, values: tiny ? specialFloats : specialFloats.filter((x) => x === 0 || !(Math.abs(x) < 1.17e-38)) };
};

/** out[unit] = op(a[unit], b[unit]), or four of them a unit. */
function elementwise(type: ImpType, make: (a: ImpExpr, c: ImpExpr) => ImpExpr): ImpFunction {
  const wide = b.isVector(type);
  const at = (name: string): ImpExpr => b.at(name, wide ? b.mul(b.local("unit", "i32"), b.int(4)) : b.local("unit", "i32"));
  const dtype = type === "bool" ? "bool" : b.laneOf(type);
  const operand = (name: string): ImpExpr =>
    type === "bool" ? { k: "convert", a: b.load(at(name), "i32"), type: "bool" } : b.load(at(name), type);
  const value = make(operand("a"), operand("c"));
  const result = b.typeOfImp(value);
  return {
    name: "elementwise",
    buffers: [
      { name: "a", dtype, access: "read" },
      { name: "c", dtype, access: "read" },
      { name: "out", dtype: result === "bool" ? "bool" : b.laneOf(result), access: "write" },
    ],
    dims: ["T"],
    scratch: [],
    units: dimSymbol("T"),
    unit: "unit",
    lanes: 1,
    body: [b.store(at("out"), value)],
    sources: [],
  };
}

/** All pairs of special operands, a multiple of four of them. */
function pairs({ type, values }: Operands, output: DType): { readonly memory: Memory; readonly dims: { readonly T: number } } {
  const all = values.flatMap((x) => values.map((y) => [x, y] as const));
  while (all.length % 4 !== 0) all.push([values[0] ?? 0, values[0] ?? 0]);
  const dtype = type === "bool" ? "bool" : b.laneOf(type);
  const encode = (d: DType, data: readonly number[]): ImpMemory => encodeElements(d, data) as ImpMemory;
  return {
    memory: {
      a: encode(
        dtype,
        all.map(([x]) => x),
      ),
      c: encode(
        dtype,
        all.map(([, y]) => y),
      ),
      out: encode(
        output,
        all.map(() => 0),
      ),
    },
    dims: { T: b.isVector(type) ? all.length / 4 : all.length },
  };
}

const plainTypes = ["f32", "i32", "bool", "f32x4", "i32x4"] as const;

/** The device, or the test ends as not run. */
function need(gpu: Gpu | string, context: TestContext): Gpu {
  if (typeof gpu === "string") context.skip(`not run: ${gpu}`);
  return gpu as Gpu;
}

export function wgslSuite(driver: string, gpu: Gpu | string): void {
  const some: WgslFeatures = typeof gpu === "string" ? coreFeatures : gpu.features;

  describe(`rendered kernels on ${driver}`, () => {
    test("every operation means what the emulator says, NaN, infinities and zeros included", async (context) => {
      const on = need(gpu, context);
      const faults: string[] = [];
      const check = async (what: string, type: ImpType, within: Within, make: (a: ImpExpr, c: ImpExpr) => ImpExpr): Promise<void> => {
        const fn = elementwise(type, make);
        const { memory, dims } = pairs(operandsOf(type, !flushed.has(what)), fn.buffers[2]?.dtype ?? "f32");
        const fault = await compare(on, fn, memory, dims, { within });
        if (fault !== undefined) faults.push(`${what} of ${type}: ${fault.slice(0, fault.indexOf("\n"))}`);
      };
      for (const type of plainTypes) {
        for (const op of impUnaryOps)
          if (impUnaryTakes(op, type)) await check(op, type, approximate[op] ?? exact, (a) => ({ k: "unary", op, a, type }));
        for (const op of impBinaryOps)
          if (impBinaryTakes(op, type))
            await check(op, type, type.startsWith("f32") ? (approximate[op] ?? exact) : exact, (a, c) => b.binary(op, a, c));
        const to: Readonly<Record<string, readonly ImpType[]>> = {
          f32: ["i32", "bool"],
          i32: ["f32", "bool"],
          bool: ["i32", "f32"],
          f32x4: ["i32x4"],
          i32x4: ["f32x4"],
        };
        for (const result of to[type] ?? [])
          await check(`conversion to ${result}`, type, exact, (a) => ({ k: "convert", a, type: result }));
        if (!b.isVector(type)) continue;
        for (const op of ["add", "mul", "min", "max"] as const) {
          // What is over the largest number on the way depends on the order of a sum.
          if (type === "i32x4" || op === "min" || op === "max") await check(`across ${op}`, type, exact, (a) => b.splat(b.across(op, a)));
        }
      }
      expect(faults).toEqual([]);
    }, 120_000);

    test("constants are not folded into what numbers do not mean", async (context) => {
      const on = need(gpu, context);
      const x = b.float;
      const cases: readonly ((a: ImpExpr) => ImpExpr)[] = [
        (a) => b.mul(a, x(0)),
        (a) => b.add(a, x(0)),
        (a) => b.sub(a, a),
        (a) => b.sub(b.add(a, x(1)), x(1)),
        (a) => b.sub(b.add(x(1), a), a),
        (a) => b.add({ k: "unary", op: "neg", a, type: "f32" }, a),
        (a) => b.mul(b.mul(a, x(1e30)), x(1e-30)),
        (a) => b.binary("div", a, a),
        (a) => b.binary("min", a, x(Infinity)),
        (a) => ({ k: "select", cond: { k: "unary", op: "not", a: b.lt(a, x(1)), type: "bool" }, a: x(-0), b: x(NaN), type: "f32" }),
        (a) => ({ k: "select", cond: b.lt(a, x(Infinity)), a: x(3e38), b: x(-Infinity), type: "f32" }),
        () => b.add(x(3e38), x(3e38)),
        () => b.binary("div", x(1), x(-0)),
        () => b.mul(x(NaN), x(0)),
      ];
      const faults: string[] = [];
      for (const [n, make] of cases.entries()) {
        const fn = elementwise("f32", (a) => make(a));
        const { memory, dims } = pairs(operandsOf("f32", false), "f32");
        // What is lost of 1 beside a large number is lost in any order; only what is no number matters here.
        const within = n === 6 ? { relative: 4 * ulp, absolute: 1.2e-38 } : exact;
        const fault = await compare(on, fn, memory, dims, { within });
        if (fault !== undefined) faults.push(`case ${n}: ${fault.slice(0, fault.indexOf("\n"))}`);
      }
      expect(faults).toEqual([]);
    }, 60_000);

    for (const [name, features] of [
      ["with the core alone", coreFeatures],
      ["with the adapter's features", some],
    ] as const) {
      test(`generated programs do what the emulator does, ${name}`, async (context) => {
        const on = need(gpu, context);
        await fc.assert(
          fc.asyncProperty(programs(), fc.boolean(), async ({ fn, dims, memory }, arena) => {
            const fault = await compare(on, fn, memory(), dims, { features, arena });
            if (fault !== undefined) throw new Error(fault);
          }),
          { numRuns: Math.min(runs, 40), seed, interruptAfterTimeLimit: 40_000 },
        );
      }, 120_000);

      test(`every 16-bit float is read right and every f32 is rounded to even, ${name}`, async (context) => {
        const on = need(gpu, context);
        for (const dtype of ["f16", "bf16"] as const) {
          const bits = Uint16Array.from({ length: 65536 }, (_, n) => n);
          const copy = elementwise("f32x4", (a) => a);
          const read: ImpFunction = { ...copy, buffers: copy.buffers.map((x) => (x.name === "a" ? { ...x, dtype } : x)) };
          const memory = { a: bits, c: new Float32Array(4), out: new Float32Array(65536) };
          expect(await compare(on, read, memory, { T: 16384 }, { features })).toBeUndefined();
          // Halfway between neighbours, a little to either side, and beyond the largest.
          const values = Float32Array.from(
            { length: 65536 },
            (_, n) => ((decodeElements(dtype, [n >> 2])[0] ?? 0) + (decodeElements(dtype, [(n >> 2) + 1])[0] ?? 0)) / 2,
          );
          const view = new Int32Array(values.buffer);
          for (let n = 0; n < view.length; n++) view[n] = (view[n] ?? 0) + ((n & 3) === 1 ? 1 : (n & 3) === 2 ? -1 : 0);
          const write: ImpFunction = { ...copy, buffers: copy.buffers.map((x) => (x.name === "out" ? { ...x, dtype } : x)) };
          expect(
            await compare(on, write, { a: values, c: new Float32Array(4), out: new Uint16Array(65536) }, { T: 16384 }, { features }),
          ).toBeUndefined();
        }
      }, 60_000);

      test(`lanes write their own parts of a word, ${name}`, async (context) => {
        const on = need(gpu, context);
        for (const dtype of ["u8", "i8", "bool", "f16", "bf16"] as const) {
          const [unit, lane] = [b.local("unit", "i32"), b.local("lane", "i32")];
          const place = b.add(b.mul(unit, b.int(61)), lane);
          const float = b.loadedType(dtype) === "f32";
          const value: ImpExpr = float ? { k: "convert", a: b.mul(place, b.int(3)), type: "f32" } : b.mul(place, b.int(7));
          const fn: ImpFunction = {
            name: "parts",
            buffers: [{ name: "out", dtype, access: "readwrite" }],
            dims: ["T"],
            scratch: [],
            units: dimSymbol("T"),
            unit: "unit",
            lanes: 64,
            lane: "lane",
            // Neighbours of a lane's elements, and of a unit's, belong to others: three lanes of 64 have none.
            body: [
              b.when(b.lt(lane, b.int(61)), [
                b.store(b.at("out", place), value),
                b.store(b.at("out", place), b.load(b.at("out", place), b.loadedType(dtype))),
              ]),
            ],
            sources: [],
          };
          const out = encodeElements(
            dtype,
            Array.from({ length: 61 * 50 + 9 }, () => 1),
          ) as ImpMemory;
          expect(await compare(on, fn, { out }, { T: 50 }, { features })).toBeUndefined();
        }
      }, 60_000);
    }

    test("as many units as there are run, beyond what one axis of a dispatch holds", async (context) => {
      const on = need(gpu, context);
      const fn: ImpFunction = {
        ...elementwise("f32", (a) => a),
        buffers: [{ name: "out", dtype: "i32", access: "write" }],
        body: [b.store(b.at("out", b.local("unit", "i32")), b.add(b.local("unit", "i32"), b.int(1)))],
      };
      for (const T of [0, 1, 65535, 65536, 200_001])
        expect(await compare(on, fn, { out: new Int32Array(T + 70_000) }, { T })).toBeUndefined();
    }, 60_000);

    test("lanes meet at barriers in loops whose length is loaded", async (context) => {
      const on = need(gpu, context);
      for (const arena of [false, true]) {
        const fn = meeting();
        const memory = { lengths: Int32Array.from([0, 1, 3, 6]), out: new Int32Array(4 * 16) };
        expect(await compare(on, fn, memory, { T: 4 }, { arena })).toBeUndefined();
      }
    }, 60_000);

    test("private scratch is each lane's own, four neighbours or one", async (context) => {
      const on = need(gpu, context);
      const [lane, i] = [b.local("lane", "i32"), b.local("i", "i32")];
      for (const dtype of ["f32", "i32", "f16", "u8"] as const) {
        const type = b.loadedType(dtype);
        const value: ImpExpr = type === "f32" ? { k: "convert", a: b.add(lane, i), type } : b.mul(b.add(lane, i), b.int(37));
        const fn: ImpFunction = {
          ...elementwise("f32", (a) => a),
          buffers: [{ name: "out", dtype: type, access: "write" }],
          scratch: [{ name: "mine", dtype, size: dim(12), space: "private" }],
          lanes: 8,
          lane: "lane",
          body: [
            b.loop("i", b.int(0), b.int(12), 1, [b.store(b.at("mine", i), value)]),
            b.store(b.at("mine", b.int(4)), b.splat(type === "f32" ? b.float(0.5) : b.int(300))),
            b.loop("j", b.int(0), b.int(12), 4, [
              b.store(
                b.at("out", b.add(b.mul(b.add(b.mul(b.local("unit", "i32"), b.int(8)), lane), b.int(12)), b.local("j", "i32"))),
                b.load(b.at("mine", b.local("j", "i32")), b.vectorOf(type)),
              ),
            ]),
          ],
        };
        const out = encodeElements(type, new Float64Array(3 * 8 * 12)) as ImpMemory;
        expect(await compare(on, fn, { out }, { T: 3 })).toBeUndefined();
      }
    }, 60_000);

    test("lanes of a subgroup exchange values", async (context) => {
      const on = need(gpu, context);
      const size = on.features.subgroups;
      if (size === 0) context.skip(`not run: ${on.name} has no subgroups of one size`);
      for (const type of ["f32", "i32", "f32x4"] as const)
        expect(
          await compare(
            on,
            exchanging(size, type),
            { out: encodeElements(b.laneOf(type), new Float64Array(3 * 64 * 8)) as ImpMemory },
            { T: 3 },
            { features: on.features },
          ),
        ).toBeUndefined();
    }, 60_000);
  });
}

/** Each unit adds up, `lengths[unit]` times, what the lane beside it had. */
function meeting(): ImpFunction {
  const [unit, lane, sum] = [b.local("unit", "i32"), b.local("lane", "i32"), b.local("sum", "i32")];
  const neighbour = b.binary("bitand", b.add(lane, b.int(1)), b.int(15));
  const around: ImpStmt[] = [
    b.store(b.at("shared", lane), sum),
    { k: "barrier" },
    b.assign("sum", b.add(b.mul(sum, b.int(3)), b.load(b.at("shared", neighbour), "i32"))),
    { k: "barrier" },
  ];
  return {
    name: "meeting",
    buffers: [
      { name: "lengths", dtype: "i32", access: "read" },
      { name: "out", dtype: "i32", access: "write" },
    ],
    dims: ["T"],
    scratch: [{ name: "shared", dtype: "i32", size: dim(16), space: "workgroup" }],
    units: dimSymbol("T"),
    unit: "unit",
    lanes: 16,
    lane: "lane",
    body: [
      b.bind("sum", lane, true),
      { k: "uniform", name: "n", type: "i32", value: b.load(b.at("lengths", unit), "i32") },
      { k: "uniform", name: "more", type: "i32", value: b.binary("bitand", b.local("n", "i32"), b.int(1)) },
      b.loop("k", b.int(0), b.local("n", "i32"), 1, around),
      b.when(b.binary("eq", b.local("more", "i32"), b.int(1)), around),
      b.store(b.at("out", b.add(b.mul(unit, b.int(16)), lane)), sum),
    ],
    sources: [],
  };
}

/** A sum over the subgroup by exchanges of halves, and what lane 1 had. */
function exchanging(size: number, type: "f32" | "i32" | "f32x4"): ImpFunction {
  const lane = b.local("lane", "i32");
  const one: ImpExpr = type === "i32" ? lane : { k: "convert", a: lane, type: "f32" };
  const body: ImpStmt[] = [b.bind("sum", type === "f32x4" ? b.mul(b.splat(one), b.vector("f32x4", [1, 2, -1, 0.5])) : one, true)];
  for (let mask = size / 2; mask >= 1; mask /= 2) {
    const name = `other${mask}`;
    body.push({ k: "exchange", name, type, op: "xor", value: b.local("sum", type), lane: b.int(mask) });
    body.push(b.assign("sum", b.add(b.local("sum", type), b.local(name, type))));
  }
  body.push({ k: "exchange", name: "first", type, op: "from", value: type === "f32x4" ? b.splat(one) : one, lane: b.int(1) });
  const point = b.mul(b.add(b.mul(b.local("unit", "i32"), b.int(64)), lane), b.int(8));
  body.push(b.store(b.at("out", point), b.local("sum", type)), b.store(b.at("out", b.add(point, b.int(4))), b.local("first", type)));
  return {
    name: "exchanging",
    buffers: [{ name: "out", dtype: b.laneOf(type), access: "write" }],
    dims: ["T"],
    scratch: [],
    units: dimSymbol("T"),
    unit: "unit",
    lanes: 64,
    lane: "lane",
    subgroup: size,
    body,
    sources: [],
  };
}
