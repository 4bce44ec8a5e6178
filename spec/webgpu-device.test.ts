import { afterEach, describe, expect, test, type TestContext } from "vitest";
import type { Command } from "../runtime/device.ts";
import type { WebGpuDevice, WebGpuDeviceOptions } from "../runtime/devices/webgpu/device.ts";
import { ArtefactError, DeviceError, DeviceLostError, OutOfMemoryError, ResourceError, ValidationError } from "../runtime/errors.ts";
import { dispatch, filled, floats, gpuDevice, handCode, handKernel, whole } from "./webgpu-support.ts";

const affine = handKernel("affine", ["read", "read_write"], 1, "if (i < a.n0) { b1[i] = 2.0 * b0[i] + 1.0; }");
const inPlace = handKernel("in_place", ["read_write"], 1, "if (i < a.n0) { b0[i] = b0[i] + 1.0; }");
const slow = handKernel("slow", ["read_write"], 1, "var x = b0[i]; for (var k = 0; k < a.n0; k++) { x = x * 0.999 + 0.5; } b0[i] = x;");
const code = handCode(affine, inPlace, slow);

const open: WebGpuDevice[] = [];
async function device(context: TestContext, options: WebGpuDeviceOptions = {}): Promise<WebGpuDevice> {
  const d = await gpuDevice(context, options);
  open.push(d);
  return d;
}
afterEach(async () => {
  for (const d of open.splice(0)) await d.close();
});

/** As a driver would say it: Node has no GPUOutOfMemoryError to construct. */
class RefusedMemory extends Error implements GPUError {
  readonly __brand = "GPUError";
}

const counting = (n: number): number[] => Array.from({ length: n }, (_, i) => i - 7);

describe("the WebGPU device", () => {
  test("runs every unit exactly once, in any sizes, also beyond 65,535 workgroups", async (context) => {
    const d = await device(context);
    const module = await d.load(code);
    for (const n of [0, 1, 63, 64, 65, 1000, 65536 * 64 + 5]) {
      const [x, y] = [await filled(d, counting(n)), d.alloc(4 * n)];
      await d.submit([dispatch(module, "affine", [whole(x), whole(y)], [n], Math.ceil(n / 64))]);
      const found = new Float32Array((await d.read(y, 0, 4 * n)).buffer);
      expect(found.length).toBe(n);
      expect(found.findIndex((v, i) => v !== 2 * (i - 7) + 1)).toBe(-1);
      d.free(x);
      d.free(y);
    }
  });

  test("runs commands in order, copies included, within one buffer and over themselves too", async (context) => {
    const d = await device(context);
    const module = await d.load(code);
    const n = 300;
    const x = await filled(d, counting(n));
    const y = d.alloc(4 * n);
    const step = [dispatch(module, "affine", [whole(x), whole(y)], [n], 5), { k: "copy", from: whole(y), to: whole(x) } as const];
    const shift: Command = {
      k: "copy",
      from: { buffer: x, offset: 0, bytes: 4 * (n - 4) },
      to: { buffer: x, offset: 16, bytes: 4 * (n - 4) },
    };
    await d.submit([...step, ...step, shift]);
    const after = counting(n).map((v) => 4 * v + 3);
    expect(await floats(d, x)).toEqual([...after.slice(0, 4), ...after.slice(0, n - 4)]);
  });

  test("binds places of one buffer to one dispatch", async (context) => {
    const d = await device(context);
    const module = await d.load(
      handCode({ ...affine, bindings: ["read_write", "read_write"], code: affine.code.replace("read>", "read_write>") }),
    );
    const arena = d.alloc(4096);
    await d.write(arena, 1024, new Uint8Array(Float32Array.from(counting(100)).buffer));
    const at = (offset: number) => ({ buffer: arena, offset, bytes: 400 });
    await d.submit([dispatch(module, "affine", [at(1024), at(2048)], [100], 2)]);
    expect([...new Float32Array((await d.read(arena, 2048, 400)).buffer)]).toEqual(counting(100).map((v) => 2 * v + 1));
  });

  test("writes and reads any number of bytes at multiples of 4", async (context) => {
    const d = await device(context);
    const b = d.alloc(1003);
    const bytes = Uint8Array.from({ length: 1003 }, (_, i) => (i * 37) % 251);
    await d.write(b, 0, bytes);
    expect(await d.read(b, 0, 1003)).toEqual(bytes);
    for (const [offset, size] of [
      [4, 1],
      [1000, 3],
      [8, 6],
      [0, 0],
    ] as const) {
      await d.write(b, offset, new Uint8Array(size).fill(9));
      expect(await d.read(b, offset, size)).toEqual(new Uint8Array(size).fill(9));
    }
    await expect(d.read(b, 1000, 4)).rejects.toThrow(RangeError);
    await expect(d.write(b, 2, new Uint8Array(4))).rejects.toThrow(RangeError);
  });

  test("reads a large buffer in pieces, and holds no more than one of them afterwards", async (context) => {
    const d = await device(context);
    const bytes = 9 * 2 ** 20 + 4;
    const buffer = d.alloc(bytes);
    const before = d.used;
    const wanted = Uint8Array.from({ length: bytes }, (_, i) => (i * 7919 + (i >> 12)) % 251);
    await d.write(buffer, 0, wanted);
    expect(Buffer.from(await d.read(buffer, 0, bytes)).equals(Buffer.from(wanted))).toBe(true);
    expect(d.used - before).toBeLessThanOrEqual(4 * 2 ** 20);
    d.free(buffer);
  });

  test("creates nothing when the same commands run again, or others with other sizes", async (context) => {
    const d = await device(context);
    const module = await d.load(code);
    const x = await filled(d, counting(100));
    const y = d.alloc(400);
    const commands = (n: number): Command[] => [
      dispatch(module, "affine", [whole(x), whole(y)], [n], 2),
      dispatch(module, "in_place", [whole(y)], [n], 2),
      { k: "copy", from: { buffer: y, offset: 0, bytes: 40 }, to: { buffer: y, offset: 200, bytes: 40 } },
    ];
    const first = commands(100);
    await d.submit(first);
    await d.read(y, 0, 400);
    const before = { ...d.made };
    for (let i = 0; i < 5; i++) {
      await d.submit(first);
      await d.submit(commands(50 + i));
      await d.read(y, 0, 400);
    }
    expect(d.made).toEqual(before);
    expect(before.buffers).toBeGreaterThan(0);
    expect(before.groups).toBe(2);
  });

  test("compiles equal text once", async (context) => {
    const d = await device(context);
    await (await d.load(code)).ready?.();
    const before = d.made.pipelines;
    await (await d.load(handCode({ ...affine, name: "again" }))).ready?.();
    expect(d.made.pipelines).toBe(before);
    await (await d.load(handCode(handKernel("other", ["read_write"], 0, "b0[i] = 3.0;")))).ready?.();
    expect(d.made.pipelines).toBe(before + 1);
  });

  test("measures each command when it is asked to", async (context) => {
    for (const hide of [[], ["timestamp-query"]] as const) {
      const d = await device(context, { hide });
      const module = await d.load(code);
      const x = await filled(d, counting(6400));
      const y = d.alloc(4 * 6400);
      const list: Command[] = [
        dispatch(module, "in_place", [whole(x)], [6400], 100),
        dispatch(module, "slow", [whole(x)], [20000], 100),
        { k: "copy", from: whole(x), to: whole(y) },
      ];
      await d.submit(list, { profile: true });
      const times: [number, number, number][] = [];
      await d.submit(list, { profile: true, onCommand: (...time) => times.push(time) });
      expect(times.map(([index]) => index)).toEqual([0, 1, 2]);
      const [short, long] = times;
      expect(long?.[1]).toBeGreaterThan(3 * (short?.[1] ?? Infinity));
      expect(times.every(([, ms, begin], i) => ms >= 0 && begin >= (times[i - 1]?.[2] ?? 0))).toBe(true);
      expect((await floats(d, y)).every((v) => Math.abs(v - 500) < 0.1)).toBe(true);
    }
  });

  test("stops between pieces when its signal aborts, lets the event loop turn, and works on", async (context) => {
    const d = await device(context);
    const module = await d.load(code);
    const x = await filled(d, counting(64));
    const work = Array.from({ length: 400 }, () => dispatch(module, "slow", [whole(x)], [500_000], 1, { flops: 1e8 }));
    const abort = new AbortController();
    let ran = 0;
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    setTimeout(() => abort.abort(new Error("enough")), 150);
    await expect(d.submit(work, { signal: abort.signal, onCommand: () => ran++ })).rejects.toThrow("enough");
    clearInterval(timer);
    expect(ran).toBeLessThan(400);
    expect(turns).toBeGreaterThan(5);
    const y = await filled(d, [1, 2]);
    await d.submit([dispatch(module, "in_place", [whole(y)], [2], 1)]);
    expect(await floats(d, y)).toEqual([2, 3]);
    await expect(d.submit([], { signal: AbortSignal.abort(new Error("no")) })).rejects.toThrow("no");
  });
});

describe("what is wrong on a GPU", () => {
  test("code that does not compile is a ValidationError with the kernel, its .uhd line and the WGSL line", async (context) => {
    const d = await device(context);
    const bad = handKernel("typo", ["read_write"], 0, "b0[i] = nothing;");
    const module = await d.load(handCode(affine, bad), { sources: (k) => [`${k}.uhd:3:4 < main.uhd:9:1`] });
    const failure = await module.ready?.().then(
      () => undefined,
      (e: unknown) => e,
    );
    expect(failure).toBeInstanceOf(ValidationError);
    expect(String(failure)).toMatch(/kernel typo \(typo\.uhd:3:4\).*line \d+:\d+ of its WGSL: unresolved value 'nothing'/s);
    const x = await filled(d, [1]);
    await expect(d.submit([dispatch(module, "typo", [whole(x)], [], 1)])).rejects.toBeInstanceOf(ValidationError);
    await d.submit([dispatch(module, "affine", [whole(x), whole(d.alloc(4))], [1], 1)]);
  });

  test("a dispatch that breaks a rule is a ValidationError that names the kernel among others", async (context) => {
    const d = await device(context);
    const module = await d.load(code);
    const [x, y] = [await filled(d, counting(64)), await filled(d, counting(64))];
    const fine = dispatch(module, "in_place", [whole(x)], [64], 1);
    // One buffer is read and written by one dispatch.
    const wrong = dispatch(module, "affine", [whole(y), whole(y)], [64], 1, { sources: ["vit.uhd:7:2"] });
    const failure = await d.submit([fine, wrong, fine]).then(
      () => undefined,
      (e: unknown) => e,
    );
    expect(failure).toBeInstanceOf(ValidationError);
    expect(failure).toMatchObject({ code: "validation", place: { kernel: "affine", sources: ["vit.uhd:7:2"] } });
    await d.submit([fine]);
  });

  test("memory is planned: what exceeds the capacity or a buffer's limit is refused before it is asked for", async (context) => {
    const d = await device(context, { capacity: 10_000 });
    const a = d.alloc(6000);
    expect(() => d.alloc(6000)).toThrow(ResourceError);
    d.free(a);
    d.free(d.alloc(6000));
    expect(d.used).toBe(0);
    const large = await device(context);
    expect(() => large.alloc(2 ** 29)).toThrow(/512 MiB cannot be allocated.*256 MiB is the most/);
  });

  test("memory that the driver refuses is an OutOfMemoryError, told where it is first used", async (context) => {
    const d = await device(context);
    // No software driver refuses memory, so the refusal is imitated: the error scope of the allocation reports one.
    const pop = d.gpu.popErrorScope.bind(d.gpu);
    d.gpu.popErrorScope = async () => (await pop()) ?? new RefusedMemory("no memory");
    const x = d.alloc(64);
    d.gpu.popErrorScope = pop;
    await expect(d.write(x, 0, new Uint8Array(4))).rejects.toBeInstanceOf(OutOfMemoryError);
    await d.write(x, 0, new Uint8Array(4));
  });

  test("a loss in the middle of a run is a DeviceLostError with the kernel, and everything after it fails alike", async (context) => {
    const d = await device(context);
    const module = await d.load(code);
    const x = await filled(d, counting(64));
    const work = Array.from({ length: 50 }, () =>
      dispatch(module, "slow", [whole(x)], [500_000], 1, { flops: 1e9, sources: ["a.uhd:1:2"] }),
    );
    const running = d.submit(work);
    setTimeout(() => d.gpu.destroy(), 60);
    const failure = await running.then(
      () => undefined,
      (e: unknown) => e,
    );
    expect(failure).toBeInstanceOf(DeviceLostError);
    expect(String(failure)).toMatch(/kernel slow.*\(a\.uhd:1:2\).*lost/);
    await expect(d.read(x, 0, 4)).rejects.toBeInstanceOf(DeviceLostError);
    expect(() => d.alloc(4)).toThrow(DeviceLostError);
    d.free(x);
    await d.close();
    await d.close();
  });

  test("a closed device, freed buffers and code for other targets are refused", async (context) => {
    const d = await device(context);
    await expect(d.load({})).rejects.toThrow(ArtefactError);
    await expect(d.load({})).rejects.toThrow("--target webgpu");
    const module = await d.load(code);
    const x = await filled(d, [1]);
    const list = [dispatch(module, "in_place", [whole(x)], [1], 1)];
    await d.submit(list);
    d.free(x);
    await expect(d.submit(list)).rejects.toThrow("freed");
    expect(() => d.free(x)).toThrow(DeviceError);
    await d.close();
    await expect(d.submit(list)).rejects.toThrow("closed");
  });
});
