// The whole way from Graph IR to an artefact in memory: passes, fusion, kernels, functions, WebAssembly, plan. Every
// level is checked when it is made and can be looked at through `dump`. Reads and writes no files.

import { plainWasm, relaxedWasm } from "./targets/wasm/capabilities.ts";
import { renderWasm } from "./targets/wasm/render.ts";
import { locText } from "./ir/loc.ts";
import type { Graph } from "./ir/graph/types.ts";
import { printGraph } from "./ir/graph/print.ts";
import type { ImpFunction } from "./ir/imp/types.ts";
import { printImp } from "./ir/imp/print.ts";
import { verifyImp } from "./ir/imp/verify.ts";
import { printKernel } from "./ir/kernel/print.ts";
import type { Kernel } from "./ir/kernel/types.ts";
import { verifyKernel } from "./ir/kernel/verify.ts";
import { printPlan } from "./ir/plan/print.ts";
import type { Plan } from "./ir/plan/types.ts";
import { verifyPlan } from "./ir/plan/verify.ts";
import { group, type Declined as DeclinedValue } from "./fuse/groups.ts";
import { KernelTemplates, type TemplatedKernel } from "./fuse/templates.ts";
import { attentionPairs } from "./fuse/work.ts";
import { makePlan, type Dispatch } from "./memory/plan.ts";
import { PassError, runPasses } from "./passes/pipeline.ts";
import { lower } from "./schedule/lower.ts";

export interface CompileOptions {
  readonly target?: "wasm";
  /** Default true. False: one kernel for each operation. */
  readonly fuse?: boolean;
  /** Decline every fusion after this many were accepted. */
  readonly fusionGas?: number | undefined;
  /** Sees the text of the program after each pass, by the pass's name. */
  readonly dump?: ((pass: string, text: () => string) => void) | undefined;
}

/** Why a value was written to memory although a neighbour reads it. */
export type Declined = Omit<DeclinedValue, "value">;

/** A compiled graph, ready for a session, with every level it went through. */
export interface Compiled {
  readonly plan: Plan;
  readonly modules: { readonly plain: Uint8Array; readonly relaxed: Uint8Array };
  /** After the passes. */
  readonly graph: Graph;
  /** Each different kernel once, in the order of `plan.kernels`, with its name. */
  readonly kernels: readonly Kernel[];
  /** The kernels' functions in the two variants, in the same order. */
  readonly imp: { readonly plain: readonly ImpFunction[]; readonly relaxed: readonly ImpFunction[] };
  readonly declined: readonly Declined[];
  /** Names of matrix multiplies and attentions that no builder took: they run as plain loops, many times slower. */
  readonly plainLoops: readonly string[];
}

export function compileGraph(source: Graph, options: CompileOptions = {}): Compiled {
  const fuse = options.fuse !== false;
  const graph = runPasses(source, { merge: fuse, dump: (pass, g) => options.dump?.(pass, () => printGraph(g)) });
  const grouping = group(graph, { fuse, gas: options.fusionGas });
  const packed = new Set(grouping.groups.flatMap((g) => (g.packs === undefined ? [] : [g.packs])));
  const templates = new KernelTemplates(grouping.values, packed);
  const built = grouping.groups.map((g) => templates.build(g));
  const { kernels, nameOf } = unique(built);
  for (const k of kernels) sound("fuse", k.name, verifyKernel(k));
  options.dump?.("fuse", () => kernels.map((k) => printKernel(k)).join("\n\n"));

  const lowered = kernels.map((k) => ({ plain: lower(k, plainWasm), relaxed: lower(k, relaxedWasm) }));
  const [plain, relaxed] = [lowered.map((l) => l.plain.fn), lowered.map((l) => l.relaxed.fn)];
  for (const fn of [...plain, ...relaxed]) sound("lower", fn.name, verifyImp(fn));
  for (const l of lowered) sameInterface(l.plain.fn, l.relaxed.fn);
  options.dump?.("lower", () => plain.map((fn) => printImp(fn)).join("\n\n"));
  const functions = new Map(lowered.map((l) => [l.plain.fn.name, { fn: l.plain.fn, relaxed: l.relaxed.fn }]));
  const dispatches = built.map((b): Dispatch => {
    const made = functions.get(nameOf.get(b) ?? "");
    if (made === undefined) throw new PassError(`pass lower made no function for a kernel of ${graph.name}`);
    return { built: b, ...made };
  });
  const wantsBuilder = new Set(
    dispatches.flatMap(({ built: { group: g }, fn }) => (g.contraction !== undefined || g.attention ? [fn.name] : [])),
  );
  const plan = makePlan(graph, grouping, attentionPairs(graph), dispatches);
  sound("plan", plan.name, verifyPlan(plan, new Map(kernels.map((k) => [k.name, k.buffers.map((b) => b.access)]))));
  options.dump?.("plan", () => printPlan(plan));
  return {
    plan,
    modules: { plain: renderWasm(plain, { relaxed: false, shared: true }), relaxed: renderWasm(relaxed, { relaxed: true, shared: true }) },
    graph,
    kernels,
    imp: { plain, relaxed },
    declined: grouping.declined.map(({ producer, consumer, reason, at }) => ({ producer, consumer, reason, at })),
    plainLoops: lowered.flatMap(({ plain: { fn, built } }) => (fuse && !built && wantsBuilder.has(fn.name) ? [fn.name] : [])),
  };
}

function sound(pass: string, what: string, problems: readonly string[]): void {
  if (problems.length > 0) throw new PassError(`pass ${pass} made ${what} wrong: ${problems.slice(0, 3).join("; ")}`);
}

/** Kernels that differ in nothing but their sources are one; layers share their code. */
function unique(built: readonly TemplatedKernel[]): {
  readonly kernels: readonly Kernel[];
  readonly nameOf: ReadonlyMap<TemplatedKernel, string>;
} {
  const byTemplate = new Map<object, string>();
  const byText = new Map<string, Kernel>();
  const nameOf = new Map<TemplatedKernel, string>();
  for (const b of built) {
    let name = byTemplate.get(b.template);
    if (name === undefined) {
      const text = printKernel(b.kernel, { names: false, sources: false });
      let kernel = byText.get(text);
      if (kernel === undefined) {
        kernel = { ...b.kernel, name: `${kindOf(b)}_${byText.size}` };
        byText.set(text, kernel);
      }
      name = kernel.name;
      byTemplate.set(b.template, name);
    }
    nameOf.set(b, name);
  }
  return { kernels: [...byText.values()], nameOf };
}

function kindOf({ group: g, kernel }: TemplatedKernel): string {
  if (g.packs !== undefined) return "pack";
  if (g.contraction !== undefined) return "matmul";
  if (g.attention) return "attention";
  return g.rows !== undefined ? "rows" : g.heavy ? "gather" : kernel.stages.length > 1 ? "reduce" : "map";
}

/** The plan is one for both variants, so their functions must be called alike. */
function sameInterface(plain: ImpFunction, relaxed: ImpFunction): void {
  const same = plain.dims.join() === relaxed.dims.join() && plain.units.text === relaxed.units.text;
  if (!same)
    throw new PassError(`pass lower made two variants of ${plain.name} that are called differently (${locText(plain.sources[0] ?? [])})`);
}
