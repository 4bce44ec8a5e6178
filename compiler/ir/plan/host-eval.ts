// Evaluates shape code at each run: expressions become closures over a frame of slots, once, then run fast.
// Work, recursion and sizes are bounded, so that hostile shape code ends in an error. Types were checked by
// the compiler; what remains (an empty choice, an index out of range) is a HostError with its place.

import type { DType } from "../dtype.ts";
import { dimEval, dimParse, type DimEnv } from "../dim.ts";
import type { HostExpr, HostFunction, HostPattern, HostProgram, HostTable, HostValue } from "./host.ts";
import { hostBuiltins } from "./host-builtins.ts";

export class HostError extends Error {
  override readonly name = "HostError";
}

/** Loop iterations and calls one evaluation may take. */
const maximumSteps = 100_000_000;
const maximumCalls = 400;
const maximumList = 20_000_000;

type Frame = HostValue[];
type Code = (frame: Frame) => HostValue;

interface Budget {
  steps: number;
  calls: number;
}

function at(loc: string, message: string): HostError {
  return new HostError(loc === "" ? message : `${loc}: ${message}`);
}

/** Compiles expressions of one program. Names resolve to slots at compile time. */
class Compiler {
  private readonly functions = new Map<string, HostFunction>();
  private readonly compiled = new Map<string, { code: Code; slots: number }>();
  readonly budget: Budget = { steps: 0, calls: 0 };

  constructor(program: HostProgram) {
    for (const f of program.functions) this.functions.set(f.name, f);
  }

  private step(loc: string): void {
    if (++this.budget.steps > maximumSteps) throw at(loc, `shape code took more than ${maximumSteps} steps`);
  }

  /** Binds `pattern` to slots from `next` on; returns the writer, the new scope and the next free slot. */
  private bind(
    pattern: HostPattern,
    scope: ReadonlyMap<string, number>,
    next: number,
  ): { write: (frame: Frame, value: HostValue) => void; scope: Map<string, number>; next: number } {
    const inner = new Map(scope);
    let slot = next;
    const build = (p: HostPattern): ((frame: Frame, value: HostValue) => void) => {
      if (typeof p === "string") {
        if (p === "_") return () => undefined;
        const mine = slot++;
        inner.set(p, mine);
        return (frame, value) => {
          frame[mine] = value;
        };
      }
      const parts = p.map(build);
      return (frame, value) => {
        if (!Array.isArray(value) || value.length !== parts.length) throw new HostError(`expected a tuple of ${parts.length}`);
        for (let i = 0; i < parts.length; i++) parts[i]?.(frame, value[i] as HostValue);
      };
    };
    const write = build(pattern);
    return { write, scope: inner, next: slot };
  }

  compile(e: HostExpr, scope: ReadonlyMap<string, number>, next: number): Code {
    switch (e.k) {
      case "lit": {
        const v = e.v;
        return () => v;
      }
      case "var": {
        const slot = scope.get(e.name);
        if (slot === undefined) throw new HostError(`shape code has no variable ${e.name}`);
        return (frame) => frame[slot] as HostValue;
      }
      case "unary": {
        const a = this.compile(e.a, scope, next);
        return e.op === "neg" ? (f) => -(a(f) as number) : (f) => !(a(f) as boolean);
      }
      case "binary":
        return this.binary(e, scope, next);
      case "if": {
        const c = this.compile(e.cond, scope, next);
        const a = this.compile(e.then, scope, next);
        const b = this.compile(e.else, scope, next);
        return (f) => ((c(f) as boolean) ? a(f) : b(f));
      }
      case "list": {
        const items = e.items.map((i) => this.compile(i, scope, next));
        return (f) => items.map((i) => i(f));
      }
      case "record": {
        const fields = e.fields.map((x) => ({ name: x.name, code: this.compile(x.value, scope, next) }));
        return (f) => {
          const out: Record<string, HostValue> = Object.create(null) as Record<string, HostValue>;
          for (const x of fields) out[x.name] = x.code(f);
          return out;
        };
      }
      case "field": {
        const of = this.compile(e.of, scope, next);
        const name = e.name;
        return (f) => (of(f) as Record<string, HostValue>)[name] as HostValue;
      }
      case "index": {
        const of = this.compile(e.of, scope, next);
        const index = this.compile(e.at, scope, next);
        return (f) => {
          const list = of(f) as readonly HostValue[];
          const i = index(f) as number;
          const value = list[i < 0 ? i + list.length : i];
          if (value === undefined) throw new HostError(`index ${i} is outside a list of ${list.length}`);
          return value;
        };
      }
      case "range": {
        const from = this.compile(e.from, scope, next);
        const to = this.compile(e.to, scope, next);
        return (f) => {
          const a = from(f) as number;
          const n = Math.max(0, (to(f) as number) - a);
          if (!(n <= maximumList)) throw new HostError(`a range of ${n} elements is too long`);
          this.budget.steps += n;
          const out: number[] = new Array<number>(n);
          for (let i = 0; i < n; i++) out[i] = a + i;
          return out;
        };
      }
      case "for":
        return this.comprehension(e, scope, next);
      case "choose": {
        const from = this.compile(e.from, scope, next);
        const { write, scope: inner, next: after } = this.bind(e.pattern, scope, next);
        const where = e.where === undefined ? undefined : this.compile(e.where, inner, after);
        const cost = this.compile(e.cost, inner, after);
        return (f) => {
          let best: HostValue | undefined;
          let least = Infinity;
          for (const candidate of from(f) as readonly HostValue[]) {
            this.step(e.loc);
            write(f, candidate);
            if (where !== undefined && !(where(f) as boolean)) continue;
            const c = cost(f) as number;
            // Strictly smaller: the first minimum wins.
            if (best === undefined || c < least) {
              best = candidate;
              least = c;
            }
          }
          if (best === undefined) throw at(e.loc, "choose found no candidate");
          return best;
        };
      }
      case "let": {
        const value = this.compile(e.value, scope, next);
        const { write, scope: inner, next: after } = this.bind(e.pattern, scope, next);
        const body = this.compile(e.body, inner, after);
        return (f) => {
          write(f, value(f));
          return body(f);
        };
      }
      case "call":
        return this.call(e, scope, next);
      default:
        return e satisfies never;
    }
  }

  private binary(e: Extract<HostExpr, { k: "binary" }>, scope: ReadonlyMap<string, number>, next: number): Code {
    const x = this.compile(e.a, scope, next);
    const y = this.compile(e.b, scope, next);
    const a = x as (f: Frame) => number;
    const b = y as (f: Frame) => number;
    switch (e.op) {
      case "add":
        return (f) => a(f) + b(f);
      case "sub":
        return (f) => a(f) - b(f);
      case "mul":
        return (f) => a(f) * b(f);
      case "div":
        return (f) => a(f) / b(f);
      case "idiv":
      case "imod": {
        const remainder = e.op === "imod";
        return (f) => {
          const n = a(f);
          const d = b(f);
          if (d === 0) throw new HostError(`${n} ${remainder ? "%" : "//"} 0`);
          const q = Math.floor(n / d);
          return remainder ? n - d * q : q;
        };
      }
      case "pow":
        return (f) => a(f) ** b(f);
      case "eq":
        return (f) => same(x(f), y(f));
      case "ne":
        return (f) => !same(x(f), y(f));
      case "lt":
        return (f) => a(f) < b(f);
      case "le":
        return (f) => a(f) <= b(f);
      case "gt":
        return (f) => a(f) > b(f);
      case "ge":
        return (f) => a(f) >= b(f);
      case "and":
        return (f) => (x(f) as boolean) && (y(f) as boolean);
      case "or":
        return (f) => (x(f) as boolean) || (y(f) as boolean);
      case "concat":
        return (f) => [...(x(f) as readonly HostValue[]), ...(y(f) as readonly HostValue[])];
      default:
        return e.op satisfies never;
    }
  }

  private comprehension(e: Extract<HostExpr, { k: "for" }>, scope: ReadonlyMap<string, number>, next: number): Code {
    let inner: ReadonlyMap<string, number> = scope;
    let slot = next;
    const clauses: ({ from: Code; write: (f: Frame, v: HostValue) => void } | { cond: Code })[] = [];
    for (const c of e.clauses) {
      if (c.k === "if") clauses.push({ cond: this.compile(c.cond, inner, slot) });
      else {
        const from = this.compile(c.from, inner, slot);
        const bound = this.bind(c.pattern, inner, slot);
        inner = bound.scope;
        slot = bound.next;
        clauses.push({ from, write: bound.write });
      }
    }
    const body = this.compile(e.body, inner, slot);
    return (f) => {
      const out: HostValue[] = [];
      const run = (depth: number): void => {
        const c = clauses[depth];
        if (c === undefined) {
          if (out.length >= maximumList) throw new HostError(`a list of more than ${maximumList} elements`);
          out.push(body(f));
        } else if ("cond" in c) {
          if (c.cond(f) as boolean) run(depth + 1);
        } else {
          for (const value of c.from(f) as readonly HostValue[]) {
            this.step("");
            c.write(f, value);
            run(depth + 1);
          }
        }
      };
      run(0);
      return out;
    };
  }

  private call(e: Extract<HostExpr, { k: "call" }>, scope: ReadonlyMap<string, number>, next: number): Code {
    const args = e.args.map((a) => this.compile(a, scope, next));
    if (this.functions.has(e.fn)) {
      return (f) => {
        this.step(e.loc);
        if (++this.budget.calls > maximumCalls) throw at(e.loc, `${e.fn} calls itself more than ${maximumCalls} deep`);
        const value = this.function(e.fn, e.loc).code(args.map((a) => a(f)));
        this.budget.calls--;
        return value;
      };
    }
    const builtin = Object.hasOwn(hostBuiltins, e.fn) ? hostBuiltins[e.fn] : undefined;
    if (builtin === undefined) throw at(e.loc, `shape code has no function ${e.fn}`);
    const run = builtin.run;
    return (f) => {
      try {
        return run(...args.map((a) => a(f)));
      } catch (cause) {
        if (cause instanceof RangeError || cause instanceof HostError)
          throw new HostError(`${e.loc}: ${e.fn}: ${cause.message}`, { cause });
        throw cause;
      }
    };
  }

  function(name: string, loc: string): { code: Code; slots: number } {
    const seen = this.compiled.get(name);
    if (seen !== undefined) return seen;
    const f = this.functions.get(name);
    if (f === undefined) throw at(loc, `shape code has no function ${name}`);
    let scope: ReadonlyMap<string, number> = new Map();
    // Arguments arrive in slots 0…n-1; tuple patterns are taken apart into the slots behind them.
    let slot = f.params.length;
    const writers: { slot: number; write: (frame: Frame, v: HostValue) => void }[] = [];
    f.params.forEach((p, i) => {
      if (typeof p === "string") scope = new Map([...scope, [p, i]]);
      else {
        const bound = this.bind(p, scope, slot);
        scope = bound.scope;
        slot = bound.next;
        writers.push({ slot: i, write: bound.write });
      }
    });
    const body = this.compile(f.body, scope, slot);
    const code: Code = (frame) => {
      for (const w of writers) w.write(frame, frame[w.slot] as HostValue);
      return body(frame);
    };
    const made = { code, slots: slot };
    this.compiled.set(name, made);
    return made;
  }
}

/** Structural equality of host values. */
function same(a: HostValue, b: HostValue): boolean {
  if (typeof a !== "object" || typeof b !== "object") return a === b;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((x, i) => same(x as HostValue, b[i] as HostValue));
  const left = Object.entries(a);
  return (
    left.length === Object.keys(b).length &&
    left.every(([k, v]) => Object.hasOwn(b, k) && same(v as HostValue, (b as Record<string, HostValue>)[k] as HostValue))
  );
}

/** The value of one expression under named values. Throws HostError. */
export function evalHost(e: HostExpr, env: Readonly<Record<string, HostValue>>, program: HostProgram): HostValue {
  return guarded(() => {
    const names = Object.keys(env);
    const scope = new Map(names.map((n, i) => [n, i]));
    return new Compiler(program).compile(e, scope, names.length)(names.map((n) => env[n] as HostValue));
  });
}

/** Calls a function of the program. Throws HostError. */
export function callHostFunction(program: HostProgram, name: string, args: readonly HostValue[]): HostValue {
  return guarded(() => new Compiler(program).function(name, "").code([...args]));
}

/** A stack overflow of the closures is the program's nesting, not a defect. */
function guarded<R>(run: () => R): R {
  try {
    return run();
  } catch (error) {
    if (error instanceof RangeError)
      throw new HostError(`shape code needs too much memory or nests too deeply (${error.message})`, { cause: error });
    throw error;
  }
}

export interface HostRun {
  /** Every binding's value, by name. */
  readonly values: Readonly<Record<string, HostValue>>;
  /** Every symbol's size. */
  readonly symbols: DimEnv;
  /** Evaluates further expressions (tables) in the same environment. */
  readonly evaluate: (e: HostExpr) => HostValue;
}

/** Evaluates a program's bindings in order, starting from the sizes of inputs. Throws HostError. */
export function runHostProgram(program: HostProgram, sizes: DimEnv, given: Readonly<Record<string, HostValue>> = {}): HostRun {
  return guarded(() => {
    const compiler = new Compiler(program);
    const scope = new Map<string, number>();
    const frame: Frame = [];
    const symbols: Record<string, number> = {};
    const values: Record<string, HostValue> = {};
    const define = (name: string, value: HostValue): void => {
      const slot = scope.get(name) ?? scope.size;
      scope.set(name, slot);
      frame[slot] = value;
    };
    for (const [name, size] of Object.entries(sizes)) {
      define(name, size);
      symbols[name] = size;
    }
    for (const { name } of program.given ?? []) {
      const value = Object.hasOwn(given, name) ? given[name] : undefined;
      if (value === undefined) throw at("", `nothing gives ${name}`);
      define(name, value);
    }
    const slots = program.bindings.length + scope.size;
    for (const b of program.bindings) {
      // Temporaries live behind every binding's slot, whatever their number.
      const value = compiler.compile(b.value, scope, slots)(frame);
      if (b.symbol) {
        if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0)
          throw at(b.loc, `dimension ${b.name} is ${JSON.stringify(value)}; it must be a whole number, 0 or more`);
        symbols[b.name] = value;
      }
      values[b.name] = value;
      define(b.name, value);
    }
    const evaluate = (e: HostExpr): HostValue => guarded(() => compiler.compile(e, scope, slots)(frame));
    return { values, symbols, evaluate };
  });
}

type TableArray = Float32Array | Int32Array | Uint8Array | Int8Array | Uint16Array;

const arrays = { f32: Float32Array, i32: Int32Array, u8: Uint8Array, i8: Int8Array, bool: Uint8Array } as const;

/** A table's elements, row-major. Throws HostError when lists and shape disagree. f16 and bf16 tables do not exist. */
export function tableData(table: HostTable, run: HostRun): TableArray {
  const dtype: DType = table.dtype;
  if (dtype === "f16" || dtype === "bf16") throw new HostError(`table ${table.name}: ${dtype} tables are not supported; use f32`);
  const shape = table.shape.map((d) => dimEval(dimParse(d), run.symbols));
  const count = shape.reduce((a, b) => a * b, 1);
  if (count > maximumList * 4) throw new HostError(`table ${table.name} has ${count} elements`);
  const out = new arrays[dtype](count);
  const value = run.evaluate(table.value);
  let next = 0;
  const fill = (v: HostValue, depth: number): void => {
    if (depth === shape.length) {
      if (typeof v !== "number" && typeof v !== "boolean") throw new HostError(`table ${table.name}: expected numbers, found ${typeof v}`);
      if (dtype !== "f32" && typeof v === "number" && !Number.isInteger(v))
        throw new HostError(`table ${table.name}: ${v} is not a whole number`);
      out[next++] = Number(v);
      return;
    }
    if (!Array.isArray(v) || v.length !== shape[depth]) {
      throw new HostError(
        `table ${table.name}: dimension ${depth} is ${table.shape[depth] ?? ""} = ${shape[depth] ?? ""}, found ${Array.isArray(v) ? `a list of ${v.length}` : JSON.stringify(v)}`,
      );
    }
    for (let i = 0; i < v.length; i++) fill(v[i] as HostValue, depth + 1);
  };
  fill(value, 0);
  return out;
}
