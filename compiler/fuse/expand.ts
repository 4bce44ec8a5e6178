// From values of a graph to scalar expressions: what the element of a value at a position is, in terms of elements
// of buffers. Values that are inlined are replaced by their own definition; all others are loads. Decides nothing.

import { dimConstant, type Dim, type DimSymbol } from "../ir/dim.ts";
import { bool, f32, i32, load, variable } from "../ir/kernel/build.ts";
import { Simplifier } from "../ir/kernel/simplify.ts";
import { scalarTypeOf, type Expr } from "../ir/kernel/types.ts";
import type { ConstantNode, Graph, GraphNode, OpNode, TensorType, ValueId } from "../ir/graph/types.ts";
import { linearIndex } from "../../ops/expr.ts";
import { normaliseAttrs, opOf } from "../../ops/index.ts";

/** What an expansion needs to know of the graph. */
export interface Values {
  readonly nodes: ReadonlyMap<ValueId, GraphNode>;
  readonly symbols: readonly DimSymbol[];
  /** See Note [Written in place]; none when left out. */
  readonly inPlace?: ReadonlyMap<ValueId, ValueId>;
  /** By a state's new value that its kernel writes over the old one, element by element, the state: see siblings.ts. */
  readonly updated?: ReadonlyMap<ValueId, ValueId>;
  /** Columns of a panel of a packed operand. */
  readonly panel: number;
}

// Note [Written in place]. `cache = write_rows(cache, rows, at: past)` must cost the rows, not the cache. Where the new
// value of a state is an op that overwrites (ops/define.ts) the state itself, and nothing else reads the state, old and
// new value share the state's buffer: the op's kernel goes over the elements of operand 1 and stores each at its place,
// and what reads the new value reads the state. Kernels run in the order of the graph, in which readers of the new
// value stand behind it, and there are none of the old.

/** By the value that is written in place, its state. */
export function inPlaceWrites(graph: Graph): ReadonlyMap<ValueId, ValueId> {
  const states = new Map(graph.nodes.flatMap((n) => (n.kind === "state" ? [[n.id, n.name] as const] : [])));
  const uses = new Map<ValueId, number>();
  const read = (v: ValueId): void => void uses.set(v, (uses.get(v) ?? 0) + 1);
  for (const n of graph.nodes) if (n.kind === "op") n.operands.forEach(read);
  for (const { value } of [...graph.outputs, ...graph.updates]) if (states.has(value)) read(value);
  const found = new Map<ValueId, ValueId>();
  for (const n of graph.nodes) {
    const [state] = n.kind === "op" && opOf(n.op).overwrites !== undefined ? n.operands : [];
    const name = state === undefined ? undefined : states.get(state);
    if (state === undefined || name === undefined || uses.get(state) !== 1) continue;
    if (graph.updates.some((u) => u.state === name && u.value === n.id)) found.set(n.id, state);
  }
  return found;
}

/** What the kernel of a value goes over: its elements, or those that it writes in place. */
export function writtenType(values: Values, root: ValueId): TensorType {
  const node = nodeOf(values, root);
  const rows = values.inPlace?.has(root) === true && node.kind === "op" ? node.operands[1] : undefined;
  return rows === undefined ? node.type : nodeOf(values, rows).type;
}

/** Where the element of a root at `index` is stored. */
export function placeOf(values: Values, root: ValueId, index: readonly Expr[], element: Expander["element"]): Expr {
  const node = nodeOf(values, root);
  const overwrites = values.inPlace?.has(root) === true && node.kind === "op" ? opOf(node.op).overwrites : undefined;
  if (overwrites === undefined || node.kind !== "op") return linearIndex(index, node.type.shape);
  const at = (operand: number, position: readonly Expr[]): Expr => element(node.operands[operand] ?? -1, position);
  return linearIndex(overwrites.place(index, normaliseAttrs(node.op, node.attrs), at), node.type.shape);
}

export interface ExpandOptions {
  readonly isInlined: (value: ValueId) => boolean;
  /** The element of a value instead of its definition, e.g. the accumulator of a matrix multiply. */
  readonly replace?: (value: ValueId, index: readonly Expr[]) => Expr | undefined;
}

/** The value whose buffer holds `value`: its own, or its operand's where the order of elements is kept (reshape). */
export function bufferOf(values: Values, value: ValueId): ValueId {
  const node = values.nodes.get(value);
  const source = node?.kind === "op" && opOf(node.op).view === "order" ? node.operands[0] : undefined;
  return source === undefined ? value : bufferOf(values, source);
}

/** The name under which expressions load a value, before buffers are numbered. */
export const loadName = (value: ValueId): string => `%${value}`;

export function nodeOf(values: Values, value: ValueId): GraphNode {
  const node = values.nodes.get(value);
  if (node === undefined) throw new Error(`value %${value} is not in the graph`);
  return node;
}

/** A constant that is the same everywhere. */
export function isSplat(node: GraphNode): node is ConstantNode {
  return node.kind === "constant" && node.data.length === 1;
}

export class Expander {
  readonly simplifier: Simplifier;
  private readonly values: Values;
  private readonly options: ExpandOptions;
  private readonly known = new Map<string, Expr>();
  /** How many different positions of each inlined value were asked for. */
  readonly times = new Map<ValueId, number>();
  private readonly ids = new Map<Expr, number>();
  private names = 0;

  constructor(values: Values, options: ExpandOptions) {
    this.values = values;
    this.options = options;
    this.simplifier = new Simplifier(values.symbols);
  }

  /** Declares an axis and gives its variable. */
  axis(name: string, extent: Dim): Expr {
    this.simplifier.axis(name, extent);
    return dimConstant(extent) === 1 ? i32(0) : variable(name);
  }

  /** The element of `value` at `index` through its definition, though others load it; of what it writes, in place. */
  root(value: ValueId, index: readonly Expr[]): Expr {
    const node = nodeOf(this.values, value);
    const rows = this.values.inPlace?.has(value) === true && node.kind === "op" ? node.operands[1] : undefined;
    if (rows !== undefined) return this.simplifier.again(this.element(rows, index));
    const first = this.simplifier.simplify(this.definition(value, index));
    // Indices inside a reduction are made before the range of its axis is known.
    return this.names === 0 ? first : this.simplifier.again(first);
  }

  /** The element at a position. */
  element(value: ValueId, index: readonly Expr[]): Expr {
    const { type } = nodeOf(this.values, value);
    const replaced = this.options.replace?.(value, index);
    if (replaced !== undefined) return replaced;
    if (this.isLoaded(value)) return this.load(value, linearIndex(index, type.shape));
    const simple = index.map((i) => this.simplifier.simplify(i));
    const key = `${value} ${simple.map((i) => this.id(i)).join(" ")}`;
    const before = this.known.get(key);
    if (before !== undefined) return before;
    const made = this.simplifier.interner.intern(this.definition(value, simple));
    this.known.set(key, made);
    this.times.set(value, (this.times.get(value) ?? 0) + 1);
    return made;
  }

  private linear(value: ValueId, linear: Expr): Expr {
    const { type } = nodeOf(this.values, value);
    return this.isLoaded(value) ? this.load(value, linear) : this.element(value, this.simplifier.split(linear, type.shape));
  }

  private isLoaded(value: ValueId): boolean {
    // A constant that is the same everywhere is written where it is read, through reshapes too.
    return !this.options.isInlined(value) && !isSplat(nodeOf(this.values, bufferOf(this.values, value)));
  }

  private load(value: ValueId, linear: Expr): Expr {
    const { type } = nodeOf(this.values, value);
    return load(loadName(bufferOf(this.values, value)), this.simplifier.simplify(linear), scalarTypeOf(type.dtype));
  }

  private id(e: Expr): number {
    const id = this.ids.get(e) ?? this.ids.size;
    this.ids.set(e, id);
    return id;
  }

  private definition(value: ValueId, index: readonly Expr[]): Expr {
    const node = nodeOf(this.values, value);
    if (isSplat(node)) return splat(node);
    if (node.kind !== "op") return this.load(value, linearIndex(index, node.type.shape));
    return this.operation(node, index);
  }

  private operation(node: OpNode, index: readonly Expr[]): Expr {
    const { lowering } = opOf(node.op);
    const attrs = normaliseAttrs(node.op, node.attrs);
    const types = node.operands.map((o) => nodeOf(this.values, o).type);
    const operand = (i: number): ValueId => {
      const id = node.operands[i];
      if (id === undefined) throw new Error(`${node.op} has no operand ${i}`);
      return id;
    };
    switch (lowering.kind) {
      case "scalar":
        return lowering.emit(
          node.operands.map((o) => this.element(o, index)),
          attrs,
          types,
          node.type,
        );
      case "element":
        return lowering.emit(index, {
          attrs,
          types,
          out: node.type,
          at: (i, at) => this.element(operand(i), at),
          atLinear: (i, at) => this.linear(operand(i), at),
          fresh: (hint) => `${hint}.${++this.names}`,
        });
      case "decompose":
        throw new Error(`${node.op} has no kernel of its own and was not decomposed`);
      default:
        return lowering satisfies never;
    }
  }
}

function splat(node: ConstantNode): Expr {
  const value = node.data[0] ?? 0;
  switch (scalarTypeOf(node.type.dtype)) {
    case "f32":
      return f32(value);
    case "i32":
      return i32(value | 0);
    default:
      return bool(value !== 0);
  }
}
