// The GPU schedules, executed by the emulator, lanes, barriers and subgroups included: every op of the table and generated
// graphs as programs compiled for WebGPU, fused and unfused, for each size of subgroups, against the float64 reference.

import * as fc from "fast-check";
import { describe, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import type { WgslFeatures } from "../compiler/targets/wgsl/types.ts";
import { opNames, ops } from "../ops/index.ts";
import { batchOf, generatedCases } from "./conformance/cases.ts";
import { difference } from "./conformance/compare.ts";
import { runs, seed } from "./conformance/property.ts";
import { emulated } from "./gpu-emulator.ts";

/** Code for the core alone is made too. */
const features: readonly WgslFeatures[] = ([4, 8, 32] as const).map((subgroups) => ({ subgroups, f16: false }));

describe.each([true, false])("every op as a GPU kernel is what its reference says, fused %s", (fuse) => {
  test.each(opNames)("%s", async (name) => {
    const op = ops[name];
    const batch = batchOf(generatedCases(name, Math.min(runs, 24), seed));
    const compiled = compileGraph(batch.graph, { target: "webgpu", features, fuse });
    for (const variant of compiled.imp.variants.keys()) {
      const outputs = await emulated(compiled, variant, batch.inputs);
      for (const [i, c] of batch.cases.entries()) {
        const found = outputs[`c${i}`];
        if (found === undefined) throw new Error("there is no result");
        const wrong = difference(c.expected, found, op.tolerance, op.kind === "elementwise" || op.kind === "movement");
        if (wrong !== undefined) throw new Error(`variant ${variant}, seed ${seed}: ${wrong}\n${fc.stringify(c.sample)}`);
      }
    }
  });
});
