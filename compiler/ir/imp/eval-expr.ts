// Expressions of Imp IR as closures, for the emulator (eval.ts): f32 is rounded after every operation, and an access out
// of range is an error. Reads may go up to 64 bytes past a buffer's end, as every device allows; what they find there
// is NaN or nonsense on purpose.

import { bytesOf, type DType } from "../dtype.ts";
import { isVector, laneOf, targetOf, typeOfImp } from "./build.ts";
import { ImpError, type ImpMemory } from "./memory.ts";
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
import type { ImpExpr, ImpFunction, ImpType } from "./types.ts";

const slackBytes = 64;

export type Vec = readonly [number, number, number, number];
/** What one lane knows: its locals by slot, and memory by place. */
export interface Frame {
  readonly n: number[];
  readonly v: Vec[];
  readonly memory: ImpMemory[];
  /** All lanes of the unit, this one included, and the number of this one. */
  readonly unit: readonly Frame[];
  readonly lane: number;
  /** What it gives to others where lanes meet. */
  given: number | Vec;
}
export type Scalar = (f: Frame) => number;
export type Vector = (f: Frame) => Vec;
interface Place {
  readonly name: string;
  readonly slot: number;
  readonly dtype: DType;
  readonly slack: number;
}

export const zero: Vec = [0, 0, 0, 0];
const four = (f: (i: number) => number): Vec => [f(0), f(1), f(2), f(3)];
export const laneAt = (v: Vec, i: number): number => v[i as 0 | 1 | 2 | 3];

export class ExprCompiler {
  private readonly slots = new Map<string, number>();
  private readonly places: ReadonlyMap<string, Place>;
  protected readonly fn: ImpFunction;
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

  protected place(type: ImpType): Place {
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

  protected writer(place: Place): (f: Frame, at: number, value: number) => void {
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
}

function fastOne(min: boolean, a: number, b: number): number {
  return min ? (b < a ? b : a) : a < b ? b : a;
}

function fast(op: "min" | "max", a: Scalar, b: Scalar): Scalar {
  return (f) => fastOne(op === "min", a(f), b(f));
}
