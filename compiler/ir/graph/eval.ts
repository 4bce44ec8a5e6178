// Executes a graph in float64 with the references of the op table: the meaning every compiled form is compared
// with. Slow on purpose. Does not evaluate host code: tables are given by the caller.

import { dim, dimEval, dimSymbols, type Dim, type DimEnv } from "../dim.ts";
import type { DType } from "../dtype.ts";
import { GraphError, typeText } from "./build.ts";
import { nodeText } from "./print.ts";
import type { Attrs, AttrValue, Graph, GraphNode, TableNode, ValueId } from "./types.ts";

/** A tensor with its elements as float64; integers and bools are exact. */
export interface ConcreteTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

/** The meaning of one op; `out` is the concrete type of its result. */
export type ReferenceFunction = (
  op: string,
  operands: readonly ConcreteTensor[],
  attrs: Attrs,
  out: { readonly dtype: DType; readonly shape: readonly number[] },
) => ConcreteTensor;

export interface GraphInputs {
  readonly inputs?: Readonly<Record<string, ConcreteTensor>>;
  readonly params?: Readonly<Record<string, ConcreteTensor>>;
  readonly states?: Readonly<Record<string, ConcreteTensor>>;
  /** The value of a host table, once sizes are known. */
  readonly table?: (node: TableNode, env: DimEnv) => ConcreteTensor;
  /** Sizes beyond those that input shapes give: the symbols of host code. */
  readonly symbols?: DimEnv;
  /** Sees each value when it is there, with those it was made of, and gives the one that what follows is computed from. */
  readonly observe?: (node: GraphNode, value: ConcreteTensor, operands: readonly ConcreteTensor[]) => ConcreteTensor;
}

export interface GraphResult {
  readonly outputs: Readonly<Record<string, ConcreteTensor>>;
  /** New values of the states that are updated. */
  readonly states: Readonly<Record<string, ConcreteTensor>>;
  /** Every value, by id. */
  readonly values: ReadonlyMap<ValueId, ConcreteTensor>;
  readonly symbols: DimEnv;
}

/** `attrs` with every dim replaced by its value under `env`. */
function concreteAttrs(attrs: Attrs, env: DimEnv): Attrs {
  const concrete = (value: AttrValue): AttrValue => {
    if (typeof value !== "object") return value;
    if ("monomials" in value) return dim(dimEval(value, env));
    const dims = value.filter((v): v is Dim => typeof v === "object");
    return dims.length === value.length ? dims.map((d) => dim(dimEval(d, env))) : value;
  };
  return Object.fromEntries(Object.entries(attrs).map(([name, value]) => [name, concrete(value)]));
}

/** Sizes from the shapes of inputs and states. Throws GraphError when a given shape does not fit its type. */
function bindSymbols(graph: Graph, given: GraphInputs): DimEnv {
  const env: Record<string, number> = { ...given.symbols };
  const pairs = graph.nodes.flatMap((node) => {
    const source = node.kind === "input" ? given.inputs : node.kind === "state" ? given.states : undefined;
    const value = "name" in node ? source?.[node.name] : undefined;
    return value === undefined ? [] : [{ node, value }];
  });
  for (const { node, value } of pairs) {
    if (value.dtype !== node.type.dtype || value.shape.length !== node.type.shape.length)
      throw new GraphError(`${nodeText(node)} was given ${value.dtype}[${value.shape.join(", ")}]`);
    for (const [i, size] of node.type.shape.entries()) {
      const name = dimSymbols(size)[0];
      const found = value.shape[i];
      if (name === size.text && found !== undefined && env[name] === undefined) env[name] = found;
    }
  }
  for (const { node, value } of pairs) {
    const shape = node.type.shape.map((d) => dimEval(d, env));
    if (shape.some((n, i) => n !== value.shape[i]))
      throw new GraphError(`${nodeText(node)} was given [${value.shape.join(", ")}], which is not [${shape.join(", ")}]`);
  }
  return env;
}

/** Values of every output. Throws GraphError when an input is missing or misshapen. */
export function evalGraph(graph: Graph, reference: ReferenceFunction, given: GraphInputs = {}): GraphResult {
  const steps = evaluation(graph, reference, given);
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
}

/** The same, value by value: for those who must see to other things between them. */
export function* evaluation(graph: Graph, reference: ReferenceFunction, given: GraphInputs): Generator<undefined, GraphResult> {
  const env = bindSymbols(graph, given);
  const values = new Map<ValueId, ConcreteTensor>();
  const valueOf = (id: ValueId): ConcreteTensor => {
    const value = values.get(id);
    if (value === undefined) throw new GraphError(`%${id} has no value yet`);
    return value;
  };
  for (const node of graph.nodes) {
    const shape = node.type.shape.map((d) => dimEval(d, env));
    const type = { dtype: node.type.dtype, shape };
    const operands = node.kind === "op" ? node.operands.map(valueOf) : [];
    let value: ConcreteTensor | undefined;
    switch (node.kind) {
      case "input":
        value = given.inputs?.[node.name];
        break;
      case "param":
        value = given.params?.[node.name] ?? (node.rows && rowsOf(given.params?.[node.rows.of], node.rows.first, type));
        break;
      case "state":
        value = given.states?.[node.name];
        break;
      case "table":
        value = given.table?.(node, env);
        break;
      case "constant":
        value = constantTensor(type, node.data);
        break;
      case "op":
        value = reference(node.op, operands, concreteAttrs(node.attrs, env), type);
        break;
      default:
        node satisfies never;
    }
    if (value === undefined) throw new GraphError(`no value was given for ${nodeText(node)}`);
    if (value.dtype !== type.dtype || value.shape.length !== shape.length || value.shape.some((n, i) => n !== shape[i])) {
      throw new GraphError(
        `${nodeText(node)} has the value ${value.dtype}[${value.shape.join(", ")}], not ${typeText(node.type)} = [${shape.join(", ")}]`,
      );
    }
    values.set(node.id, given.observe?.(node, value, operands) ?? value);
    yield;
  }
  return {
    outputs: Object.fromEntries(graph.outputs.map((o) => [o.name, valueOf(o.value)])),
    states: Object.fromEntries(graph.updates.map((u) => [u.state, valueOf(u.value)])),
    values,
    symbols: env,
  };
}

function constantTensor(type: { readonly dtype: DType; readonly shape: readonly number[] }, data: readonly number[]): ConcreteTensor {
  const count = type.shape.reduce((a, b) => a * b, 1);
  const only = data[0];
  if (data.length !== count && (data.length !== 1 || only === undefined))
    throw new GraphError(`${data.length} numbers do not fill [${type.shape.join(", ")}]`);
  return { ...type, data: data.length === count ? Float64Array.from(data) : new Float64Array(count).fill(only ?? NaN) };
}

/** As many rows of a tensor as `type` has, from row `first` on. */
function rowsOf(
  whole: ConcreteTensor | undefined,
  first: number,
  type: { readonly dtype: DType; readonly shape: readonly number[] },
): ConcreteTensor | undefined {
  if (whole === undefined) return undefined;
  const [rows = 0, ...rest] = type.shape;
  const row = rest.reduce((a, b) => a * b, 1);
  return { ...type, data: whole.data.slice(first * row, (first + rows) * row) };
}
