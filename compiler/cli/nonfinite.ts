// Where a training step stopped being finite: the step's graph is run again, operation by operation, with the parameters
// and the inputs of the step that failed, and asked of every value whether it holds a NaN or an infinity. Slow; it is
// only done when a training fails. Changes nothing of the training.

import { isFloat } from "../ir/dtype.ts";
import { GraphBuilder, nodesById, typeText } from "../ir/graph/build.ts";
import type { Graph, GraphNode, OpNode, ValueId } from "../ir/graph/types.ts";
import { locText } from "../ir/loc.ts";
import type { Recipe } from "../ir/plan/training.ts";
import { splat, sub } from "../../ops/emit.ts";
import { typeRule } from "../../ops/index.ts";
import type { Inputs } from "../../runtime/inputs.ts";
import { Session, type SessionOptions } from "../../runtime/session.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import { compileFor } from "./compiling.ts";
import { targetOf } from "./device.ts";

export interface FailedStep {
  /** As `trainingGraph` made it. */
  readonly graph: Graph;
  readonly recipe: Recipe;
  /** Values from this one on are of the backward pass. */
  readonly backward: ValueId;
  /** What the trainer gives: the states before the step. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Of the step's runs. */
  readonly runs: readonly Inputs[];
  /** Where the frozen parameters are, and the device that it is looked for on; WebAssembly where there is none. */
  readonly session: Pick<SessionOptions, "device" | "weights" | "init" | "threads">;
}

/** How many elements of a value are NaN, and how many are NaN or infinite. */
interface Counts {
  readonly nan: number;
  readonly bad: number;
}

/** A sentence that names the first operation and its line. */
export async function findNonFinite(step: FailedStep): Promise<string> {
  const { graph, values } = withCounts(step.graph);
  const { device } = step.session;
  const target = device === undefined ? ({ target: "wasm" } as const) : targetOf(device);
  await using session = await Session.create(compileFor(graph, target, { fuse: false }), step.session);
  const states = new Set(graph.nodes.flatMap((n) => (n.kind === "state" ? [n.name] : [])));
  for (const [name, tensor] of step.tensors) if (states.has(name)) await session.writeState(name, tensor);
  const given = scalars(step.recipe, step.runs.length);
  for (const [i, run] of step.runs.entries()) {
    const { outputs } = await session.run({ ...run, ...given });
    const counts = new Map(
      values.map(({ id, nan, bad }) => [id, { nan: outputs[nan]?.data[0] ?? 0, bad: outputs[bad]?.data[0] ?? 0 }] as const),
    );
    const said = origin(step, counts);
    if (said !== undefined) return step.runs.length === 1 ? said : `sample ${i} of the step: ${said}`;
  }
  return "every value of each sample is finite by itself: the gradients became infinite when they were added up";
}

function scalars({ inputs }: Recipe, runs: number): Inputs {
  const one = (value: number): Tensor => ({ dtype: "f32", shape: [], data: Float32Array.of(value) });
  return {
    [inputs.factor]: one(1),
    [inputs.firstCorrection]: one(1),
    [inputs.secondCorrection]: one(1),
    ...(inputs.share === undefined ? {} : { [inputs.share]: one(1 / runs) }),
    ...(inputs.ends === undefined ? {} : { [inputs.ends]: one(1) }),
  };
}

/** The graph with nothing but counts as outputs, and nothing updated. */
function withCounts(source: Graph): {
  readonly graph: Graph;
  readonly values: readonly { readonly id: ValueId; readonly nan: string; readonly bad: string }[];
} {
  const b = new GraphBuilder(source.name, typeRule, { ...source, updates: [] });
  b.clearOutputs();
  const values = source.nodes.flatMap((node) => {
    if (!isFloat(node.type.dtype) || node.kind === "constant") return [];
    const x = node.type.dtype === "f32" ? node.id : b.op("cast", [node.id], { dtype: "f32" });
    const count = (what: string, holds: ValueId): string => {
      const name = `${what}.${node.id}`;
      const each = b.op("select", [holds, splat(b, x, 1), splat(b, x, 0)]);
      const axes = node.type.shape.map((_, i) => i);
      b.output(name, axes.length === 0 ? each : b.op("reduce_sum", [each], { axes, keep: false }));
      return name;
    };
    // Infinity minus itself is NaN, and NaN is not equal to anything.
    const own = b.op("ne", [x, x]);
    const rest = sub(b, x, x);
    return [{ id: node.id, nan: count("nan", own), bad: count("bad", b.op("ne", [rest, rest])) }];
  });
  return { graph: b.build(), values };
}

/** Undefined when nothing is wrong. */
function origin(step: FailedStep, counts: ReadonlyMap<ValueId, Counts>): string | undefined {
  const nodes = nodesById(step.graph);
  const bad = (id: ValueId): boolean => (counts.get(id)?.bad ?? 0) > 0;
  const start =
    step.graph.nodes.find((n) => (counts.get(n.id)?.nan ?? 0) > 0) ??
    step.graph.outputs.map((o) => nodes.get(o.value)).find((n): n is GraphNode => n !== undefined && bad(n.id));
  if (start === undefined) return undefined;
  // Back along what was not finite before it: an infinity is often made long before it becomes a NaN.
  let first = start;
  for (;;) {
    const before: GraphNode | undefined =
      first.kind === "op" ? first.operands.map((v) => nodes.get(v)).find((n) => n && bad(n.id)) : undefined;
    if (before === undefined) break;
    first = before;
  }
  const said = describe(step, first, counts);
  return first === start ? said : `${said}; the first NaN is of ${describe(step, start, counts)}`;
}

function describe(step: FailedStep, node: GraphNode, counts: ReadonlyMap<ValueId, Counts>): string {
  const { nan = 0, bad = 0 } = counts.get(node.id) ?? {};
  const what = nan > 0 ? `${nan} NaN` : `${bad} infinite`;
  if (node.kind !== "op") return `${"name" in node ? `${node.kind} ${node.name}` : node.kind} ${typeText(node.type)} has ${what} elements`;
  const pass = node.id >= step.backward ? ", in the backward pass" : "";
  return `${node.op} at ${placeOf(node)}${pass}, ${typeText(node.type)}, has ${what} elements`;
}

function placeOf(node: OpNode): string {
  return node.loc.length === 0 ? "the optimiser" : locText(node.loc);
}
