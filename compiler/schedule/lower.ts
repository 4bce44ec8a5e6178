// Kernel IR to Imp IR. Every kernel lowers to loops as it stands; where neighbours along the innermost axis can
// be computed together they are, four at a time, with a scalar tail. Matrix multiplies and attention with a
// known pattern go to their builders (matmul.ts, attention.ts).

import { dim, dimAdd, dimConstant, dimDiv, dimMul } from "../ir/dim.ts";
import { typeOfImp } from "../ir/imp/build.ts";
import type { ImpExpr, ImpFunction } from "../ir/imp/types.ts";
import type { Axis, Expr, Kernel, Stage } from "../ir/kernel/types.ts";
import { lowerAttention } from "./attention.ts";
import { lowerAttentionGradient } from "./attention-gradient.ts";
import type { Capabilities } from "./capabilities.ts";
import { binary, Block, Emitter, int } from "./emit.ts";
import { finish, unitName } from "./finish.ts";
import { substitute } from "../ir/kernel/intern.ts";
import { lowerGpu } from "./gpu/lower.ts";
import { lowerMatmul } from "./matmul.ts";
import { mergeAxes } from "./merge.ts";
import { lowerStores, sameAxes, vector, type InnerAxis, type LoopStore } from "./stores.ts";
import { lowerQuantised } from "./quantised.ts";
import { lowerScatter } from "./scatter.ts";

export interface Lowered {
  readonly fn: ImpFunction;
  /** False where no builder took the kernel and its loops are those of its body: right, and slow for a multiply. */
  readonly built: boolean;
}

/** The function that does what `kernel` says, with the target's abilities. */
export function lowerKernel(kernel: Kernel, capabilities: Capabilities): ImpFunction {
  return lower(kernel, capabilities).fn;
}

export function lower(kernel: Kernel, capabilities: Capabilities): Lowered {
  if (capabilities.gpu !== undefined) return lowerGpu(kernel, capabilities);
  const built =
    kernel.pattern === undefined
      ? (lowerAttentionGradient(kernel, capabilities) ?? lowerScatter(kernel, capabilities))
      : kernel.pattern.k === "matmul"
        ? lowerMatmul(kernel, capabilities)
        : kernel.pattern.k === "quantised"
          ? lowerQuantised(kernel, capabilities)
          : lowerAttention(kernel, capabilities);
  return built === undefined ? { fn: lowerLoops(kernel, capabilities), built: false } : { fn: built, built: true };
}

/** The part of `kernel` that any kernel has: loops over points of the parallel axes. */
function lowerLoops(kernel: Kernel, capabilities: Capabilities): ImpFunction {
  const emitter = new Emitter(kernel.buffers, capabilities.vector > 1);
  const { axes, stages } = lanes(kernel, emitter) ?? normalise(kernel, capabilities.vector > 1);
  const root = new Block();
  let rest: ImpExpr = { k: "var", name: unitName, type: "i32" };
  // Row-major: the last axis varies fastest.
  for (const [i, axis] of [...axes].reverse().entries()) {
    const last = i === axes.length - 1;
    const extent = emitter.size(axis.extent);
    const place: ImpExpr = last ? rest : binary("mod", rest, extent, "i32");
    const variable = emitter.name(root, axis.name, place);
    root.remember(emitter.interner.intern({ k: "var", name: axis.name, type: "i32" }), false, variable);
    if (!last) rest = emitter.name(root, "rest", binary("div", rest, extent, "i32"));
  }
  for (const list of neighbours(stages)) {
    const [first, ...more] = list;
    if (first === undefined) continue;
    if (more.length === 0) lowerStage(first, root, emitter);
    else {
      const stores = list.flatMap((s) => (s.k === "store" ? [s] : []));
      const { interner } = emitter;
      lowerStores(
        stores.map((s) => ({ ...s, value: interner.intern(s.value), index: interner.intern(s.index) })),
        root,
        emitter,
      );
    }
  }
  const units = axes.reduce((p, a) => dimMul(p, a.extent), dim(1));
  return finish(kernel, emitter, units, root.statements);
}

/** Stores over the same axes that follow each other, together; every other stage alone. */
function neighbours(stages: readonly LoopStage[]): readonly (readonly LoopStage[])[] {
  const lists: LoopStage[][] = [];
  for (const s of stages) {
    const before = lists.at(-1)?.at(-1);
    const joins = s.k === "store" && before?.k === "store" && s.lanes === undefined && before.lanes === undefined && sameAxes(s, before);
    if (joins) lists.at(-1)?.push(s);
    else lists.push([s]);
  }
  return lists;
}

type LoopStage =
  | Extract<Stage, { k: "let" }>
  | (LoopStore & {
      /** Elements along this axis (2 to 4, from 0 on) are computed together and stored one by one. */
      readonly lanes?: { readonly axis: string; readonly count: number };
    });

/**
 * Where neighbours along the last axis lie apart in memory (a resize reads each column's own taps) but a short axis is
 * contiguous (the channels of a pixel), that axis is the vector. Loads may read up to a vector's end, which every
 * buffer has behind it.
 */
function lanes(kernel: Kernel, emitter: Emitter): { readonly axes: readonly Axis[]; readonly stages: readonly LoopStage[] } | undefined {
  const [stage] = kernel.stages;
  const last = kernel.axes.at(-1);
  if (kernel.stages.length !== 1 || stage?.k !== "store" || stage.axes.length > 0 || last === undefined) return undefined;
  const value = emitter.interner.intern(stage.value);
  if (emitter.canVector(value, last.name) || kernel.buffers.some((b) => b.name === stage.buffer && b.dtype === "bool")) return undefined;
  const short = kernel.axes.find((a) => a !== last && (dimConstant(a.extent) ?? 0) >= 2 && (dimConstant(a.extent) ?? 5) <= 4);
  if (short === undefined || !emitter.reads.of(value).has(short.name) || !emitter.canVector(value, short.name)) return undefined;
  return {
    axes: kernel.axes.filter((a) => a !== short && a !== last),
    stages: [{ ...stage, axes: [last], lanes: { axis: short.name, count: dimConstant(short.extent) ?? 0 } }],
  };
}

function lowerStage(stage: LoopStage, root: Block, emitter: Emitter): void {
  if (stage.k === "let") {
    const value = emitter.emit(emitter.interner.intern(stage.value), root, undefined);
    // The let has the value's name from here on.
    root.remember(emitter.interner.intern({ k: "var", name: stage.name, type: stage.type }), false, value);
    return;
  }
  const [value, index] = [emitter.interner.intern(stage.value), emitter.interner.intern(stage.index)];
  if (stage.lanes !== undefined) lowerLanes({ ...stage, value, index, lanes: stage.lanes }, root, emitter);
  else lowerStores([{ ...stage, value, index }], root, emitter);
}

function lowerLanes(
  stage: Extract<LoopStage, { k: "store" }> & { readonly lanes: { readonly axis: string; readonly count: number } },
  root: Block,
  emitter: Emitter,
): void {
  const { lanes: along, value } = stage;
  const [axis] = stage.axes;
  if (axis === undefined || "k" in axis.extent) throw new Error("lanes are stored along one whole axis");
  root.remember(emitter.interner.intern({ k: "var", name: along.axis, type: "i32" }), false, int(0));
  emitter.loop(root, axis.name, int(0), emitter.size(axis.extent), 1, [value], (inside) => {
    const made = vector(emitter.emit(value, inside, along.axis));
    const type = typeOfImp(made) === "f32x4" ? "f32" : "i32";
    for (let lane = 0; lane < along.count; lane++) {
      const index = emitter.interner.intern(substitute(stage.index, along.axis, { k: "const", type: "i32", value: lane }));
      const ptr = emitter.place(stage.buffer, index, inside);
      inside.statements.push({ k: "store", ptr, offset: 0, value: { k: "lane", a: made, lane, type } });
    }
  });
}

/** Elements an elementwise unit handles when axes are merged: enough to hide its start, few enough to share out. */
const blockElements = 2048;

/**
 * Gives elementwise kernels (stores at points of the parallel axes alone) an innermost loop: the last axis, merged
 * with the axes before it where every index allows, becomes the stores' inner axis.
 */
function normalise(kernel: Kernel, vectorise: boolean): { readonly axes: readonly Axis[]; readonly stages: readonly LoopStage[] } {
  const { axes, stages } = kernel;
  const plain = stages.every((s) => s.k === "store" && s.axes.length === 0);
  const last = axes.at(-1);
  if (!vectorise || !plain || last === undefined) return { axes, stages };
  const emitter = new Emitter(kernel.buffers, true);
  const stores = stages.flatMap((s) =>
    s.k === "store" ? [{ ...s, index: emitter.interner.intern(s.index), value: emitter.interner.intern(s.value) }] : [],
  );
  const merged = mergeAxes(axes, stores, emitter);
  const inner = merged.axes.at(-1);
  if (inner === undefined) return { axes, stages };
  const outer = merged.axes.slice(0, -1);
  const size = dimConstant(inner.extent);
  if (outer.length === 0 && (size === undefined || size > blockElements)) {
    // One long axis: cut into blocks, so that threads can share it.
    const constant = (value: number): Expr => ({ k: "const", type: "i32", value });
    const int2 = (op: "add" | "sub" | "mul" | "min", a: Expr, b: Expr): Expr => ({ k: "binary", op, a, b, type: "i32" });
    const block: Axis = { name: `${inner.name}_block`, extent: dimDiv(dimAdd(inner.extent, dim(blockElements - 1)), dim(blockElements)) };
    const start = int2("mul", { k: "var", name: block.name, type: "i32" }, constant(blockElements));
    const within: InnerAxis = {
      name: `${inner.name}_in`,
      extent: int2("min", constant(blockElements), int2("sub", { k: "dim", dim: inner.extent }, start)),
    };
    const at = int2("add", start, { k: "var", name: within.name, type: "i32" });
    return {
      axes: [block],
      stages: merged.stores.map((s) => ({
        ...s,
        axes: [within],
        index: substitute(s.index, inner.name, at),
        value: substitute(s.value, inner.name, at),
      })),
    };
  }
  return { axes: outer, stages: merged.stores.map((s) => ({ ...s, axes: [inner] })) };
}
