// Values of shape code that a run gives: lists say what is in a packed tensor.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { parseGraph } from "../compiler/ir/graph/parse.ts";
import { printGraph } from "../compiler/ir/graph/print.ts";
import { parsePlan } from "../compiler/ir/plan/parse.ts";
import { printPlan } from "../compiler/ir/plan/print.ts";
import { InputError } from "../runtime/errors.ts";
import { Session } from "../runtime/session.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { refused } from "./checker-support.ts";
import { graphOf } from "./graphs-support.ts";

const text = `
type Part = { length: int, weight: float, places: [int] }
graph parts(x: f32[N in 0..=64, 2], parts: [Part], box: (int, int)) -> (sum: f32[T], seen: i32[2]) {
  dim P = len(parts)
  ragged T over P = [p.length for p in parts]
  table weight: f32[T] = [p.weight for p in parts for i in 0..p.length]
  table seen: i32[2] = [box.0 + sum([0] + flatten([p.places for p in parts])), box.1]
  (reshape(x[0:T, 0:1], [T]) * weight, seen + 0)
}
`;

const graph = graphOf("graphs/parts.uhd", "parts", {}, { "graphs/parts.uhd": text });
const compiled = compileGraph(graph);
const x: Tensor = { dtype: "f32", shape: [4, 2], data: Float32Array.of(1, 0, 2, 0, 3, 0, 4, 0) };

describe("values of shape code that a run gives", () => {
  let session: Session;
  beforeAll(async () => {
    session = await Session.create(compiled, { threads: 1 });
  });
  afterAll(() => session.close());

  test("decide sizes and tables, of each run anew", async () => {
    const first = await session.run({
      x,
      parts: [
        { length: 2, weight: 10, places: [1, 2] },
        { length: 1, weight: 0.5, places: [] },
      ],
      box: [5, -6],
    });
    expect([...(first.outputs["sum"]?.data ?? [])]).toEqual([10, 20, 1.5]);
    expect([...(first.outputs["seen"]?.data ?? [])]).toEqual([8, -6]);
    const second = await session.run({ x, parts: [{ length: 4, weight: 1, places: [] }], box: [0, 0] });
    expect([...(second.outputs["sum"]?.data ?? [])]).toEqual([1, 2, 3, 4]);
    expect((await session.run({ x, parts: [], box: [0, 0] })).outputs["sum"]?.shape).toEqual([0]);
  });

  test.each([
    [{}, /parts is missing: \[\{ length: int/],
    [{ parts: [{ length: 1.5, weight: 1, places: [] }] }, /parts\[0\]\.length is 1\.5, not int/],
    [{ parts: [{ length: 1, places: [] }] }, /parts\[0\] has no weight/],
    [{ parts: [{ length: 1, weight: 1, places: [], more: 1 }] }, /field more/],
    [{ parts: [{ length: 1, weight: 1, places: [true] }] }, /parts\[0\]\.places\[0\] is true, not int/],
    [{ parts: 3 }, /parts is 3, not \[/],
    [{ parts: x }, /parts is/],
    [{ parts: [], box: [1] }, /box is \[1\], not \(int, int\)/],
    [{ parts: [{ length: 5, weight: 1, places: [] }] }, /not within it/],
    [{ parts: [], more: [] }, /more is not an input/],
  ])("of another type or out of range are refused: %o", async (wrong, message) => {
    const run = session.run({ x, box: [1, 2], ...wrong });
    await expect(run).rejects.toThrow(InputError);
    await expect(run).rejects.toThrow(message);
  });

  test("are in the texts of graph and plan", () => {
    expect(parseGraph(printGraph(graph))).toEqual(graph);
    expect(parsePlan(printPlan(compiled.plan))).toEqual(compiled.plan);
    expect(compiled.plan.host.given?.map((g) => g.name)).toEqual(["parts", "box"]);
  });

  test("have one name each, and are no tensors", () => {
    refused("graph g(a: [int], a: f32[N]) -> y: f32[N] { a }", { code: "UHD0102", at: "a" });
    refused("graph g(a: [int], x: f32[3]) -> y: f32[3] { a }", { code: "UHD0306", at: "a" });
    refused("graph g(a: [Nobody], x: f32[3]) -> y: f32[3] { x }", { code: "UHD0103", at: "Nobody" });
  });
});
