// Plan IR: its text reads back as the same plan, and its verifier accepts what the compiler makes and finds what is
// broken, all that the runtime refuses included.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { IrParseError } from "../compiler/ir/cursor.ts";
import { dtypes } from "../compiler/ir/dtype.ts";
import { emptyHostProgram } from "../compiler/ir/plan/host.ts";
import { packedFormats, packedParts } from "../compiler/ir/plan/packed.ts";
import { parsePlan } from "../compiler/ir/plan/parse.ts";
import { printPlan } from "../compiler/ir/plan/print.ts";
import type { Plan, PlanBuffer, PlanParam, Step } from "../compiler/ir/plan/types.ts";
import { verifyPlan } from "../compiler/ir/plan/verify.ts";
import type { Accesses } from "../compiler/ir/plan/verify-steps.ts";
import { checkPlan } from "../runtime/artefact.ts";
import { generatedGraphs } from "./conformance/graphs.ts";
import { anyDim, anyName, anyNumber } from "./conformance/kernels.ts";
import { property } from "./conformance/property.ts";
import { anyHost, anyHostExpr } from "./conformance/shape-code.ts";

/** y = relu(x·wᵀ) + x[:, :4], with the weights packed once. */
const small: Plan = {
  format: "uhd-plan",
  version: 1,
  name: "small",
  symbols: [
    { name: "T", lower: 1, upper: 4096 },
    { name: "P", lower: 0 },
  ],
  limits: [{ value: "T + P", most: "4096", says: "too many" }],
  host: { ...emptyHostProgram, bindings: [{ name: "P", value: { k: "lit", v: 3 }, symbol: true, loc: "a.uhd:1:2" }] },
  tables: [{ name: "offsets", dtype: "i32", shape: ["P + 1"], value: { k: "var", name: "offsets" } }],
  inputs: [{ name: "x", buffer: 0 }],
  outputs: [{ name: "y", buffer: 4 }],
  params: [{ name: "fc.weight", dtype: "f32", shape: [4, 8], buffer: 1, init: { kind: "normal", std: 0.02 } }],
  states: [],
  buffers: [
    { name: "x", dtype: "f32", shape: ["T", "8"], slack: 0, place: { k: "input" } },
    { name: "fc.weight", dtype: "f32", shape: ["4", "8"], slack: 0, place: { k: "param" } },
    { name: "fc.weight in panels", dtype: "f32", shape: ["1", "8", "8"], slack: 0, place: { k: "persistent" } },
    { name: "acc", dtype: "f32", shape: ["T", "4"], slack: 16, place: { k: "arena", first: 0, last: 1 } },
    { name: "y", dtype: "f32", shape: ["T", "4"], slack: 0, place: { k: "output" } },
    { name: "offsets", dtype: "i32", shape: ["P + 1"], slack: 0, place: { k: "table", table: 0 } },
  ],
  kernels: [
    { name: "pack_0", dims: [], bufferCount: 2, scratch: "0", units: "1" },
    { name: "matmul_1", dims: ["T"], bufferCount: 3, scratch: "64*T", units: "div(T + 3, 4)" },
    { name: "map_2", dims: ["T"], bufferCount: 4, scratch: "0", units: "T" },
  ],
  prepare: [
    {
      k: "dispatch",
      kernel: "pack_0",
      buffers: [1, 2],
      dims: [],
      extents: ["1"],
      sources: [],
      flops: "0",
      bytes: "384",
      stage: "small",
    },
  ],
  steps: [
    {
      k: "dispatch",
      kernel: "matmul_1",
      buffers: [0, 2, 3],
      dims: ["T"],
      extents: ["T", "4"],
      sources: ["a.uhd:3:5 < a.uhd:9:1"],
      flops: "64*T",
      bytes: "48*T + 256",
      stage: "small",
    },
    {
      k: "dispatch",
      kernel: "map_2",
      buffers: [3, 0, 5, 4],
      dims: ["T"],
      extents: ["T", "4"],
      sources: ["a.uhd:4:5"],
      flops: "4*T",
      bytes: "48*T",
      unfused: "it has two readers",
      stage: "small",
    },
  ],
};

const sizeText = fc.oneof({ weight: 3, arbitrary: anyDim.map((d) => d.text) }, anyName);
const id = fc.nat(9);
const dtype = fc.constantFrom(...dtypes);
const entry = fc.record({ name: anyName, buffer: id });
const place: fc.Arbitrary<PlanBuffer["place"]> = fc.oneof(
  fc.record({ k: fc.constantFrom("input" as const, "output" as const, "param" as const, "persistent" as const, "state" as const) }),
  fc.record({ k: fc.constant("table" as const), table: id }),
  fc.record({ k: fc.constant("constant" as const), data: fc.array(anyNumber, { maxLength: 3 }) }),
  fc.record({ k: fc.constant("arena" as const), first: fc.integer({ min: -1, max: 9 }), last: fc.integer({ min: -1, max: 9 }) }),
);
const init: fc.Arbitrary<PlanParam["init"]> = fc.oneof(
  fc.constant(undefined),
  fc.record({ kind: fc.constant("constant" as const), value: anyNumber }),
  fc.record({ kind: fc.constant("normal" as const), std: anyNumber }),
);
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ k: fc.constant("copy" as const), from: id, to: id }),
  fc
    .record({
      k: fc.constant("dispatch" as const),
      kernel: anyName,
      buffers: fc.array(id, { maxLength: 3 }),
      dims: fc.array(sizeText, { maxLength: 2 }),
      extents: fc.array(sizeText, { maxLength: 2 }),
      sources: fc.array(anyName, { maxLength: 2 }),
      flops: sizeText,
      bytes: sizeText,
      stage: anyName,
      unfused: fc.option(anyName, { nil: undefined }),
    })
    .map(({ unfused, ...rest }) => (unfused === undefined ? rest : { ...rest, unfused })),
);
const list = <T>(of: fc.Arbitrary<T>): fc.Arbitrary<T[]> => fc.array(of, { maxLength: 3 });
const rows: fc.Arbitrary<PlanParam["rows"]> = fc.option(fc.record({ of: anyName, first: fc.nat(9), rows: fc.nat(99) }), { nil: undefined });
const packed: fc.Arbitrary<PlanParam["packed"]> = fc.option(
  fc.record({ of: anyName, shape: list(fc.nat(9)), format: fc.constantFrom(...packedFormats), part: fc.constantFrom(...packedParts) }),
  { nil: undefined },
);

/** Any data of the type Plan: it need not make sense, only survive as text. */
const anyPlan: fc.Arbitrary<Plan> = fc.record({
  format: fc.constant("uhd-plan" as const),
  version: fc.constant(1 as const),
  name: anyName,
  symbols: list(
    fc
      .tuple(anyName, fc.nat(5), fc.option(fc.nat(99), { nil: undefined }), fc.constantFrom({}, { argument: true as const }))
      .map(([name, lower, upper, given]) => (upper === undefined ? { name, lower, ...given } : { name, lower, upper, ...given })),
  ),
  limits: list(fc.record({ value: sizeText, most: sizeText, says: anyName })),
  host: anyHost,
  tables: list(fc.record({ name: anyName, dtype, shape: list(sizeText), value: anyHostExpr })),
  inputs: list(entry),
  outputs: list(entry),
  params: list(
    fc
      .record({ name: anyName, dtype, shape: list(fc.nat(9)), buffer: id, init, packed, rows })
      .map(({ init: how, packed: form, rows: part, ...rest }) => ({
        ...rest,
        ...(how === undefined ? {} : { init: how }),
        ...(form === undefined ? {} : { packed: form }),
        ...(part === undefined ? {} : { rows: part }),
      })),
  ),
  states: list(
    fc
      .record({ name: anyName, buffer: id, update: fc.option(id, { nil: undefined }) })
      .map(({ update, ...rest }) => (update === undefined ? rest : { ...rest, update })),
  ),
  buffers: list(fc.record({ name: anyName, dtype, shape: list(sizeText), slack: fc.nat(99), place })),
  kernels: list(fc.record({ name: anyName, dims: list(anyName), bufferCount: id, scratch: sizeText, units: sizeText })),
  prepare: list(step),
  steps: list(step),
});

const accesses = (compiled: ReturnType<typeof compileGraph>): Accesses =>
  new Map(compiled.kernels.map((k) => [k.name, k.buffers.map((b) => b.access)]));

describe("the text of a plan", () => {
  test("shows sizes, buffers with their places, kernels and steps", () => {
    expect(printPlan(small)).toMatchInlineSnapshot(`
      "plan "small" version 1 {
        symbol T: 1..4096
        symbol P: 0..
        limit {"T + P"} to {4096} "too many"
        size P at "a.uhd:1:2" = {"k":"lit","v":3}
        table 0 offsets: i32[P + 1] = {"k":"var","name":"offsets"}
        buffer %0 x: f32[T, 8] input
        buffer %1 fc.weight: f32[4, 8] param
        buffer %2 "fc.weight in panels": f32[1, 8, 8] persistent
        buffer %3 acc: f32[T, 4] + 16 arena 0..1
        buffer %4 y: f32[T, 4] output
        buffer %5 offsets: i32[P + 1] table 0
        input x = %0
        output y = %4
        param fc.weight: f32[4, 8] ~ normal(0.02) = %1
        kernel pack_0() buffers 2 units {1} scratch {0}
        kernel matmul_1(T) buffers 3 units {div(T + 3, 4)} scratch {64*T}
        kernel map_2(T) buffers 4 units {T} scratch {0}
        prepare 0 = run pack_0(%1, %2) dims [] over [1] flops {0} bytes {384} stage "small" from []
        step 0 = run matmul_1(%0, %2, %3) dims [T] over [T, 4] flops {64*T} bytes {48*T + 256} stage "small" from ["a.uhd:3:5 < a.uhd:9:1"]
        step 1 = run map_2(%3, %0, %5, %4) dims [T] over [T, 4] flops {4*T} bytes {48*T} stage "small" from ["a.uhd:4:5"] apart "it has two readers"
      }
      "
    `);
  });

  test("can leave the shape code out, for reading", () => {
    expect(printPlan(small, { code: false })).toContain('  size P at "a.uhd:1:2" = …\n  table 0 offsets: i32[P + 1] = …\n');
  });

  test("reads back as the same plan, whatever the plan holds", () => {
    property(anyPlan, (plan) => {
      expect(parsePlan(printPlan(plan))).toEqual(plan);
    });
  });

  test("reads back as the same plan for plans that the compiler makes", () => {
    expect(parsePlan(printPlan(small))).toEqual(small);
    property(
      fc.tuple(generatedGraphs(), fc.boolean()),
      ([{ graph }, fuse]) => {
        const { plan } = compileGraph(graph, { fuse });
        expect(parsePlan(printPlan(plan))).toEqual(plan);
      },
      50,
    );
  });

  test("is refused with its line and column where it is wrong", () => {
    const message = (text: string): string => {
      try {
        parsePlan(text);
      } catch (error) {
        if (error instanceof IrParseError) return error.message;
        throw error;
      }
      return "accepted";
    };
    const inside = (line: string): string => message(`plan "p" version 1 {\n  ${line}\n}`);
    expect(inside("buffer %1 x: f32[] input")).toBe('line 2, column 10: expected number 0, found "%1 x: f32[] input"');
    expect(inside("buffer %0 x: f33[] input")).toBe('line 2, column 19: expected an element type before this, found "[] input"');
    expect(inside("buffer %0 x: f32[T *] input")).toContain("line 2, column 20: expected a size");
    expect(inside("buffer %0 x: f32[] heap")).toBe("line 2, column 26: expected a place before this, found the end of the line");
    expect(inside("step 0 = jump")).toBe('line 2, column 12: expected "run", found "jump"');
    expect(inside('size P at "" = {')).toBe('line 2, column 17: expected JSON, found " {"');
    expect(message('plan "p" version 2 {\n}')).toBe('line 1, column 10: expected "version 1 {", found "version 2 {"');
    expect(message("")).toBe("line 1, column 1: there is no plan");
  });

  test("never makes the reader fail in another way, whatever is cut or changed", () => {
    property(
      fc.tuple(anyPlan, fc.nat(), fc.nat(20), fc.constantFrom("", "%", "[", "(", '"', "}", ":", "9", "{")),
      ([plan, from, length, insert]) => {
        const text = printPlan(plan);
        const cut = from % text.length;
        try {
          parsePlan(text.slice(0, cut) + insert + text.slice(cut + length));
        } catch (error) {
          expect(error).toBeInstanceOf(IrParseError);
        }
      },
    );
  });
});

describe("the verifier of plans", () => {
  const blank = { extents: [], sources: [], flops: "0", bytes: "0", stage: "" };
  const wrong = (change: Partial<Plan>): string =>
    verifyPlan({ ...small, ...change })
      .join("; ")
      .replaceAll("plan small: ", "");
  const buffer = (at: number, change: Partial<PlanBuffer>): string =>
    wrong({ buffers: small.buffers.map((b, i) => (i === at ? { ...b, ...change } : b)) });
  const dispatch = (at: number, change: Partial<Extract<Step, { k: "dispatch" }>>): string =>
    wrong({ steps: small.steps.map((s, i) => (i === at && s.k === "dispatch" ? { ...s, ...change } : s)) });

  test("accepts what the compiler makes, fused and not", () => {
    expect(wrong({})).toBe("");
    property(
      fc.tuple(generatedGraphs(), fc.boolean()),
      ([{ graph }, fuse]) => {
        const compiled = compileGraph(graph, { fuse });
        expect(verifyPlan(compiled.plan, accesses(compiled))).toEqual([]);
        expect(verifyPlan(compiled.plan)).toEqual([]);
      },
      100,
    );
  });

  test("finds sizes that are none, or over symbols that nothing gives", () => {
    expect(buffer(3, { shape: ["T +", "4"] })).toContain('buffer 3 (acc): "T +" is no size');
    expect(buffer(3, { shape: ["N", "4"] })).toContain("buffer 3 (acc): symbol N is not declared");
    expect(buffer(3, { shape: ["-2", "4"] })).toContain("buffer 3 (acc): size -2 is negative");
    expect(buffer(2, { shape: ["T"] })).toContain("it is kept between runs, and its size T is not constant");
    expect(buffer(3, { slack: -1 })).toContain("-1 elements of slack");
    expect(wrong({ symbols: [...small.symbols, { name: "N", lower: 3, upper: 2 }] })).toBe(
      "symbol N has no values: 3..2; symbol N is neither a dimension of an input nor defined by shape code",
    );
    expect(wrong({ kernels: small.kernels.map((k) => ({ ...k, units: "P" })) })).toContain("kernel map_2: symbol P is not declared");
    expect(dispatch(0, { dims: ["M"] })).toContain("step 0 (matmul_1): symbol M is not declared");
    expect(wrong({ limits: [{ value: "T", most: "M", says: "" }] })).toBe("limit 0: symbol M is not declared");
    expect(wrong({ symbols: [...small.symbols, { name: "N", lower: 0, argument: true }] })).toBe("");
  });

  test("finds entries that are not what their buffers are", () => {
    expect(wrong({ inputs: [{ name: "x", buffer: 9 }] })).toContain("input x: there is no buffer 9");
    expect(wrong({ inputs: [{ name: "x", buffer: 1 }] })).toContain("input x: buffer 1 is of the kind param");
    expect(wrong({ inputs: [] })).toContain("buffer 0 (x): no input fills it");
    expect(wrong({ outputs: [...small.outputs, ...small.outputs] })).toBe("output y: there are two of this name");
    expect(wrong({ params: small.params.map((p) => ({ ...p, shape: [8, 4] })) })).toBe("param fc.weight: it is not what its buffer holds");
    expect(buffer(5, { place: { k: "table", table: 1 } })).toContain("buffer 5 (offsets): there is no table 1");
    expect(buffer(5, { dtype: "f32" })).toBe("table 0 (offsets): it is not what its buffer holds");
    expect(buffer(2, { place: { k: "constant", data: [1] } })).toContain("buffer 2 (fc.weight in panels): 1 numbers do not fill the shape");
    expect(wrong({ states: [{ name: "cache", buffer: 0, update: 7 }] })).toContain("state cache: there is no buffer 7");
  });

  test("finds steps that do not fit their kernels", () => {
    expect(dispatch(0, { kernel: "q" })).toContain("step 0 (q): there is no such kernel");
    expect(dispatch(0, { dims: [] })).toBe("step 0 (matmul_1): 0 sizes instead of 1");
    expect(dispatch(1, { buffers: [3, 4] })).toBe("step 1 (map_2): 2 buffers instead of 4");
    expect(dispatch(1, { buffers: [3, 0, 12, 4] })).toBe("step 1 (map_2): there is no buffer 12");
    expect(wrong({ kernels: [...small.kernels, ...small.kernels.slice(0, 1)] })).toBe("kernel pack_0: there are two of this name");
  });

  test("finds reads before writes, wrong writes and lives that are too short", () => {
    expect(wrong({ steps: small.steps.toReversed() })).toContain("step 0 (map_2): it reads buffer 3 (acc), which nothing wrote before");
    expect(wrong({ prepare: [] })).toContain("step 0 (matmul_1): it reads buffer 2 (fc.weight in panels), which nothing wrote before");
    expect(buffer(3, { place: { k: "arena", first: 0, last: 0 } })).toBe("step 1 (map_2): it uses buffer 3 (acc), which lives to step 0");
    expect(buffer(3, { place: { k: "arena", first: 1, last: 1 } })).toBe(
      "step 0 (matmul_1): it writes buffer 3 (acc), which lives from step 1",
    );
    expect(buffer(3, { place: { k: "arena", first: -1, last: -1 } })).toContain("buffer 3 (acc): it lives from step -1 to step -1");
    expect(wrong({ steps: [...small.steps, ...small.steps.slice(1)] })).toContain(
      "step 2 (map_2): it writes buffer 4 (y), as step 1 (map_2) did",
    );
    expect(dispatch(1, { buffers: [3, 0, 5, 0] })).toContain("step 1 (map_2): it reads and writes buffer 0");
    expect(dispatch(1, { buffers: [3, 0, 5, 2] })).toContain("which is of the kind persistent");
    expect(wrong({ prepare: small.steps.slice(0, 1) })).toContain("prepare 0 (matmul_1): it reads x, which is known in runs only");
    expect(wrong({ steps: small.steps.slice(0, 1) })).toContain("output y: nothing writes it");
    expect(wrong({ steps: [...small.steps, { k: "copy", from: 0, to: 4 }] })).toContain("step 2: it copies f32[T, 8] to f32[T, 4]");
    const written = new Map([["map_2", ["write", "read", "read", "write"] as const]]);
    expect(verifyPlan(small, written).join("; ")).toContain("it writes buffer 3 (acc), as step 0 (matmul_1) did");
    const states = { states: [{ name: "s", buffer: 6, update: 3 }] };
    const cache: PlanBuffer = { name: "s", dtype: "f32", shape: ["T", "4"], slack: 0, place: { k: "state" } };
    expect(wrong({ ...states, buffers: [...small.buffers, cache] })).toContain(
      "the update of s: it uses buffer 3 (acc), which lives to step 1",
    );
    // Only a state that is its own update is written by a step.
    const writes = (update: number | undefined): string =>
      wrong({
        states: [{ name: "s", buffer: 6, ...(update === undefined ? {} : { update }) }],
        buffers: [...small.buffers, { ...cache, shape: ["4", "4"] }],
        steps: [...small.steps, { k: "dispatch", ...blank, kernel: "map_2", buffers: [4, 0, 5, 6], dims: ["T"] }],
      });
    expect(writes(6)).toBe("");
    expect(writes(undefined)).toContain("step 2 (map_2): it writes buffer 6 (s), which is of the kind state");
  });

  test("finds whatever the runtime refuses", () => {
    let refused = 0;
    property(anyPlan, (plan) => {
      try {
        checkPlan(plan, "plan");
      } catch {
        refused++;
        expect(verifyPlan(plan)).not.toEqual([]);
      }
    });
    expect(refused).toBeGreaterThan(10);
    expect(() => checkPlan(small, "plan")).not.toThrow();
  });
});
