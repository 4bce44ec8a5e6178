import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { BindError, bindPlan, placeArena, type ArenaRequest } from "../compiler/ir/plan/bind.ts";
import { emptyHostProgram } from "../compiler/ir/plan/host.ts";
import type { Plan } from "../compiler/ir/plan/types.ts";

const requests: fc.Arbitrary<readonly ArenaRequest[]> = fc
  .array(fc.record({ bytes: fc.nat(5000), first: fc.nat(30), length: fc.nat(8) }), { maxLength: 40 })
  .map((all) => all.map(({ bytes, first, length }, id) => ({ id, bytes, first, last: first + length })));

describe("the arena", () => {
  test("never gives two values that live at once the same bytes", () => {
    fc.assert(
      fc.property(requests, (all) => {
        const { offsets, total } = placeArena(all);
        for (const a of all) {
          const start = offsets.get(a.id) ?? NaN;
          expect(start % 64).toBe(0);
          expect(start + a.bytes + 64).toBeLessThanOrEqual(total);
          for (const b of all) {
            if (a.id >= b.id || a.first > b.last || b.first > a.last) continue;
            const other = offsets.get(b.id) ?? NaN;
            expect(start + a.bytes + 64 <= other || other + b.bytes + 64 <= start).toBe(true);
          }
        }
      }),
      { numRuns: 500 },
    );
  });

  test("is the same for the same requests, and a chain needs the room of two", () => {
    const chain = Array.from({ length: 20 }, (_, id) => ({ id, bytes: 1000, first: id, last: id + 1 }));
    expect(placeArena(chain)).toEqual(placeArena(chain));
    expect(placeArena(chain).total).toBe(2 * 1088);
    expect(placeArena([]).total).toBe(0);
  });
});

describe("binding", () => {
  const plan: Plan = {
    format: "uhd-plan",
    version: 1,
    name: "p",
    symbols: [
      { name: "H", lower: 1, upper: 100 },
      { name: "T", lower: 0 },
    ],
    limits: [],
    host: {
      ...emptyHostProgram,
      bindings: [
        { name: "T", symbol: true, loc: "", value: { k: "binary", op: "mul", a: { k: "var", name: "H" }, b: { k: "lit", v: 3 } } },
      ],
    },
    tables: [],
    inputs: [
      { name: "x", buffer: 0 },
      { name: "y", buffer: 1 },
    ],
    outputs: [],
    params: [],
    states: [],
    buffers: [
      { name: "x", dtype: "u8", shape: ["H", "3"], slack: 0, place: { k: "input" } },
      { name: "y", dtype: "f32", shape: ["2*H", "H"], slack: 0, place: { k: "input" } },
      { name: "t", dtype: "f32", shape: ["T", "4"], slack: 8, place: { k: "arena", first: 0, last: 0 } },
    ],
    kernels: [],
    prepare: [],
    steps: [],
  };

  test("gives symbols, bytes with slack, and the arena", () => {
    const { env, buffers, arenaBytes } = bindPlan(plan, { x: [5, 3], y: [10, 5] });
    expect(env).toEqual({ H: 5, T: 15 });
    expect(buffers.map((b) => b.bytes)).toEqual([15, 200, 15 * 16 + 32]);
    expect(arenaBytes).toBe(384);
  });

  test("refuses shapes that contradict each other, the declaration, or the bounds", () => {
    const refused = (x: readonly number[], y: readonly number[], message: string): void => {
      expect(() => bindPlan(plan, { x, y })).toThrow(BindError);
      expect(() => bindPlan(plan, { x, y })).toThrow(message);
    };
    refused([5, 4], [10, 5], "input x has 4 where 3 is 3");
    refused([5, 3], [11, 5], "input y has 11 where 2*H is 10");
    refused([5, 3], [10, 6], "input y has 6 where H is 5");
    refused([5], [10, 5], "input x is [H, 3], found [5]");
    refused([101, 3], [202, 101], "H is 101, outside 1…100");
    expect(() => bindPlan(plan, { x: [5, 3] })).toThrow("found nothing");
  });
});
