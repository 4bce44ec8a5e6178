// The options that say how weights are held on the device, as compile, run, explain and chat share them.

import { openCheckpoint } from "../../runtime/weights/checkpoint.ts";
import { packedFormats as formatsOf } from "../../runtime/weights/formats.ts";
import type { CompileOptions } from "../compile.ts";
import { packedFormats } from "../ir/plan/packed.ts";
import type { QuantisePolicy } from "../passes/quantise.ts";

export const quantiseChoices = ["int8", "int4", ...packedFormats, "none"] as const;
type QuantiseChoice = (typeof quantiseChoices)[number];

export interface QuantisingOptions {
  readonly quantise?: QuantiseChoice;
  readonly activations?: "int16" | "f32";
}

export function quantisingOf({ quantise, activations }: QuantisingOptions): Pick<CompileOptions, "quantise" | "activations"> {
  return { quantise: quantise === "none" ? undefined : quantise, activations };
}

/** Weights as the file has them: those in blocks stay packed. */
export async function asInFile(model: string): Promise<QuantisePolicy> {
  const checkpoint = await openCheckpoint(model);
  try {
    const formats = formatsOf(checkpoint.tensors);
    return ({ name }) => formats.get(name);
  } finally {
    await checkpoint.close();
  }
}
