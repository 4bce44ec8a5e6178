// Checkpoints of a training: safetensors files that appear whole or not at all, with everything that makes the training
// go on as if it had never stopped. Whatever fails while one is written, those before it stay as they are. Node only.
//
// Note [How a checkpoint appears]
//   Its bytes go to a temporary file beside it, are brought to the disk (fsync), and the file is renamed; then the folder's
//   entry is brought to the disk. Only then are older checkpoints removed. A process that dies in between leaves a temporary
//   file, which the next write removes. The metadata has a hash of all tensors, so that a file which the disk has damaged
//   is told from a good one.

import { createHash } from "node:crypto";
import * as fs from "node:fs/promises";
import path from "node:path";
import type { DType } from "../../compiler/ir/dtype.ts";
import { messageOf } from "../errors.ts";
import { isRecord } from "../json.ts";
import { bytesOfTensor, tensorFromBytes, type Tensor } from "../tensor.ts";
import { encodeSafetensors, openSafetensors } from "../weights/safetensors.ts";
import { TrainingCheckpointError } from "./errors.ts";

/** What a checkpoint says beside its tensors. */
export interface TrainingState {
  /** Steps done. */
  readonly step: number;
  /** Records of the order that are behind: see Batch. */
  readonly position: number;
  /** Records left out so far. */
  readonly skipped: number;
  /** What must be the same for the training to go on equal to the bit: the seed, the data's hash, the batch, … by name. */
  readonly settings: Readonly<Record<string, string>>;
}

export interface StoredCheckpoint {
  readonly file: string;
  readonly state: TrainingState;
  readonly tensors: ReadonlyMap<string, Tensor>;
}

/** What of the file system a checkpoint needs; tests let each of them fail. */
export type CheckpointFiles = Pick<typeof fs, "open" | "rename" | "rm" | "readdir">;

const metadataKey = "uhd.training";
const nameOf = (step: number): string => `checkpoint-${String(step).padStart(8, "0")}.safetensors`;
const pattern = /^checkpoint-(\d{8,})\.safetensors$/;
const temporaryPattern = /^\.checkpoint-\d{8,}\.safetensors\.\d+\.tmp$/;

function hashOf(tensors: ReadonlyMap<string, Tensor>): string {
  const hash = createHash("sha256");
  for (const name of [...tensors.keys()].sort()) {
    const tensor = tensors.get(name);
    if (tensor === undefined) continue;
    hash.update(JSON.stringify([name, tensor.dtype, tensor.shape]));
    hash.update(bytesOfTensor(tensor));
  }
  return hash.digest("hex");
}

export interface WriteOptions {
  /** Checkpoints that stay, this one included. Default 2. */
  readonly keep?: number | undefined;
  readonly files?: CheckpointFiles | undefined;
}

/** Writes the checkpoint of a step into the folder and gives its path. Throws TrainingCheckpointError; then nothing has changed. */
export async function writeTrainingCheckpoint(
  folder: string,
  state: TrainingState,
  tensors: ReadonlyMap<string, Tensor>,
  { keep = 2, files = fs }: WriteOptions = {},
): Promise<string> {
  const name = nameOf(state.step);
  const file = path.join(folder, name);
  const temporary = path.join(folder, `.${name}.${process.pid}.tmp`);
  const parts = encodeSafetensors(tensors, { [metadataKey]: JSON.stringify({ version: 1, ...state, sha256: hashOf(tensors) }) });
  try {
    await writeDurably(temporary, parts, files);
    await files.rename(temporary, file);
    await syncFolder(folder, files);
  } catch (cause) {
    // The cause is what matters; a temporary file that cannot be removed either does no harm.
    await files.rm(temporary, { force: true }).catch(() => undefined);
    throw new TrainingCheckpointError(`the checkpoint ${file} cannot be written: ${reasonOf(cause)}`, { cause });
  }
  await removeOld(folder, keep, files);
  return file;
}

/** All bytes of a file, on the disk when it returns. */
async function writeDurably(file: string, parts: readonly Uint8Array[], files: CheckpointFiles): Promise<void> {
  const handle = await files.open(file, "w");
  try {
    for (const part of parts) {
      for (let at = 0; at < part.byteLength;) at += (await handle.write(part, at, part.byteLength - at)).bytesWritten;
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Brings the folder's entries to the disk, where the system can do that. */
async function syncFolder(folder: string, files: CheckpointFiles): Promise<void> {
  if (process.platform === "win32") return; // A folder cannot be opened there; its entries are journalled.
  const handle = await files.open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function reasonOf(cause: unknown): string {
  if (cause instanceof Error && "code" in cause) {
    if (cause.code === "ENOSPC") return "the disk is full";
    if (cause.code === "EDQUOT") return "the quota of the disk is used up";
    if (cause.code === "EACCES" || cause.code === "EPERM") return "permission denied";
  }
  return messageOf(cause);
}

/** What cannot be removed stays; the checkpoint that was just written is good all the same. */
async function removeOld(folder: string, keep: number, files: CheckpointFiles): Promise<void> {
  const names = await files.readdir(folder).catch(() => []);
  const old = names.filter((n) => pattern.test(n)).sort();
  const gone = [...old.slice(0, Math.max(0, old.length - keep)), ...names.filter((n) => temporaryPattern.test(n))];
  for (const name of gone) await files.rm(path.join(folder, name), { force: true }).catch(() => undefined);
}

export interface LatestCheckpoint {
  readonly found: StoredCheckpoint | undefined;
  /** Newer ones that are damaged, with what is wrong. */
  readonly damaged: readonly string[];
}

/** The newest checkpoint of a folder that is whole. A folder that does not exist has none. */
export async function latestCheckpoint(folder: string): Promise<LatestCheckpoint> {
  const damaged: string[] = [];
  for (const name of await checkpointNames(folder)) {
    const file = path.join(folder, name);
    try {
      return { found: await readTrainingCheckpoint(file), damaged };
    } catch (error) {
      damaged.push(messageOf(error));
    }
  }
  return { found: undefined, damaged };
}

/** Newest first. */
async function checkpointNames(folder: string): Promise<readonly string[]> {
  try {
    return (await fs.readdir(folder))
      .filter((n) => pattern.test(n))
      .sort((a, b) => Number(pattern.exec(b)?.[1]) - Number(pattern.exec(a)?.[1]));
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return [];
    throw new TrainingCheckpointError(`${folder} cannot be read: ${messageOf(cause)}`, { cause });
  }
}

const dtypes: Readonly<Record<string, DType>> = { F32: "f32", F16: "f16", BF16: "bf16", U8: "u8", I8: "i8", I32: "i32", BOOL: "bool" };

/** Throws TrainingCheckpointError when the file is not a checkpoint of a training, or is damaged. */
export async function readTrainingCheckpoint(file: string): Promise<StoredCheckpoint> {
  const fail = (what: string, options?: ErrorOptions): never => {
    throw new TrainingCheckpointError(`${file}: ${what}`, options);
  };
  const opened = await openSafetensors(file).catch((cause: unknown) => fail(messageOf(cause), { cause }));
  try {
    const { state, sha256 } = stateOf(opened.metadata.get(metadataKey)) ?? fail("it is not a checkpoint of a training");
    const tensors = new Map<string, Tensor>();
    for (const [name, entry] of opened.tensors) {
      const dtype = dtypes[entry.dtype] ?? fail(`its tensor ${name} is ${entry.dtype}`);
      const bytes = new Uint8Array(entry.end - entry.begin);
      await opened.source.read(entry.begin, bytes);
      tensors.set(name, tensorFromBytes(dtype, entry.shape, bytes));
    }
    if (hashOf(tensors) !== sha256) fail("its tensors are not those that were written: the file is damaged");
    return { file, state, tensors };
  } finally {
    await opened[Symbol.asyncDispose]();
  }
}

function stateOf(text: string | undefined): { readonly state: TrainingState; readonly sha256: string } | undefined {
  let json: unknown;
  try {
    json = JSON.parse(text ?? "");
  } catch {
    return undefined;
  }
  if (!isRecord(json) || json.version !== 1 || !isRecord(json.settings)) return undefined;
  const { step, position, skipped, settings, sha256 } = json;
  const counts = [step, position, skipped].every((n) => typeof n === "number" && Number.isSafeInteger(n) && n >= 0);
  if (!counts || typeof sha256 !== "string" || !Object.values(settings).every((v) => typeof v === "string")) return undefined;
  return {
    state: {
      step: Number(step),
      position: Number(position),
      skipped: Number(skipped),
      settings: settings as Readonly<Record<string, string>>,
    },
    sha256,
  };
}

/** Throws TrainingCheckpointError that lists every setting which is not what it was. */
export function checkSettings(stored: StoredCheckpoint, settings: Readonly<Record<string, string>>): void {
  // Before devices could be chosen, and were named, there was one.
  const before: Readonly<Record<string, string>> = {
    ...(settings["device"] === undefined ? {} : { device: "wasm" }),
    ...stored.state.settings,
  };
  const names = [...new Set([...Object.keys(settings), ...Object.keys(before)])];
  const changed = names.filter((name) => settings[name] !== before[name]);
  if (changed.length === 0) return;
  const said = changed.map((name) => `${name} was ${before[name] ?? "not set"} and is ${settings[name] ?? "not set"}`);
  throw new TrainingCheckpointError(`${stored.file} belongs to another training: ${said.join("; ")}`);
}
