// The cache that sequences share: rows are written where they are told to go, in place, and attention looks its keys up one
// by one without gathering them first; both against the float64 evaluator, run after run, few and many queries.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { loadProgram } from "../compiler/check/index.ts";
import { compileGraph } from "../compiler/compile.ts";
import type { ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import type { Graph } from "../compiler/ir/graph/types.ts";
import { runs, seed } from "./conformance/property.ts";
import { agreement, compiledHows, f32Tensor, openRunner } from "./graphs-support.ts";

const capacity = 96;

/** Two query heads for each of two key heads of eight features. */
const text = `
  graph shared(
    q: f32[N, 4, 8], k: f32[N, 2, 8], v: f32[N, 2, 8], place: i32[N],
    cached: i32[K], segment: i32[N], offsets: i32[P], row_offsets: i32[P]
  ) -> y: f32[N, 4, 8] {
    state keys: f32[${capacity}, 2, 8]
    state values: f32[${capacity}, 2, 8]
    let all_keys = scatter_rows(keys, k, place)
    let all_values = scatter_rows(values, v, place)
    keys = all_keys
    values = all_values
    attention(q, gather(all_keys, cached), gather(all_values, cached), segment, offsets, row_offsets, scale: 0.35, causal: true)
  }`;

function graph(): Graph {
  const { diagnostics, graphs } = loadProgram("shared.uhd", { readText: () => text });
  const [only] = graphs.values();
  if (only === undefined) throw new Error(diagnostics.map((d) => d.message).join("\n"));
  return only;
}

const ints = (data: readonly number[]): ConcreteTensor => ({ dtype: "i32", shape: [data.length], data: Float64Array.from(data) });

/** For each sequence: rows that are in the cache already, and new ones. */
type Lengths = readonly (readonly [number, number])[];

/** Inputs of a run: rows anywhere in the cache, each sequence's own but for the first few, which all may share. */
function inputs(lengths: Lengths, salt: number): Readonly<Record<string, ConcreteTensor>> {
  const order = Array.from({ length: capacity }, (_, i) => i).sort((a, b) => Math.sin(a * 7 + salt) - Math.sin(b * 7 + salt));
  const common = order.slice(0, 3);
  const own = order.slice(3);
  const [place, cached, segment]: [number[], number[], number[]] = [[], [], []];
  const [offsets, rowOffsets] = [[0], [0]];
  for (const [p, [before, fresh]] of lengths.entries()) {
    const added = own.splice(0, fresh);
    cached.push(...common.slice(0, before), ...own.splice(0, Math.max(0, before - 3)), ...added);
    place.push(...added);
    segment.push(...added.map(() => p));
    offsets.push(place.length);
    rowOffsets.push(cached.length);
  }
  const n = place.length;
  const of = (heads: number, by: number): ConcreteTensor => f32Tensor([n, heads, 8], (i) => Math.cos(i * by + salt));
  return {
    q: of(4, 1.1),
    k: of(2, 1.7),
    v: of(2, 2.3),
    place: ints(place),
    cached: ints(cached.length === 0 ? [0] : cached),
    segment: ints(segment),
    offsets: ints(offsets),
    row_offsets: ints(rowOffsets),
  };
}

describe("a cache that sequences share", () => {
  test.each(compiledHows)("gives what the evaluator gives on %s, run after run", async (how) => {
    await using compiled = await openRunner(graph(), {}, how);
    await using reference = await openRunner(graph(), {}, "reference");
    const once = async (lengths: Lengths, salt: number): Promise<void> => {
      const given = inputs(lengths, salt);
      const [expected, found] = [await reference.run(given), await compiled.run(given)];
      expect(agreement(found["y"]?.data ?? [], expected["y"]?.data ?? []).error).toBeLessThan(1e-5);
    };
    // All rows get numbers first: a row that was never written is zero on both sides, and tells little.
    await once([[0, 93]], 1);
    const anyLengths = fc.array(fc.tuple(fc.nat(12), fc.oneof(fc.nat(3), fc.constantFrom(1, 5, 9))), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(anyLengths, fc.nat(99), (lengths, salt) => once(lengths, salt)),
      { numRuns: Math.min(runs, 40), seed },
    );
  });

  test("is written in place, and read without a copy: two kernels that write rows, one of attention", () => {
    const { plan, plainLoops } = compileGraph(graph());
    for (const s of plan.states) expect(s.update).toBe(s.buffer);
    expect(plan.steps.map((s) => (s.k === "dispatch" ? s.kernel.replace(/_\d+$/, "") : s.k)).toSorted()).toEqual([
      "attention",
      "map",
      "map",
    ]);
    expect(plainLoops).toEqual([]);
  });
});
