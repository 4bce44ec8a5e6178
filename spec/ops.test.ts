// The op table by itself: its definitions are consistent, type rules agree with references on generated calls,
// derivatives agree with central differences in float64, and errors name the operand.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { gradient } from "../compiler/autodiff/reverse.ts";
import { dim, dimEval, dimSymbol } from "../compiler/ir/dim.ts";
import { isFloat } from "../compiler/ir/dtype.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import { evalGraph } from "../compiler/ir/graph/eval.ts";
import type { Graph, ValueId } from "../compiler/ir/graph/types.ts";
import { verifyGraph } from "../compiler/ir/graph/verify.ts";
import { OpTypeError, type OpSample, type RefTensor } from "../ops/define.ts";
import { normaliseAttrs, opNames, opOf, ops, referenceOf, typeRule, type OpName } from "../ops/index.ts";
import { typeOfTensor } from "../ops/sampling.ts";
import { property } from "./conformance/property.ts";

/** A graph of one call, its operands as inputs x0, x1, … and its result as output y. */
function callGraph(name: OpName, sample: OpSample): { readonly graph: Graph; readonly operands: readonly ValueId[] } {
  const builder = new GraphBuilder(name, typeRule);
  const operands = sample.operands.map((x, i) => builder.input(`x${i}`, typeOfTensor(x)));
  builder.output("y", builder.op(name, operands, sample.attrs));
  return { graph: builder.build(), operands };
}

const named = (tensors: readonly RefTensor[]): Record<string, RefTensor> => Object.fromEntries(tensors.map((t, i) => [`x${i}`, t]));

function resultOf(name: OpName, sample: OpSample): RefTensor {
  const type = typeRule(name, sample.operands.map(typeOfTensor), sample.attrs);
  return referenceOf(name, sample.operands, sample.attrs, { dtype: type.dtype, shape: type.shape.map((d) => dimEval(d, {})) });
}

describe("the op table", () => {
  test("names every definition by its key", () => {
    for (const name of opNames) expect(opOf(name).name).toBe(name);
    expect(opNames.length).toBeGreaterThan(60);
  });

  test("says of every op what it is, takes and tolerates", () => {
    for (const name of opNames) {
      const op = ops[name];
      expect(op.doc.length, name).toBeGreaterThan(3);
      expect(op.tolerance.why, name).toMatch(/\.$/);
      for (const part of [...op.operands, ...op.attrs]) expect(part.doc.length, `${name} ${part.name}`).toBeGreaterThan(1);
    }
  });

  test("gives every op that lowers to others a decomposition of the same type", () => {
    for (const name of opNames) {
      const op = ops[name];
      const build = op.decomposition ?? (op.lowering.kind === "decompose" ? op.lowering.build : undefined);
      if (build === undefined) {
        expect(op.derivative.kind, name).not.toBe("viaDecomposition");
        continue;
      }
      property(
        op.samples(fc),
        (sample) => {
          const builder = new GraphBuilder(name, typeRule);
          const operands = sample.operands.map((x, i) => builder.input(`x${i}`, typeOfTensor(x)));
          const value = build(builder, operands, sample.attrs);
          expect(builder.typeOf(value)).toEqual(typeRule(name, sample.operands.map(typeOfTensor), sample.attrs));
        },
        50,
      );
    }
  });
});

describe.each(opNames)("%s", (name) => {
  const op = ops[name];

  test("has the type its reference gives", () => {
    property(op.samples(fc), (sample) => {
      const type = typeRule(name, sample.operands.map(typeOfTensor), sample.attrs);
      expect(typeRule(name, sample.operands.map(typeOfTensor), normaliseAttrs(name, sample.attrs))).toEqual(type);
      const shape = type.shape.map((d) => dimEval(d, {}));
      const result = op.reference(sample.operands, sample.attrs, { dtype: type.dtype, shape });
      expect(result.dtype).toBe(type.dtype);
      expect(result.shape).toEqual(shape);
      expect(result.data.length).toBe(shape.reduce((a, b) => a * b, 1));
      expect(dimEval(op.flops(sample.operands.map(typeOfTensor), sample.attrs, type), {})).toBeGreaterThanOrEqual(0);
    });
  });

  if (op.decomposition !== undefined || op.lowering.kind === "decompose") {
    test("means what its decomposition means", () => {
      const build = op.decomposition ?? (op.lowering.kind === "decompose" ? op.lowering.build : undefined);
      property(op.samples(fc), (sample) => {
        const builder = new GraphBuilder(name, typeRule);
        const operands = sample.operands.map((x, i) => builder.input(`x${i}`, typeOfTensor(x)));
        if (build !== undefined) builder.output("y", build(builder, operands, sample.attrs));
        const y = evalGraph(builder.build(), referenceOf, { inputs: named(sample.operands) }).outputs.y;
        const expected = resultOf(name, sample);
        // Constants and sizes of a decomposition are f32, so the two agree to f32, not to float64.
        expect(y === undefined ? "no output" : firstDifference(expected, y, 1e-6)).toBe("");
      });
    });
  }

  if (op.derivative.kind === "nonDifferentiable") {
    test("has no derivative, with a reason", () => {
      expect(op.derivative.kind === "nonDifferentiable" ? op.derivative.reason : "").not.toBe("");
    });
  } else {
    test("has the derivative that central differences give", () => {
      let compared = 0;
      const smooth = op.samples(fc).filter((s) => s.smooth !== false);
      property(fc.tuple(smooth, fc.integer()), ([sample, seed]) => {
        compared += compareDerivative(name, sample, seed);
      });
      expect(compared).toBeGreaterThan(100);
    });
  }
});

function firstDifference(
  expected: RefTensor,
  found: { readonly shape: readonly number[]; readonly data: Float64Array },
  tolerance: number,
): string {
  if (expected.shape.join() !== found.shape.join()) return `shape [${found.shape.join()}] for [${expected.shape.join()}]`;
  for (let i = 0; i < expected.data.length; i++) {
    const [a = NaN, b = NaN] = [expected.data[i], found.data[i]];
    const close =
      Object.is(a, b) || a === b || Math.abs(a - b) <= tolerance * Math.max(1, Math.abs(a)) || (Number.isNaN(a) && Number.isNaN(b));
    if (!close) return `element ${i}: ${b} for ${a}`;
  }
  return "";
}

/** Random numbers in -1 … 1 from a seed, the same on every machine. */
function directions(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return (state >> 8) / 2 ** 23;
  };
}

/** Compares cotangents with differences of ⟨g, y⟩, element by element for small operands, else along directions. Returns how many. */
function compareDerivative(name: OpName, sample: OpSample, seed: number): number {
  const { graph, operands } = callGraph(name, sample);
  const wrt = operands.filter((_, i) => isFloat(sample.operands[i]?.dtype ?? "i32"));
  const whole = gradient(graph, { wrt });
  expect(verifyGraph(whole, typeRule)).toEqual([]);
  const random = directions(seed);
  const y = resultOf(name, sample);
  const g: RefTensor = { ...y, data: y.data.map(() => random()) };
  const values = evalGraph(whole, referenceOf, { inputs: { ...named(sample.operands), "d.y": g } }).outputs;
  const h = 1e-5;
  const along = (i: number, v: Float64Array): number => {
    const at = (sign: number): number => {
      const moved = sample.operands.map((x, k) => (k === i ? { ...x, data: x.data.map((e, j) => e + sign * h * (v[j] ?? 0)) } : x));
      return resultOf(name, { ...sample, operands: moved }).data.reduce((sum, e, j) => sum + e * (g.data[j] ?? 0), 0);
    };
    return (at(1) - at(-1)) / (2 * h);
  };
  let compared = 0;
  for (const [i, x] of sample.operands.entries()) {
    if (!isFloat(x.dtype)) continue;
    const d = values[`d.x${i}`];
    if (d === undefined) throw new Error(`no cotangent of operand ${i}`);
    expect(d.shape).toEqual(x.shape);
    const n = x.data.length;
    const tries =
      n <= 8
        ? Array.from({ length: n }, (_, j) => Float64Array.from({ length: n }, (_, k) => (j === k ? 1 : 0)))
        : [0, 1].map(() => Float64Array.from({ length: n }, random));
    for (const v of tries) {
      const expected = along(i, v);
      const found = d.data.reduce((sum, e, j) => sum + e * (v[j] ?? 0), 0);
      if (!(Math.abs(found - expected) <= 2e-6 * Math.max(1, Math.abs(expected))))
        throw new Error(`operand ${i}, direction [${v.join(", ")}]: the derivative is ${found}, differences give ${expected}`);
      compared++;
    }
  }
  return compared;
}

describe("type rules", () => {
  const f32 = (...shape: (number | string)[]) => ({
    dtype: "f32" as const,
    shape: shape.map((s) => (typeof s === "number" ? dim(s) : dimSymbol(s))),
  });
  const failure = (run: () => unknown): OpTypeError => {
    try {
      run();
    } catch (error) {
      if (error instanceof OpTypeError) return error;
      throw error;
    }
    throw new Error("the call is well typed");
  };

  test("point at the operand that does not fit, and at the one that set the expectation", () => {
    const e = failure(() => typeRule("matmul", [f32("T", 64), f32(32, 8)], {}));
    expect({ operand: e.operand, other: e.other, expected: e.expected, found: e.found }).toMatchInlineSnapshot(`
      {
        "expected": "64 (in f32[T, 64])",
        "found": "32 (in f32[32, 8])",
        "operand": 1,
        "other": 0,
      }
    `);
  });

  test("refuse unknown ops, wrong counts and wrong attributes", () => {
    expect(failure(() => typeRule("sofmax", [f32(1)], {})).operand).toBe(-1);
    expect(failure(() => typeRule("add", [f32(1)], {})).message).toBe("add takes 2 operands");
    expect(failure(() => typeRule("softmax", [f32(1)], { axes: 0 })).found).toBe("axes");
    expect(failure(() => typeRule("softmax", [f32(1)], { axis: "last" })).expected).toBe("int");
    expect(failure(() => typeRule("softmax", [f32(3)], { axis: 1 })).message).toBe("axis 1 is out of range for 1 dimensions");
    expect(failure(() => typeRule("layer_norm", [f32("T", 8), f32(8), f32(8)], {})).message).toBe("layer_norm needs the attribute eps");
  });

  test("carry symbols through", () => {
    const shape = (name: string, operands: readonly ReturnType<typeof f32>[], attrs = {}) =>
      typeRule(name, operands, attrs).shape.map((d) => d.text);
    expect(shape("linear", [f32("T", 1024), f32(4096, 1024), f32(4096)])).toEqual(["T", "4096"]);
    expect(shape("concat", [f32(1, 8), f32("T", 8)], { axis: 0 })).toEqual(["T + 1", "8"]);
    expect(shape("reshape", [f32("T", 1024)], { shape: [dimSymbol("T"), dim(16), dim(64)] })).toEqual(["T", "16", "64"]);
    expect(shape("slice", [f32("T", 8)], { axis: 0, start: dim(1), stop: dimSymbol("T") })).toEqual(["T - 1", "8"]);
  });
});
