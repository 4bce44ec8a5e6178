// The training step of train-layer.uhd as one would write it in jax-js: one jitted function of parameters, moments and
// data, with the library's own attention and normalisation, and AdamW in array operations. Checks and times nothing.

import { openedJax, type JaxArray, type JaxTree } from "./gpu-peers.ts";
import type { RandomWeights } from "./ours.ts";

export interface LayerProblem {
  readonly tokens: number;
  readonly width: number;
  readonly heads: number;
  readonly optimiser: { readonly rate: number; readonly betas: readonly [number, number]; readonly eps: number; readonly decay: number };
  readonly weights: RandomWeights;
  readonly x: Float32Array;
  readonly wanted: Float32Array;
}

export interface JaxLayer {
  readonly name: string;
  /** Writes the data, does the step, and gives the loss. */
  step(): Promise<number>;
  /** The first moment of a parameter after the steps so far. */
  moment(name: string): Promise<Float32Array>;
}

interface Held {
  readonly parameters: JaxTree;
  readonly first: JaxTree;
  readonly second: JaxTree;
}

export async function openJaxLayer({ tokens, width, heads, optimiser, weights, x, wanted }: LayerProblem): Promise<JaxLayer> {
  const { jax, name } = await openedJax();
  const { numpy, nn } = jax;
  const { rate, eps, decay } = optimiser;
  const [beta1, beta2] = optimiser.betas;

  // Operations use up the references they are given.
  const linear = (p: JaxTree, of: JaxArray, at: string): JaxArray =>
    numpy.matmul(of, leaf(p, `${at}.weight`).transpose()).add(leaf(p, `${at}.bias`));
  const norm = (p: JaxTree, of: JaxArray, at: string): JaxArray =>
    nn
      .standardize(of, -1, { epsilon: 1e-5 })
      .mul(leaf(p, `${at}.weight`))
      .add(leaf(p, `${at}.bias`));
  const layer = (p: JaxTree, of: JaxArray): JaxArray => {
    const n = norm(p, of.ref, "layer.layer_norm1");
    const part = (at: string, from: JaxArray): JaxArray =>
      linear(p, from, `layer.self_attn.${at}_proj`).reshape([tokens, heads, width / heads]);
    const a = nn.dotProductAttention(part("q", n.ref), part("k", n.ref), part("v", n)).reshape([tokens, width]);
    const h = of.add(linear(p, a, "layer.self_attn.out_proj"));
    const u = linear(p, norm(p, h.ref, "layer.layer_norm2"), "layer.mlp.fc1");
    return h.add(linear(p, u.ref.mul(nn.sigmoid(u.mul(1.702))), "layer.mlp.fc2"));
  };
  const lossOf = (p: JaxTree, of: JaxArray, near: JaxArray): JaxArray => {
    const apart = layer(p, of).sub(near);
    return apart.ref.mul(apart).mean();
  };
  // The corrections change from step to step, so they are inputs.
  const whole = jax.jit((held: Held, of: JaxArray, near: JaxArray, c1: JaxArray, c2: JaxArray): [JaxArray, Held] => {
    const [loss, gradients] = jax.valueAndGrad(lossOf)(jax.tree.ref(held.parameters), of, near);
    const [parameters, first, second]: [Record<string, JaxArray>, Record<string, JaxArray>, Record<string, JaxArray>] = [{}, {}, {}];
    for (const at of Object.keys(held.parameters)) {
      const g = leaf(gradients, at);
      const m = leaf(held.first, at)
        .mul(beta1)
        .add(g.ref.mul(1 - beta1));
      const v = leaf(held.second, at)
        .mul(beta2)
        .add(g.ref.mul(g).mul(1 - beta2));
      const root = numpy.sqrt(v.ref).mul(c2.ref).add(eps);
      const update = m.ref.mul(c1.ref).mul(rate).div(root);
      parameters[at] = leaf(held.parameters, at)
        .mul(1 - rate * decay)
        .sub(update);
      first[at] = m;
      second[at] = v;
    }
    c1.dispose();
    c2.dispose();
    return [loss, { parameters, first, second }];
  });

  const tree = (make: (data: Float32Array) => Float32Array): JaxTree =>
    Object.fromEntries([...weights].map(([at, { shape, data }]) => [at, numpy.array(make(data)).reshape(shape)]));
  const zeros = (data: Float32Array): Float32Array => new Float32Array(data.length);
  let held: Held = { parameters: tree((data) => data), first: tree(zeros), second: tree(zeros) };
  let done = 0;
  return {
    name,
    step: async () => {
      done++;
      const given = [x, wanted].map((data) => numpy.array(data).reshape([tokens, width]));
      const [of, near] = given;
      if (of === undefined || near === undefined) throw new Error("a step has two inputs");
      const [loss, next] = whole(held, of, near, numpy.array(1 / (1 - beta1 ** done)), numpy.array(1 / Math.sqrt(1 - beta2 ** done)));
      held = next;
      return (await loss.data())[0] ?? NaN;
    },
    moment: (at) => leaf(held.first, at).ref.data(),
  };
}

function leaf(tree: JaxTree, name: string): JaxArray {
  const found = tree[name];
  if (found === undefined) throw new Error(`there is no ${name}`);
  return found;
}
