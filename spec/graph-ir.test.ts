// Graph IR: its text reads back as the same graph, its verifier finds what is broken, and its evaluator means
// what the op table means.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { IrParseError } from "../compiler/ir/cursor.ts";
import { dim, dimSymbol } from "../compiler/ir/dim.ts";
import { dtypes } from "../compiler/ir/dtype.ts";
import { GraphBuilder } from "../compiler/ir/graph/build.ts";
import { evalGraph } from "../compiler/ir/graph/eval.ts";
import { parseGraph } from "../compiler/ir/graph/parse.ts";
import { printGraph } from "../compiler/ir/graph/print.ts";
import type { AttrValue, Graph, GraphNode } from "../compiler/ir/graph/types.ts";
import { verifyGraph } from "../compiler/ir/graph/verify.ts";
import { referenceOf, typeRule } from "../ops/index.ts";
import { tensor } from "../ops/reference/tensor.ts";
import { generatedGraphs } from "./conformance/graphs.ts";
import { anyDim, anyName, anyNumber, anySpan, symbol } from "./conformance/kernels.ts";
import { anyHost, anyHostExpr } from "./conformance/shape-code.ts";
import { property } from "./conformance/property.ts";

const anyAttr: fc.Arbitrary<AttrValue> = fc.oneof(
  anyNumber,
  fc.boolean(),
  anyName,
  fc.array(anyNumber, { maxLength: 3 }),
  anyDim,
  fc.array(anyDim, { minLength: 1, maxLength: 3 }),
);
const anyType = fc.record({ dtype: fc.constantFrom(...dtypes), shape: fc.array(anyDim, { maxLength: 3 }) });
/** Any data of the type Graph: it need not make sense, only survive as text. */
const anyGraph: fc.Arbitrary<Graph> = fc.record({
  name: anyName,
  symbols: fc.uniqueArray(
    fc
      .tuple(symbol, fc.nat(5), fc.option(fc.nat(99), { nil: undefined }))
      .map(([name, lower, upper]) => (upper === undefined ? { name, lower } : { name, lower, upper })),
    { selector: (s) => s.name, maxLength: 3 },
  ),
  host: anyHost,
  nodes: fc.array(
    fc
      .tuple(
        fc.nat(30),
        anyType,
        fc.array(anySpan, { maxLength: 3 }),
        anyName,
        fc.array(anyNumber, { maxLength: 3 }),
        fc.dictionary(fc.stringMatching(/^[a-z][a-z_]{0,6}$/), anyAttr, { maxKeys: 3, noNullPrototype: true }),
        anyHostExpr,
        fc.nat(7),
      )
      .map(([id, type, loc, name, data, attrs, value, kind]): GraphNode => {
        const base = { id, type, loc };
        const kinds: readonly GraphNode[] = [
          { ...base, kind: "input", name },
          { ...base, kind: "param", name },
          { ...base, kind: "param", name, init: { kind: "normal", std: data[0] ?? 0.02 } },
          { ...base, kind: "param", name, packed: { of: name, shape: [4, 64], format: "q4_1", part: "minima" } },
          { ...base, kind: "param", name, rows: { of: name, first: 3, rows: 70 } },
          { ...base, kind: "constant", data },
          { ...base, kind: "table", name, value },
          { ...base, kind: "state", name },
          { ...base, kind: "op", op: "some_op", operands: data.map((_, i) => i), attrs },
        ];
        return kinds[kind] ?? { ...base, kind: "input", name };
      }),
    { maxLength: 5 },
  ),
  outputs: fc.array(fc.record({ name: anyName, value: fc.nat(9) }), { maxLength: 2 }),
  updates: fc.array(fc.record({ state: anyName, value: fc.nat(9) }), { maxLength: 2 }),
});

describe("the text of a graph", () => {
  test("reads back as the same graph, whatever the graph holds", () => {
    property(anyGraph, (graph) => {
      expect(parseGraph(printGraph(graph))).toEqual(graph);
    });
  });

  test("reads back as the same graph for graphs that make sense", () => {
    property(generatedGraphs(), ({ graph }) => {
      expect(parseGraph(printGraph(graph))).toEqual(graph);
    });
  });

  test("is one line a value", () => {
    const b = new GraphBuilder("layer", typeRule);
    const t = b.symbol("T", 1, 4096);
    b.at([{ file: "vit.uhd", start: 10, end: 14, line: 2, column: 3, endLine: 2, endColumn: 7 }]);
    const x = b.input("x", { dtype: "f32", shape: [t, dim(4)] });
    const w = b.param("fc1.weight", { dtype: "f32", shape: [dim(8), dim(4)] }, { kind: "normal", std: 0.02 });
    b.output("y", b.op("reshape", [b.op("linear", [x, w])], { shape: [t, dim(2), dim(4)] }));
    expect(printGraph(b.build())).toMatchInlineSnapshot(`
      "graph "layer" {
        span 0 = "vit.uhd" 10 14 2:3 2:7
        symbol T: 1..4096
        %0 = input "x" : f32[T, 4] @ 0
        %1 = param "fc1.weight" ~ normal(0.02) : f32[8, 4] @ 0
        %2 = linear(%0, %1) : f32[T, 8] @ 0
        %3 = reshape(%2) {shape: dims[T, 2, 4]} : f32[T, 2, 4] @ 0
        output "y" = %3
      }
      "
    `);
  });

  test("is refused with its line and column where it is wrong", () => {
    const at = (text: string): string => {
      try {
        parseGraph(text);
      } catch (error) {
        if (error instanceof IrParseError) return error.message;
        throw error;
      }
      return "accepted";
    };
    expect(at('graph "g" {\n  %0 = input "x" : f33[2]\n}')).toBe('line 2, column 23: expected an element type, found "[2]"');
    expect(at('graph "g" {\n  %0 = add(%1, 2) : f32[2]\n}')).toBe('line 2, column 16: expected "%", found "2) : f32[2]"');
    expect(at('graph "g" {\n')).toBe("line 2, column 1: the graph is not closed");
    expect(at("")).toBe("line 1, column 1: there is no graph");
    expect(at('graph "g" {\n  %0 = input "x" : f32[T @ 2]\n}')).toContain("line 2, column 24: expected a size");
  });

  test("never makes the reader fail in another way, whatever is cut or changed", () => {
    property(
      fc.tuple(generatedGraphs(4), fc.nat(), fc.nat(20), fc.constantFrom("", "%", "[", "(", '"', "}", ":", "9")),
      ([{ graph }, from, length, insert]) => {
        const text = printGraph(graph);
        const at = from % text.length;
        try {
          parseGraph(text.slice(0, at) + insert + text.slice(at + length));
        } catch (error) {
          expect(error).toBeInstanceOf(IrParseError);
        }
      },
    );
  });
});

describe("the verifier", () => {
  const sound = (): Graph => {
    const b = new GraphBuilder("g", typeRule);
    const x = b.input("x", { dtype: "f32", shape: [dimSymbol("T"), dim(2)] });
    b.output("y", b.op("neg", [b.op("add", [x, x])]));
    return b.build();
  };
  const changed = (id: number, change: (node: GraphNode) => GraphNode): Graph => {
    const g = sound();
    return { ...g, nodes: g.nodes.map((n) => (n.id === id ? change(n) : n)) };
  };

  test("accepts every generated graph", () => {
    property(generatedGraphs(), ({ graph }) => {
      expect(verifyGraph(graph, typeRule)).toEqual([]);
    });
  });

  test("finds each way in which a graph can be broken", () => {
    const g = sound();
    const op = (n: GraphNode) => (n.kind === "op" ? n : undefined);
    const messages = (graph: Graph): string => verifyGraph(graph, typeRule).join("; ");
    expect(messages(g)).toBe("");
    expect(messages(changed(1, (n) => ({ ...n, type: { dtype: "f32", shape: [dim(2)] } })))).toContain(
      "its type is f32[T, 2] by the rule of add",
    );
    expect(messages(changed(1, (n) => ({ ...n, ...(op(n) && { operands: [0, 2] }) })))).toContain("%2 does not stand before it");
    expect(messages(changed(1, (n) => ({ ...n, ...(op(n) && { op: "ad" }) })))).toContain("there is no op named ad");
    expect(messages(changed(2, (n) => ({ ...n, id: 1 })))).toContain("the id is used twice");
    expect(messages({ ...g, symbols: [] })).toContain("symbol T is not declared");
    expect(messages({ ...g, symbols: [...g.symbols, { name: "N", lower: 3, upper: 2 }] })).toBe(
      "symbol N has no values: 3..2; symbol N is neither a dimension of an input nor defined by host code",
    );
    expect(messages({ ...g, outputs: [...g.outputs, { name: "y", value: 9 }] })).toBe(
      "output y: there is no %9; output y: there are two of this name",
    );
    expect(messages({ ...g, updates: [{ state: "cache", value: 1 }] })).toBe("update of cache: there is no such state");
    expect(
      messages({ ...g, nodes: [...g.nodes, { kind: "constant", id: 7, loc: [], type: { dtype: "f32", shape: [dim(3)] }, data: [1, 2] }] }),
    ).toContain("2 numbers do not fill the shape");
    expect(
      messages({
        ...g,
        nodes: [...g.nodes, { kind: "param", id: 7, loc: [], name: "w", type: { dtype: "f32", shape: [dimSymbol("T")] } }],
      }),
    ).toContain("a parameter's shape must be known at compile time");
  });
});

describe("the evaluator", () => {
  test("binds sizes from the inputs and checks them", () => {
    const b = new GraphBuilder("g", typeRule);
    const t = dimSymbol("T");
    const x = b.input("x", { dtype: "f32", shape: [t] });
    const y = b.input("y", { dtype: "f32", shape: [t] });
    b.output("sum", b.op("mean", [b.op("add", [x, y])], { axes: [0], keep: false }));
    const g = b.build();
    const result = evalGraph(g, referenceOf, { inputs: { x: tensor("f32", [2], [1, 2]), y: tensor("f32", [2], [10, 21]) } });
    expect(result.outputs.sum?.data[0]).toBe(17);
    expect(result.symbols).toEqual({ T: 2 });
    expect(() => evalGraph(g, referenceOf, { inputs: { x: tensor("f32", [2], [1, 2]), y: tensor("f32", [1], [1]) } })).toThrow(
      "which is not [2]",
    );
    expect(() => evalGraph(g, referenceOf, { inputs: { x: tensor("f32", [2], [1, 2]) } })).toThrow('no value was given for %1 = input "y"');
  });

  test("gives finite values on generated graphs", () => {
    property(generatedGraphs(), ({ graph, inputs, params }) => {
      const { outputs } = evalGraph(graph, referenceOf, { inputs, params });
      for (const value of Object.values(outputs)) expect(value.data.every(Number.isFinite)).toBe(true);
    });
  });
});
