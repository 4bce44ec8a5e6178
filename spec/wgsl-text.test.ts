// The text of rendered kernels: what it looks like, what is refused, what is known of indices, and that Dawn accepts every
// kernel of the repository's graphs, which needs no driver.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { dim, dimSymbol } from "../compiler/ir/dim.ts";
import * as b from "../compiler/ir/imp/build.ts";
import { binaryFunction } from "../compiler/ir/imp/scalar.ts";
import type { ImpBinary, ImpExpr, ImpFunction } from "../compiler/ir/imp/types.ts";
import { Congruences } from "../compiler/targets/wgsl/congruence.ts";
import { renderWgsl } from "../compiler/targets/wgsl/render.ts";
import { coreFeatures, type WgslFeatures } from "../compiler/targets/wgsl/types.ts";
import { property } from "./conformance/property.ts";
import { programOf } from "./graphs-support.ts";
import { openGpu, pipelineOf, type Gpu } from "./gpu-support.ts";

const [unit, lane] = [b.local("unit", "i32"), b.local("lane", "i32")];

function withBody(body: ImpFunction["body"], more: Partial<ImpFunction> = {}): ImpFunction {
  return {
    name: "scaled",
    buffers: [
      { name: "x", dtype: "f32", access: "read" },
      { name: "a name", dtype: "u8", access: "write" },
    ],
    dims: ["N", "T"],
    scratch: [],
    units: dimSymbol("T"),
    unit: "unit",
    lanes: 64,
    lane: "lane",
    body,
    sources: [],
    ...more,
  };
}

const row = b.add(b.mul(unit, b.int(256)), b.mul(lane, b.int(4)));
const render = (fn: ImpFunction, features: WgslFeatures = coreFeatures): string =>
  renderWgsl(fn, { features, readOnly: new Set(["x"]) }).code;

describe("a kernel as WGSL", () => {
  test("has one statement a line, names of its own, and hides what drivers would rewrite", () => {
    const value = b.bind("v", b.mul(b.load(b.at("x", row), "f32x4", 0), b.vector("f32x4", 0.5)));
    const whole = b.binary("lt", b.vector("f32x4", 1), b.local("v", "f32x4"));
    expect(render(withBody([value, b.store(b.at("a name", row), whole)]))).toMatchInlineSnapshot(`
      "struct Args { units: i32, n_0: i32, n_1: i32, }
      @group(0) @binding(0) var<storage, read> p_x: array<vec4f>;
      @group(0) @binding(1) var<storage, read_write> p_a_name: array<u32>;
      @group(0) @binding(2) var<uniform> args: Args;
      @compute @workgroup_size(64)
      fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {
        let v_unit = i32(group.x + group.y * groups.x);
        if (v_unit >= args.units) { return; }
        let v_lane = i32(invocation);
        let zero = hidden();
        let other_zero = u32(args.units) & 0x80000000u;
        let k_1 = bitcast<f32>(0x3f000000u ^ zero);
        let v_v = (p_x[((v_unit * 256) + (v_lane * 4)) >> 2u] * vec4f(k_1));
        let v_1 = select(vec4i(0), vec4i(-1), lt4(vec4f(1.0f), v_v));
        let i_2 = ((v_unit * 256) + (v_lane * 4));
        let w_3 = i_2 >> 2u;
        p_a_name[w_3] = (bitcast<u32>(v_1.x) & 255u) | ((bitcast<u32>(v_1.y) & 255u) << 8u) | ((bitcast<u32>(v_1.z) & 255u) << 16u) | ((bitcast<u32>(v_1.w) & 255u) << 24u);
      }
      fn lt4(a: vec4f, b: vec4f) -> vec4<bool> { return (key4(a) < key4(b)) & !(nan4(a) | nan4(b)); }
      fn key4(x: vec4f) -> vec4i { let i = bitcast<vec4i>(x); return select(i, vec4i(-2147483648) - i, i < vec4i(0)); }
      fn nan4(x: vec4f) -> vec4<bool> { return (bitcast<vec4u>(x) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u); }
      fn hidden() -> u32 { return u32(args.units) >> 31u; }
      "
    `);
  });

  test("binds memory for reading only where it is never written", () => {
    const fn = withBody([b.store(b.at("a name", unit), { k: "convert", a: b.load(b.at("x", unit), "f32"), type: "i32" })]);
    const kernel = (readOnly: readonly string[]): readonly string[] =>
      renderWgsl(fn, { features: coreFeatures, readOnly: new Set(readOnly) }).bindings;
    expect(kernel(["x"])).toEqual(["read", "read_write"]);
    expect(kernel([])).toEqual(["read_write", "read_write"]);
  });

  test("needs the features that it uses, and no others", () => {
    const half = withBody([b.bind("v", b.load(b.at("h", unit), "f32"))], { buffers: [{ name: "h", dtype: "f16", access: "read" }] });
    const needs = (fn: ImpFunction, features: WgslFeatures): readonly string[] =>
      renderWgsl(fn, { features, readOnly: new Set() }).requires;
    expect(needs(half, { subgroups: 8, f16: true })).toEqual(["shader-f16"]);
    expect(needs(half, { subgroups: 8, f16: false })).toEqual([]);
    const exchange = withBody([{ k: "exchange", name: "o", type: "i32", op: "xor", value: lane, lane: b.int(1) }], { subgroup: 8 });
    expect(needs(exchange, { subgroups: 8, f16: true })).toEqual(["subgroups"]);
  });

  test("is refused where WebGPU's default limits or WGSL do not allow it, with every reason", () => {
    const fn = withBody([], {
      lanes: 512,
      subgroup: 16,
      buffers: Array.from({ length: 9 }, (_, i) => ({ name: `b${i}`, dtype: "f32" as const, access: "read" as const })),
      scratch: [
        { name: "s", dtype: "f32", size: dimSymbol("N"), space: "private" },
        { name: "w", dtype: "u8", size: dim(5000), space: "workgroup" },
      ],
    });
    expect(() => render(fn, { subgroups: 8, f16: false })).toThrow(
      "function scaled: 9 buffers, WebGPU binds 8; 512 lanes, WebGPU has 256; scratch s has N elements, WGSL needs a constant; " +
        "20000 bytes of workgroup memory, WebGPU has 16384; it relies on subgroups of 16, they have 8",
    );
  });

  test("reads four neighbours at once where they are known to begin at a multiple of four", () => {
    const loads = (index: ImpExpr): string => render(withBody([b.bind("v", b.load(b.at("x", index), "f32x4"))]));
    expect(loads(row)).toContain("p_x[((v_unit * 256) + (v_lane * 4)) >> 2u]");
    expect(loads(b.mul(unit, b.size("N")))).toContain("var<storage, read> p_x: array<f32>");
    expect(loads(b.binary("bitand", unit, b.int(-4)))).toContain("array<vec4f>");
  });
});

test("what is known of an integer is true of it", () => {
  const ops = ["add", "sub", "mul", "bitand", "shl", "min", "max", "bitxor", "shru"] as const satisfies readonly ImpBinary[];
  const number = fc.oneof(fc.integer({ min: -9, max: 9 }), fc.constantFrom(4, 8, 12, 64, -4, 1 << 20, 65536, 2 ** 31 - 4));
  interface Known {
    readonly e: ImpExpr;
    readonly value: number;
  }
  const { known } = fc.letrec<{ known: Known }>((tie) => ({
    known: fc.oneof(
      { depthSize: "small", withCrossShrink: true },
      number.map((n): Known => ({ e: b.int(n), value: n })),
      fc.constant<Known>({ e: unit, value: 7 }),
      fc.tuple(fc.constantFrom(...ops), tie("known"), tie("known")).map(([op, p, q]): Known => ({
        e: { k: "binary", op, a: p.e, b: q.e, type: "i32" },
        value: binaryFunction(op, "i32")(p.value, q.value),
      })),
    ),
  }));
  const facts = new Congruences(withBody([]));
  property(known, ({ e, value }) => {
    const found = facts.of(e);
    expect(found === undefined ? undefined : (((value - found.rest) % found.modulus) + found.modulus) % found.modulus).toBe(0);
  });
});

describe("Dawn accepts every kernel of", () => {
  const graphs: readonly (readonly [file: string, config: Readonly<Record<string, string | number>>])[] = [
    ["graphs/llava-uhd.uhd", {}],
    ["graphs/llama-chat.uhd", {}],
  ];
  let gpu: Promise<Gpu | string> | undefined;
  test.each(graphs)("%s", { timeout: 60_000 }, async (file, config) => {
    const on = await (gpu ??= openGpu("null"));
    if (typeof on === "string") throw new Error(on);
    const program = programOf(file, config);
    let count = 0;
    for (const graph of program.graphs.values()) {
      const { wgsl } = compileGraph(graph, { target: "webgpu", features: on.features });
      for (const { kernels } of wgsl) {
        await Promise.all(kernels.map((k) => pipelineOf(on, k)));
        count += kernels.length;
      }
    }
    expect(count).toBeGreaterThan(5);
  });
});
