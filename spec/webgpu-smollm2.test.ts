// A real language model on WebGPU, its weights packed as the file has them: SmolLM2 goes on with the ids that it gives on
// WebAssembly and in PyTorch (spec/model-smollm2.test.ts, whose fixture this is). A few tokens: a software driver takes most
// of the time to compile. Without the model or an adapter the test says that it was not run.

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { describeModel } from "../compiler/cli/language-model.ts";
import { asInFile } from "../compiler/cli/quantising.ts";
import { compileGraph } from "../compiler/compile.ts";
import { Session } from "../runtime/session.ts";
import { graphOf } from "./graphs-support.ts";
import { hasSmollm2, smollm2Path } from "./smollm2.ts";
import { gpuDevice } from "./webgpu-support.ts";

interface Case {
  readonly ids: readonly number[];
  readonly next: readonly number[];
}

test("SmolLM2 decodes on WebGPU with packed weights, and gives the same tokens", { timeout: 300_000 }, async (context) => {
  if (!hasSmollm2(context, "SmolLM2 on WebGPU")) return;
  await using device = await gpuDevice(context);
  const { cases } = JSON.parse(readFileSync(new URL("fixtures/smollm2-greedy.json", import.meta.url), "utf8")) as {
    readonly cases: readonly Case[];
  };
  const { ids, next } = cases.reduce((least, one) => (one.ids.length < least.ids.length ? one : least));
  const { config } = await describeModel(smollm2Path);
  const graph = graphOf("graphs/llama.uhd", "llama", { ...config, context: 64 });
  const compiled = compileGraph(graph, { target: "webgpu", features: device.features, quantise: await asInFile(smollm2Path) });
  // The products, that is: nothing runs as plain loops.
  expect(compiled.plainLoops).toEqual([]);
  await using session = await Session.create(compiled, { device, weights: { from: smollm2Path, extra: "ignore" } });
  const given = { dtype: "f32", shape: [0, Number(config["width"])], data: new Float32Array() } as const;
  const found: number[] = [];
  let rows = ids;
  for (let past = 0; found.length < 4; rows = found.slice(-1)) {
    const { outputs } = await session.run({ rows: { dtype: "i32", shape: [rows.length], data: Int32Array.from(rows) }, given, past });
    past += rows.length;
    found.push(Number(outputs["next"]?.data[0]));
  }
  expect(found).toEqual(next.slice(0, 4));
});
