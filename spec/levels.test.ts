// The graphs of the family at every level below the graph: each kernel, function and plan that is made of them is
// sound, fused and not, and reads back from its text.

import { expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { parseImp } from "../compiler/ir/imp/parse.ts";
import { printImp } from "../compiler/ir/imp/print.ts";
import { verifyImp } from "../compiler/ir/imp/verify.ts";
import { parseKernel } from "../compiler/ir/kernel/parse.ts";
import { printKernel } from "../compiler/ir/kernel/print.ts";
import { verifyKernel } from "../compiler/ir/kernel/verify.ts";
import { parsePlan } from "../compiler/ir/plan/parse.ts";
import { printPlan } from "../compiler/ir/plan/print.ts";
import { verifyPlan } from "../compiler/ir/plan/verify.ts";
import { programOf } from "./graphs-support.ts";

const files = ["clip-vit", "resampler", "spatial-resampler", "llava-uhd", "llava-uhd-v1"] as const;

test.each(files.flatMap((file) => [true, false].map((fuse) => ({ file, fuse }))))(
  "$file, fused: $fuse, is sound at every level and reads back",
  { timeout: 120_000 },
  ({ file, fuse }) => {
    const { graphs } = programOf(`graphs/${file}.uhd`);
    expect(graphs.size).toBeGreaterThan(0);
    for (const graph of graphs.values()) {
      const { kernels, imp, plan } = compileGraph(graph, { fuse });
      const functions = [...imp.plain, ...imp.relaxed];
      expect(kernels.flatMap((k) => verifyKernel(k))).toEqual([]);
      expect(functions.flatMap((f) => verifyImp(f))).toEqual([]);
      const accesses = new Map(kernels.map((k) => [k.name, k.buffers.map((b) => b.access)]));
      expect(verifyPlan(plan, accesses)).toEqual([]);
      // Kernels share expressions: comparing them as trees could take forever, and their text is a key of them.
      for (const k of kernels) expect(printKernel(parseKernel(printKernel(k)))).toBe(printKernel(k));
      for (const f of functions) expect(parseImp(printImp(f))).toEqual(f);
      expect(parsePlan(printPlan(plan))).toEqual(plan);
    }
  },
);
