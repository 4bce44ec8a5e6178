// Attention of few queries over many keys as two kernels: what both say against the op's float64 reference, on the evaluator
// of Kernel IR, on the emulator, and as WebAssembly on one and three threads, which must agree to the bit. Which attentions
// are split is read off compiled graphs.

import * as fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { dimEval, dimProduct, dimSymbol, type DimSymbol } from "../compiler/ir/dim.ts";
import { compileImp } from "../compiler/ir/imp/eval.ts";
import { evalKernel } from "../compiler/ir/kernel/eval.ts";
import { parseKernel } from "../compiler/ir/kernel/parse.ts";
import { printKernel } from "../compiler/ir/kernel/print.ts";
import type { Kernel } from "../compiler/ir/kernel/types.ts";
import { verifyKernel } from "../compiler/ir/kernel/verify.ts";
import { joinBytes, joinFlops, splitAttention, type SplitAttention } from "../compiler/schedule/attention-split.ts";
import type { Capabilities } from "../compiler/schedule/capabilities.ts";
import { lower } from "../compiler/schedule/lower.ts";
import { plainWasm, relaxedProbe, relaxedWasm } from "../compiler/targets/wasm/capabilities.ts";
import { webgpuCapabilities } from "../compiler/targets/wgsl/capabilities.ts";
import { renderWasm } from "../compiler/targets/wasm/render.ts";
import { scratchBytes } from "../compiler/targets/wasm/sizes.ts";
import { attention } from "../ops/composite/attention.ts";
import { tensor } from "../ops/reference/tensor.ts";
import type { Command, Device } from "../runtime/device.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";
import {
  attentionKernel,
  expected,
  memoryOf,
  randomData,
  sizesOf,
  total,
  type AttentionCase,
  type AttentionData,
} from "./attention-kernels.ts";
import { difference } from "./conformance/compare.ts";
import { property } from "./conformance/property.ts";
import { graphOf } from "./graphs-support.ts";

const base: AttentionCase = { segments: [[1, 700]], heads: 1, keyHeads: 1, d: 8, dv: 8, causal: false, scale: 0.35, symbolic: true };
const symbols: ReadonlyMap<string, DimSymbol> = new Map(["T", "S", "P", "P1"].map((name) => [name, { name, lower: 0 }]));

function splitOf(c: AttentionCase): SplitAttention {
  const made = splitAttention(attentionKernel(c), symbols);
  if (made === undefined) throw new Error("the attention was not split");
  return made;
}

/** What is wrong with `out`, if anything. */
function wrong(c: AttentionCase, data: AttentionData, out: ArrayLike<number>): string | undefined {
  const want = expected(c, data);
  return difference(want, tensor("f32", want.shape, out), attention.tolerance, true);
}

type Memory = Record<string, Float32Array | Int32Array>;

/** With the buffer between the kernels, full of what must not be read. */
function memoryWith(c: AttentionCase, data: AttentionData, { between }: SplitAttention): Memory {
  return { ...memoryOf(c, data), [between.name]: new Float32Array(dimEval(dimProduct(between.shape), sizesOf(c)) + 4).fill(NaN) };
}

function inTurn(c: AttentionCase, data: AttentionData, run: (kernel: Kernel, memory: Memory) => void): Float32Array | Int32Array {
  const split = splitOf(c);
  const memory = memoryWith(c, data, split);
  for (const kernel of [split.parts, split.join]) run(kernel, memory);
  return memory["out"] ?? new Float32Array(0);
}

function emulated(c: AttentionCase, data: AttentionData, capabilities: Capabilities): Float32Array | Int32Array {
  return inTurn(c, data, (kernel, memory) => compileImp(lower(kernel, capabilities).fn)(memory, sizesOf(c)));
}

const devices = new Map<string, Device>();
afterAll(async () => {
  for (const d of devices.values()) await d.close();
});

async function onDevice(c: AttentionCase, data: AttentionData, simd: "plain" | "relaxed", threads: number): Promise<Float32Array> {
  const key = `${simd} ${threads}`;
  const device = devices.get(key) ?? (await WasmDevice.create({ threads, simd }));
  devices.set(key, device);
  const split = splitOf(c);
  const both = [split.parts, split.join];
  const functions = [plainWasm, relaxedWasm].map((capabilities) => both.map((k) => lower(k, capabilities).fn));
  const [plain = [], relaxed = []] = functions;
  const module = await device.load({
    wasm: { plain: renderWasm(plain, { relaxed: false, shared: true }), relaxed: renderWasm(relaxed, { relaxed: true, shared: true }) },
  });
  const sizes = sizesOf(c);
  const buffers = Object.entries(memoryWith(c, data, split)).map(([name, values]) => {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    return { name, bytes, buffer: device.alloc(bytes.byteLength) };
  });
  for (const b of buffers) await device.write(b.buffer, 0, b.bytes);
  const named = new Map(buffers.map((b) => [b.name, b.buffer]));
  const commands = plain.map((fn): Command => ({
    k: "dispatch",
    module,
    kernel: fn.name,
    bindings: fn.buffers.flatMap(({ name }) => {
      const buffer = named.get(name);
      return buffer === undefined ? [] : [{ buffer, offset: 0, bytes: buffer.bytes }];
    }),
    dims: fn.dims.map((name) => sizes[name] ?? -1),
    units: dimEval(fn.units, sizes),
    scratch: dimEval(scratchBytes(fn), sizes),
    flops: 1e9,
    bytes: 1e6,
  }));
  await device.submit(commands);
  const out = named.get("out");
  if (out === undefined) throw new Error("the kernel has no result");
  const result = new Float32Array((await device.read(out, 0, 4 * total(c, 0) * c.heads * c.dv)).slice().buffer);
  for (const { buffer } of buffers) device.free(buffer);
  return result;
}

const keyCounts = fc.oneof(
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 12 }) },
  { weight: 1, arbitrary: fc.constantFrom(0, 1, 127, 128, 129, 1024) },
  { weight: 2, arbitrary: fc.integer({ min: 100, max: 1400 }) },
);
/** Alone, a few together, and runs that are tiled. */
const queryCounts = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 0, max: 3 }) },
  { weight: 1, arbitrary: fc.integer({ min: 4, max: 30 }) },
);

const cases: fc.Arbitrary<readonly [AttentionCase, number]> = fc
  .record({
    segments: fc.array(fc.tuple(queryCounts, keyCounts), { minLength: 1, maxLength: 4 }),
    heads: fc.constantFrom({ heads: 1, keyHeads: 1 }, { heads: 4, keyHeads: 2 }, { heads: 3, keyHeads: 1 }, { heads: 2, keyHeads: 2 }),
    d: fc.constantFrom(1, 3, 4, 8),
    dv: fc.constantFrom(1, 2, 4, 5, 8),
    causal: fc.boolean(),
    number: fc.nat(1e6),
  })
  .map(({ heads, number, ...c }) => [{ ...base, ...c, ...heads, scale: c.d ** -0.5 }, number]);

test("both kernels are sound, and their texts read back as the same", () => {
  const { parts, join } = splitOf({ ...base, heads: 4, keyHeads: 2, causal: true });
  for (const kernel of [parts, join]) {
    expect(verifyKernel(kernel)).toEqual([]);
    expect(printKernel(parseKernel(printKernel(kernel)))).toBe(printKernel(kernel));
  }
  const { pattern } = parts;
  if (pattern?.k !== "attention" || pattern.part === undefined) throw new Error("the first kernel is attention in parts");
  const changed = (part: Partial<typeof pattern.part>): string =>
    verifyKernel({
      ...parts,
      pattern: { ...pattern, part: { axis: "part", count: dimSymbol("T"), keys: 8, ...pattern.part, ...part } },
    }).join();
  expect(changed({ axis: "h" })).toContain("its parts are not those of axis h");
  expect(changed({ count: dimSymbol("T") })).toContain("its parts are not those of axis part");
  expect(changed({ keys: 0 })).toContain("its parts have 0 keys at a time");
});

test("what the kernels say is what the op says", () => {
  const small = cases.filter(([c]) => total(c, 0) * total(c, 1) < 4000);
  property(
    small,
    ([c, number]) => {
      const data = randomData(c, number, 2);
      const out = inTurn(c, data, (kernel, memory) => evalKernel(kernel, memory, sizesOf(c)));
      expect(wrong(c, data, out)).toBeUndefined();
    },
    10,
  );
});

describe.each([
  { name: "plain", capabilities: plainWasm },
  { name: "relaxed", capabilities: relaxedWasm },
] as const)("$name", ({ name, capabilities }) => {
  test("the builder takes the parts, and random ragged segments give what the op says", () => {
    property(
      cases,
      ([c, number]) => {
        expect(lower(splitOf(c).parts, capabilities).built).toBe(true);
        const data = randomData(c, number, 2);
        expect(wrong(c, data, emulated(c, data, capabilities))).toBeUndefined();
      },
      20,
    );
  });

  const runnable = name === "plain" || WebAssembly.validate(relaxedProbe());
  const says = runnable ? "as WebAssembly" : "as WebAssembly (not run: this engine has no relaxed SIMD)";
  test.skipIf(!runnable).each([
    { segments: [[1, 2100]], heads: 9, keyHeads: 3, d: 64, dv: 64 }, // prettier-ignore
    { segments: [[1, 900], [1, 0], [2, 1300], [0, 5], [1, 1], [9, 700]], heads: 6, keyHeads: 2, d: 20, dv: 33 }, // prettier-ignore
    { segments: [[50, 600]], heads: 2, keyHeads: 1, d: 8, dv: 8 }, // prettier-ignore
  ] as const)(`${says}: $segments, $heads heads, on one and three threads, to the bit`, async (sizes) => {
    const c: AttentionCase = { ...base, ...sizes, causal: true, scale: 0.2 };
    const data = randomData(c, 17, 2);
    const one = await onDevice(c, data, name, 1);
    expect(wrong(c, data, one)).toBeUndefined();
    expect(new Int32Array((await onDevice(c, data, name, 3)).buffer)).toEqual(new Int32Array(one.buffer));
  });

  describe.each([
    { ...base, segments: [[1, 700]] as const },
    { ...base, segments: [[2, 40], [1, 300]] as const, heads: 4, keyHeads: 2 }, // prettier-ignore
    { ...base, segments: [[6, 600]] as const, causal: true },
  ])("numbers that are not finite: $segments, $heads heads, causal $causal", (c) => {
    const check = (change: (data: AttentionData) => void): void => {
      const data = randomData(c, 11, 2);
      change(data);
      expect(wrong(c, data, emulated(c, data, capabilities))).toBeUndefined();
    };
    const last = total(c, 1) - 1;

    test("NaN in a query, a key or a value", () => {
      check(({ q }) => void (q[3] = NaN));
      for (const s of [0, 7, last]) {
        check(({ k }) => void (k[s * c.keyHeads * 8 + 1] = NaN));
        check(({ v }) => void (v[s * c.keyHeads * 8 + 1] = NaN));
      }
    });
    test("infinite keys and values", () => {
      for (const x of [Infinity, -Infinity]) {
        check(({ k }) => void (k[2 * c.keyHeads * 8 + 1] = x));
        check(({ v }) => void (v[2 * c.keyHeads * 8 + 1] = x));
      }
    });
    test("scores of -infinity weigh nothing, in a part or in all", () => {
      // Feature 0 of every query is positive, so a key of -infinity there has the score -infinity.
      for (const [from, to] of [
        [0, 128],
        [1, last],
        [0, last + 1],
      ] as const)
        check(({ q, k }) => {
          q.forEach((x, i) => void (q[i] = i % 8 === 0 ? Math.abs(x) + 0.1 : x));
          for (let i = from * c.keyHeads; i < Math.min(to, last + 1) * c.keyHeads; i++) k[i * 8] = -Infinity;
        });
    });
    test("parts whose scores are far apart", () => {
      check(({ q, k }) => {
        q.fill(0).forEach((_, i) => void (q[i] = i % 8 === 0 ? 2 ** 50 : 0));
        k.fill(0).forEach((_, i) => void (k[i] = i % 8 === 0 ? (((i / 8) * 7) % 601) * 2 ** 40 : 0));
      });
      check(({ q, k }) => {
        q.fill(100);
        k.fill(-100);
      });
    });
  });
});

describe("parts", () => {
  const count = (queries: number): number => dimEval(splitOf(base).between.shape[0] ?? dimSymbol("none"), { T: queries });

  test("are as many as queries leave room for, whatever the threads", () => {
    expect([0, 1, 8, 9, 16, 32, 33, 2000].map(count)).toEqual([8, 8, 8, 7, 4, 2, 1, 1]);
  });

  test("are counted in what the joining kernel does", () => {
    const split = splitOf({ ...base, dv: 30 });
    expect(dimEval(joinFlops(split), { T: 1 })).toBe(3 * 8 * 32);
    expect(dimEval(joinBytes(split), { T: 1 })).toBe(4 * (8 * 32 + 30));
  });

  test("are not made of keys that are few, of queries that are many or look at each other, nor on GPUs", () => {
    const split = (c: Partial<AttentionCase>, lower = 0): boolean =>
      splitAttention(attentionKernel({ ...base, ...c }), new Map([["T", { name: "T", lower }]])) !== undefined;
    expect(split({})).toBe(true);
    expect(split({}, 9)).toBe(false);
    expect(split({ packed: true, segments: [[5, 5]] })).toBe(false);
    expect(split({ symbolic: false, segments: [[1, 511]] })).toBe(false);
    expect(split({ symbolic: false, segments: [[1, 512]] })).toBe(true);
    expect(lower(splitOf(base).parts, webgpuCapabilities({ subgroups: 32, f16: false })).built).toBe(false);
  });
});

describe("a compiled graph", () => {
  const sizes = { width: 24, llama_layers: 2, heads: 3, kv_heads: 1, head_width: 8, ffn: 16, vocabulary: 50, context: 4096 };
  const texts = Object.fromEntries(Object.entries(sizes).map(([name, value]) => [name, String(value)]));

  test("that decodes has a kernel more for each layer, and what is between them lives for two steps", () => {
    const { plan, kernels, plainLoops } = compileGraph(graphOf("graphs/llama.uhd", "llama", texts));
    const places = plan.steps.flatMap((s, i) => (s.k === "dispatch" && s.kernel.endsWith("_join") ? [i] : []));
    expect(places).toHaveLength(2);
    for (const at of places) {
      const [parts, join] = [plan.steps[at - 1], plan.steps[at]];
      if (parts?.k !== "dispatch" || join?.k !== "dispatch") throw new Error("both are kernels");
      const between = join.buffers[0] ?? -1;
      expect(parts.buffers.at(-1)).toBe(between);
      expect(plan.buffers[between]?.place).toEqual({ k: "arena", first: at - 1, last: at });
      expect(join.extents).toEqual([parts.extents[1], parts.extents[2]]);
    }
    expect(kernels.map((k) => k.name)).toEqual(plan.kernels.map((k) => k.name));
    expect(plainLoops).toEqual([]);
  });

  test("whose cache is short, and an encoder, have not", () => {
    const short = compileGraph(graphOf("graphs/llama.uhd", "llama", { ...texts, context: "256" }));
    const encoder = compileGraph(graphOf("graphs/clip-vit.uhd", "clip_vit_layer"));
    for (const { plan } of [short, encoder]) expect(plan.kernels.filter((k) => k.name.endsWith("_join"))).toEqual([]);
  });

  test("for WebGPU has not", () => {
    const { plan } = compileGraph(graphOf("graphs/llama.uhd", "llama", texts), { target: "webgpu", features: [] });
    expect(plan.kernels.filter((k) => k.name.endsWith("_join"))).toEqual([]);
  });
});
