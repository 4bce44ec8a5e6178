// Checkpoints in: what the format allows, every way a file can lie, and what is said when a checkpoint does not fit.

import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { dtypes, type DType } from "../compiler/ir/dtype.ts";
import type { PlanParam } from "../compiler/ir/plan/types.ts";
import { SafetensorsError, WeightsError } from "../runtime/errors.ts";
import { repeatedKeys } from "../runtime/json.ts";
import { arrays, bytesOfTensor, elementCount, type Tensor } from "../runtime/tensor.ts";
import { bf16OfFloat, convertElements, floatOfHalf, halfOfFloat } from "../runtime/weights/convert.ts";
import { normalQuantile, seededElements } from "../runtime/weights/init.ts";
import { openParams, type WeightsOptions } from "../runtime/weights/load.ts";
import { encodeSafetensors, openSafetensors, writeSafetensors } from "../runtime/weights/safetensors.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-safetensors-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A file with this header (an object, or its text) and this many bytes of data. */
function file(header: unknown, dataBytes: number, statedLength?: bigint): Uint8Array {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const out = new Uint8Array(8 + text.length + dataBytes);
  new DataView(out.buffer).setBigUint64(0, statedLength ?? BigInt(text.length), true);
  out.set(text, 8);
  for (let i = 0; i < dataBytes; i++) out[8 + text.length + i] = i % 256;
  return out;
}

const f32 = (shape: readonly number[], begin: number, end: number): unknown => ({ dtype: "F32", shape, data_offsets: [begin, end] });

describe("a safetensors file", () => {
  const refused: Readonly<Record<string, readonly [Uint8Array, RegExp]>> = {
    "that is empty": [new Uint8Array(), /it is empty/],
    "of seven bytes": [new Uint8Array(7), /7 bytes, fewer than the 8/],
    "with a header of 2^63 bytes": [file({}, 0, 2n ** 63n), /its header has 9223372036854775808 bytes, and only 2 follow/],
    "with a header of 2^64 - 1 bytes": [file({}, 0, 2n ** 64n - 1n), /18446744073709551615 bytes/],
    "with a header longer than itself": [file({}, 0, 3n), /its header has 3 bytes, and only 2 follow/],
    "with an empty header": [file("", 4), /not JSON/],
    "with a header that is not JSON": [file("{'a': 1}", 0), /not JSON/],
    "with a header that is not UTF-8": [Uint8Array.from([2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe]), /not JSON/],
    "with a list for a header": [file([], 0), /not a JSON object/],
    "with null for a header": [file("null", 0), /not a JSON object/],
    "cut inside its data": [file({ a: f32([4], 0, 16) }, 12), /"a" ends at byte 16 of the data, and the file has 12/],
    "with offsets behind its end": [file({ a: f32([1], 4_000_000_000, 4_000_000_004) }, 4), /ends at byte 4000000004/],
    "with offsets over 2^53": [
      file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[9007199254740992,9007199254740996]}}', 4),
      /not two positions/,
    ],
    "with negative offsets": [file({ a: f32([1], -4, 0) }, 4), /offsets \[-4,0\], which are not two positions/],
    "with offsets that are not integers": [file({ a: f32([1], 0.5, 4.5) }, 5), /not two positions/],
    "with offsets that are strings": [file({ a: { dtype: "F32", shape: [1], data_offsets: ["0", "4"] } }, 4), /not two positions/],
    "with one offset": [file({ a: { dtype: "F32", shape: [1], data_offsets: [0] } }, 4), /not two positions/],
    "with offsets the wrong way round": [file({ a: f32([0], 4, 0) }, 4), /begins at 4, behind its end at 0/],
    "with overlapping tensors": [file({ a: f32([2], 0, 8), b: f32([2], 4, 12) }, 12), /"a" and "b" overlap/],
    "with the same bytes twice": [file({ a: f32([2], 0, 8), b: f32([2], 0, 8) }, 8), /overlap/],
    "with a hole": [file({ a: f32([1], 0, 4), b: f32([1], 8, 12) }, 12), /4 unused bytes before tensor "b"/],
    "with bytes left over": [file({ a: f32([1], 0, 4) }, 9), /5 bytes follow the last tensor/],
    "with a shape that does not give its size": [file({ a: f32([3], 0, 8) }, 8), /F32\[3\] needs 12 bytes, and its offsets hold 8/],
    "with a shape that overflows": [file({ a: f32([2 ** 30, 2 ** 30, 2 ** 30], 0, 8) }, 8), /more elements than can be counted/],
    "with a shape whose product wraps to its size": [file({ a: f32([2 ** 32, 2 ** 32], 0, 0) }, 0), /more elements/],
    "with a negative size": [file({ a: f32([-1, -2], 0, 8) }, 8), /not a list of at most 64 sizes/],
    "with a size that is a fraction": [file({ a: f32([0.5, 4], 0, 8) }, 8), /not a list/],
    "with a thousand axes": [
      file(
        {
          a: f32(
            Array.from({ length: 1000 }, () => 1),
            0,
            4,
          ),
        },
        4,
      ),
      /not a list/,
    ],
    "with an unknown dtype": [file({ a: { dtype: "F99", shape: [1], data_offsets: [0, 4] } }, 4), /unknown dtype "F99"/],
    "with the dtype __proto__": [file({ a: { dtype: "__proto__", shape: [1], data_offsets: [0, 4] } }, 4), /unknown dtype/],
    "with no dtype": [file({ a: { shape: [1], data_offsets: [0, 4] } }, 4), /unknown dtype undefined/],
    "with a tensor that is a number": [file({ a: 1 }, 0), /"a" is not described by an object/],
    "with the same tensor twice": [
      file('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
      /key "a" twice/,
    ],
    "with the same tensor twice, once escaped": [
      file('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
      /key "a" twice/,
    ],
    "with the same field twice": [file('{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1), /key "dtype" twice/],
    "with metadata that is not text": [file({ __metadata__: { a: 1 } }, 0), /__metadata__.a is not a string/],
  };
  for (const [what, [bytes, message]] of Object.entries(refused)) {
    test(`${what} is refused`, async () => {
      await expect(openSafetensors(bytes)).rejects.toThrow(SafetensorsError);
      await expect(openSafetensors(bytes)).rejects.toThrow(message);
      const on = path.join(folder, "hostile.safetensors");
      writeFileSync(on, bytes);
      await expect(openSafetensors(on)).rejects.toThrow(message);
    });
  }

  test("that does not exist, or is a folder, is named", async () => {
    await expect(openSafetensors(path.join(folder, "none.safetensors"))).rejects.toThrow(/none\.safetensors cannot be opened/);
    await expect(openSafetensors(folder)).rejects.toThrow(SafetensorsError);
  });

  test("may hold scalars, empty tensors, metadata, foreign dtypes and a tensor called __proto__", async () => {
    const header =
      '{"__metadata__":{"format":"pt"},"s":{"dtype":"F64","shape":[],"data_offsets":[0,8]},"e":{"dtype":"F32","shape":[0,7],"data_offsets":[8,8]},"__proto__":{"dtype":"U64","shape":[1],"data_offsets":[8,16]}}  ';
    await using opened = await openSafetensors(file(header, 16));
    expect([...opened.tensors.keys()].sort()).toEqual(["__proto__", "e", "s"]);
    expect(opened.metadata.get("format")).toBe("pt");
    expect(opened.tensors.get("s")?.shape).toEqual([]);
  });

  test("changed at random is refused or read, and nothing else", async () => {
    const good = file({ a: f32([2], 0, 8), b: { dtype: "I8", shape: [3, 1], data_offsets: [8, 11] } }, 11);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ at: fc.nat(good.length - 1), value: fc.nat(255) }), { minLength: 1, maxLength: 4 }),
        async (changes) => {
          const bytes = new Uint8Array(good);
          for (const { at, value } of changes) bytes[at] = value;
          const result = await openSafetensors(bytes).catch((e: unknown) => e);
          if (result instanceof Error) expect(result).toBeInstanceOf(SafetensorsError);
        },
      ),
      { numRuns: 2000 },
    );
  });
});

test("repeated keys are found at every depth, and only there", () => {
  const json = fc.letrec((tie) => ({
    value: fc.oneof(
      { depthSize: "small" },
      fc.string(),
      fc.integer(),
      fc.array(tie("value"), { maxLength: 3 }),
      fc.dictionary(fc.string(), tie("value"), { maxKeys: 3 }),
    ),
  }));
  fc.assert(
    fc.property(json.value, (value) => {
      expect(repeatedKeys(JSON.stringify(value))).toEqual([]);
    }),
    { numRuns: 500 },
  );
  expect(repeatedKeys('{"a":{"b":[{"c":1,"d":",\\"c\\":","c":2}]},"e":{"c":1},"a":0}')).toEqual(["c", "a"]);
});

const anyTensor: fc.Arbitrary<Tensor> = fc
  .record({ dtype: fc.constantFrom(...dtypes), shape: fc.array(fc.nat(4), { maxLength: 4 }), seed: fc.nat(255) })
  .map(({ dtype, shape, seed }) => {
    const count = elementCount(shape);
    const data = new arrays[dtype](new ArrayBuffer(count * new arrays[dtype](new ArrayBuffer(0), 0, 0).BYTES_PER_ELEMENT), 0, count);
    for (let i = 0; i < count; i++) data[i] = dtype === "bool" ? (seed + i) % 2 : (seed * 31 + i * 7) % 120;
    return { dtype, shape, data } as Tensor;
  });

describe("writing and reading back", () => {
  test("gives the same tensors, whatever their dtypes and names", async () => {
    await fc.assert(
      fc.asyncProperty(fc.dictionary(fc.string({ minLength: 1 }), anyTensor, { maxKeys: 6 }), async (all) => {
        const tensors = new Map(Object.entries(all).filter(([name]) => name !== "__metadata__"));
        const bytes = Buffer.concat(encodeSafetensors(tensors, { made: "here" }));
        await using opened = await openSafetensors(new Uint8Array(bytes));
        expect([...opened.tensors.keys()].sort()).toEqual([...tensors.keys()].sort());
        expect(opened.metadata.get("made")).toBe("here");
        for (const [name, tensor] of tensors) {
          const entry = opened.tensors.get(name);
          expect(entry?.shape).toEqual(tensor.shape);
          const read = new Uint8Array(tensor.data.byteLength);
          await opened.source.read(entry?.begin ?? -1, read);
          expect(read).toEqual(new Uint8Array(bytesOfTensor(tensor)));
        }
      }),
      { numRuns: 300 },
    );
  });

  test("leaves nothing behind when the file cannot be written", async () => {
    const blocked = path.join(folder, "blocked");
    mkdirSync(path.join(blocked, "out.safetensors"), { recursive: true });
    await expect(writeSafetensors(path.join(blocked, "out.safetensors"), new Map())).rejects.toThrow(SafetensorsError);
    expect(readdirSync(blocked)).toEqual(["out.safetensors"]);
    const good = path.join(blocked, "good.safetensors");
    await writeSafetensors(good, new Map([["x", { dtype: "f32", shape: [2], data: Float32Array.of(1, 2) }]]));
    expect(readdirSync(blocked).sort()).toEqual(["good.safetensors", "out.safetensors"]);
    // Data of F32 lies on a multiple of 8, so that other readers may map it.
    const bytes = readFileSync(good);
    expect((8 + Number(bytes.readBigUInt64LE(0))) % 8).toBe(0);
  });
});

function param(name: string, shape: readonly number[], dtype: DType = "f32", init?: PlanParam["init"]): PlanParam {
  return { name, shape, dtype, buffer: 0, ...(init === undefined ? {} : { init }) };
}

function values(...numbers: number[]): Tensor<"f32"> {
  return { dtype: "f32", shape: [numbers.length], data: Float32Array.from(numbers) };
}

async function readF32(params: readonly PlanParam[], name: string, weights: WeightsOptions | undefined, seed?: number): Promise<number[]> {
  await using source = await openParams(params, weights, seed);
  const p = params.find((q) => q.name === name) ?? param(name, [0]);
  const out = new Float32Array(elementCount(p.shape));
  await source.read(p, 0, new Uint8Array(out.buffer));
  return [...out];
}

describe("fitting a checkpoint to a graph", () => {
  test("lists everything that is missing, extra, or of the wrong shape or dtype in one error", async () => {
    const from = new Map<string, Tensor>([
      ["right", values(1, 2)],
      ["turned", { dtype: "f32", shape: [2, 3], data: new Float32Array(6) }],
      ["number", { dtype: "i32", shape: [2], data: new Int32Array(2) }],
      ["more", values(1)],
      ["still.more", values(1)],
    ]);
    const params = [param("right", [2]), param("turned", [3, 2]), param("number", [2]), param("lost", [1]), param("gone", [4])];
    const error: unknown = await openParams(params, { from }, undefined).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(WeightsError);
    const { missing, extra, misshapen, message } = error as WeightsError;
    expect(missing).toEqual(["lost", "gone"]);
    expect(extra).toEqual(["more", "still.more"]);
    expect(misshapen).toEqual(["turned: expected f32[3, 2], found f32[2, 3]", "number: expected f32[2], found i32[2]"]);
    for (const name of ["lost", "gone", "more", "still.more", "turned", "number"]) expect(message).toContain(name);
    const rest = await openParams(params, { from, extra: "ignore" }, undefined).catch((e: unknown) => e);
    expect((rest as WeightsError).extra).toEqual([]);
  });

  test("removes a prefix and leaves the rest of a larger checkpoint alone", async () => {
    const from = new Map([
      ["model.vision_tower.vision_tower.a.weight", values(5)],
      ["lm_head.weight", values(6)],
      ["model.mm_projector.q", values(7)],
    ]);
    const params = [param("a.weight", [1]), param("resampler.q", [1])];
    const prefix = { "model.vision_tower.vision_tower.": "", "model.mm_projector.": "resampler." };
    expect(await readF32(params, "resampler.q", { from, prefix })).toEqual([7]);
    expect(await readF32([param("a.weight", [1])], "a.weight", { from, prefix: "model.vision_tower.vision_tower." })).toEqual([5]);
    await expect(
      openParams(
        params,
        {
          from: new Map([
            ["x.a", values(1)],
            ["y.a", values(2)],
          ]),
          prefix: { "x.": "", "y.": "" },
        },
        undefined,
      ),
    ).rejects.toThrow("two tensors of the checkpoint have this name");
  });

  test("suggests the prefix under which everything is there", async () => {
    const from = new Map([
      ["tower.a", values(1)],
      ["tower.b", values(2)],
      ["c", values(3)],
    ]);
    await expect(openParams([param("a", [1]), param("b", [1])], { from }, undefined)).rejects.toThrow('under the prefix "tower."');
  });

  test("makes what is missing when a seed is given too, and says which", async () => {
    const params = [param("a", [1]), param("b", [3], "f32", { kind: "constant", value: 4 })];
    await using source = await openParams(params, { from: new Map([["a", values(9)]]) }, 1);
    expect(source.untrained).toEqual(["b"]);
    expect(await readF32(params, "b", { from: new Map([["a", values(9)]]) }, 1)).toEqual([4, 4, 4]);
    await expect(openParams(params, undefined, undefined)).rejects.toThrow("give weights, or a seed");
  });

  test("reads a folder with a sharded index", async () => {
    const sharded = path.join(folder, "sharded");
    mkdirSync(sharded, { recursive: true });
    await writeSafetensors(path.join(sharded, "one.safetensors"), new Map([["a", values(1, 2)]]));
    await writeSafetensors(path.join(sharded, "two.safetensors"), new Map([["b", values(3)]]));
    const index = (map: unknown): void =>
      writeFileSync(
        path.join(sharded, "model.safetensors.index.json"),
        typeof map === "string" ? map : JSON.stringify({ metadata: {}, weight_map: map }),
      );
    const params = [param("a", [2]), param("b", [1])];
    index({ a: "one.safetensors", b: "two.safetensors" });
    expect(await readF32(params, "a", { from: sharded })).toEqual([1, 2]);
    expect(await readF32(params, "b", { from: sharded })).toEqual([3]);
    const bad: readonly (readonly [unknown, RegExp])[] = [
      [{ a: "one.safetensors", b: "one.safetensors" }, /names tensors that its files do not have: b \(one\.safetensors\)/],
      [{ a: "../one.safetensors" }, /not a file beside it/],
      [{ a: "/etc/passwd" }, /not a file beside it/],
      [{ a: ".." }, /not a file beside it/],
      [{ a: 5 }, /not a file beside it/],
      [{ a: "three.safetensors" }, /three\.safetensors cannot be opened/],
      [[], /has no object "weight_map"/],
      ['{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}', /key "a" occurs twice/],
      ["{", /cannot be read as an index/],
    ];
    for (const [map, message] of bad) {
      index(map);
      await expect(openParams(params, { from: sharded }, undefined)).rejects.toThrow(message);
    }
    await expect(openParams(params, { from: folder }, undefined)).rejects.toThrow(
      /neither model\.safetensors\.index\.json nor model\.safetensors/,
    );
  });
});

describe("conversion", () => {
  test("of every half is exact there and back", () => {
    for (let half = 0; half < 65536; half++) {
      const value = floatOfHalf(half);
      const back = halfOfFloat(value);
      if (Number.isNaN(value)) expect(Number.isNaN(floatOfHalf(back))).toBe(true);
      else if (back !== half) expect(back).toBe(half);
    }
  });

  test("to halves and bfloat16 rounds to nearest, ties to even", () => {
    expect([1, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 65519.9, 65520, 2 ** -25, 2 ** -25 * 1.001, -0].map(halfOfFloat)).toEqual([
      0x3c00, 0x3c00, 0x3c02, 0x7bff, 0x7c00, 0, 1, 0x8000,
    ]);
    fc.assert(
      fc.property(fc.float({ noNaN: true, min: -60000, max: 60000 }), (x) => {
        const h = halfOfFloat(x);
        const error = Math.abs(floatOfHalf(h) - x);
        for (const other of [h - 1, h + 1])
          if ((other & 0x7fff) < 0x7c00 && other >= 0) expect(error).toBeLessThanOrEqual(Math.abs(floatOfHalf(other) - x));
      }),
      { numRuns: 2000 },
    );
    expect([1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, Infinity, -1].map(bf16OfFloat)).toEqual([0x3f80, 0x3f80, 0x3f82, 0x7f80, 0xbf80]);
    expect(bf16OfFloat(NaN) & 0x7fff).toBeGreaterThan(0x7f80);
  });

  test("of f32 to halves is that of single values, for any bits", () => {
    const bits = fc.oneof(fc.integer(), fc.integer({ min: 0x32800000, max: 0x39000000 }), fc.integer({ min: 0x477fe000, max: 0x47801000 }));
    // Every half, its middles to the next, and one bit beside them.
    const near = Array.from({ length: 0x7c00 }, (_, half) => {
      const middle = new Uint32Array(Float32Array.of((floatOfHalf(half) + floatOfHalf(half + 1)) / 2).buffer)[0] ?? 0;
      return [middle - 1, middle, middle + 1];
    }).flat();
    const check = (list: readonly number[]): void => {
      const values = new Float32Array(Int32Array.from(list).buffer);
      const out = new Uint16Array(list.length);
      convertElements("F32", new Uint8Array(values.buffer), "f16", new Uint8Array(out.buffer));
      expect([...out]).toEqual([...values].map(halfOfFloat));
    };
    check(near);
    check(near.map((b) => b | 0x80000000));
    fc.assert(fc.property(fc.array(bits), check), { numRuns: 1000 });
  });

  test("widens each stored dtype, and refuses numbers that do not fit", () => {
    const f32 = (stored: string, data: ArrayBufferView): number[] => {
      const bytes = new Uint8Array(data.buffer);
      const out = new Float32Array(2);
      convertElements(stored, bytes, "f32", new Uint8Array(out.buffer));
      return [...out];
    };
    expect(f32("F16", Uint16Array.of(0x3c00, 0xc100))).toEqual([1, -2.5]);
    expect(f32("BF16", Uint16Array.of(0x3f80, 0xc020))).toEqual([1, -2.5]);
    expect(f32("F64", Float64Array.of(1, -2.5))).toEqual([1, -2.5]);
    expect(f32("F32", Float32Array.of(1, -2.5))).toEqual([1, -2.5]);
    const i32 = (stored: string, data: ArrayBufferView): number[] => {
      const out = new Int32Array(2);
      convertElements(stored, new Uint8Array(data.buffer), "i32", new Uint8Array(out.buffer));
      return [...out];
    };
    expect(i32("I64", BigInt64Array.of(-5n, 7n))).toEqual([-5, 7]);
    expect(i32("U8", Uint8Array.of(200, 7))).toEqual([200, 7]);
    expect(i32("I16", Int16Array.of(-200, 7))).toEqual([-200, 7]);
    expect(() => i32("I64", BigInt64Array.of(2n ** 40n, 0n))).toThrow("1099511627776 does not fit i32");
    expect(() => i32("F32", Float32Array.of(1, 2))).toThrow("cannot become i32");
  });
});

describe("seeded weights", () => {
  const normal = { kind: "normal", std: 1 } as const;
  test("have the documented values", () => {
    const out = new Float32Array(4);
    seededElements(0, "encoder.layers.0.weight", { kind: "normal", std: 0.02 }, 0, out);
    expect([...out]).toEqual([-0.017899373546242714, -0.0005343896918930113, 0.009623662568628788, -0.029893865808844566]);
    expect(normalQuantile(0.5)).toBe(0);
    // Python's statistics.NormalDist().inv_cdf, which is the same algorithm.
    for (const [p, z] of [
      [1e-10, -6.361340902404056],
      [0.001, -3.090232306167813],
      [0.3, -0.5244005127080407],
      [0.99, 2.3263478740408408],
      [0.999999, 4.753424308817089],
    ] as const) {
      expect(normalQuantile(p)).toBeCloseTo(z, 13);
    }
  });

  test("do not depend on where reading starts", () => {
    const whole = new Float32Array(101);
    seededElements(7, "a", normal, 0, whole);
    for (const [first, count] of [
      [0, 50],
      [1, 50],
      [50, 51],
      [99, 2],
      [33, 1],
      [100, 1],
      [5, 0],
    ] as const) {
      const part = new Float32Array(count);
      seededElements(7, "a", normal, first, part);
      expect(part).toEqual(whole.subarray(first, first + count));
    }
  });

  test("have the mean, the deviation and the independence they claim", () => {
    const n = 1 << 18;
    const of = (seed: number, name: string): Float32Array => {
      const out = new Float32Array(n);
      seededElements(seed, name, normal, 0, out);
      return out;
    };
    const a = of(1, "a");
    const mean = (f: (i: number) => number): number => Array.from({ length: n }, (_, i) => f(i)).reduce((s, x) => s + x, 0) / n;
    const at = (x: Float32Array, i: number): number => x[i] ?? 0;
    const noise = 5 / Math.sqrt(n);
    expect(Math.abs(mean((i) => at(a, i)))).toBeLessThan(noise);
    expect(Math.abs(mean((i) => at(a, i) ** 2) - 1)).toBeLessThan(2 * noise);
    for (const b of [of(2, "a"), of(1, "b"), of(1, "aa"), a.map((_, i) => at(a, i + 1)), a.map((_, i) => at(a, i + 2))]) {
      expect(Math.abs(mean((i) => at(a, i) * at(b, i)))).toBeLessThan(noise);
    }
  });
});
