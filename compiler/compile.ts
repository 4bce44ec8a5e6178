// The whole way from Graph IR to an artefact in memory: passes, fusion, kernels, functions, code of a target, plan. Every
// level is checked when it is made and can be looked at through `dump`. Reads and writes no files.

import { plainWasm, relaxedWasm } from "./targets/wasm/capabilities.ts";
import { renderWasm } from "./targets/wasm/render.ts";
import { scratchBytes } from "./targets/wasm/sizes.ts";
import { webgpuCapabilities } from "./targets/wgsl/capabilities.ts";
import { renderWgsl } from "./targets/wgsl/render.ts";
import { coreFeatures, type WgslFeatures, type WgslKernel } from "./targets/wgsl/types.ts";
import { dim, dimConstant, dimMax, dimParse } from "./ir/dim.ts";
import { bytesOf } from "./ir/dtype.ts";
import { locText } from "./ir/loc.ts";
import type { Graph } from "./ir/graph/types.ts";
import { printGraph } from "./ir/graph/print.ts";
import { verifyGraph } from "./ir/graph/verify.ts";
import type { ImpFunction } from "./ir/imp/types.ts";
import { printImp } from "./ir/imp/print.ts";
import { verifyImp } from "./ir/imp/verify.ts";
import { printKernel } from "./ir/kernel/print.ts";
import type { Kernel } from "./ir/kernel/types.ts";
import { verifyKernel } from "./ir/kernel/verify.ts";
import { printPlan } from "./ir/plan/print.ts";
import type { Plan } from "./ir/plan/types.ts";
import { verifyPlan } from "./ir/plan/verify.ts";
import { group, type Declined as DeclinedValue, type FuseOptions } from "./fuse/groups.ts";
import { KernelTemplates, type TemplatedKernel } from "./fuse/templates.ts";
import { attentionPairs } from "./fuse/work.ts";
import { makePlan, type Dispatch } from "./memory/plan.ts";
import { readOnlyBuffers } from "./memory/read-only.ts";
import { shareTables } from "./memory/shared-tables.ts";
import { PassError, runPasses } from "./passes/pipeline.ts";
import type { BindingLimits } from "./passes/limits.ts";
import type { Quantise, Unquantised } from "./passes/quantise.ts";
import { cpuPanel, gpuPanel, type Capabilities } from "./schedule/capabilities.ts";
import { splitAttention, type SplitAttention } from "./schedule/attention-split.ts";
import { lower, type Lowered } from "./schedule/lower.ts";
import { withRoundedRows } from "./schedule/quantised.ts";
import { watched } from "./watch.ts";
import { typeRule } from "../ops/index.ts";

interface CommonOptions {
  /** Default true. False: one kernel for each operation. */
  readonly fuse?: boolean;
  /** Decline every fusion after this many were accepted. */
  readonly fusionGas?: number | undefined;
  /** Weights that stay packed on the device. Default: none. */
  readonly quantise?: Quantise | undefined;
  /**
   * How products of few rows and packed weights are computed where the target has integers for it. Default: rows rounded to
   * 16 bits (Note [Error of rounded rows] in schedule/quantised-integers.ts); "f32": not rounded, slower.
   */
  readonly activations?: "int16" | "f32" | undefined;
  /** Follows all passes: sees the graph as fusion will, and is told how that groups. */
  readonly last?: ((graph: Graph, fusion: FuseOptions) => Graph) | undefined;
  /** Every value that a kernel of a run writes is a result too: see watch.ts. */
  readonly watch?: boolean | undefined;
  /** Sees the text of the program after each pass, by the pass's name. */
  readonly dump?: ((pass: string, text: () => string) => void) | undefined;
}

export interface CompileOptions extends CommonOptions {
  readonly target?: "wasm";
}

export interface WebGpuOptions extends CommonOptions {
  readonly target: "webgpu";
  /**
   * What the adapters have that the code is for, best first. Code for the core alone is always made too. When left out: the usual
   * sizes of subgroups, each also with `shader-f16` where kernels hold 16-bit floats. Those are numbers of 16 bits in memory
   * either way, and f32 in arithmetic: the feature changes how they are read, never what comes out.
   */
  readonly features?: WgslFeatures | readonly WgslFeatures[];
  /** What a kernel may bind; WebGPU's defaults when left out, which every adapter has. */
  readonly limits?: BindingLimits;
}

/** Why a value was written to memory although a neighbour reads it. */
export type Declined = Omit<DeclinedValue, "value">;

/** A compiled graph whatever its target, with the levels that every target has. */
interface CommonCompiled {
  readonly plan: Plan;
  /** After the passes. */
  readonly graph: Graph;
  /** Each different kernel once, in the order of `plan.kernels`, with its name. */
  readonly kernels: readonly Kernel[];
  readonly declined: readonly Declined[];
  /** Names of matrix multiplies and attentions that no builder took: they run as plain loops, many times slower. */
  readonly plainLoops: readonly string[];
  /** Matrices that `quantise` would have packed and that stay as they are, with the reasons. */
  readonly unquantised: readonly Unquantised[];
}

/** A graph compiled to WebAssembly, ready for a session, with every level it went through. */
export interface Compiled extends CommonCompiled {
  readonly modules: { readonly plain: Uint8Array; readonly relaxed: Uint8Array };
  /** The kernels' functions in the two variants, in the order of `kernels`. */
  readonly imp: { readonly plain: readonly ImpFunction[]; readonly relaxed: readonly ImpFunction[] };
}

/** The kernels of a graph for adapters with these features, in the order of the plan's. */
export interface WgslVariant {
  readonly features: WgslFeatures;
  readonly kernels: readonly WgslKernel[];
}

/** A graph compiled to WGSL, ready for a session. Variants are best first; the last one needs no features. */
export interface WebGpuCompiled extends CommonCompiled {
  readonly wgsl: readonly WgslVariant[];
  /** The kernels' functions by variant, in the order of `kernels`; `plain` are the last variant's. */
  readonly imp: { readonly plain: readonly ImpFunction[]; readonly variants: readonly (readonly ImpFunction[])[] };
}

/** WebGPU's default limits of a shader stage; what may be read behind a buffer is within its binding. */
export const webgpuLimits: BindingLimits = { buffers: 8, bytes: 128 * 2 ** 20 - 256 };

/** Sizes of subgroups that code is made for when no features are said: those that are common, and none. */
const usualSubgroups = [32, 8, 0] as const;

export function compileGraph(source: Graph, options: WebGpuOptions): WebGpuCompiled;
export function compileGraph(source: Graph, options?: CompileOptions): Compiled;
export function compileGraph(source: Graph, options: CompileOptions | WebGpuOptions = {}): Compiled | WebGpuCompiled {
  return options.target === "webgpu" ? webgpu(source, options) : wasm(source, options);
}

function wasm(source: Graph, options: CompileOptions): Compiled {
  const { common, functions } = compiled(source, options, [plainWasm, relaxedWasm], { panel: cpuPanel, splits: true, wide: true });
  const [plain = [], relaxed = []] = functions;
  return {
    ...common,
    modules: { plain: renderWasm(plain, { relaxed: false, shared: true }), relaxed: renderWasm(relaxed, { relaxed: true, shared: true }) },
    imp: { plain, relaxed },
  };
}

function webgpu(source: Graph, options: WebGpuOptions): WebGpuCompiled {
  const asked = askedFeatures(options.features);
  // What a kernel does depends on subgroups alone; f16 says how its 16-bit memory is seen.
  const sizes = asked === undefined ? usualSubgroups : [...new Set(asked.map((f) => f.subgroups))];
  const { common, functions } = compiled(
    source,
    options,
    sizes.map((subgroups) => webgpuCapabilities({ subgroups, f16: false })),
    { panel: gpuPanel, limits: options.limits ?? webgpuLimits },
  );
  const bySize = new Map(sizes.map((size, i) => [size, functions[i] ?? []]));
  const features =
    asked ??
    sizes.flatMap((subgroups) => [
      ...(bySize.get(subgroups)?.some(holdsHalves) === true ? [{ subgroups, f16: true }] : []),
      { subgroups, f16: false },
    ]);
  const readOnly = readOnlyBuffers(common.plan, common.kernels);
  const variants = features.map((f) => bySize.get(f.subgroups) ?? []);
  const wgsl = features.map((f, v): WgslVariant => {
    const kernels = (variants[v] ?? []).map((fn) => renderWgsl(fn, { features: f, readOnly: readOnly.get(fn.name) ?? new Set() }));
    return { features: f, kernels };
  });
  return { ...common, wgsl, imp: { plain: variants.at(-1) ?? [], variants } };
}

/** Best first, and the core last, which needs none. */
function askedFeatures(features: WebGpuOptions["features"]): readonly WgslFeatures[] | undefined {
  if (features === undefined) return undefined;
  const given = "length" in features ? features : [features];
  return [...given.filter((f) => f.subgroups !== 0 || f.f16), coreFeatures];
}

function holdsHalves(fn: ImpFunction): boolean {
  return [...fn.buffers, ...fn.scratch].some((memory) => memory.dtype === "f16");
}

/** What differs between targets before kernels become functions. */
interface Layouts {
  /** Columns of a panel of a packed operand. */
  readonly panel: number;
  readonly limits?: BindingLimits;
  /** Attention of few queries over many keys is two kernels: see Note [Attention in parts] in schedule/attention-split.ts. */
  readonly splits?: boolean;
  /** Products are of f32 alone: see passes/wide-products.ts. */
  readonly wide?: boolean;
}

interface Made {
  readonly common: CommonCompiled;
  /** By variant, in the order of the kernels. */
  readonly functions: readonly (readonly ImpFunction[])[];
}

/** Everything up to the functions, one for each variant of a target's capabilities; and the plan, which variants share. */
function compiled(
  source: Graph,
  options: CommonOptions,
  variants: readonly Capabilities[],
  { panel, limits, splits, wide }: Layouts,
): Made {
  const fuse = options.fuse !== false;
  const unquantised: Unquantised[] = [];
  const passed = runPasses(source, {
    merge: fuse,
    quantise: options.quantise,
    onKept: (kept) => unquantised.push(kept),
    dump: (pass, g) => options.dump?.(pass, () => printGraph(g)),
    limits,
    wide,
  });
  const fusion: FuseOptions = { fuse, gas: options.fusionGas, panel, limits };
  const planned = options.last === undefined ? passed : options.last(passed, fusion);
  const graph = options.watch === true ? watched(planned, fusion) : planned;
  if (graph !== passed) {
    sound("last", graph.name, verifyGraph(graph, typeRule));
    options.dump?.("last", () => printGraph(graph));
  }
  const grouping = group(graph, fusion);
  const packed = new Set(grouping.groups.flatMap((g) => (g.packs === undefined ? [] : [g.packs])));
  const templates = new KernelTemplates(grouping.values, packed);
  const alone = grouping.groups.map((g) => templates.build(g));
  const built = fuse ? shareTables(graph, grouping, alone) : alone;
  const { kernels: whole, nameOf } = unique(built);
  const bounds = new Map(graph.symbols.map((s) => [s.name, s]));
  const split = new Map<string, SplitAttention>();
  const exact = whole.flatMap((k) => {
    // What follows the passes plans memory by itself, without parts.
    const made = splits === true && options.last === undefined ? splitAttention(k, bounds) : undefined;
    // Loops take what no builder does, and they need no parts.
    if (made === undefined || !variants.every((capabilities) => lower(made.parts, capabilities).built)) return [k];
    split.set(k.name, made);
    return [made.parts, made.join];
  });
  const kernels = options.activations === "f32" ? exact : exact.map(withRoundedRows);
  for (const k of kernels) sound("fuse", k.name, verifyKernel(k));
  options.dump?.("fuse", () => kernels.map((k) => printKernel(k)).join("\n\n"));

  const lowered = kernels.map((k): readonly Lowered[] => variants.map((capabilities) => lower(k, capabilities)));
  const functions = variants.map((_, v) => lowered.flatMap((l) => l[v]?.fn ?? []));
  for (const fn of functions.flat()) sound("lower", fn.name, verifyImp(fn));
  for (const l of lowered) sameInterface(l.map(({ fn }) => fn));
  options.dump?.("lower", () => (functions[0] ?? []).map((fn) => printImp(fn)).join("\n\n"));
  const byName = new Map(lowered.map((l): readonly [string, Omit<Dispatch, "built">] => dispatchOf(l.map(({ fn }) => fn))));
  const made = (name: string): Omit<Dispatch, "built"> => {
    const found = byName.get(name);
    if (found === undefined) throw new PassError(`pass lower made no function for a kernel of ${graph.name}`);
    return found;
  };
  const dispatches = built.flatMap((b): readonly Dispatch[] => {
    const name = nameOf.get(b) ?? "";
    const parts = split.get(name);
    if (parts === undefined) return [{ built: b, ...made(name) }];
    return [
      { built: b, ...made(name), split: { ...parts, of: "parts" } },
      { built: b, ...made(parts.join.name), split: { ...parts, of: "join" } },
    ];
  });
  const wantsBuilder = new Set(
    dispatches.flatMap(({ built: { group: g }, fn, split }) =>
      (g.contraction !== undefined || g.attention) && split?.of !== "join" ? [fn.name] : [],
    ),
  );
  const plan = makePlan(graph, grouping, attentionPairs(graph), dispatches);
  sound("plan", plan.name, verifyPlan(plan, new Map(kernels.map((k) => [k.name, k.buffers.map((b) => b.access)]))));
  if (limits !== undefined) withinLimits(plan, limits);
  options.dump?.("plan", () => printPlan(plan));
  const loops = kernels.filter((k, i) => fuse && wantsBuilder.has(k.name) && lowered[i]?.some((l) => !l.built));
  return {
    common: {
      plan,
      graph,
      kernels,
      declined: grouping.declined.map(({ producer, consumer, reason, at }) => ({ producer, consumer, reason, at })),
      plainLoops: loops.map((k) => k.name),
      unquantised,
    },
    functions,
  };
}

/** What a plan needs to know of a kernel's variants. Workgroups have their scratch in themselves. */
function dispatchOf(variants: readonly ImpFunction[]): readonly [string, Omit<Dispatch, "built">] {
  const [fn] = variants;
  if (fn === undefined) throw new PassError("pass lower made no function of a kernel");
  const scratch = fn.lanes === 1 ? variants.map(scratchBytes).reduce(dimMax) : dim(0);
  return [fn.name, { fn, scratch }];
}

/** The graph needs more of a kernel than the target gives. */
export class TargetLimitError extends Error {
  override readonly name = "TargetLimitError";
}

/** Sizes that only a run tells are the device's business. */
function withinLimits(plan: Plan, limits: BindingLimits): void {
  const crowded = plan.kernels.find((k) => k.bufferCount > limits.buffers);
  if (crowded !== undefined)
    throw new TargetLimitError(
      `kernel ${crowded.name} of ${plan.name} has ${crowded.bufferCount} buffers, and the target takes ${limits.buffers}`,
    );
  for (const b of plan.buffers) {
    const bytes = b.shape.reduce((n, text) => n * (dimConstant(dimParse(text)) ?? 0), bytesOf(b.dtype));
    if (bytes > limits.bytes)
      throw new TargetLimitError(
        `${b.name} of ${plan.name}, ${b.dtype}[${b.shape.join(", ")}], has ${bytes} bytes, and the target binds ${limits.bytes} at once; rows that are looked up and matrices that are multiplied by are split, this is used in another way`,
      );
  }
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

/** The plan is one for all variants, so their functions must be called alike. */
function sameInterface(variants: readonly ImpFunction[]): void {
  const [first] = variants;
  const differs = variants.some((fn) => fn.dims.join() !== first?.dims.join() || fn.units.text !== first.units.text);
  if (first !== undefined && differs)
    throw new PassError(`pass lower made variants of ${first.name} that are called differently (${locText(first.sources[0] ?? [])})`);
}
