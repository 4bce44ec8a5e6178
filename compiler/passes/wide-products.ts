// Products of 16-bit floats on targets that multiply f32 alone: the operands are narrowed and stay f32. What would be
// converted at each use is rounded once, where it is made. Only for operands that were f32 before: what is kept in 16 bits, as a
// parameter may be, stays so.
//   matmul(cast(a) {f16}, cast(b) {f16})  ->  cast(matmul(narrow(a), narrow(b))) {f16}

import { nodesById, type GraphBuilder } from "../ir/graph/build.ts";
import type { Graph, GraphNode, OpNode, ValueId } from "../ir/graph/types.ts";
import { opOf } from "../../ops/index.ts";
import { keepOp, rewrite, type Example, type Pass } from "./rewrite.ts";

export const wideProducts: Pass = {
  name: "wide-products",
  description: "products of 16-bit floats become products of narrowed f32",
  run: (graph) => {
    const wide = new Wide(graph);
    return rewrite(graph, (node, of, b) => {
      const before = wide.cast(node);
      if (before !== undefined) return before;
      return wide.product(node, of, b) ?? keepOp(node, of, b);
    });
  },
};

class Wide {
  readonly #nodes: ReadonlyMap<ValueId, GraphNode>;
  /** New f32 values that old 16-bit ones are casts of, or would be if they were stored. */
  readonly #narrowed = new Map<ValueId, ValueId>();

  constructor(graph: Graph) {
    this.#nodes = nodesById(graph);
  }

  /** What `node` gives, if it casts back what was made of f32. */
  cast(node: OpNode): ValueId | undefined {
    return node.op === "cast" && node.type.dtype === "f32" ? this.#narrowed.get(node.operands[0] ?? -1) : undefined;
  }

  product(node: OpNode, of: (old: ValueId) => ValueId, b: GraphBuilder): ValueId | undefined {
    const { dtype } = node.type;
    if (node.op !== "matmul" || (dtype !== "f16" && dtype !== "bf16")) return undefined;
    if (!node.operands.every((v) => this.#wasWide(v))) return undefined;
    const operands = node.operands.map((v) => this.#operand(v, of, b));
    const result = b.op("matmul", operands, node.attrs);
    this.#narrowed.set(node.id, result);
    return b.op("cast", [result], { dtype });
  }

  /** Is a 16-bit value the cast of f32, or one whose elements were only moved? */
  #wasWide(value: ValueId): boolean {
    if (this.#narrowed.has(value)) return true;
    const node = this.#nodes.get(value);
    const [source] = node?.kind === "op" ? node.operands : [];
    if (node?.kind !== "op" || source === undefined) return false;
    if (node.op === "cast") return this.#nodes.get(source)?.type.dtype === "f32";
    return opOf(node.op).view !== undefined && node.operands.length === 1 && this.#wasWide(source);
  }

  /** Such a value as f32. */
  #operand(value: ValueId, of: (old: ValueId) => ValueId, b: GraphBuilder): ValueId {
    const known = this.#narrowed.get(value);
    if (known !== undefined) return known;
    const node = this.#nodes.get(value);
    const [source] = node?.kind === "op" ? node.operands : [];
    if (node?.kind !== "op" || source === undefined) throw new Error(`%${value} was no f32`);
    const made =
      node.op === "cast"
        ? b.op("narrow", [of(source)], { dtype: node.type.dtype })
        : b.op(node.op, [this.#operand(source, of, b)], node.attrs);
    this.#narrowed.set(value, made);
    return made;
  }
}

export const wideProductsExamples: readonly Example[] = [
  {
    says: "a product of casts is one of narrowed f32; its result is f32 for the next one too",
    before: `graph "halves" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 3]
  %1 = param "w" : f32[2, 3]
  %2 = cast(%0) {dtype: "f16"} : f16[T, 3]
  %3 = cast(%1) {dtype: "f16"} : f16[2, 3]
  %4 = matmul(%2, %3) {transpose_a: false, transpose_b: true} : f16[T, 2]
  %5 = cast(%4) {dtype: "f32"} : f32[T, 2]
  %6 = matmul(%4, %3) {transpose_a: false, transpose_b: false} : f16[T, 3]
  %7 = cast(%6) {dtype: "f32"} : f32[T, 3]
  output "y" = %5
  output "z" = %7
}`,
    after: `graph "halves" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 3]
  %1 = param "w" : f32[2, 3]
  %2 = cast(%0) {dtype: "f16"} : f16[T, 3]
  %3 = cast(%1) {dtype: "f16"} : f16[2, 3]
  %4 = narrow(%0) {dtype: "f16"} : f32[T, 3]
  %5 = narrow(%1) {dtype: "f16"} : f32[2, 3]
  %6 = matmul(%4, %5) {transpose_a: false, transpose_b: true} : f32[T, 2]
  %7 = cast(%6) {dtype: "f16"} : f16[T, 2]
  %8 = matmul(%6, %5) {transpose_a: false, transpose_b: false} : f32[T, 3]
  %9 = cast(%8) {dtype: "f16"} : f16[T, 3]
  output "y" = %6
  output "z" = %8
}`,
  },
  {
    says: "operands are seen through what moves their elements",
    before: `graph "moved" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 2, 3]
  %1 = input "y" : f32[3, 4]
  %2 = cast(%0) {dtype: "bf16"} : bf16[T, 2, 3]
  %3 = reshape(%2) {shape: dims[2*T, 3]} : bf16[2*T, 3]
  %4 = cast(%1) {dtype: "bf16"} : bf16[3, 4]
  %5 = matmul(%3, %4) {transpose_a: false, transpose_b: false} : bf16[2*T, 4]
  %6 = cast(%5) {dtype: "f32"} : f32[2*T, 4]
  output "y" = %6
}`,
    after: `graph "moved" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 2, 3]
  %1 = input "y" : f32[3, 4]
  %2 = cast(%0) {dtype: "bf16"} : bf16[T, 2, 3]
  %3 = reshape(%2) {shape: dims[2*T, 3]} : bf16[2*T, 3]
  %4 = cast(%1) {dtype: "bf16"} : bf16[3, 4]
  %5 = narrow(%0) {dtype: "bf16"} : f32[T, 2, 3]
  %6 = reshape(%5) {shape: dims[2*T, 3]} : f32[2*T, 3]
  %7 = narrow(%1) {dtype: "bf16"} : f32[3, 4]
  %8 = matmul(%6, %7) {transpose_a: false, transpose_b: false} : f32[2*T, 4]
  %9 = cast(%8) {dtype: "bf16"} : bf16[2*T, 4]
  output "y" = %8
}`,
  },
  {
    says: "a product by a parameter that is kept in 16 bits stays as it is",
    before: `graph "kept" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 3]
  %1 = param "w" : f16[2, 3]
  %2 = cast(%0) {dtype: "f16"} : f16[T, 3]
  %3 = matmul(%2, %1) {transpose_a: false, transpose_b: true} : f16[T, 2]
  output "y" = %3
}`,
    after: `graph "kept" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 3]
  %1 = param "w" : f16[2, 3]
  %2 = cast(%0) {dtype: "f16"} : f16[T, 3]
  %3 = matmul(%2, %1) {transpose_a: false, transpose_b: true} : f16[T, 2]
  output "y" = %3
}`,
  },
];
