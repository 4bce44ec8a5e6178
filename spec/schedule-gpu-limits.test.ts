// WebGPU's default limits: no kernel has more than eight buffers, fused or not, whatever the graph; and no binding is larger
// than 128 MiB.

import { describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { dim } from "../compiler/ir/dim.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import type { Graph, TensorType } from "../compiler/ir/graph/types.ts";
import { typeRule } from "../ops/index.ts";
import { emulated } from "./gpu-emulator.ts";

const row: TensorType = { dtype: "f32", shape: [dim(5)] };

/** The sum of `count` inputs. */
function sumOf(count: number): Graph {
  const builder = new GraphBuilder("sum", typeRule);
  const inputs = Array.from({ length: count }, (_, i) => builder.input(`x${i}`, row));
  builder.output(
    "y",
    inputs.reduce((a, b) => builder.op("add", [a, b], {})),
  );
  return builder.build();
}

const given = (count: number) =>
  Object.fromEntries(
    Array.from({ length: count }, (_, i) => [
      `x${i}`,
      { ...row, shape: [5], data: Float64Array.from({ length: 5 }, (_, j) => i * 10 + j) },
    ]),
  );

describe("at most eight buffers", () => {
  test("a fused kernel reads seven values and leaves the others to another one", async () => {
    for (const [count, kernels] of [
      [7, 1],
      [8, 2],
      [20, 4],
    ] as const) {
      const compiled = compileGraph(sumOf(count), { target: "webgpu", features: [] });
      expect(compiled.kernels.every((k) => k.buffers.length <= 8)).toBe(true);
      expect(compiled.plan.steps.length).toBe(kernels);
      const { y } = await emulated(compiled, 0, given(count));
      const first = (count * (count - 1)) / 2;
      expect([...(y?.data ?? [])]).toEqual([0, 1, 2, 3, 4].map((j) => first * 10 + count * j));
    }
  });

  test("a fusion is declined with that reason", () => {
    const { declined } = compileGraph(sumOf(9), { target: "webgpu", features: [] });
    expect(declined.map((d) => d.reason)).toContain("its reader would have 9 buffers, and the device takes 8");
  });
});
