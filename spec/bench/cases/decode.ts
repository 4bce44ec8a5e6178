// What a token costs as the context fills, on SmolLM2's sizes with random weights: attention grows with what it looks at,
// and everything else must stay as it is. And what choosing a token costs beside computing one. The plot goes to
// dist/bench/decode.svg.

import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import type { Session } from "../../../runtime/session.ts";
import type { Tensor } from "../../../runtime/tensor.ts";
import { spread } from "../measure.ts";
import { compileBench, openSession, randomWeights } from "../ours.ts";
import { log, root } from "../place.ts";
import { normals } from "../random.ts";
import type { Row } from "../rows.ts";
import { limited, threadsText, type Context } from "../versus.ts";
import type { Case } from "./case.ts";

const vocabulary = 49152;
const capacity = 8192;
const contexts = [64, 512, 2000, 4000, 8000] as const;

const ints = (data: readonly number[], shape: readonly number[] = [data.length]): Tensor => ({
  dtype: "i32",
  shape,
  data: Int32Array.from(data),
});
const floats = (data: readonly number[], shape: readonly number[]): Tensor => ({ dtype: "f32", shape, data: Float32Array.from(data) });

/** Inputs of graphs/llama-chat.uhd for one token behind `past` others. */
function tokenAt(past: number): Readonly<Record<string, Tensor | number>> {
  const cached = Array.from({ length: capacity }, (_, i) => Math.min(i, past));
  return {
    rows: ints([5]),
    given: floats([], [0, 576]),
    position: ints([past]),
    place: ints([past]),
    segment: ints([0]),
    offsets: ints([0, 1]),
    cached: ints(cached),
    row_offsets: ints([0, past + 1]),
    read: ints([0]),
    read_segment: ints([0]),
    read_offsets: ints([0, 1]),
    settings: floats([1, 1, 0, 1], [1, 4]),
    choice: ints([vocabulary, 1, 0, 0, 0], [1, 5]),
    history: ints([]),
    stamp: ints([1]),
    sampled: 0,
    beams: 0,
  };
}

interface Point {
  readonly context: number;
  readonly attention: number[];
  readonly rest: number[];
}

async function measure(session: Session, context: Context, name: string): Promise<readonly Point[]> {
  const isAttention = session.plan.steps.map((s) => s.k === "dispatch" && s.kernel.startsWith("attention"));
  const points = contexts.map((at): Point => ({ context: at, attention: [], rest: [] }));
  // In turns, so that a noisy machine is noisy for all; the first turn warms up.
  for (let round = 0; round <= (context.quick ? 5 : 20); round++) {
    log(`${name}, ${threadsText(context.threads)}: round ${round}`);
    for (const point of points) {
      const { steps } = await session.run(tokenAt(point.context), { outputs: ["next"] });
      if (round === 0) continue;
      const sum = (attention: boolean): number => steps.reduce((ms, t, i) => (isAttention[i] === attention ? ms + t : ms), 0);
      point.attention.push(sum(true));
      point.rest.push(sum(false));
    }
  }
  return points;
}

const flatName = "decode, attention aside";

const flat: Case = {
  name: flatName,
  threads: [1, 2],
  run: async (context): Promise<readonly Row[]> => {
    const layers = context.quick ? 6 : 30;
    const compiled = compileBench("graphs/llama-chat.uhd", "llama_chat", {
      width: 576,
      llama_layers: layers,
      heads: 9,
      kv_heads: 3,
      head_width: 64,
      ffn: 1536,
      vocabulary,
      theta: 100000,
      tied: "true",
      context: capacity,
    });
    await using session = await openSession(compiled, context.threads, randomWeights(compiled.plan.params));
    const points = await measure(session, context, flatName);
    const file = path.join(root, "dist/bench/decode.svg");
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, plot(points, `SmolLM2's sizes, ${layers} layers, ${threadsText(context.threads)}, ${context.engine}`));
    const first = spread(points[0]?.rest ?? []).median;
    return points.map((p) =>
      limited(context, {
        name: `${flatName}: ${p.context} tokens`,
        ours: p.rest,
        limit: first,
        limitName: `at ${contexts[0]} tokens`,
        unit: "ms",
        note: `attention ${spread(p.attention).median.toFixed(2)} ms, ${layers} layers`,
      }),
    );
  },
};

const chooseName = `decode, choosing one of ${vocabulary} tokens`;

const choosing: Case = {
  name: chooseName,
  threads: [1],
  run: async (context): Promise<readonly Row[]> => {
    const compiled = compileBench("graphs/sampling.uhd", "sampling", { vocabulary, sequences: 1, best: 1 });
    await using session = await openSession(compiled, context.threads);
    const logits: Tensor = { dtype: "f32", shape: [1, vocabulary], data: normals("logits", vocabulary, 3) };
    const settings = [
      ["temperature", [0.8, 1, 0, 1], vocabulary],
      ["top k 40", [0.8, 1, 0, 1], 40],
      ["top p 0.95", [0.8, 0.95, 0, 1], vocabulary],
      ["top k 40, top p 0.95, min p 0.02, penalty 1.1", [0.8, 0.95, 0.02, 1.1], 40],
    ] as const;
    const rows: Row[] = [];
    for (const [says, numbers, topK] of settings) {
      const times: number[] = [];
      for (let round = 0; round <= (context.quick ? 20 : 100); round++) {
        const inputs = {
          logits,
          settings: floats(numbers, [1, 4]),
          choice: ints([topK, 1, 0, round, 0], [1, 5]),
          history: ints(numbers[3] === 1 ? [] : Array.from({ length: 1000 }, (_, i) => i * 7)),
          stamp: ints([round + 1]),
        };
        const { steps } = await session.run(inputs, { outputs: ["sampled"] });
        if (round > 2) times.push(steps.reduce((a, b) => a + b, 0));
      }
      rows.push(limited(context, { name: `${chooseName}: ${says}`, ours: times, limit: 2, limitName: "limit", unit: "ms" }));
    }
    return rows;
  },
};

export const decoding: readonly Case[] = [flat, choosing];

/** Milliseconds over tokens in the cache: one line for attention, one for all else. */
function plot(points: readonly Point[], title: string): string {
  const [width, height, left, bottom] = [640, 360, 60, 40];
  const most = Math.max(...points.flatMap((p) => [spread(p.attention).median, spread(p.rest).median])) * 1.1;
  const x = (tokens: number): number => left + ((width - left - 20) * tokens) / capacity;
  const y = (ms: number): number => height - bottom - ((height - bottom - 40) * ms) / most;
  const line = (of: (p: Point) => number, colour: string, label: string): string => {
    const at = points.map((p) => `${x(p.context).toFixed(1)},${y(of(p)).toFixed(1)}`);
    const last = points.at(-1);
    const text =
      last === undefined
        ? ""
        : `<text x="${width - 24}" y="${(y(of(last)) - 8).toFixed(1)}" fill="${colour}" text-anchor="end">${label}</text>`;
    return `<polyline points="${at.join(" ")}" fill="none" stroke="${colour}" stroke-width="2"/>${text}`;
  };
  const ticks = contexts.map((c) => `<text x="${x(c).toFixed(1)}" y="${height - 16}" text-anchor="middle">${c}</text>`);
  const marks = [0, 0.5, 1].map(
    (part) => `<text x="${left - 8}" y="${y(part * most).toFixed(1)}" text-anchor="end">${(part * most).toFixed(1)} ms</text>`,
  );
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${width}" height="${height}" fill="white"/><text x="${left}" y="20">${title}</text>`,
    `<path d="M${left},30V${height - bottom}H${width - 20}" fill="none" stroke="black"/>`,
    ...ticks,
    ...marks,
    line((p) => spread(p.rest).median, "#1f77b4", "all but attention"),
    line((p) => spread(p.attention).median, "#d62728", "attention"),
    "</svg>",
    "",
  ].join("\n");
}
