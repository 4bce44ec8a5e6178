// The attention builder against the op's float64 reference: on the emulator, and as WebAssembly on one and two threads.

import * as fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { dimConstant, dimEval } from "../compiler/ir/dim.ts";
import { runImp } from "../compiler/ir/imp/eval.ts";
import type { ImpFunction } from "../compiler/ir/imp/types.ts";
import type { Expr, Kernel, Pattern } from "../compiler/ir/kernel/types.ts";
import { lowerAttention } from "../compiler/schedule/attention.ts";
import { scalarCapabilities, type Capabilities } from "../compiler/schedule/capabilities.ts";
import { plainWasm, relaxedProbe, relaxedWasm } from "../compiler/targets/wasm/capabilities.ts";
import { renderWasm } from "../compiler/targets/wasm/render.ts";
import { scratchBytes } from "../compiler/targets/wasm/sizes.ts";
import { attention } from "../ops/composite/attention.ts";
import { tensor } from "../ops/reference/tensor.ts";
import type { Device } from "../runtime/device.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";
import {
  attentionKernel,
  expected,
  memoryOf,
  randomData,
  sizesOf,
  total,
  type AttentionCase,
  type AttentionData,
} from "./attention-kernels.ts";
import { difference } from "./conformance/compare.ts";
import { property, runs, seed } from "./conformance/property.ts";

const base: AttentionCase = { segments: [[5, 5]], heads: 1, keyHeads: 1, d: 8, dv: 8, causal: false, scale: 0.35 };

function built(c: AttentionCase, capabilities: Capabilities): ImpFunction {
  const fn = lowerAttention(attentionKernel(c), capabilities);
  if (fn === undefined) throw new Error("the builder declined");
  return fn;
}

/** What is wrong with `out`, if anything. */
function wrong(c: AttentionCase, data: AttentionData, out: ArrayLike<number>): string | undefined {
  const want = expected(c, data);
  return difference(want, tensor("f32", want.shape, out), attention.tolerance, true);
}

function emulated(c: AttentionCase, data: AttentionData, capabilities: Capabilities): Float32Array | Int32Array {
  const memory = memoryOf(c, data);
  runImp(built(c, capabilities), memory, sizesOf(c));
  return memory.out ?? new Float32Array(0);
}

const variants = [
  { name: "plain", capabilities: plainWasm },
  { name: "relaxed", capabilities: relaxedWasm },
] as const;
/** Where an engine has no relaxed SIMD, the relaxed variant runs on the emulator only. */
const runnable = variants.filter((v) => v.name === "plain" || WebAssembly.validate(relaxedProbe()));

const devices = new Map<string, Device>();
afterAll(async () => {
  for (const d of devices.values()) await d.close();
});

async function onDevice(c: AttentionCase, data: AttentionData, variant: "plain" | "relaxed", threads: number): Promise<Float32Array> {
  const key = `${variant} ${threads}`;
  const device = devices.get(key) ?? (await WasmDevice.create({ threads, simd: variant }));
  devices.set(key, device);
  const [plain, relaxed] = [built(c, plainWasm), built(c, relaxedWasm)];
  const module = await device.load({
    wasm: {
      plain: renderWasm([plain], { relaxed: false, shared: true }),
      relaxed: renderWasm([relaxed], { relaxed: true, shared: true }),
    },
  });
  const memory = memoryOf(c, data);
  const buffers = plain.buffers.map((b) => {
    const bytes = new Uint8Array(memory[b.name]?.buffer ?? new ArrayBuffer(0));
    return { name: b.name, bytes, buffer: device.alloc(bytes.byteLength) };
  });
  for (const b of buffers) await device.write(b.buffer, 0, b.bytes);
  const sizes = sizesOf(c);
  await device.submit([
    {
      k: "dispatch",
      module,
      kernel: plain.name,
      bindings: buffers.map(({ buffer }) => ({ buffer, offset: 0, bytes: buffer.bytes })),
      dims: plain.dims.map((name) => sizes[name] ?? -1),
      units: dimEval(plain.units, sizes),
      scratch: dimEval(scratchBytes(plain), sizes),
      flops: 1e9,
      bytes: 1e6,
    },
  ]);
  const out = buffers.find((b) => b.name === "out");
  if (out === undefined) throw new Error("the kernel has no result");
  const result = new Float32Array((await device.read(out.buffer, 0, out.bytes.byteLength)).slice().buffer);
  for (const b of buffers) device.free(b.buffer);
  return result;
}

const few = fc.integer({ min: 0, max: 12 });
const keyCounts = fc.oneof(
  { weight: 6, arbitrary: few },
  { weight: 1, arbitrary: fc.constantFrom(0, 1) },
  { weight: 2, arbitrary: fc.integer({ min: 240, max: 560 }) },
);
const queryCounts = fc.oneof({ weight: 4, arbitrary: few }, { weight: 1, arbitrary: fc.integer({ min: 13, max: 60 }) });
const headCounts = fc.constantFrom(
  { heads: 1, keyHeads: 1 },
  { heads: 2, keyHeads: 1 },
  { heads: 2, keyHeads: 2 },
  { heads: 4, keyHeads: 2 },
  { heads: 3, keyHeads: 1 },
);

const cases: fc.Arbitrary<readonly [AttentionCase, number]> = fc
  .record({
    pairs: fc.array(fc.tuple(queryCounts, keyCounts), { minLength: 1, maxLength: 5 }),
    heads: headCounts,
    d: fc.constantFrom(1, 2, 3, 4, 5, 8, 12),
    dv: fc.constantFrom(1, 2, 3, 4, 5, 8, 12),
    causal: fc.boolean(),
    packed: fc.boolean(),
    symbolic: fc.boolean(),
    number: fc.nat(1e6),
  })
  .map(({ pairs, heads, d, dv, causal, packed, symbolic, number }) => [
    {
      segments: packed ? pairs.map(([n]) => [n, n] as const) : pairs,
      ...heads,
      d,
      dv: packed ? d : dv,
      causal,
      packed,
      symbolic,
      scale: d ** -0.5,
    },
    number,
  ]);

describe.each(variants)("on the emulator, $name", ({ capabilities }) => {
  test("random ragged segments give what the op says", () => {
    property(
      cases,
      ([c, number]) => {
        const data = randomData(c, number, 2);
        expect(wrong(c, data, emulated(c, data, capabilities))).toBeUndefined();
      },
      60,
    );
  });
});

describe.each(variants)("queries out of order, $name", ({ capabilities }) => {
  test("see the keys of their own segments", () => {
    // Segments 0 and 1 begin at one key; runs end where the segment changes and begin again behind it.
    const segmentOf = [1, 0, 1, 1, 0, 2, 2, 2, 2, 2, 1, 2, 2, 0, 0, 0, 0, 1, 1];
    const c: AttentionCase = { ...base, segments: [[7, 0], [6, 9], [6, 300]], segmentOf }; // prettier-ignore
    const data = randomData(c, 21, 2);
    expect(wrong(c, data, emulated(c, data, capabilities))).toBeUndefined();
  });
});

describe.each(runnable.flatMap((v) => [1, 2].map((threads) => ({ ...v, threads }))))(
  "as WebAssembly, $name, on $threads threads",
  ({ name, threads }) => {
    test("random ragged segments give what the op says", async () => {
      await fc.assert(
        fc.asyncProperty(cases, async ([c, number]) => {
          const data = randomData(c, number, 2);
          expect(wrong(c, data, await onDevice(c, data, name, threads))).toBeUndefined();
        }),
        { numRuns: Math.min(runs, 40), seed },
      );
    });

    test.each([false, true])("segments over several blocks of queries and keys, causal %s", async (causal) => {
      // Longer than a unit's queries and than a block of keys; one-query and empty segments between.
      const c: AttentionCase = {
        ...base,
        segments: [[430, 430], [1, 300], [0, 40], [3, 0], [70, 700], [1, 1], [2, 513]], // prettier-ignore
        heads: 2,
        causal,
        symbolic: true,
      };
      const data = randomData(c, 5, 2);
      expect(wrong(c, data, await onDevice(c, data, name, threads))).toBeUndefined();
    });

    test.each([
      [64, 64],
      [128, 128],
      [72, 72],
      [8, 36],
      [7, 30],
      [40, 33],
    ])("%i features of keys and %i of values", async (d, dv) => {
      const c: AttentionCase = {
        ...base,
        segments: [
          [9, 21],
          [2, 10],
          [6, 3],
        ],
        heads: 2,
        d,
        dv,
        scale: d ** -0.5,
      };
      const data = randomData(c, d, 2);
      expect(wrong(c, data, await onDevice(c, data, name, threads))).toBeUndefined();
    });

    test.each([
      { heads: 9, keyHeads: 3, d: 64, dv: 64 },
      { heads: 14, keyHeads: 2, d: 20, dv: 33 },
      { heads: 26, keyHeads: 1, d: 6, dv: 18 },
    ])("$heads heads for $keyHeads of keys, a few queries each", async (sizes) => {
      const c: AttentionCase = { ...base, ...sizes, segments: [[1, 701], [3, 30], [2, 0], [1, 4], [5, 9]], causal: true, symbolic: true, scale: 0.2 }; // prettier-ignore
      const data = randomData(c, 17, 2);
      expect(wrong(c, data, await onDevice(c, data, name, threads))).toBeUndefined();
    });

    test("thousands of one-query segments", async () => {
      const c: AttentionCase = { ...base, segments: Array.from({ length: 3000 }, (_, i) => [1, i % 13] as const), heads: 4, keyHeads: 2 };
      const data = randomData(c, 9, 2);
      expect(wrong(c, data, await onDevice(c, data, name, threads))).toBeUndefined();
    });
  },
);

describe.each(variants)("numbers that are not finite, $name", ({ capabilities }) => {
  /** Runs long enough for tiles, and rows that go alone. */
  const shapes: readonly AttentionCase["segments"][] = [
    [[20, 20]],
    [[3, 20]],
    [[20, 600]],
    [
      [2, 600],
      [5, 4],
    ],
  ];
  const changed = (c: AttentionCase, change: (data: AttentionData) => void): AttentionData => {
    const data = randomData(c, 11, 2);
    change(data);
    return data;
  };
  const check = (c: AttentionCase, change: (data: AttentionData) => void): void => {
    const data = changed(c, change);
    expect(wrong(c, data, emulated(c, data, capabilities))).toBeUndefined();
  };

  const alone = shapes.flatMap((segments) => [false, true].map((causal) => ({ ...base, segments, causal })));
  /** Heads that share keys, which a unit then does together. */
  const together = ([[1, 21], [3, 600]] as const).map((segment) => ({ ...base, segments: [segment], heads: 4, causal: false })); // prettier-ignore
  describe.each([...alone, ...together])("$segments, $heads heads, causal $causal", (c) => {
    test("NaN in a query stays in its row", () => check(c, ({ q }) => void (q[8 + 3] = NaN)));
    test("NaN in a key or a value reaches the rows that see it", () => {
      check(c, ({ k }) => void (k[7 * 8 + 1] = NaN));
      check(c, ({ v }) => void (v[7 * 8 + 1] = NaN));
      // Other bits than the usual NaN's.
      check(c, ({ k }) => void new Int32Array(k.buffer).fill(0x7fc12345, 3, 4));
    });
    test("infinite keys and values", () => {
      check(c, ({ k }) => void (k[2 * 8 + 1] = Infinity));
      check(c, ({ k }) => void (k[2 * 8 + 1] = -Infinity));
      check(c, ({ v }) => void (v[2 * 8 + 1] = Infinity));
    });
    test("scores of -infinity weigh nothing, wherever they stand", () => {
      // Feature 0 of every query is positive, so a key of -infinity there has the score -infinity.
      const positive = (q: Float32Array): void => q.forEach((x, i) => void (q[i] = i % 8 === 0 ? Math.abs(x) + 0.1 : x));
      const last = total(c, 1) - 1;
      for (const [from, to] of [
        [0, 1],
        [0, Math.floor(last / 2)],
        [1, last],
        [0, last + 1],
      ] as const)
        // prettier-ignore
        check(c, ({ q, k }) => {
          positive(q);
          for (let s = from; s < to; s++) k[s * 8] = -Infinity;
        });
    });
    test("scores far apart and far from 0", () => {
      check(c, ({ q, k }) => {
        q.fill(0).forEach((_, i) => void (q[i] = i % 8 === 0 ? 2 ** 50 : 0));
        k.fill(0).forEach((_, i) => void (k[i] = i % 8 === 0 ? (((i / 8) * 7) % 601) * 2 ** 40 : 0));
      });
      check(c, ({ q, k }) => {
        q.fill(100);
        k.fill(-100);
      });
    });
  });
});

describe("the function", () => {
  const functions = [false, true].flatMap((causal) =>
    [false, true].map((symbolic) => {
      const c: AttentionCase = { ...base, segments: [[577, 577]], heads: 16, keyHeads: 16, d: 64, dv: 64, packed: true, causal, symbolic };
      return [built(c, plainWasm), built(c, relaxedWasm)] as const;
    }),
  );

  test("has the units, sizes and scratch of its other variant: they share a plan", () => {
    for (const [plain, relaxed] of functions) {
      expect(relaxed.units.text).toBe(plain.units.text);
      expect(relaxed.dims).toEqual(plain.dims);
      expect(relaxed.scratch).toEqual(plain.scratch);
      expect(relaxed.buffers).toEqual(plain.buffers);
    }
  });

  test("holds no scores but those of a few rows, however many keys there are", () => {
    for (const [plain] of functions) expect(dimConstant(scratchBytes(plain))).toBeLessThan(300_000);
  });

  test("is small", () => {
    for (const [plain, relaxed] of functions) {
      expect(renderWasm([plain], { relaxed: false, shared: true }).length).toBeLessThan(12_000);
      expect(renderWasm([relaxed], { relaxed: true, shared: true }).length).toBeLessThan(13_000);
    }
  });
});

describe("the builder declines", () => {
  type Attention = Extract<Pattern, { k: "attention" }>;
  const kernel = attentionKernel({ ...base, symbolic: true });
  const pattern = kernel.pattern?.k === "attention" ? kernel.pattern : undefined;
  if (pattern === undefined) throw new Error("the kernel has its pattern");
  const and = (change: Partial<Attention>): Kernel => ({ ...kernel, pattern: { ...pattern, ...change } });
  const twice = (e: Expr): Expr => ({ k: "binary", op: "mul", a: e, b: { k: "const", type: "i32", value: 2 }, type: "i32" });
  const squared = (e: Expr): Expr => ({ k: "binary", op: "mul", a: e, b: e, type: "i32" });

  test("nothing about the kernel as it is", () => expect(lowerAttention(kernel, plainWasm)).toBeDefined());
  test("targets without vectors", () => expect(lowerAttention(kernel, scalarCapabilities)).toBeUndefined());
  test("features that are not neighbours", () => {
    for (const part of ["q", "key_", "value"] as const)
      expect(lowerAttention(and({ [part]: { ...pattern[part], index: twice(pattern[part].index) } }), plainWasm)).toBeUndefined();
  });
  test("keys that are not evenly spaced", () =>
    expect(lowerAttention(and({ key_: { ...pattern.key_, index: squared(pattern.key_.index) } }), plainWasm)).toBeUndefined());
  test("sizes of heads that are known only at a run", () => {
    expect(lowerAttention(and({ innerExtent: kernel.axes[0]?.extent ?? pattern.innerExtent }), plainWasm)).toBeUndefined();
    const [t, h, e] = kernel.axes;
    if (t === undefined || h === undefined || e === undefined) throw new Error("three axes");
    expect(lowerAttention({ ...kernel, axes: [t, h, { ...e, extent: t.extent }] }, plainWasm)).toBeUndefined();
  });
  test("narrow floats", () => {
    const buffers = kernel.buffers.map((b) => (b.name === "k" ? { ...b, dtype: "f16" as const } : b));
    expect(lowerAttention({ ...kernel, buffers }, plainWasm)).toBeUndefined();
  });
  test("a result that is changed before it is stored", () => {
    const [stage] = kernel.stages;
    if (stage === undefined) throw new Error("one stage");
    expect(lowerAttention({ ...kernel, stages: [stage, stage] }, plainWasm)).toBeUndefined();
  });
});
