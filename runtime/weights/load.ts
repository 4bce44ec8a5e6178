// Finds a checkpoint's tensors: one safetensors file, a sharded index, a folder that holds either, bytes,
// or a map of tensors. Matches them with a graph's parameters and lists everything that does not fit in
// one error. Reading is by pieces, straight into memory that the caller provides.

import { bytesOf, type DType } from "../../compiler/ir/dtype.ts";
import type { PlanParam } from "../../compiler/ir/plan/types.ts";
import { messageOf, SafetensorsError, WeightsError } from "../errors.ts";
import { importNode } from "../platform.ts";
import { bytesOfTensor, typeText, type Tensor } from "../tensor.ts";
import { readAll, withBytes } from "./bytes.ts";
import { accepted, convertElements, sameBytes, storedWidth } from "./convert.ts";
import { defaultInit, seededBytes } from "./init.ts";
import { isRecord, openSafetensors, repeatedKeys, type SafetensorsFile } from "./safetensors.ts";

/** A path (Node), the bytes or Blob of one safetensors file, tensors by name; or several that hold different tensors. */
export type Checkpoint = OneCheckpoint | readonly OneCheckpoint[];
export type OneCheckpoint = string | Uint8Array | Blob | ReadonlyMap<string, Tensor>;

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

/** A tensor of a checkpoint, wherever it lies. */
interface Stored {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Fills `target` with bytes of the tensor, from byte `begin` of it. */
  read(begin: number, target: Uint8Array): Promise<void>;
}

interface OpenCheckpoint {
  readonly name: string;
  readonly tensors: ReadonlyMap<string, Stored>;
  close(): Promise<void>;
}

async function openCheckpoint(from: Checkpoint): Promise<OpenCheckpoint> {
  return isList(from) ? openAll(from) : openOne(from);
}

function isList(from: Checkpoint): from is readonly OneCheckpoint[] {
  return Array.isArray(from);
}

/** Throws SafetensorsError when two of them have a tensor of one name. */
async function openAll(list: readonly OneCheckpoint[]): Promise<OpenCheckpoint> {
  const open: OpenCheckpoint[] = [];
  const close = async (): Promise<void> => {
    for (const one of open) await one.close();
  };
  try {
    const tensors = new Map<string, Stored>();
    for (const from of list) {
      const one = await openOne(from);
      open.push(one);
      const twice = [...one.tensors.keys()].filter((name) => tensors.has(name));
      if (twice.length > 0) throw new SafetensorsError(`${one.name} has tensors that a file before it has too: ${listed(twice)}`);
      for (const [name, stored] of one.tensors) tensors.set(name, stored);
    }
    return { name: open.map((one) => one.name).join(" and "), tensors, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function openOne(from: OneCheckpoint): Promise<OpenCheckpoint> {
  if (typeof from === "string") return openPath(from);
  if (from instanceof Uint8Array || from instanceof Blob) {
    const file = await openSafetensors(from);
    return { name: file.source.name, tensors: storedIn(file), close: () => file[Symbol.asyncDispose]() };
  }
  const tensors = new Map<string, Stored>();
  for (const [name, tensor] of from) {
    const bytes = bytesOfTensor(tensor);
    tensors.set(name, {
      dtype: tensor.dtype.toUpperCase(),
      shape: tensor.shape,
      read: async (begin, target) => target.set(bytes.subarray(begin, begin + target.byteLength)),
    });
  }
  return { name: "the given tensors", tensors, close: async () => undefined };
}

function storedIn(file: SafetensorsFile): Map<string, Stored> {
  const out = new Map<string, Stored>();
  for (const [name, { dtype, shape, begin }] of file.tensors) {
    out.set(name, { dtype, shape, read: (at, target) => file.source.read(begin + at, target) });
  }
  return out;
}

const indexName = "model.safetensors.index.json";
const fileName = "model.safetensors";

async function openPath(path: string): Promise<OpenCheckpoint> {
  const fs = await importNode<typeof import("node:fs/promises")>("fs/promises");
  const { join } = await importNode<typeof import("node:path")>("path");
  const isFolder = await fs.stat(path).then(
    (stat) => stat.isDirectory(),
    () => false,
  );
  if (isFolder) {
    for (const name of [indexName, fileName]) {
      const inside = join(path, name);
      const found = await fs.access(inside).then(
        () => true,
        () => false,
      );
      if (found) return openPath(inside);
    }
    throw new SafetensorsError(`${path} holds neither ${indexName} nor ${fileName}`);
  }
  if (path.endsWith(".json")) return openSharded(path);
  const file = await openSafetensors(path);
  return { name: path, tensors: storedIn(file), close: () => file[Symbol.asyncDispose]() };
}

/** The format's header limit serves for indexes too. */
const maximumIndex = 100_000_000;

async function openSharded(path: string): Promise<OpenCheckpoint> {
  const { dirname, join } = await importNode<typeof import("node:path")>("path");
  const shardOf = await readIndex(path);
  const files = new Map<string, SafetensorsFile>();
  const close = async (): Promise<void> => {
    for (const file of files.values()) await file[Symbol.asyncDispose]();
  };
  try {
    for (const shard of new Set(shardOf.values())) files.set(shard, await openSafetensors(join(dirname(path), shard)));
    const tensors = new Map<string, Stored>();
    for (const [shard, file] of files) {
      for (const [name, stored] of storedIn(file)) {
        if (shardOf.get(name) === shard) tensors.set(name, stored);
      }
    }
    const absent = [...shardOf].filter(([name]) => !tensors.has(name)).map(([name, shard]) => `${name} (${shard})`);
    if (absent.length > 0) throw new SafetensorsError(`${path} names tensors that its files do not have: ${listed(absent)}`);
    return { name: path, tensors, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Tensor → file. Throws SafetensorsError for anything but names of files beside the index. */
async function readIndex(path: string): Promise<ReadonlyMap<string, string>> {
  let map: unknown;
  try {
    const bytes = await withBytes(path, (source) => {
      if (source.size > maximumIndex) throw new Error(`its ${source.size} bytes are over the limit of ${maximumIndex}`);
      return readAll(source);
    });
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    const index: unknown = JSON.parse(text);
    const [repeated] = repeatedKeys(text);
    if (repeated !== undefined) throw new Error(`the key ${JSON.stringify(repeated)} occurs twice`);
    map = isRecord(index) ? index["weight_map"] : undefined;
  } catch (cause) {
    throw new SafetensorsError(`${path} cannot be read as an index: ${messageOf(cause)}`, { cause });
  }
  if (!isRecord(map)) throw new SafetensorsError(`${path} is not an index: it has no object "weight_map"`);
  const out = new Map<string, string>();
  for (const [tensor, file] of Object.entries(map)) {
    if (typeof file !== "string" || !/^[^/\\\0]+$/.test(file) || file === "." || file === "..") {
      throw new SafetensorsError(`${path} places ${tensor} in ${JSON.stringify(file)}, which is not a file beside it`);
    }
    out.set(tensor, file);
  }
  return out;
}

/** The first few, and how many more. */
function listed(items: readonly string[], limit = 40): string {
  const rest = items.length - limit;
  return items.slice(0, limit).join(", ") + (rest > 0 ? `, and ${rest} more` : "");
}

/** The graph's name of a checkpoint's tensor; undefined when no prefix fits. */
function renamed(name: string, prefixes: readonly (readonly [string, string])[]): string | undefined {
  const rule = prefixes.find(([from]) => name.startsWith(from));
  return rule === undefined ? undefined : rule[1] + name.slice(rule[0].length);
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
      throw new WeightsError(`the graph has ${params.length} parameters: give weights, or a seed to make them from`, {
        missing: params.map((p) => p.name),
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
      params.filter((p) => !tensors.has(p.name)),
      seed ?? 0,
    );
    return {
      untrained: fallback.untrained,
      read: (param, first, target) => {
        const stored = tensors.get(param.name);
        return stored === undefined ? fallback.read(param, first, target) : readStored(stored, param.dtype, first, target, param.name);
      },
      [Symbol.asyncDispose]: () => checkpoint.close(),
    };
  } catch (error) {
    await checkpoint.close();
    throw error;
  }
}

function seeded(params: readonly PlanParam[], seed: number): ParamSource {
  return {
    untrained: params.map((p) => p.name),
    read: async (param, first, target) => seededBytes(seed, param.name, param.init ?? defaultInit, param.dtype, first, target),
    [Symbol.asyncDispose]: async () => undefined,
  };
}

function matched(
  params: readonly PlanParam[],
  checkpoint: OpenCheckpoint,
  options: WeightsOptions,
  mayMiss: boolean,
): ReadonlyMap<string, Stored> {
  const prefix = options.prefix ?? "";
  const prefixes = (typeof prefix === "string" ? [[prefix, ""] as const] : Object.entries(prefix)).toSorted(
    ([a], [b]) => b.length - a.length,
  );
  const byName = new Map<string, Stored>();
  const misshapen: string[] = [];
  for (const [name, stored] of checkpoint.tensors) {
    const own = renamed(name, prefixes);
    if (own === undefined) continue;
    if (byName.has(own)) misshapen.push(`${own}: two tensors of the checkpoint have this name`);
    byName.set(own, stored);
  }
  const wanted = new Map(params.map((p) => [p.name, p]));
  const missing = mayMiss ? [] : params.filter((p) => !byName.has(p.name)).map((p) => p.name);
  const extra = options.extra === "ignore" ? [] : [...byName.keys()].filter((name) => !wanted.has(name));
  for (const p of params) {
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
    const found = missing.length === params.length ? commonPrefix(params, checkpoint.tensors) : undefined;
    if (found !== undefined) lines.push(`  help: every parameter is there under the prefix ${JSON.stringify(found)}`);
    throw new WeightsError(lines.join("\n"), { missing, extra, misshapen });
  }
  return byName;
}

/** The prefix under which a checkpoint has every parameter, if there is one. */
function commonPrefix(params: readonly PlanParam[], tensors: ReadonlyMap<string, Stored>): string | undefined {
  const first = params[0];
  if (first === undefined) return undefined;
  for (const name of tensors.keys()) {
    if (!name.endsWith(first.name)) continue;
    const prefix = name.slice(0, name.length - first.name.length);
    if (params.every((p) => tensors.has(prefix + p.name))) return prefix;
  }
  return undefined;
}

async function readStored(stored: Stored, dtype: DType, first: number, target: Uint8Array, name: string): Promise<void> {
  const width = storedWidth(stored.dtype);
  if (sameBytes(stored.dtype, dtype)) return stored.read(first * width, target);
  const bytes = new Uint8Array((target.byteLength / bytesOf(dtype)) * width);
  await stored.read(first * width, bytes);
  try {
    convertElements(stored.dtype, bytes, dtype, target);
  } catch (cause) {
    throw new WeightsError(`tensor ${name}: ${messageOf(cause)}`, { missing: [], extra: [], misshapen: [name] });
  }
}
