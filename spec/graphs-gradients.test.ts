// Derivatives of the whole visual side, from patches to the visual sequence, in every parameter and in the patches:
// reverse mode on the float64 evaluator against central differences. Single ops are in ops.test.ts.

import { describe, expect, test } from "vitest";
import { gradient } from "../compiler/autodiff/reverse.ts";
import type { ConcreteTensor } from "../compiler/ir/graph/eval.ts";
import type { Graph } from "../compiler/ir/graph/types.ts";
import { verifyGraph } from "../compiler/ir/graph/verify.ts";
import { typeRule } from "../ops/index.ts";
import { weight } from "./generator.ts";
import { evaluate, generatedParams, graphOf } from "./graphs-support.ts";

/** Two pictures of 3×2 and 1×4 patches, one after the other, and the separators of their sequence. */
const text = (resampler: string, file: string): string => `
import { ClipVit } from "./clip-vit.uhd"
import { ${resampler} } from "./${file}"
import { Schema } from "./schema.uhd"
graph visual(patches: f32[n in 10..=10, 588]) -> visual: f32[S, 8] {
  let sizes = [(3, 2), (1, 4)]
  dim P = len(sizes)
  ragged T over P = [w * h for (w, h) in sizes]
  table all: i32[T] = [i for i in 0..T]
  use vision_model = ClipVit(2, 8, 2, 12, 3)
  use projector = ${resampler}(8, 8, 2, 2, true) at "model.mm_projector"
  use schema = Schema(8, 4, false) at ""
  let tokens = projector(vision_model(gather(patches, all), sizes, P), sizes, P)
  let order = [0, 1, 2, 3, 9, 4, 5, 6, 7, 8]
  dim S = len(order)
  table rows: i32[S] = order
  schema(tokens, rows)
}
`;

type Tensors = Readonly<Record<string, ConcreteTensor>>;

/** Elements in [-1, 1) times \`by\`, of the generator. */
const noise = (name: string, { dtype, shape }: Omit<ConcreteTensor, "data">, by = 1): ConcreteTensor => ({
  dtype,
  shape,
  data: Float64Array.from(weight(`${name}.bias`, shape), (x) => 10 * by * x),
});

const moved = (all: Tensors, ways: Tensors, by: number): Tensors =>
  Object.fromEntries(
    Object.entries(all).map(([name, t]) => [name, { ...t, data: t.data.map((x, i) => x + by * (ways[name]?.data[i] ?? 0)) }]),
  );

const dot = (a: ConcreteTensor | undefined, b: ConcreteTensor | undefined): number =>
  (a?.data ?? new Float64Array()).reduce((sum, x, i) => sum + x * (b?.data[i] ?? NaN), 0);

describe.each([
  ["the shared resampler", "Resampler", "resampler.uhd"],
  ["the spatially constrained resampler", "SpatialResampler", "spatial-resampler.uhd"],
])("through the encoder, %s and the schema", (_, resampler, file) => {
  const graph: Graph = graphOf("graphs/gradients.uhd", "visual", {}, { "graphs/gradients.uhd": text(resampler, file) });
  const inputs: Tensors = { patches: noise("patches", { dtype: "f32", shape: [10, 588] }) };
  const params = generatedParams(graph);
  const wanted = graph.nodes.flatMap((node) => (node.kind === "param" || node.kind === "input" ? [node] : []));
  const whole = gradient(graph, { wrt: wanted.map((node) => node.id) });
  const visual = evaluate(graph, inputs, params)["visual"];
  if (visual === undefined) throw new Error("no visual sequence");
  const cotangent = noise("cotangent", visual);
  const found = evaluate(whole, { ...inputs, "d.visual": cotangent }, params);

  /** How much Σ cotangent · visual changes along a direction, by central differences. */
  const difference = (ways: Tensors): number => {
    const h = 1e-5;
    const along = (sign: number): number =>
      dot(evaluate(graph, moved(inputs, ways, sign * h), moved(params, ways, sign * h))["visual"], cotangent);
    return (along(1) - along(-1)) / (2 * h);
  };

  test("the graph of the derivative is well typed and keeps the outputs", () => {
    expect(verifyGraph(whole, typeRule)).toEqual([]);
    expect(whole.outputs.map((o) => o.name)).toEqual(["visual", ...wanted.map((node) => `d.${node.name}`)]);
    expect(found["visual"]).toEqual(visual);
  });

  test.each(wanted.map((node) => node.name))("d.%s agrees with differences along a direction", (name) => {
    const of = inputs[name] ?? params[name];
    if (of === undefined) throw new Error(name);
    const way = noise(`way.${name}`, of);
    const expected = difference({ [name]: way });
    const scale = dot({ ...way, data: way.data.map(Math.abs) }, { ...way, data: found[`d.${name}`]?.data.map(Math.abs) ?? way.data });
    expect(Math.abs(dot(way, found[`d.${name}`]) - expected)).toBeLessThan(1e-6 * scale + 1e-9);
  });

  test("and in every element of the class token, each on its own", () => {
    const name = "vision_model.embeddings.class_embedding";
    const shape = [8];
    for (let i = 0; i < 8; i++) {
      const unit: ConcreteTensor = { dtype: "f32", shape, data: Float64Array.from({ length: 8 }, (__, j) => (j === i ? 1 : 0)) };
      const expected = difference({ [name]: unit });
      expect(Math.abs((found[`d.${name}`]?.data[i] ?? NaN) - expected)).toBeLessThan(1e-6 * Math.abs(expected) + 1e-8);
    }
  });

  test("every parameter and the patches matter", () => {
    // A key's bias adds the same number to all scores of a query, which softmax takes away.
    const silent = wanted.filter(({ name }) => (found[`d.${name}`]?.data ?? []).every((d) => Math.abs(d) < 1e-12)).map(({ name }) => name);
    expect(silent).toEqual([0, 1].map((i) => `vision_model.encoder.layers.${i}.self_attn.k_proj.bias`));
  });
});
