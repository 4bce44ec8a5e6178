// Compares a run's inputs with what the plan declares, and says exactly what does not fit. Does not
// evaluate shape code.

import { dimEval, dimParse, type DimEnv } from "../compiler/ir/dim.ts";
import { givenTypeText, misgiven } from "../compiler/ir/plan/given.ts";
import type { HostValue } from "../compiler/ir/plan/host.ts";
import type { BufferId, Plan, PlanBuffer } from "../compiler/ir/plan/types.ts";
import { ArtefactError, InputError } from "./errors.ts";
import { arrays, elementCount, typeText, type Tensor } from "./tensor.ts";

interface CheckedInputs {
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  /** The integers and values of shape code that the plan asks for. */
  readonly integers: Readonly<Record<string, HostValue>>;
  readonly tensors: readonly { readonly buffer: BufferId; readonly tensor: Tensor }[];
}

/** What a run is given by name: a tensor for each input, a number for each integer of the graph, lists for its lists. */
export type Inputs = Readonly<Record<string, Tensor | HostValue>>;

/** Throws InputError that names every input that is missing, unknown, or of the wrong dtype, shape or length. */
export function checkInputs(plan: Plan, inputs: Inputs): CheckedInputs {
  const problems: string[] = [];
  const shapes: Record<string, readonly number[]> = {};
  const tensors: { buffer: BufferId; tensor: Tensor }[] = [];
  const known = new Map<string, { value: number; by: string }>();
  for (const { name, buffer } of plan.inputs) {
    const declared = plan.buffers[buffer];
    if (declared === undefined) throw new ArtefactError(`plan ${plan.name} has no buffer for input ${name}`);
    const tensor = Object.hasOwn(inputs, name) ? inputs[name] : undefined;
    if (!isTensor(tensor)) {
      const type = typeText(declared.dtype, declared.shape);
      const found = typeof tensor === "number" ? "a number" : "a value of shape code";
      problems.push(tensor === undefined ? `${name} is missing: ${type}` : `${name}: expected ${type}, found ${found}`);
      continue;
    }
    problems.push(...misfit(name, tensor, declared, known, plan));
    shapes[name] = tensor.shape;
    tensors.push({ buffer, tensor });
  }
  const integers: Record<string, HostValue> = {};
  const wanted = plan.symbols.filter((s) => s.argument === true);
  for (const { name, lower, upper = Infinity } of wanted) {
    const value = Object.hasOwn(inputs, name) ? inputs[name] : undefined;
    if (typeof value !== "number") problems.push(`${name} is ${value === undefined ? "missing" : "a tensor"}: an integer`);
    else if (!Number.isSafeInteger(value)) problems.push(`${name} is ${value}, not an integer`);
    else if (value < lower || value > upper) problems.push(`${name} is ${value}, outside ${lower}…${upper === Infinity ? "" : upper}`);
    else integers[name] = value;
  }
  const asked = plan.host.given ?? [];
  for (const { name, type } of asked) {
    const value = Object.hasOwn(inputs, name) ? inputs[name] : undefined;
    const wrong = value === undefined ? `${name} is missing: ${givenTypeText(type)}` : misgiven(value, type, name);
    if (wrong !== undefined) problems.push(wrong);
    // It is of the type of the plan, which no tensor is.
    else integers[name] = value as HostValue;
  }
  const names = new Set([...plan.inputs.map((i) => i.name), ...wanted.map((s) => s.name), ...asked.map((g) => g.name)]);
  for (const name of Object.keys(inputs))
    if (!names.has(name)) problems.push(`${name} is not an input; there are ${[...names].join(", ") || "none"}`);
  if (problems.length > 0) throw new InputError(`${plan.name}: ${problems.join("; ")}`);
  return { shapes, integers, tensors };
}

function isTensor(value: Tensor | HostValue | undefined): value is Tensor {
  return typeof value === "object" && "dtype" in value && "shape" in value && "data" in value;
}

function misfit(
  name: string,
  tensor: Tensor,
  declared: PlanBuffer,
  known: Map<string, { value: number; by: string }>,
  plan: Plan,
): readonly string[] {
  const expected = typeText(declared.dtype, declared.shape);
  const found = typeText(tensor.dtype, tensor.shape);
  if (
    tensor.dtype !== declared.dtype ||
    tensor.shape.length !== declared.shape.length ||
    !tensor.shape.every((d) => Number.isSafeInteger(d) && d >= 0)
  ) {
    return [`${name}: expected ${expected}, found ${found}`];
  }
  if (!(tensor.data instanceof arrays[tensor.dtype]))
    return [`${name}: the data of ${tensor.dtype} must be a ${arrays[tensor.dtype].name}`];
  if (tensor.data.length !== elementCount(tensor.shape))
    return [`${name}: ${found} has ${elementCount(tensor.shape)} elements, and its data has ${tensor.data.length}`];
  const problems: string[] = [];
  const later: number[] = [];
  for (const [axis, text] of declared.shape.entries()) {
    const size = tensor.shape[axis] ?? 0;
    const symbol = plan.symbols.find((s) => s.name === text);
    if (symbol === undefined) {
      later.push(axis);
      continue;
    }
    const before = known.get(text);
    if (before === undefined) known.set(text, { value: size, by: `${name}, axis ${axis}` });
    else if (before.value !== size) problems.push(`${name}: axis ${axis} is ${size}, but ${text} is ${before.value} (${before.by})`);
    if (size < symbol.lower || size > (symbol.upper ?? Infinity)) {
      problems.push(`${name}: axis ${axis} (${text}) is ${size}, outside ${symbol.lower}…${symbol.upper ?? ""}`);
    }
  }
  const env: DimEnv = Object.fromEntries([...known].map(([symbol, { value }]) => [symbol, value]));
  for (const axis of later) {
    const size = dimEval(dimParse(declared.shape[axis] ?? "0"), env);
    if (size !== tensor.shape[axis]) problems.push(`${name}: axis ${axis} of ${expected} must be ${size}, found ${found}`);
  }
  return problems;
}
