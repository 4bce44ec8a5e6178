// The language model: small models against PyTorch in float64 (spec/fixtures/llama-tiny.json, without a cache there), by
// prefill, token by token and in pieces; what a token costs; the parameters of public models; and a photo and a prompt
// through one graph. Nothing of full width is run here.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { dimEval, dimParse, dimSymbols } from "../compiler/ir/dim.ts";
import type { ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import type { Graph } from "../compiler/ir/graph/types.ts";
import { bindPlan } from "../compiler/ir/plan/bind.ts";
import type { Explanation } from "../compiler/cli/commands/explain.ts";
import { Session } from "../runtime/session.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { uhdc } from "./cli-support.ts";
import { weight } from "./generator.ts";
import {
  agreement,
  decodeF32,
  f32Tensor,
  generatedParams,
  generatedWeights,
  graphOf,
  hows,
  imageTensor,
  openRunner,
  paramShapes,
  runGraph,
  type Config,
  type How,
  type Runner,
} from "./graphs-support.ts";

interface Fixture {
  readonly rows: readonly number[];
  readonly given: number;
  readonly cases: readonly { readonly says: string; readonly model: Config; readonly logits: string }[];
}

const fixture = JSON.parse(readFileSync(new URL("fixtures/llama-tiny.json", import.meta.url), "utf8")) as Fixture;
const length = fixture.rows.length;
const llama = (config: Config): Graph => graphOf("graphs/llama.uhd", "llama", config);
const ints = (data: readonly number[]): ConcreteTensor => ({ dtype: "i32", shape: [data.length], data: Float64Array.from(data) });

/** Logits of the last of rows from … to-1 of the fixture's sequence, run behind `from` rows. */
class Conversation {
  readonly runner: Runner;
  readonly width: number;

  constructor(runner: Runner, model: Config) {
    this.runner = runner;
    this.width = Number(model["width"]);
  }

  static async open(model: Config, how: How): Promise<Conversation> {
    const graph = llama(model);
    return new Conversation(await openRunner(graph, generatedParams(graph), how), model);
  }

  async run(
    from: number,
    to: number,
    rows: readonly number[] = fixture.rows.slice(from, to),
  ): Promise<Readonly<Record<string, ConcreteTensor>>> {
    const vocabulary = Number(fixture.cases[0]?.model["vocabulary"]);
    // Embeddings are given only where a row is one of them.
    const count = rows.some((r) => r >= vocabulary) ? fixture.given : 0;
    const all = weight("given", [fixture.given, this.width]);
    const given = f32Tensor([count, this.width], (i) => all[i] ?? NaN);
    return this.runner.run({ rows: ints(rows), given }, { past: from });
  }

  async expectRow(row: number, expected: Float32Array, outputs: Readonly<Record<string, ConcreteTensor>>, how: How): Promise<void> {
    const vocabulary = expected.length / length;
    const mine = expected.subarray(row * vocabulary, (row + 1) * vocabulary);
    const { logits, next } = outputs;
    expect(logits?.shape).toEqual([1, vocabulary]);
    // Frequencies of RoPE are f32 in every form of the graph.
    expect(agreement(logits?.data ?? [], mine).error, `row ${row}`).toBeLessThan(how === "reference" ? 2e-6 : 1e-5);
    expect(next?.data[0]).toBe(mine.indexOf(Math.max(...mine)));
  }
}

describe.each(hows)("on %s", (how) => {
  describe.each(fixture.cases)("a small model with $says", ({ model, logits }) => {
    const expected = decodeF32(logits);

    test("gives PyTorch's logits for the last row of prompts of any length", async () => {
      const c = await Conversation.open(model, how);
      await using _ = c.runner;
      for (const n of [length, 1, 7]) await c.expectRow(n - 1, expected, await c.run(0, n), how);
    });

    test("gives them token by token, in pieces, and again after tokens were taken back", async () => {
      const c = await Conversation.open(model, how);
      await using _ = c.runner;
      await c.run(0, 6);
      for (let i = 6; i < length; i++) await c.expectRow(i, expected, await c.run(i, i + 1), how);
      // The cache still holds the end of the sequence; who starts over must not see it.
      for (const [from, to] of [
        [0, 4],
        [4, 11],
        [11, length],
      ] as const)
        await c.expectRow(to - 1, expected, await c.run(from, to), how);
      await c.run(9, 11, [3, 4]);
      for (const [from, to] of [
        [9, 10],
        [10, 13],
      ] as const)
        await c.expectRow(to - 1, expected, await c.run(from, to), how);
    });
  });
});

// ---- What a token costs -------------------------------------------------------------------------------------------

const small: Config = fixture.cases[1]?.model ?? {};
const sized = (config: Config): Config => ({ ...small, ...config });

describe("a token", () => {
  test("is eleven kernels a layer", () => {
    const steps = (layers: number): number => compileGraph(llama(sized({ llama_layers: layers }))).plan.steps.length;
    expect(steps(3) - steps(2)).toBe(11);
    expect(steps(5) - steps(2)).toBe(3 * 11);
  });

  test("copies nothing: every state is its own update, and the steps that write it write the new rows", () => {
    const { plan } = compileGraph(llama(small));
    expect(plan.states).toHaveLength(2 * Number(small["llama_layers"]));
    for (const s of plan.states) {
      expect(s.update).toBe(s.buffer);
      const writers = plan.steps.filter((step) => step.k === "dispatch" && step.buffers.at(-1) === s.buffer);
      expect(writers).toHaveLength(1);
      for (const w of writers) {
        if (w.k !== "dispatch") continue;
        const written = (past: number): number => dimEval(dimParse(w.extents.reduce((a, b) => `${a}*(${b})`, "1")), { N: 1, V: 0, past });
        expect(written(20)).toBe(Number(small["kv_heads"]) * Number(small["head_width"]));
        expect(dimSymbols(dimParse(w.extents.join("+")))).toEqual(["N"]);
      }
    }
    expect(plan.steps.filter((s) => s.k === "copy")).toEqual([]);
  });

  test("reads what the cache holds in attention alone", () => {
    const { plan } = compileGraph(llama(small));
    const growing = plan.steps.flatMap((s) => {
      if (s.k !== "dispatch") return [];
      const bytes = (past: number): number => dimEval(dimParse(s.bytes), { N: 1, V: 0, past, attention_pairs: past + 1 });
      return bytes(20) === bytes(10) ? [] : [s.kernel.replace(/_\d+$/, "")];
    });
    expect(new Set(growing)).toEqual(new Set(["attention"]));
  });

  test("has the places of the token before it: no size of a buffer depends on how many there were", () => {
    const { plan } = compileGraph(llama(small));
    const shapes = { rows: [1], given: [0, Number(small["width"])] };
    const first = bindPlan(plan, shapes, { past: 3 });
    expect(bindPlan(plan, shapes, { past: 4 }, first).buffers).toBe(first.buffers);
    expect(bindPlan(plan, shapes, { past: 4 }).buffers).toEqual(first.buffers);
    expect(bindPlan(plan, { ...shapes, rows: [2] }, { past: 4 }, first).buffers).not.toEqual(first.buffers);
  });

  test("multiplies by packed panels, one row as many", () => {
    const { plan, kernels } = compileGraph(llama(small));
    const multiplies = kernels.filter((k) => k.pattern?.k === "matmul");
    expect(multiplies.length).toBeGreaterThan(4);
    for (const k of multiplies) expect(k.schedule).toEqual([expect.objectContaining({ k: "packed" })]);
    expect(plan.steps.filter((s) => s.k === "dispatch" && s.kernel.startsWith("pack"))).toEqual([]);
  });

  test("allocates nothing on the device, and its results do not depend on the threads", async () => {
    const graph = llama(small);
    const compiled = compileGraph(graph);
    const logits: Float32Array[] = [];
    for (const threads of [1, 2]) {
      await using session = await Session.create(compiled, { threads, weights: generatedWeights(graph) });
      const given: Tensor = { dtype: "f32", shape: [0, Number(small["width"])], data: new Float32Array() };
      const rows = (ids: readonly number[]): Tensor => ({ dtype: "i32", shape: [ids.length], data: Int32Array.from(ids) });
      await session.run({ rows: rows([1, 2, 3]), given, past: 0 });
      const used = session.device.used;
      for (let past = 3; past < 30; past++) {
        const { outputs, memory } = await session.run({ rows: rows([past]), given, past });
        expect(session.device.used).toBe(used);
        expect(memory.arena).toBeLessThan(20_000);
        if (past === 29) logits.push(outputs["logits"]?.data as Float32Array);
      }
    }
    expect(logits[0]).toEqual(logits[1]);
  });
});

// ---- What is refused ----------------------------------------------------------------------------------------------

describe("a run is refused", () => {
  const graph = llama(small);
  const given: Tensor = { dtype: "f32", shape: [0, Number(small["width"])], data: new Float32Array() };
  const rows = (count: number): Tensor => ({ dtype: "i32", shape: [count], data: new Int32Array(count) });

  test.each([
    [
      "when the context would overflow",
      { rows: rows(3), given, past: 30 },
      /context overflow: the rows do not fit in the state model\.layers\.0\.self_attn\.keys: N \+ past is 33, and there are 32/,
    ],
    ["without its integer", { rows: rows(3), given }, /past is missing: an integer/],
    ["with a tensor for the integer", { rows: rows(3), given, past: rows(1) }, /past is a tensor: an integer/],
    ["with a number that is no integer", { rows: rows(3), given, past: 0.5 }, /past is 0\.5, not an integer/],
    ["with an integer below the bounds", { rows: rows(3), given, past: -1 }, /past is -1, outside 0…32/],
    ["with a number for a tensor", { rows: 3, given, past: 0 }, /rows: expected i32\[N\], found a number/],
    [
      "with a number that is not asked for",
      { rows: rows(3), given, past: 0, seed: 1 },
      /seed is not an input; there are rows, given, past/,
    ],
  ])("%s", async (_, inputs, message) => {
    await using session = await Session.create(compileGraph(graph), { threads: 1, weights: generatedWeights(graph) });
    await expect(session.run(inputs)).rejects.toThrow(message);
    await expect(session.run(inputs)).rejects.toMatchObject({ name: "InputError" });
    // And leaves the session as it was.
    const { outputs } = await session.run({ rows: rows(2), given, past: 30 });
    expect(outputs["next"]?.shape).toEqual([1]);
  });
});

// ---- Public models ------------------------------------------------------------------------------------------------

describe("public models", () => {
  const thirteen: Config = { width: 5120, llama_layers: 40, heads: 40, kv_heads: 40, ffn: 13824 };
  const smol: Config = {
    width: 576,
    llama_layers: 30,
    heads: 9,
    kv_heads: 3,
    head_width: 64,
    ffn: 1536,
    vocabulary: 49152,
    theta: 100000,
    tied: true,
    context: 8192,
  };
  const count = (graph: Graph): number =>
    [...paramShapes(graph).values()].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);

  test.each([
    ["Vicuna-7B", {}, 6_738_415_616, 2 * 32 * 4096 * 4096 * 4],
    ["Vicuna-13B", thirteen, 13_015_864_320, 2 * 40 * 4096 * 5120 * 4],
    ["SmolLM2-135M", smol, 134_515_008, 2 * 30 * 8192 * 192 * 4],
  ] as const)("%s has its parameters, and a cache of its size", (_, config, parameters, bytes) => {
    const graph = llama(config);
    expect(count(graph)).toBe(parameters);
    const states = graph.nodes.filter((n) => n.kind === "state");
    expect(states.reduce((sum, n) => sum + 4 * n.type.shape.reduce((a, d) => a * dimEval(d, {}), 1), 0)).toBe(bytes);
  });

  test("parameters have the names of public checkpoints", () => {
    const names = [...paramShapes(llama({ ...smol, llama_layers: 2, tied: false })).keys()].toSorted();
    const layer = (i: number): readonly string[] =>
      [
        ...["q", "k", "v", "o"].map((p) => `self_attn.${p}_proj`),
        ...["gate", "up", "down"].map((p) => `mlp.${p}_proj`),
        "input_layernorm",
        "post_attention_layernorm",
      ].map((p) => `model.layers.${i}.${p}.weight`);
    expect(names).toEqual(["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", ...layer(0), ...layer(1)].toSorted());
    expect(paramShapes(llama(smol)).has("lm_head.weight")).toBe(false);
  });

  test("uhdc explain tells parameters, operations and the cache's bytes", async () => {
    const settings = Object.entries({ ...smol, llama_layers: 2, vocabulary: 500, context: 1024 }).flatMap(([k, v]) => [
      "--set",
      `${k}=${v}`,
    ]);
    const args = ["explain", "graphs/llama.uhd", ...settings, "--size", "N=1", "--size", "V=0", "--size", "past=1000"];
    const { code, stdout } = await uhdc([...args, "--json"]);
    expect(code).toBe(0);
    const e = JSON.parse(stdout) as Explanation;
    expect(e.parameters).toBe(500 * 576 + 576 + 2 * (2 * 576 + 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536));
    expect(e.sizes).toMatchObject({ N: 1, V: 0, past: 1000 });
    expect(e.memory.state).toBe(2 * 2 * 1024 * 192 * 4);
    expect(e.memory.weights).toBeGreaterThan(e.memory.state + 4 * e.parameters);
    // Two for each parameter of a multiply, and 4·(past + 1) for each feature of attention, layers over.
    const multiplies = 2 * (e.parameters - 5 * 576);
    expect(e.flops.useful / (multiplies + 2 * 4 * 1001 * 576)).toBeCloseTo(1, 1);
    expect((await uhdc(args)).stdout).toMatch(/parameters\n[^]*memory: weights .* \(3\.00 MiB of it state\), arena/);
    const lacking = await uhdc(args.slice(0, -2));
    expect(lacking.code).toBe(2);
    expect(lacking.stderr).toContain("needs the size of past");
  });
});

// ---- From a photo to a token --------------------------------------------------------------------------------------

describe("a photo and a prompt in one graph", () => {
  const shared: Config = { width: 48, head_width: 16, vocabulary: 29_900 };
  const words: Config = { ...shared, llama_layers: 2, heads: 3, kv_heads: 1, ffn: 64, context: 128, tied: true };
  const eyes: Config = { ...shared, layers: 2, vit_width: 32, vit_heads: 2, vit_hidden: 48, vit_side: 4, resampler_side: 3 };
  const chat = graphOf("graphs/llava-uhd-chat.uhd", "llava_uhd_chat", { ...words, ...eyes });
  const none: ConcreteTensor = { dtype: "u8", shape: [0, 0, 3], data: new Float64Array() };
  const photo = imageTensor(400, 380);
  const prompt = [1, 29_892, 500, 13, 29_000, 7, 11];

  /** Inputs of the graph for rows behind `past` others of one sequence, whose next token is the likeliest. */
  const turn = (image: ConcreteTensor, rows: readonly number[], past: number): Readonly<Record<string, ConcreteTensor>> => {
    const from = (start: number, length: number): ConcreteTensor => ints(Array.from({ length }, (_, i) => start + i));
    return {
      ...{ image, rows: ints(rows), given: f32Tensor([0, 48], () => 0), position: from(past, rows.length), place: from(past, rows.length) },
      ...{ segment: ints(rows.map(() => 0)), offsets: ints([0, rows.length]), cached: from(0, past + rows.length) },
      ...{ row_offsets: ints([0, past + rows.length]), read: ints([rows.length - 1]), read_segment: ints([0]), read_offsets: ints([0, 1]) },
      ...{
        settings: f32Tensor([1, 4], () => 1),
        choice: { ...ints([0, 0, 0, 0, 0]), shape: [1, 5] },
        history: ints([]),
        stamp: ints([past + 1]),
      },
    };
  };
  const likeliest = { sampled: 0, beams: 0 };

  test.each(hows.filter((how) => how !== "reference"))(
    "gives, on %s, what the visual graph and the language model give one after the other",
    async (how) => {
      const visual = graphOf("graphs/llava-uhd.uhd", "llava_uhd", { ...eyes, embedding_table: true, stored_positions: true });
      const { visual: sequence } = await runGraph(visual, { image: photo }, generatedParams(visual), how);
      const rows = sequence?.shape[0] ?? 0;
      expect(rows).toBe(29);
      const text = llama(words);
      await using alone = await openRunner(text, generatedParams(text), how);
      await using joined = await openRunner(chat, generatedParams(chat), how);
      const placed = [...prompt.slice(0, 3), ...Array.from({ length: rows }, (_, i) => 29_900 + i), ...prompt.slice(3)];
      const expected = await alone.run({ rows: ints(placed), given: sequence ?? none }, { past: 0 });
      const found = await joined.run(turn(photo, placed, 0), likeliest);
      const close = (a: Readonly<Record<string, ConcreteTensor>>, b: Readonly<Record<string, ConcreteTensor>>): void => {
        expect(agreement(a["logits"]?.data ?? [], b["logits"]?.data ?? []).error).toBeLessThan(1e-5);
        expect(a["next"]?.data).toEqual(b["next"]?.data);
      };
      close(found, expected);
      // Then it decodes, without a photo.
      const empty = f32Tensor([0, 48], () => 0);
      for (const [i, id] of [found["next"]?.data[0] ?? 0, 77].entries()) {
        const past = placed.length + i;
        const next = await joined.run(turn(none, [id], past), likeliest);
        close(next, await alone.run({ rows: ints([id]), given: empty }, { past }));
      }
      // A turn in two pieces, the photo at the end of the first.
      await joined.run(turn(photo, placed.slice(0, 3 + rows), 0), likeliest);
      close(await joined.run(turn(none, prompt.slice(3), 3 + rows), likeliest), expected);
    },
    60_000,
  );
});
