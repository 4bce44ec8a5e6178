// The emulator: runs an ImpFunction on typed arrays, compiled to closures. Lanes and barriers are
// executed, f32 is rounded after every operation, and an access out of range is an error. Reads may go up to
// 64 bytes past a buffer's end, as every device allows; what they find there is NaN or nonsense on purpose.

import { dimEval, type DimEnv } from "../dim.ts";
import { bytesOf, type DType } from "../dtype.ts";
import { isVector, laneOf, targetOf, typeOfImp } from "./build.ts";
import {
  binaryFunction,
  bitsOfFloat,
  floatOfBits,
  fromBfloat,
  fromHalf,
  halvesFunction,
  saturate,
  toBfloat,
  toHalf,
  unaryFunction,
} from "./scalar.ts";
import type { ImpExpr, ImpFunction, ImpStmt, ImpType } from "./types.ts";

export type ImpMemory = Float32Array | Int32Array | Uint16Array | Uint8Array | Int8Array;

/** A read or write outside a buffer, or a function that does not fit what it is run on. */
export class ImpError extends Error {
  override readonly name = "ImpError";
}

const slackBytes = 64;

/** f16 and bf16 are their bits (Uint16Array); bool is one byte. */
function impMemory(dtype: DType, elements: number): ImpMemory {
  switch (dtype) {
    case "f32":
      return new Float32Array(elements);
    case "i32":
      return new Int32Array(elements);
    case "f16":
    case "bf16":
      return new Uint16Array(elements);
    case "i8":
      return new Int8Array(elements);
    case "u8":
    case "bool":
      return new Uint8Array(elements);
    default:
      return dtype satisfies never;
  }
}

type Vec = readonly [number, number, number, number];
interface Frame {
  readonly n: number[];
  readonly v: Vec[];
  readonly memory: ImpMemory[];
}
type Scalar = (f: Frame) => number;
type Vector = (f: Frame) => Vec;
/** Yields at barriers. */
type Step = (f: Frame) => void;
type Cooperative = (f: Frame) => Generator<undefined, void>;

interface Place {
  readonly name: string;
  readonly slot: number;
  readonly dtype: DType;
  readonly slack: number;
}

const zero: Vec = [0, 0, 0, 0];
const four = (f: (i: number) => number): Vec => [f(0), f(1), f(2), f(3)];
const laneAt = (v: Vec, i: number): number => v[i as 0 | 1 | 2 | 3];

class Compiler {
  private readonly slots = new Map<string, number>();
  private readonly places: ReadonlyMap<string, Place>;
  private readonly fn: ImpFunction;
  count = 0;

  constructor(fn: ImpFunction) {
    this.fn = fn;
    const all = [
      ...fn.buffers.map((b) => ({ name: b.name, dtype: b.dtype, slack: slackBytes / bytesOf(b.dtype) })),
      ...fn.scratch.map((s) => ({ name: s.name, dtype: s.dtype, slack: 0 })),
    ];
    this.places = new Map(all.map((p, slot) => [p.name, { ...p, slot }]));
  }

  slot(name: string): number {
    const known = this.slots.get(name);
    if (known !== undefined) return known;
    this.slots.set(name, this.count);
    return this.count++;
  }

  private place(type: ImpType): Place {
    const name = targetOf(type);
    const place = this.places.get(name);
    if (place === undefined) throw new ImpError(`${this.fn.name}: there is no buffer or scratch ${name}`);
    return place;
  }

  /** Reads element `at` of a place, widened. */
  private reader(place: Place): (f: Frame, at: number) => number {
    const { slot, dtype, slack, name } = place;
    const junk = dtype === "f32" || dtype === "f16" || dtype === "bf16" ? NaN : 0x55;
    const decode = dtype === "f16" ? fromHalf : dtype === "bf16" ? fromBfloat : undefined;
    const { name: fn } = this.fn;
    return (f, at) => {
      const memory = f.memory[slot];
      const raw = memory?.[at];
      if (raw !== undefined) return decode === undefined ? raw : decode(raw);
      const length = memory?.length ?? 0;
      if (at >= length && at < length + slack) return junk;
      throw new ImpError(`${fn}: reads element ${at} of ${name}, which has ${length}`);
    };
  }

  private writer(place: Place): (f: Frame, at: number, value: number) => void {
    const { slot, dtype, name } = place;
    const plain = dtype === "bool" ? (x: number): number => x & 1 : (x: number): number => x;
    const encode = dtype === "f16" ? toHalf : dtype === "bf16" ? toBfloat : plain;
    const { name: fn } = this.fn;
    return (f, at, value) => {
      const memory = f.memory[slot];
      if (memory === undefined || !(at >= 0 && at < memory.length))
        throw new ImpError(`${fn}: writes element ${at} of ${name}, which has ${memory?.length ?? 0}`);
      memory[at] = encode(value);
    };
  }

  scalar(e: ImpExpr): Scalar {
    switch (e.k) {
      case "const": {
        const value = typeof e.value === "number" ? e.value : NaN;
        return () => value;
      }
      case "var": {
        const slot = this.slot(e.name);
        return (f) => f.n[slot] ?? NaN;
      }
      case "dim": {
        const slot = this.slot(e.name);
        return (f) => f.n[slot] ?? NaN;
      }
      case "at":
        return this.scalar(e.index);
      case "advance": {
        const [ptr, by] = [this.scalar(e.ptr), this.scalar(e.elements)];
        return (f) => ptr(f) + by(f);
      }
      case "load": {
        const [ptr, read, offset] = [this.scalar(e.ptr), this.reader(this.place(typeOfImp(e.ptr))), e.offset];
        return e.type === "bool" ? (f) => (read(f, ptr(f) + offset) === 0 ? 0 : 1) : (f) => read(f, ptr(f) + offset);
      }
      case "unary": {
        const [a, op] = [this.scalar(e.a), unaryFunction(e.op, e.type === "bool" ? "i32" : laneOf(e.type))];
        return (f) => op(a(f));
      }
      case "binary":
      case "fastMinMax": {
        const [a, b] = [this.scalar(e.a), this.scalar(e.b)];
        if (e.k === "fastMinMax") return fast(e.op, a, b);
        const op = binaryFunction(e.op, laneOf(typeOfImp(e.a)));
        return (f) => op(a(f), b(f));
      }
      case "fma": {
        const [a, b, c] = [this.scalar(e.a), this.scalar(e.b), this.scalar(e.c)];
        return (f) => Math.fround(Math.fround(a(f) * b(f)) + c(f));
      }
      case "select": {
        const [cond, a, b] = [this.scalar(e.cond), this.scalar(e.a), this.scalar(e.b)];
        return (f) => (cond(f) === 0 ? b(f) : a(f));
      }
      case "convert": {
        const a = this.scalar(e.a);
        const from = typeOfImp(e.a);
        if (e.type === "bool") return (f) => (a(f) === 0 ? 0 : 1);
        if (e.type === "i32") return from === "f32" ? (f) => saturate(a(f)) : a;
        return (f) => Math.fround(a(f));
      }
      case "bitcast": {
        const a = this.scalar(e.a);
        return e.type === "f32" ? (f) => floatOfBits(a(f)) : (f) => bitsOfFloat(a(f));
      }
      case "lane": {
        const [a, i] = [this.vec(e.a), e.lane];
        return (f) => laneAt(a(f), i);
      }
      case "across": {
        const [a, op] = [this.vec(e.a), binaryFunction(e.op, e.type)];
        return (f) => {
          const [w, x, y, z] = a(f);
          return op(op(w, y), op(x, z));
        };
      }
      case "loadSplat":
      case "splat":
      case "shuffle":
      case "halves":
        throw new ImpError(`${this.fn.name}: ${e.k} gives a vector where a scalar is needed`);
      default:
        return e satisfies never;
    }
  }

  vec(e: ImpExpr): Vector {
    switch (e.k) {
      case "const": {
        const { value } = e;
        const v = four((i) => (typeof value === "number" ? value : (value[i] ?? NaN)));
        return () => v;
      }
      case "var": {
        const slot = this.slot(e.name);
        return (f) => f.v[slot] ?? zero;
      }
      case "load": {
        const [ptr, read, offset] = [this.scalar(e.ptr), this.reader(this.place(typeOfImp(e.ptr))), e.offset];
        return (f) => {
          const from = ptr(f) + offset;
          return four((i) => read(f, from + i));
        };
      }
      case "loadSplat": {
        const [ptr, read, offset] = [this.scalar(e.ptr), this.reader(this.place(typeOfImp(e.ptr))), e.offset];
        return (f) => {
          const x = read(f, ptr(f) + offset);
          return [x, x, x, x];
        };
      }
      case "splat": {
        const a = this.scalar(e.a);
        return (f) => {
          const x = a(f);
          return [x, x, x, x];
        };
      }
      case "unary": {
        const a = this.vec(e.a);
        const op = e.op === "not" ? (x: number): number => ~x : unaryFunction(e.op, laneOf(e.type));
        return (f) => a(f).map(op) as unknown as Vec;
      }
      case "binary": {
        const [a, b] = [this.vec(e.a), this.vec(e.b)];
        const op = binaryFunction(e.op, laneOf(typeOfImp(e.a)));
        const mask = ["eq", "ne", "lt", "le", "gt", "ge"].includes(e.op);
        return (f) => {
          const [x, y] = [a(f), b(f)];
          return four(mask ? (i) => -op(laneAt(x, i), laneAt(y, i)) | 0 : (i) => op(laneAt(x, i), laneAt(y, i)));
        };
      }
      case "fastMinMax": {
        const [a, b, min] = [this.vec(e.a), this.vec(e.b), e.op === "min"];
        return (f) => {
          const [x, y] = [a(f), b(f)];
          return four((i) => fastOne(min, laneAt(x, i), laneAt(y, i)));
        };
      }
      case "fma": {
        const [a, b, c] = [this.vec(e.a), this.vec(e.b), this.vec(e.c)];
        return (f) => {
          const [x, y, z] = [a(f), b(f), c(f)];
          return four((i) => Math.fround(Math.fround(laneAt(x, i) * laneAt(y, i)) + laneAt(z, i)));
        };
      }
      case "select": {
        const [a, b] = [this.vec(e.a), this.vec(e.b)];
        if (!isVector(typeOfImp(e.cond))) {
          const cond = this.scalar(e.cond);
          return (f) => (cond(f) === 0 ? b(f) : a(f));
        }
        const cond = this.vec(e.cond);
        return (f) => {
          const [m, x, y] = [cond(f), a(f), b(f)];
          return four((i) => (laneAt(m, i) === 0 ? laneAt(y, i) : laneAt(x, i)));
        };
      }
      case "convert": {
        const a = this.vec(e.a);
        const to = e.type === "i32x4" ? saturate : Math.fround;
        return (f) => a(f).map(to) as unknown as Vec;
      }
      case "bitcast": {
        const a = this.vec(e.a);
        const to = e.type === "i32x4" ? bitsOfFloat : floatOfBits;
        return (f) => a(f).map(to) as unknown as Vec;
      }
      case "shuffle": {
        const [a, b, lanes] = [this.vec(e.a), this.vec(e.b), e.lanes];
        return (f) => {
          const [x, y] = [a(f), b(f)];
          return four((i) => ((j) => (j < 4 ? laneAt(x, j) : laneAt(y, j - 4)))(lanes[i as 0 | 1 | 2 | 3]));
        };
      }
      case "halves": {
        const [first, second] = e.args.map((a) => this.vec(a));
        const op = halvesFunction(e.op);
        return (f) => op(first?.(f) ?? zero, second?.(f) ?? zero);
      }
      case "dim":
      case "at":
      case "advance":
      case "lane":
      case "across":
        throw new ImpError(`${this.fn.name}: ${e.k} gives a scalar where a vector is needed`);
      default:
        return e satisfies never;
    }
  }

  private set(name: string, value: ImpExpr): Step {
    const slot = this.slot(name);
    if (isVector(typeOfImp(value))) {
      const v = this.vec(value);
      return (f) => void (f.v[slot] = v(f));
    }
    const n = this.scalar(value);
    return (f) => void (f.n[slot] = n(f));
  }

  /** A statement without barriers. */
  step(s: ImpStmt): Step {
    switch (s.k) {
      case "let":
      case "assign":
        return this.set(s.name, s.value);
      case "store":
      case "storeLanes": {
        const [ptr, write, offset] = [this.scalar(s.ptr), this.writer(this.place(typeOfImp(s.ptr))), s.offset];
        if (!isVector(typeOfImp(s.value))) {
          const value = this.scalar(s.value);
          return (f) => write(f, ptr(f) + offset, value(f));
        }
        const value = this.vec(s.value);
        const lanes = s.k === "store" ? 4 : s.count;
        return (f) => {
          const [at, v] = [ptr(f) + offset, value(f)];
          for (let i = 0; i < lanes; i++) write(f, at + i, laneAt(v, i));
        };
      }
      case "for": {
        const [slot, from, to, by] = [this.slot(s.name), this.scalar(s.from), this.scalar(s.to), s.step];
        const body = this.block(s.body);
        return (f) => {
          const end = to(f);
          for (let i = from(f); i < end; i += by) {
            f.n[slot] = i;
            body(f);
          }
        };
      }
      case "while": {
        const [cond, body] = [this.scalar(s.cond), this.block(s.body)];
        return (f) => {
          while (cond(f) !== 0) body(f);
        };
      }
      case "if": {
        const [cond, then, otherwise] = [this.scalar(s.cond), this.block(s.then), this.block(s.else)];
        return (f) => (cond(f) === 0 ? otherwise(f) : then(f));
      }
      case "barrier":
      case "fence":
        return () => undefined;
      default:
        return s satisfies never;
    }
  }

  block(stmts: readonly ImpStmt[]): Step {
    const steps = stmts.map((s) => this.step(s));
    return (f) => {
      for (const step of steps) step(f);
    };
  }

  /** A block that may contain barriers: it stops at each. */
  cooperative(stmts: readonly ImpStmt[]): Cooperative {
    const parts = stmts.map((s): Cooperative => {
      if (!hasBarrier(s)) {
        const step = this.step(s);
        return function* (f) {
          step(f);
        };
      }
      switch (s.k) {
        case "barrier":
          return function* () {
            yield undefined;
          };
        case "for": {
          const [slot, from, to, by] = [this.slot(s.name), this.scalar(s.from), this.scalar(s.to), s.step];
          const body = this.cooperative(s.body);
          return function* (f) {
            const end = to(f);
            for (let i = from(f); i < end; i += by) {
              f.n[slot] = i;
              yield* body(f);
            }
          };
        }
        case "while": {
          const [cond, body] = [this.scalar(s.cond), this.cooperative(s.body)];
          return function* (f) {
            while (cond(f) !== 0) yield* body(f);
          };
        }
        case "if": {
          const [cond, then, otherwise] = [this.scalar(s.cond), this.cooperative(s.then), this.cooperative(s.else)];
          return function* (f) {
            yield* cond(f) === 0 ? otherwise(f) : then(f);
          };
        }
        case "let":
        case "assign":
        case "store":
        case "storeLanes":
        case "fence":
          throw new ImpError(`${s.k} holds no barrier`);
        default:
          return s satisfies never;
      }
    });
    return function* (f) {
      for (const part of parts) yield* part(f);
    };
  }
}

function fastOne(min: boolean, a: number, b: number): number {
  return min ? (b < a ? b : a) : a < b ? b : a;
}

function fast(op: "min" | "max", a: Scalar, b: Scalar): Scalar {
  return (f) => fastOne(op === "min", a(f), b(f));
}

function hasBarrier(s: ImpStmt): boolean {
  if (s.k === "barrier") return true;
  if (s.k === "for" || s.k === "while") return s.body.some(hasBarrier);
  return s.k === "if" && (s.then.some(hasBarrier) || s.else.some(hasBarrier));
}

interface ImpRun {
  /** Units begin … end-1; all of them when left out. */
  readonly begin?: number;
  readonly end?: number;
}

/**
 * Runs units of `fn` on `buffers` (by the function's names; see impMemory for the array types) with the sizes in
 * `dims`. Throws ImpError on an access out of range and when lanes do not meet at the same barriers.
 */
export function runImp(fn: ImpFunction, buffers: Readonly<Record<string, ImpMemory>>, dims: DimEnv, run: ImpRun = {}): void {
  compileImp(fn)(buffers, dims, run);
}

/** As runImp, for functions that run many times. */
export function compileImp(fn: ImpFunction): (buffers: Readonly<Record<string, ImpMemory>>, dims: DimEnv, run?: ImpRun) => void {
  const compiler = new Compiler(fn);
  const dimSlots = fn.dims.map((name) => [compiler.slot(name), name] as const);
  const unitSlot = compiler.slot(fn.unit);
  const laneSlot = fn.lane === undefined ? undefined : compiler.slot(fn.lane);
  const together = fn.body.some(hasBarrier) && fn.lanes > 1 ? compiler.cooperative(fn.body) : undefined;
  const alone = compiler.block(fn.body);
  return (buffers, dims, run = {}) => {
    const bound = fn.buffers.map((b) => {
      const memory = Object.hasOwn(buffers, b.name) ? buffers[b.name] : undefined;
      if (memory === undefined) throw new ImpError(`${fn.name}: no memory was given for ${b.name}`);
      return memory;
    });
    const scratch = (space: "workgroup" | "private"): (ImpMemory | undefined)[] =>
      fn.scratch.map((s) => (s.space === space ? poisoned(s.dtype, dimEval(s.size, dims)) : undefined));
    const own = Array.from({ length: fn.lanes }, () => scratch("private"));
    const end = run.end ?? dimEval(fn.units, dims);
    for (let unit = run.begin ?? 0; unit < end; unit++) {
      const shared = scratch("workgroup");
      const frames = own.map((mine, lane): Frame => {
        const memory = [...bound, ...mine.map((m, i) => m ?? shared[i] ?? new Float32Array(0))];
        const frame: Frame = { n: new Array<number>(compiler.count).fill(0), v: new Array<Vec>(compiler.count).fill(zero), memory };
        for (const [slot, name] of dimSlots) frame.n[slot] = dims[name] ?? NaN;
        frame.n[unitSlot] = unit;
        if (laneSlot !== undefined) frame.n[laneSlot] = lane;
        return frame;
      });
      if (together === undefined) for (const frame of frames) alone(frame);
      else inStep(fn.name, frames.map(together));
    }
  };
}

/** Lanes run from barrier to barrier; all must arrive at each. */
function inStep(name: string, lanes: readonly Generator<undefined, void>[]): void {
  for (;;) {
    const done = lanes.map((l) => l.next().done === true);
    if (done.every((d) => d)) return;
    if (done.some((d) => d)) throw new ImpError(`${name}: a lane ended while others wait at a barrier`);
  }
}

/** Scratch begins with contents that are wrong for any use. */
function poisoned(dtype: DType, elements: number): ImpMemory {
  const memory = impMemory(dtype, elements);
  if (memory instanceof Float32Array) memory.fill(NaN);
  else memory.fill(0x55);
  return memory;
}
