// Checkpoints of a training: they appear whole or not at all, and one that the disk has damaged is not used.

import * as fs from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  checkSettings,
  latestCheckpoint,
  readTrainingCheckpoint,
  writeTrainingCheckpoint,
  type CheckpointFiles,
  type TrainingState,
} from "../runtime/train/checkpoint.ts";
import { lossCurve } from "../runtime/train/curve.ts";
import type { Tensor } from "../runtime/tensor.ts";

let folder = "";
beforeEach(async () => {
  folder = await fs.mkdtemp(path.join(tmpdir(), "uhd-checkpoints-"));
});
afterEach(() => fs.rm(folder, { recursive: true, force: true }));

const stateAt = (step: number): TrainingState => ({ step, position: 3 * step, skipped: 1, settings: { seed: "7", data: "abc" } });
const tensorsAt = (step: number): ReadonlyMap<string, Tensor> =>
  new Map<string, Tensor>([
    ["w", { dtype: "f32", shape: [2, 2], data: new Float32Array([step, -0, NaN, Infinity]) }],
    ["optimiser.step", { dtype: "i32", shape: [], data: new Int32Array([step]) }],
    ["empty", { dtype: "u8", shape: [0, 3], data: new Uint8Array(0) }],
  ]);
const bytesOf = (tensors: ReadonlyMap<string, Tensor>): Readonly<Record<string, string>> =>
  Object.fromEntries([...tensors].map(([n, t]) => [n, Buffer.from(t.data.buffer, t.data.byteOffset, t.data.byteLength).toString("hex")]));

describe("a checkpoint", () => {
  test("gives back every bit of the tensors and the state", async () => {
    const file = await writeTrainingCheckpoint(folder, stateAt(12), tensorsAt(12));
    const { state, tensors } = await readTrainingCheckpoint(file);
    expect(state).toEqual(stateAt(12));
    expect(bytesOf(tensors)).toEqual(bytesOf(tensorsAt(12)));
  });

  test("is found as the newest, and as many older ones stay as are asked for", async () => {
    for (const step of [1, 2, 9, 10]) await writeTrainingCheckpoint(folder, stateAt(step), tensorsAt(step), { keep: 3 });
    expect((await latestCheckpoint(folder)).found?.state.step).toBe(10);
    expect((await fs.readdir(folder)).sort()).toEqual([2, 9, 10].map((n) => `checkpoint-${String(n).padStart(8, "0")}.safetensors`));
    expect((await latestCheckpoint(path.join(folder, "none"))).found).toBeUndefined();
  });

  test("that is damaged anywhere is told, and the one before it used", async () => {
    await writeTrainingCheckpoint(folder, stateAt(1), tensorsAt(1));
    const file = await writeTrainingCheckpoint(folder, stateAt(2), tensorsAt(2));
    const bytes = await fs.readFile(file);
    for (const [what, damaged] of [
      ["cut", bytes.subarray(0, bytes.length - 1)],
      ["a bit of a tensor", Buffer.concat([bytes.subarray(0, -1), Buffer.from([1])])],
      ["a bit of the state", Buffer.from(bytes.toString("latin1").replace('\\"sha256\\":\\"', '\\"sha256\\":\\"x'), "latin1")],
      ["empty", Buffer.alloc(0)],
    ] as const) {
      await fs.writeFile(file, damaged);
      const { found, damaged: told } = await latestCheckpoint(folder);
      expect([what, found?.state.step]).toEqual([what, 1]);
      expect(told.join()).toContain("checkpoint-00000002.safetensors");
    }
  });

  test("of another training is told with what differs", async () => {
    const stored = await readTrainingCheckpoint(await writeTrainingCheckpoint(folder, stateAt(1), tensorsAt(1)));
    expect(() => checkSettings(stored, { seed: "7", data: "abc" })).not.toThrow();
    expect(() => checkSettings(stored, { seed: "8", data: "abc", batch: "2" })).toThrow(/seed was 7 and is 8; batch was not set and is 2/);
  });

  test("that cannot be written leaves those before it, whatever the system refuses and when", async () => {
    let failed = 0;
    for (let at = 0; ; at++) {
      const place = path.join(folder, String(at));
      await fs.mkdir(place);
      await writeTrainingCheckpoint(place, stateAt(1), tensorsAt(1));
      const { files, calls } = failing(at);
      const error = await writeTrainingCheckpoint(place, stateAt(2), tensorsAt(2), { files, keep: 1 }).then(
        () => undefined,
        (e: unknown) => e,
      );
      if (calls() <= at) break;
      if (error !== undefined) {
        failed++;
        expect(String(error)).toMatch(/checkpoint-00000002\.safetensors cannot be written: the disk is full/);
        expect(bytesOf((await readTrainingCheckpoint(path.join(place, "checkpoint-00000001.safetensors"))).tensors)).toEqual(
          bytesOf(tensorsAt(1)),
        );
      }
      // When the entry of the renamed file could not be brought to the disk, the new one may be there; either is whole.
      const { found, damaged } = await latestCheckpoint(place);
      expect([damaged, bytesOf(found?.tensors ?? new Map())]).toEqual([[], bytesOf(tensorsAt(found?.state.step ?? 0))]);
      if (error === undefined) expect(found?.state.step).toBe(2);
    }
    // Opening, each part, fsync, renaming, the folder: all have failed once.
    expect(failed).toBeGreaterThanOrEqual(7);
  });

  test("removes what a killed process left behind", async () => {
    await fs.writeFile(path.join(folder, ".checkpoint-00000003.safetensors.4711.tmp"), "half");
    await writeTrainingCheckpoint(folder, stateAt(4), tensorsAt(4));
    expect(await fs.readdir(folder)).toEqual(["checkpoint-00000004.safetensors"]);
  });
});

/** The file system, in which operation number `at` finds the disk full; a write does half of its work first. */
function failing(at: number): { readonly files: CheckpointFiles; readonly calls: () => number } {
  let count = 0;
  const full = (): void => {
    if (count++ === at) throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
  };
  const wrapped = (handle: fs.FileHandle): fs.FileHandle =>
    new Proxy(handle, {
      get(target, name) {
        if (name === "write")
          return async (bytes: Uint8Array, offset: number, length: number) => {
            const half = Math.floor(length / 2);
            await target.write(bytes, offset, half);
            full();
            await target.write(bytes, offset + half, length - half);
            return { bytesWritten: length };
          };
        if (name === "sync")
          return async () => {
            full();
            return target.sync();
          };
        const value: unknown = Reflect.get(target, name);
        return typeof value === "function" ? (value.bind(target) as unknown) : value;
      },
    });
  const files: CheckpointFiles = {
    ...fs,
    open: async (...args) => {
      full();
      return wrapped(await fs.open(...args));
    },
    rename: async (...args) => {
      full();
      return fs.rename(...args);
    },
    rm: async (...args) => {
      full();
      return fs.rm(...args);
    },
  };
  return { files, calls: () => count };
}

describe("the picture of the loss", () => {
  test("is a PNG with ink in it, for no step, one, and many", async () => {
    const { default: sharp } = await import("sharp");
    for (const n of [0, 1, 5000]) {
      const steps = Array.from({ length: n }, (_, i) => ({ step: i + 1, loss: i === 3 ? NaN : 5 / (i + 1) }));
      const { width, height } = await sharp(await lossCurve(steps)).metadata();
      expect([width, height]).toEqual([960, 540]);
      const { channels } = await sharp(await lossCurve(steps)).stats();
      expect(channels[0]?.min).toBeLessThan(n === 0 ? 255 : 100);
    }
  });
});
