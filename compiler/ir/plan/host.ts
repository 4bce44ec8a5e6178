// Host code: the shape functions of a .uhd file after checking, as plain JSON-able data. It is part of
// a plan because sizes, segment offsets and tap tables are computed at each run. Types are erased:
// the checker has already chosen integer or float arithmetic. Evaluation is in host-eval.ts.

import type { DType } from "../dtype.ts";
import type { GivenType } from "./given.ts";

/** A value of shape code: numbers are float64 (integers are exact up to 2^53); tuples and lists are arrays. */
export type HostValue = number | boolean | string | readonly HostValue[] | { readonly [field: string]: HostValue };

export type HostBinary =
  | "add"
  | "sub"
  | "mul"
  /** float division */
  | "div"
  /** floor division and its remainder, of integers */
  | "idiv"
  | "imod"
  | "pow"
  | "eq"
  | "ne"
  | "lt"
  | "le"
  | "gt"
  | "ge"
  | "and"
  | "or"
  /** list concatenation */
  | "concat";

type HostUnary = "neg" | "not";

/** What a `let`, `for` or `choose` binds: a name, or a tuple of patterns. "_" binds nothing. */
export type HostPattern = string | readonly HostPattern[];

export type HostExpr =
  | { readonly k: "lit"; readonly v: number | boolean | string }
  | { readonly k: "var"; readonly name: string }
  | { readonly k: "unary"; readonly op: HostUnary; readonly a: HostExpr }
  | { readonly k: "binary"; readonly op: HostBinary; readonly a: HostExpr; readonly b: HostExpr }
  | { readonly k: "if"; readonly cond: HostExpr; readonly then: HostExpr; readonly else: HostExpr }
  /** A tuple or a list. */
  | { readonly k: "list"; readonly items: readonly HostExpr[] }
  | { readonly k: "record"; readonly fields: readonly { readonly name: string; readonly value: HostExpr }[] }
  | { readonly k: "field"; readonly of: HostExpr; readonly name: string }
  | { readonly k: "index"; readonly of: HostExpr; readonly at: HostExpr }
  /** from, from+1, …, to-1 */
  | { readonly k: "range"; readonly from: HostExpr; readonly to: HostExpr }
  | { readonly k: "for"; readonly clauses: readonly HostClause[]; readonly body: HostExpr }
  /** The first element with the strictly smallest cost; an empty list is an error at `loc`. */
  | {
      readonly k: "choose";
      readonly pattern: HostPattern;
      readonly from: HostExpr;
      readonly where?: HostExpr;
      readonly cost: HostExpr;
      readonly loc: string;
    }
  | { readonly k: "let"; readonly pattern: HostPattern; readonly value: HostExpr; readonly body: HostExpr }
  /** A user function by its unique name, or a builtin (see host-eval.ts); user functions shadow builtins. */
  | { readonly k: "call"; readonly fn: string; readonly args: readonly HostExpr[]; readonly loc: string };

export type HostClause =
  { readonly k: "in"; readonly pattern: HostPattern; readonly from: HostExpr } | { readonly k: "if"; readonly cond: HostExpr };

export interface HostFunction {
  readonly name: string;
  readonly params: readonly HostPattern[];
  readonly body: HostExpr;
}

/** Evaluated in order at each run; symbols that are dimensions of inputs are bound first, by name. */
export interface HostProgram {
  /** Values that the caller gives at each run, in scope of everything; none when left out. */
  readonly given?: readonly { readonly name: string; readonly type: GivenType }[];
  readonly functions: readonly HostFunction[];
  /** Host values and sizes: `symbol` entries define a dimension symbol of that name and must give an integer ≥ 0. */
  readonly bindings: readonly { readonly name: string; readonly value: HostExpr; readonly symbol: boolean; readonly loc: string }[];
}

export const emptyHostProgram: HostProgram = { functions: [], bindings: [] };

/** A host-computed tensor, ready to be written to a device. */
export interface HostTable {
  readonly name: string;
  readonly dtype: DType;
  /** Canonical dim texts. */
  readonly shape: readonly string[];
  readonly value: HostExpr;
}
