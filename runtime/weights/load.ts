// Matches a checkpoint's tensors with a graph's parameters and lists everything that does not fit in one error.
// Reading is by pieces, straight into memory that the caller provides. What a checkpoint is made of is
// checkpoint.ts's business.

import type { PlanParam } from "../../compiler/ir/plan/types.ts";
import { WeightsError } from "../errors.ts";
import { typeText } from "../tensor.ts";
import { openCheckpoint, type Checkpoint } from "./checkpoint.ts";
import { accepted } from "./convert.ts";
import { defaultInit, seededBytes } from "./init.ts";
import { packPart, readPart } from "./packed.ts";
import { listed, readAs, renamer, type OpenCheckpoint, type StoredTensor } from "./stored.ts";

export interface WeightsOptions {
  readonly from: Checkpoint;
  /**
   * What the checkpoint puts before the graph's names, e.g. "model.vision_tower.vision_tower."; or several, each
   * with what replaces it: `{ "model.vision_tower.vision_tower.": "", "model.mm_projector.": "resampler." }`.
   * Tensors under none of them belong to other parts of a larger checkpoint and are left alone.
   */
  readonly prefix?: string | Readonly<Record<string, string>> | undefined;
  /** What to do with tensors the graph does not use; default "refuse". */
  readonly extra?: "refuse" | "ignore" | undefined;
}

/** Parameters' values, whatever they come from. */
export interface ParamSource extends AsyncDisposable {
  /** Parameters whose values were made from a seed. */
  readonly untrained: readonly string[];
  /** Fills `target` (aligned to 4) with elements first, first + 1, … of `param`, in its own dtype. */
  read(param: PlanParam, first: number, target: Uint8Array): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Opens the weights of `params`. With only a seed all are made; with both, those the checkpoint lacks.
 * Throws WeightsError that lists every missing, extra and misshapen tensor.
 */
export async function openParams(
  params: readonly PlanParam[],
  weights: WeightsOptions | undefined,
  seed: number | undefined,
): Promise<ParamSource> {
  if (weights === undefined) {
    if (seed === undefined && params.length > 0) {
      throw new WeightsError(`the graph has ${new Set(params.map(nameOf)).size} parameters: give weights, or a seed to make them from`, {
        missing: [...new Set(params.map(nameOf))],
        extra: [],
        misshapen: [],
      });
    }
    return seeded(params, seed ?? 0);
  }
  const checkpoint = await openCheckpoint(weights.from);
  try {
    const tensors = matched(params, checkpoint, weights, seed !== undefined);
    const fallback = seeded(
      params.filter((p) => !tensors.has(nameOf(p))),
      seed ?? 0,
    );
    return {
      untrained: fallback.untrained,
      read: (param, first, target) => {
        const stored = tensors.get(nameOf(param));
        if (stored === undefined) return fallback.read(param, first, target);
        const at = placeOf(param) + first;
        return param.packed === undefined
          ? readAs(stored, param.dtype, at, target, param.name)
          : readPart(stored, param.packed, at, target);
      },
      [Symbol.asyncDispose]: () => checkpoint.close(),
    };
  } catch (error) {
    await checkpoint.close();
    throw error;
  }
}

/** The checkpoint's name for it: a packed weight is several parameters, and so is one that is too large for a device's bindings. */
const nameOf = (p: PlanParam): string => p.packed?.of ?? p.rows?.of ?? p.name;

/** The element of the whole tensor (or packed part) that it begins with. */
const placeOf = (p: PlanParam): number => (p.rows?.first ?? 0) * p.shape.slice(1).reduce((a, b) => a * b, 1);

function seeded(params: readonly PlanParam[], seed: number): ParamSource {
  return {
    untrained: [...new Set(params.map(nameOf))],
    read: async (param, first, target) => {
      const init = param.init ?? defaultInit;
      const place = placeOf(param) + first;
      if (param.packed === undefined) return seededBytes(seed, nameOf(param), init, param.dtype, place, target);
      const { of } = param.packed;
      const floats = async (at: number, into: Float32Array): Promise<void> =>
        seededBytes(seed, of, init, "f32", at, new Uint8Array(into.buffer, into.byteOffset, into.byteLength));
      return packPart(floats, param.packed, place, target);
    },
    [Symbol.asyncDispose]: async () => undefined,
  };
}

function matched(
  params: readonly PlanParam[],
  checkpoint: OpenCheckpoint,
  options: WeightsOptions,
  mayMiss: boolean,
): ReadonlyMap<string, StoredTensor> {
  const prefix = options.prefix ?? "";
  const nameInGraph = renamer(typeof prefix === "string" ? [[prefix, ""]] : Object.entries(prefix));
  const byName = new Map<string, StoredTensor>();
  const misshapen: string[] = [];
  for (const [name, stored] of checkpoint.tensors) {
    const own = nameInGraph(name);
    if (own === undefined) continue;
    if (byName.has(own)) misshapen.push(`${own}: two tensors of the checkpoint have this name`);
    byName.set(own, stored);
  }
  const wanted = new Map(params.map((p) => [nameOf(p), wantedOf(p)]));
  const missing = mayMiss ? [] : [...wanted.keys()].filter((name) => !byName.has(name));
  const extra = options.extra === "ignore" ? [] : [...byName.keys()].filter((name) => !wanted.has(name));
  for (const p of wanted.values()) {
    const stored = byName.get(p.name);
    if (stored === undefined) continue;
    const fits =
      accepted[p.dtype].includes(stored.dtype) && stored.shape.length === p.shape.length && stored.shape.every((d, i) => d === p.shape[i]);
    if (!fits)
      misshapen.push(`${p.name}: expected ${typeText(p.dtype, p.shape)}, found ${typeText(stored.dtype.toLowerCase(), stored.shape)}`);
  }
  if (missing.length + extra.length + misshapen.length > 0) {
    const lines = [`${checkpoint.name} does not fit the graph:`];
    if (missing.length > 0) lines.push(`  missing (${missing.length}): ${listed(missing)}`);
    if (misshapen.length > 0) lines.push(`  wrong shape or dtype (${misshapen.length}): ${listed(misshapen)}`);
    if (extra.length > 0) lines.push(`  not used by the graph (${extra.length}; may be ignored with extra: "ignore"): ${listed(extra)}`);
    const found = missing.length === wanted.size ? commonPrefix([...wanted.keys()], checkpoint.tensors) : undefined;
    if (found !== undefined) lines.push(`  help: every parameter is there under the prefix ${JSON.stringify(found)}`);
    throw new WeightsError(lines.join("\n"), { missing, extra, misshapen });
  }
  return byName;
}

/** What the checkpoint must have for it. */
function wantedOf(p: PlanParam): Pick<PlanParam, "name" | "dtype" | "shape"> {
  if (p.packed !== undefined) return { name: p.packed.of, dtype: "f32", shape: p.packed.shape };
  return p.rows === undefined ? p : { name: p.rows.of, dtype: p.dtype, shape: [p.rows.rows, ...p.shape.slice(1)] };
}

/** The prefix under which a checkpoint has every parameter, if there is one. */
function commonPrefix(wanted: readonly string[], tensors: ReadonlyMap<string, StoredTensor>): string | undefined {
  const first = wanted[0];
  if (first === undefined) return undefined;
  for (const name of tensors.keys()) {
    if (!name.endsWith(first)) continue;
    const prefix = name.slice(0, name.length - first.length);
    if (wanted.every((own) => tensors.has(prefix + own))) return prefix;
  }
  return undefined;
}
