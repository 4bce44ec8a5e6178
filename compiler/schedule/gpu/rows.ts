// Kernels whose rows have reductions of their own (softmax, norms, sums): a workgroup takes a row, its lanes share the
// reductions and then the stores, neighbouring lanes taking neighbouring elements. Declines (undefined) where no reduction
// is long enough to share, or where what it reads lies apart: there an invocation for each point is better (points.ts).

import { dimConstant, dimMul, dim, type Dim } from "../../ir/dim.ts";
import { add, binary, int, lt, mul, when } from "../../ir/imp/build.ts";
import type { ImpExpr, ImpFunction } from "../../ir/imp/types.ts";
import { operandsOf } from "../../ir/kernel/build.ts";
import { strideOf } from "../../ir/kernel/intern.ts";
import { sizeOf } from "../../ir/kernel/simplify.ts";
import type { Expr, Kernel, Stage } from "../../ir/kernel/types.ts";
import type { GpuCapabilities } from "../capabilities.ts";
import { Block, Emitter } from "../emit.ts";
import { finish, laneName, unitName } from "../finish.ts";
import { mergeAxes } from "../merge.ts";
import { Sharing } from "./share.ts";
import { placesOf, storeVector, variable } from "./parts.ts";

type Store = Extract<Stage, { k: "store" }>;
type Fold = Extract<Expr, { k: "fold" }>;

/** Steps of a reduction from which on sharing it pays. */
const shareFrom = 32;

export function lowerRows(kernel: Kernel, gpu: GpuCapabilities): ImpFunction | undefined {
  const emitter = new Emitter(kernel.buffers, true);
  const stages = kernel.stages.map((s): Stage => interned(s, emitter));
  const longest = longestFold(stages, emitter);
  if (longest === undefined) return undefined;
  const lanes = lanesFor(longest, gpu);
  const root = new Block();
  const extents = kernel.axes.map((a) => a.extent);
  const places = placesOf(emitter, root, variable(unitName), extents);
  for (const [i, axis] of kernel.axes.entries())
    root.remember(emitter.interner.intern({ k: "var", name: axis.name, type: "i32" }), false, places[i] ?? int(0));
  const sharing = new Sharing(emitter, root, { lanes, subgroups: gpu.subgroups }, kernel.buffers);
  for (const s of stages) {
    if (s.k === "let") {
      sharing.folds(s.value);
      const variable_ = emitter.interner.intern({ k: "var", name: s.name, type: s.type });
      root.remember(variable_, false, emitter.emit(s.value, root, undefined));
    } else stored(emitter, root, s, lanes, sharing);
  }
  const body = root.statements;
  return finish(kernel, emitter, extents.reduce(dimMul, dim(1)), body, sharing.scratch, { lanes, ...sharing.subgroup });
}

function interned(s: Stage, emitter: Emitter): Stage {
  const value = emitter.interner.intern(s.value);
  return s.k === "let" ? { ...s, value } : { ...s, value, index: emitter.interner.intern(s.index) };
}

/** The most steps of a reduction of the row alone, undefined for a size of a run; nothing when none is worth sharing. */
function longestFold(stages: readonly Stage[], emitter: Emitter): { readonly steps: number | undefined } | undefined {
  let found: { steps: number | undefined } | undefined;
  for (const s of stages) {
    const inner = s.k === "let" ? [] : s.axes.map((a) => a.name);
    for (const fold of foldsIn(s.value)) {
      const steps = worthSharing(fold, inner, emitter);
      if (steps === undefined) continue;
      const longer = found?.steps === undefined || steps.text === undefined ? undefined : Math.max(found.steps, steps.text);
      found = { steps: found === undefined ? steps.text : longer };
    }
  }
  return found;
}

function worthSharing(fold: Fold, inner: readonly string[], emitter: Emitter): { readonly text: number | undefined } | undefined {
  // Where a search asks nothing any more its reductions go over nothing: that is known to all lanes.
  const to = sizeOf(unlessNone(fold.to));
  if (to === undefined || fold.from.k !== "const" || inner.some((n) => emitter.reads.of(fold).has(n))) return undefined;
  if (!emitter.canVector(fold.body, fold.axis) && fold.body.k !== "fold") return undefined;
  const steps = dimConstant(to);
  return steps === undefined || steps - fold.from.value >= shareFrom ? { text: steps } : undefined;
}

/** The end of a reduction that goes over nothing where a condition says so. */
function unlessNone(to: Expr): Expr {
  if (to.k !== "select") return to;
  const [a, b] = [to.a, to.b].map((x) => x.k === "const" && x.value === 0);
  return a === true ? to.b : b === true ? to.a : to;
}

/** Reductions in `e` that are not in others. */
function foldsIn(e: Expr): readonly Fold[] {
  const found: Fold[] = [];
  const seen = new Set<Expr>();
  const visit = (x: Expr): void => {
    if (seen.has(x)) return;
    seen.add(x);
    if (x.k === "fold") found.push(x);
    else operandsOf(x).forEach(visit);
  };
  visit(e);
  return found;
}

/** Two vectors of four a lane, at least; more lanes for longer rows. */
function lanesFor({ steps }: { readonly steps: number | undefined }, gpu: GpuCapabilities): number {
  const wanted = steps === undefined ? 64 : steps <= 256 ? 32 : steps <= 1024 ? 64 : steps <= 4096 ? 128 : 256;
  return Math.max(wanted, gpu.subgroups);
}

/** The elements of a row, shared out: four neighbours a lane where they can be computed together. */
function stored(emitter: Emitter, root: Block, stage: Store, lanes: number, sharing: Sharing): void {
  sharing.folds(
    stage.value,
    stage.axes.map((a) => a.name),
  );
  const lane = variable(laneName);
  const { axes, stores } = mergeAxes(stage.axes, [stage], emitter);
  const [store] = stores;
  const last = axes.at(-1);
  if (store === undefined) throw new Error("a store stays a store");
  if (last === undefined) {
    const alone = new Block(root);
    storeOne(emitter, alone, store);
    root.statements.push(when(lt(lane, int(1)), alone.statements));
    return;
  }
  const nest = (block: Block, depth: number): void => {
    const axis = axes[depth];
    if (axis !== undefined && depth < axes.length - 1) {
      const deeper = axes.slice(depth + 1).map((a) => a.name);
      emitter.loop(block, axis.name, int(0), emitter.size(axis.extent), 1, [store.value, store.index], (b) => nest(b, depth + 1), deeper);
      return;
    }
    innermost(emitter, block, store, last, lanes);
  };
  nest(root, 0);
}

function innermost(
  emitter: Emitter,
  block: Block,
  store: Store,
  axis: { readonly name: string; readonly extent: Dim },
  lanes: number,
): void {
  const lane = variable(laneName);
  const end = emitter.name(block, "end", emitter.size(axis.extent));
  const vector = strideOf(store.index, axis.name, emitter.reads) === 1 && emitter.canVector(store.value, axis.name);
  let from: ImpExpr = lane;
  if (vector) {
    const size = dimConstant(axis.extent);
    const many = emitter.name(block, "many", binary("bitand", end, int(-4)));
    const first = emitter.name(block, "first", mul(lane, int(4)));
    emitter.loop(block, axis.name, first, many, 4 * lanes, [store.value, store.index], (inside) =>
      storeVector(emitter, inside, store, axis.name),
    );
    if (size !== undefined && size % 4 === 0) return;
    from = emitter.name(block, "rest", add(many, lane));
  }
  emitter.loop(block, axis.name, from, end, lanes, [store.value, store.index], (inside) => storeOne(emitter, inside, store));
}

function storeOne(emitter: Emitter, block: Block, s: Store): void {
  const ptr = emitter.place(s.buffer, s.index, block);
  block.statements.push({ k: "store", ptr, offset: 0, value: emitter.emit(s.value, block, undefined) });
}
