// uhdc run --verify: what each kernel wrote, against the references of the op table in float64, which are given what the
// kernel read: an error is told where it is made, not where it shows. Runs nothing on a device.

import type { Tensor } from "../../runtime/tensor.ts";
import type { WeightsOptions } from "../../runtime/weights/load.ts";
import type { DType } from "../ir/dtype.ts";
import type { ConcreteTensor } from "../ir/graph/eval.ts";
import type { Graph, GraphNode, ValueId } from "../ir/graph/types.ts";
import { locText } from "../ir/loc.ts";
import { bindPlan } from "../ir/plan/bind.ts";
import type { Plan } from "../ir/plan/types.ts";
import { concrete, evaluated, readParams, tableOf } from "./reference.ts";
import type { RunInputs } from "./run-inputs.ts";
import type { VerifiedValue } from "./verified.ts";

/**
 * Shares of the largest number of a value. Products and attentions of the small LLaVA-UHD, approximated functions among them,
 * came to 1.4e-6 at most (WebAssembly with f32 and int8 weights, lavapipe); a sum of thousands of terms may come to more, and
 * what is wrong is rarely wrong by less than this. f16 and bf16: two units in the last place of what is rounded once. Whole
 * numbers are exact, but for bytes that pictures are rounded to.
 */
const limits: Readonly<Record<DType, number>> = { f32: 1e-4, f16: 2 ** -9, bf16: 2 ** -6, u8: 1.01 / 255, i8: 0, i32: 0, bool: 0 };

export interface Computed {
  readonly graph: Graph;
  readonly plan: Plan;
  readonly given: Pick<RunInputs, "inputs" | "shapes" | "given">;
  /** What states held when the run began. */
  readonly states: ReadonlyMap<string, Tensor>;
  /** What the device wrote, by value. */
  readonly values: ReadonlyMap<ValueId, Tensor>;
  readonly weights: WeightsOptions | undefined;
  readonly seed: number | undefined;
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** In the order of the graph. Rejects with the signal's reason. */
export async function verify(computed: Computed): Promise<readonly VerifiedValue[]> {
  const { graph, plan, given, states, values, weights, seed, onProgress, signal } = computed;
  const { run } = bindPlan(plan, given.shapes, given.given);
  // As the plan has them: parts of what is packed, rows of what is split.
  const { params } = await readParams(plan.params, weights, seed);
  const found: VerifiedValue[] = [];
  const observe = (node: GraphNode, value: ConcreteTensor, operands: readonly ConcreteTensor[]): ConcreteTensor => {
    const computed = values.get(node.id);
    if (computed === undefined) return value;
    const own = concrete(computed);
    const unit = node.kind === "op" ? unitOfSum(node.op, operands, value) : 0;
    const limit = limits[value.dtype];
    const scale = Math.max(value.dtype === "u8" ? 255 : largest(value), limit === 0 ? 0 : unit / limit);
    found.push({
      op: node.kind === "op" ? node.op : node.kind,
      at: locText(node.loc.slice(0, 1)),
      dtype: value.dtype,
      shape: value.shape,
      error: difference(own.data, value.data, scale),
      limit,
    });
    onProgress?.(found.length, values.size);
    return own;
  };
  await evaluated(
    graph,
    {
      // They are tensors: the inputs were checked.
      inputs: Object.fromEntries(plan.inputs.map(({ name }) => [name, concrete(given.inputs[name] as Tensor)])),
      params,
      states: Object.fromEntries([...states].map(([name, tensor]) => [name, concrete(tensor)])),
      table: (node) => tableOf(node, run),
      symbols: run.symbols,
      observe,
    },
    signal,
  );
  return found;
}

/** What rounding alone may make of a sum whose terms cancel: a few units in the last place of a term for each of √n terms. */
function unitOfSum(op: string, operands: readonly ConcreteTensor[], { data }: ConcreteTensor): number {
  const [a, b] = operands;
  const unit = (terms: number, term: number): number => (Number.isFinite(term) ? 4 * 2 ** -24 * Math.sqrt(terms) * term : 0);
  switch (op) {
    case "reduce_sum":
      return a === undefined || data.length === 0 ? 0 : unit(a.data.length / data.length, largest(a));
    case "add":
    case "sub":
      return a === undefined || b === undefined ? 0 : unit(2, Math.max(largest(a), largest(b)));
    case "matmul":
      return a === undefined || b === undefined ? 0 : unit(a.shape.at(-1) ?? 1, largest(a) * largest(b));
    default:
      return 0;
  }
}

/** Of what is finite. */
function largest({ data }: ConcreteTensor): number {
  let most = 0;
  for (const x of data) if (Number.isFinite(x)) most = Math.max(most, Math.abs(x));
  return most;
}

function difference(found: Float64Array, wanted: Float64Array, scale: number): number {
  let most = 0;
  for (const [i, w] of wanted.entries()) {
    const f = found[i] ?? NaN;
    if (Object.is(f, w) || f === w) continue;
    if (!Number.isFinite(f) || !Number.isFinite(w)) return Infinity;
    most = Math.max(most, Math.abs(f - w));
  }
  return most === 0 ? 0 : most / scale;
}
