// Kernels of matrix products for the tests of the schedule: A [batch, M, K] (or gathered rows, or stored column by
// column), B packed or as it is, and an epilogue. With data for them and a float64 loop that says what they compute.

import { dim, dimAdd, dimDiv, dimEval, dimProduct, dimSymbol, type Dim } from "../compiler/ir/dim.ts";
import type { DType } from "../compiler/ir/dtype.ts";
import { fromBfloat, fromHalf, toBfloat, toHalf } from "../compiler/ir/imp/scalar.ts";
import * as x from "../compiler/ir/kernel/build.ts";
import type { Axis, Expr, Kernel, KernelBuffer, Stage } from "../compiler/ir/kernel/types.ts";

export interface Size {
  readonly value: number;
  readonly symbolic: boolean;
}

export const epilogues = ["none", "bias", "gelu", "residual", "scale", "relu", "column", "row", "transposed", "two", "let"] as const;
export type Epilogue = (typeof epilogues)[number];

/** What B is: in panels, [K, N], [N, K] or [K, N, 3], of which only every third number counts. */
export const rightLayouts = ["panels", "rows", "columns", "apart"] as const;

export interface Case {
  readonly batch: readonly Size[];
  readonly m: Size;
  readonly n: Size;
  readonly k: Size;
  /** All batches multiply the same B. */
  readonly sharedB: boolean;
  readonly a: "rows" | "gathered" | "columns";
  readonly epilogue: Epilogue;
  readonly out: DType;
  /** The fold multiplies b·a. */
  readonly swapped: boolean;
  /** Panels when left out. */
  readonly right?: (typeof rightLayouts)[number];
  /** Columns of a panel of B; 8 when left out. */
  readonly panel?: number;
  /** What B is stored as; f32 when left out. */
  readonly weights?: "f32" | "f16";
  /** What A is stored as; f32 when left out. */
  readonly left?: "f32" | "f16" | "bf16";
}

type Load = Extract<Expr, { k: "load" }>;

export interface Made {
  readonly kernel: Kernel;
  readonly dims: Readonly<Record<string, number>>;
  /** Elements of each buffer. */
  readonly elements: ReadonlyMap<string, number>;
}

export const constant = (value: number): Size => ({ value, symbolic: false });
export const symbolic = (value: number): Size => ({ value, symbolic: true });

export function matmulKernel(c: Case, name = "product"): Made {
  const dims: Record<string, number> = {};
  const sizeOf = (label: string, s: Size): Dim => {
    if (!s.symbolic) return dim(s.value);
    dims[label] = s.value;
    return dimSymbol(label);
  };
  const batch: Axis[] = c.batch.map((s, i) => ({ name: `b${i}`, extent: sizeOf(`B${i}`, s) }));
  const m: Axis = { name: "m", extent: sizeOf("M", c.m) };
  const n: Axis = { name: "n", extent: sizeOf("N", c.n) };
  const k = sizeOf("K", c.k);
  const { panel = 8, weights = "f32", right = "panels" } = c;
  const panels = dimDiv(dimAdd(n.extent, dim(panel - 1)), dim(panel));
  const at = (places: readonly (readonly [Expr, Dim])[]): Expr =>
    places.reduce<Expr>((p, [e, extent], i) => (i === 0 ? e : x.add(x.mul(p, x.dimExpr(extent)), e)), x.i32(0));
  const of = (axis: Axis): readonly [Expr, Dim] => [x.variable(axis.name), axis.extent];
  const kVar = x.variable("k");
  const some = batch.map(of);
  const [bm, bmn] = [at([...some, of(m)]), at([...some, of(m), of(n)])];
  const shape = batch.map((b) => b.extent);

  const buffers: KernelBuffer[] = [];
  const buffer = (label: string, dtype: DType, sizes: readonly Dim[], access: "read" | "write" = "read"): void =>
    void buffers.push({ name: label, dtype, shape: sizes, access });
  const load = (label: string, index: Expr, type: "f32" | "i32" = "f32"): Load => {
    const e = x.load(label, index, type);
    if (e.k !== "load") throw new Error("a load is a load");
    return e;
  };
  buffer("A", c.left ?? "f32", [...shape, m.extent, k]);
  if (c.a === "gathered") buffer("rows", "i32", [...shape, m.extent]);
  const row = c.a === "gathered" ? load("rows", bm, "i32") : bm;
  const a = load("A", c.a === "columns" ? at([...some, [kVar, k], of(m)]) : x.add(x.mul(row, x.dimExpr(k)), kVar));
  const nVar = x.variable("n");
  const [ofN, ofK]: readonly [readonly [Expr, Dim], readonly [Expr, Dim]] = [
    [nVar, n.extent],
    [kVar, k],
  ];
  const layouts: Record<typeof right, readonly (readonly [Expr, Dim])[]> = {
    panels: [[x.div(nVar, x.i32(panel)), panels], ofK, [x.mod(nVar, x.i32(panel)), dim(panel)]],
    rows: [ofK, ofN],
    columns: [ofN, ofK],
    apart: [ofK, ofN, [x.i32(1), dim(3)]],
  };
  const places = layouts[right];
  buffer("B", weights, [...(c.sharedB ? [] : shape), ...places.map(([, extent]) => extent)]);
  const b = load("B", at([...(c.sharedB ? [] : some), ...places]));

  const acc = x.variable("acc", "f32");
  const bias = (): Expr => {
    buffer("bias", "f32", [n.extent]);
    return x.add(acc, load("bias", nVar));
  };
  const sigmoid = (v: Expr): Expr => x.div(x.f32(1), x.add(x.f32(1), x.unary("exp", x.mul(x.f32(-1.702), v))));
  const stores: Stage[] = [];
  const put = (value: Expr, label = "Y", index = bmn): void => {
    buffer(label, label === "Y" ? c.out : "f32", [...shape, m.extent, n.extent], "write");
    stores.push({ k: "store", axes: [], buffer: label, index, value });
  };
  switch (c.epilogue) {
    case "none":
      put(acc);
      break;
    case "bias":
      put(bias());
      break;
    case "gelu": {
      const v = bias();
      put(x.mul(v, sigmoid(v)));
      break;
    }
    case "residual":
      buffer("residual", "f32", [...shape, m.extent, n.extent]);
      put(x.add(bias(), load("residual", bmn)));
      break;
    case "scale":
      put(x.mul(acc, x.f32(0.125)));
      break;
    case "relu":
      put(x.select(x.binary("gt", acc, x.f32(0)), acc, x.f32(0)));
      break;
    case "column":
      put(x.add(acc, x.cast(nVar, "f32")));
      break;
    case "row":
      buffer("scales", "f32", [...shape, m.extent]);
      put(x.mul(acc, load("scales", bm)));
      break;
    case "transposed":
      put(acc, "Y", at([...some, of(n), of(m)]));
      break;
    case "two":
      put(acc);
      put(x.mul(acc, acc), "Y2");
      break;
    case "let":
      stores.push({ k: "let", name: "doubled", type: "f32", value: x.add(acc, acc) });
      put(x.mul(x.variable("doubled", "f32"), acc));
      break;
    default:
      c.epilogue satisfies never;
  }
  const product = c.swapped ? x.mul(b, a) : x.mul(a, b);
  const kernel: Kernel = {
    name,
    axes: [...batch, m, n],
    buffers,
    stages: [{ k: "let", name: "acc", type: "f32", value: x.fold("sum", "k", x.i32(0), x.dimExpr(k), product) }, ...stores],
    schedule: right === "panels" ? [{ k: "packed", buffer: "B", panel }] : [],
    pattern: { k: "matmul", batch: batch.map((p) => p.name), m: "m", n: "n", kAxis: "k", a, b },
    sources: [],
  };
  return { kernel, dims, elements: new Map(buffers.map((p) => [p.name, dimEval(dimProduct(p.shape), dims)])) };
}

/** Repeatable numbers in [-1, 1). */
export function numbers(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return (state >> 8) / 2 ** 23;
  };
}

export interface Data {
  /** By buffer; read buffers filled, those written to poisoned with NaN. */
  readonly memory: Readonly<Record<string, Float32Array | Int32Array | Uint16Array>>;
  /** The unpacked second operand, [batch, N, K]. */
  readonly columns: Float32Array;
}

const product = (sizes: readonly Size[]): number => sizes.reduce((p, s) => p * s.value, 1);

export function matmulData(c: Case, made: Made, seed: number): Data {
  const next = numbers(seed);
  const memory: Record<string, Float32Array | Int32Array | Uint16Array> = {};
  for (const b of made.kernel.buffers) {
    const count = made.elements.get(b.name) ?? 0;
    if (b.access === "write") memory[b.name] = b.dtype === "f32" ? new Float32Array(count).fill(NaN) : new Uint16Array(count).fill(0xffff);
    else if (b.dtype === "i32") {
      const rows = product(c.batch) * c.m.value;
      memory[b.name] = Int32Array.from({ length: count }, () => Math.floor(((next() + 1) / 2) * rows));
    } else if (b.name === "A" && b.dtype !== "f32")
      memory[b.name] = Uint16Array.from({ length: count }, () => (b.dtype === "f16" ? toHalf(next()) : toBfloat(next())));
    else memory[b.name] = Float32Array.from({ length: count }, next);
  }
  const [n, k] = [c.n.value, c.k.value];
  const batches = c.sharedB ? 1 : product(c.batch);
  const { panel = 8, weights = "f32", right = "panels" } = c;
  const half = weights === "f16";
  const columns = Float32Array.from({ length: batches * n * k }, half ? () => fromHalf(toHalf(next())) : next);
  const packed = half ? new Uint16Array(made.elements.get("B") ?? 0) : new Float32Array(made.elements.get("B") ?? 0);
  const panels = Math.ceil(n / panel);
  for (let b = 0; b < batches; b++)
    for (let j = 0; j < n; j++)
      for (let i = 0; i < k; i++) {
        const value = columns[(b * n + j) * k + i] ?? NaN;
        const place = {
          panels: ((b * panels + Math.floor(j / panel)) * k + i) * panel + (j % panel),
          rows: (b * k + i) * n + j,
          columns: (b * n + j) * k + i,
          apart: ((b * k + i) * n + j) * 3 + 1,
        };
        packed[place[right]] = half ? toHalf(value) : value;
      }
  memory.B = packed;
  return { memory, columns };
}

/** What each written buffer must hold, in float64, and by how much a sum in f32 may differ. */
export function matmulExpected(
  c: Case,
  { memory, columns }: Data,
): { readonly name: string; readonly values: Float64Array; readonly slack: Float64Array }[] {
  const [m, n, k, batches] = [c.m.value, c.n.value, c.k.value, product(c.batch)];
  const get = (name: string, i: number): number => memory[name]?.[i] ?? NaN;
  const left = (i: number): number =>
    c.left === "f16" ? fromHalf(get("A", i)) : c.left === "bf16" ? fromBfloat(get("A", i)) : get("A", i);
  const y = { name: "Y", values: new Float64Array(batches * m * n), slack: new Float64Array(batches * m * n) };
  const y2 = { name: "Y2", values: new Float64Array(batches * m * n), slack: new Float64Array(batches * m * n) };
  for (let b = 0; b < batches; b++)
    for (let i = 0; i < m; i++) {
      const row = c.a === "gathered" ? get("rows", b * m + i) : b * m + i;
      for (let j = 0; j < n; j++) {
        let [sum, size] = [0, 0];
        for (let l = 0; l < k; l++) {
          const a = left(c.a === "columns" ? (b * k + l) * m + i : row * k + l);
          const term = a * (columns[((c.sharedB ? 0 : b) * n + j) * k + l] ?? NaN);
          sum += term;
          size += Math.abs(term);
        }
        const place = (b * m + i) * n + j;
        const at = c.epilogue === "transposed" ? (b * n + j) * m + i : place;
        y.values[at] = after(c.epilogue, sum, b * m + i, j, place, get);
        // Every step rounds a number no larger than the sum of the sizes.
        const error = (k + 8) * 2 ** -23 * (size + 1);
        y.slack[at] =
          error * (4 + 4 * Math.abs(sum)) + (c.out === "f32" ? 0 : Math.abs(y.values[at]) * 2 ** (c.out === "f16" ? -10 : -7) + 1e-7);
        if (c.epilogue === "column") y.slack[at] += j * 2 ** -23;
        y2.values[place] = sum * sum;
        y2.slack[place] = error * (4 + 4 * Math.abs(sum));
      }
    }
  return c.epilogue === "two" ? [y, y2] : [y];
}

function after(epilogue: Epilogue, sum: number, row: number, j: number, place: number, get: (name: string, i: number) => number): number {
  switch (epilogue) {
    case "none":
    case "transposed":
    case "two":
      return sum;
    case "bias":
      return sum + get("bias", j);
    case "gelu": {
      const v = sum + get("bias", j);
      return v / (1 + Math.exp(Math.fround(-1.702) * v));
    }
    case "residual":
      return sum + get("bias", j) + get("residual", place);
    case "scale":
      return sum * 0.125;
    case "relu":
      return sum > 0 ? sum : 0;
    case "column":
      return sum + j;
    case "row":
      return sum * get("scales", row);
    case "let":
      return 2 * sum * sum;
    default:
      return epilogue satisfies never;
  }
}
