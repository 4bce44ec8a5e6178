// From the start of a process to the first result of a small graph on WebGPU, against ONNX Runtime's provider on the same
// graph: a fresh process every time, ours with an artefact and the runtime alone. Drivers keep what they compiled: one bench lets
// them, as on any start but the first; for the other, Mesa's cache is off.

import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { writeArtefact } from "../../../compiler/artefact.ts";
import { compileGraph } from "../../../compiler/compile.ts";
import { writeSafetensors } from "../../../runtime/weights/safetensors.ts";
import { layerModel } from "../models.ts";
import { graphOf, randomWeights } from "../ours.ts";
import { packageOf } from "../peers.ts";
import { bundled } from "../program.ts";
import { normals } from "../random.ts";
import type { Row } from "../rows.ts";
import { effort, versus, type Context } from "../versus.ts";
import type { Case } from "./case.ts";

/** A layer of a small encoder over the patches of a 112 x 112 picture. */
const small = { tokens: 64, width: 256, heads: 4, hidden: 1024 } as const;

interface Started {
  readonly milliseconds: number;
  readonly result: Float32Array;
}

/** Writes what a process of each engine needs, and gives how to start one. */
async function inFolder(
  folder: string,
  env: NodeJS.ProcessEnv,
): Promise<{ readonly ours: () => Promise<Started>; readonly theirs: (from: string) => Promise<Started> }> {
  const file = (name: string): string => path.join(folder, name);
  const { tokens, width, heads, hidden } = small;
  const graph = graphOf("graphs/clip-vit.uhd", "clip_vit_layer", { vit_width: width, vit_heads: heads, vit_hidden: hidden });
  const compiled = compileGraph(graph, { target: "webgpu" });
  await writeArtefact(file("artefact"), compiled);
  const weights = randomWeights(compiled.plan.params);
  await writeSafetensors(file("weights.safetensors"), weights);
  const x = normals("x", tokens * width);
  await writeFile(file("x.f32"), new Uint8Array(x.buffer));
  await writeFile(file("model.onnx"), layerModel(tokens, { layers: 1, width, heads }, weights).encode("inside").model);
  const [own, onnx] = [await bundled("cold-ours"), await bundled("cold-onnx")];
  const start = async (program: string, ...args: readonly string[]): Promise<Started> => {
    const out = file(`${path.basename(program)}.f32`);
    const given = [program, ...args, file("x.f32"), out, String(tokens), String(width)];
    const { stdout } = await promisify(execFile)(process.execPath, given, { env: { ...process.env, ...env } });
    const found = /\{"milliseconds":([\d.]+)/.exec(stdout);
    if (found === null) throw new Error(`${program} printed ${stdout.slice(0, 200)}`);
    const bytes = await readFile(out);
    return { milliseconds: Number(found[1]), result: new Float32Array(new Uint8Array(bytes).buffer) };
  };
  return {
    ours: () => start(own, file("artefact"), file("weights.safetensors")),
    theirs: (from) => start(onnx, from, file("model.onnx")),
  };
}

/** What a process says of itself is compared, not how long it took to start and end one. */
async function compared(name: string, context: Context, env: NodeJS.ProcessEnv): Promise<readonly Row[]> {
  const folder = await mkdtemp(path.join(os.tmpdir(), "uhd-bench-cold-"));
  try {
    const { ours, theirs } = await inFolder(folder, env);
    const times = async (start: () => Promise<Started>): Promise<number> => (await start()).milliseconds;
    const { result } = await ours();
    const mine = { name: "ours", run: ours, timed: () => times(ours), result };
    const peer = {
      name: "onnxruntime-node, WebGPU",
      goal: 2,
      tolerance: 1e-3,
      open: () => {
        const { from, version } = packageOf("onnxruntime-node");
        return Promise.resolve({
          name: `onnxruntime-node ${version}, WebGPU`,
          run: () => theirs(from),
          timed: () => times(() => theirs(from)),
          result: async () => (await theirs(from)).result,
          [Symbol.asyncDispose]: () => Promise.resolve(),
        });
      },
    };
    return await versus(name, context, mine, [peer], {
      ...effort(context, 8),
      ...{ rounds: 11, atLeast: 0, warmUp: 0 },
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function coldStart(name: string, env: NodeJS.ProcessEnv): Case {
  return { name, threads: [1], run: (context) => compared(name, context, env) };
}

export const webgpuCold: readonly Case[] = [
  coldStart("cold start of a small graph on WebGPU", {}),
  coldStart("cold start of a small graph on WebGPU, nothing kept by the driver", { MESA_SHADER_CACHE_DISABLE: "true" }),
];
