// Generated kernels. `anyKernels` are any data of the type Kernel, for text. `soundKernels` make sense: well typed,
// every access in range, shared and nested expressions, with memory to run them on.

import * as fc from "fast-check";
import { dim, dimAdd, dimSymbol, type DimEnv } from "../../compiler/ir/dim.ts";
import { dtypes, type DType } from "../../compiler/ir/dtype.ts";
import * as b from "../../compiler/ir/kernel/build.ts";
import { binaryOps, foldOps, scalarTypes, unaryOps } from "../../compiler/ir/kernel/ops.ts";
import type { Axis, Expr, Kernel, KernelBuffer, Pattern, ScalarType, ScheduleItem, Stage } from "../../compiler/ir/kernel/types.ts";
import type { Span } from "../../compiler/ir/loc.ts";

export const anyNumber = fc.oneof(fc.double(), fc.integer(), fc.constantFrom(NaN, Infinity, -Infinity, -0, 1e21, 5e-324, 4, 0));
export const anyName = fc.oneof(
  fc.constantFrom("x", "k0", "r$1", "vit.P", "true", "NaN", "sum", "f32", "select", "min", "kernel"),
  fc.string(),
  fc.constantFrom('quote " and \\', "new\nline", " over ", "ü", "a.", "1"),
);
export const symbol = fc.constantFrom("T", "N", "offsets$1", "vit.P");
export const anyDim = fc.oneof(
  fc.nat(9).map((n) => dim(n)),
  fc.tuple(symbol, fc.integer({ min: -3, max: 5 })).map(([s, n]) => dimAdd(dimSymbol(s), dim(n))),
);
export const anySpan: fc.Arbitrary<Span> = fc.record({
  file: anyName,
  start: fc.nat(99),
  end: fc.nat(99),
  line: fc.nat(9),
  column: fc.nat(9),
  endLine: fc.nat(9),
  endColumn: fc.nat(9),
});
export const anyLocs = fc.array(fc.array(anySpan, { maxLength: 3 }), { maxLength: 3 });

const scalarType = fc.constantFrom(...scalarTypes);
const load = (index: fc.Arbitrary<Expr>): fc.Arbitrary<Extract<Expr, { k: "load" }>> =>
  fc.record({ k: fc.constant("load" as const), buffer: anyName, index, type: scalarType });

const { expr: anyExpr } = fc.letrec<{ expr: Expr }>((tie) => ({
  expr: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.record({ k: fc.constant("const" as const), type: scalarType, value: anyNumber }),
    fc.record({ k: fc.constant("var" as const), name: anyName, type: scalarType }),
    fc.record({ k: fc.constant("dim" as const), dim: anyDim }),
    load(tie("expr")),
    fc.record({ k: fc.constant("unary" as const), op: fc.constantFrom(...unaryOps), a: tie("expr"), type: scalarType }),
    fc.record({ k: fc.constant("cast" as const), a: tie("expr"), type: scalarType }),
    fc.record({ k: fc.constant("bitcast" as const), a: tie("expr"), type: fc.constantFrom("f32" as const, "i32" as const) }),
    fc.record({ k: fc.constant("binary" as const), op: fc.constantFrom(...binaryOps), a: tie("expr"), b: tie("expr"), type: scalarType }),
    fc.record({ k: fc.constant("select" as const), cond: tie("expr"), a: tie("expr"), b: tie("expr"), type: scalarType }),
    fc.record({
      k: fc.constant("iterate" as const),
      name: anyName,
      axis: anyName,
      steps: fc.nat(40),
      init: tie("expr"),
      body: tie("expr"),
      type: scalarType,
    }),
    fc.record({
      k: fc.constant("fold" as const),
      op: fc.constantFrom(...foldOps),
      axis: anyName,
      from: tie("expr"),
      to: tie("expr"),
      body: tie("expr"),
      type: scalarType,
    }),
  ),
}));

const anyAxis: fc.Arbitrary<Axis> = fc.record({ name: anyName, extent: anyDim });
const anyStage: fc.Arbitrary<Stage> = fc.oneof(
  fc.record({ k: fc.constant("let" as const), name: anyName, type: scalarType, value: anyExpr }),
  fc.record({
    k: fc.constant("store" as const),
    axes: fc.array(anyAxis, { maxLength: 2 }),
    buffer: anyName,
    index: anyExpr,
    value: anyExpr,
  }),
);
const anyItem: fc.Arbitrary<ScheduleItem> = fc.oneof(
  fc.record({ k: fc.constant("vectorise" as const), axis: anyName, width: fc.nat(9) }),
  fc.record({ k: fc.constant("tile" as const), axis: anyName, size: fc.nat(9) }),
  fc.record({ k: fc.constant("unroll" as const), axis: anyName, by: fc.nat(9) }),
  fc.record({ k: fc.constant("packed" as const), buffer: anyName, panel: fc.nat(9) }),
  fc.record({ k: fc.constant("parallel" as const), axes: fc.array(anyName, { maxLength: 3 }) }),
);
const anyPattern: fc.Arbitrary<Pattern> = fc.oneof(
  fc.record({
    k: fc.constant("matmul" as const),
    batch: fc.array(anyName, { maxLength: 2 }),
    m: anyName,
    n: anyName,
    kAxis: anyName,
    a: load(anyExpr),
    b: load(anyExpr),
  }),
  fc.record({
    k: fc.constant("attention" as const),
    query: anyName,
    head: anyName,
    key: anyName,
    inner: anyName,
    feature: anyName,
    innerExtent: anyDim,
    scale: anyNumber,
    from: anyExpr,
    to: anyExpr,
    q: load(anyExpr),
    key_: load(anyExpr),
    value: load(anyExpr),
  }),
);

/** Any data of the type Kernel: it need not make sense, only survive as text. */
export const anyKernels: fc.Arbitrary<Kernel> = fc
  .record({
    name: anyName,
    axes: fc.array(anyAxis, { maxLength: 3 }),
    buffers: fc.array(
      fc.record({
        name: anyName,
        dtype: fc.constantFrom(...dtypes),
        shape: fc.array(anyDim, { maxLength: 3 }),
        access: fc.constantFrom("read" as const, "write" as const),
      }),
      { maxLength: 3 },
    ),
    stages: fc.array(anyStage, { maxLength: 3 }),
    schedule: fc.array(anyItem, { maxLength: 3 }),
    pattern: fc.option(anyPattern, { nil: undefined }),
    sources: anyLocs,
  })
  .map(({ pattern, ...kernel }) => (pattern === undefined ? kernel : { ...kernel, pattern }));

interface SoundKernel {
  readonly kernel: Kernel;
  readonly dims: DimEnv;
  /** Values of the buffers that are read. */
  readonly inputs: Readonly<Record<string, Float64Array>>;
  /** Elements of the buffers that are written. */
  readonly outputs: Readonly<Record<string, number>>;
}

type Instruction = readonly [kind: number, a: number, b: number, c: number];

const T = dimSymbol("T");
const inputs: readonly { readonly buffer: KernelBuffer; readonly elements: (t: number) => number }[] = [
  { buffer: { name: "x", dtype: "f32", shape: [T, dim(4)], access: "read" }, elements: (t) => 4 * t },
  { buffer: { name: "h", dtype: "f16", shape: [dim(3)], access: "read" }, elements: () => 3 },
  { buffer: { name: "ids", dtype: "i32", shape: [T], access: "read" }, elements: (t) => t },
  { buffer: { name: "px", dtype: "u8", shape: [dim(5)], access: "read" }, elements: () => 5 },
  { buffer: { name: "mask", dtype: "bool", shape: [dim(2)], access: "read" }, elements: () => 2 },
];
const sizes = [b.mul(b.dimExpr(T), b.i32(4)), b.i32(3), b.dimExpr(T), b.i32(5), b.i32(2)];
const outputs: Readonly<Record<ScalarType, readonly DType[]>> = { f32: ["f32", "f16", "bf16"], i32: ["i32", "u8", "i8"], bool: ["bool"] };

function pick<X>(list: readonly X[], i: number): X {
  const chosen = list[i % list.length];
  if (chosen === undefined) throw new Error("nothing to choose from");
  return chosen;
}

class Writer {
  /** Newest first, so that small choices make deep expressions. */
  readonly pools: Record<ScalarType, Expr[]> = {
    f32: [b.f32(0.5), b.f32(-2)],
    i32: [b.variable("t"), b.variable("u"), b.i32(3), b.dimExpr(T)],
    bool: [b.bool(true)],
  };
  names = 0;

  add(e: Expr): void {
    this.pools[b.typeOfExpr(e)].unshift(e);
  }

  loadOf(which: number, index: Expr): Expr {
    const { buffer } = pick(inputs, which);
    return b.load(buffer.name, index, b.typeOfExpr(emptyOf(buffer)));
  }

  /** An index that is in range, whatever `at` is. */
  within(which: number, at: Expr): Expr {
    return b.mod(at, pick(sizes, which));
  }

  instruction([kind, x, y, z]: Instruction): void {
    const { f32, i32, bool } = this.pools;
    switch (kind) {
      case 0:
        return this.add(
          b.unary(
            pick(
              unaryOps.filter((op) => b.unaryTakes(op, "f32")),
              z,
            ),
            pick(f32, x),
          ),
        );
      case 1:
        return this.add(
          b.binary(
            pick(
              binaryOps.filter((op) => b.binaryTakes(op, "f32")),
              z,
            ),
            pick(f32, x),
            pick(f32, y),
          ),
        );
      case 2:
        return this.add(
          b.binary(
            pick(
              binaryOps.filter((op) => b.binaryTakes(op, "i32")),
              z,
            ),
            pick(i32, x),
            pick(i32, y),
          ),
        );
      case 3:
        return this.add(
          b.binary(
            pick(
              binaryOps.filter((op) => b.binaryTakes(op, "bool")),
              z,
            ),
            pick(bool, x),
            pick(bool, y),
          ),
        );
      case 4:
        return this.add(this.loadOf(z, this.within(z, pick(i32, x))));
      case 5: {
        // Where the place is out of range, it must not be looked at.
        const [at, size] = [pick(i32, x), pick(sizes, z)];
        const value = this.loadOf(z, at);
        const other = pick(this.pools[b.typeOfExpr(value)], y);
        return this.add(b.select(b.binary("and", b.binary("ge", at, b.i32(0)), b.binary("lt", at, size)), value, other));
      }
      case 6:
        return this.add(b.select(pick(bool, x), pick(f32, y), pick(f32, z)));
      case 7:
        return this.add(b.cast(pick([...f32.slice(0, 2), ...i32.slice(0, 2), ...bool.slice(0, 2)], x), pick(scalarTypes, y)));
      case 8: {
        const axis = `k${this.names++}`;
        const k = b.variable(axis);
        const part = z % 2 === 0 ? b.mul(pick(f32, x), b.load("x", this.within(0, b.add(k, pick(i32, y))), "f32")) : b.add(k, pick(i32, x));
        return this.add(b.fold(pick(foldOps, y), axis, b.i32(x % 2), pick([b.dimExpr(T), b.i32(3), b.i32(0)], z), part));
      }
      case 9:
        // What the bits of a NaN are is not said.
        return this.add(
          z % 2 === 0 ? b.bitcast(pick(i32, x)) : b.select(b.binary("eq", pick(f32, x), pick(f32, x)), b.bitcast(pick(f32, x)), b.i32(7)),
        );
      case 10: {
        // A step changes the value by something that the kernel has already, folds included.
        const [name, axis] = [`s${this.names}`, `k${this.names++}`];
        const from = pick(z % 2 === 0 ? f32 : i32, x);
        const by = (type: ScalarType, step: Expr): Expr =>
          type === "f32" ? b.mul(b.cast(step, "f32"), pick(f32, y)) : b.add(step, pick(i32, y));
        return this.add(b.iterate(name, axis, z % 5, from, (value, step) => b.sub(by(b.typeOfExpr(from), step), value)));
      }
      default:
        return this.add(b.unary("neg", pick(z % 2 === 0 ? f32 : i32, x)));
    }
  }
}

function emptyOf(buffer: KernelBuffer): Expr {
  return buffer.dtype === "bool" ? b.bool(false) : buffer.dtype === "f32" || buffer.dtype === "f16" ? b.f32(0) : b.i32(0);
}

function write(parts: readonly (readonly Instruction[])[], t: number, seed: number, ends: readonly number[]): SoundKernel {
  const w = new Writer();
  const stages: Stage[] = [];
  const buffers: KernelBuffer[] = inputs.map((i) => i.buffer);
  const written: Record<string, number> = {};
  for (const [i, part] of parts.entries()) {
    for (const instruction of part) w.instruction(instruction);
    const end = ends[i] ?? 0;
    const value = pick(w.pools[pick(scalarTypes, end)], end >> 4);
    const type = b.typeOfExpr(value);
    if (i < parts.length - 1 && end % 2 === 0) {
      const name = `v${i}`;
      stages.push({ k: "let", name, type, value });
      w.add(b.variable(name, type));
      continue;
    }
    // y[t, u] or y[t, u, j].
    const name = `y${i}`;
    const inner = end % 3 === 0;
    const point = b.add(b.mul(b.variable("t"), b.i32(3)), b.variable("u"));
    const dtype = pick(outputs[type], end >> 2);
    const j = b.variable("j");
    stages.push({
      k: "store",
      axes: inner ? [{ name: "j", extent: dim(2) }] : [],
      buffer: name,
      index: inner ? b.add(b.mul(point, b.i32(2)), j) : point,
      value: inner && type === "i32" ? b.add(value, j) : value,
    });
    buffers.push({ name, dtype, shape: inner ? [T, dim(3), dim(2)] : [T, dim(3)], access: "write" });
    written[name] = t * 3 * (inner ? 2 : 1);
  }
  let state = seed | 0;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return (state >> 8) / 2 ** 23;
  };
  const data = (dtype: DType, n: number): Float64Array =>
    Float64Array.from({ length: n }, () => {
      const x = random();
      if (dtype === "f32") return Math.fround(4 * x);
      if (dtype === "f16") return Math.round(x * 8) / 4;
      return dtype === "bool" ? (x > 0 ? 1 : 0) : Math.floor(Math.abs(x) * 9);
    });
  return {
    kernel: {
      name: "sound",
      axes: [
        { name: "t", extent: T },
        { name: "u", extent: dim(3) },
      ],
      buffers,
      stages,
      schedule: [
        { k: "parallel", axes: ["t"] },
        { k: "vectorise", axis: "u", width: 4 },
      ],
      sources: [],
    },
    dims: { T: t },
    inputs: Object.fromEntries(inputs.map(({ buffer, elements }) => [buffer.name, data(buffer.dtype, elements(t))])),
    outputs: written,
  };
}

/** Kernels of up to four stages at points (t, u) of [T, 3], the last of which is a store. */
export function soundKernels(): fc.Arbitrary<SoundKernel> {
  const instruction: fc.Arbitrary<Instruction> = fc.tuple(fc.nat(11), fc.nat(5), fc.nat(5), fc.nat(40));
  return fc
    .tuple(
      fc.array(fc.array(instruction, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 4 }),
      fc.integer({ min: 1, max: 4 }),
      fc.integer(),
      fc.array(fc.nat(99), { minLength: 4, maxLength: 4 }),
    )
    .map(([parts, t, seed, ends]) => write(parts, t, seed, ends));
}
