// The attention builder for GPUs against the op's float64 reference, on the emulator, for each size of subgroups.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { runImp } from "../compiler/ir/imp/eval.ts";
import type { ImpFunction } from "../compiler/ir/imp/types.ts";
import { verifyImp } from "../compiler/ir/imp/verify.ts";
import { lowerGpuAttention } from "../compiler/schedule/gpu/attention.ts";
import { webgpuCapabilities } from "../compiler/targets/wgsl/capabilities.ts";
import type { WgslFeatures } from "../compiler/targets/wgsl/types.ts";
import { attention } from "../ops/composite/attention.ts";
import { tensor } from "../ops/reference/tensor.ts";
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
import { property } from "./conformance/property.ts";

const sizes = [0, 4, 8, 32] as const;
const base: AttentionCase = { segments: [[5, 5]], heads: 1, keyHeads: 1, d: 8, dv: 8, causal: false, scale: 0.35, symbolic: true };

function built(c: AttentionCase, subgroups: WgslFeatures["subgroups"]): ImpFunction {
  const capabilities = webgpuCapabilities({ subgroups, f16: false });
  const fn = lowerGpuAttention(attentionKernel(c), capabilities, capabilities.gpu ?? { subgroups });
  if (fn === undefined) throw new Error("the builder declined");
  expect(verifyImp(fn)).toEqual([]);
  return fn;
}

function check(c: AttentionCase, data: AttentionData): void {
  const want = expected(c, data);
  for (const subgroups of sizes) {
    const memory = memoryOf(c, data);
    runImp(built(c, subgroups), memory, sizesOf(c));
    const wrong = difference(want, tensor("f32", want.shape, memory.out ?? []), attention.tolerance, true);
    if (wrong !== undefined) throw new Error(`subgroups of ${subgroups}: ${wrong}`);
  }
}

const few = fc.integer({ min: 0, max: 12 });
const keyCounts = fc.oneof(
  { weight: 6, arbitrary: few },
  { weight: 1, arbitrary: fc.constantFrom(0, 1) },
  { weight: 2, arbitrary: fc.integer({ min: 30, max: 140 }) },
);
const queryCounts = fc.oneof({ weight: 4, arbitrary: few }, { weight: 1, arbitrary: fc.integer({ min: 13, max: 40 }) });
const headCounts = fc.constantFrom({ heads: 1, keyHeads: 1 }, { heads: 2, keyHeads: 1 }, { heads: 2, keyHeads: 2 });
const widths = fc.oneof(fc.constantFrom(1, 2, 3, 4, 5, 8, 12), fc.constantFrom(24, 33, 64));

const cases = fc
  .record({
    pairs: fc.array(fc.tuple(queryCounts, keyCounts), { minLength: 1, maxLength: 4 }),
    heads: headCounts,
    d: widths,
    dv: widths,
    causal: fc.boolean(),
    packed: fc.boolean(),
    symbolic: fc.boolean(),
    number: fc.nat(1e6),
  })
  .map(({ pairs, heads, d, dv, causal, packed, symbolic, number }): readonly [AttentionCase, number] => [
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

describe("the attention builder for GPUs", () => {
  test("gives what the op says for random ragged segments", { timeout: 60_000 }, () => {
    property(cases, ([c, number]) => check(c, randomData(c, number, 2)), 25);
  });

  test.each([
    [
      "segments of no and of one query and key",
      [
        [0, 3],
        [1, 0],
        [1, 1],
        [2, 0],
        [0, 0],
        [1, 1],
      ],
    ],
    ["one query of many keys, as in generation", [[1, 150]]],
    ["two queries", [[2, 70]]],
    [
      "several blocks of queries and of keys",
      [
        [50, 130],
        [3, 3],
      ],
    ],
  ] as const)("%s", (_, segments) => {
    for (const causal of [false, true]) check({ ...base, segments, causal }, randomData({ ...base, segments }, 3, 2));
  });

  test("segments that do not lie in order", () => {
    const c: AttentionCase = {
      ...base,
      segments: [
        [4, 40],
        [5, 3],
        [3, 7],
      ],
      segmentOf: [2, 0, 1, 1, 0, 2, 0, 1, 1, 0, 2, 1],
    };
    check(c, randomData(c, 4, 2));
  });

  test("heads of 64 and of 128 features", () => {
    for (const d of [64, 128]) {
      const c: AttentionCase = { ...base, segments: [[20, 40]], d, dv: d, heads: 2, keyHeads: 1 };
      check(c, randomData(c, 6, 1));
    }
  });

  test("shares at most 16 KiB in a workgroup of at most 256 invocations, and has the same units in all variants", () => {
    for (const d of [8, 64, 128, 256]) {
      const functions = sizes.map((s) => built({ ...base, d, dv: Math.min(d, 128) }, s));
      for (const fn of functions) {
        expect(fn.scratch.reduce((n, s) => n + 4 * Number(s.size.text), 0)).toBeLessThanOrEqual(16384);
        expect(fn.lanes).toBeLessThanOrEqual(256);
      }
      expect(new Set(functions.map((fn) => `${fn.units.text} ${fn.dims.join()}`)).size).toBe(1);
    }
  });
});

describe("numbers that are not finite", () => {
  const shapes: readonly AttentionCase["segments"][] = [
    [[20, 20]],
    [[2, 20]],
    [
      [3, 70],
      [18, 4],
    ],
  ];
  const withChange = (c: AttentionCase, change: (data: AttentionData) => void): void => {
    const data = randomData(c, 11, 2);
    change(data);
    check(c, data);
  };

  describe.each(shapes.flatMap((segments) => [false, true].map((causal) => ({ ...base, segments, causal }))))(
    "$segments, causal $causal",
    (c) => {
      test("NaN in a query stays in its row", () => withChange(c, ({ q }) => void (q[8 + 3] = NaN)));
      test("NaN and infinity in a key or a value reach the rows that see it, and no others", () => {
        for (const x of [NaN, Infinity, -Infinity]) {
          withChange(c, ({ k }) => void (k[7 * 8 + 1] = x));
          withChange(c, ({ v }) => void (v[7 * 8 + 1] = x));
        }
      });
      test("scores of -infinity weigh nothing, wherever they stand", () => {
        const last = total(c, 1) - 1;
        for (const [from, to] of [
          [0, 1],
          [1, last],
          [0, last + 1],
        ] as const)
          withChange(c, ({ q, k }) => {
            q.forEach((x, i) => void (q[i] = i % 8 === 0 ? Math.abs(x) + 0.1 : x));
            for (let s = from; s < to; s++) k[s * 8] = -Infinity;
          });
      });
      test("scores far apart and far from 0", () => {
        withChange(c, ({ q, k }) => {
          q.fill(100);
          k.fill(-100);
        });
      });
    },
  );
});
