// Reverse-mode differentiation, Graph -> Graph, driven by the op table. Works on the unfused graph: the result
// holds the forward values and the backward values, and passes share and fuse them afterwards. Composite ops
// without a rule of their own are differentiated through their decomposition, built beside the forward op.
// Does not choose what is kept and what is computed again.

import { isFloat } from "../ir/dtype.ts";
import { GraphBuilder, nodesById } from "../ir/graph/build.ts";
import type { Graph, OpNode, ValueId } from "../ir/graph/types.ts";
import { locText } from "../ir/loc.ts";
import type { OpDefinition } from "../../ops/define.ts";
import { opOf, typeRule } from "../../ops/index.ts";

/** A derivative was asked for through an op that has none, or of a value that cannot have one. */
export class AutodiffError extends Error {
  override readonly name = "AutodiffError";
}

export interface GradientRequest {
  /** Names of the outputs that are differentiated; all float outputs when left out. */
  readonly outputs?: readonly string[];
  /** The values whose cotangents are wanted: float inputs, params, or any other float value. */
  readonly wrt: readonly ValueId[];
  /**
   * `input`: each differentiated output y gets an input `d.y` of its type, the cotangent. `one`: the cotangent is 1,
   * for scalar losses. Default `input`.
   */
  readonly seed?: "input" | "one";
}

/** The name of the cotangent of the value called `name`, as an input (of an output) or an output (of an input or param). */
const cotangentName = (name: string): string => `d.${name}`;

/**
 * `graph` with the cotangents of `wrt` as further outputs, after its own: `d.NAME` for an input or param called NAME,
 * `d.%ID` for other values. A value that no differentiated output depends on gets zeros.
 * Throws AutodiffError, naming the op and the place in the source.
 */
export function gradient(graph: Graph, request: GradientRequest): Graph {
  const builder = new GraphBuilder(graph.name, typeRule, graph);
  const nodes = nodesById(graph);
  for (const value of request.wrt) {
    if (!isFloat(builder.typeOf(value).dtype))
      throw new AutodiffError(`%${value} is ${builder.typeOf(value).dtype}, which has no derivative`);
  }
  const pass = new Backward(builder, new Set(request.wrt));
  pass.spread(0);
  for (const output of graph.outputs) {
    const type = builder.typeOf(output.value);
    if (request.outputs === undefined ? !isFloat(type.dtype) : !request.outputs.includes(output.name)) continue;
    if (!isFloat(type.dtype)) throw new AutodiffError(`output ${output.name} is ${type.dtype}, which has no derivative`);
    pass.add(
      output.value,
      request.seed === "one" ? builder.constant(type.dtype, type.shape, [1]) : builder.input(cotangentName(output.name), type),
    );
  }
  pass.run(graph.nodes.filter((node) => node.kind === "op"));
  for (const value of request.wrt) {
    const type = builder.typeOf(value);
    const node = nodes.get(value);
    const name = node !== undefined && "name" in node ? node.name : `%${value}`;
    builder.output(cotangentName(name), pass.of(value) ?? builder.constant(type.dtype, type.shape, [0]));
  }
  return builder.build();
}

class Backward {
  readonly #builder: GraphBuilder;
  /** Values that depend on one whose cotangent is wanted. */
  readonly #active: Set<ValueId>;
  readonly #cotangents = new Map<ValueId, ValueId>();

  constructor(builder: GraphBuilder, active: Set<ValueId>) {
    this.#builder = builder;
    this.#active = active;
  }

  of(value: ValueId): ValueId | undefined {
    return this.#cotangents.get(value);
  }

  /** Adds to the cotangent of `value`. */
  add(value: ValueId, cotangent: ValueId): void {
    const before = this.#cotangents.get(value);
    this.#cotangents.set(value, before === undefined ? cotangent : this.#builder.op("add", [before, cotangent]));
  }

  /** Marks what depends on active values, from node `id` on. */
  spread(id: ValueId): void {
    for (const node of this.#builder.nodesFrom(id)) {
      if (node.kind === "op" && isFloat(node.type.dtype) && node.operands.some((v) => this.#active.has(v))) this.#active.add(node.id);
    }
  }

  /** Sends cotangents from results to operands; `nodes` are in topological order. */
  run(nodes: readonly OpNode[]): void {
    for (const node of nodes.toReversed()) {
      const cotangent = this.#cotangents.get(node.id);
      if (cotangent === undefined || !this.#active.has(node.id)) continue;
      const before = this.#builder.at(node.loc);
      this.#step(node, cotangent);
      this.#builder.at(before);
    }
  }

  #step(node: OpNode, cotangent: ValueId): void {
    const op = opOf(node.op);
    switch (op.derivative.kind) {
      case "vjp": {
        const { operands, attrs } = node;
        const given = op.derivative.build(this.#builder, { operands, output: node.id, cotangent, attrs });
        for (const [i, value] of operands.entries()) {
          const g = given[i];
          if (g !== undefined && this.#active.has(value)) this.add(value, g);
        }
        return;
      }
      case "viaDecomposition":
        this.#through(op, node, cotangent);
        return;
      case "nonDifferentiable":
        throw new AutodiffError(`${locText(node.loc)}: ${op.name} has no derivative: ${op.derivative.reason}`);
      default:
        op.derivative satisfies never;
    }
  }

  #through(op: OpDefinition, node: OpNode, cotangent: ValueId): void {
    const build = op.decomposition ?? (op.lowering.kind === "decompose" ? op.lowering.build : undefined);
    if (build === undefined) throw new AutodiffError(`${op.name} says that its derivative goes through a decomposition, but it has none`);
    const first = this.#builder.nextId;
    const result = build(this.#builder, node.operands, node.attrs);
    this.spread(first);
    this.add(result, cotangent);
    this.run(this.#builder.nodesFrom(first).filter((n) => n.kind === "op"));
  }
}
