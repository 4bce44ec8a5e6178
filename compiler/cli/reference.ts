// `--device reference`: a graph in float64 with the references of the op table, the meaning that every device is compared
// with. Slow on purpose: for small sizes. Compiles nothing, so what it says does not depend on fusion or kernels.

import { setImmediate } from "node:timers/promises";
import { tensorFromBytes, type Tensor } from "../../runtime/tensor.ts";
import { openParams, type WeightsOptions } from "../../runtime/weights/load.ts";
import { decodeElements, encodeElements } from "../../ops/reference/elements.ts";
import { referenceOf } from "../../ops/index.ts";
import { bytesOf } from "../ir/dtype.ts";
import { dimConstant, dimEval } from "../ir/dim.ts";
import { evaluation, type ConcreteTensor, type GraphInputs, type GraphResult } from "../ir/graph/eval.ts";
import type { Graph, ParamNode, TableNode, TensorType } from "../ir/graph/types.ts";
import { bindPlan } from "../ir/plan/bind.ts";
import type { HostValue } from "../ir/plan/host.ts";
import { tableData, type HostRun } from "../ir/plan/host-eval.ts";
import type { Plan, PlanParam } from "../ir/plan/types.ts";
import type { RunInputs } from "./run-inputs.ts";

export interface ReferenceResult {
  readonly outputs: Readonly<Record<string, Tensor>>;
  /** What the shape code computed, by name. */
  readonly host: Readonly<Record<string, HostValue>>;
  readonly untrained: readonly string[];
}

/**
 * Evaluates `graph` on inputs, with the shape code of its plan. Every value that is kept is float64; results are rounded
 * to their dtype at the end. Throws WeightsError as a session does, and BindError for sizes that do not fit.
 */
export async function runReference(
  graph: Graph,
  plan: Plan,
  { inputs, shapes, given }: Pick<RunInputs, "inputs" | "shapes" | "given">,
  weights: WeightsOptions | undefined,
  seed: number | undefined,
  signal?: AbortSignal,
): Promise<ReferenceResult> {
  const { run } = bindPlan(plan, shapes, given);
  const { params, untrained } = await paramsOf(graph, weights, seed);
  const { outputs } = await evaluated(
    graph,
    {
      // They are tensors: the inputs were checked.
      inputs: Object.fromEntries(plan.inputs.map(({ name }) => [name, concrete(inputs[name] as Tensor)])),
      params,
      states: Object.fromEntries(graph.nodes.flatMap((n) => (n.kind === "state" ? [[n.name, zeros(n.type, run)]] : []))),
      table: (node) => tableOf(node, run),
      symbols: run.symbols,
    },
    signal,
  );
  return { outputs: Object.fromEntries(Object.entries(outputs).map(([name, t]) => [name, rounded(t)])), host: run.values, untrained };
}

/** In float64; between values the event loop turns, so that a signal is heard. Rejects with the signal's reason. */
export async function evaluated(graph: Graph, given: GraphInputs, signal?: AbortSignal): Promise<GraphResult> {
  const steps = evaluation(graph, referenceOf, given);
  let turned = performance.now();
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
    if (performance.now() - turned < mostAtOnce) continue;
    await setImmediate();
    signal?.throwIfAborted();
    turned = performance.now();
  }
}

/** Milliseconds. */
const mostAtOnce = 50;

export async function paramsOf(
  graph: Graph,
  weights: WeightsOptions | undefined,
  seed: number | undefined,
): Promise<{ readonly params: Readonly<Record<string, ConcreteTensor>>; readonly untrained: readonly string[] }> {
  return readParams(graph.nodes.filter((n): n is ParamNode => n.kind === "param").map(planParam), weights, seed);
}

export async function readParams(
  wanted: readonly PlanParam[],
  weights: WeightsOptions | undefined,
  seed: number | undefined,
): Promise<{ readonly params: Readonly<Record<string, ConcreteTensor>>; readonly untrained: readonly string[] }> {
  await using source = await openParams(wanted, weights, seed);
  const params: Record<string, ConcreteTensor> = {};
  for (const param of wanted) {
    const bytes = new Uint8Array(param.shape.reduce((a, b) => a * b, 1) * bytesOf(param.dtype));
    await source.read(param, 0, bytes);
    params[param.name] = concrete(tensorFromBytes(param.dtype, param.shape, bytes));
  }
  return { params, untrained: source.untrained };
}

function planParam({ name, type, init }: ParamNode): PlanParam {
  const shape = type.shape.map((d) => dimConstant(d) ?? NaN);
  // There is no buffer: nobody asks for it.
  return { name, dtype: type.dtype, shape, buffer: -1, ...(init === undefined ? {} : { init }) };
}

export function concrete({ dtype, shape, data }: Tensor): ConcreteTensor {
  return { dtype, shape, data: decodeElements(dtype, data) };
}

export function rounded({ dtype, shape, data }: ConcreteTensor): Tensor {
  return { dtype, shape, data: encodeElements(dtype, data) } as Tensor;
}

function zeros({ dtype, shape }: TensorType, run: HostRun): ConcreteTensor {
  const sizes = shape.map((d) => dimEval(d, run.symbols));
  return { dtype, shape: sizes, data: new Float64Array(sizes.reduce((a, b) => a * b, 1)) };
}

export function tableOf({ name, type, value }: TableNode, run: HostRun): ConcreteTensor {
  const { dtype } = type;
  const data = tableData({ name, dtype, shape: type.shape.map((d) => d.text), value }, run);
  return { dtype, shape: type.shape.map((d) => dimEval(d, run.symbols)), data: Float64Array.from(data) };
}
