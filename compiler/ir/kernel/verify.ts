// What must hold of a kernel. Collects every violation as a sentence; an empty list means the kernel is sound.
// Does not check that indices are in range (eval.ts does, for the points it evaluates).

import { dimConstant } from "../dim.ts";
import { locText } from "../loc.ts";
import { binaryGives, binaryTakes, bitcastGives, operandsOf, typeOfExpr, unaryTakes } from "./build.ts";
import { exprText } from "./expr-text.ts";
import { updateFault } from "./in-place.ts";
import { Interner } from "./intern.ts";
import { checkPattern } from "./verify-pattern.ts";
import { scalarTypeOf, type Axis, type Expr, type Kernel, type KernelBuffer, type ScalarType } from "./types.ts";

/** Names that mean something at one place, with their types. */
type Scope = ReadonlyMap<string, ScalarType>;

/**
 * Every violation in `kernel`: names of axes, buffers or `let`s repeat or hide each other; an expression's type is not
 * what its operands give, or they do not fit; a name is not in scope; a load or store does not fit its buffer; a
 * written buffer has no store; the schedule or the pattern names what the stages do not have.
 */
export function verifyKernel(kernel: Kernel): readonly string[] {
  const wrong: string[] = [];
  const where = kernel.sources[0] === undefined ? "" : ` (${locText(kernel.sources[0])})`;
  const at = (message: string): void => void wrong.push(`kernel ${kernel.name}${where}: ${message}`);
  const buffers = new Map<string, KernelBuffer>();
  for (const b of kernel.buffers) {
    if (buffers.has(b.name)) at(`there are two buffers ${b.name}`);
    buffers.set(b.name, b);
    for (const d of b.shape) if ((dimConstant(d) ?? 0) < 0) at(`buffer ${b.name} has the negative size ${d.text}`);
  }
  const scope = new Map<string, ScalarType>();
  const declare = (into: Map<string, ScalarType>, name: string, type: ScalarType): void => {
    if (into.has(name)) at(`the name ${name} is used twice`);
    into.set(name, type);
  };
  const axes = (into: Map<string, ScalarType>, list: readonly Axis[]): void => {
    for (const a of list) {
      declare(into, a.name, "i32");
      if ((dimConstant(a.extent) ?? 0) < 0) at(`axis ${a.name} has the negative extent ${a.extent.text}`);
    }
  };
  axes(scope, kernel.axes);
  const checker = new ExprChecker(buffers);
  const check = (e: Expr, inScope: Scope, user: string): void => {
    for (const message of checker.check(e, inScope)) at(`${user}: ${message}`);
  };
  const stored = new Set<string>();
  for (const [i, stage] of kernel.stages.entries()) {
    switch (stage.k) {
      case "let": {
        const user = `stage ${i} (let ${stage.name})`;
        check(stage.value, scope, user);
        const type = typeOfExpr(stage.value);
        if (type !== stage.type) at(`${user}: its value is ${type}, not ${stage.type}`);
        declare(scope, stage.name, stage.type);
        break;
      }
      case "store": {
        const user = `stage ${i} (store ${stage.buffer})`;
        const inner = new Map(scope);
        axes(inner, stage.axes);
        check(stage.index, inner, `${user}, index`);
        check(stage.value, inner, user);
        stored.add(stage.buffer);
        for (const message of storeFaults(buffers.get(stage.buffer), stage.index, stage.value)) at(`${user}: ${message}`);
        break;
      }
      default:
        stage satisfies never;
    }
  }
  for (const b of kernel.buffers) {
    if (b.access !== "read" && !stored.has(b.name)) at(`nothing is stored in buffer ${b.name}`);
    const fault = b.access === "update" ? updateFault(kernel, b.name) : undefined;
    if (fault !== undefined) at(`buffer ${b.name} is updated in place: ${fault}`);
  }
  checkSchedule(kernel, buffers, checker.axes, at);
  if (kernel.pattern !== undefined) checkPattern(kernel, kernel.pattern, (message) => at(`pattern ${kernel.pattern?.k ?? ""}: ${message}`));
  return wrong;
}

function storeFaults(buffer: KernelBuffer | undefined, index: Expr, value: Expr): readonly string[] {
  if (buffer === undefined) return ["there is no such buffer"];
  const [wanted, found] = [scalarTypeOf(buffer.dtype), typeOfExpr(value)];
  return [
    ...(buffer.access !== "read" ? [] : ["the buffer is for reading"]),
    ...(typeOfExpr(index) === "i32" ? [] : [`the index is ${typeOfExpr(index)}, not i32`]),
    ...(wanted === found ? [] : [`a value of ${found} does not fit ${buffer.dtype}`]),
  ];
}

function checkSchedule(
  kernel: Kernel,
  buffers: ReadonlyMap<string, KernelBuffer>,
  folded: ReadonlySet<string>,
  at: (message: string) => void,
): void {
  const parallel = new Set(kernel.axes.map((a) => a.name));
  const known = new Set([...parallel, ...folded, ...kernel.stages.flatMap((s) => (s.k === "store" ? s.axes.map((a) => a.name) : []))]);
  const positive = (item: string, n: number): void => {
    if (!Number.isSafeInteger(n) || n < 1) at(`${item}: ${n} is not a positive integer`);
  };
  const axis = (item: string, name: string): void => {
    if (!known.has(name)) at(`${item}: there is no axis ${name}`);
  };
  for (const item of kernel.schedule) {
    switch (item.k) {
      case "vectorise":
        axis("vectorise", item.axis);
        positive("vectorise", item.width);
        break;
      case "tile":
        axis("tile", item.axis);
        positive("tile", item.size);
        break;
      case "unroll":
        axis("unroll", item.axis);
        positive("unroll", item.by);
        break;
      case "packed":
        if (buffers.get(item.buffer)?.access !== "read") at(`packed: there is no buffer ${item.buffer} for reading`);
        positive("packed", item.panel);
        break;
      case "rounded":
        if (buffers.get(item.buffer)?.access !== "read") at(`rounded: there is no buffer ${item.buffer} for reading`);
        break;
      case "parallel":
        for (const name of item.axes) if (!parallel.has(name)) at(`parallel: there is no parallel axis ${name}`);
        if (new Set(item.axes).size !== item.axes.length) at("parallel: an axis is named twice");
        break;
      default:
        item satisfies never;
    }
  }
}

/** Looks at every different expression once, whatever the number of its uses. */
class ExprChecker {
  /** Axes of all folds seen. */
  readonly axes = new Set<string>();
  readonly #buffers: ReadonlyMap<string, KernelBuffer>;
  readonly #interner = new Interner();
  readonly #seen = new Set<Expr>();
  /** Names that an expression reads, with the types it takes them for. */
  readonly #free = new Map<Expr, ReadonlyMap<string, ScalarType>>();
  /** Axes of the folds in an expression. */
  readonly #bound = new Map<Expr, ReadonlySet<string>>();

  constructor(buffers: ReadonlyMap<string, KernelBuffer>) {
    this.#buffers = buffers;
  }

  check(e: Expr, scope: Scope): readonly string[] {
    const faults: string[] = [];
    this.#local(e, faults);
    const whole = this.#interner.intern(e);
    for (const [name, type] of this.#freeOf(whole, faults)) {
      const known = scope.get(name);
      if (known === undefined) faults.push(`${name} is not in scope`);
      else if (known !== type) faults.push(`${name} is ${known}, not ${type}`);
    }
    for (const name of this.#boundOf(whole, faults)) if (scope.has(name)) faults.push(`the fold over ${name} hides a name`);
    return faults;
  }

  /** Whether each operation fits its operands. Objects, not interned expressions: those agree in what types are derived from. */
  #local(e: Expr, faults: string[]): void {
    if (this.#seen.has(e)) return;
    this.#seen.add(e);
    for (const part of operandsOf(e)) this.#local(part, faults);
    const fault = localFault(e, this.#buffers);
    if (fault !== undefined) faults.push(`${fault} in ${exprText(e, [...this.#buffers.values()])}`);
  }

  #freeOf(e: Expr, faults: string[]): ReadonlyMap<string, ScalarType> {
    const before = this.#free.get(e);
    if (before !== undefined) return before;
    const free = new Map<string, ScalarType>();
    const add = (from: ReadonlyMap<string, ScalarType>): void => {
      for (const [name, type] of from) {
        const other = free.get(name);
        if (other !== undefined && other !== type) faults.push(`${name} is taken for ${other} and for ${type}`);
        free.set(name, type);
      }
    };
    if (e.k === "var") free.set(e.name, e.type);
    else if (e.k === "fold") {
      this.axes.add(e.axis);
      const body = new Map(this.#freeOf(e.body, faults));
      if ((body.get(e.axis) ?? "i32") !== "i32") faults.push(`the axis ${e.axis} of a fold is taken for ${body.get(e.axis) ?? ""}`);
      body.delete(e.axis);
      for (const part of [this.#freeOf(e.from, faults), this.#freeOf(e.to, faults), body]) add(part);
    } else if (e.k === "iterate") {
      const body = new Map(this.#freeOf(e.body, faults));
      for (const [name, type] of [
        [e.axis, "i32"],
        [e.name, e.type],
      ] as const) {
        if ((body.get(name) ?? type) !== type) faults.push(`${name} of an iteration is taken for ${body.get(name) ?? ""}`);
        body.delete(name);
      }
      for (const part of [this.#freeOf(e.init, faults), body]) add(part);
    } else for (const part of operandsOf(e)) add(this.#freeOf(part, faults));
    this.#free.set(e, free);
    return free;
  }

  #boundOf(e: Expr, faults: string[]): ReadonlySet<string> {
    const before = this.#bound.get(e);
    if (before !== undefined) return before;
    const bound = new Set<string>();
    for (const part of operandsOf(e)) for (const name of this.#boundOf(part, faults)) bound.add(name);
    if (e.k === "fold") {
      if (this.#boundOf(e.body, faults).has(e.axis)) faults.push(`a fold over ${e.axis} stands in another one`);
      bound.add(e.axis);
    }
    if (e.k === "iterate") {
      const inside = this.#boundOf(e.body, faults);
      if (inside.has(e.axis) || inside.has(e.name) || e.axis === e.name) faults.push(`the iteration of ${e.name} stands in another one`);
      bound.add(e.axis).add(e.name);
    }
    this.#bound.set(e, bound);
    return bound;
  }
}

/** What is wrong with the operation at the root of `e`. */
function localFault(e: Expr, buffers: ReadonlyMap<string, KernelBuffer>): string | undefined {
  const type = typeOfExpr(e);
  const is = (wanted: ScalarType): string | undefined => (wanted === type ? undefined : `the type is ${type} instead of ${wanted}`);
  switch (e.k) {
    case "const":
      return constantFits(e.type, e.value) ? undefined : `${e.value} is no ${e.type}`;
    case "var":
    case "dim":
      return undefined;
    case "load": {
      const buffer = buffers.get(e.buffer);
      if (buffer === undefined) return `there is no buffer ${e.buffer}`;
      if (buffer.access === "write") return `buffer ${e.buffer} is for writing`;
      return typeOfExpr(e.index) === "i32" ? is(scalarTypeOf(buffer.dtype)) : `the index is ${typeOfExpr(e.index)}, not i32`;
    }
    case "unary": {
      const a = typeOfExpr(e.a);
      return unaryTakes(e.op, a) ? is(a) : `${e.op} does not take ${a}`;
    }
    case "binary": {
      const [a, b] = [typeOfExpr(e.a), typeOfExpr(e.b)];
      if (a !== b) return `${e.op} takes two operands of one type, not ${a} and ${b}`;
      return binaryTakes(e.op, a) ? is(binaryGives(e.op, a)) : `${e.op} does not take ${a}`;
    }
    case "select": {
      const [cond, a, b] = [typeOfExpr(e.cond), typeOfExpr(e.a), typeOfExpr(e.b)];
      if (cond !== "bool") return `the condition is ${cond}, not bool`;
      return a === b ? is(a) : `the sides are ${a} and ${b}`;
    }
    case "cast":
      return undefined;
    case "bitcast": {
      const a = typeOfExpr(e.a);
      return a === "bool" ? "bitcast does not take bool" : is(bitcastGives(a));
    }
    case "fold": {
      const [from, to, body] = [typeOfExpr(e.from), typeOfExpr(e.to), typeOfExpr(e.body)];
      if (from !== "i32" || to !== "i32") return `the bounds are ${from} and ${to}, not i32`;
      return body === "bool" ? `${e.op} is over bool` : is(body);
    }
    case "iterate": {
      if (!Number.isSafeInteger(e.steps) || e.steps < 0) return `${e.steps} is no number of steps`;
      const [init, body] = [typeOfExpr(e.init), typeOfExpr(e.body)];
      return init === body ? is(init) : `the steps of ${e.name} are ${body}, and it begins as ${init}`;
    }
    default:
      return e satisfies never;
  }
}

function constantFits(type: ScalarType, value: number): boolean {
  if (type === "f32") return Object.is(Math.fround(value), value);
  if (type === "i32") return value === (value | 0) && !Object.is(value, -0);
  return value === 0 || value === 1;
}
