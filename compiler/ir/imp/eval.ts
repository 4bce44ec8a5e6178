// The emulator: runs an ImpFunction on typed arrays, compiled to closures (expressions: eval-expr.ts). Lanes run in step
// where they meet, from one meeting to the next; all must come to each.

import { dimEval, type DimEnv } from "../dim.ts";
import { isVector, typeOfImp } from "./build.ts";
import { ExprCompiler, laneAt, zero, type Frame, type Vec } from "./eval-expr.ts";
import { ImpError, poisoned, type ImpMemory } from "./memory.ts";
import type { ImpExpr, ImpFunction, ImpStmt } from "./types.ts";

export { ImpError, type ImpMemory } from "./memory.ts";

type Step = (f: Frame) => void;
/** Yields where lanes meet. */
type Cooperative = (f: Frame) => Generator<undefined, void>;

class Compiler extends ExprCompiler {
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
      case "uniform":
        return this.set(s.name, s.value);
      case "exchange":
        throw new ImpError(`${this.fn.name}: exchange ${s.name} is where lanes do not meet`);
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
        case "uniform": {
          const [name, slot, value] = [s.name, this.slot(s.name), this.scalar(s.value)];
          const { name: fn } = this.fn;
          return function* (f) {
            f.given = f.n[slot] = value(f);
            yield undefined;
            if (f.given !== f.unit[0]?.given) throw new ImpError(`${fn}: ${name} differs between lanes`);
            yield undefined;
          };
        }
        case "exchange": {
          const [slot, lane, group, vector] = [this.slot(s.name), this.scalar(s.lane), this.fn.subgroup ?? 1, isVector(s.type)];
          const value = vector ? this.vec(s.value) : this.scalar(s.value);
          return function* (f) {
            f.given = value(f);
            const own = f.lane % group;
            const other = s.op === "xor" ? own ^ lane(f) : lane(f);
            yield undefined;
            const given = f.unit[f.lane - own + other]?.given;
            if (given === undefined || !(other >= 0 && other < group)) throw new ImpError(`a subgroup of ${group} has no lane ${other}`);
            if (typeof given === "number") f.n[slot] = given;
            else f.v[slot] = given;
            // Nobody gives anything else before everybody has taken this.
            yield undefined;
          };
        }
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

/** Do lanes wait for each other in it? */
function hasBarrier(s: ImpStmt): boolean {
  if (s.k === "barrier" || s.k === "uniform" || s.k === "exchange") return true;
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
  const alone = together === undefined ? compiler.block(fn.body) : undefined;
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
      const frames: Frame[] = [];
      for (const [lane, mine] of own.entries()) {
        const memory = [...bound, ...mine.map((m, i) => m ?? shared[i] ?? new Float32Array(0))];
        const [n, v] = [new Array<number>(compiler.count).fill(0), new Array<Vec>(compiler.count).fill(zero)];
        const frame: Frame = { n, v, memory, unit: frames, lane, given: 0 };
        for (const [slot, name] of dimSlots) frame.n[slot] = dims[name] ?? NaN;
        frame.n[unitSlot] = unit;
        if (laneSlot !== undefined) frame.n[laneSlot] = lane;
        frames.push(frame);
      }
      if (together !== undefined) inStep(fn.name, frames.map(together));
      else for (const frame of frames) alone?.(frame);
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
