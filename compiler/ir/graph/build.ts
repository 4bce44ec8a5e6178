// Builds graphs node by node. The type of every op comes from a type rule given by the caller (the op
// table), so a graph that was built is well typed. Does not optimise or share equal nodes (see passes).

import { dimSymbol, dimSymbols, type Dim, type DimSymbol } from "../dim.ts";
import type { DType } from "../dtype.ts";
import { noLoc, type Loc } from "../loc.ts";
import type { Packed } from "../plan/packed.ts";
import type { RowsOf } from "../plan/rows.ts";
import { emptyHostProgram, type HostExpr, type HostProgram } from "../plan/host.ts";
import type { Attrs, Graph, GraphNode, ParamInit, TensorType, ValueId } from "./types.ts";

/** The type of `op` applied to operands of these types. Throws when they do not fit. */
export type TypeRule = (op: string, operands: readonly TensorType[], attrs: Attrs) => TensorType;

export class GraphError extends Error {
  override readonly name = "GraphError";
}

/** The type as it is written: `f32[T, 1024]`. */
export function typeText(type: TensorType): string {
  return `${type.dtype}[${type.shape.map((d) => d.text).join(", ")}]`;
}

/** Every value of `graph` by its id. */
export function nodesById(graph: Graph): ReadonlyMap<ValueId, GraphNode> {
  return new Map(graph.nodes.map((node) => [node.id, node]));
}

/**
 * Appends nodes and keeps their types. Implements `Emit` of ops/define.ts. Ids are dense from 0, or go on after
 * those of `continueFrom`, whose nodes, symbols, host program, outputs and updates the new graph starts with.
 */
export class GraphBuilder {
  readonly #name: string;
  readonly #typeRule: TypeRule;
  readonly #nodes: GraphNode[];
  readonly #types = new Map<ValueId, TensorType>();
  readonly #symbols: Map<string, DimSymbol>;
  readonly #outputs: { readonly name: string; readonly value: ValueId }[];
  readonly #updates: { readonly state: string; readonly value: ValueId }[];
  #host: HostProgram;
  #loc: Loc = noLoc;
  #next = 0;

  constructor(name: string, typeRule: TypeRule, continueFrom?: Graph) {
    this.#name = name;
    this.#typeRule = typeRule;
    this.#nodes = [...(continueFrom?.nodes ?? [])];
    this.#symbols = new Map((continueFrom?.symbols ?? []).map((s) => [s.name, s]));
    this.#outputs = [...(continueFrom?.outputs ?? [])];
    this.#updates = [...(continueFrom?.updates ?? [])];
    this.#host = continueFrom?.host ?? emptyHostProgram;
    for (const node of this.#nodes) {
      this.#types.set(node.id, node.type);
      this.#next = Math.max(this.#next, node.id + 1);
    }
  }

  /** Declares a size with inclusive bounds and returns it as a dim. Declaring again replaces the bounds. */
  symbol(name: string, lower = 0, upper?: number): Dim {
    this.#symbols.set(name, upper === undefined ? { name, lower } : { name, lower, upper });
    return dimSymbol(name);
  }

  /** Declares an integer that is given at each run. */
  argument(name: string, lower = 0, upper?: number): Dim {
    this.#symbols.set(name, { name, lower, ...(upper === undefined ? {} : { upper }), argument: true });
    return dimSymbol(name);
  }

  /** Declares a symbol of another graph. */
  declare(s: DimSymbol): void {
    this.#symbols.set(s.name, s);
  }

  /** The location that following nodes get. Returns the one before. */
  at(loc: Loc): Loc {
    const before = this.#loc;
    this.#loc = loc;
    return before;
  }

  setHost(host: HostProgram): void {
    this.#host = host;
  }

  input(name: string, type: TensorType): ValueId {
    return this.#add((base) => ({ ...base, kind: "input", name }), type);
  }

  param(name: string, type: TensorType, init?: ParamInit, packed?: Packed, rows?: RowsOf): ValueId {
    const more = {
      ...(init === undefined ? {} : { init }),
      ...(packed === undefined ? {} : { packed }),
      ...(rows === undefined ? {} : { rows }),
    };
    return this.#add((base) => ({ ...base, kind: "param", name, ...more }), type);
  }

  table(name: string, type: TensorType, value: HostExpr): ValueId {
    return this.#add((base) => ({ ...base, kind: "table", name, value }), type);
  }

  state(name: string, type: TensorType): ValueId {
    return this.#add((base) => ({ ...base, kind: "state", name }), type);
  }

  /** `data` has one element (splat) or as many as the shape, which must then be constant. */
  constant(dtype: DType, shape: readonly Dim[], data: readonly number[]): ValueId {
    return this.#add((base) => ({ ...base, kind: "constant", data }), { dtype, shape });
  }

  op(name: string, operands: readonly ValueId[], attrs: Attrs = {}): ValueId {
    const type = this.#typeRule(
      name,
      operands.map((v) => this.typeOf(v)),
      attrs,
    );
    return this.#add((base) => ({ ...base, kind: "op", op: name, operands, attrs }), type);
  }

  typeOf(value: ValueId): TensorType {
    const type = this.#types.get(value);
    if (type === undefined) throw new GraphError(`value %${value} is not in graph ${this.#name}`);
    return type;
  }

  /** The id that the next node will get. */
  get nextId(): ValueId {
    return this.#next;
  }

  /** Nodes with ids from `id` on, in order. */
  nodesFrom(id: ValueId): readonly GraphNode[] {
    return this.#nodes.filter((node) => node.id >= id);
  }

  output(name: string, value: ValueId): void {
    this.typeOf(value);
    this.#outputs.push({ name, value });
  }

  update(state: string, value: ValueId): void {
    this.typeOf(value);
    this.#updates.push({ state, value });
  }

  /** Forgets the outputs so far, for a graph that continues another one. */
  clearOutputs(): void {
    this.#outputs.length = 0;
  }

  /** The graph so far. Symbols that occur in a type without a declaration get the bounds 0 and up. */
  build(): Graph {
    const symbols = new Map(this.#symbols);
    for (const node of this.#nodes) {
      for (const size of node.type.shape) {
        for (const name of dimSymbols(size)) if (!symbols.has(name)) symbols.set(name, { name, lower: 0 });
      }
    }
    return {
      name: this.#name,
      symbols: [...symbols.values()],
      host: this.#host,
      nodes: [...this.#nodes],
      outputs: [...this.#outputs],
      updates: [...this.#updates],
    };
  }

  #add(make: (base: { readonly id: ValueId; readonly type: TensorType; readonly loc: Loc }) => GraphNode, type: TensorType): ValueId {
    const node = make({ id: this.#next, type, loc: this.#loc });
    this.#next++;
    this.#nodes.push(node);
    this.#types.set(node.id, type);
    return node.id;
  }
}
