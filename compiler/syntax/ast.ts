// The syntax tree of a .uhd file. Every node has the span of the text it came from. Says what was written;
// names, types and shapes are the checker's. One expression grammar serves shape code and tensor code.

import type { Span } from "../ir/loc.ts";

/** Exported because the declarations of the grammar name it. */
export interface Node {
  readonly span: Span;
}

/** A name as written, where its place matters. */
export interface Ident extends Node {
  readonly name: string;
}

// ---- Expressions ----

export type UnaryOperator = "-" | "not";
export type BinaryOperator = "+" | "-" | "*" | "/" | "//" | "%" | "**" | "@" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "and" | "or";

export type Pattern =
  (Node & { readonly kind: "name"; readonly name: string }) | (Node & { readonly kind: "tuple"; readonly items: readonly Pattern[] });

export interface Argument extends Node {
  /** Set for `axis: -1`. */
  readonly name?: Ident;
  readonly value: Expr;
}

/** One place between the brackets of `x[…]`. */
export type Subscript =
  | (Node & { readonly kind: "index"; readonly value: Expr })
  | (Node & { readonly kind: "slice"; readonly from?: Expr; readonly to?: Expr; readonly step?: Expr });

export type Clause =
  | (Node & { readonly kind: "for"; readonly pattern: Pattern; readonly from: Expr })
  | (Node & { readonly kind: "if"; readonly condition: Expr });

export type Expr =
  | (Node & { readonly kind: "int"; readonly value: number })
  | (Node & { readonly kind: "float"; readonly value: number })
  | (Node & { readonly kind: "string"; readonly value: string })
  | (Node & { readonly kind: "bool"; readonly value: boolean })
  | (Node & { readonly kind: "name"; readonly name: string })
  | (Node & { readonly kind: "unary"; readonly operator: UnaryOperator; readonly operand: Expr })
  | (Node & {
      readonly kind: "binary";
      readonly operator: BinaryOperator;
      readonly operatorSpan: Span;
      readonly left: Expr;
      readonly right: Expr;
    })
  | (Node & { readonly kind: "range"; readonly from: Expr; readonly to: Expr; readonly inclusive: boolean })
  /** Two or more items; `(a)` is `a`. */
  | (Node & { readonly kind: "tuple"; readonly items: readonly Expr[] })
  | (Node & { readonly kind: "list"; readonly items: readonly Expr[] })
  | (Node & { readonly kind: "comprehension"; readonly body: Expr; readonly clauses: readonly Clause[] })
  | (Node & { readonly kind: "record"; readonly fields: readonly { readonly name: Ident; readonly value: Expr }[] })
  | (Node & { readonly kind: "call"; readonly callee: Expr; readonly args: readonly Argument[] })
  | (Node & { readonly kind: "subscript"; readonly of: Expr; readonly at: readonly Subscript[] })
  /** `.name`, or `.0` of a tuple. */
  | (Node & { readonly kind: "field"; readonly of: Expr; readonly name: Ident })
  | (Node & { readonly kind: "if"; readonly condition: Expr; readonly then: Block; readonly otherwise: Block })
  | (Node & { readonly kind: "choose"; readonly pattern: Pattern; readonly from: Expr; readonly where?: Expr; readonly cost: Expr })
  | (Node & { readonly kind: "block"; readonly block: Block })
  /** Where the parser recovered; already reported. */
  | (Node & { readonly kind: "error" });

// ---- Statements ----

export interface Block extends Node {
  readonly statements: readonly Statement[];
  /** The value of the block: its last expression. */
  readonly value?: Expr;
}

export type Statement =
  | (Node & { readonly kind: "let"; readonly mutable: boolean; readonly pattern: Pattern; readonly type?: TypeExpr; readonly value: Expr })
  | (Node & { readonly kind: "assign"; readonly name: Ident; readonly value: Expr })
  | (Node & { readonly kind: "repeat"; readonly variable: Ident; readonly from: Expr; readonly body: Block })
  /** `dim P = …` */
  | (Node & { readonly kind: "dim"; readonly name: Ident; readonly value: Expr })
  /** `ragged T over P = […]` */
  | (Node & { readonly kind: "ragged"; readonly name: Ident; readonly over: Ident; readonly value: Expr })
  /** `table rows: i32[T] = …` */
  | (Node & { readonly kind: "table"; readonly name: Ident; readonly type: TypeExpr; readonly value: Expr })
  | UseItem
  | StateItem;

// ---- Types ----

/** One size of a tensor type: an expression over sizes; `ragged` for `T~`. */
export interface DimExpr extends Node {
  readonly value: Expr;
  readonly ragged: boolean;
  /** `H in 1..=20000`: bounds of a dimension that a signature introduces. */
  readonly bounds?: Expr;
}

export type TypeExpr =
  /** int, float, bool, string, or a type alias. */
  | (Node & { readonly kind: "name"; readonly name: string })
  /** `f32[T, 4]`; a scalar tensor is `f32[]`. */
  | (Node & { readonly kind: "tensor"; readonly dtype: Ident; readonly dims: readonly DimExpr[] })
  | (Node & { readonly kind: "list"; readonly element: TypeExpr })
  | (Node & { readonly kind: "tuple"; readonly items: readonly TypeExpr[] })
  | (Node & { readonly kind: "record"; readonly fields: readonly { readonly name: Ident; readonly type: TypeExpr }[] })
  | (Node & { readonly kind: "error" });

// ---- Items ----

export interface Parameter extends Node {
  readonly name: Ident;
  readonly type: TypeExpr;
  /** `past: int in 0..=4096`: bounds of an integer that a graph is given at each run. */
  readonly bounds?: Expr;
  /** Default value (module arguments). */
  readonly value?: Expr;
}

/** `use q = Linear(d, d) at "self_attn.q_proj"`, `use layer[n] = Layer(d) at "encoder.layers"`. */
export interface UseItem extends Node {
  readonly kind: "use";
  readonly name: Ident;
  readonly count?: Expr;
  readonly module: Ident;
  readonly args: readonly Argument[];
  readonly path?: Expr;
}

export interface ParamItem extends Node {
  readonly kind: "param";
  readonly name: Ident;
  readonly type: TypeExpr;
  /** `at "other.name"`: the checkpoint name when it is not the name itself. */
  readonly path?: Expr;
  /** `~ normal(0.02)` */
  readonly init?: Expr;
}

export interface StateItem extends Node {
  readonly kind: "state";
  readonly name: Ident;
  readonly type: TypeExpr;
}

export interface ForwardItem extends Node {
  readonly kind: "forward";
  readonly name: Ident;
  readonly params: readonly Parameter[];
  readonly results: readonly Result[];
  readonly body: Block;
}

/** An output of a graph or a forward: named in graphs. */
export interface Result extends Node {
  readonly name?: Ident;
  readonly type: TypeExpr;
}

export type ModuleMember =
  | ParamItem
  | UseItem
  | ForwardItem
  | (Node & { readonly kind: "let"; readonly mutable: boolean; readonly pattern: Pattern; readonly type?: TypeExpr; readonly value: Expr });

/** A setting of the train section. */
export interface Setting extends Node {
  readonly name: Ident;
  readonly value: Expr | { readonly kind: "settings"; readonly settings: readonly Setting[] };
}

export type Item =
  | (Node & {
      readonly kind: "import";
      readonly names: readonly { readonly name: Ident; readonly as: Ident }[];
      readonly path: string;
      readonly pathSpan: Span;
    })
  | (Node & { readonly kind: "config"; readonly name: Ident; readonly type?: TypeExpr; readonly value: Expr })
  | (Node & { readonly kind: "const"; readonly name: Ident; readonly type?: TypeExpr; readonly value: Expr })
  | (Node & { readonly kind: "type"; readonly name: Ident; readonly type: TypeExpr })
  | (Node & {
      readonly kind: "fn";
      readonly name: Ident;
      readonly params: readonly Parameter[];
      readonly result?: TypeExpr;
      readonly body: Block;
    })
  | (Node & {
      readonly kind: "module";
      readonly name: Ident;
      readonly params: readonly Parameter[];
      readonly members: readonly ModuleMember[];
    })
  | (Node & {
      readonly kind: "graph";
      readonly name: Ident;
      readonly params: readonly Parameter[];
      readonly results: readonly Result[];
      readonly body: Block;
    })
  | (Node & { readonly kind: "train"; readonly settings: readonly Setting[] });

export interface Comment extends Node {
  /** Without the leading `#`. */
  readonly text: string;
}

export interface FileAst extends Node {
  readonly file: string;
  readonly items: readonly Item[];
  readonly comments: readonly Comment[];
}
