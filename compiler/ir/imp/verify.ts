// What must hold of an Imp function, checked after it is built. Collects every violation as a sentence; an empty list
// means the function is sound. Does not check that accesses are in range (eval.ts does), nor what one target alone
// asks for.

import { dimSymbols } from "../dim.ts";
import { locText } from "../loc.ts";
import { isPtr, isVector, typeOfImp } from "./build.ts";
import { typeText } from "./expr-text.ts";
import { divergence } from "./uniform.ts";
import { ExprChecker, valueFits, type Place } from "./verify-expr.ts";
import type { ImpFunction, ImpStmt, ImpType } from "./types.ts";

/**
 * Every violation in `fn`: names of buffers, scratch, sizes or locals repeat or hide each other; a size, place or local
 * is not declared; an operation does not take its operands, or gives another type; an assignment is to what is not
 * mutable; a load or store does not fit what it points into.
 */
export function verifyImp(fn: ImpFunction): readonly string[] {
  const wrong: string[] = [];
  const where = fn.sources[0] === undefined ? "" : ` (${locText(fn.sources[0])})`;
  const at = (message: string): void => void wrong.push(`function ${fn.name}${where}: ${message}`);
  const places = new Map<string, Place>();
  for (const b of fn.buffers) {
    if (places.has(b.name)) at(`there are two places ${b.name}`);
    places.set(b.name, { dtype: b.dtype, read: b.access !== "write", write: b.access !== "read" });
  }
  for (const s of fn.scratch) {
    if (places.has(s.name)) at(`there are two places ${s.name}`);
    places.set(s.name, { dtype: s.dtype, read: true, write: true });
  }
  const dims = new Set(fn.dims);
  if (dims.size !== fn.dims.length) at("a size is declared twice");
  for (const d of [fn.units, ...fn.scratch.map((s) => s.size)])
    for (const name of dimSymbols(d)) if (!dims.has(name)) at(`size ${name} is not declared`);
  if (!Number.isSafeInteger(fn.lanes) || fn.lanes < 1) at(`${fn.lanes} lanes`);
  if (fn.lanes > 1 && fn.lane === undefined) at("nothing holds the number of the lane");
  if (fn.subgroup !== undefined && (!isPowerOfTwo(fn.subgroup) || fn.lanes % fn.subgroup !== 0))
    at(`${fn.lanes} lanes are not in subgroups of ${fn.subgroup}`);
  const scope = new Scope(undefined);
  scope.declare(fn.unit, "i32", false);
  if (fn.lane !== undefined && !scope.declare(fn.lane, "i32", false)) at(`the name ${fn.lane} is used twice`);
  new Checker(new ExprChecker(places, dims), at, fn.subgroup !== undefined).block(fn.body, scope);
  for (const message of divergence(fn)) at(message);
  return wrong;
}

function isPowerOfTwo(n: number): boolean {
  return Number.isSafeInteger(n) && n > 0 && (n & (n - 1)) === 0;
}

interface Local {
  readonly type: ImpType;
  readonly mutable: boolean;
}

/** The locals of a block and of those around it. */
class Scope {
  readonly #parent: Scope | undefined;
  readonly #own = new Map<string, Local>();

  constructor(parent: Scope | undefined) {
    this.#parent = parent;
  }

  find(name: string): Local | undefined {
    return this.#own.get(name) ?? this.#parent?.find(name);
  }

  /** False when the name is taken: locals do not hide each other. */
  declare(name: string, type: ImpType, mutable: boolean): boolean {
    const free = this.find(name) === undefined;
    this.#own.set(name, { type, mutable });
    return free;
  }
}

class Checker {
  readonly #exprs: ExprChecker;
  readonly #at: (message: string) => void;
  readonly #subgroups: boolean;

  constructor(exprs: ExprChecker, at: (message: string) => void, subgroups: boolean) {
    this.#exprs = exprs;
    this.#at = at;
    this.#subgroups = subgroups;
  }

  block(statements: readonly ImpStmt[], around: Scope): void {
    const scope = new Scope(around);
    for (const s of statements) this.#statement(s, scope);
  }

  #statement(s: ImpStmt, scope: Scope): void {
    const expr = (e: Parameters<typeof typeOfImp>[0], user: string): void =>
      this.#exprs.check(
        e,
        (name) => scope.find(name)?.type,
        (message) => this.#at(`${user}: ${message}`),
      );
    const declare = (into: Scope, name: string, type: ImpType, mutable: boolean): void => {
      if (!into.declare(name, type, mutable)) this.#at(`the name ${name} is used twice`);
    };
    switch (s.k) {
      case "let": {
        const user = `let ${s.name}`;
        expr(s.value, user);
        const type = typeOfImp(s.value);
        if (type !== s.type) this.#at(`${user}: its value is ${typeText(type)}, not ${typeText(s.type)}`);
        declare(scope, s.name, s.type, s.mutable);
        break;
      }
      case "assign": {
        const user = `set ${s.name}`;
        expr(s.value, user);
        const local = scope.find(s.name);
        const type = typeOfImp(s.value);
        if (local === undefined) this.#at(`${user}: there is no such local`);
        else if (!local.mutable) this.#at(`${user}: it is not mutable`);
        else if (local.type !== type) this.#at(`${user}: its value is ${typeText(type)}, not ${typeText(local.type)}`);
        break;
      }
      case "store":
      case "storeLanes":
        this.#store(s, expr);
        break;
      case "for": {
        const user = `for ${s.name}`;
        expr(s.from, user);
        expr(s.to, user);
        for (const bound of [s.from, s.to])
          if (typeOfImp(bound) !== "i32") this.#at(`${user}: a bound is ${typeText(typeOfImp(bound))}, not i32`);
        if (!Number.isSafeInteger(s.step) || s.step < 1) this.#at(`${user}: ${s.step} is no step`);
        const inner = new Scope(scope);
        declare(inner, s.name, "i32", false);
        this.block(s.body, inner);
        break;
      }
      case "while":
      case "if": {
        expr(s.cond, s.k);
        if (typeOfImp(s.cond) !== "bool") this.#at(`the condition of ${s.k} is ${typeText(typeOfImp(s.cond))}, not bool`);
        for (const part of s.k === "if" ? [s.then, s.else] : [s.body]) this.block(part, scope);
        break;
      }
      case "barrier":
        break;
      case "uniform":
      case "exchange": {
        const user = `${s.k} ${s.name}`;
        expr(s.value, user);
        const type = typeOfImp(s.value);
        if (type !== s.type) this.#at(`${user}: its value is ${typeText(type)}, not ${typeText(s.type)}`);
        if (s.k === "exchange") {
          expr(s.lane, user);
          if (!this.#subgroups) this.#at(`${user}: the function has no subgroups`);
          if (typeOfImp(s.lane) !== "i32") this.#at(`${user}: its lane is ${typeText(typeOfImp(s.lane))}, not i32`);
          if (s.op === "xor" && s.lane.k !== "const") this.#at(`${user}: the bits that differ are no constant`);
        }
        declare(scope, s.name, s.type, false);
        break;
      }
      case "fence": {
        const ptr = scope.find(s.ptr);
        if (ptr === undefined || !isPtr(ptr.type)) this.#at(`fence: there is no pointer ${s.ptr}`);
        for (const name of s.keep) if (scope.find(name) === undefined) this.#at(`fence: there is no local ${name}`);
        break;
      }
      default:
        s satisfies never;
    }
  }

  #store(s: Extract<ImpStmt, { k: "store" | "storeLanes" }>, expr: (e: typeof s.ptr, user: string) => void): void {
    expr(s.ptr, s.k);
    expr(s.value, s.k);
    const type = typeOfImp(s.ptr);
    if (!isPtr(type)) {
      this.#at(`${s.k}: ${type} is no pointer`);
      return;
    }
    const user = `${s.k} to ${type.slice(4)}`;
    const value = typeOfImp(s.value);
    const place = this.#exprs.places.get(type.slice(4));
    if (place === undefined) this.#at(`${user}: there is no such buffer or scratch`);
    else {
      if (!place.write) this.#at(`${user}: it is for reading`);
      if (!valueFits(value, place.dtype)) this.#at(`${user}: a value of ${typeText(value)} does not fit ${place.dtype}`);
    }
    if (!Number.isSafeInteger(s.offset)) this.#at(`${user}: ${s.offset} is no offset`);
    if (s.k !== "storeLanes") return;
    if (!isVector(value)) this.#at(`${user}: ${typeText(value)} has no lanes`);
    if (![1, 2, 3].includes(s.count)) this.#at(`${user}: ${s.count} lanes instead of 1 to 3`);
  }
}
