// Three training steps with the runtime alone, and how much memory the process took at most. Arguments: a file that
// cases/training.ts wrote, threads. Writes one line of JSON, in bytes.

import { readFileSync } from "node:fs";
import { deserialize } from "node:v8";
import type { Inputs } from "../../runtime/inputs.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import { Trainer } from "../../runtime/train/trainer.ts";
import type { TrainingArtefact } from "../../runtime/train/types.ts";

interface Given {
  readonly artefact: TrainingArtefact;
  readonly weights: ReadonlyMap<string, Tensor>;
  readonly inputs: Inputs;
}

const [file = "", threads = "2"] = process.argv.slice(2);
const { artefact, weights, inputs } = deserialize(readFileSync(file)) as Given;
await using trainer = await Trainer.create(artefact, { threads: Number(threads), weights });
let memory = { weights: 0, arena: 0 };
for (let i = 0; i < 3; i++) ({ memory } = await trainer.step(inputs));
// maxRSS is in kilobytes on every system that Node knows.
process.stdout.write(`${JSON.stringify({ resident: process.resourceUsage().maxRSS * 1024, ...memory })}\n`);
