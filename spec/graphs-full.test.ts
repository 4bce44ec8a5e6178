// The whole encoder and both resamplers at full width and depth on the WebAssembly device, against what PyTorch computed
// in float64 (spec/fixtures/llava-uhd-full.json): 380 million generated weights, pictures packed without padding.

import { describe, expect, test } from "vitest";
import { image } from "./generator.ts";
import { agreement, fusedHows, decodeF32, fullFixture, generatedWeights, graphOf, openSession } from "./graphs-support.ts";

const fixture = fullFixture();

describe.each(fusedHows)("on %s", (how) => {
  test.each(fixture.cases)(
    "the $policy model of 23 layers agrees with PyTorch on a photo of $size",
    async ({ policy, side, size: [w, h], shape, samples, rows }) => {
      const spatial = policy === "v1";
      const [path, name] = spatial ? ["graphs/llava-uhd-v1.uhd", "llava_uhd_v1"] : ["graphs/llava-uhd.uhd", "llava_uhd"];
      const graph = graphOf(path, name, { ...fixture.model, [spatial ? "spatial_side" : "resampler_side"]: side });
      const session = await openSession(graph, generatedWeights(graph), how);
      try {
        const { outputs, milliseconds } = await session.run({ image: { dtype: "u8", shape: [h, w, 3], data: image(w, h) } });
        const visual = outputs["visual"];
        expect(visual?.shape).toEqual(shape);
        const values = Float64Array.from(visual?.data ?? []);
        const sampled = agreement(
          values.filter((_, i) => i % fixture.stride === 0),
          decodeF32(samples),
        );
        const width = shape[1];
        const sums = decodeF32(rows).map((_, row) => values.subarray(row * width, (row + 1) * width).reduce((a, b) => a + b, 0));
        const summed = agreement(sums, decodeF32(rows));
        console.log(
          `${policy} ${w}×${h}, ${how}: error at most ${sampled.error.toExponential(1)}, cosine 1 - ${(1 - sampled.cosine).toExponential(1)}, ` +
            `sums of ${width} within ${summed.error.toExponential(1)}, ${(milliseconds / 1000).toFixed(1)} s`,
        );
        expect(sampled.error).toBeLessThan(1e-3);
        expect(sampled.cosine).toBeGreaterThanOrEqual(0.99999);
        // Errors of a row's values are not all of one sign.
        expect(summed.error).toBeLessThan(1e-3 * Math.sqrt(width));
      } finally {
        await session.close();
      }
    },
    300_000,
  );
});
