// A real language model against llama.cpp, in WebAssembly and as native code: what a token costs, reading 512 tokens, and the
// time from the start of a process to its first token. Weights stay packed as the GGUF file has them, in every engine.

import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { writeArtefact } from "../../../compiler/artefact.ts";
import { describeModel } from "../../../compiler/cli/language-model.ts";
import { asInFile } from "../../../compiler/cli/quantising.ts";
import { loadProgram } from "../../../compiler/check/index.ts";
import { compileGraph, type Compiled } from "../../../compiler/compile.ts";
import { context as rows, installLanguagePeers, openEngine, type EngineName } from "../language.ts";
import { variant } from "../ours.ts";
import { root } from "../place.ts";
import { bundled } from "../program.ts";
import type { Row } from "../rows.ts";
import { effort, versus, type Context, type Peer } from "../versus.ts";
import type { Case } from "./case.ts";

const model = process.env["UHD_SMOLLM2"] || path.join(root, "examples/smollm2/model/SmolLM2-135M-Instruct.Q4_1.gguf");
const peers: readonly EngineName[] = ["wllama", "node-llama-cpp"];

interface Fixture {
  readonly cases: readonly { readonly ids: readonly number[]; readonly next: readonly number[]; readonly gap: number }[];
}

/** Ids of a prompt whose answer no engine's rounding changes, and those of the longest prompt. */
function prompts(): { readonly clear: readonly number[]; readonly long: readonly number[] } {
  const { cases } = JSON.parse(readFileSync(path.join(root, "spec/fixtures/smollm2-greedy.json"), "utf8")) as Fixture;
  const clear = cases.reduce((best, one) => (one.gap > best.gap ? one : best));
  const long = cases.reduce((best, one) => (one.ids.length > best.ids.length ? one : best));
  return { clear: clear.ids, long: long.ids.slice(0, 512) };
}

async function compiled(): Promise<Compiled> {
  if (!existsSync(model)) throw new Error(`${model} is not there: node examples/smollm2/fetch.mjs fetches it`);
  const { config } = await describeModel(model);
  const program = loadProgram(path.join(root, "graphs/llama.uhd"), {
    readText: (name) => readFileSync(name, "utf8"),
    config: { ...config, context: String(rows) },
  });
  const graph = program.graphs.get("llama");
  if (graph === undefined) throw new Error("graphs/llama.uhd has no graph llama");
  return compileGraph(graph, { quantise: await asInFile(model) });
}

interface Problem {
  readonly name: string;
  readonly ids: readonly number[];
  readonly count: number;
  readonly goal: (peer: EngineName) => number;
}

/** Every engine must give the same ids. */
async function compare({ name, ids, count, goal }: Problem, context: Context): Promise<readonly Row[]> {
  const artefact = await compiled();
  await installLanguagePeers().catch((error: unknown) => {
    throw new Error(`the peers cannot be installed: ${error instanceof Error ? error.message : String(error)}`);
  });
  await using mine = await openEngine("ours", model, context.threads, artefact);
  const idsOf = async (engine: typeof mine): Promise<Float32Array> => Float32Array.from(await engine.next(ids, count));
  const opponents = peers.map((peer): Peer => ({
    name: peer,
    goal: goal(peer),
    tolerance: 0,
    open: async () => {
      const engine = await openEngine(peer, model, context.threads, artefact);
      return {
        name: engine.name,
        run: () => engine.next(ids, count),
        result: () => idsOf(engine),
        [Symbol.asyncDispose]: () => engine[Symbol.asyncDispose](),
      };
    },
  }));
  const result = await idsOf(mine);
  return await versus(
    name,
    context,
    { name: "ours", run: () => mine.next(ids, count), result, variant: variant() },
    opponents,
    effort(context, 8),
  );
}

const decodeName = "SmolLM2, 48 tokens read and 32 written";
const prefillName = "SmolLM2, 512 tokens read";
const firstName = "SmolLM2, first token from process start";

const decode: Case = {
  name: decodeName,
  threads: [1, 2],
  run: (context) => compare({ name: decodeName, ids: prompts().clear, count: 32, goal: (peer) => (peer === "wllama" ? 1 : 0.5) }, context),
};

const prefill: Case = {
  name: prefillName,
  threads: [1, 2],
  // Against native code the issue states no goal for reading; a tenth says that nothing is broken.
  run: (context) => compare({ name: prefillName, ids: prompts().long, count: 1, goal: (peer) => (peer === "wllama" ? 1.2 : 0.1) }, context),
};

const firstToken: Case = {
  name: firstName,
  threads: [2],
  run: async (context) => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "uhd-bench-"));
    try {
      const artefact = path.join(folder, "llama");
      await writeArtefact(artefact, await compiled());
      await installLanguagePeers();
      const script = await bundled("first-token");
      const { clear } = prompts();
      const start = async (engine: EngineName): Promise<number> => {
        const args = [script, engine, model, String(context.threads), artefact, ...clear.map(String)];
        const { stdout } = await promisify(execFile)(process.execPath, args);
        const found = /\{"token":(\d+),/.exec(stdout);
        if (found === null) throw new Error(`${engine} printed ${stdout.slice(0, 200)}`);
        return Number(found[1]);
      };
      const opponents = peers.map((peer): Peer => ({
        name: peer,
        goal: peer === "wllama" ? 1 : 0.5,
        tolerance: 0,
        open: () =>
          Promise.resolve({
            name: peer,
            run: () => start(peer),
            result: async () => Float32Array.of(await start(peer)),
            [Symbol.asyncDispose]: () => Promise.resolve(),
          }),
      }));
      const result = Float32Array.of(await start("ours"));
      const work = { ...effort(context, 8), atLeast: 0, warmUp: 0 };
      return await versus(firstName, context, { name: "ours", run: () => start("ours"), result, variant: variant() }, opponents, work);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
};

export const language: readonly Case[] = [decode, prefill, firstToken];
