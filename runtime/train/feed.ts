// Samples as the inputs of a training graph, packed one after the other. The graph must have these inputs (see
// graphs/train/batch.uhd), those with pictures only where it is trained on pictures:
//   patches: u8[N, 3, p, p]     of the pictures of all images, as the file's graph `pictures` cuts them
//   ids: i32[L], labels: i32[L] the tokens of all samples, and for each its id or -100
//   images: [(int, int)]        (width, height) of each image
//   samples: [{ tokens: int, images: [int] }]   how many tokens a sample has, before which of them its images stand
// Does not read records.

import { givenTypeText } from "../../compiler/ir/plan/given.ts";
import type { Plan } from "../../compiler/ir/plan/types.ts";
import { InputError } from "../errors.ts";
import type { Inputs } from "../inputs.ts";
import { typeText } from "../tensor.ts";
import type { Sample } from "./loader.ts";
import type { Recipe } from "./types.ts";

export interface Feed {
  /** The inputs of one run. */
  inputs(samples: readonly Sample[]): Inputs;
}

/** `u8[N, 3, 14, 14]`, whatever the sizes are called. */
const wanted: Readonly<Record<string, RegExp>> = {
  patches: /^u8\[\w+, 3, (\d+), \1\]$/,
  ids: /^i32\[(\w+)\]$/,
  labels: /^i32\[(\w+)\]$/,
  images: /^\[\(int, int\)\]$/,
  samples: /^\[\{ tokens: int, images: \[int\] \}\]$/,
};

/** Throws InputError for a graph with other inputs. */
export function feedOf(plan: Plan, recipe: Pick<Recipe, "inputs" | "graph">): Feed {
  const own = new Set<string>(Object.values(recipe.inputs));
  const found = new Map<string, string>();
  for (const { name, buffer } of plan.inputs) {
    const declared = plan.buffers[buffer];
    if (!own.has(name)) found.set(name, typeText(declared?.dtype ?? "", declared?.shape ?? []));
  }
  for (const { name } of plan.symbols.filter((s) => s.argument === true)) found.set(name, "int");
  for (const { name, type } of plan.host.given ?? []) found.set(name, givenTypeText(type));
  const fits = found.size === 5 && Object.entries(wanted).every(([name, type]) => type.test(found.get(name) ?? ""));
  if (!fits || found.get("ids") !== found.get("labels")) {
    throw new InputError(
      `the graph ${recipe.graph} cannot be trained on conversations: its inputs must be patches: u8[N, 3, 14, 14], ids: i32[L], ` +
        `labels: i32[L], images: [(int, int)] and samples: [{ tokens: int, images: [int] }], and they are ` +
        ([...found].map(([name, type]) => `${name}: ${type}`).join(", ") || "none"),
    );
  }
  const patch = Number(wanted.patches?.exec(found.get("patches") ?? "")?.[1]);
  return { inputs: (samples) => packed(samples, patch) };
}

function packed(samples: readonly Sample[], patch: number): Inputs {
  const pictures = samples.flatMap((s) => (s.picture === undefined ? [] : [s.picture]));
  const joined = (lists: readonly Int32Array[]) => {
    const data = new Int32Array(lists.reduce((n, list) => n + list.length, 0));
    let at = 0;
    for (const list of lists) {
      data.set(list, at);
      at += list.length;
    }
    return { dtype: "i32", shape: [data.length], data } as const;
  };
  const each = 3 * patch * patch;
  const pixels = new Uint8Array(pictures.reduce((n, p) => n + p.patches.data.length, 0));
  let at = 0;
  for (const { patches } of pictures) {
    pixels.set(patches.data, at);
    at += patches.data.length;
  }
  return {
    patches: { dtype: "u8", shape: [pixels.length / each, 3, patch, patch], data: pixels },
    ids: joined(samples.map((s) => s.ids)),
    labels: joined(samples.map((s) => s.labels)),
    images: pictures.map((p) => [p.width, p.height]),
    samples: samples.map((s) => ({ tokens: s.ids.length, images: s.picture === undefined ? [] : [s.at] })),
  };
}
