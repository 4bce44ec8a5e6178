// One training step of UHD-tiny (forward, backward, AdamW) against PyTorch on the same model, batch and weights; the most
// memory of both; and how many kernels a step and one layer of the encoder are.

import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { serialize } from "node:v8";
import { gradient } from "../../../compiler/autodiff/reverse.ts";
import { compileGraph } from "../../../compiler/compile.ts";
import type { Graph, GraphNode } from "../../../compiler/ir/graph/types.ts";
import type { Plan } from "../../../compiler/ir/plan/types.ts";
import { mergeTrained } from "../../../compiler/passes/merge-trained.ts";
import { Trainer } from "../../../runtime/train/trainer.ts";
import { graphOf, variant } from "../ours.ts";
import { log, root } from "../place.ts";
import { bundled } from "../program.ts";
import type { Row } from "../rows.ts";
import { batchSize, inputsOf, tinyStep, writeForTorch, type TinyStep } from "../tiny-step.ts";
import { openTorch, type Torch } from "../torch/torch.ts";
import { effort, limited, versus, type Context, type Peer } from "../versus.ts";
import type { Case } from "./case.ts";

const name = `training step of UHD-tiny, batch ${batchSize}`;
const script = "spec/bench/torch/uhd_tiny.py";
/** Steps whose losses and norms must agree. */
const compared = 3;

export const trainingStep: Case = {
  name,
  threads: [2],
  run: async (context) => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "uhd-bench-"));
    try {
      const step = await tinyStep();
      const file = writeForTorch(folder, step);
      const open = (): Promise<Torch> => openTorch(script, [file, String(context.threads)]);
      return [...(await time(context, step, open)), await memory(context, folder, step, open)];
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
};

async function time(context: Context, { compiled, weights, batch }: TinyStep, open: () => Promise<Torch>): Promise<readonly Row[]> {
  await using trainer = await Trainer.create(compiled, { threads: context.threads, weights });
  const inputs = inputsOf(batch);
  const found: number[] = [];
  for (let i = 0; i < compared; i++) {
    const { loss, gradientNorm } = await trainer.step(inputs);
    found.push(loss, gradientNorm);
  }
  const torch: Peer = {
    name: "PyTorch",
    goal: 0.7,
    // Losses and norms of f32 in another order, after up to two steps.
    tolerance: 1e-3,
    open: async () => {
      const opened = await open();
      const version = String(await opened.ask("version"));
      return {
        name: `PyTorch ${version}`,
        run: () => opened.ask("step"),
        result: async () => {
          const all: number[] = [];
          for (let i = 0; i < compared; i++) all.push(...((await opened.ask("step")) as number[]));
          return Float32Array.from(all);
        },
        note: `${launched(compiled.plan)} kernels a step`,
        [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose](),
      };
    },
  };
  const ours = { name: "ours", run: () => trainer.step(inputs), result: Float32Array.from(found), variant: variant() };
  return await versus(name, context, ours, [torch], { ...effort(context, 12), atLeast: 0 });
}

const launched = (plan: Plan): number => plan.steps.filter((s) => s.k === "dispatch").length;

/** Both in processes of their own, after the same number of steps. */
async function memory(context: Context, folder: string, { compiled, weights, batch }: TinyStep, open: () => Promise<Torch>): Promise<Row> {
  const title = `peak memory of a ${name}`;
  const { plan, modules, training } = compiled;
  const given = path.join(folder, "step.bin");
  await writeFile(given, serialize({ artefact: { plan, modules, training }, weights, inputs: inputsOf(batch) }));
  const built = await bundled("tiny-memory");
  log(`${title}: running`);
  const { stdout } = await promisify(execFile)(process.execPath, [built, given, String(context.threads)], { cwd: root });
  const own = JSON.parse(stdout) as { resident: number; weights: number; arena: number };
  const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
  const note = `${megabytes(own.weights)} of states and constants, ${megabytes(own.arena)} of values`;
  try {
    await using torch = await open();
    for (let i = 0; i < compared; i++) await torch.ask("step");
    const theirs = Number(await torch.ask("memory"));
    const peer = `PyTorch ${String(await torch.ask("version"))}`;
    return limited(context, { name: title, ours: [own.resident], limit: theirs, limitName: peer, unit: "bytes", note });
  } catch (error) {
    const notRun = error instanceof Error ? error.message : String(error);
    const row = { name: title, threads: context.threads, ours: own.resident, peer: null, peerName: "PyTorch", ratio: null } as const;
    return { ...row, unit: "bytes", rounds: 1, engine: context.engine, notRun, note };
  }
}

const layerName = "kernels of training one ViT layer";

/** Forward and backward of one layer whose parameters are all trained, without the optimiser. */
export const trainingLayer: Case = {
  name: layerName,
  threads: [1],
  run: (context) => {
    const kernels = launched(compileGraph(layerBackward()).plan);
    return Promise.resolve([limited(context, { name: layerName, ours: [kernels], limit: 20, limitName: "aim", unit: "kernels" })]);
  },
};

/** Parameters are states, as in a training step: nothing is made of them before the run. */
function layerBackward(): Graph {
  const graph = mergeTrained(graphOf("graphs/clip-vit.uhd", "clip_vit_layer"), () => true);
  const nodes = graph.nodes.map((n): GraphNode =>
    n.kind === "param" ? { kind: "state", id: n.id, type: n.type, loc: n.loc, name: n.name } : n,
  );
  const wrt = nodes.flatMap((n) => (n.kind === "state" || n.kind === "input" ? [n.id] : []));
  return gradient({ ...graph, nodes }, { wrt });
}
