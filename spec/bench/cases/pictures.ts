// Seven pictures of one photo through encoder and resampler. Ours takes the photo and packs pictures of different
// sizes; the peer gets ready-made patches, padded to the longest picture, with the padding masked. So ours does the
// slicing and resizing on top.

import { encoderModel, type PaddedBatch } from "../models.ts";
import { paperPictures } from "../layout.ts";
import { compileBench, openSession, outputOf, randomWeights, u8, variant, type RandomWeights } from "../ours.ts";
import { openOnnx } from "../peers.ts";
import { interpolate, sineCosine } from "../positions.ts";
import { photo } from "../random.ts";
import { versus, type Context } from "../versus.ts";
import type { Case } from "./case.ts";

const size = [672, 1008] as const;
const vit = { width: 1024, heads: 16, side: 24 } as const;
const resampler = { width: 4096, heads: 32, side: 8 } as const;

const name = "seven pictures of 672×1008, encoder + resampler";

export const pictures: Case = {
  name,
  threads: [2],
  run: async (context: Context) => {
    const layers = context.quick ? 2 : 23;
    const title = context.quick ? `${name} (${layers} layers)` : name;
    const image = u8([size[1], size[0], 3], photo(size[0], size[1], 3));
    const sizes = paperPictures(...size).map((picture) => picture.patches);
    const counts = sizes.map(([w, h]) => w * h);
    const longest = Math.max(...counts);
    const patches = padded(await patchesOf(image, context.threads), counts, longest);

    const compiled = compileBench("spec/bench/bench.uhd", "pictures", { layers });
    const weights = randomWeights(compiled.plan.params);
    await using session = await openSession(compiled, context.threads, weights);
    const ours = {
      name: "ours",
      run: () => session.run({ image }),
      result: await outputOf(session, { image }),
      variant: variant(),
    };
    const peer = {
      name: "onnxruntime-web",
      goal: 2,
      // 23 layers, each an error of f32.
      tolerance: 1e-3,
      open: async () => {
        const batch = { counts, ...tables(sizes, longest, weights) };
        const model = await openOnnx("onnxruntime-web", encoderModel({ layers, ...vit }, resampler, batch, weights), context.threads);
        const run = (): Promise<Float32Array> => model.run({ patches: { dims: [counts.length * longest, 588], data: patches } });
        return { name: model.name, run, result: run, [Symbol.asyncDispose]: () => model[Symbol.asyncDispose]() };
      },
    };
    const work = context.quick
      ? { rounds: 3, budget: 60_000, least: 1, atLeast: 0, warmUp: 0 }
      : { rounds: 5, budget: 600_000, least: 3, atLeast: 0, warmUp: 0 };
    return await versus(title, context, ours, [peer], work);
  },
};

async function patchesOf(image: ReturnType<typeof u8>, threads: number): Promise<Float32Array> {
  await using session = await openSession(compileBench("graphs/preprocess.uhd", "preprocess", { policy: "paper" }), threads);
  return await outputOf(session, { image });
}

/** Packed rows of 588, each picture's moved to a multiple of `longest`. */
function padded(packed: Float32Array, counts: readonly number[], longest: number): Float32Array {
  const out = new Float32Array(counts.length * longest * 588);
  let from = 0;
  counts.forEach((count, p) => {
    out.set(packed.subarray(from * 588, (from + count) * 588), p * longest * 588);
    from += count;
  });
  return out;
}

function tables(sizes: readonly (readonly [number, number])[], longest: number, weights: RandomWeights): Omit<PaddedBatch, "counts"> {
  const table = weights.get("vision_model.embeddings.position_embedding.weight")?.data ?? new Float32Array();
  const positions = new Float32Array(sizes.length * (longest + 1) * vit.width);
  const keyPositions = new Float32Array(sizes.length * longest * resampler.width);
  const queryPositions = sineCosine(resampler.side, resampler.width);
  sizes.forEach((patches, p) => {
    const begin = p * (longest + 1) * vit.width;
    positions.set(table.subarray(0, vit.width), begin);
    interpolate(table.subarray(vit.width), vit.side, vit.width, patches, positions, begin + vit.width);
    interpolate(queryPositions, resampler.side, resampler.width, patches, keyPositions, p * longest * resampler.width);
  });
  return { positions, keyPositions, queryPositions };
}
