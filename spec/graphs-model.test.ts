// The whole visual side, from a photo to the visual sequence: small models against PyTorch in float64
// (spec/fixtures/llava-uhd-tiny.json), the order of the sequence, and at full width the parameters, their public names
// and the operation counts. Nothing of full width is run here (see graphs-full.test.ts).

import { describe, expect, test } from "vitest";
import { dimEval } from "../compiler/ir/dim.ts";
import { nodesById } from "../compiler/ir/graph/build.ts";
import type { Graph, OpNode } from "../compiler/ir/graph/types.ts";
import { opOf } from "../ops/index.ts";
import {
  compiledHows,
  decodeF32,
  f32Tensor,
  generatedParams,
  graphOf,
  hostRun,
  hows,
  imageTensor,
  openRunner,
  paramShapes,
  runGraph,
  shapeFunction,
  tinyFixture,
  type Config,
} from "./graphs-support.ts";

const fixture = tinyFixture();

type Version = "paper" | "v1";
const modelOf = (version: Version, config: Config): Graph =>
  version === "v1" ? graphOf("graphs/llava-uhd-v1.uhd", "llava_uhd_v1", config) : graphOf("graphs/llava-uhd.uhd", "llava_uhd", config);
const tiny = (version: Version, side: number, config: Config = {}): Graph =>
  modelOf(version, { ...fixture.model, [version === "v1" ? "spatial_side" : "resampler_side"]: side, ...config });

describe.each(hows)("on %s", (how) => {
  test.each(["paper", "v1"] as const)(
    "the small %s model gives PyTorch's visual sequences",
    async (version) => {
      // The evaluator takes a minute for photos of six slices.
      const cases = fixture.cases.filter(({ policy, size: [w, h] }) => policy === version && (how !== "reference" || w * h < 200_000));
      const graph = tiny(version, cases[0]?.side ?? 0);
      const runner = await openRunner(graph, generatedParams(graph), how);
      try {
        for (const { size, shape, visual } of cases) {
          const { visual: found } = await runner.run({ image: imageTensor(...size) });
          expect(found?.shape).toEqual(shape);
          const expected = decodeF32(visual);
          const error = expected.reduce((most, e, i) => Math.max(most, Math.abs(e - (found?.data[i] ?? NaN))), 0);
          // The evaluator's tables are f32, its sums are not; compiled sums are.
          expect(error, `${size.join("×")}`).toBeLessThan(how === "reference" ? 2e-6 : 2e-5);
        }
      } finally {
        await runner[Symbol.asyncDispose]();
      }
    },
    120_000,
  );
});

// ---- The order of the visual sequence -----------------------------------------------------------------------------

const byPolicy = shapeFunction("graphs/slicing.uhd", "by_policy");
const sequence = shapeFunction("graphs/schema.uhd", "sequence");
const rows = (policy: string, w: number, h: number, queries: number, strictly = false): readonly number[] =>
  sequence(byPolicy(policy, w, h), queries, strictly) as readonly number[];

/** Rows of picture i. */
const picture = (i: number, queries: number): number[] => Array.from({ length: queries }, (_, q) => i * queries + q);

describe("the visual sequence", () => {
  test.each([
    ["paper", 672, 1008, 64, 7 * 64 + 6],
    ["paper", 1920, 1080, 64, 7 * 64 + 6],
    ["paper", 300, 1200, 64, 5 * 64 + 4],
    ["paper", 336, 336, 64, 64],
    ["v1", 672, 1008, 144, 7 * 144 + 6],
    ["v1", 1024, 768, 144, 1008 + 6],
    ["v1", 300, 1200, 144, 720 + 4],
    ["v1", 100, 100, 144, 144],
    ["seed", 672, 1008, 64, 448 + 6],
    ["minicpm-v", 1920, 1080, 64, 576 + 8],
  ] as const)("by %s of a photo of %i×%i, %i tokens a picture, has %i rows; one less strictly between", (policy, w, h, queries, length) => {
    expect(rows(policy, w, h, queries).length).toBe(length);
    expect(rows(policy, w, h, queries, true).length).toBe(length === queries ? length : length - 1);
  });

  test("has slices in raster order, each followed by a comma or its row's newline, and the overview last", () => {
    // 2 columns, 3 rows.
    const [comma, newline] = [7 * 64, 7 * 64 + 1];
    const between = [comma, newline, comma, newline, comma, newline];
    const slices = between.flatMap((mark, i) => [...picture(i, 64), mark]);
    expect(rows("paper", 672, 1008, 64)).toEqual([...slices, ...picture(6, 64)]);
    expect(rows("paper", 672, 1008, 64, true)).toEqual([...slices.slice(0, -1), ...picture(6, 64)]);
  });

  test("has the overview first where MiniCPM-V slices", () => {
    // 2 columns, 2 rows, four slices after picture 0.
    const [comma, newline] = [5 * 64, 5 * 64 + 1];
    const slices = [comma, newline, comma].flatMap((mark, i) => [...picture(i + 1, 64), mark]);
    expect(rows("minicpm-v", 672, 1008, 64, true)).toEqual([...picture(0, 64), ...slices, ...picture(4, 64)]);
  });

  test("of an unsliced photo is its picture alone", () => {
    for (const policy of ["paper", "seed", "v1", "minicpm-v"]) expect(rows(policy, 90, 80, 64)).toEqual(picture(0, 64));
  });

  test.each(compiledHows)("comes out so on %s, with the separators asked for", async (how) => {
    const image = imageTensor(400, 380);
    const run = async (config: Config): Promise<{ readonly rows: number; readonly data: Float64Array; readonly graph: Graph }> => {
      const graph = tiny("paper", 3, { layers: 1, ...config });
      const { visual } = await runGraph(graph, { image }, generatedParams(graph), how);
      return { rows: visual?.shape[0] ?? 0, data: visual?.data ?? new Float64Array(), graph };
    };
    const width = fixture.model["width"] ?? 0;
    const row = ({ data }: { readonly data: Float64Array }, i: number): readonly number[] => [...data.subarray(i * width, (i + 1) * width)];
    // Two columns, one row: nine tokens a picture; row 9 is the comma, row 19 the newline.
    const plain = await run({});
    const separators = generatedParams(plain.graph)["separators.weight"]?.data ?? new Float64Array();
    expect(plain.rows).toBe(29);
    expect([row(plain, 9), row(plain, 19)]).toEqual([[...separators.subarray(0, width)], [...separators.subarray(width)]]);
    const strict = await run({ strictly_between: true });
    expect(strict.rows).toBe(28);
    expect(Buffer.compare(bytes(strict.data), bytes([...plain.data.subarray(0, 19 * width), ...plain.data.subarray(20 * width)]))).toBe(0);
    // The same two rows out of the language model's table.
    const table = await run({ embedding_table: true });
    const embeddings = generatedParams(table.graph)["model.embed_tokens.weight"]?.data ?? new Float64Array();
    expect(paramShapes(table.graph).get("model.embed_tokens.weight")).toEqual([32000, width]);
    expect([row(table, 9), row(table, 19)]).toEqual(
      [29892, 13].map((token) => [...embeddings.subarray(token * width, (token + 1) * width)]),
    );
    expect(row(table, 3)).toEqual(row(plain, 3));
  });
});

function bytes(data: ArrayLike<number>): Uint8Array {
  return new Uint8Array(Float64Array.from(data).buffer);
}

// ---- Full width: parameters and operations ------------------------------------------------------------------------

const encoderNames = (d: number, hidden: number, layers: number): Readonly<Record<string, readonly number[]>> => {
  const out: Record<string, readonly number[]> = {
    "embeddings.class_embedding": [d],
    "embeddings.patch_embedding.weight": [d, 3, 14, 14],
    "embeddings.position_embedding.weight": [577, d],
    "pre_layrnorm.weight": [d],
    "pre_layrnorm.bias": [d],
  };
  for (let i = 0; i < layers; i++) {
    const at = `encoder.layers.${i}`;
    for (const projection of ["q_proj", "k_proj", "v_proj", "out_proj"]) {
      out[`${at}.self_attn.${projection}.weight`] = [d, d];
      out[`${at}.self_attn.${projection}.bias`] = [d];
    }
    for (const norm of ["layer_norm1", "layer_norm2"]) for (const part of ["weight", "bias"]) out[`${at}.${norm}.${part}`] = [d];
    out[`${at}.mlp.fc1.weight`] = [hidden, d];
    out[`${at}.mlp.fc1.bias`] = [hidden];
    out[`${at}.mlp.fc2.weight`] = [d, hidden];
    out[`${at}.mlp.fc2.bias`] = [d];
  }
  return Object.fromEntries(Object.entries(out).map(([name, shape]) => [`vision_model.${name}`, shape]));
};

const resamplerNames = (d: number, queries: number): Readonly<Record<string, readonly number[]>> => {
  const norms = ["ln_q", "ln_kv", "ln_post"].flatMap((norm) => ["weight", "bias"].map((part) => [`${norm}.${part}`, [d]] as const));
  const out: Readonly<Record<string, readonly number[]>> = {
    query: [queries, d],
    pos_embed: [queries, d],
    "kv_proj.weight": [d, 1024],
    "attn.in_proj_weight": [3 * d, d],
    "attn.in_proj_bias": [3 * d],
    "attn.out_proj.weight": [d, d],
    "attn.out_proj.bias": [d],
    ...Object.fromEntries(norms),
    proj: [d, d],
  };
  return Object.fromEntries(Object.entries(out).map(([name, shape]) => [`model.mm_projector.${name}`, shape]));
};

const elements = (shapes: ReadonlyMap<string, readonly number[]>, prefix: string): number =>
  [...shapes].reduce((sum, [name, shape]) => sum + (name.startsWith(prefix) ? shape.reduce((a, b) => a * b, 1) : 0), 0);

describe("at full width", () => {
  test.each([
    ["paper", 4096, 64, 88_645_632],
    ["paper", 5120, 64, 137_021_440],
    ["v1", 4096, 144, 89_300_992],
    ["v1", 5120, 144, 137_840_640],
  ] as const)("the %s model, %i wide with %i queries, has the published names, shapes and counts", (version, width, queries, count) => {
    const shapes = paramShapes(modelOf(version, { width, stored_positions: true }));
    expect(Object.fromEntries(shapes)).toEqual({
      ...encoderNames(1024, 4096, 23),
      ...resamplerNames(width, queries),
      "separators.weight": [2, width],
    });
    expect(elements(shapes, "vision_model.")).toBe(290_909_184);
    expect(elements(shapes, "model.mm_projector.")).toBe(count);
  });

  test("fixed positions are no parameter unless they are asked for", () => {
    const shapes = paramShapes(modelOf("paper", {}));
    expect(shapes.has("model.mm_projector.pos_embed")).toBe(false);
    expect(elements(shapes, "model.mm_projector.")).toBe(88_645_632 - 64 * 4096);
  });
});

/** Operations of matrix products and attention by the op table, without the biases that the published counts leave out. */
function products(graph: Graph, inputs: Parameters<typeof hostRun>[1]): number {
  const { symbols } = hostRun(graph, inputs);
  const nodes = nodesById(graph);
  const typeOf = (id: number): OpNode["type"] => {
    const node = nodes.get(id);
    if (node === undefined) throw new Error(`no node ${id}`);
    return node.type;
  };
  const counted = graph.nodes.filter((n): n is OpNode => n.kind === "op" && ["linear", "matmul", "attention"].includes(n.op));
  return counted.reduce((sum, node) => {
    const all = dimEval(opOf(node.op).flops(node.operands.map(typeOf), node.attrs, node.type), symbols);
    const bias = node.op === "linear" && node.operands.length > 2 ? node.type.shape.reduce((a, d) => a * dimEval(d, symbols), 1) : 0;
    return sum + all - bias;
  }, 0);
}

const sizes: readonly (readonly [number, number])[] = [
  [24, 24],
  [19, 29],
  [1, 576],
];

describe("the published operation counts", () => {
  test.each(sizes)("of the encoder are the op table's, %i×%i patches", (w, h) => {
    const [n, t] = [w * h, w * h + 1];
    const found = products(graphOf("graphs/clip-vit.uhd", "clip_vit"), { patches: f32Tensor([h, w, 588], () => 0) });
    expect(found).toBe(2 * n * 588 * 1024 + 23 * (2 * t * 12 * 1024 ** 2 + 4 * t ** 2 * 1024));
  });

  test.each(sizes)("of the resampler are the op table's, %i×%i patches", (w, h) => {
    const [n, q, d] = [w * h, 64, 4096];
    const found = products(graphOf("graphs/resampler.uhd", "resampler"), { features: f32Tensor([h, w, 1024], () => 0) });
    expect(found).toBe(2 * n * 1024 * d + 4 * n * d ** 2 + 6 * q * d ** 2 + 4 * q * n * d);
  });
});
