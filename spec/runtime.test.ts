// Sessions and artefacts, with a plan written by hand and kernels written byte by byte: what the runtime
// promises, apart from what the compiler makes.

import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import type { Plan, PlanBuffer, Step } from "../compiler/ir/plan/types.ts";
import { artefactInMemory, loadArtefact, type Artefact } from "../runtime/artefact.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";
import { ArtefactError, DeviceError, InputError, ResourceError, WeightsError } from "../runtime/errors.ts";
import { weightsMemory } from "../compiler/ir/plan/memory.ts";
import { Session, type Progress, type SessionOptions } from "../runtime/session.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { writeSafetensors } from "../runtime/weights/safetensors.ts";
import { handKernels } from "./runtime-kernels.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-runtime-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const f32 = (name: string, shape: readonly string[], place: PlanBuffer["place"], slack = 0): PlanBuffer => ({
  name,
  dtype: "f32",
  shape,
  slack,
  place,
});

function affine(from: number, to: number, units: string, stage: string): Step {
  return {
    k: "dispatch",
    kernel: "affine",
    buffers: [from, to],
    dims: [units],
    extents: [units],
    sources: ["hand.uhd:1:1"],
    flops: `2*${units}`,
    bytes: `8*${units}`,
    stage,
  };
}

/**
 * x: f32[N], N ≥ 1, weights a: f32[4] and b: f32[2, 3] ~ constant(5).
 * y = 4x + 3 through an arena value; c = 2a + 1 prepared at load; b as it is; t: i32[N] from shape code, 0 1 2 …
 */
const handPlan: Plan = {
  format: "uhd-plan",
  version: 1,
  name: "hand",
  symbols: [{ name: "N", lower: 1, upper: 100_000_000 }],
  limits: [],
  host: {
    functions: [],
    bindings: [
      {
        name: "double",
        symbol: true,
        loc: "hand.uhd:2:1",
        value: { k: "binary", op: "mul", a: { k: "lit", v: 2 }, b: { k: "var", name: "N" } },
      },
    ],
  },
  tables: [{ name: "t", dtype: "i32", shape: ["N"], value: { k: "range", from: { k: "lit", v: 0 }, to: { k: "var", name: "N" } } }],
  inputs: [{ name: "x", buffer: 0 }],
  outputs: [
    { name: "y", buffer: 2 },
    { name: "c", buffer: 4 },
    { name: "b", buffer: 5 },
    { name: "t", buffer: 7 },
  ],
  params: [
    { name: "a", dtype: "f32", shape: [4], buffer: 3 },
    { name: "b", dtype: "f32", shape: [2, 3], buffer: 5, init: { kind: "constant", value: 5 } },
  ],
  states: [],
  buffers: [
    f32("x", ["N"], { k: "input" }),
    f32("middle", ["N"], { k: "arena", first: 0, last: 1 }, 8),
    f32("y", ["N"], { k: "output" }),
    f32("a", ["4"], { k: "param" }),
    f32("c", ["4"], { k: "persistent" }),
    f32("b", ["2", "3"], { k: "param" }),
    { name: "t", dtype: "i32", shape: ["N"], slack: 0, place: { k: "table", table: 0 } },
    { name: "t copy", dtype: "i32", shape: ["N"], slack: 0, place: { k: "output" } },
  ],
  kernels: [{ name: "affine", dims: ["n"], bufferCount: 2, scratch: "0", units: "n" }],
  prepare: [affine(3, 4, "4", "load")],
  steps: [affine(0, 1, "N", "first"), affine(1, 2, "N", "second"), { k: "copy", from: 6, to: 7 }],
};

const artefact: Artefact = { plan: handPlan, modules: { plain: handKernels() } };

function tensor(...values: number[]): Tensor<"f32"> {
  return { dtype: "f32", shape: [values.length], data: Float32Array.from(values) };
}

const weights = new Map<string, Tensor>([
  ["a", tensor(1, 2, 3, 4)],
  ["b", { dtype: "f32", shape: [2, 3], data: Float32Array.from([1, 2, 3, 4, 5, 6]) }],
]);

function create(options: SessionOptions = {}, plan: Plan = handPlan): Promise<Session> {
  return Session.create({ ...artefact, plan }, { threads: 2, weights, ...options });
}

describe("a session", () => {
  test("prepares weights, evaluates shape code and runs the steps", async () => {
    await using session = await create();
    for (const n of [1, 5, 1000, 3]) {
      const x = tensor(...Array.from({ length: n }, (_, i) => i / 2));
      const { outputs, sizes, host, stages, memory, milliseconds } = await session.run({ x });
      expect(outputs["y"]).toEqual({ dtype: "f32", shape: [n], data: x.data.map((v) => 4 * v + 3) });
      expect(outputs["c"]?.data).toEqual(Float32Array.of(3, 5, 7, 9));
      expect(outputs["b"]).toEqual(weights.get("b"));
      expect([...(outputs["t"]?.data ?? [])]).toEqual(Array.from({ length: n }, (_, i) => i));
      expect(sizes["N"]).toBe(n);
      expect(host["double"]).toBe(2 * n);
      expect(stages.map((s) => s.stage)).toEqual(["shape", "inputs", "first", "second", "copies", "outputs"]);
      expect(stages.reduce((sum, s) => sum + s.milliseconds, 0)).toBeLessThanOrEqual(milliseconds + 0.1);
      expect(memory.weights).toBe(4 * 4 + 4 * 6);
      expect(memory.arena).toBeGreaterThanOrEqual(16 * n);
    }
  });

  test("gives outputs that later runs leave alone", async () => {
    await using session = await create();
    const first = await session.run({ x: tensor(1) });
    await session.run({ x: tensor(2) });
    expect(first.outputs["y"]?.data[0]).toBe(7);
  });

  test("gives the same bytes on one thread and on two", async () => {
    const x = tensor(...Array.from({ length: 9999 }, (_, i) => Math.sin(i)));
    await using one = await create({ threads: 1 });
    await using two = await create({ threads: 2 });
    expect((await two.run({ x })).outputs).toEqual((await one.run({ x })).outputs);
  });

  test("serves runs asked for at once in their order", async () => {
    await using session = await create();
    const results = await Promise.all([1, 2, 3].map((v) => session.run({ x: tensor(v) })));
    expect(results.map((r) => r.outputs["y"]?.data[0])).toEqual([7, 11, 15]);
  });

  test("makes untrained weights from a seed, and says so", async () => {
    await using session = await create({ weights: undefined, init: { seed: 1 } });
    expect(session.untrained).toEqual(["a", "b"]);
    const { outputs } = await session.run({ x: tensor(1) });
    expect([...(outputs["b"]?.data ?? [])]).toEqual([5, 5, 5, 5, 5, 5]);
    await using again = await create({ weights: undefined, init: { seed: 1 }, threads: 1 });
    await using other = await create({ weights: undefined, init: { seed: 2 } });
    expect((await again.run({ x: tensor(1) })).outputs).toEqual(outputs);
    expect((await other.run({ x: tensor(1) })).outputs["c"]).not.toEqual(outputs["c"]);
    await using trained = await create();
    expect(trained.untrained).toEqual([]);
  });

  test("loads a safetensors file, under a prefix too", async () => {
    const file = path.join(folder, "weights.safetensors");
    await writeSafetensors(file, new Map([...weights].map(([name, t]) => [`tower.${name}`, t])));
    await using session = await create({ weights: { from: file, prefix: "tower." } });
    expect((await session.run({ x: tensor(0) })).outputs["c"]?.data).toEqual(Float32Array.of(3, 5, 7, 9));
    await expect(create({ weights: file })).rejects.toThrow(WeightsError);
    await expect(create({ weights: undefined })).rejects.toThrow("give weights, or a seed");
  });

  test("tells its progress", async () => {
    const seen: Progress[] = [];
    const onProgress = (p: Progress): number => seen.push(p);
    await using session = await create({ onProgress });
    await session.run({ x: tensor(0) }, { onProgress });
    expect(seen.filter((p) => p.phase === "weights").at(-1)).toEqual({ phase: "weights", done: 40, total: 40 });
    expect(seen.filter((p) => p.phase === "run").map((p) => [p.done, p.total])).toEqual([
      [1, 3],
      [2, 3],
      [3, 3],
    ]);
  });

  test("keeps a state from run to run, beginning with zeros", async () => {
    const counting: Plan = {
      ...handPlan,
      buffers: [...handPlan.buffers, f32("s", ["4"], { k: "state" }), f32("next", ["4"], { k: "output" })],
      states: [{ name: "s", buffer: 8, update: 9 }],
      outputs: [...handPlan.outputs, { name: "next", buffer: 9 }],
      steps: [...handPlan.steps, affine(8, 9, "4", "count")],
    };
    await using session = await create({}, counting);
    const seen: number[] = [];
    for (let i = 0; i < 4; i++) seen.push(Number((await session.run({ x: tensor(1) })).outputs["next"]?.data[3]));
    expect(seen).toEqual([1, 3, 7, 15]);
  });

  test("gives a parameter's place back when only packing needed it", () => {
    // a is read by `prepare` alone, so it is not among what stays.
    expect(weightsMemory(handPlan)).toEqual({ kept: 16 + 24, peak: 16 + 24 });
    // What runs alone read gets its place when `prepare` is done: here it is a's.
    const large = handPlan.buffers.map((b) => (b.name === "a" ? { ...b, shape: ["64"] } : b));
    expect(weightsMemory({ ...handPlan, buffers: large })).toEqual({ kept: 16 + 24, peak: 16 + 256 });
  });
});

describe("bad inputs", () => {
  test("are named with what was expected and found", async () => {
    await using session = await create();
    const rejected = async (inputs: Record<string, Tensor>, message: string | RegExp): Promise<void> => {
      const error: unknown = await session.run(inputs).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(InputError);
      expect((error as Error).message).toMatch(message);
    };
    await rejected({}, /x is missing: f32\[N\]/);
    await rejected({ x: tensor(1), z: tensor(1) }, /z is not an input; there are x/);
    await rejected({ x: { dtype: "i32", shape: [1], data: Int32Array.of(1) } }, /x: expected f32\[N\], found i32\[1\]/);
    await rejected({ x: { dtype: "f32", shape: [1, 1], data: Float32Array.of(1) } }, /expected f32\[N\], found f32\[1, 1\]/);
    await rejected({ x: { dtype: "f32", shape: [2], data: Float32Array.of(1) } }, /has 2 elements, and its data has 1/);
    await rejected({ x: { dtype: "f32", shape: [-1], data: new Float32Array() } }, /found f32\[-1\]/);
    await rejected({ x: { dtype: "f32", shape: [0], data: new Float32Array() } }, /axis 0 \(N\) is 0, outside 1…100000000/);
    await rejected({ x: { dtype: "f32", shape: [1], data: new Uint8Array(1) as unknown as Float32Array } }, /must be a Float32Array/);
    expect((await session.run({ x: tensor(1) })).outputs["y"]?.data[0]).toBe(7);
  });

  test("that need more memory than there is are refused before anything is allocated", async () => {
    await using session = await create();
    await session.run({ x: tensor(1) });
    const used = session.device.used;
    const huge = session.layout({ x: [100_000_000] });
    expect(huge.arenaBytes).toBeGreaterThanOrEqual(4e8);
    const bounded: Plan = { ...handPlan, buffers: handPlan.buffers.map((b) => (b.name === "middle" ? { ...b, shape: ["1000000*N"] } : b)) };
    await using wide = await create({}, bounded);
    const error: unknown = await wide.run({ x: tensor(...Array.from({ length: 5000 }, () => 1)) }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ResourceError);
    expect((error as Error).message).toMatch(
      /hand needs 18\.6 GiB for these inputs .* the largest value is middle, f32\[5000000000\], 18\.6 GiB/,
    );
    expect((error as ResourceError).needed).toBeGreaterThan(2e10);
    expect(session.device.used).toBe(used);
    expect((await wide.run({ x: tensor(1) })).outputs["y"]?.data[0]).toBe(7);
  });

  test("weights that need more than there is are refused before anything is allocated", async () => {
    const large: Plan = {
      ...handPlan,
      buffers: handPlan.buffers.map((b) => (b.name === "b" ? { ...b, shape: ["2000000000"] } : b)),
      params: handPlan.params.map((p) => (p.name === "b" ? { ...p, shape: [2_000_000_000] } : p)),
    };
    await using device = await WasmDevice.create({ threads: 1 });
    await expect(create({ device, weights: undefined, init: { seed: 0 } }, large)).rejects.toThrow(
      /the weights of hand need 7\.5 GiB .* the largest is b, f32\[2000000000\], 7\.5 GiB/,
    );
    expect(device.used).toBe(0);
  });
});

describe("stopping", () => {
  test("an aborted run rejects with the signal's reason and leaves the session usable", async () => {
    await using session = await create();
    await expect(session.run({ x: tensor(1) }, { signal: AbortSignal.abort(new Error("enough")) })).rejects.toThrow("enough");
    const abort = new AbortController();
    const running = session.run(
      { x: tensor(...Array.from({ length: 100_000 }, () => 1)) },
      { signal: abort.signal, onProgress: () => abort.abort(new Error("enough")) },
    );
    // Either the abort was seen between two steps, or the run was over before the event loop turned.
    await running.then(
      (r) => expect(r.outputs["y"]?.data[0]).toBe(7),
      (e: unknown) => expect((e as Error).message).toBe("enough"),
    );
    expect((await session.run({ x: tensor(1) })).outputs["y"]?.data[0]).toBe(7);
  });

  test("an aborted load frees what it took", async () => {
    await using device = await WasmDevice.create({ threads: 1 });
    const abort = new AbortController();
    await expect(create({ device, signal: abort.signal, onProgress: () => abort.abort(new Error("enough")) })).rejects.toThrow("enough");
    await expect(create({ device, weights: new Map() })).rejects.toThrow(WeightsError);
    expect(device.used).toBe(0);
  });

  test("a closed session refuses runs, and closing twice is fine", async () => {
    const session = await create();
    await session.close();
    await session.close();
    await expect(session.run({ x: tensor(1) })).rejects.toThrow(DeviceError);
    await expect(session.run({ x: tensor(1) })).rejects.toThrow("the session is closed");
  });

  test("sessions on a shared device free everything they used, and only that", async () => {
    await using device = await WasmDevice.create({ threads: 2 });
    await using first = await create({ device });
    const used = device.used;
    for (let i = 0; i < 5; i++) {
      await using second = await create({ device });
      expect((await second.run({ x: tensor(1, 2) })).outputs["y"]?.data).toEqual(Float32Array.of(7, 11));
      expect((await first.run({ x: tensor(1) })).outputs["y"]?.data[0]).toBe(7);
    }
    await first.close();
    expect(device.used).toBeLessThan(used);
    expect((await (await create({ device })).run({ x: tensor(1) })).outputs["y"]?.data[0]).toBe(7);
  });

  test("a device that fails makes the session say so", async () => {
    const trap: Plan = {
      ...handPlan,
      kernels: [...handPlan.kernels, { name: "trap", dims: ["bad", "n"], bufferCount: 1, scratch: "16", units: "bad + 1" }],
      steps: [
        ...handPlan.steps,
        {
          k: "dispatch",
          kernel: "trap",
          buffers: [2],
          dims: ["0", "1"],
          extents: ["1"],
          sources: [],
          flops: "1",
          bytes: "1",
          stage: "trap",
        },
      ],
    };
    await using session = await create({}, trap);
    await expect(session.run({ x: tensor(1) })).rejects.toThrow(/a kernel failed: .*unreachable/);
    await expect(session.run({ x: tensor(1) })).rejects.toThrow(DeviceError);
  });
});

test("1,000 runs of changing sizes leave memory as it was", async () => {
  await using session = await create();
  const sizes = Array.from({ length: 20 }, (_, i) => 1 + ((i * 7919) % 40_000));
  const run = async (n: number): Promise<void> => {
    const { outputs } = await session.run({ x: { dtype: "f32", shape: [n], data: new Float32Array(n).fill(1) } });
    if (outputs["y"]?.data[n - 1] !== 7) throw new Error(`wrong result for ${n}`);
  };
  for (const n of sizes) for (let i = 0; i < 10; i++) await run(n);
  const used = session.device.used;
  const before = process.memoryUsage();
  for (let i = 0; i < 1000; i++) await run(sizes[i % sizes.length] ?? 1);
  const after = process.memoryUsage();
  expect(session.device.used).toBe(used);
  expect(after.rss - before.rss).toBeLessThan(120 * 2 ** 20);
});

describe("an artefact", () => {
  const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
  function write(
    name: string,
    change: (files: Record<string, Uint8Array | undefined>, manifest: Record<string, unknown>) => void = () => undefined,
    plan: unknown = handPlan,
  ): string {
    const at = path.join(folder, name);
    rmSync(at, { recursive: true, force: true });
    mkdirSync(at);
    const files: Record<string, Uint8Array | undefined> = {
      "plan.json": new TextEncoder().encode(JSON.stringify(plan)),
      "kernels.plain.wasm": handKernels(),
      "kernels.relaxed.wasm": handKernels(),
    };
    const listed = Object.fromEntries(
      Object.entries(files).map(([file, bytes]) => [file, { bytes: bytes?.byteLength, sha256: sha256(bytes ?? new Uint8Array()) }]),
    );
    const manifest: Record<string, unknown> = { format: "uhd-artefact", version: 1, name: "hand", files: listed };
    change(files, manifest);
    for (const [file, bytes] of Object.entries(files)) if (bytes !== undefined) writeFileSync(path.join(at, file), bytes);
    if (Object.keys(manifest).length > 0) writeFileSync(path.join(at, "manifest.json"), JSON.stringify(manifest));
    return at;
  }

  test("loads from a folder, a file: URL and over http, and runs", async () => {
    const at = write("good");
    const { readFileSync } = await import("node:fs");
    const server = createServer((request, response) => {
      try {
        response.end(readFileSync(path.join(at, path.basename(request.url ?? ""))));
      } catch {
        response.writeHead(404).end();
      }
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const http = `http://127.0.0.1:${(server.address() as AddressInfo).port}/out`;
    try {
      for (const from of [at, pathToFileURL(`${at}/`), http, new URL(`${http}/`)]) {
        await using session = await Session.create(await loadArtefact(from), { threads: 2, weights });
        expect((await session.run({ x: tensor(1) })).outputs["y"]?.data[0]).toBe(7);
      }
      rmSync(path.join(at, "plan.json"));
      await expect(loadArtefact(http)).rejects.toThrow(/plan\.json cannot be read: the server answered 404/);
    } finally {
      server.close();
    }
  });

  test("that is incomplete, altered or of another version is refused", async () => {
    const flip = (bytes: Uint8Array | undefined): Uint8Array => {
      const copy = new Uint8Array(bytes ?? []);
      copy[copy.length >> 1] = (copy[copy.length >> 1] ?? 0) ^ 1;
      return copy;
    };
    const cases: readonly (readonly [RegExp, Parameters<typeof write>[1]])[] = [
      [/manifest\.json cannot be read/, (_, manifest) => Object.keys(manifest).forEach((key) => Reflect.deleteProperty(manifest, key))],
      [/does not describe a uhd-artefact/, (_, manifest) => (manifest["format"] = "zip")],
      [/has version 2; this runtime reads version 1/, (_, manifest) => (manifest["version"] = 2)],
      [/lists no files/, (_, manifest) => (manifest["files"] = 3)],
      [/does not list plan\.json/, (_, manifest) => (manifest["files"] = {})],
      [/plan\.json was altered: its SHA-256/, (files) => (files["plan.json"] = flip(files["plan.json"]))],
      [/kernels\.plain\.wasm was altered/, (files) => (files["kernels.plain.wasm"] = flip(files["kernels.plain.wasm"]))],
      [
        /kernels\.relaxed\.wasm cannot be read: it has \d+ bytes instead of/,
        (files) => (files["kernels.relaxed.wasm"] = new Uint8Array(5)),
      ],
      [/kernels\.plain\.wasm cannot be read/, (files) => (files["kernels.plain.wasm"] = undefined)],
      [/says "other" and the plan "hand"/, (_, manifest) => (manifest["name"] = "other")],
    ];
    for (const [message, change] of cases) {
      await expect(loadArtefact(write("bad", change))).rejects.toThrow(ArtefactError);
      await expect(loadArtefact(path.join(folder, "bad"))).rejects.toThrow(message);
    }
    await expect(loadArtefact(path.join(folder, "nothing here"))).rejects.toThrow(ArtefactError);
  });

  test("with a plan that does not agree with itself is refused", async () => {
    const step = handPlan.steps[0];
    const bad: readonly (readonly [unknown, RegExp])[] = [
      [[], /not a uhd-plan/],
      [{ ...handPlan, version: 9 }, /the plan has version 9/],
      [{ ...handPlan, steps: 5 }, /no list of steps/],
      [{ ...handPlan, steps: [{ ...step, buffers: [0, 99] }] }, /affine uses buffer 99/],
      [{ ...handPlan, steps: [{ ...step, buffers: [0] }] }, /the wrong number of arguments/],
      [{ ...handPlan, steps: [{ ...step, kernel: "none" }] }, /runs kernel none/],
      [{ ...handPlan, steps: [{ k: "jump" }] }, /unknown kind "jump"/],
      [{ ...handPlan, outputs: [{ name: "y", buffer: -1 }] }, /y uses buffer -1/],
      [{ ...handPlan, params: handPlan.params.map((p) => ({ ...p, shape: [7] })) }, /parameter a is not what its buffer holds/],
      [{ ...handPlan, tables: [] }, /holds a table that the plan does not have/],
    ];
    for (const [plan, message] of bad) {
      await expect(loadArtefact(write("plan", undefined, plan))).rejects.toThrow(message);
      expect(() => artefactInMemory({ plan: plan as Plan, modules: artefact.modules })).toThrow(message);
    }
  });

  test("whose kernels are not those of its plan is refused", async () => {
    const plan: Plan = {
      ...handPlan,
      kernels: [...handPlan.kernels, { name: "gone", dims: [], bufferCount: 0, scratch: "0", units: "1" }],
    };
    await expect(create({}, plan)).rejects.toThrow("needs kernels its module does not have: gone");
  });
});
