// An op of more operands than a kernel may read becomes one of fewer. Of concat, which takes any number, a concat of
// concats; other ops get some of their operands as parts of one value: those of one element type, laid one behind the other.
// For devices with such a limit alone (WebGPU: eight buffers a kernel, the one it writes included).

import { dim, dimAdd, dimProduct } from "../ir/dim.ts";
import { nodesById, type GraphBuilder } from "../ir/graph/build.ts";
import type { Attrs, Graph, OpNode, ValueId } from "../ir/graph/types.ts";
import { opOf } from "../../ops/index.ts";
import { keepOp, rewrite, type Example, type Pass } from "./rewrite.ts";

/** No op reads more than `most` values, but through views of one. */
export function fewOperands(most: number): Pass {
  return {
    name: "few-operands",
    description: "an op of many operands becomes a concat of concats, or gets some operands as parts of one value",
    run: (graph) => {
      const many = new Set(graph.nodes.flatMap((n) => (n.kind === "op" && sources(graph, n).size > most ? [n.id] : [])));
      return many.size === 0 ? graph : new Narrower(graph, many, most).run();
    },
  };
}

const nodesOf = new WeakMap<Graph, ReturnType<typeof nodesById>>();

/** What an op reads once views are looked through. */
function sources(graph: Graph, node: OpNode): ReadonlySet<ValueId> {
  let nodes = nodesOf.get(graph);
  if (nodes === undefined) nodesOf.set(graph, (nodes = nodesById(graph)));
  const all = nodes;
  const source = (id: ValueId): ValueId => {
    const of = all.get(id);
    const from = of?.kind === "op" && opOf(of.op).view !== undefined ? of.operands[0] : undefined;
    return from === undefined ? id : source(from);
  };
  return new Set(node.operands.map(source));
}

class Narrower {
  private readonly graph: Graph;
  private readonly many: ReadonlySet<ValueId>;
  private readonly most: number;
  /** Values that lie one behind the other, by their ids: layers share tables. */
  private readonly joined = new Map<string, ValueId>();

  constructor(graph: Graph, many: ReadonlySet<ValueId>, most: number) {
    this.graph = graph;
    this.many = many;
    this.most = most;
  }

  run(): Graph {
    return rewrite(this.graph, (node, of, builder) => {
      if (!this.many.has(node.id)) return keepOp(node, of, builder);
      const operands = node.operands.map(of);
      return node.op === "concat" ? this.concat(builder, operands, node.attrs) : this.narrowed(builder, node, operands);
    });
  }

  private concat(builder: GraphBuilder, all: readonly ValueId[], attrs: Attrs): ValueId {
    if (all.length <= this.most) return builder.op("concat", all, attrs);
    const groups: ValueId[] = [];
    for (let i = 0; i < all.length; i += this.most) {
      const some = all.slice(i, i + this.most);
      groups.push(some.length === 1 ? (some[0] ?? -1) : builder.op("concat", some, attrs));
    }
    return this.concat(builder, groups, attrs);
  }

  /** Tables before tensors: they are small. */
  private narrowed(builder: GraphBuilder, node: OpNode, operands: readonly ValueId[]): ValueId {
    const stands = new Map<ValueId, ValueId>();
    let count = sources(this.graph, node).size;
    const types = [...new Set(operands.map((o) => builder.typeOf(o).dtype))].sort((a, b) => Number(a === "f32") - Number(b === "f32"));
    for (const dtype of types) {
      const some = [...new Set(operands)].filter((o) => builder.typeOf(o).dtype === dtype);
      if (count <= this.most || some.length < 2) continue;
      for (const [value, part] of this.parts(builder, some)) stands.set(value, part);
      count -= some.length - 1;
    }
    return builder.op(
      node.op,
      operands.map((o) => stands.get(o) ?? o),
      node.attrs,
    );
  }

  /** Each value as a part of all. */
  private parts(builder: GraphBuilder, values: readonly ValueId[]): ReadonlyMap<ValueId, ValueId> {
    const flat = (v: ValueId): ValueId => {
      const { shape } = builder.typeOf(v);
      return shape.length === 1 ? v : builder.op("reshape", [v], { shape: [dimProduct(shape)] });
    };
    const key = values.join();
    const whole = this.joined.get(key) ?? builder.op("concat", values.map(flat), { axis: 0 });
    this.joined.set(key, whole);
    const found = new Map<ValueId, ValueId>();
    let at = dim(0);
    for (const v of values) {
      const { shape } = builder.typeOf(v);
      const end = dimAdd(at, dimProduct(shape));
      const part = builder.op("slice", [whole], { axis: 0, start: at, stop: end, step: 1 });
      found.set(v, shape.length === 1 ? part : builder.op("reshape", [part], { shape }));
      at = end;
    }
    return found;
  }
}

/** With at most three operands. */
export const fewOperandsExamples: readonly Example[] = [
  {
    says: "groups of as many operands as there may be; one that is left stands for itself",
    before: `graph "many" {
  %0 = input "a" : f32[1]
  %1 = input "b" : f32[2]
  %2 = input "c" : f32[3]
  %3 = input "d" : f32[1]
  %4 = concat(%0, %1, %2, %3, %0, %1, %0) {axis: 0} : f32[11]
  output "y" = %4
}`,
    after: `graph "many" {
  %0 = input "a" : f32[1]
  %1 = input "b" : f32[2]
  %2 = input "c" : f32[3]
  %3 = input "d" : f32[1]
  %4 = concat(%0, %1, %2) {axis: 0} : f32[6]
  %5 = concat(%3, %0, %1) {axis: 0} : f32[4]
  %6 = concat(%4, %5, %0) {axis: 0} : f32[11]
  output "y" = %6
}`,
  },
  {
    says: "operands of one element type become parts of one value, tables first, only as many as must",
    before: `graph "attend" {
  symbol T: 0..8
  %0 = input "q" : f32[T, 1, 2]
  %1 = input "segment" : i32[T]
  %2 = constant [0] : i32[2]
  %3 = input "ends" : i32[2]
  %4 = attention(%0, %0, %0, %1, %2, %3) {scale: 1, causal: false} : f32[T, 1, 2]
  output "y" = %4
}`,
    after: `graph "attend" {
  symbol T: 0..8
  %0 = input "q" : f32[T, 1, 2]
  %1 = input "segment" : i32[T]
  %2 = constant [0] : i32[2]
  %3 = input "ends" : i32[2]
  %4 = concat(%1, %2, %3) {axis: 0} : i32[T + 4]
  %5 = slice(%4) {axis: 0, start: dim(0), stop: dim(T), step: 1} : i32[T]
  %6 = slice(%4) {axis: 0, start: dim(T), stop: dim(T + 2), step: 1} : i32[2]
  %7 = slice(%4) {axis: 0, start: dim(T + 2), stop: dim(T + 4), step: 1} : i32[2]
  %8 = attention(%0, %0, %0, %5, %6, %7) {scale: 1, causal: false} : f32[T, 1, 2]
  output "y" = %8
}`,
  },
];
