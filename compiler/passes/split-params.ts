// Parameters that are too large for one binding of a device become several, some rows each, and what reads them reads the
// parts: rows that are looked up are chosen among the parts, a product by a matrix becomes products by its rows. For devices
// with such a limit alone (WebGPU: 128 MiB). The parts of a packed weight (values, scales, minima) are cut at the same rows.
//   unpack([A; B], [s; t]) -> [unpack(A, s); unpack(B, t)]
//   x·[A; B]ᵀ -> [x·Aᵀ, x·Bᵀ]     x·[A; B] -> x[:, :a]·A + x[:, a:]·B     [A; B][i] -> i < a ? A[i] : B[i - a]

import { dim, dimConstant, type Dim } from "../ir/dim.ts";
import { bytesOf } from "../ir/dtype.ts";
import type { GraphBuilder } from "../ir/graph/build.ts";
import type { Graph, OpNode, ParamNode, ValueId } from "../ir/graph/types.ts";
import { rowsName, type RowsOf } from "../ir/plan/rows.ts";
import { opOf } from "../../ops/index.ts";
import { keepOp, rewrite, type Example, type Pass } from "./rewrite.ts";

/** Rows of a part are a multiple of it where there are enough, so that panels of a packed matrix are full. */
const step = 32;

interface Part {
  readonly value: ValueId;
  readonly first: number;
  readonly rows: number;
}

/** Splits every parameter of more than `limit` bytes. */
export function splitParams(limit: number): Pass {
  return {
    name: "split-params",
    description: "parameters that are larger than a binding become several of some rows each",
    run: (graph) => {
      const large = largeParams(graph, limit);
      return large.size === 0 ? graph : new Splitter(graph, large).run();
    },
  };
}

/** Rows of a part, for each parameter that is split. A result of the graph stays whole: it is no binding's business how it is read back. */
function largeParams(graph: Graph, limit: number): ReadonlyMap<ValueId, number> {
  const results = new Set([...graph.outputs, ...graph.updates].map((o) => o.value));
  const params = new Map(graph.nodes.flatMap((n) => (n.kind === "param" && !results.has(n.id) ? [[n.id, n] as const] : [])));
  const each = new Map<ValueId, number>();
  for (const [id, node] of params) {
    const rows = rowsWithin(node, limit);
    if (rows !== undefined) each.set(id, rows);
  }
  const unpacking = graph.nodes.filter((n): n is OpNode => n.kind === "op" && opOf(n.op).unpacks === true);
  for (let changed = true; changed;) {
    changed = false;
    for (const node of unpacking) {
      const least = Math.min(...node.operands.map((id) => each.get(id) ?? Infinity));
      // Parts that are no parameters, or that are wanted whole, keep the weight whole.
      const whole = results.has(node.id) || node.operands.some((id) => !params.has(id));
      for (const id of node.operands) {
        if (least === Infinity || each.get(id) === (whole ? undefined : least)) continue;
        if (whole) each.delete(id);
        else each.set(id, least);
        changed = true;
      }
    }
  }
  return each;
}

/** Rows of a part; undefined where the parameter need not, or cannot, be split. */
function rowsWithin({ type }: ParamNode, limit: number): number | undefined {
  const [rows = 1, ...rest] = type.shape.map((d) => dimConstant(d) ?? 0);
  // Columns may become those of panels too.
  const row = rest.reduce((a, b, i) => a * (i === rest.length - 1 ? step * Math.ceil(b / step) : b), bytesOf(type.dtype));
  if (Math.ceil(rows / step) * step * row <= limit || rows * row <= Math.min(limit, step * row)) return undefined;
  const most = Math.floor(limit / row);
  return most < 1 ? undefined : most >= step ? most - (most % step) : most;
}

class Splitter {
  private readonly graph: Graph;
  private readonly large: ReadonlyMap<ValueId, number>;
  private readonly parts = new Map<ValueId, readonly Part[]>();
  /** The whole again, for readers that can take it as rows of several. */
  private readonly wholes = new Map<ValueId, ValueId>();

  constructor(graph: Graph, large: ReadonlyMap<ValueId, number>) {
    this.graph = graph;
    this.large = large;
  }

  run(): Graph {
    return rewrite(
      this.graph,
      (node, of, builder) => this.op(node, of, builder),
      () => true,
      (node, builder) => {
        const each = this.large.get(node.id);
        return node.kind === "param" && each !== undefined ? this.split(node, each, builder) : undefined;
      },
    );
  }

  private split(node: ParamNode, each: number, builder: GraphBuilder): ValueId {
    const [size = dim(1), ...rest] = node.type.shape;
    const rows = dimConstant(size) ?? 0;
    const whole: RowsOf = node.rows ?? { of: node.name, first: 0, rows };
    const parts: Part[] = [];
    for (let first = 0; first < rows; first += each) {
      const count = Math.min(each, rows - first);
      const own: RowsOf = { ...whole, first: whole.first + first };
      const type = { dtype: node.type.dtype, shape: [dim(count), ...rest] };
      parts.push({ value: builder.param(rowsName(own, count), type, node.init, node.packed, own), first, rows: count });
    }
    this.parts.set(node.id, parts);
    return parts[0]?.value ?? -1;
  }

  private op(node: OpNode, of: (old: ValueId) => ValueId, builder: GraphBuilder): ValueId {
    const partsOf = (i: number): readonly Part[] | undefined => this.parts.get(node.operands[i] ?? -1);
    const [table, matrix] = [partsOf(0), partsOf(1)];
    if (opOf(node.op).unpacks === true && table !== undefined) return this.unpacked(builder, node, table);
    if (node.op === "gather" && table !== undefined && matrix === undefined) return looked(builder, table, of(node.operands[1] ?? -1));
    if (node.op === "matmul" && matrix !== undefined && table === undefined && node.type.shape.length === 2)
      return multiplied(builder, node, of(node.operands[0] ?? -1), matrix);
    const whole = (id: ValueId): ValueId => {
      const parts = this.parts.get(id);
      if (parts === undefined) return of(id);
      const known =
        this.wholes.get(id) ??
        builder.op(
          "concat",
          parts.map((p) => p.value),
          { axis: 0 },
        );
      this.wholes.set(id, known);
      return known;
    };
    return keepOp(node, whole, builder);
  }

  /** A part for each part of the values, whose scales and minima have the same rows. */
  private unpacked(builder: GraphBuilder, node: OpNode, values: readonly Part[]): ValueId {
    const parts = values.map((p, i): Part => {
      const operands = node.operands.map((id) => this.parts.get(id)?.[i]?.value ?? -1);
      return { ...p, value: builder.op(node.op, operands, node.attrs) };
    });
    this.parts.set(node.id, parts);
    return parts[0]?.value ?? -1;
  }
}

function looked(builder: GraphBuilder, parts: readonly Part[], index: ValueId): ValueId {
  const { shape } = builder.typeOf(index);
  const constant = (value: number): ValueId => builder.constant("i32", shape, [value]);
  const within = (p: Part): ValueId => {
    const own = p.first === 0 ? index : builder.op("sub", [index, constant(p.first)]);
    const least = p.first === 0 ? own : builder.op("maximum", [own, constant(0)]);
    return builder.op("gather", [p.value, builder.op("minimum", [least, constant(p.rows - 1)])]);
  };
  // From the last part on: what is before it takes precedence.
  const [last, ...before] = parts.toReversed();
  if (last === undefined) throw new Error("a parameter has parts");
  return before.reduce((value, p) => {
    const type = builder.typeOf(value);
    const here = builder.op("lt", [index, constant(p.first + p.rows)]);
    const tall: readonly Dim[] = [...shape, ...type.shape.slice(shape.length).map(() => dim(1))];
    const cond =
      tall.length === shape.length
        ? here
        : builder.op("broadcast", [builder.op("reshape", [here], { shape: tall })], { shape: type.shape });
    return builder.op("select", [cond, within(p), value]);
  }, within(last));
}

function multiplied(builder: GraphBuilder, node: OpNode, x: ValueId, parts: readonly Part[]): ValueId {
  if (node.attrs["transpose_b"] === true) {
    const products = parts.map((p) => builder.op("matmul", [x, p.value], node.attrs));
    return builder.op("concat", products, { axis: 1 });
  }
  const axis = node.attrs["transpose_a"] === true ? 0 : 1;
  const sums = parts.map((p) => {
    const slice = builder.op("slice", [x], { axis, start: dim(p.first), stop: dim(p.first + p.rows), step: 1 });
    return builder.op("matmul", [slice, p.value], node.attrs);
  });
  return sums.reduce((a, b) => builder.op("add", [a, b]));
}

/** With a limit of 512 bytes. */
export const splitParamsExamples: readonly Example[] = [
  {
    says: "a product by rows is the products by its parts, side by side; a small parameter stays",
    before: `graph "head" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 4]
  %1 = param "w" ~ normal(0.5) : f32[6, 4]
  %2 = param "b" : f32[6]
  %3 = matmul(%0, %1) {transpose_a: false, transpose_b: true} : f32[T, 6]
  %4 = broadcast(%2) {shape: dims[T, 6]} : f32[T, 6]
  %5 = add(%3, %4) : f32[T, 6]
  output "y" = %5
}`,
    after: `graph "head" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 4]
  %1 = param "w[0:4]" ~ normal(0.5) rows 0 in 6 of "w" : f32[4, 4]
  %2 = param "w[4:6]" ~ normal(0.5) rows 4 in 6 of "w" : f32[2, 4]
  %3 = param "b" : f32[6]
  %4 = matmul(%0, %1) {transpose_a: false, transpose_b: true} : f32[T, 4]
  %5 = matmul(%0, %2) {transpose_a: false, transpose_b: true} : f32[T, 2]
  %6 = concat(%4, %5) {axis: 1} : f32[T, 6]
  %7 = broadcast(%3) {shape: dims[T, 6]} : f32[T, 6]
  %8 = add(%6, %7) : f32[T, 6]
  output "y" = %8
}`,
  },
  {
    says: "a product by columns is the sum of the products of parts",
    before: `graph "columns" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 6]
  %1 = param "w" : f32[6, 4]
  %2 = matmul(%0, %1) {transpose_a: false, transpose_b: false} : f32[T, 4]
  output "y" = %2
}`,
    after: `graph "columns" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 6]
  %1 = param "w[0:4]" rows 0 in 6 of "w" : f32[4, 4]
  %2 = param "w[4:6]" rows 4 in 6 of "w" : f32[2, 4]
  %3 = slice(%0) {axis: 1, start: dim(0), stop: dim(4), step: 1} : f32[T, 4]
  %4 = matmul(%3, %1) {transpose_a: false, transpose_b: false} : f32[T, 4]
  %5 = slice(%0) {axis: 1, start: dim(4), stop: dim(6), step: 1} : f32[T, 2]
  %6 = matmul(%5, %2) {transpose_a: false, transpose_b: false} : f32[T, 4]
  %7 = add(%4, %6) : f32[T, 4]
  output "y" = %7
}`,
  },
  {
    says: "rows that are looked up come from their part; an index is never outside of the part that it is tried in",
    before: `graph "embedding" {
  symbol T: 0..8
  %0 = input "ids" : i32[T]
  %1 = param "table" : f32[6, 4]
  %2 = gather(%1, %0) : f32[T, 4]
  output "y" = %2
}`,
    after: `graph "embedding" {
  symbol T: 0..8
  %0 = input "ids" : i32[T]
  %1 = param "table[0:4]" rows 0 in 6 of "table" : f32[4, 4]
  %2 = param "table[4:6]" rows 4 in 6 of "table" : f32[2, 4]
  %3 = constant [4] : i32[T]
  %4 = sub(%0, %3) : i32[T]
  %5 = constant [0] : i32[T]
  %6 = maximum(%4, %5) : i32[T]
  %7 = constant [1] : i32[T]
  %8 = minimum(%6, %7) : i32[T]
  %9 = gather(%2, %8) : f32[T, 4]
  %10 = constant [4] : i32[T]
  %11 = lt(%0, %10) : bool[T]
  %12 = reshape(%11) {shape: dims[T, 1]} : bool[T, 1]
  %13 = broadcast(%12) {shape: dims[T, 4]} : bool[T, 4]
  %14 = constant [3] : i32[T]
  %15 = minimum(%0, %14) : i32[T]
  %16 = gather(%1, %15) : f32[T, 4]
  %17 = select(%13, %16, %9) : f32[T, 4]
  output "y" = %17
}`,
  },
  {
    says: "any other reader reads the parts one behind the other",
    before: `graph "other" {
  %0 = param "w" : f32[6, 4]
  %1 = input "x" : f32[6, 4]
  %2 = mul(%0, %1) : f32[6, 4]
  output "y" = %2
}`,
    after: `graph "other" {
  %0 = param "w[0:4]" rows 0 in 6 of "w" : f32[4, 4]
  %1 = param "w[4:6]" rows 4 in 6 of "w" : f32[2, 4]
  %2 = input "x" : f32[6, 4]
  %3 = concat(%0, %1) {axis: 0} : f32[6, 4]
  %4 = mul(%3, %2) : f32[6, 4]
  output "y" = %4
}`,
  },
  {
    says: "a packed weight is cut at the same rows in all its parts, whichever of them is too large",
    before: `graph "packed" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 64]
  %1 = input "ids" : i32[T]
  %2 = param "w.values" of q8_0 values "w" [6, 64] : i32[6, 16]
  %3 = param "w.scales" of q8_0 scales "w" [6, 64] : f16[6, 2]
  %4 = unpack(%2, %3) {bits: 8} : f32[6, 64]
  %5 = matmul(%0, %4) {transpose_a: false, transpose_b: true} : f32[T, 6]
  output "y" = %5
}`,
    after: `graph "packed" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 64]
  %1 = input "ids" : i32[T]
  %2 = param "w.values[0:4]" of q8_0 values "w" [6, 64] rows 0 in 6 of "w.values" : i32[4, 16]
  %3 = param "w.values[4:6]" of q8_0 values "w" [6, 64] rows 4 in 6 of "w.values" : i32[2, 16]
  %4 = param "w.scales[0:4]" of q8_0 scales "w" [6, 64] rows 0 in 6 of "w.scales" : f16[4, 2]
  %5 = param "w.scales[4:6]" of q8_0 scales "w" [6, 64] rows 4 in 6 of "w.scales" : f16[2, 2]
  %6 = unpack(%2, %4) {bits: 8} : f32[4, 64]
  %7 = unpack(%3, %5) {bits: 8} : f32[2, 64]
  %8 = matmul(%0, %6) {transpose_a: false, transpose_b: true} : f32[T, 4]
  %9 = matmul(%0, %7) {transpose_a: false, transpose_b: true} : f32[T, 2]
  %10 = concat(%8, %9) {axis: 1} : f32[T, 6]
  output "y" = %10
}`,
  },
];
