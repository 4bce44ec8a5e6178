// Sampling on the device against a plain float64 implementation: which tokens every setting leaves, on logits with ties
// and -infinity; how often each is drawn; and the random numbers against published values of their generator.

import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { threefryWord } from "../ops/elementwise/uniform.ts";
import { Session } from "../runtime/session.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { runs, seed } from "./conformance/property.ts";
import { graphOf } from "./graphs-support.ts";

const sequences = 8;

interface Row {
  readonly logits: readonly number[];
  readonly temperature: number;
  /** Infinity for all. */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly penalty: number;
  readonly history: readonly number[];
}

const plain: Omit<Row, "logits"> = { temperature: 1, topK: Infinity, topP: 1, minP: 0, penalty: 1, history: [] };

// ---- The plain implementation -------------------------------------------------------------------------------------

function penalised({ logits, penalty, history }: Row, x: readonly number[] = logits): readonly number[] {
  const seen = new Set(history);
  // The device rounds to f32, and ties are ties after that.
  return x.map((l, i) => (seen.has(i) ? Math.fround(l < 0 ? l * Math.fround(penalty) : l / Math.fround(penalty)) : l));
}

/** The probability of each token; 0 for those that are left out. */
function probabilities(row: Row): readonly number[] {
  const scaled = penalised(row).map((l) => Math.fround(l / Math.fround(row.temperature)));
  const top = Math.max(...scaled);
  const edge = row.topK >= scaled.length ? -Infinity : ([...scaled].sort((a, b) => b - a)[row.topK - 1] ?? -Infinity);
  let weights = scaled.map((x) => (x >= edge ? Math.exp(x - top) : 0));
  const total = weights.reduce((a, b) => a + b, 0);
  const above = (w: number): number => weights.reduce((sum, x) => (x > w ? sum + x : sum), 0);
  if (row.topP < 1) weights = weights.map((w) => (above(w) < row.topP * total ? w : 0));
  weights = weights.map((w) => (w >= row.minP ? w : 0));
  const left = weights.reduce((a, b) => a + b, 0);
  return weights.map((w) => w / left);
}

/** Whether a setting's edge is so near a sum that rounding may decide: then either side is right. */
function isNear(row: Row): boolean {
  const all = probabilities({ ...row, topP: 1, minP: 0 });
  const sorted = [...new Set(all)].sort((a, b) => b - a);
  let sum = 0;
  for (const p of sorted) {
    sum += p * all.filter((x) => x === p).length;
    if (row.topP < 1 && Math.abs(sum - row.topP) < 1e-5) return true;
    if (row.minP > 0 && Math.abs(p / (sorted[0] ?? 1) - row.minP) < 1e-5) return true;
  }
  return false;
}

function logProbabilities(logits: readonly number[]): readonly number[] {
  const top = Math.max(...logits);
  const total = Math.log(logits.reduce((sum, x) => sum + Math.exp(x - top), 0));
  return logits.map((x) => x - top - total);
}

// ---- The device ---------------------------------------------------------------------------------------------------

const sessions = new Map<number, Session>();
let stamp = 0;

beforeAll(async () => {
  for (const vocabulary of [1, 5, 300]) {
    const graph = graphOf("graphs/sampling.uhd", "sampling", { vocabulary, sequences, best: 4 });
    sessions.set(vocabulary, await Session.create(compileGraph(graph), { threads: 1 }));
  }
});

afterAll(async () => {
  for (const session of sessions.values()) await session.close();
});

const f32 = (data: readonly number[], shape: readonly number[]): Tensor => ({ dtype: "f32", shape, data: Float32Array.from(data) });
const i32 = (data: readonly number[], shape: readonly number[] = [data.length]): Tensor => ({
  dtype: "i32",
  shape,
  data: Int32Array.from(data),
});

async function choose(
  rows: readonly Row[],
  counters: readonly number[],
  of = 7,
): Promise<Readonly<Record<"next" | "sampled" | "places" | "scores", readonly number[]>>> {
  const vocabulary = rows[0]?.logits.length ?? 0;
  const session = sessions.get(vocabulary);
  if (session === undefined) throw new Error(`there is no session for ${vocabulary} tokens`);
  const { outputs } = await session.run({
    logits: f32(
      rows.flatMap((r) => r.logits),
      [rows.length, vocabulary],
    ),
    settings: f32(
      rows.flatMap((r) => [r.temperature, r.topP, r.minP, r.penalty]),
      [rows.length, 4],
    ),
    choice: i32(
      rows.flatMap((r, i) => [Math.min(r.topK, vocabulary), of, 1, counters[i] ?? 0, i]),
      [rows.length, 5],
    ),
    history: i32(rows.flatMap((r, i) => r.history.map((id) => i * vocabulary + id))),
    stamp: i32([++stamp]),
  });
  const data = (name: string): readonly number[] => Array.from(outputs[name]?.data ?? []);
  return { next: data("next"), sampled: data("sampled"), places: data("places"), scores: data("scores") };
}

/** Logits of few different values, so that there are ties at every edge. */
const logitsOf = (n: number): fc.Arbitrary<readonly number[]> =>
  fc
    .array(
      fc.oneof(
        { weight: 6, arbitrary: fc.integer({ min: -12, max: 12 }).map((x) => x / 2) },
        { weight: 1, arbitrary: fc.constant(-Infinity) },
      ),
      {
        minLength: n,
        maxLength: n,
      },
    )
    .filter((all) => all.some((x) => x > -Infinity));

const anyRow = (n: number): fc.Arbitrary<Row> =>
  fc.record({
    logits: logitsOf(n),
    temperature: fc.constantFrom(1, 0.5, 2, 0.7),
    topK: fc.oneof(fc.constant(Infinity), fc.integer({ min: 1, max: n + 1 })),
    topP: fc.oneof(
      fc.constant(1),
      fc.integer({ min: 1, max: 99 }).map((x) => x / 100),
    ),
    minP: fc.oneof(
      fc.constant(0),
      fc.integer({ min: 1, max: 100 }).map((x) => x / 100),
    ),
    penalty: fc.constantFrom(1, 1, 1.3, 0.8),
    history: fc.array(fc.nat(n - 1), { maxLength: 6 }),
  });

describe.each([1, 5, 300])("of %i tokens", (vocabulary) => {
  test("what is drawn is what the settings leave, whatever they are", async () => {
    const rows = fc.array(anyRow(vocabulary), { minLength: 1, maxLength: sequences });
    const counters = fc.array(fc.integer(), { minLength: sequences, maxLength: sequences });
    await fc.assert(
      fc.asyncProperty(rows, counters, async (all, c) => {
        const { sampled } = await choose(all, c);
        for (const [i, row] of all.entries()) {
          if (isNear(row)) continue;
          expect(probabilities(row)[sampled[i] ?? -1], JSON.stringify(row)).toBeGreaterThan(0);
        }
      }),
      { numRuns: Math.min(runs, 60), seed },
    );
  });

  test("the likeliest, and the first few, are those of the penalised logits", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(anyRow(vocabulary), { minLength: 1, maxLength: 3 }), async (all) => {
        const { next, places, scores } = await choose(all, []);
        for (const [i, row] of all.entries()) {
          const x = penalised(row);
          expect(next[i]).toBe(x.indexOf(Math.max(...x)));
          const likely = penalised(row, logProbabilities(row.logits));
          const order = likely.map((_, id) => id).sort((a, b) => (likely[b] ?? 0) - (likely[a] ?? 0) || a - b);
          for (let n = 0; n < 4; n++) {
            const [place, score] = [places[4 * i + n] ?? NaN, scores[4 * i + n] ?? NaN];
            if (n >= vocabulary) expect(place).toBe(-1);
            else if (likely[order[n] ?? 0] === -Infinity) expect(score).toBe(-Infinity);
            // Of two whose logarithms differ by a rounding, either may come first.
            else expect(Math.abs(score - (likely[order[n] ?? 0] ?? 0))).toBeLessThan(2e-5);
            if (place >= 0 && score > -Infinity) expect(Math.abs(score - (likely[place] ?? 0))).toBeLessThan(2e-5);
          }
        }
      }),
      { numRuns: Math.min(runs, 40), seed },
    );
  });
});

describe("each setting leaves exactly what it says", () => {
  // 7 7 5 5 5 1 1 and lower: ties at every edge.
  const logits = Array.from({ length: 300 }, (_, i) => (i % 50 === 3 ? 7 : i % 40 === 11 ? 5 : i % 30 === 2 ? 1 : -2 - (i % 7)));
  const kept = (row: Row): number => probabilities(row).filter((p) => p > 0).length;

  test.each([
    ["top k, with those that tie with the last", { topK: 3 }],
    ["top p, with those that tie with the last", { topP: 0.6 }],
    ["min p", { minP: 0.1 }],
    ["all of them, one after the other", { topK: 12, topP: 0.95, minP: 0.01, temperature: 1.5 }],
  ])("%s", async (_, setting) => {
    const row: Row = { ...plain, logits, ...setting };
    const p = probabilities(row);
    const drawn = new Set<number>();
    for (let turn = 0; turn < 40; turn++) {
      const { sampled } = await choose(
        Array.from({ length: sequences }, () => row),
        Array.from({ length: sequences }, () => turn),
      );
      for (const id of sampled) drawn.add(id);
    }
    for (const id of drawn) expect(p[id]).toBeGreaterThan(0);
    // 320 draws of at most 20 tokens: those that are not rare have all come.
    expect(kept(row)).toBeLessThanOrEqual(20);
    for (const [id, chance] of p.entries()) if (chance > 0.05) expect(drawn).toContain(id);
  });

  test("top k of 1 is the likeliest token", async () => {
    const { next, sampled } = await choose([{ ...plain, logits: [1, 9, 3, -Infinity, 8], topK: 1 }], [5]);
    expect(sampled).toEqual(next);
  });
});

describe("draws", () => {
  test("have the frequencies of the softmax, by chi-square", async () => {
    const logits = [0, 1, 2, -1, 0.5];
    const row: Row = { ...plain, logits, temperature: 1.25 };
    const expected = probabilities(row);
    const counts = [0, 0, 0, 0, 0];
    const turns = 500;
    for (let turn = 0; turn < turns; turn++) {
      const { sampled } = await choose(
        Array.from({ length: sequences }, () => row),
        Array.from({ length: sequences }, () => turn),
        12345,
      );
      for (const id of sampled) counts[id] = (counts[id] ?? 0) + 1;
    }
    const chi = counts.reduce(
      (sum, n, i) => sum + (n - turns * sequences * (expected[i] ?? 0)) ** 2 / (turns * sequences * (expected[i] ?? 1)),
      0,
    );
    // Four degrees of freedom: 18.5 is passed once in a thousand seeds, and the seed is fixed.
    expect(chi).toBeLessThan(18.5);
    expect(chi).toBeGreaterThan(0.05);
  });

  test("are the same for the same seed and counter, and others for others", async () => {
    const row: Row = { ...plain, logits: Array.from({ length: 300 }, (_, i) => Math.sin(i)) };
    const rows = Array.from({ length: sequences }, () => row);
    const counters = [1, 2, 3, 4, 5, 6, 7, 8];
    const first = await choose(rows, counters, 1);
    expect((await choose(rows, counters, 1)).sampled).toEqual(first.sampled);
    expect((await choose(rows, counters, 2)).sampled).not.toEqual(first.sampled);
    expect(new Set(first.sampled).size).toBeGreaterThan(4);
  });

  test("are refused, with -1, where the logits are not numbers; the likeliest only where one is NaN", async () => {
    const rows = [
      [1, NaN, 0, 0, 0],
      [1, Infinity, 0, 0, 0],
      [-Infinity, -Infinity, -Infinity, -Infinity, -Infinity],
      [1, 2, 3, 4, -Infinity],
    ].map((logits): Row => ({ ...plain, logits, topK: 2, topP: 0.5 }));
    const { next, sampled } = await choose(rows, []);
    expect(sampled.slice(0, 3)).toEqual([-1, -1, -1]);
    expect(sampled[3]).toBe(3);
    expect(next).toEqual([-1, 1, 0, 3]);
  });
});

// Known answers of the generator's authors (Random123, threefry2x32 with 20 rounds).
test.each([
  [[0, 0], [0, 0], 0x6b200159],
  [[-1, -1], [-1, -1], 0x1cb996fc],
  [[0x13198a2e, 0x03707344], [0x243f6a88, 0x85a308d3 | 0], 0xc4923a9c],
] as const)("Threefry with key %o at %o gives its published word", (key, counter, word) => {
  expect(threefryWord(key, counter) >>> 0).toBe(word);
});
