// Reads a compiled graph: from a folder (Node), an address (fetch), or memory. Nothing of it is used
// before its size and SHA-256 agree with the manifest and the plan agrees with itself.
// spec/artefact.md is the format.

import { isDType } from "../compiler/ir/dtype.ts";
import type { Plan } from "../compiler/ir/plan/types.ts";
import type { WasmCode, WgslVariant } from "./device.ts";
import { ArtefactError, messageOf } from "./errors.ts";
import { isRecord, repeatedKeys } from "./json.ts";
import { importNode, isNode } from "./platform.ts";
import { readAll, withBytes } from "./weights/bytes.ts";

/** A graph ready to run: what to do, and the kernels that do it. */
export interface Artefact {
  readonly plan: Plan;
  /** WebAssembly, where it was compiled for that. */
  readonly modules?: WasmCode | undefined;
  /** WGSL, where it was compiled for that: variants, best first. */
  readonly wgsl?: readonly WgslVariant[] | undefined;
}

const format = "uhd-artefact";
const version = 1;
/** More than any manifest needs. */
const maximumManifest = 1_000_000;
/** Files that are read, by what they become. */
const files = {
  plan: "plan.json",
  plain: "kernels.plain.wasm",
  relaxed: "kernels.relaxed.wasm",
  wgsl: "kernels.wgsl.json",
} as const;

/** Reads `name` of the artefact. `expected` bytes at most are wanted; a file of another size is an error. */
type ReadPart = (name: string, expected: number | undefined) => Promise<Uint8Array>;

/**
 * Loads the artefact at a folder's path or at a URL (`file:` in Node, anything `fetch` can get). Throws ArtefactError
 * when it is missing, of another version, incomplete, or altered.
 */
export async function loadArtefact(from: string | URL): Promise<Artefact> {
  const place = from instanceof URL || /^(?:https?|file):/.test(from) ? new URL(from) : from;
  if (place instanceof URL && place.protocol !== "file:") return verified(String(place), fetched(place));
  const { fileURLToPath } = await importNode<typeof import("node:url")>("url");
  return verified(String(from), await inFolder(place instanceof URL ? fileURLToPath(place) : place));
}

/** Checks an artefact that is in memory already, e.g. one just compiled. */
export function artefactInMemory(artefact: Artefact): Artefact {
  checkPlan(artefact.plan, `plan ${artefact.plan.name}`);
  return artefact;
}

async function inFolder(folder: string): Promise<ReadPart> {
  const { join } = await importNode<typeof import("node:path")>("path");
  return (name, expected) =>
    withBytes(join(folder, name), async (source) => {
      const fits = expected === undefined ? source.size <= maximumManifest : source.size === expected;
      if (!fits) throw new Error(`it has ${source.size} bytes instead of ${expected ?? `at most ${maximumManifest}`}`);
      return readAll(source);
    });
}

function fetched(base: URL): ReadPart {
  const folder = base.pathname.endsWith("/") ? base : new URL(`${base.pathname}/`, base);
  return async (name, expected) => {
    const response = await fetch(new URL(name, folder));
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    const bytes = new Uint8Array(await response.arrayBuffer());
    if (expected !== undefined && bytes.byteLength !== expected) throw new Error(`it has ${bytes.byteLength} bytes instead of ${expected}`);
    return bytes;
  };
}

async function verified(where: string, readPart: ReadPart): Promise<Artefact> {
  const read = async (name: string, expected?: number): Promise<Uint8Array> => {
    try {
      return await readPart(name, expected);
    } catch (cause) {
      throw new ArtefactError(`artefact ${where}: ${name} cannot be read: ${messageOf(cause)}`, { cause });
    }
  };
  const fail = (what: string): never => {
    throw new ArtefactError(`artefact ${where}: ${what}`);
  };
  const json = (name: string, bytes: Uint8Array): unknown => {
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
      const value: unknown = JSON.parse(text);
      const [repeated] = name === "manifest.json" ? repeatedKeys(text) : [];
      return repeated === undefined ? value : fail(`${name} has the key ${JSON.stringify(repeated)} twice`);
    } catch (cause) {
      if (cause instanceof ArtefactError) throw cause;
      throw new ArtefactError(`artefact ${where}: ${name} is not JSON: ${messageOf(cause)}`, { cause });
    }
  };
  const manifest = json("manifest.json", await read("manifest.json"));
  if (!isRecord(manifest) || manifest["format"] !== format) return fail(`manifest.json does not describe a ${format}`);
  if (manifest["version"] !== version)
    return fail(`it has version ${JSON.stringify(manifest["version"])}; this runtime reads version ${version}`);
  const entries = manifest["files"];
  if (!isRecord(entries)) return fail("manifest.json lists no files");
  const part = async (name: string): Promise<Uint8Array> => {
    const entry = Object.hasOwn(entries, name) ? entries[name] : undefined;
    if (!isRecord(entry)) return fail(`manifest.json does not list ${name}`);
    const { bytes: size, sha256 } = entry;
    if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0 || typeof sha256 !== "string")
      return fail(`manifest.json does not give size and sha256 of ${name}`);
    const bytes = await read(name, size);
    if ((await sha256Of(bytes)) !== sha256) return fail(`${name} was altered: its SHA-256 is not the manifest's`);
    return bytes;
  };
  const plan = json(files.plan, await part(files.plan));
  checkPlan(plan, `artefact ${where}`);
  if (plan.name !== manifest["name"]) fail(`manifest.json says "${String(manifest["name"])}" and the plan "${plan.name}"`);
  const wgsl = Object.hasOwn(entries, files.wgsl) ? wgslVariants(json(files.wgsl, await part(files.wgsl))) : undefined;
  if (typeof wgsl === "string") return fail(`${files.wgsl}: ${wgsl}`);
  if (wgsl !== undefined && !Object.hasOwn(entries, files.plain)) return { plan, wgsl };
  const plain = await part(files.plain);
  const modules = Object.hasOwn(entries, files.relaxed) ? { plain, relaxed: await part(files.relaxed) } : { plain };
  return { plan, modules, ...(wgsl === undefined ? {} : { wgsl }) };
}

/** The kernels of a WGSL file, or what is wrong with it. */
function wgslVariants(value: unknown): readonly WgslVariant[] | string {
  if (!isRecord(value) || value["format"] !== "uhd-wgsl") return "it holds no uhd-wgsl";
  if (value["version"] !== 1) return `it has version ${JSON.stringify(value["version"])}; this runtime reads version 1`;
  const variants = value["variants"];
  const strings = (list: unknown): boolean => Array.isArray(list) && list.every((x) => typeof x === "string");
  const isKernel = (k: unknown): boolean =>
    isRecord(k) &&
    typeof k["name"] === "string" &&
    typeof k["code"] === "string" &&
    Number.isSafeInteger(k["lanes"]) &&
    strings(k["bindings"]) &&
    strings(k["requires"]);
  const isVariant = (v: unknown): boolean =>
    isRecord(v) &&
    isRecord(v["features"]) &&
    typeof v["features"]["subgroups"] === "number" &&
    typeof v["features"]["f16"] === "boolean" &&
    Array.isArray(v["kernels"]) &&
    v["kernels"].every(isKernel);
  if (!Array.isArray(variants) || variants.length === 0 || !variants.every(isVariant)) return "a variant of the kernels is not described";
  return variants as readonly WgslVariant[];
}

async function sha256Of(bytes: Uint8Array): Promise<string> {
  let digest: Uint8Array;
  if (isNode) {
    const { createHash } = await importNode<typeof import("node:crypto")>("crypto");
    digest = createHash("sha256").update(bytes).digest();
  } else {
    const subtle = (globalThis as { readonly crypto?: { readonly subtle?: typeof globalThis.crypto.subtle } }).crypto?.subtle;
    if (subtle === undefined)
      throw new ArtefactError("hashes can be verified in secure contexts only: serve the page over https or from localhost");
    digest = new Uint8Array(await subtle.digest("SHA-256", bytes));
  }
  return Array.from(digest, (b) => b.toString(16).padStart(2, "0")).join("");
}

/**
 * Throws ArtefactError unless `plan` is a plan whose parts name only parts it has. What the kernels do is not
 * examined: hashes stand for that.
 */
export function checkPlan(plan: unknown, where: string): asserts plan is Plan {
  const fail = (what: string): never => {
    throw new ArtefactError(`${where}: ${what}`);
  };
  if (!isRecord(plan) || plan["format"] !== "uhd-plan") return fail("the plan is not a uhd-plan");
  if (plan["version"] !== 1) return fail(`the plan has version ${JSON.stringify(plan["version"])}; this runtime reads version 1`);
  for (const list of ["symbols", "limits", "tables", "inputs", "outputs", "params", "states", "buffers", "kernels", "prepare", "steps"]) {
    if (!Array.isArray(plan[list]) || !(plan[list] as readonly unknown[]).every(isRecord)) return fail(`the plan has no list of ${list}`);
  }
  if (typeof plan["name"] !== "string" || !isRecord(plan["host"])) return fail("the plan has no name or no shape code");
  const p = plan as unknown as Plan;
  const buffer = (id: unknown, user: string): void => {
    if (typeof id !== "number" || p.buffers[id] === undefined) fail(`${user} uses buffer ${String(id)}, which the plan does not have`);
  };
  for (const b of p.buffers) {
    if (!isDType(b.dtype) || !Array.isArray(b.shape) || typeof b.slack !== "number" || !isRecord(b.place))
      fail(`buffer ${b.name} is not described`);
    if (b.place.k === "table" && p.tables[b.place.table] === undefined) fail(`buffer ${b.name} holds a table that the plan does not have`);
  }
  for (const entry of [...p.inputs, ...p.outputs, ...p.params, ...p.states]) buffer(entry.buffer, entry.name);
  for (const { name, buffer: id, dtype, shape } of p.params) {
    const own = p.buffers[id];
    if (own?.dtype !== dtype || !Array.isArray(shape) || own.shape.join() !== shape.join())
      fail(`parameter ${name} is not what its buffer holds`);
  }
  for (const s of p.states) if (s.update !== undefined) buffer(s.update, s.name);
  const kernels = new Map(p.kernels.map((k) => [k.name, k]));
  for (const step of [...p.prepare, ...p.steps]) {
    switch (step.k) {
      case "copy":
        buffer(step.from, "a copy");
        buffer(step.to, "a copy");
        break;
      case "dispatch": {
        const kernel = kernels.get(step.kernel);
        if (kernel === undefined) return fail(`a step runs kernel ${step.kernel}, which the plan does not have`);
        for (const id of step.buffers) buffer(id, step.kernel);
        if (step.buffers.length !== kernel.bufferCount || step.dims.length !== kernel.dims.length)
          fail(`a step gives kernel ${step.kernel} the wrong number of arguments`);
        break;
      }
      default:
        step satisfies never;
        return fail(`a step is of the unknown kind ${JSON.stringify((step as { readonly k?: unknown }).k)}`);
    }
  }
}
