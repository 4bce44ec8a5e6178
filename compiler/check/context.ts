// What the parts of the checker share: values, scopes, the state of a program and of a graph under
// construction, and the functions that call each other across files. Holds no rules of the language.

import type { Block, Expr, FileAst, ForwardItem, Item, ModuleMember } from "../syntax/ast.ts";
import { dimSymbol, type Dim } from "../ir/dim.ts";
import type { GraphBuilder } from "../ir/graph/build.ts";
import type { TensorType, ValueId } from "../ir/graph/types.ts";
import type { Span } from "../ir/loc.ts";
import type { GivenType } from "../ir/plan/given.ts";
import type { HostExpr, HostFunction, HostValue } from "../ir/plan/host.ts";
import type { Reporter } from "./report.ts";
import { int, type HostType } from "./types.ts";

/** A value of shape code: its type, the expression that gives it at each run, and what is known of it already. */
export interface HostVal {
  readonly k: "host";
  readonly type: HostType;
  readonly expr: HostExpr;
  /** The same integer as a size, where it is one. */
  readonly dim?: Dim;
  /** The value, where it is known at compile time. */
  readonly known?: HostValue;
  /** The elements of a list or tuple that is written out. */
  readonly parts?: readonly HostVal[];
}

export interface TensorVal {
  readonly k: "tensor";
  readonly id: ValueId;
}

export type Value =
  | HostVal
  | TensorVal
  | { readonly k: "instance"; readonly instance: Instance }
  /** `count` is undefined where it is not known (a definition checked alone). */
  | { readonly k: "instances"; readonly at: (index: number) => Instance; readonly count: number | undefined; readonly name: string }
  | { readonly k: "tuple"; readonly items: readonly Value[] }
  | { readonly k: "function"; readonly fn: FunctionInfo }
  | { readonly k: "module"; readonly entity: ModuleEntity }
  | { readonly k: "forward"; readonly instance: Instance; readonly forward: ForwardItem }
  | { readonly k: "error" };

export const errorValue: Value = { k: "error" };

/** A module with its arguments, at a place of the checkpoint. */
export interface Instance {
  readonly entity: ModuleEntity;
  readonly scope: Scope;
  /** Prefix of the checkpoint names. */
  readonly path: string;
  readonly used: Span;
}

export interface FunctionInfo {
  readonly item: Extract<Item, { kind: "fn" }>;
  readonly unit: Unit;
  /** Unique among the functions of the program; never a built-in's name. */
  readonly name: string;
  params: readonly HostType[] | undefined;
  result: HostType | undefined;
  state: "new" | "open" | "done";
  /** Its body had an error: it is not evaluated. */
  broken: boolean;
}

export interface ModuleEntity {
  readonly k: "module";
  readonly item: Extract<Item, { kind: "module" }>;
  readonly unit: Unit;
  /** Elaborated with concrete arguments by some graph. */
  instantiated: boolean;
}

export type Entity =
  | {
      readonly k: "constant";
      readonly item: Extract<Item, { kind: "config" | "const" }>;
      readonly unit: Unit;
      state: "new" | "open" | "done";
      value: Value;
    }
  | {
      readonly k: "type";
      readonly item: Extract<Item, { kind: "type" }>;
      readonly unit: Unit;
      state: "new" | "open" | "done";
      type: HostType;
    }
  | { readonly k: "fn"; readonly item: Extract<Item, { kind: "fn" }>; readonly unit: Unit; readonly info: FunctionInfo }
  | ModuleEntity
  | { readonly k: "graph"; readonly item: Extract<Item, { kind: "graph" }>; readonly unit: Unit };

/** One file with the names it declares and imports. */
export interface Unit {
  readonly file: string;
  readonly ast: FileAst;
  readonly names: Map<string, { readonly entity: Entity; readonly span: Span }>;
  /** Names whose import failed: reported there, silent elsewhere. */
  readonly missing: Set<string>;
}

interface Named {
  readonly value: Value;
  readonly span: Span;
  readonly mutable: boolean;
  /** The state of this name in the checkpoint of a run. */
  readonly state?: string;
  /** The expression that gives its value, or its values one after the other. */
  readonly from?: Span | undefined;
}

/** Gives out names of host variables that no other has. */
export class Namer {
  readonly #used = new Set<string>();
  fresh(hint: string): string {
    let name = hint;
    for (let i = 2; this.#used.has(name); i++) name = `${hint}.${i}`;
    this.#used.add(name);
    return name;
  }
}

export class Scope {
  readonly unit: Unit;
  readonly parent: Scope | undefined;
  readonly namer: Namer;
  /** Inside shape code, where no tensor may occur. */
  readonly hostOnly: boolean;
  readonly names = new Map<string, Named>();

  constructor(unit: Unit, namer: Namer, parent?: Scope, hostOnly = false) {
    this.unit = unit;
    this.namer = namer;
    this.parent = parent;
    this.hostOnly = hostOnly || parent?.hostOnly === true;
  }

  inner(hostOnly = false): Scope {
    return new Scope(this.unit, this.namer, this, hostOnly);
  }

  find(name: string): Named | undefined {
    return this.names.get(name) ?? this.parent?.find(name);
  }

  define(name: string, value: Value, span: Span, more: { mutable?: boolean; state?: string; from?: Span } = {}): void {
    this.names.set(name, { value, span, ...more, mutable: more.mutable ?? false });
  }

  /** A name whose value is made when it is first used (a parameter enters the graph then). */
  defineLazy(name: string, make: () => Value, span: Span): void {
    let made: Value | undefined;
    this.names.set(name, {
      get value(): Value {
        return (made ??= make());
      },
      span,
      mutable: false,
    });
  }

  /** Gives an existing variable another value, where it was declared. */
  assign(name: string, value: Value): void {
    const mine = this.names.get(name);
    if (mine === undefined) this.parent?.assign(name, value);
    else this.names.set(name, { ...mine, value });
  }

  /** Where a name in reach is declared. */
  declaration(name: string): Span | undefined {
    return this.names.get(name)?.span ?? (this.parent === undefined ? this.unit.names.get(name)?.span : this.parent.declaration(name));
  }

  /** Names of integers in reach. Leaves names alone whose value is not made yet. */
  sizes(): readonly string[] {
    const mine = [...this.names].filter(([, n]) => {
      const value = Object.getOwnPropertyDescriptor(n, "value")?.value as Value | undefined;
      return value?.k === "host" && value.type.k === "int";
    });
    return [...mine.map(([name]) => name), ...(this.parent?.sizes() ?? this.unit.names.keys())];
  }

  /** Every name in reach, for suggestions. */
  all(): readonly string[] {
    return [...this.names.keys(), ...(this.parent?.all() ?? this.unit.names.keys())];
  }
}

/** A ragged dimension: segments one after the other. */
export interface Ragged {
  readonly name: string;
  /** How many segments. */
  readonly over: Dim;
  /** Gives the list of segment lengths. */
  readonly lengths: HostExpr;
}

/** A graph under construction, or a definition checked with symbols for its arguments. */
export interface Build {
  readonly builder: GraphBuilder;
  readonly namer: Namer;
  readonly bindings: { name: string; value: HostExpr; symbol: boolean; loc: string }[];
  /** Values that the caller gives at each run. */
  readonly given: { readonly name: string; readonly type: GivenType }[];
  readonly params: Map<string, { readonly id: ValueId; readonly type: TensorType; readonly span: Span }>;
  readonly tables: Map<string, ValueId>;
  /** By the text of the dimension. */
  readonly ragged: Map<string, Ragged>;
  /** Where each state is declared, by its name in the graph. */
  readonly states: Map<string, Span>;
  /** Where each state gets its new value, by its name in the graph. */
  readonly updates: Map<string, Span>;
  /** Symbols made for host integers, by the expression's JSON. */
  readonly symbols: Map<string, Dim>;
  /** Host variables whose values are known at compile time. */
  readonly known: Map<string, HostValue>;
  /** Where a dimension got its value, by its text: notes of conflicts point there. */
  readonly origins: Map<string, { readonly span: Span; readonly what: string }>;
  /** Where a tensor was declared or named: notes of conflicts point there. */
  readonly made: Map<ValueId, { readonly span: Span; readonly what: string }>;
  /** Places around the one being elaborated, innermost first. */
  calls: readonly Span[];
  /** Modules being instantiated, outermost first. */
  modules: readonly string[];
  /** Checkpoint prefix of the module whose forward is being elaborated: states have it before their names. */
  path: string;
  /** A definition alone: sizes are symbols, and what depends on their values is undecided. */
  readonly abstract: boolean;
  /** The symbols that stand for module arguments in an abstract check. */
  readonly loose: Set<string>;
  nodes: number;
  instances: number;
}

/** An argument of a forward. */
export interface GivenArgument {
  readonly value: Value;
  readonly e: Expr;
  readonly span: Span;
  readonly name: string | undefined;
}

export type LetStatement = Extract<ModuleMember, { kind: "let" }>;

/** What every rule needs. One for each program; `build` changes as graphs are elaborated. */
export interface Cx {
  readonly report: Reporter;
  readonly overrides: ReadonlyMap<string, string>;
  readonly functions: Map<string, HostFunction>;
  readonly infos: Map<string, FunctionInfo>;
  build: Build | undefined;
  /** Types of expressions of shape code, as last checked. */
  readonly types: WeakMap<Expr, HostType>;
  /** Declarations that are being checked because another refers to them. */
  depth: number;
  /** Any expression. */
  expr(e: Expr, scope: Scope): Value;
  /** The value of a block; statements take effect. */
  block(b: Block, scope: Scope): Value;
  entityValue(entity: Entity, name: string, span: Span): Value;
  signature(info: FunctionInfo): { readonly params: readonly HostType[]; readonly result: HostType };
  callInstance(instance: Instance, forward: ForwardItem, args: readonly GivenArgument[], span: Span): Value;
  member(instance: Instance, name: string, span: Span): Value | undefined;
  letStatement(s: LetStatement, scope: Scope): void;
}

/** A program that would take too much to elaborate. */
export class TooLarge extends Error {
  override readonly name = "TooLarge";
  readonly span: Span;
  constructor(span: Span, message: string) {
    super(message);
    this.span = span;
  }
}

/** Declarations may refer to others, these to others again, this deep: far above any program, far below the stack. */
const maximumReferences = 300;

/** Runs the check of a declaration that another refers to. */
export function referring<R>(cx: Cx, span: Span, run: () => R): R {
  if (cx.depth >= maximumReferences) throw new TooLarge(span, `declarations refer to each other more than ${maximumReferences} deep`);
  cx.depth++;
  try {
    return run();
  } finally {
    cx.depth--;
  }
}

export function locationText(span: Span): string {
  return `${span.file}:${span.line}:${span.column}`;
}

/** The host integer that a dimension symbol is. */
export function symbolValue(name: string): HostVal {
  return { k: "host", type: int, expr: { k: "var", name }, dim: dimSymbol(name) };
}
