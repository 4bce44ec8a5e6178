// What fusion makes of backward passes: a row's reduction is made once a row, also where only some elements ask for it.

import { expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { dim } from "../compiler/ir/dim.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import { operandsOf } from "../compiler/ir/kernel/build.ts";
import type { Expr } from "../compiler/ir/kernel/types.ts";
import { typeRule } from "../ops/index.ts";

const folds = (e: Expr): boolean => e.k === "fold" || operandsOf(e).some(folds);

test("the sum in the derivative of a masked softmax is not made again for every element", () => {
  const b = new GraphBuilder("masked", typeRule);
  const t = b.symbol("T", 1, 4096);
  const type = { dtype: "f32" as const, shape: [t, t] };
  const [p, g] = [b.input("p", type), b.input("g", type)];
  const seen = b.input("seen", { dtype: "bool", shape: [t, t] });
  const product = b.op("mul", [p, g]);
  const sum = b.op("broadcast", [b.op("reduce_sum", [product], { axes: [1], keep: true })], { shape: type.shape });
  const zero = b.constant("f32", type.shape, [0]);
  b.output("d", b.op("select", [seen, b.op("sub", [product, b.op("mul", [p, sum])]), zero]));
  const { kernels, declined } = compileGraph(b.build());
  for (const k of kernels) {
    const inner = k.stages.filter((s) => s.k === "store" && s.axes.length > 0);
    const perElement = k.stages.length > 1 ? inner : [];
    expect(
      perElement.some((s) => folds(s.value)),
      k.name,
    ).toBe(false);
    // A kernel without rows has the reduction as its result, or none.
    if (k.stages.length === 1) expect(k.axes.length === 1 || !folds(k.stages[0]?.value ?? { k: "dim", dim: dim(0) }), k.name).toBe(true);
  }
  expect(declined.map((d) => d.reason).join("; ")).toContain("only some elements of a row need it");
});
