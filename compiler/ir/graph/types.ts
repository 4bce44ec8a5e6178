// Graph IR: pure typed SSA over tensors. Says what is computed; knows nothing of layout, device,
// buffers or loops. Every node is one value. Nodes stand in topological order.

import type { Dim, DimSymbol } from "../dim.ts";
import type { DType } from "../dtype.ts";
import type { Loc } from "../loc.ts";
import type { HostExpr, HostProgram } from "../plan/host.ts";
import type { Packed } from "../plan/packed.ts";
import type { RowsOf } from "../plan/rows.ts";

export interface TensorType {
  readonly dtype: DType;
  /** Sizes, outermost first; a scalar has the empty shape. */
  readonly shape: readonly Dim[];
}

/** Index of a value in its graph: unique, not necessarily dense. */
export type ValueId = number;

/** Compile-time arguments of an op. Dims may be symbolic. */
export type AttrValue = number | boolean | string | readonly number[] | Dim | readonly Dim[];
export type Attrs = Readonly<Record<string, AttrValue>>;

interface NodeBase {
  readonly id: ValueId;
  readonly type: TensorType;
  readonly loc: Loc;
}

/** A tensor given at each run. */
export interface InputNode extends NodeBase {
  readonly kind: "input";
  readonly name: string;
}

/** A tensor of the checkpoint, by its public name. The shape has no symbols. */
export interface ParamNode extends NodeBase {
  readonly kind: "param";
  readonly name: string;
  readonly init?: ParamInit;
  /** Set where the checkpoint's tensor has another name and is packed while it is loaded. `init` is of its numbers. */
  readonly packed?: Packed;
  /** Set where it is some rows of the checkpoint's tensor, which has another name. */
  readonly rows?: RowsOf;
}

/** How `--init seeded:N` makes a parameter when no checkpoint is given. */
export type ParamInit = { readonly kind: "constant"; readonly value: number } | { readonly kind: "normal"; readonly std: number };

/** A tensor known at compile time. `data` has one element (splat) or as many as the constant shape. */
export interface ConstantNode extends NodeBase {
  readonly kind: "constant";
  readonly data: readonly number[];
}

/** A tensor that shape code computes on the host at each run, once sizes are known. */
export interface TableNode extends NodeBase {
  readonly kind: "table";
  readonly name: string;
  /** Gives nested lists (or one number for a scalar); flattened row-major. */
  readonly value: HostExpr;
}

/** State that survives between runs (a key-value cache). The value read at the start of a run. */
export interface StateNode extends NodeBase {
  readonly kind: "state";
  readonly name: string;
}

export interface OpNode extends NodeBase {
  readonly kind: "op";
  /** A name in the op table. */
  readonly op: string;
  readonly operands: readonly ValueId[];
  readonly attrs: Attrs;
}

export type GraphNode = InputNode | ParamNode | ConstantNode | TableNode | StateNode | OpNode;

export interface Graph {
  readonly name: string;
  /** Every symbol that occurs in a type. Symbols that are not a dimension of an input are defined by `host.symbols`. */
  readonly symbols: readonly DimSymbol[];
  readonly host: HostProgram;
  readonly nodes: readonly GraphNode[];
  readonly outputs: readonly { readonly name: string; readonly value: ValueId }[];
  /** New value of a state at the end of a run. */
  readonly updates: readonly { readonly state: string; readonly value: ValueId }[];
}
