import { afterEach, describe, expect, test } from "vitest";
import type { Command, Device, DeviceBuffer, KernelModule } from "../runtime/device.ts";
import { WasmDevice, type WasmDeviceOptions } from "../runtime/devices/wasm/device.ts";
import { Heap } from "../runtime/devices/wasm/heap.ts";
import { withSharedMemory } from "../runtime/devices/wasm/module.ts";
import { spawnWorker, type WorkerHandle } from "../runtime/devices/wasm/workers.ts";
import { ArtefactError, DeviceError, ResourceError } from "../runtime/errors.ts";
import { handKernels } from "./runtime-kernels.ts";

const open: Device[] = [];
async function device(options: WasmDeviceOptions): Promise<{ d: WasmDevice; module: KernelModule }> {
  const d = await WasmDevice.create(options);
  open.push(d);
  return { d, module: await d.load({ wasm: { plain: handKernels() } }) };
}
afterEach(async () => {
  for (const d of open.splice(0)) await d.close();
});

function dispatch(
  module: KernelModule,
  kernel: string,
  buffers: readonly DeviceBuffer[],
  dims: readonly number[],
  units: number,
  flops = 1e9,
): Command {
  return {
    k: "dispatch",
    module,
    kernel,
    bindings: buffers.map((buffer) => ({ buffer, offset: 0, bytes: buffer.bytes })),
    dims,
    units,
    scratch: 16,
    flops,
    bytes: 0,
  };
}

async function ints(d: Device, buffer: DeviceBuffer): Promise<Int32Array> {
  return new Int32Array((await d.read(buffer, 0, buffer.bytes)).buffer);
}

describe.each([1, 2, 3])("a device of %i threads", (threads) => {
  test("runs every unit exactly once, in any sizes", async () => {
    const { d, module } = await device({ threads });
    expect(d.threads).toBe(threads);
    for (const n of [0, 1, 2, 63, 64, 1000, 12345]) {
      const x = d.alloc(4 * n);
      const y = d.alloc(4 * n);
      const values = Float32Array.from({ length: n }, (_, i) => i - 7);
      await d.write(x, 0, new Uint8Array(values.buffer));
      await d.submit([dispatch(module, "affine", [x, y], [], n)]);
      const got = new Float32Array((await d.read(y, 0, 4 * n)).buffer);
      expect(got).toEqual(values.map((v) => 2 * v + 1));
      d.free(x);
      d.free(y);
    }
  });

  test("runs commands in order, copies included", async () => {
    const { d, module } = await device({ threads });
    const n = 5000;
    const x = d.alloc(4 * n);
    const y = d.alloc(4 * n);
    await d.write(x, 0, new Uint8Array(4 * n));
    const whole = (buffer: DeviceBuffer): { buffer: DeviceBuffer; offset: number; bytes: number } => ({
      buffer,
      offset: 0,
      bytes: buffer.bytes,
    });
    const round: Command[] = [dispatch(module, "affine", [x, y], [], n), { k: "copy", from: whole(y), to: whole(x) }];
    await d.submit([...round, ...round, ...round]);
    const got = new Float32Array((await d.read(x, 0, 4 * n)).buffer);
    expect(got.every((v) => v === 7)).toBe(true);
  });

  test("gives each thread scratch of its own", async () => {
    const { d, module } = await device({ threads });
    const y = d.alloc(4 * 300);
    for (let i = 0; i < 20; i++) await d.submit([dispatch(module, "count", [y], [3000 + i], 300)]);
    expect((await ints(d, y)).every((v) => v === 3019)).toBe(true);
  });

  test("stops within a long dispatch when its signal aborts, and works on", async () => {
    const { d, module } = await device({ threads });
    const y = d.alloc(4 * 100_000);
    const abort = new AbortController();
    const start = performance.now();
    setTimeout(() => abort.abort(), 60);
    // Ten seconds of work or more, if nothing stopped it.
    await expect(d.submit([dispatch(module, "count", [y], [100_000], 100_000, 1e12)], { signal: abort.signal })).rejects.toThrow(/abort/i);
    expect(performance.now() - start).toBeLessThan(3000);
    const few = d.alloc(40);
    await d.submit([dispatch(module, "count", [few], [5], 10)]);
    expect([...(await ints(d, few))]).toEqual(Array.from({ length: 10 }, () => 5));
  });

  test("does not start when its signal is aborted already", async () => {
    const { d, module } = await device({ threads });
    const y = d.alloc(64);
    await d.write(y, 0, new Uint8Array(64));
    await expect(d.submit([dispatch(module, "count", [y], [5], 16)], { signal: AbortSignal.abort(new Error("no")) })).rejects.toThrow("no");
    expect((await ints(d, y)).every((v) => v === 0)).toBe(true);
  });

  test("lets the event loop turn while it works", async () => {
    const { d, module } = await device({ threads });
    const y = d.alloc(4 * 4000);
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    const start = performance.now();
    await d.submit([dispatch(module, "count", [y], [100_000], 4000, 1e11)]);
    clearInterval(timer);
    expect(turns).toBeGreaterThan((performance.now() - start) / 200);
  });

  test("turns a kernel's trap into a DeviceError, and refuses work from then on", async () => {
    const { d, module } = await device({ threads });
    const y = d.alloc(4 * 400);
    for (const bad of [399]) {
      await expect(d.submit([dispatch(module, "trap", [y], [bad, 2000], 400)])).rejects.toThrow(DeviceError);
    }
    await expect(d.submit([dispatch(module, "count", [y], [1], 1)])).rejects.toThrow(DeviceError);
    await d.close();
  });

  test("refuses everything but closing after it is closed", async () => {
    const { d, module } = await device({ threads });
    const y = d.alloc(64);
    await d.close();
    await d.close();
    await expect(d.submit([dispatch(module, "count", [y], [1], 1)])).rejects.toThrow("closed");
    await expect(d.write(y, 0, new Uint8Array(1))).rejects.toThrow("closed");
    expect(() => d.alloc(1)).toThrow("closed");
    d.free(y);
  });

  test("ends a submission that is running when it is closed", async () => {
    const { d, module } = await device({ threads });
    const y = d.alloc(4 * 100_000);
    const running = d.submit([dispatch(module, "count", [y], [100_000], 100_000, 1e12)]);
    const failed = expect(running).rejects.toThrow("closed");
    await new Promise((resolve) => setTimeout(resolve, 30));
    await d.close();
    await failed;
  });
});

describe("the WebAssembly device", () => {
  test("reports a worker that dies, idle or at work, and does not hang", async () => {
    for (const atWork of [false, true]) {
      const workers: WorkerHandle[] = [];
      let report: ((reason: string) => void) | undefined;
      const { d, module } = await device({
        threads: 2,
        spawn: async (source, events) => {
          report = (reason) => events.onFailure(reason);
          const worker = await spawnWorker(source, events);
          workers.push(worker);
          return worker;
        },
      });
      const y = d.alloc(4 * 20_000);
      const work = (): Promise<void> => d.submit([dispatch(module, "count", [y], [100_000], 20_000, 1e12)]);
      if (atWork) {
        const failed = expect(work()).rejects.toThrow(DeviceError);
        await new Promise((resolve) => setTimeout(resolve, 40));
        await workers[0]?.terminate();
        report?.("it was killed");
        await failed;
      } else {
        await workers[0]?.terminate();
        report?.("it was killed");
        await expect(work()).rejects.toThrow("a worker thread failed: it was killed");
      }
      await expect(d.load({ wasm: { plain: handKernels() } })).rejects.toThrow(DeviceError);
      await d.close();
    }
  });

  test("notices by itself that a worker's script ends", async () => {
    await expect(WasmDevice.create({ threads: 2, spawn: (_, events) => spawnWorker("process.exit(3)", events) })).rejects.toThrow(
      /worker thread.*code 3/,
    );
    await expect(WasmDevice.create({ threads: 2, spawn: (_, events) => spawnWorker("throw new Error('broken')", events) })).rejects.toThrow(
      /worker thread.*broken/,
    );
  });

  test("gives the same bytes on one thread and on several", async () => {
    const results: Float32Array[] = [];
    for (const threads of [1, 2, 4]) {
      const { d, module } = await device({ threads });
      const x = d.alloc(4 * 10_001);
      const y = d.alloc(4 * 10_001);
      await d.write(x, 0, new Uint8Array(Float32Array.from({ length: 10_001 }, (_, i) => Math.sin(i)).buffer));
      await d.submit([dispatch(module, "affine", [x, y], [], 10_001), dispatch(module, "affine", [y, x], [], 10_001)]);
      results.push(new Float32Array((await d.read(x, 0, x.bytes)).buffer));
    }
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
  });

  test("never mixes up jobs that follow each other at once, with more threads than cores", async () => {
    const { d, module } = await device({ threads: 5 });
    const jobs = 3000;
    const units = 24;
    const y = d.alloc(4 * units);
    const log = d.alloc(4 * units * jobs);
    const commands = Array.from({ length: jobs }, (_, job): Command[] => [
      dispatch(module, "count", [y], [job % 7], units),
      { k: "copy", from: { buffer: y, offset: 0, bytes: 4 * units }, to: { buffer: log, offset: 4 * units * job, bytes: 4 * units } },
    ]).flat();
    for (let round = 0; round < 3; round++) {
      await d.submit(commands);
      const got = await ints(d, log);
      expect(got.findIndex((v, i) => v !== Math.floor(i / units) % 7)).toBe(-1);
    }
  });

  test("refuses modules that are damaged or import no memory, and kernels that are not there", async () => {
    const { d, module } = await device({ threads: 2 });
    await expect(d.load({ wasm: { plain: new Uint8Array() } })).rejects.toThrow(ArtefactError);
    await expect(d.load({ wasm: { plain: handKernels().subarray(0, 40) } })).rejects.toThrow();
    await expect(d.load({ wasm: { plain: new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]) } })).rejects.toThrow("imports no memory");
    await expect(d.submit([dispatch(module, "nothing", [], [], 1)])).rejects.toThrow("nothing is not loaded");
    expect(() => withSharedMemory(new Uint8Array([1, 2, 3]), true)).toThrow(ArtefactError);
  });

  test("loads the same bytes once", async () => {
    const { d } = await device({ threads: 2 });
    const plain = handKernels();
    expect(await d.load({ wasm: { plain } })).toBe(await d.load({ wasm: { plain } }));
    expect(await d.load({ wasm: { plain: handKernels() } })).not.toBe(await d.load({ wasm: { plain } }));
  });

  test("takes the plain module where relaxed instructions are unknown", async () => {
    const broken = handKernels();
    broken[broken.length - 1] = 0xff;
    const { d } = await device({ threads: 1 });
    const module = await d.load({ wasm: { plain: handKernels(), relaxed: broken } });
    expect(module.kernels.has("affine")).toBe(true);
    const strict = await WasmDevice.create({ threads: 1, simd: "relaxed" });
    open.push(strict);
    await expect(strict.load({ wasm: { plain: handKernels(), relaxed: broken } })).rejects.toThrow("relaxed SIMD was asked for");
  });

  test("says how much there was when memory ends, and refuses bindings outside a buffer", async () => {
    const { d, module } = await device({ threads: 1 });
    expect(() => d.alloc(5 * 2 ** 30)).toThrow(ResourceError);
    expect(d.used).toBe(0);
    const small = d.alloc(64);
    await expect(d.write(small, 60, new Uint8Array(8))).rejects.toThrow(RangeError);
    const command: Command = {
      k: "dispatch",
      module,
      kernel: "count",
      bindings: [{ buffer: small, offset: 32, bytes: 64 }],
      dims: [1],
      units: 1,
      scratch: 16,
      flops: 0,
      bytes: 0,
    };
    await expect(d.submit([command])).rejects.toThrow("leaves its buffer");
    d.free(small);
    expect(() => d.free(small)).toThrow(DeviceError);
  });

  test("refuses a number of threads that makes no sense", async () => {
    for (const threads of [0, -1, 1.5, 1000]) await expect(WasmDevice.create({ threads })).rejects.toThrow(RangeError);
  });

  test("keeps memory flat over 1,000 submissions and 30 devices", async () => {
    const { d, module } = await device({ threads: 2 });
    const y = d.alloc(4 * 1000);
    const once = async (): Promise<void> => {
      const x = d.alloc(1 << 20);
      await d.write(x, 0, new Uint8Array(1 << 20));
      await d.submit([dispatch(module, "count", [y], [10], 1000), dispatch(module, "affine", [x, x], [], 1000)]);
      await d.read(y, 0, 4000);
      d.free(x);
    };
    for (let i = 0; i < 200; i++) await once();
    const used = d.used;
    const before = process.memoryUsage().rss;
    for (let i = 0; i < 1000; i++) await once();
    for (let i = 0; i < 30; i++) {
      const { d: other } = await device({ threads: 2 });
      await other.close();
    }
    expect(d.used).toBe(used);
    expect(process.memoryUsage().rss - before).toBeLessThan(150 * 2 ** 20);
  });
});

describe("the heap", () => {
  test("never gives out overlapping ranges, reuses what is freed, and ends empty", () => {
    const heap = new Heap(100, 1 << 20);
    const live = new Map<number, number>();
    let state = 12345;
    const random = (n: number): number => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) % n;
    for (let i = 0; i < 5000; i++) {
      if (random(2) === 0 || live.size === 0) {
        const bytes = random(5000);
        let start: number;
        try {
          start = heap.alloc(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(ResourceError);
          continue;
        }
        expect(start % 64).toBe(0);
        for (const [other, size] of live) expect(start + bytes <= other || other + size <= start).toBe(true);
        expect(start + bytes + 64).toBeLessThanOrEqual(1 << 20);
        live.set(start, bytes);
      } else {
        const victim = [...live.keys()][random(live.size)] ?? 0;
        heap.free(victim);
        live.delete(victim);
      }
    }
    for (const start of live.keys()) heap.free(start);
    expect(heap.used).toBe(0);
    expect(heap.top).toBe(128);
    expect(() => heap.free(128)).toThrow(RangeError);
  });
});
