// Imp IR: its text reads back as the same function, its verifier finds what is broken, and what kernels are lowered
// to is sound and does the same.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { IrParseError } from "../compiler/ir/cursor.ts";
import { dimSymbol } from "../compiler/ir/dim.ts";
import * as b from "../compiler/ir/imp/build.ts";
import { compileImp, type ImpMemory } from "../compiler/ir/imp/eval.ts";
import { impBinaryOps, impBinaryTakes, impUnaryOps, impUnaryTakes } from "../compiler/ir/imp/ops.ts";
import { parseImp } from "../compiler/ir/imp/parse.ts";
import { printImp } from "../compiler/ir/imp/print.ts";
import { binaryFunction, unaryFunction } from "../compiler/ir/imp/scalar.ts";
import type { ImpExpr, ImpFunction, ImpStmt } from "../compiler/ir/imp/types.ts";
import { verifyImp } from "../compiler/ir/imp/verify.ts";
import { operandsOf } from "../compiler/ir/kernel/build.ts";
import { evalKernel } from "../compiler/ir/kernel/eval.ts";
import type { Expr, Kernel } from "../compiler/ir/kernel/types.ts";
import { scalarCapabilities, type Capabilities } from "../compiler/schedule/capabilities.ts";
import { lowerKernel } from "../compiler/schedule/lower.ts";
import { anyFunctions } from "./conformance/functions.ts";
import { soundKernels } from "./conformance/kernels.ts";
import { property } from "./conformance/property.ts";
import { decodeElements, encodeElements } from "./conformance/tensors.ts";
import { plainWasm } from "../compiler/targets/wasm/capabilities.ts";

/** y[unit, …] = 2·x[unit, …] four at a time, with a tail; the largest of all in a register. */
function scaled(body?: (statements: readonly ImpStmt[]) => readonly ImpStmt[]): ImpFunction {
  const [unit, i] = [b.local("unit", "i32"), b.local("i", "i32")];
  const row = b.mul(unit, b.size("N"));
  const statements: readonly ImpStmt[] = [
    b.bind("x_row", b.at("x", row)),
    b.bind("y_row", b.at("y", row)),
    b.bind("most", b.vector("f32x4", -Infinity), true),
    b.loop("i", b.int(0), b.binary("bitand", b.size("N"), b.int(-4)), 4, [
      b.bind("v", b.mul(b.load(b.advance(b.local("x_row", "ptr:x"), i), "f32x4"), b.vector("f32x4", 2))),
      b.assign("most", b.fastMinMax("max", b.local("most", "f32x4"), b.local("v", "f32x4"))),
      b.store(b.advance(b.local("y_row", "ptr:y"), i), b.local("v", "f32x4")),
    ]),
    b.loop("j", b.binary("bitand", b.size("N"), b.int(-4)), b.size("N"), 1, [
      b.store(
        b.advance(b.local("y_row", "ptr:y"), b.local("j", "i32")),
        b.mul(b.load(b.advance(b.local("x_row", "ptr:x"), b.local("j", "i32")), "f32"), b.float(2)),
      ),
    ]),
    b.when(
      b.lt(b.float(8), b.across("max", b.local("most", "f32x4"))),
      [b.store(b.local("y_row", "ptr:y"), b.float(NaN), 1)],
      [{ k: "storeLanes", ptr: b.local("y_row", "ptr:y"), offset: 0, value: b.local("most", "f32x4"), count: 2 }],
    ),
    { k: "fence", ptr: "x_row", keep: ["most"] },
  ];
  return {
    name: "scaled",
    buffers: [
      { name: "x", dtype: "f32", access: "read" },
      { name: "y", dtype: "f16", access: "write" },
    ],
    dims: ["N", "T"],
    scratch: [],
    units: dimSymbol("T"),
    unit: "unit",
    lanes: 1,
    body: body === undefined ? statements : body(statements),
    sources: [[{ file: "vit.uhd", start: 10, end: 14, line: 2, column: 3, endLine: 2, endColumn: 7 }]],
  };
}

const vectors: Capabilities = plainWasm;

describe("the text of an Imp function", () => {
  test("is one line a statement", () => {
    expect(printImp(scaled())).toMatchInlineSnapshot(`
      "function "scaled" {
        span 0 = "vit.uhd" 10 14 2:3 2:7
        dims [N, T]
        read x: f32
        write y: f16
        units unit: T
        let x_row: &x = &x[unit * {N}]
        let y_row: &y = &y[unit * {N}]
        var most: f32x4 = f32x4#-Infinity
        for i = 0 .. {N} & -4 step 4 {
          let v: f32x4 = load4(advance(x_row, i)) * f32x4#2
          set most = fastMax(most, v)
          store (advance(y_row, i)) = v
        }
        for j = {N} & -4 .. {N} {
          store (advance(y_row, j)) = load(advance(x_row, j)) * 2.0
        }
        if 8.0 < across(max, most) {
          store (y_row, 1) = NaN
        } else {
          store lanes 2 (y_row) = most
        }
        fence x_row [most]
        source 0
      }
      "
    `);
  });

  test("reads back as the same function, whatever the function holds", () => {
    property(anyFunctions, (fn) => {
      const read = parseImp(printImp(fn));
      expect(printImp(read)).toBe(printImp(fn));
      expect(read).toEqual(fn);
    });
  });

  test("reads back as the same function for what kernels are lowered to", () => {
    expect(parseImp(printImp(scaled()))).toEqual(scaled());
    property(soundKernels(), ({ kernel }) => {
      const fn = lowerKernel(kernel, vectors);
      expect(parseImp(printImp(fn))).toEqual(fn);
    });
  });

  test("is refused with its line and column where it is wrong", () => {
    const message = (text: string): string => {
      try {
        parseImp(text);
      } catch (error) {
        if (error instanceof IrParseError) return error.message;
        throw error;
      }
      return "accepted";
    };
    const inside = (line: string): string => message(`function "f" {\n  read x: f32\n  units u: T\n  ${line}\n}`);
    expect(inside("let v: f33 = 1.0")).toBe('line 4, column 13: expected a type before this, found " = 1.0"');
    expect(inside("let v: f32 = fma(1.0, 2.0)")).toBe('line 4, column 28: expected ",", found ")"');
    expect(inside("let v: f32 = fast(1.0)")).toBe('line 4, column 21: expected an operation before this; fast is none, found "1.0)"');
    expect(inside("if true {")).toBe("line 5, column 1: the function is not closed");
    expect(inside("jump")).toBe("line 4, column 7: expected a statement before this, found the end of the line");
    expect(message('function "f" {\n  read x: f32\n}')).toBe('line 3, column 1: expected the units before this, found "}"');
    expect(message("")).toBe("line 1, column 1: there is no function");
    expect(inside(`let v: f32 = ${"neg(".repeat(5000)}`)).toContain("expected an expression of at most 300 levels");
    expect(inside("while true {\n".repeat(5000))).toContain("blocks are nested more than 300 deep");
  });

  test("never makes the reader fail in another way, whatever is cut or changed", () => {
    property(
      fc.tuple(soundKernels(), fc.nat(), fc.nat(20), fc.constantFrom("", "&", "[", "(", '"', "}", ":", "9", "=", "..", "{")),
      ([{ kernel }, from, length, insert]) => {
        const text = printImp(lowerKernel(kernel, vectors));
        const cut = from % text.length;
        try {
          parseImp(text.slice(0, cut) + insert + text.slice(cut + length));
        } catch (error) {
          expect(error).toBeInstanceOf(IrParseError);
        }
      },
    );
  });
});

describe("the verifier of Imp functions", () => {
  const wrong = (fn: ImpFunction): string => verifyImp(fn).join("; ").replaceAll("function scaled (vit.uhd:2:3): ", "");
  const after = (...statements: readonly ImpStmt[]): string => wrong(scaled((body) => [...body, ...statements]));
  const value = (e: ImpExpr): string => after({ k: "let", name: "new", type: b.typeOfImp(e), value: e, mutable: false });

  test("accepts functions that make sense", () => {
    expect(wrong(scaled())).toBe("");
    property(soundKernels(), ({ kernel }) => {
      expect(verifyImp(lowerKernel(kernel, vectors))).toEqual([]);
    });
  });

  test("finds operations that do not take their operands, or give another type", () => {
    const [f, i, v] = [b.float(1), b.int(1), b.vector("f32x4", 1)];
    expect(value({ k: "binary", op: "add", a: f, b: i, type: "f32" })).toBe("let new: add takes two operands of one type, not f32 and i32");
    expect(value({ k: "binary", op: "shl", a: f, b: f, type: "f32" })).toContain("shl does not take f32");
    expect(value({ k: "binary", op: "lt", a: v, b: v, type: "bool" })).toContain("binary has the type bool instead of i32x4");
    expect(value({ k: "unary", op: "sqrt", a: i, type: "i32" })).toContain("sqrt does not take i32");
    expect(value({ k: "fma", a: f, b: f, c: v, type: "f32x4" })).toContain("fma does not take f32, f32, f32x4");
    expect(value({ k: "select", cond: b.vector("i32x4", 0), a: f, b: f, type: "f32" })).toContain(
      "the condition of a select of f32 is i32x4",
    );
    expect(value({ k: "convert", a: v, type: "f32" })).toContain("no conversion from f32x4 to f32");
    expect(value({ k: "bitcast", a: f, type: "f32x4" })).toContain("bitcast has the type f32x4 instead of i32");
    expect(value({ k: "splat", a: v, type: "f32x4" })).toContain("splat does not take f32x4");
    expect(value({ k: "lane", a: v, lane: 4, type: "f32" })).toContain("there is no lane 4");
    expect(value({ k: "shuffle", a: v, b: v, lanes: [0, 1, 2, 8], type: "f32x4" })).toContain("shuffle has no lanes 0, 1, 2, 8");
    expect(value({ k: "across", op: "add", a: f, type: "f32" })).toContain("across does not take f32");
    const lanes = b.vector("i32x4", 1);
    expect(value({ k: "halves", op: "dot16", args: [lanes], type: "i32x4" })).toContain("dot16 takes 2 operands, not 1");
    expect(value({ k: "halves", op: "low_i8", args: [v], type: "i32x4" })).toContain("low_i8 does not take f32x4");
    expect(value({ k: "const", type: "f32", value: 0.1 })).toContain("0.1 is no f32");
    expect(value({ k: "const", type: "f32x4", value: [1, 2] })).toContain("2 numbers are no f32x4");
    expect(value({ k: "const", type: "ptr:x", value: 0 })).toContain("a pointer is no constant");
  });

  test("finds names that are not in scope, are declared twice or not at all", () => {
    expect(value(b.local("v", "f32x4"))).toBe("let new: v is not in scope");
    expect(value(b.local("most", "f32"))).toBe("let new: most is f32x4, not f32");
    expect(value(b.size("M"))).toBe("let new: size M is not declared");
    expect(value(b.at("z", b.int(0)))).toBe("let new: there is no buffer or scratch z");
    expect(after(b.bind("most", b.int(0)))).toBe("the name most is used twice");
    expect(after(b.loop("unit", b.int(0), b.int(1), 1, []))).toBe("the name unit is used twice");
    expect(after(b.assign("x_row", b.at("x", b.int(0))))).toBe("set x_row: it is not mutable");
    expect(after(b.assign("most", b.float(1)))).toBe("set most: its value is f32, not f32x4");
    expect(after(b.assign("q", b.float(1)))).toBe("set q: there is no such local");
    expect(after({ k: "let", name: "q", type: "i32", value: b.float(1), mutable: true })).toBe("let q: its value is f32, not i32");
    expect(after({ k: "fence", ptr: "most", keep: ["v"] })).toBe("fence: there is no pointer most; fence: there is no local v");
    expect(wrong({ ...scaled(), dims: ["N", "N"] })).toBe("a size is declared twice; size T is not declared");
    expect(wrong({ ...scaled(), lanes: 2 })).toBe("nothing holds the number of the lane");
    expect(wrong({ ...scaled(), scratch: [{ name: "x", dtype: "f32", size: dimSymbol("M"), space: "private" }] })).toContain(
      "there are two places x; size M is not declared",
    );
  });

  test("finds accesses and statements that do not fit", () => {
    const y = b.local("y_row", "ptr:y");
    expect(value(b.load(y, "f32"))).toBe("let new: y is for writing");
    expect(value(b.load(b.local("x_row", "ptr:x"), "i32"))).toBe("let new: load of f32 gives f32 or f32x4, not i32");
    expect(after(b.store(b.local("x_row", "ptr:x"), b.float(1)))).toBe("store to x: it is for reading");
    expect(after(b.store(y, b.int(1)))).toBe("store to y: a value of i32 does not fit f16");
    expect(after({ k: "store", ptr: b.int(0), offset: 0, value: b.float(1) })).toBe("store: i32 is no pointer");
    expect(after({ k: "storeLanes", ptr: y, offset: 0, value: b.float(1), count: 4 })).toBe(
      "storeLanes to y: f32 has no lanes; storeLanes to y: 4 lanes instead of 1 to 3",
    );
    expect(after({ k: "for", name: "q", from: b.float(1), to: b.int(1), step: 0, body: [] })).toBe(
      "for q: a bound is f32, not i32; for q: 0 is no step",
    );
    expect(after({ k: "if", cond: b.int(1), then: [], else: [] })).toBe("the condition of if is i32, not bool");
  });

  test("allows only what has a meaning", () => {
    for (const type of ["f32", "i32"] as const) {
      for (const op of impUnaryOps) if (impUnaryTakes(op, type)) expect(typeof unaryFunction(op, type)(1)).toBe("number");
      for (const op of impBinaryOps) if (impBinaryTakes(op, type)) expect(typeof binaryFunction(op, type)(1, 1)).toBe("number");
    }
    expect(impUnaryTakes("exp", "i32")).toBe(false);
    expect(impBinaryTakes("add", "bool")).toBe(false);
    expect(impBinaryTakes("and", "i32")).toBe(false);
  });
});

/** Does the kernel sum or multiply floats along an axis? In vector code the order is another, and so is the rounding. */
function folds(kernel: Kernel): boolean {
  const seen = new Set<Expr>();
  const visit = (e: Expr): boolean => {
    if (seen.has(e)) return false;
    seen.add(e);
    return (e.k === "fold" && e.type === "f32" && (e.op === "sum" || e.op === "product")) || operandsOf(e).some(visit);
  };
  return kernel.stages.some((s) => visit(s.value));
}

describe("what kernels are lowered to", () => {
  test("writes exactly what the kernel's evaluator writes", () => {
    property(soundKernels(), ({ kernel, dims, inputs, outputs }) => {
      const memory = (): Record<string, ImpMemory> =>
        Object.fromEntries(
          kernel.buffers.map((x) => [x.name, encodeElements(x.dtype, inputs[x.name] ?? new Float64Array(outputs[x.name] ?? 0))]),
        );
      const expected = memory();
      evalKernel(kernel, expected, dims);
      for (const capabilities of folds(kernel) ? [scalarCapabilities] : [scalarCapabilities, vectors]) {
        const found = memory();
        compileImp(lowerKernel(kernel, capabilities))(found, dims);
        expect(found).toEqual(expected);
      }
    });
  });
});

test("a function runs for every unit, with tails, conversions and stores of lanes", () => {
  const y = new Uint16Array(10);
  compileImp(scaled())({ x: Float32Array.from([1, 2, 3, 4, 3.5, -1, -2, -3, -4, -5]), y }, { N: 5, T: 2 });
  expect([...decodeElements("f16", y)]).toEqual([2, 4, 6, 8, 7, -2, -4, -6, -8, -10]);
});
