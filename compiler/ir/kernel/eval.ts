// The evaluator: executes a kernel's body as it stands, point by point, compiled to closures. f32 is rounded after
// every operation, narrow elements are converted where they are loaded and stored, and an access out of range is an
// error. The schedule and the pattern are not looked at. What depends only on names that have not moved is not
// computed again: equal expressions are one object with a memory, so the work is linear in what is different.

import { dimEval, dimSymbols, type Dim, type DimEnv } from "../dim.ts";
import type { DType } from "../dtype.ts";
import {
  binaryFunction,
  bitsOfFloat,
  floatOfBits,
  fromBfloat,
  fromHalf,
  saturate,
  toBfloat,
  toHalf,
  unaryFunction,
} from "../imp/scalar.ts";
import { foldIdentity, operandsOf, typeOfExpr } from "./build.ts";
import { Interner, Reads } from "./intern.ts";
import type { Axis, BinaryOp, Expr, Kernel, KernelBuffer, ScalarType, Stage } from "./types.ts";

/**
 * The elements of a buffer. A Float64Array holds values; other arrays hold what a device does: f16 and bf16 are bits
 * in a Uint16Array, bool is a byte.
 */
export type KernelMemory = Float64Array | Float32Array | Int32Array | Uint16Array | Uint8Array | Int8Array;

/** A load or store out of range, or memory that does not fit the kernel. */
export class KernelEvalError extends Error {
  override readonly name = "KernelEvalError";
}

type Value = () => number;
type Action = () => void;

const evaluators = new WeakMap<Kernel, Evaluator>();

/**
 * Executes every stage at every point. `buffers` are by the kernel's names and hold at least as many elements as
 * their shapes say; only those are in range. `dims` has the sizes that the body needs; where a buffer's shape has
 * others, all elements given are in range. Throws KernelEvalError.
 */
export function evalKernel(kernel: Kernel, buffers: Readonly<Record<string, KernelMemory>>, dims: DimEnv): void {
  const evaluator = evaluators.get(kernel) ?? new Evaluator(kernel);
  evaluators.set(kernel, evaluator);
  evaluator.run(buffers, dims);
}

/** What closures work on. Times tell whether a remembered result is still good. */
interface Machine {
  /** By the slot of a name: its value, and when it got it. */
  readonly values: Float64Array;
  readonly moved: Float64Array;
  /** By the slot of an expression: its value, and when it was computed; -1 where it was not in this run. */
  readonly results: Float64Array;
  readonly computed: Float64Array;
  /** By the number of a buffer. */
  readonly memory: KernelMemory[];
  time: number;
}

/** A size, found anew for each run. */
interface Size {
  readonly dim: Dim;
  value: number;
}

class Evaluator {
  private readonly kernel: Kernel;
  private readonly machine: Machine;
  private readonly sizes = new Map<string, Size>();
  private readonly whole: Action;

  constructor(kernel: Kernel) {
    this.kernel = kernel;
    const interner = new Interner();
    const uses = new Map<Expr, number>();
    const count = (e: Expr): void => {
      const before = uses.get(e) ?? 0;
      uses.set(e, before + 1);
      if (before === 0) for (const part of operandsOf(e)) count(part);
    };
    for (const s of kernel.stages) {
      if (s.k === "store") count(interner.intern(s.index));
      count(interner.intern(s.value));
    }
    const names = kernel.axes.length + kernel.stages.reduce((n, s) => n + (s.k === "let" ? 1 : s.axes.length), 0);
    const room = uses.size + names;
    this.machine = {
      values: new Float64Array(room),
      moved: new Float64Array(room),
      results: new Float64Array(room),
      computed: new Float64Array(room),
      memory: [],
      time: 0,
    };
    const compiler = new Compiler(kernel, this.machine, this.sizes, interner, uses);
    const stages = kernel.stages.map((s) => compiler.stage(s));
    this.whole = compiler.over(kernel.axes, () => {
      for (const stage of stages) stage();
    });
  }

  run(buffers: Readonly<Record<string, KernelMemory>>, dims: DimEnv): void {
    const { machine, kernel } = this;
    const isKnown = (d: Dim): boolean => dimSymbols(d).every((name) => Object.hasOwn(dims, name));
    // Without points nothing else is asked for: functions made of such kernels may not take their sizes.
    if (kernel.axes.some((a) => isKnown(a.extent) && dimEval(a.extent, dims) <= 0)) return;
    for (const size of this.sizes.values()) size.value = dimEval(size.dim, dims);
    for (const [i, buffer] of kernel.buffers.entries()) machine.memory[i] = this.bind(buffer, buffers, dims, isKnown);
    machine.computed.fill(-1);
    this.whole();
  }

  /** The buffer's elements and nothing behind them, as far as the sizes given tell where it ends. */
  private bind(
    buffer: KernelBuffer,
    buffers: Readonly<Record<string, KernelMemory>>,
    dims: DimEnv,
    isKnown: (d: Dim) => boolean,
  ): KernelMemory {
    const memory = Object.hasOwn(buffers, buffer.name) ? buffers[buffer.name] : undefined;
    if (memory === undefined) throw new KernelEvalError(`${this.kernel.name}: no memory was given for ${buffer.name}`);
    if (!buffer.shape.every(isKnown)) return memory;
    const elements = buffer.shape.reduce((n, d) => n * dimEval(d, dims), 1);
    if (memory.length < elements)
      throw new KernelEvalError(`${this.kernel.name}: ${buffer.name} has ${memory.length} elements instead of ${elements}`);
    return memory.subarray(0, elements);
  }
}

/** Makes closures of expressions and stages, once for each kernel. */
class Compiler {
  private readonly kernel: Kernel;
  private readonly machine: Machine;
  private readonly sizes: Map<string, Size>;
  private readonly interner: Interner;
  private readonly uses: ReadonlyMap<Expr, number>;
  private readonly reads = new Reads();
  private readonly made = new Map<Expr, Value>();
  private readonly slots = new Map<string, number>();
  private remembered = 0;

  constructor(kernel: Kernel, machine: Machine, sizes: Map<string, Size>, interner: Interner, uses: ReadonlyMap<Expr, number>) {
    this.kernel = kernel;
    this.machine = machine;
    this.sizes = sizes;
    this.interner = interner;
    this.uses = uses;
  }

  stage(stage: Stage): Action {
    const { machine: m } = this;
    switch (stage.k) {
      case "let": {
        const [slot, value] = [this.slot(stage.name), this.value(this.interner.intern(stage.value))];
        return () => {
          m.values[slot] = value();
          m.moved[slot] = ++m.time;
        };
      }
      case "store": {
        const [index, value] = [this.value(this.interner.intern(stage.index)), this.value(this.interner.intern(stage.value))];
        const write = this.writer(stage.buffer);
        return this.over(stage.axes, () => write(index(), value()));
      }
      default:
        return stage satisfies never;
    }
  }

  /** `body` at every point of `axes`, the last of which varies fastest. */
  over(axes: readonly Axis[], body: Action): Action {
    const { machine: m } = this;
    return axes.reduceRight<Action>((inner, axis) => {
      const [slot, extent] = [this.slot(axis.name), this.size(axis.extent)];
      return () => {
        for (let i = 0; i < extent.value; i++) {
          m.values[slot] = i;
          m.moved[slot] = ++m.time;
          inner();
        }
      };
    }, body);
  }

  private size(dim: Dim): Size {
    const size = this.sizes.get(dim.text) ?? { dim, value: 0 };
    this.sizes.set(dim.text, size);
    return size;
  }

  private slot(name: string): number {
    const slot = this.slots.get(name) ?? this.slots.size;
    this.slots.set(name, slot);
    return slot;
  }

  private buffer(name: string): { readonly at: number; readonly dtype: DType } {
    const at = this.kernel.buffers.findIndex((b) => b.name === name);
    const buffer = this.kernel.buffers[at];
    if (buffer === undefined) throw new KernelEvalError(`${this.kernel.name}: there is no buffer ${name}`);
    return { at, dtype: buffer.dtype };
  }

  private writer(name: string): (index: number, value: number) => void {
    const { memory } = this.machine;
    const { at, dtype } = this.buffer(name);
    const convert = stored(dtype);
    const bits = dtype === "f16" ? toHalf : dtype === "bf16" ? toBfloat : undefined;
    return (index, value) => {
      const elements = memory[at];
      if (elements === undefined || !(index >= 0 && index < elements.length))
        throw new KernelEvalError(`${this.kernel.name}: writes element ${index} of ${name}, which has ${elements?.length ?? 0}`);
      elements[index] = bits === undefined || elements instanceof Float64Array ? convert(value) : bits(value);
    };
  }

  private reader(name: string): (index: number) => number {
    const { memory } = this.machine;
    const { at, dtype } = this.buffer(name);
    const value = dtype === "f16" ? fromHalf : dtype === "bf16" ? fromBfloat : dtype === "bool" ? truth : undefined;
    return (index) => {
      const elements = memory[at];
      const raw = elements?.[index];
      if (raw === undefined)
        throw new KernelEvalError(`${this.kernel.name}: reads element ${index} of ${name}, which has ${elements?.length ?? 0}`);
      return value === undefined || (elements instanceof Float64Array && value !== truth) ? raw : value(raw);
    };
  }

  /** One closure for each interned expression. */
  private value(e: Expr): Value {
    const before = this.made.get(e);
    if (before !== undefined) return before;
    const plain = this.plain(e);
    const worth =
      e.k === "fold" || e.k === "iterate" || ((this.uses.get(e) ?? 0) > 1 && operandsOf(e).some((part) => operandsOf(part).length > 0));
    const made = worth ? this.remember(e, plain) : plain;
    this.made.set(e, made);
    return made;
  }

  /** Computes again only when a name that `e` reads has moved. */
  private remember(e: Expr, compute: Value): Value {
    const { machine: m } = this;
    const at = this.remembered++;
    const names = [...this.reads.of(e)].map((name) => this.slot(name));
    return () => {
      const when = m.computed[at] ?? -1;
      let good = when >= 0;
      for (let i = 0; good && i < names.length; i++) good = (m.moved[names[i] ?? 0] ?? 0) <= when;
      if (good) return m.results[at] ?? NaN;
      const result = compute();
      m.results[at] = result;
      m.computed[at] = m.time;
      return result;
    };
  }

  private plain(e: Expr): Value {
    switch (e.k) {
      case "const": {
        const { value } = e;
        return () => value;
      }
      case "var": {
        const [slot, { values }] = [this.slot(e.name), this.machine];
        return () => values[slot] ?? NaN;
      }
      case "dim": {
        const size = this.size(e.dim);
        return () => size.value;
      }
      case "load": {
        const [index, read] = [this.value(e.index), this.reader(e.buffer)];
        return () => read(index());
      }
      case "unary": {
        const [a, op] = [this.value(e.a), unaryFunction(e.op, laneOf(e.type))];
        return () => op(a());
      }
      case "binary":
        return binaryValue(e.op, laneOf(typeOfExpr(e.a)), this.value(e.a), this.value(e.b));
      case "select": {
        const [cond, a, b] = [this.value(e.cond), this.value(e.a), this.value(e.b)];
        return () => (cond() === 0 ? b() : a());
      }
      case "cast":
        return castValue(typeOfExpr(e.a), e.type, this.value(e.a));
      case "bitcast": {
        const [a, bits] = [this.value(e.a), e.type === "i32" ? bitsOfFloat : floatOfBits];
        return () => bits(a());
      }
      case "fold":
        return this.fold(e);
      case "iterate":
        return this.iterate(e);
      default:
        return e satisfies never;
    }
  }

  private iterate(e: Extract<Expr, { k: "iterate" }>): Value {
    const { machine: m } = this;
    const slots = [this.slot(e.axis), this.slot(e.name)] as const;
    const [init, body] = [this.value(e.init), this.value(e.body)];
    const set = (slot: number, value: number): void => {
      m.values[slot] = value;
      m.moved[slot] = ++m.time;
    };
    return () => {
      let value = init();
      const hidden = slots.map((slot) => m.values[slot] ?? NaN);
      for (let i = 0; i < e.steps; i++) {
        set(slots[0], i);
        set(slots[1], value);
        value = body();
      }
      slots.forEach((slot, i) => set(slot, hidden[i] ?? NaN));
      return value;
    };
  }

  private fold(e: Extract<Expr, { k: "fold" }>): Value {
    const { machine: m } = this;
    const [slot, from, to, body] = [this.slot(e.axis), this.value(e.from), this.value(e.to), this.value(e.body)];
    const op = binaryFunction(e.op === "sum" ? "add" : e.op === "product" ? "mul" : e.op, laneOf(e.type));
    const identity = foldIdentity(e.op, e.type);
    return () => {
      // A name that this axis hides has its value again afterwards.
      const hidden = m.values[slot] ?? NaN;
      const [first, end] = [from(), to()];
      let result = identity;
      for (let i = first; i < end; i++) {
        m.values[slot] = i;
        m.moved[slot] = ++m.time;
        result = op(result, body());
      }
      m.values[slot] = hidden;
      m.moved[slot] = ++m.time;
      return result;
    };
  }
}

const truth = (x: number): number => (x === 0 ? 0 : 1);

function laneOf(type: ScalarType): "f32" | "i32" {
  return type === "f32" ? "f32" : "i32";
}

/** The operations that indices and sums are made of are written out: they are most of the work. */
function binaryValue(op: BinaryOp, lane: "f32" | "i32", a: Value, b: Value): Value {
  const float = lane === "f32";
  if (op === "add") return float ? () => Math.fround(a() + b()) : () => (a() + b()) | 0;
  if (op === "sub") return float ? () => Math.fround(a() - b()) : () => (a() - b()) | 0;
  if (op === "mul") return float ? () => Math.fround(a() * b()) : () => Math.imul(a(), b());
  const f = binaryFunction(op, lane);
  return () => f(a(), b());
}

function castValue(from: ScalarType, to: ScalarType, a: Value): Value {
  if (to === "bool") return () => truth(a());
  if (to === "i32") return from === "f32" ? () => saturate(a()) : a;
  return () => Math.fround(a());
}

/** A scalar as an element of the dtype. */
function stored(dtype: DType): (x: number) => number {
  switch (dtype) {
    case "f32":
      return Math.fround;
    case "f16":
      return (x) => fromHalf(toHalf(x));
    case "bf16":
      return (x) => fromBfloat(toBfloat(x));
    case "i32":
      return (x) => x | 0;
    case "u8":
      return (x) => x & 255;
    case "i8":
      return (x) => (x << 24) >> 24;
    case "bool":
      return truth;
    default:
      return dtype satisfies never;
  }
}
