// `uhdc train --device reference`: a training step in float64 with the references of the op table. Between steps its states
// are f32, as checkpoints have them, so that a training that is resumed goes on equal to the bit. Compiles nothing.

import { InputError } from "../../runtime/errors.ts";
import { checkInputs } from "../../runtime/inputs.ts";
import type { StepSession } from "../../runtime/train/trainer.ts";
import { typeText, type Tensor } from "../../runtime/tensor.ts";
import type { WeightsOptions } from "../../runtime/weights/load.ts";
import { referenceOf } from "../../ops/index.ts";
import type { Program } from "../check/index.ts";
import { dimConstant } from "../ir/dim.ts";
import { evalGraph } from "../ir/graph/eval.ts";
import type { StateNode } from "../ir/graph/types.ts";
import { bindPlan } from "../ir/plan/bind.ts";
import type { Plan } from "../ir/plan/types.ts";
import { trainingGraph, TrainingCompileError } from "../train/index.ts";
import { concrete, paramsOf, rounded, tableOf } from "./reference.ts";

/** Runs of the training's graph; `plan` has its shape code. */
export async function referenceSession(
  program: Program,
  plan: Plan,
  weights: WeightsOptions | undefined,
  seed: number | undefined,
): Promise<StepSession> {
  const { train } = program;
  const source = train === undefined ? undefined : program.graphs.get(train.graph);
  if (train === undefined || source === undefined) throw new TrainingCompileError("the file has no train section, or it has errors");
  const { graph } = trainingGraph(source, train);
  const { params } = await paramsOf(graph, weights, seed);
  const declared = graph.nodes.filter((n): n is StateNode => n.kind === "state");
  const states = new Map<string, Tensor>(declared.map((n) => [n.name, zeros(n)]));
  const state = (name: string): Tensor => {
    const found = states.get(name);
    if (found === undefined) throw new InputError(`${plan.name} keeps no state ${name}`);
    return found;
  };
  return {
    plan,
    run: (inputs) => {
      const begin = performance.now();
      const { tensors, shapes, integers } = checkInputs(plan, inputs);
      const { run } = bindPlan(plan, shapes, integers);
      const nameOf = new Map(plan.inputs.map((i) => [i.buffer, i.name]));
      const result = evalGraph(graph, referenceOf, {
        inputs: Object.fromEntries(tensors.map(({ buffer, tensor }) => [nameOf.get(buffer) ?? "", concrete(tensor)])),
        params,
        states: Object.fromEntries([...states].map(([name, tensor]) => [name, concrete(tensor)])),
        table: (node) => tableOf(node, run),
        symbols: run.symbols,
      });
      for (const [name, tensor] of Object.entries(result.states)) states.set(name, rounded(tensor));
      return Promise.resolve({
        outputs: Object.fromEntries(Object.entries(result.outputs).map(([name, tensor]) => [name, rounded(tensor)])),
        stages: [],
        steps: [],
        begins: [],
        milliseconds: performance.now() - begin,
        host: run.values,
        sizes: run.symbols,
        memory: { weights: 0, arena: 0 },
      });
    },
    readState: (name) => Promise.resolve(state(name)),
    writeState: (name, tensor) => {
      const [wanted, found] = [state(name), tensor].map((t) => typeText(t.dtype, t.shape));
      if (wanted !== found) throw new InputError(`state ${name}: expected ${wanted}, found ${found}`);
      states.set(name, tensor);
      return Promise.resolve();
    },
    close: () => Promise.resolve(),
  };
}

function zeros({ name, type }: StateNode): Tensor {
  const shape = type.shape.map((d) => dimConstant(d) ?? NaN);
  if (type.dtype !== "f32") throw new InputError(`state ${name} is ${type.dtype}; those of a training are f32`);
  return { dtype: "f32", shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) };
}
