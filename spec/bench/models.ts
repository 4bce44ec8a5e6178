// The benches' graphs as ONNX models for the peers: a matrix multiply, one ViT layer, and the encoder with the shared
// resampler on a padded batch. Weights keep the checkpoint's layout (Gemm reads it transposed), so both sides get the
// same arrays. Does not run anything.

import { OnnxGraph, type OnnxTensor } from "./onnx.ts";

/** Weights by their checkpoint names. */
export type Weights = ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: Float32Array }>;

interface VitConfig {
  readonly layers: number;
  readonly width: number;
  readonly heads: number;
}

interface ResamplerConfig {
  readonly width: number;
  readonly heads: number;
  /** side² queries. */
  readonly side: number;
}

const microsoftDomain = "com.microsoft";

export function matmulModel(m: number, k: number, n: number, b: Float32Array): OnnxGraph {
  const graph = new OnnxGraph("matmul");
  const x = graph.input("x", "float", [m, k]);
  graph.initializer("b", floats([k, n], b));
  // The output's name is the node's.
  graph.output(graph.node("MatMul", [x, "b"]), "float", [m, n]);
  return graph;
}

/** One row times the transpose of an [n, k] matrix whose numbers of a few bits have a scale for each block of 32. */
export function packedModel(k: number, n: number, bits: 4 | 8, values: Uint8Array, scales: Float32Array): OnnxGraph {
  const graph = new OnnxGraph("packed");
  const x = graph.input("x", "float", [1, k]);
  graph.initializer("b", { type: "uint8", dims: [n, k / 32, bits * 4], data: values });
  graph.initializer("scales", floats([n, k / 32], scales));
  // Level 4 lets them compute with integers.
  const attributes = { K: { int: k }, N: { int: n }, bits: { int: bits }, block_size: { int: 32 }, accuracy_level: { int: 4 } };
  graph.output(graph.node("MatMulNBits", [x, "b", "scales"], { attributes, domain: microsoftDomain }), "float", [1, n]);
  return graph;
}

/** One layer over one picture's tokens. */
export function layerModel(tokens: number, config: VitConfig, weights: Weights): OnnxGraph {
  const graph = new OnnxGraph("layer");
  const build = new Builder(graph, weights);
  const x = graph.input("x", "float", [tokens, config.width]);
  graph.output(layer(build, x, "vision_model.encoder.layers.0", 1, tokens, config, ""), "float", [tokens, config.width]);
  return graph;
}

export interface PaddedBatch {
  /** Patches of each picture. */
  readonly counts: readonly number[];
  /** [pictures · (longest + 1), vit width]: what is added to class token and patches. */
  readonly positions: Float32Array;
  /** [pictures · longest, width]: what is added to the resampler's keys. */
  readonly keyPositions: Float32Array;
  /** [side², width] */
  readonly queryPositions: Float32Array;
}

/**
 * Encoder and resampler over pictures of different sizes as one batch: every picture is padded to the longest, and the
 * padding's keys are masked. Input `patches` is [pictures · longest, 588]; side² rows a picture come out.
 */
export function encoderModel(vit: VitConfig, resampler: ResamplerConfig, batch: PaddedBatch, weights: Weights): OnnxGraph {
  const graph = new OnnxGraph("encoder");
  const build = new Builder(graph, weights);
  const pictures = batch.counts.length;
  const longest = Math.max(...batch.counts);
  const d = vit.width;
  const patches = graph.input("patches", "float", [pictures * longest, 588]);
  const tokenMask = graph.initializer("token_mask", mask(batch.counts, longest + 1, 1));
  const patchMask = graph.initializer("patch_mask", mask(batch.counts, longest, 0));
  const embeddings = "vision_model.embeddings";

  const pixels = graph.node("Gemm", [patches, build.weight(`${embeddings}.patch_embedding.weight`, [d, 588])], transposed);
  const first = build.weight(`${embeddings}.class_embedding`, [1, 1, d]);
  const firsts = graph.node("Expand", [first, graph.ints([pictures, 1, d])]);
  const tokens = graph.node("Concat", [firsts, graph.reshape(pixels, [pictures, longest, d])], { attributes: { axis: { int: 1 } } });
  const rows = pictures * (longest + 1);
  const positions = graph.initializer("positions", floats([rows, d], batch.positions));
  let x = build.norm(graph.node("Add", [graph.reshape(tokens, [rows, d]), positions]), "vision_model.pre_layrnorm", 1e-5);
  for (let i = 0; i < vit.layers; i++) x = layer(build, x, `vision_model.encoder.layers.${i}`, pictures, longest + 1, vit, tokenMask);
  const whole = graph.reshape(x, [pictures, longest + 1, d]);
  const features = graph.node("Slice", [whole, graph.ints([1]), graph.ints([longest + 1]), graph.ints([1])]);
  const y = resample(build, graph.reshape(features, [pictures * longest, d]), d, pictures, longest, resampler, batch, patchMask);
  graph.output(y, "float", [pictures * resampler.side ** 2, resampler.width]);
  return graph;
}

const transposed = { attributes: { transB: { int: 1 } } } as const;

class Builder {
  readonly graph: OnnxGraph;
  readonly #weights: Weights;
  readonly #known = new Set<string>();

  constructor(graph: OnnxGraph, weights: Weights) {
    this.graph = graph;
    this.#weights = weights;
  }

  /** Elements of a weight. */
  length(name: string): number {
    return this.#weight(name).length;
  }

  #weight(name: string): Float32Array {
    const tensor = this.#weights.get(name);
    if (tensor === undefined) throw new Error(`there is no weight ${name}`);
    return tensor.data;
  }

  constant(value: number): string {
    const name = `constant_${value}`;
    if (!this.#known.has(name)) this.graph.initializer(name, floats([], Float32Array.of(value)));
    this.#known.add(name);
    return name;
  }

  /** A weight, or rows [begin, begin + shape[0]) of one. */
  weight(name: string, shape: readonly number[], begin?: number): string {
    const key = begin === undefined ? name : `${name}@${begin}`;
    if (this.#known.has(key)) return key;
    const data = this.#weight(name);
    const count = shape.reduce((n, v) => n * v, 1);
    const from = (begin ?? 0) * (count / (shape[0] ?? 1));
    this.graph.initializer(key, floats(shape, begin === undefined ? data : data.subarray(from, from + count)));
    this.#known.add(key);
    return key;
  }

  norm(x: string, name: string, epsilon: number): string {
    const width = this.length(`${name}.weight`);
    const operands = [x, this.weight(`${name}.weight`, [width]), this.weight(`${name}.bias`, [width])];
    return this.graph.node("LayerNormalization", operands, { attributes: { axis: { int: 1 }, epsilon: { float: epsilon } } });
  }

  /** x · wᵀ + b, x [rows, inputs]. */
  linear(x: string, name: string, inputs: number, outputs: number): string {
    return this.graph.node(
      "Gemm",
      [x, this.weight(`${name}.weight`, [outputs, inputs]), this.weight(`${name}.bias`, [outputs])],
      transposed,
    );
  }
}

function layer(b: Builder, x: string, name: string, batch: number, tokens: number, config: VitConfig, keyMask: string): string {
  const { graph } = b;
  const { width: d, heads } = config;
  const hidden = b.length(`${name}.mlp.fc1.bias`);
  const n1 = b.norm(x, `${name}.layer_norm1`, 1e-5);
  const [q, k, v] = ["q", "k", "v"].map((n) => graph.reshape(b.linear(n1, `${name}.self_attn.${n}_proj`, d, d), [batch, tokens, d]));
  const a = attention(graph, [q, k, v], heads, keyMask);
  const h = graph.node("Add", [x, b.linear(graph.reshape(a, [batch * tokens, d]), `${name}.self_attn.out_proj`, d, d)]);
  const u = b.linear(b.norm(h, `${name}.layer_norm2`, 1e-5), `${name}.mlp.fc1`, d, hidden);
  const steep = graph.node("Mul", [u, b.constant(1.702)]);
  const gelu = graph.node("Mul", [u, graph.node("Sigmoid", [steep])]);
  return graph.node("Add", [h, b.linear(gelu, `${name}.mlp.fc2`, hidden, d)]);
}

function resample(
  b: Builder,
  x: string,
  inputs: number,
  pictures: number,
  keys: number,
  config: ResamplerConfig,
  batch: PaddedBatch,
  keyMask: string,
): string {
  const { graph } = b;
  const name = "model.mm_projector";
  const d = config.width;
  const queries = config.side ** 2;
  const projected = graph.node("Gemm", [x, b.weight(`${name}.kv_proj.weight`, [d, inputs])], transposed);
  const value = b.norm(projected, `${name}.ln_kv`, 1e-6);
  const key = graph.node("Add", [value, graph.initializer("key_positions", floats([pictures * keys, d], batch.keyPositions))]);
  const query = b.norm(b.weight(`${name}.query`, [queries, d]), `${name}.ln_q`, 1e-6);
  const asked = graph.node("Add", [query, graph.initializer("query_positions", floats([queries, d], batch.queryPositions))]);
  const [q, k, v] = [asked, key, value].map((operand, i) =>
    graph.node(
      "Gemm",
      [operand, b.weight(`${name}.attn.in_proj_weight`, [d, d], i * d), b.weight(`${name}.attn.in_proj_bias`, [d], i * d)],
      transposed,
    ),
  );
  const every = graph.node("Expand", [graph.reshape(q ?? "", [1, queries, d]), graph.ints([pictures, queries, d])]);
  const [k3, v3] = [k, v].map((m) => graph.reshape(m ?? "", [pictures, keys, d]));
  const a = attention(graph, [every, k3, v3], config.heads, keyMask);
  const out = b.linear(graph.reshape(a, [pictures * queries, d]), `${name}.attn.out_proj`, d, d);
  return graph.node("MatMul", [b.norm(out, `${name}.ln_post`, 1e-6), b.weight(`${name}.proj`, [d, d])]);
}

function attention(graph: OnnxGraph, qkv: readonly (string | undefined)[], heads: number, keyMask: string): string {
  const inputs = [...qkv.map((v) => v ?? ""), ...(keyMask === "" ? [] : ["", keyMask])];
  return graph.node("MultiHeadAttention", inputs, { domain: microsoftDomain, attributes: { num_heads: { int: heads } } });
}

function floats(dims: readonly number[], data: Float32Array): OnnxTensor {
  return { type: "float", dims, data };
}

/** 1 for keys that exist: `extra` and then `counts[p]` of `keys`. */
function mask(counts: readonly number[], keys: number, extra: number): OnnxTensor {
  const data = new Int32Array(counts.length * keys);
  counts.forEach((count, p) => data.fill(1, p * keys, p * keys + extra + count));
  return { type: "int32", dims: [counts.length, keys], data };
}
