// Generated Imp functions for drivers: every operation whose result is exact, on numbers that drivers like to forget, in
// all types, with loads and stores of all dtypes, loops, conditions, lanes and barriers. Sums and products are of small
// numbers alone, so that a driver that fuses them gives the same. What the bits of a NaN are is not said, so none are looked at.

import * as fc from "fast-check";
import { dim, dimSymbol } from "../compiler/ir/dim.ts";
import type { DType } from "../compiler/ir/dtype.ts";
import * as b from "../compiler/ir/imp/build.ts";
import type { ImpMemory } from "../compiler/ir/imp/eval.ts";
import { impBinaryOps, impBinaryTakes, impUnaryTakes } from "../compiler/ir/imp/ops.ts";
import type { ImpExpr, ImpFunction, ImpStmt, ImpType } from "../compiler/ir/imp/types.ts";
import { encodeElements } from "../ops/reference/elements.ts";

type Plain = "f32" | "i32" | "bool" | "f32x4" | "i32x4";

const exactUnary = ["neg", "abs", "floor", "ceil", "round", "trunc", "sign"] as const;
const exactBinary = ["min", "max", "eq", "ne", "lt", "le", "gt", "ge"] as const;
const smallArithmetic = ["add", "sub", "mul"] as const;

/** Elements of every input; a power of two, so that a mask makes an index of anything. */
const elements = 64;
const inputs = [
  { name: "f", dtype: "f32" },
  { name: "h", dtype: "f16" },
  { name: "w", dtype: "bf16" },
  { name: "i", dtype: "i32" },
  { name: "c", dtype: "u8" },
  { name: "s", dtype: "i8" },
  { name: "q", dtype: "bool" },
] as const satisfies readonly { readonly name: string; readonly dtype: DType }[];

const floats = [0, -0, NaN, Infinity, -Infinity, 1, -1, 2, -3, 0.5, -2.5, 1.5, 4, -0.5, 0.25, 3];
const integers = [0, 1, -1, 2, 7, -8, 31, 32, 33, 2147483647, -2147483648, 1000003, -77, 255, 256, -32768];
const dataOf = (dtype: DType, shift: number): ImpMemory =>
  encodeElements(
    dtype,
    Float64Array.from({ length: elements }, (_, n) => {
      const at = (n * 5 + shift + (n >> 4)) & 15;
      if (dtype === "f32" || dtype === "f16" || dtype === "bf16") return floats[at] ?? 0;
      const x = integers[at] ?? 0;
      return dtype === "bool" ? x & 1 : dtype === "u8" ? x & 255 : dtype === "i8" ? (x << 24) >> 24 : x;
    }),
  ) as ImpMemory;

/** What one step of a program is made of: a kind, two choices of operands and one more. */
export type Step = readonly [kind: number, x: number, y: number, z: number];

const pick = <T>(list: readonly T[], at: number): T => {
  const chosen = list[at % list.length];
  if (chosen === undefined) throw new Error("nothing to choose from");
  return chosen;
};

class ProgramWriter {
  readonly pools: Record<Plain, ImpExpr[]>;
  /** Floats that sums and products may be made of. */
  readonly small: Record<"f32" | "f32x4", ImpExpr[]>;
  statements: ImpStmt[] = [];
  #names = 0;

  constructor(unit: ImpExpr, lane: ImpExpr) {
    this.small = { f32: [b.float(-2), b.float(0), b.float(-0)], f32x4: [b.vector("f32x4", [0, -0, 1, -2])] };
    this.pools = {
      f32: [b.float(NaN), b.float(0.5), b.float(Infinity)],
      i32: [unit, lane, b.int(3), b.size("T"), b.int(-1)],
      bool: [{ k: "const", type: "bool", value: 1 }],
      f32x4: [b.vector("f32x4", [Infinity, NaN, -0, 3])],
      i32x4: [b.vector("i32x4", [0, -1, 2, -2147483648]), b.splat(lane)],
    };
  }

  fresh(hint: string): string {
    return `${hint}${this.#names++}`;
  }

  /** Names the value and makes it an operand of later steps. */
  add(e: ImpExpr, small = false): void {
    const type = b.typeOfImp(e) as Plain;
    const name = this.fresh("t");
    this.statements.push(b.bind(name, e));
    const value = b.local(name, type);
    this.pools[type].unshift(value);
    if (small && (type === "f32" || type === "f32x4")) this.small[type].unshift(value);
  }

  step([kind, x, y, z]: Step): void {
    const { pools, small } = this;
    const type = pick(["f32", "i32", "f32x4", "i32x4"] as const, z);
    const float = type === "f32" || type === "i32" ? "f32" : "f32x4";
    switch (kind % 15) {
      case 0:
        return this.#load(x, y, z);
      case 1: {
        const ops = exactUnary.filter((op) => impUnaryTakes(op, type));
        return this.add({ k: "unary", op: pick(ops, y), a: pick(pools[type], x), type });
      }
      case 2:
        return this.add(b.binary(pick(exactBinary, x + y), pick(pools[type], x), pick(pools[type], y)));
      case 3:
        return this.add(b.binary(pick(smallArithmetic, x + z), pick(small[float], x), pick(small[float], y)));
      case 4:
        return this.add(b.fma(pick(small[float], x), pick(small[float], y), pick(small[float], z)));
      case 5: {
        const integer = type === "i32" || type === "f32" ? "i32" : "i32x4";
        const ops = impBinaryOps.filter((op) => impBinaryTakes(op, integer) && op !== "and" && op !== "or");
        return this.add(b.binary(pick(ops, z >> 2), pick(pools[integer], x), pick(pools[integer], y)));
      }
      case 6: {
        const mask = b.binary("lt", pick(pools.i32x4, x), pick(pools.i32x4, y));
        const wide = float === "f32" ? "i32x4" : "f32x4";
        return this.add({ k: "select", cond: mask, a: pick(pools[wide], x + 1), b: pick(pools[wide], y), type: wide });
      }
      case 7:
        return this.add({ k: "select", cond: pick(pools.bool, x), a: pick(pools[type], y), b: pick(pools[type], x), type });
      case 8: {
        const to: Plain = type === "f32" ? "i32" : type === "i32" ? "f32" : type === "f32x4" ? "i32x4" : "f32x4";
        return this.add({ k: "convert", a: pick(pools[type], x), type: to });
      }
      case 9: {
        if (z % 2 === 0) return this.add({ k: "convert", a: pick(pools.bool, x), type: pick(["i32", "f32"], y) });
        return this.add({ k: "convert", a: pick(pools[z % 4 === 1 ? "i32" : "f32"], x), type: "bool" });
      }
      case 10: {
        const wide = float === "f32" ? "i32x4" : "f32x4";
        if (z % 3 === 0) return this.add(b.lane(pick(pools[wide], x), y % 4));
        const [p, q] = [pick(pools[wide], x), pick(pools[wide], y)];
        if (z % 3 === 1) return this.add(b.shuffle(p, q, [x % 8, y % 8, z % 8, (x + y) % 8]));
        return this.add(b.across(pick(wide === "i32x4" ? ["add", "mul", "min", "max"] : ["min", "max"], y), p));
      }
      case 11:
        return this.add(b.splat(pick(z % 2 === 0 ? pools.i32 : pools.f32, x)));
      case 12:
        return this.#loop(x, y, z);
      case 13:
        return this.#lazy(x, y, z);
      default: {
        const logic = b.binary(pick(["and", "or", "eq", "ne"], z), pick(pools.bool, x), pick(pools.bool, y));
        return this.add(z % 2 === 0 ? logic : { k: "unary", op: "not", a: logic, type: "bool" });
      }
    }
  }

  #load(x: number, y: number, z: number): void {
    const { name, dtype } = pick(inputs, z);
    const one = b.loadedType(dtype);
    const offset = y % 3 === 0 ? y % 5 : 0;
    // Any place, one that four neighbours fill from a multiple of four on, or one from anywhere on.
    const mask = x % 3 === 0 ? elements - 4 : elements / 2 - 1;
    const ptr = b.at(name, b.binary("bitand", pick(this.pools.i32, x), b.int(mask)));
    if (x % 2 === 0) this.add(b.load(ptr, one, offset % 4), true);
    else if (y % 5 === 1) this.add(b.loadSplat(ptr, b.vectorOf(one), offset % 4), true);
    else this.add(b.load(ptr, b.vectorOf(one), x % 3 === 0 ? 0 : offset), true);
  }

  /** Something mutable, changed in a loop, perhaps under a condition. */
  #loop(x: number, y: number, z: number): void {
    const type = pick(["i32", "f32", "i32x4"] as const, z);
    const [sum, i] = [this.fresh("m"), this.fresh("i")];
    this.statements.push(b.bind(sum, pick(this.pools[type], x), true));
    const [value, index] = [b.local(sum, type), b.local(i, "i32")];
    const next: ImpExpr =
      type === "f32"
        ? b.binary("max", value, b.load(b.at("f", b.binary("bitand", b.add(index, pick(this.pools.i32, y)), b.int(63))), "f32"))
        : b.binary("bitxor", value, type === "i32" ? b.mul(index, pick(this.pools.i32, y)) : b.splat(b.mul(index, b.int(7))));
    const change = b.assign(sum, next);
    const odd = b.binary("eq", b.binary("bitand", index, b.int(1)), b.int(1));
    const body = z % 2 === 0 ? [change] : [b.when(odd, [change], [b.assign(sum, pick(this.pools[type], z >> 2))])];
    const to = b.binary("bitand", pick(this.pools.i32, z), b.int(3));
    if (z % 5 < 3) this.statements.push(b.loop(i, b.int(x % 3), to, 1 + (y % 2), body));
    else
      this.statements.push(b.bind(i, b.int(x % 3), true), {
        k: "while",
        cond: b.lt(index, to),
        body: [...body, b.assign(i, b.add(index, b.int(1)))],
      });
    this.pools[type].unshift(value);
  }

  /** A choice of which the other side is out of range. */
  #lazy(x: number, y: number, z: number): void {
    const { name, dtype } = pick(inputs, z);
    const one = b.loadedType(dtype);
    const at = pick(this.pools.i32, x);
    const inside = b.binary("and", b.binary("ge", at, b.int(0)), b.lt(at, b.int(elements)));
    const value = b.load(b.at(name, at), one);
    this.add({ k: "select", cond: inside, a: value, b: pick(this.pools[one], y), type: one }, false);
  }
}

export interface Program {
  readonly fn: ImpFunction;
  readonly dims: { readonly T: number };
  /** New memory at each call. */
  memory(): Record<string, ImpMemory>;
}

const outputsOf = { f32: ["f32", "f16", "bf16"], i32: ["i32", "u8", "i8", "bool"], bool: ["bool"] } as const;

/** A function over T units of `lanes` lanes, each of which writes one element or four. The inputs leave room for one output. */
function program(steps: readonly Step[], lanes: number, shift: number, units: number, end: number): Program {
  const [unit, lane] = [b.local("unit", "i32"), b.local("lane", "i32")];
  const writer = new ProgramWriter(unit, lane);
  for (const s of steps) writer.step(s);
  const point = b.add(b.mul(unit, b.int(lanes)), lane);
  const types: readonly Plain[] = ["f32", "i32", "bool", "f32x4", "i32x4"];
  const type = pick(types, end);
  const value = pick(writer.pools[type], end >> 3);
  const one = type === "bool" ? "bool" : b.laneOf(type);
  const dtype = pick<DType>(outputsOf[one], end >> 5);
  const wide = b.isVector(type as ImpType);
  const each = wide ? 4 + (end % 2) : 1;
  const kept = end % 3 === 0 && lanes > 1 && !wide && type !== "bool";
  if (kept) {
    // Through workgroup memory, to the lane on the other side.
    const other = b.sub(b.int(lanes - 1), lane);
    writer.statements.push(
      b.store(b.at("shared", lane), value),
      { k: "barrier" },
      b.bind("crossed", b.load(b.at("shared", other), one as "f32" | "i32")),
    );
  }
  const result = kept ? b.local("crossed", one) : value;
  const target = b.at("out", b.mul(point, b.int(each)));
  const whole = b.store(target, result);
  const part: ImpStmt = { k: "storeLanes", ptr: target, offset: 1, value: result, count: 1 + (end % 3) };
  writer.statements.push(wide && end % 7 === 0 ? part : whole);
  return {
    fn: {
      name: "program",
      buffers: [
        ...inputs.map(({ name, dtype: d }) => ({ name, dtype: d, access: "read" as const })),
        { name: "out", dtype, access: "write" },
      ],
      dims: ["T"],
      scratch: kept ? [{ name: "shared", dtype: one as "f32" | "i32", size: dim(lanes), space: "workgroup" }] : [],
      units: dimSymbol("T"),
      unit: "unit",
      lanes,
      lane: "lane",
      body: writer.statements,
      sources: [],
    },
    dims: { T: units },
    memory: () => ({
      ...Object.fromEntries(inputs.map(({ name, dtype: d }) => [name, dataOf(d, shift)])),
      out: encodeElements(dtype, new Float64Array(units * lanes * each)) as ImpMemory,
    }),
  };
}

export function programs(): fc.Arbitrary<Program> {
  const step: fc.Arbitrary<Step> = fc.tuple(fc.nat(14), fc.nat(9), fc.nat(9), fc.nat(99));
  return fc
    .tuple(
      fc.array(step, { minLength: 1, maxLength: 16 }),
      fc.constantFrom(1, 2, 8, 32),
      fc.nat(15),
      fc.integer({ min: 1, max: 5 }),
      fc.nat(9999),
    )
    .map(([steps, lanes, shift, units, end]) => program(steps, lanes, shift, units, end));
}
