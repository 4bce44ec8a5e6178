// A live comparison with PyTorch at full width: where UHD_PYTHON names a Python with torch, numpy and Pillow, it makes
// pictures, weights (as safetensors) and results; the same file is loaded and run on the WebAssembly device. Where there
// is none the test is reported as not run.

import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { image } from "./generator.ts";
import { agreement, fusedHows, fullFixture, graphOf, openSession, paramShapes } from "./graphs-support.ts";

const run = promisify(execFile);
const oracle = fileURLToPath(new URL("oracle/llava_uhd_torch.py", import.meta.url));

/** Why there is nothing to compare with; undefined when there is. */
async function missing(python: string | undefined): Promise<string | undefined> {
  if (python === undefined || python === "") return "UHD_PYTHON names no Python with torch, numpy and Pillow";
  try {
    await run(python, ["-c", "import torch, numpy, PIL"]);
    return undefined;
  } catch (error) {
    return `${python} cannot import torch, numpy and Pillow: ${error instanceof Error ? (error.message.split("\n").at(-2) ?? "") : String(error)}`;
  }
}

// Depth costs time and adds nothing to the kernels: all 23 layers are in graphs-full.test.ts.
const model = { ...fullFixture().model, layers: 3 };

/** Seven pictures of two sizes, five of a thin photo, one. */
const photos = {
  paper: [
    [672, 1008],
    [1200, 300],
    [90, 110],
  ],
  v1: [
    [500, 300],
    [90, 110],
    [40, 900],
  ],
} as const;

const python = process.env.UHD_PYTHON;
const reason = await missing(python);

describe.each(["paper", "v1"] as const)("the %s model at full width", (policy) => {
  test("agrees with PyTorch on three photos", async (context) => {
    if (reason !== undefined || python === undefined) {
      console.warn(`the ${policy} model against PyTorch was not run: ${reason}`);
      context.skip(`not run: ${reason}`);
      return;
    }
    const spatial = policy === "v1";
    const side = spatial ? 12 : 8;
    const [path, name] = spatial ? ["graphs/llava-uhd-v1.uhd", "llava_uhd_v1"] : ["graphs/llava-uhd.uhd", "llava_uhd"];
    const graph = graphOf(path, name, { ...model, [spatial ? "spatial_side" : "resampler_side"]: side });
    const folder = mkdtempSync(join(tmpdir(), "uhd-torch-"));
    try {
      const config = join(folder, "config.json");
      writeFileSync(
        config,
        JSON.stringify({ model: { ...model, side }, policy, sizes: photos[policy], parameters: [...paramShapes(graph)] }),
      );
      await run(python, [oracle, "live", config, folder]);
      for (const how of fusedHows) {
        const session = await openSession(graph, join(folder, "weights.safetensors"), how);
        try {
          for (const [w, h] of photos[policy]) {
            const bytes = Uint8Array.from(readFileSync(join(folder, `result-${w}-${h}.bin`)));
            const { outputs, milliseconds } = await session.run({ image: { dtype: "u8", shape: [h, w, 3], data: image(w, h) } });
            const { error, cosine } = agreement(outputs["visual"]?.data ?? [], new Float32Array(bytes.buffer));
            console.log(
              `${policy} ${w}×${h}, ${how}: error at most ${error.toExponential(1)}, cosine 1 - ${(1 - cosine).toExponential(1)}, ` +
                `${(milliseconds / 1000).toFixed(1)} s`,
            );
            expect(error, `${w}×${h}`).toBeLessThan(1e-3);
            expect(cosine, `${w}×${h}`).toBeGreaterThanOrEqual(0.99999);
          }
        } finally {
          await session.close();
        }
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }, 600_000);
});
