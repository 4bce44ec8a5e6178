// References and derivatives of the op table against PyTorch in float64 (spec/oracle/ops.py wrote the fixture),
// and scalar meanings against known values.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { gradient } from "../compiler/autodiff/reverse.ts";
import { dim } from "../compiler/ir/dim.ts";
import { isDType } from "../compiler/ir/dtype.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import { evalGraph, type ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import type { Attrs } from "../compiler/ir/graph/types.ts";
import { normaliseAttrs, opNames, referenceOf, typeRule } from "../ops/index.ts";
import { erf } from "../ops/reference/erf.ts";
import { divI32, floorMod, modI32, power, roundHalfEven, toBf16, toF16, toI32 } from "../ops/reference/numbers.ts";
import { tensor } from "../ops/reference/tensor.ts";
import { typeOfTensor } from "../ops/sampling.ts";
import { bf16Bits, bf16Value, f16Bits, f16Value } from "./conformance/tensors.ts";

interface Written {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: readonly number[];
}

interface Call {
  readonly op: string;
  readonly operands: readonly Written[];
  readonly attrs: Attrs;
  readonly result: Written;
  readonly cotangent?: Written;
  readonly gradients?: readonly (Written | null)[];
}

const { calls } = JSON.parse(readFileSync(new URL("./fixtures/ops-torch.json", import.meta.url), "utf8")) as {
  readonly calls: readonly Call[];
};

function read(t: Written): ConcreteTensor {
  if (!isDType(t.dtype)) throw new Error(`the fixture has a tensor of ${t.dtype}`);
  return tensor(t.dtype, t.shape, t.data);
}

function expectClose(found: ConcreteTensor | undefined, expected: Written): void {
  expect(found?.shape).toEqual(expected.shape);
  for (const [i, want] of expected.data.entries()) {
    const got = found?.data[i] ?? NaN;
    // Constants that a decomposition rounds to f32 are not in these calls, so the two agree to float64.
    expect(Math.abs(got - want), `element ${i}: ${got} for ${want}`).toBeLessThanOrEqual(1e-12 * Math.max(1, Math.abs(want)));
  }
}

describe("PyTorch in float64 agrees with", () => {
  test.each(calls.map((call, i) => [`${call.op} (${i})`, call] as const))("%s", (_, call) => {
    const operands = call.operands.map(read);
    const attrs = normaliseAttrs(call.op, call.attrs);
    const builder = new GraphBuilder(call.op, typeRule);
    const ids = operands.map((x, i) => builder.input(`x${i}`, typeOfTensor(x)));
    builder.output("y", builder.op(call.op, ids, attrs));
    const inputs = Object.fromEntries(operands.map((x, i) => [`x${i}`, x]));
    const graph = builder.build();
    expectClose(evalGraph(graph, referenceOf, { inputs }).outputs.y, call.result);
    const { cotangent, gradients } = call;
    if (cotangent === undefined || gradients === undefined) return;
    const wrt = ids.filter((_id, i) => gradients[i] !== null);
    const { outputs } = evalGraph(gradient(graph, { wrt }), referenceOf, { inputs: { ...inputs, "d.y": read(cotangent) } });
    for (const [i, expected] of gradients.entries()) if (expected !== null) expectClose(outputs[`d.x${i}`], expected);
  });

  test("every composite op that is not a plain composition of two others", () => {
    const seen = new Set(calls.map((c) => c.op));
    expect(
      opNames.filter(
        (name) =>
          [
            "softmax",
            "log_softmax",
            "layer_norm",
            "rms_norm",
            "gelu",
            "gelu_tanh",
            "quick_gelu",
            "rope",
            "attention",
            "cross_entropy",
          ].includes(name) && !seen.has(name),
      ),
    ).toEqual([]);
  });
});

describe("scalar meanings", () => {
  test("erf is exact to the last digits of a double", () => {
    const known: readonly (readonly [number, number])[] = [
      [1e-300, 1.1283791670955126e-300],
      [0.1, 0.1124629160182849],
      [0.5, 0.5204998778130465],
      [1, 0.8427007929497149],
      [2, 0.9953222650189527],
      [2.4999, 0.9995928300996666],
      [2.5001, 0.9995932657565293],
      [3, 0.9999779095030014],
      [5, 0.9999999999984626],
    ];
    for (const [x, y] of known) {
      expect(Math.abs(erf(x) - y) / y, String(x)).toBeLessThan(5e-15);
      expect(erf(-x)).toBe(-erf(x));
    }
    expect([erf(0), erf(-0), erf(Infinity), erf(-Infinity), erf(NaN)]).toEqual([0, -0, 1, -1, NaN]);
  });

  test("rounding to f16 and bf16 is to nearest, halves to even, with subnormals and overflow", () => {
    expect([1 + 2 ** -11, 1 + 3 * 2 ** -11, 65519.996, 65520, 2 ** -25, 2 ** -24 * 1.5, -(2 ** -14), NaN].map(toF16)).toEqual([
      1,
      1 + 2 ** -9,
      65504,
      Infinity,
      0,
      2 ** -23,
      -(2 ** -14),
      NaN,
    ]);
    expect([1 + 2 ** -8, 1 + 3 * 2 ** -8, 3.4e38, -0, NaN].map(toBf16)).toEqual([1, 1 + 2 ** -6, Infinity, -0, NaN]);
    for (let bits = 0; bits < 65536; bits++) {
      const value = f16Value(bits);
      if (!Number.isNaN(value)) expect(f16Bits(value)).toBe(bits);
      const wide = bf16Value(bits);
      if (!Number.isNaN(wide)) expect(bf16Bits(wide)).toBe(bits);
    }
  });

  test("integers wrap, saturate and divide as the table says", () => {
    expect([divI32(-7, 2), divI32(7, 0), divI32(-2147483648, -1)]).toEqual([-3, 0, -2147483648]);
    expect([modI32(-7, 3), modI32(7, -3), modI32(7, 0)]).toEqual([2, -2, 0]);
    expect([toI32(NaN), toI32(3e9), toI32(-Infinity), toI32(-1.9)]).toEqual([0, 2147483647, -2147483648, -1]);
  });

  test("rounding, remainder and power treat their edges as IEEE 754 does", () => {
    expect([0.5, 1.5, -0.5, -1.5, 2.5, -0].map(roundHalfEven)).toEqual([0, 2, -0, -2, 2, -0]);
    expect([floorMod(5.5, -2), floorMod(-5.5, 2), floorMod(1, 0)]).toEqual([-0.5, 0.5, NaN]);
    expect([power(1, NaN), power(NaN, 0), power(-1, Infinity), power(-8, 1 / 3), power(2, -2)]).toEqual([1, 1, 1, NaN, 0.25]);
  });

  test("the resampling ops weigh, round and clip like Pillow", () => {
    const unit = 2 ** 22;
    const image = tensor("u8", [1, 3, 3], [0, 10, 255, 100, 20, 255, 200, 31, 255]);
    const [row, table, wide] = [[0], [0], [3]].map((v) => tensor("i32", [1], v));
    const start = tensor("i32", [3], [0, 1, 1]);
    const taps = tensor("i32", [3], [2, 2, 2]);
    const weight = tensor("i32", [3, 2], [unit / 2, unit / 2, unit * 1.5, -unit / 2, unit / 4, (unit * 3) / 4]);
    const out = referenceOf(
      "resample_rows",
      [image, row, table, wide, start, taps, weight].filter((t) => t !== undefined),
      { width: dim(4), channels: 3 },
      { dtype: "u8", shape: [3, 1, 4] },
    );
    // 0·½ + 100·½ = 50; 100·1.5 - 200·½ = 50; 100/4 + 200·¾ = 175; nothing beyond the width. 20·1.5 - 31/2 = 14.5 rounds up.
    expect([...out.data]).toEqual([50, 50, 175, 0, 15, 15, 28, 0, 255, 255, 255, 0]);
  });
});
