// Kernel IR: its text reads back as the same kernel and is a key, its verifier finds what is broken, and its
// evaluator does what the body says.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { IrParseError } from "../compiler/ir/cursor.ts";
import { dim, dimEval, dimSymbol, type DimEnv } from "../compiler/ir/dim.ts";
import type { DType } from "../compiler/ir/dtype.ts";
import { binaryFunction, bitsOfFloat, floatOfBits, saturate, unaryFunction } from "../compiler/ir/imp/scalar.ts";
import * as b from "../compiler/ir/kernel/build.ts";
import { evalKernel, type KernelMemory } from "../compiler/ir/kernel/eval.ts";
import { parseKernel } from "../compiler/ir/kernel/parse.ts";
import { printKernel } from "../compiler/ir/kernel/print.ts";
import type { Expr, Kernel, KernelBuffer, Pattern, Stage } from "../compiler/ir/kernel/types.ts";
import { verifyKernel } from "../compiler/ir/kernel/verify.ts";
import { convert } from "../ops/reference/numbers.ts";
import { anyKernels, soundKernels } from "./conformance/kernels.ts";
import { property } from "./conformance/property.ts";
import { encodeElements } from "./conformance/tensors.ts";

const T = dimSymbol("T");
const [t, n, k] = [b.variable("t"), b.variable("n"), b.variable("k")];
const at = (row: Expr, width: number, column: Expr): Expr => b.add(b.mul(row, b.i32(width)), column);
const load = (buffer: string, index: Expr): Extract<Expr, { k: "load" }> => ({ k: "load", buffer, index, type: "f32" });

/** out[t, n] = gelu-like(Σ a[t, k]·w[n, k] + bias[n]), with a scale in f16. */
function linear(change: Partial<Kernel> = {}): Kernel {
  const [a, w] = [load("a", at(t, 8, k)), load("w", at(n, 8, k))];
  const acc = b.variable("acc", "f32");
  const sum = b.add(acc, b.load("bias", n, "f32"));
  return {
    name: "linear",
    axes: [
      { name: "t", extent: T },
      { name: "n", extent: dim(4) },
    ],
    buffers: [
      { name: "a", dtype: "f32", shape: [T, dim(8)], access: "read" },
      { name: "w", dtype: "f32", shape: [dim(4), dim(8)], access: "read" },
      { name: "bias", dtype: "f16", shape: [dim(4)], access: "read" },
      { name: "out", dtype: "f32", shape: [T, dim(4)], access: "write" },
    ],
    stages: [
      { k: "let", name: "acc", type: "f32", value: b.fold("sum", "k", b.i32(0), b.dimExpr(8), b.mul(a, w)) },
      { k: "store", axes: [], buffer: "out", index: at(t, 4, n), value: b.mul(sum, b.unary("erf", sum)) },
    ],
    schedule: [
      { k: "packed", buffer: "w", panel: 16 },
      { k: "parallel", axes: ["t", "n"] },
    ],
    pattern: { k: "matmul", batch: [], m: "t", n: "n", kAxis: "k", a, b: w },
    sources: [[{ file: "vit.uhd", start: 10, end: 14, line: 2, column: 3, endLine: 2, endColumn: 7 }]],
    ...change,
  };
}

/** One store of `value` at each point of [2, 3], over the buffers given. */
function pointwise(value: Expr, buffers: readonly KernelBuffer[] = [], dtype: DType = "f32"): Kernel {
  return {
    name: "pointwise",
    axes: [
      { name: "t", extent: dim(2) },
      { name: "n", extent: dim(3) },
    ],
    buffers: [...buffers, { name: "y", dtype, shape: [dim(2), dim(3)], access: "write" }],
    stages: [{ k: "store", axes: [], buffer: "y", index: at(t, 3, n), value }],
    schedule: [],
    sources: [],
  };
}

describe("the text of a kernel", () => {
  test("shows axes, buffers, stages, schedule, pattern and places", () => {
    expect(printKernel(linear())).toMatchInlineSnapshot(`
      "kernel "linear" {
        span 0 = "vit.uhd" 10 14 2:3 2:7
        axis t: T
        axis n: 4
        read a: f32[T, 8]
        read w: f32[4, 8]
        read bias: f16[4]
        write out: f32[T, 4]
        %0 = a[t * 8 + k]
        %1 = w[n * 8 + k]
        let acc: f32 = sum(k = 0 .. {8}, %0 * %1)
        %2 = acc + bias[n]
        store out[t * 4 + n] = %2 * erf(%2)
        schedule packed w 16
        schedule parallel [t, n]
        pattern matmul(batch = [], m = t, n = n, k = k, a = %0, b = %1)
        source 0
      }
      "
    `);
  });

  test("reads back as the same kernel, whatever the kernel holds", () => {
    property(anyKernels, (kernel) => {
      const read = parseKernel(printKernel(kernel));
      expect(printKernel(read)).toBe(printKernel(kernel));
      expect(read).toEqual(kernel);
    });
  });

  test("reads back as the same kernel for kernels that make sense", () => {
    property(soundKernels(), ({ kernel }) => {
      expect(parseKernel(printKernel(kernel))).toEqual(kernel);
    });
    expect(parseKernel(printKernel(linear()))).toEqual(linear());
  });

  test("is a key without name and places: the same for kernels that differ in nothing else", () => {
    const key = (kernel: Kernel): string => printKernel(kernel, { names: false, sources: false });
    const other: readonly Partial<Kernel>[] = [
      { axes: linear().axes.toReversed() },
      { buffers: linear().buffers.map((x) => ({ ...x, dtype: "f32" })) },
      { stages: linear().stages.slice(0, 1) },
      { schedule: [] },
      { stages: [...linear().stages, { k: "store", axes: [], buffer: "out", index: b.f32(1), value: b.i32(1) }] },
      { stages: [...linear().stages, { k: "store", axes: [], buffer: "out", index: b.i32(1), value: b.i32(1) }] },
    ];
    expect(key(linear({ name: "other", sources: [] }))).toBe(key(linear()));
    const keys = [linear(), ...other.map((change) => linear(change))].map(key);
    expect(new Set(keys).size).toBe(keys.length);
    property(fc.tuple(anyKernels, anyKernels), ([x, y]) => {
      const bare = (kernel: Kernel): Kernel => ({ ...kernel, name: "", sources: [] });
      expect(key(x)).toBe(key({ ...x, name: "other", sources: [] }));
      if (key(x) === key(y)) expect(bare(x)).toEqual(bare(y));
    });
  });

  test("is linear in the number of different expressions", () => {
    let value: Expr = b.load("x", t, "f32");
    for (let i = 0; i < 200; i++) value = b.add(b.mul(value, b.f32(0.5)), b.unary("abs", value));
    const text = printKernel(pointwise(value, [{ name: "x", dtype: "f32", shape: [dim(2)], access: "read" }]));
    expect(text.split("\n").length).toBeLessThan(220);
    expect(printKernel(parseKernel(text))).toBe(text);
  });

  test("reads back however deep an expression is", () => {
    let value: Expr = b.load("x", t, "f32");
    for (let i = 0; i < 1500; i++) value = i % 2 === 0 ? b.unary("tanh", value) : b.sub(b.f32(1), value);
    const kernel = pointwise(value, [{ name: "x", dtype: "f32", shape: [dim(2)], access: "read" }]);
    expect(printKernel(parseKernel(printKernel(kernel)))).toBe(printKernel(kernel));
    expect(verifyKernel(kernel)).toEqual([]);
  });

  test("is refused with its line and column where it is wrong", () => {
    const message = (text: string): string => {
      try {
        parseKernel(text);
      } catch (error) {
        if (error instanceof IrParseError) return error.message;
        throw error;
      }
      return "accepted";
    };
    const inside = (line: string): string => message(`kernel "k" {\n  read x: f32[4]\n  ${line}\n}`);
    expect(inside("axis t: [")).toContain("line 3, column 10: expected a size");
    expect(inside("write y: f33[2]")).toBe('line 3, column 15: expected an element type, found "[2]"');
    expect(inside("let v: f32 = x[0] +")).toBe("line 3, column 22: expected a name, found the end of the line");
    expect(inside("let v: f32 = %1")).toBe("line 3, column 18: expected a definition that stands before, found the end of the line");
    expect(inside("let v: bool = 1 < 2 < 3")).toBe('line 3, column 23: expected parentheses around one of the operations, found "< 3"');
    expect(inside("let v: f32 = exp(x[0], x[1])")).toContain("expected an operation exp of 2 operands");
    expect(inside("pattern matmul(batch = [], m = t, n = n, k = k, a = 1, b = 2)")).toContain("expected a load");
    expect(message('kernel "k" {\n')).toBe("line 2, column 1: the kernel is not closed");
    expect(message("")).toBe("line 1, column 1: there is no kernel");
    expect(inside(`let v: f32 = ${"neg(".repeat(5000)}`)).toContain("expected an expression of at most 200 levels");
  });

  test("never makes the reader fail in another way, whatever is cut or changed", () => {
    property(
      fc.tuple(soundKernels(), fc.nat(), fc.nat(20), fc.constantFrom("", "%", "[", "(", '"', "}", ":", "9", "=", "..")),
      ([{ kernel }, from, length, insert]) => {
        const text = printKernel(kernel);
        const cut = from % text.length;
        try {
          parseKernel(text.slice(0, cut) + insert + text.slice(cut + length));
        } catch (error) {
          expect(error).toBeInstanceOf(IrParseError);
        }
      },
    );
  });
});

describe("the verifier of kernels", () => {
  const wrong = (kernel: Kernel): string => verifyKernel(kernel).join("; ");
  const value = (e: Expr): string =>
    wrong(pointwise(e, [{ name: "x", dtype: "f32", shape: [dim(4)], access: "read" }])).replaceAll(
      "kernel pointwise: stage 0 (store y): ",
      "",
    );

  test("accepts every kernel that makes sense", () => {
    expect(wrong(linear())).toBe("");
    property(soundKernels(), ({ kernel }) => {
      expect(verifyKernel(kernel)).toEqual([]);
    });
  });

  test("finds expressions whose types do not fit", () => {
    const f: Expr = b.f32(1);
    expect(value({ k: "binary", op: "add", a: f, b: b.i32(1), type: "f32" })).toBe(
      "add takes two operands of one type, not f32 and i32 in 1.0 + 1",
    );
    expect(value({ k: "binary", op: "shl", a: f, b: f, type: "f32" })).toBe("shl does not take f32 in 1.0 << 1.0");
    expect(value({ k: "binary", op: "lt", a: f, b: f, type: "f32" })).toBe("the type is f32 instead of bool in (1.0 < 1.0):f32");
    expect(value({ k: "unary", op: "not", a: f, type: "f32" })).toContain("not does not take f32");
    expect(value({ k: "select", cond: f, a: f, b: f, type: "f32" })).toContain("the condition is f32, not bool");
    expect(value({ k: "fold", op: "sum", axis: "k", from: f, to: b.i32(1), body: f, type: "f32" })).toContain("the bounds are f32 and i32");
    expect(value({ k: "load", buffer: "x", index: f, type: "f32" })).toContain("the index is f32, not i32");
    expect(value({ k: "const", type: "f32", value: 0.1 })).toContain("0.1 is no f32");
    expect(value(b.cast(b.load("x", t, "i32"), "f32"))).toContain("the type is i32 instead of f32");
    expect(value(b.i32(3))).toBe("a value of i32 does not fit f32");
  });

  test("finds names that are not in scope, repeat or hide others", () => {
    expect(value(b.cast(b.variable("q"), "f32"))).toBe("q is not in scope");
    expect(value(b.variable("t", "f32"))).toBe("t is i32, not f32");
    expect(value(b.load("w", t, "f32"))).toContain("there is no buffer w");
    expect(value(b.load("y", t, "f32"))).toContain("buffer y is for writing");
    const sum = (axis: string, body: Expr): Expr => b.fold("sum", axis, b.i32(0), b.i32(2), body);
    expect(value(sum("t", b.f32(1)))).toBe("the fold over t hides a name");
    expect(value(sum("k", sum("k", b.f32(1))))).toBe("a fold over k stands in another one");
    expect(value(b.add(sum("k", b.cast(k, "f32")), b.cast(k, "f32")))).toBe("k is not in scope");
    expect(wrong(linear({ axes: [...linear().axes, { name: "t", extent: dim(2) }] }))).toContain("the name t is used twice");
    expect(wrong(linear({ buffers: [...linear().buffers, ...linear().buffers.slice(0, 1)] }))).toContain("there are two buffers a");
    const early = linear().stages.toReversed();
    expect(wrong(linear({ stages: early }))).toContain("stage 0 (store out): acc is not in scope");
    const [sumStage, store] = linear().stages;
    if (sumStage?.k !== "let" || store?.k !== "store") throw new Error("the stages of linear");
    expect(wrong(linear({ stages: [{ ...sumStage, type: "i32" }, store] }))).toContain("stage 0 (let acc): its value is f32, not i32");
    expect(wrong(linear({ stages: [sumStage, { ...store, axes: [{ name: "n", extent: dim(2) }] }] }))).toContain(
      "the name n is used twice",
    );
    expect(wrong(linear({ stages: [sumStage, { ...store, buffer: "bias" }] }))).toContain("the buffer is for reading");
    expect(wrong(linear({ stages: [sumStage] }))).toContain("nothing is stored in buffer out");
  });

  test("finds schedules and patterns that name what there is not", () => {
    expect(wrong(linear({ schedule: [{ k: "tile", axis: "q", size: 0 }] }))).toBe(
      "kernel linear (vit.uhd:2:3): tile: there is no axis q; kernel linear (vit.uhd:2:3): tile: 0 is not a positive integer",
    );
    expect(wrong(linear({ schedule: [{ k: "unroll", axis: "k", by: 2 }] }))).toBe("");
    expect(wrong(linear({ schedule: [{ k: "packed", buffer: "out", panel: 4 }] }))).toContain("there is no buffer out for reading");
    expect(wrong(linear({ schedule: [{ k: "parallel", axes: ["k", "t", "t"] }] }))).toContain(
      "parallel: there is no parallel axis k; kernel linear (vit.uhd:2:3): parallel: an axis is named twice",
    );
    const pattern = linear().pattern;
    if (pattern?.k !== "matmul") throw new Error("the pattern of linear");
    const changed = (change: Partial<Extract<Pattern, { k: "matmul" }>>): string => wrong(linear({ pattern: { ...pattern, ...change } }));
    expect(changed({ m: "n" })).toContain("its axes n, n are not the kernel's t, n");
    expect(changed({ batch: ["q"] })).toContain("its axes q, t, n are not");
    expect(changed({ kAxis: "j" })).toContain("the sum is over k, not j");
    expect(changed({ a: pattern.b })).toContain(
      "a depends on n; kernel linear (vit.uhd:2:3): pattern matmul: the first stage does not sum",
    );
    expect(changed({ a: pattern.b, b: pattern.a })).toContain("a depends on n");
    expect(wrong(linear({ stages: linear().stages.slice(1) }))).toContain("the first stage is no sum");
  });

  test("takes time that is linear in the number of different expressions", () => {
    let e: Expr = b.load("x", t, "f32");
    for (let i = 0; i < 300; i++) e = b.add(e, e);
    expect(value(e)).toBe("");
    expect(value(b.add(e, b.variable("q", "f32")))).toBe("q is not in scope");
  });
});

/** The meaning of a kernel, as plainly as it can be written: no sharing, no memory, values in float64 arrays. */
function plainly({ kernel, dims, buffers }: { kernel: Kernel; dims: DimEnv; buffers: Readonly<Record<string, Float64Array>> }): void {
  const lane = (e: Expr): "f32" | "i32" => (b.typeOfExpr(e) === "f32" ? "f32" : "i32");
  const element = (name: string, index: number): number => {
    const value = buffers[name]?.[index];
    if (value === undefined) throw new Error(`element ${index} of ${name}`);
    return value;
  };
  const value = (e: Expr, env: DimEnv): number => {
    switch (e.k) {
      case "const":
        return e.value;
      case "var":
        return env[e.name] ?? NaN;
      case "dim":
        return dimEval(e.dim, dims);
      case "load":
        return element(e.buffer, value(e.index, env));
      case "unary":
        return unaryFunction(e.op, lane(e))(value(e.a, env));
      case "binary":
        return binaryFunction(e.op, lane(e.a))(value(e.a, env), value(e.b, env));
      case "select":
        return value(value(e.cond, env) === 0 ? e.b : e.a, env);
      case "cast": {
        const x = value(e.a, env);
        return e.type === "bool" ? Number(x !== 0) : e.type === "i32" ? saturate(x) : Math.fround(x);
      }
      case "bitcast":
        return (e.type === "i32" ? bitsOfFloat : floatOfBits)(value(e.a, env));
      case "fold": {
        const op = binaryFunction(e.op === "sum" ? "add" : e.op === "product" ? "mul" : e.op, lane(e));
        let result = b.foldIdentity(e.op, e.type);
        for (let i = value(e.from, env); i < value(e.to, env); i++) result = op(result, value(e.body, { ...env, [e.axis]: i }));
        return result;
      }
      case "iterate": {
        let result = value(e.init, env);
        for (let i = 0; i < e.steps; i++) result = value(e.body, { ...env, [e.axis]: i, [e.name]: result });
        return result;
      }
      default:
        return e satisfies never;
    }
  };
  const over = (axes: Kernel["axes"], env: DimEnv, body: (env: DimEnv) => void): void => {
    const [first, ...rest] = axes;
    if (first === undefined) return body(env);
    for (let i = 0; i < dimEval(first.extent, dims); i++) over(rest, { ...env, [first.name]: i }, body);
  };
  const dtypeOf = (name: string): DType => kernel.buffers.find((x) => x.name === name)?.dtype ?? "f32";
  const store = (s: Extract<Stage, { k: "store" }>, env: DimEnv): void =>
    over(s.axes, env, (inner) => {
      const memory = buffers[s.buffer];
      const dtype = dtypeOf(s.buffer);
      if (memory !== undefined) memory[value(s.index, inner)] = convert(value(s.value, inner), lane(s.value), dtype);
    });
  over(kernel.axes, {}, (env) => {
    let scope = env;
    for (const s of kernel.stages) {
      if (s.k === "let") scope = { ...scope, [s.name]: value(s.value, scope) };
      else store(s, scope);
    }
  });
}

const zeros = (sizes: Readonly<Record<string, number>>): Record<string, Float64Array> =>
  Object.fromEntries(Object.entries(sizes).map(([name, size]) => [name, new Float64Array(size)]));

describe("the evaluator of kernels", () => {
  test("does what the body says, on values and on a device's bytes", () => {
    property(soundKernels(), ({ kernel, dims, inputs, outputs }) => {
      const expected = { ...inputs, ...zeros(outputs) };
      plainly({ kernel, dims, buffers: expected });
      const found = { ...inputs, ...zeros(outputs) };
      evalKernel(kernel, found, dims);
      expect(found).toEqual(expected);
      const bytes: Record<string, KernelMemory> = Object.fromEntries(
        kernel.buffers.map((x) => [x.name, encodeElements(x.dtype, inputs[x.name] ?? new Float64Array(outputs[x.name] ?? 0))]),
      );
      evalKernel(kernel, bytes, dims);
      for (const x of kernel.buffers) expect(bytes[x.name]).toEqual(encodeElements(x.dtype, expected[x.name] ?? []));
    });
  });

  test("rounds to f32 after each operation and to the buffer's dtype where it stores", () => {
    const x: KernelBuffer = { name: "x", dtype: "f32", shape: [dim(2), dim(3)], access: "read" };
    const run = (value: Expr, dtype: DType, data: readonly number[]): number[] => {
      const y = new Float64Array(6);
      evalKernel(pointwise(value, [x], dtype), { x: Float64Array.from(data), y }, {});
      return [...y];
    };
    const here = b.load("x", at(t, 3, n), "f32");
    const data = [16777216, 0.1, -0, NaN, Infinity, -1e-40];
    expect(run(b.sub(b.add(here, b.f32(1)), here), "f32", data)).toEqual([0, Math.fround(Math.fround(1.1) - 0.1), 1, NaN, NaN, 1]);
    expect(run(here, "f16", data.map(Math.fround))).toEqual([Infinity, 0.0999755859375, -0, NaN, Infinity, -0]);
    expect(run(b.cast(here, "i32"), "u8", [300, -1, 3e9, NaN, -3e9, 2.9])).toEqual([44, 255, 255, 0, 0, 2]);
    const product = b.mul(b.cast(here, "i32"), b.i32(2147483647));
    expect(run(product, "i32", [2, 3, -2, 1, 0, 65536])).toEqual([-2, 2147483645, 2, 2147483647, 0, -65536]);
  });

  test("refuses accesses out of range, with kernel, buffer and index", () => {
    const x: KernelBuffer = { name: "x", dtype: "f32", shape: [dim(5)], access: "read" };
    const kernel = pointwise(b.load("x", at(t, 3, n), "f32"), [x]);
    expect(() => evalKernel(kernel, { x: new Float64Array(9), y: new Float64Array(6) }, {})).toThrow(
      "pointwise: reads element 5 of x, which has 5",
    );
    const store = pointwise(b.f32(1));
    expect(() =>
      evalKernel({ ...store, axes: [{ name: "t", extent: dim(3) }, ...store.axes.slice(1)] }, { y: new Float32Array(99) }, {}),
    ).toThrow("pointwise: writes element 6 of y, which has 6");
    expect(() => evalKernel(store, { y: new Float32Array(5) }, {})).toThrow("pointwise: y has 5 elements instead of 6");
    expect(() => evalKernel(store, {}, {})).toThrow("no memory was given for y");
    expect(() => evalKernel(linear(), {}, {})).toThrow("no size is known for dimension T");
  });

  test("computes shared expressions once", () => {
    let value: Expr = b.cast(at(t, 3, n), "f32");
    for (let i = 0; i < 100; i++) value = b.mul(b.add(value, value), b.f32(0.5));
    const y = new Float64Array(6);
    evalKernel(pointwise(value), { y }, {});
    expect([...y]).toEqual([0, 1, 2, 3, 4, 5]);
  });

  test("manages a few million operations a second", () => {
    const size = 96;
    const big = linear({
      axes: [
        { name: "t", extent: dim(size) },
        { name: "n", extent: dim(size) },
      ],
      buffers: linear().buffers.map((x) => ({ ...x, shape: [dim(size), dim(size)] })),
      stages: [
        {
          k: "let",
          name: "acc",
          type: "f32",
          value: b.fold("sum", "k", b.i32(0), b.i32(size), b.mul(load("a", at(t, size, k)), load("w", at(n, size, k)))),
        },
        { k: "store", axes: [], buffer: "out", index: at(t, size, n), value: b.variable("acc", "f32") },
      ],
    });
    const ones = new Float32Array(size * size).fill(1);
    const out = new Float32Array(size * size);
    const begin = performance.now();
    evalKernel(big, { a: ones, w: ones, bias: new Uint16Array(size * size), out }, {});
    const seconds = (performance.now() - begin) / 1000;
    expect(out[77]).toBe(size);
    // Two loads, a product, a sum and two indices of two operations each.
    expect((8 * size ** 3) / seconds).toBeGreaterThan(2e6);
  });
});
