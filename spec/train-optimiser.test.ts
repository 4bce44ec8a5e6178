// The optimiser's step as kernels: parameters and moments change where they are, each in one kernel; runs that end no step
// touch no moments; and what is written over what it reads is proved, by the kernel's verifier and by the plan's.

import { expect, test } from "vitest";
import { typeOfImp } from "../compiler/ir/imp/build.ts";
import type { ImpFunction, ImpStmt } from "../compiler/ir/imp/types.ts";
import { parseKernel } from "../compiler/ir/kernel/parse.ts";
import { verifyKernel } from "../compiler/ir/kernel/verify.ts";
import { verifyPlan } from "../compiler/ir/plan/verify.ts";
import type { CompiledTraining } from "../compiler/train/index.ts";
import { trainStep } from "./train-support.ts";

const step = (more: string): CompiledTraining =>
  trainStep(`
import { Linear } from "./layers.uhd"
graph classify(x: f32[N in 1..=64, 6], labels: i32[N]) -> loss: f32[] {
  use first = Linear(6, 10)
  use second = Linear(10, 10)
  use third = Linear(10, 10)
  cross_entropy(third(tanh(second(tanh(first(x))))), labels)
}
train {
  graph: "classify"
  loss: "loss"
  trainable: ["**"]
  optimiser { name: "adamw", rate: 0.01, decay: 0.1, undecayed: ["**.bias"] }
  clip: 1.0
  ${more}
}`);

const accessesOf = ({ kernels }: CompiledTraining) => new Map(kernels.map((k) => [k.name, k.buffers.map((b) => b.access)]));

test.each(["", "accumulate: 3"])("parameters and moments change in place, each in one kernel, without copies (%s)", (more) => {
  const { plan, training } = step(more);
  expect(plan.steps.filter((s) => s.k === "copy")).toEqual([]);
  for (const { name, buffer, update } of plan.states) expect(update, name).toBe(buffer);
  const writers = (state: string): readonly number[] => {
    const at = plan.states.find((s) => s.name === state)?.buffer ?? -1;
    return plan.steps.flatMap((s, i) => {
      const written = plan.kernels.find((k) => s.k === "dispatch" && k.name === s.kernel)?.written ?? 1;
      return s.k === "dispatch" && s.buffers.slice(-written).includes(at) ? [i] : [];
    });
  };
  const kernels = training.parameters.map((p) => {
    const [own, ...others] = writers(p.name);
    expect(others).toEqual([]);
    for (const state of [p.first, p.second, ...(p.sum === undefined ? [] : [p.sum])]) expect(writers(state), state).toEqual([own]);
    return own;
  });
  // Two matrices and three biases of ten are of one shape: theirs is one kernel.
  expect(new Set(kernels).size).toBe(3);
});

/** Buffers that are loaded or stored whatever a condition says. */
function touched(fn: ImpFunction): ReadonlySet<string> {
  const found = new Set<string>();
  const visit = (x: unknown): void => {
    if (Array.isArray(x)) x.forEach(visit);
    if (typeof x !== "object" || x === null || !("k" in x)) return;
    if ((x.k === "load" || x.k === "loadSplat" || x.k === "store") && "ptr" in x) {
      const type = typeOfImp(x.ptr as Parameters<typeof typeOfImp>[0]);
      found.add(String(type).slice("ptr:".length));
    }
    for (const [key, part] of Object.entries(x)) if (x.k !== "if" || key === "cond") visit(part);
  };
  (fn.body as readonly ImpStmt[]).forEach(visit);
  return found;
}

test("a run that ends no step reads and writes no moments and no parameters", () => {
  const { plan, kernels, imp, training } = step("accumulate: 2");
  const held = new Set(plan.states.filter((s) => training.parameters.some((p) => p.sum !== s.name)).map((s) => s.buffer));
  const sums = new Set(plan.states.filter((s) => training.parameters.some((p) => p.sum === s.name)).map((s) => s.buffer));
  let seen = 0;
  for (const s of plan.steps) {
    if (s.k !== "dispatch") continue;
    const at = kernels.findIndex((k) => k.name === s.kernel);
    const updates = kernels[at]?.buffers.map((b) => b.access === "update") ?? [];
    for (const fn of [imp.plain[at], imp.relaxed[at]]) {
      if (fn === undefined) continue;
      const always = touched(fn);
      for (const [i, b] of fn.buffers.entries()) {
        const id = s.buffers[i] ?? -1;
        if (updates[i] !== true || !held.has(id) || sums.has(id)) continue;
        seen++;
        expect(always.has(b.name), `${s.kernel} ${b.name}`).toBe(false);
      }
    }
  }
  expect(seen).toBe(2 * 3 * training.parameters.length);
});

const kernel = (stores: string): string => `kernel "k" {
  axis i: 4
  axis j: 6
  read g: f32[4, 6]
  update m: f32[4, 6]
  write p: f32[4, 6]
  ${stores}
}
`;

test.each([
  ["store p[i * 6 + j] = m[i * 6 + j] * 2.0\n  store m[i * 6 + j] = m[i * 6 + j] + g[i * 6 + j]", ""],
  ["store p[i * 6 + j] = g[i * 6 + j]\n  store m[i * 6 + j] = m[i * 6 + 5 - j]", "read where another one is replaced"],
  ["store p[i * 6 + j] = g[i * 6 + j]\n  store m[i * 6 + 5 - j] = m[i * 6 + 5 - j]", "replaced twice"],
  ["store p[i * 6 + j] = g[i * 6 + j]\n  store m[j] = m[j]", "replaced twice"],
  ["store m[i * 6 + j] = m[i * 6 + j] + 1.0\n  store p[i * 6 + j] = m[i * 6 + j]", "after stage 0 replaced it"],
  ["store p[i * 6 + j] = m[i * 6 + j]\n  store m[i * 6 + j] = 1.0\n  store m[i * 6 + j] = 2.0", "by 2 stages instead of one"],
])("the verifier of kernels sees what in-place updates do: %s", (stores, fault) => {
  const said = verifyKernel(parseKernel(kernel(stores))).join("; ");
  if (fault === "") expect(said).toBe("");
  else expect(said).toContain(fault);
});

test("the verifier of plans refuses updates of what is read afterwards, bound twice, or no state", () => {
  const compiled = step("");
  const { plan } = compiled;
  const accesses = accessesOf(compiled);
  expect(verifyPlan(plan, accesses)).toEqual([]);
  const isUpdate = (i: number): boolean => {
    const s = plan.steps[i];
    return s?.k === "dispatch" && accesses.get(s.kernel)?.includes("update") === true;
  };
  const at = plan.steps.findIndex((_, i) => isUpdate(i));
  const update = plan.steps[at];
  if (update?.k !== "dispatch") throw new Error("nothing is updated");
  const early = { ...plan, steps: [update, ...plan.steps.filter((s) => s !== update)] };
  expect(verifyPlan(early, accesses).join("; ")).toContain("updated in place");
  const own = accesses.get(update.kernel)?.indexOf("update") ?? -1;
  const twice = update.buffers.map((b, i) => (i === 0 ? (update.buffers[own] ?? b) : b));
  expect(
    verifyPlan({ ...plan, steps: plan.steps.map((s) => (s === update ? { ...s, buffers: twice } : s)) }, accesses).join("; "),
  ).toContain("it reads and writes buffer");
  const buffers = plan.buffers.map((b, i) =>
    i === update.buffers[own] ? { ...b, place: { k: "arena" as const, first: 0, last: 99 } } : b,
  );
  expect(verifyPlan({ ...plan, buffers }, accesses).join("; ")).toContain("which is no state");
});
