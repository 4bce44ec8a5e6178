// Generated calls of the op table, put together so that one compilation serves many: a batch is one graph with
// an independent output for each call. In every second call, where the type rule allows it, the first size is
// a symbol, so that kernels meet sizes which are known only at run time.

import * as fc from "fast-check";
import { dimConstant, dimEval, dimSymbol, type Dim } from "../../compiler/ir/dim.ts";
import { GraphBuilder } from "../../compiler/ir/graph/build.ts";
import type { Attrs, AttrValue, Graph, TensorType } from "../../compiler/ir/graph/types.ts";
import { OpTypeError, type OpSample, type RefTensor } from "../../ops/define.ts";
import { normaliseAttrs, ops, referenceOf, typeRule, type OpName } from "../../ops/index.ts";
import { typeOfTensor } from "../../ops/sampling.ts";

/** One call and what it means. */
export interface OpCase {
  readonly op: OpName;
  readonly sample: OpSample;
  readonly symbolic: boolean;
  readonly expected: RefTensor;
}

interface Batch {
  readonly graph: Graph;
  readonly inputs: Readonly<Record<string, RefTensor>>;
  /** Output `cN` is the result of case N. */
  readonly cases: readonly OpCase[];
}

export function caseOf(op: OpName, sample: OpSample, symbolic: boolean): OpCase {
  const type = typeRule(op, sample.operands.map(typeOfTensor), sample.attrs);
  const expected = referenceOf(op, sample.operands, sample.attrs, { dtype: type.dtype, shape: type.shape.map((d) => dimEval(d, {})) });
  return { op, sample, symbolic, expected };
}

/** `count` calls of `op`, the same for the same seed. */
export function generatedCases(op: OpName, count: number, seed: number): readonly OpCase[] {
  return fc.sample(ops[op].samples(fc), { numRuns: count, seed }).map((sample, i) => caseOf(op, sample, i % 2 === 1));
}

/** Adds the calls to one graph. */
export function batchOf(cases: readonly OpCase[]): Batch {
  const builder = new GraphBuilder("conformance", typeRule);
  const inputs: Record<string, RefTensor> = {};
  for (const [i, c] of cases.entries()) {
    const { types, attrs } = typed(c, `S${i}`, builder);
    const operands = c.sample.operands.map((x, k) => {
      inputs[`c${i}x${k}`] = x;
      return builder.input(`c${i}x${k}`, types[k] ?? typeOfTensor(x));
    });
    builder.output(`c${i}`, builder.op(c.op, operands, attrs));
  }
  return { graph: builder.build(), inputs, cases };
}

interface Typed {
  readonly types: readonly TensorType[];
  readonly attrs: Attrs;
}

/** The types of a call's operands: concrete, or with every size equal to the first one replaced by `symbol`. */
function typed(c: OpCase, symbol: string, builder: GraphBuilder): Typed {
  const concrete: Typed = { types: c.sample.operands.map(typeOfTensor), attrs: normaliseAttrs(c.op, c.sample.attrs) };
  const first = c.sample.operands[0]?.shape[0];
  if (!c.symbolic || first === undefined) return concrete;
  const size = dimSymbol(symbol);
  const replace = (d: Dim): Dim => (dimConstant(d) === first ? size : d);
  const general: Typed = {
    types: concrete.types.map((t) => ({ dtype: t.dtype, shape: t.shape.map(replace) })),
    attrs: Object.fromEntries(Object.entries(concrete.attrs).map(([name, value]) => [name, replaceIn(value, replace)])),
  };
  try {
    const result = typeRule(c.op, general.types, general.attrs);
    if (result.shape.some((d, i) => dimEval(d, { [symbol]: first }) !== c.expected.shape[i])) return concrete;
  } catch (error) {
    // The op needs this size at compile time, or cannot prove with a symbol what it can with a number.
    if (error instanceof OpTypeError) return concrete;
    throw error;
  }
  builder.symbol(symbol, 0, 4096);
  return general;
}

function replaceIn(value: AttrValue, replace: (d: Dim) => Dim): AttrValue {
  if (typeof value !== "object") return value;
  if ("monomials" in value) return replace(value);
  const dims = value.filter((v): v is Dim => typeof v === "object");
  return dims.length === value.length ? dims.map(replace) : value;
}
