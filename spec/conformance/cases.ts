// Generated calls of the op table, put together so that one compilation serves many: a batch is one graph with
// an independent output for each call. Sizes may be symbols, so that kernels meet sizes which are known only at run time.

import * as fc from "fast-check";
import { dimConstant, dimEval, dimSymbol, type Dim } from "../../compiler/ir/dim.ts";
import { GraphBuilder } from "../../compiler/ir/graph/build.ts";
import type { Attrs, AttrValue, Graph, TensorType } from "../../compiler/ir/graph/types.ts";
import { OpTypeError, type OpSample, type RefTensor } from "../../ops/define.ts";
import { normaliseAttrs, ops, referenceOf, typeRule, type OpName } from "../../ops/index.ts";
import { typeOfTensor } from "../../ops/sampling.ts";

/** Which sizes are symbols where the type rule allows it: none, all that equal the first one, or every one. */
export type Symbolic = "none" | "first" | "every";

/** One call and what it means. */
export interface OpCase {
  readonly op: OpName;
  readonly sample: OpSample;
  readonly symbolic: Symbolic;
  readonly expected: RefTensor;
}

interface Batch {
  readonly graph: Graph;
  readonly inputs: Readonly<Record<string, RefTensor>>;
  /** Output `cN` is the result of case N. */
  readonly cases: readonly OpCase[];
}

export function caseOf(op: OpName, sample: OpSample, symbolic: Symbolic): OpCase {
  const type = typeRule(op, sample.operands.map(typeOfTensor), sample.attrs);
  const expected = referenceOf(op, sample.operands, sample.attrs, { dtype: type.dtype, shape: type.shape.map((d) => dimEval(d, {})) });
  return { op, sample, symbolic, expected };
}

/** Half of the calls have sizes known when they are compiled. */
export const mixed = (i: number): Symbolic => (i % 2 === 1 ? "first" : "none");

/** `count` calls of `op`, the same for the same seed, with operands as `change` makes them. */
export function generatedCases(
  op: OpName,
  count: number,
  seed: number,
  symbolic = mixed,
  change = (sample: OpSample): OpSample => sample,
): readonly OpCase[] {
  return fc.sample(ops[op].samples(fc), { numRuns: count, seed }).map((sample, i) => caseOf(op, change(sample), symbolic(i)));
}

/** The smallest normal f32. */
export const smallestNormal = 2 ** -126;

/** The call with zeros, of the same sign, for f32 numbers that are not normal. */
export function withoutSubnormals(sample: OpSample): OpSample {
  const normal = (x: number): number => (Math.abs(x) < smallestNormal ? x * 0 : x);
  const ofNormals = (t: RefTensor): RefTensor => (t.dtype === "f32" || t.dtype === "bf16" ? { ...t, data: t.data.map(normal) } : t);
  return { ...sample, operands: sample.operands.map(ofNormals) };
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

/** The types of a call's operands: with symbols as the case asks, or with as many as the type rule takes. */
function typed(c: OpCase, symbol: string, builder: GraphBuilder): Typed {
  const first = c.sample.operands[0]?.shape[0];
  const every = [...new Set(c.sample.operands.flatMap((o) => o.shape))];
  const attempts = [c.symbolic === "every" ? every : [], c.symbolic === "none" || first === undefined ? [] : [first]];
  for (const sizes of attempts) {
    const found = sizes.length === 0 ? undefined : withSymbols(c, new Map(sizes.map((size) => [size, `${symbol}_${size}`])));
    if (found === undefined) continue;
    for (const size of sizes) builder.symbol(`${symbol}_${size}`, 0, 4096);
    return found;
  }
  return { types: c.sample.operands.map(typeOfTensor), attrs: normaliseAttrs(c.op, c.sample.attrs) };
}

/** The call's types with symbols for these sizes; undefined where the op does not take them. */
function withSymbols(c: OpCase, symbols: ReadonlyMap<number, string>): Typed | undefined {
  const replace = (d: Dim): Dim => {
    const name = symbols.get(dimConstant(d) ?? -1);
    return name === undefined ? d : dimSymbol(name);
  };
  const types = c.sample.operands.map(typeOfTensor).map((t) => ({ dtype: t.dtype, shape: t.shape.map(replace) }));
  const given = normaliseAttrs(c.op, c.sample.attrs);
  const attrs = Object.fromEntries(Object.entries(given).map(([name, value]) => [name, replaceIn(value, replace)]));
  const env = Object.fromEntries([...symbols].map(([size, name]) => [name, size]));
  try {
    const result = typeRule(c.op, types, attrs);
    return result.shape.some((d, i) => dimEval(d, env) !== c.expected.shape[i]) ? undefined : { types, attrs };
  } catch (error) {
    // The op needs a size at compile time, or cannot prove with a symbol what it can with a number.
    if (error instanceof OpTypeError) return undefined;
    throw error;
  }
}

function replaceIn(value: AttrValue, replace: (d: Dim) => Dim): AttrValue {
  if (typeof value !== "object") return value;
  if ("monomials" in value) return replace(value);
  const dims = value.filter((v): v is Dim => typeof v === "object");
  return dims.length === value.length ? dims.map(replace) : value;
}
