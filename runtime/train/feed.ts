// Which inputs a graph must have to be trained on conversations, and a sample as those inputs:
//   image: u8[H, W, 3]   the picture; no pixels where a sample has none
//   ids: i32[L]          the tokens of the text
//   labels: i32[L]       for each of them its id, or -100
//   at: int              how many of them come before the picture
// A graph without image and at is trained on text alone. Does not read records.

import type { Plan } from "../../compiler/ir/plan/types.ts";
import { InputError } from "../errors.ts";
import type { Inputs } from "../inputs.ts";
import { typeText } from "../tensor.ts";
import type { Sample } from "./loader.ts";
import type { Recipe } from "./types.ts";

export interface Feed {
  readonly pictures: boolean;
  /** Most tokens that a run takes. */
  readonly maximum: number;
  inputs(sample: Sample): Inputs;
}

/** Throws InputError for a graph with other inputs. */
export function feedOf(plan: Plan, recipe: Pick<Recipe, "inputs" | "graph">): Feed {
  const own = new Set<string>(Object.values(recipe.inputs));
  const tensors = new Map(plan.inputs.filter((i) => !own.has(i.name)).map((i) => [i.name, plan.buffers[i.buffer]]));
  const integers = plan.symbols.filter((s) => s.argument === true && !own.has(s.name)).map((s) => s.name);
  const has = (name: string, dtype: string, rank: number): boolean => {
    const buffer = tensors.get(name);
    return buffer?.dtype === dtype && buffer.shape.length === rank;
  };
  const text = has("ids", "i32", 1) && has("labels", "i32", 1) && tensors.get("ids")?.shape[0] === tensors.get("labels")?.shape[0];
  const pictures = has("image", "u8", 3) && tensors.get("image")?.shape[2] === "3" && integers.length === 1 && integers[0] === "at";
  const others = tensors.size - 2 - (pictures ? 1 : 0) + (pictures ? 0 : integers.length);
  if (!text || others !== 0) {
    const found = [...tensors].map(([name, b]) => `${name}: ${typeText(b?.dtype ?? "", b?.shape ?? [])}`);
    throw new InputError(
      `the graph ${recipe.graph} cannot be trained on conversations: its inputs must be image: u8[H, W, 3], ids: i32[L], labels: i32[L] ` +
        `and at: int (for text alone, ids and labels), and they are ${[...found, ...integers.map((n) => `${n}: int`)].join(", ") || "none"}`,
    );
  }
  const size = plan.symbols.find((s) => s.name === tensors.get("ids")?.shape[0]);
  return {
    pictures,
    maximum: size?.upper ?? Infinity,
    inputs({ ids, labels, at, image }) {
      const list = (data: Int32Array) => ({ dtype: "i32", shape: [data.length], data }) as const;
      return { ids: list(ids), labels: list(labels), ...(pictures ? { image, at } : {}) };
    },
  };
}
