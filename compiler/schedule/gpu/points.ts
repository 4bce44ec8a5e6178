// The GPU schedule that every kernel has: an invocation for each point of the parallel axes, or for four neighbours
// along the last one where they can be computed together. Neighbouring invocations take neighbouring points, so that
// what they read and write lies together. Reductions are loops of one invocation (rows.ts shares them).

import { dim, dimAdd, dimConstant, dimDiv, dimMul } from "../../ir/dim.ts";
import { add, int, lt, mul, when } from "../../ir/imp/build.ts";
import type { ImpExpr, ImpFunction } from "../../ir/imp/types.ts";
import type { Axis, Expr, Kernel, Stage } from "../../ir/kernel/types.ts";
import { Block, Emitter } from "../emit.ts";
import { finish, laneName, unitName } from "../finish.ts";
import { mergeAxes } from "../merge.ts";
import { strideOf } from "../../ir/kernel/intern.ts";
import { placesOf, storeVector, variable } from "./parts.ts";

/** Invocations of a workgroup: a multiple of every subgroup's size, few enough to share small work out. */
const lanes = 64;

type Store = Extract<Stage, { k: "store" }>;

export function lowerPoints(given: Kernel): ImpFunction {
  const kernel = flat(given);
  const emitter = new Emitter(kernel.buffers, true);
  const whole = elementwise(kernel, emitter) ?? { axes: kernel.axes, stages: kernel.stages, four: undefined };
  const { axes, stages, four } = whole;
  const root = new Block();
  const [last, outer] = [axes.at(-1), axes.slice(0, -1)];
  // Groups of four neighbours, the last of a row perhaps of fewer.
  const extents = axes.map((a) => (a === last && four !== undefined ? dimDiv(dimAdd(a.extent, dim(3)), dim(4)) : a.extent));
  const points = extents.reduce(dimMul, dim(1));
  const point = emitter.name(root, "point", add(mul(variable(unitName), int(lanes)), variable(laneName)));
  const inside = new Block(root);
  const places = placesOf(emitter, inside, point, extents);
  for (const [i, axis] of outer.entries()) inside.remember(axisOf(emitter, axis.name), false, places[i] ?? int(0));
  if (last !== undefined) {
    const place = places.at(-1) ?? int(0);
    const first = four === undefined ? place : emitter.name(inside, last.name, mul(place, int(4)));
    if (four === undefined) inside.remember(axisOf(emitter, last.name), false, first);
    else fourOf(emitter, inside, four, last, first);
  }
  if (four === undefined) for (const stage of stages) lowerStage(emitter, inside, stage);
  root.statements.push(when(lt(point, emitter.size(points)), inside.statements));
  return finish(kernel, emitter, dimDiv(dimAdd(points, dim(lanes - 1)), dim(lanes)), root.statements, [], { lanes });
}

/** A kernel that is one store has no reason to go over axes of the store in one invocation: a weight is packed by many. */
function flat(kernel: Kernel): Kernel {
  const [stage] = kernel.stages;
  if (kernel.stages.length !== 1 || stage?.k !== "store" || stage.axes.length === 0) return kernel;
  return { ...kernel, axes: [...kernel.axes, ...stage.axes], stages: [{ ...stage, axes: [] }] };
}

function axisOf(emitter: Emitter, name: string): Expr {
  return emitter.interner.intern({ k: "var", name, type: "i32" });
}

interface Points {
  readonly axes: readonly Axis[];
  readonly stages: readonly Stage[];
  /** The stores whose four neighbours along the last axis are computed together. */
  readonly four: readonly Store[] | undefined;
}

/** Stores at points of the parallel axes alone: neighbouring axes are merged where every index allows. */
function elementwise(kernel: Kernel, emitter: Emitter): Points | undefined {
  const stores: Store[] = [];
  for (const s of kernel.stages) {
    if (s.k !== "store" || s.axes.length > 0) return undefined;
    stores.push({ ...s, index: emitter.interner.intern(s.index), value: emitter.interner.intern(s.value) });
  }
  const merged = mergeAxes(kernel.axes, stores, emitter);
  const last = merged.axes.at(-1);
  if (last === undefined || (dimConstant(last.extent) ?? 4) < 4) return { axes: merged.axes, stages: merged.stores, four: undefined };
  const fits = merged.stores.every((s) => strideOf(s.index, last.name, emitter.reads) === 1 && emitter.canVector(s.value, last.name));
  return { axes: merged.axes, stages: merged.stores, four: fits ? merged.stores : undefined };
}

/** Elements first … first+3 of the last axis, or as many as there are. */
function fourOf(emitter: Emitter, block: Block, stores: readonly Store[], last: Axis, first: ImpExpr): void {
  const axis = axisOf(emitter, last.name);
  const all = new Block(block);
  all.remember(axis, false, first);
  for (const s of stores) storeVector(emitter, all, s, last.name);
  const size = dimConstant(last.extent);
  if (size !== undefined && size % 4 === 0) {
    block.statements.push(...all.statements);
    return;
  }
  const end = emitter.size(last.extent);
  const some = new Block(block);
  emitter.loop(some, last.name, first, end, 1, [], (one) => {
    for (const s of stores) lowerStage(emitter, one, s);
  });
  block.statements.push(when(lt(add(first, int(3)), end), all.statements, some.statements));
}

/** A stage at one point; inner axes are loops. */
function lowerStage(emitter: Emitter, block: Block, stage: Stage): void {
  if (stage.k === "let") {
    const value = emitter.emit(emitter.interner.intern(stage.value), block, undefined);
    block.remember(emitter.interner.intern({ k: "var", name: stage.name, type: stage.type }), false, value);
    return;
  }
  const [value, index] = [emitter.interner.intern(stage.value), emitter.interner.intern(stage.index)];
  const nest = (into: Block, depth: number): void => {
    const axis = stage.axes[depth];
    if (axis === undefined) {
      const ptr = emitter.place(stage.buffer, index, into);
      into.statements.push({ k: "store", ptr, offset: 0, value: emitter.emit(value, into, undefined) });
      return;
    }
    const deeper = stage.axes.slice(depth + 1).map((a) => a.name);
    const extent = emitter.name(into, "n", emitter.size(axis.extent));
    emitter.loop(into, axis.name, int(0), extent, 1, [value, index], (inside) => nest(inside, depth + 1), deeper);
  };
  nest(block, 0);
}
