// Kernel IR to Imp IR. Every kernel lowers to loops as it stands; where neighbours along the innermost axis can
// be computed together they are, four at a time, with a scalar tail. Matrix multiplies and attention with a
// known pattern go to their builders (matmul.ts, attention.ts).

import { dim, dimAdd, dimConstant, dimDiv, dimMul, type Dim } from "../ir/dim.ts";
import type { ImpExpr, ImpFunction } from "../ir/imp/types.ts";
import type { Axis, Expr, Kernel, Stage } from "../ir/kernel/types.ts";
import { lowerAttention } from "./attention.ts";
import type { Capabilities } from "./capabilities.ts";
import { binary, Block, Emitter, impType, int } from "./emit.ts";
import { finish, unitName } from "./finish.ts";
import { strideOf, substitute } from "../ir/kernel/intern.ts";
import { lowerMatmul } from "./matmul.ts";
import { mergeAxes } from "./merge.ts";

/** The function that does what `kernel` says, with the target's abilities. */
export function lowerKernel(kernel: Kernel, capabilities: Capabilities): ImpFunction {
  const built =
    kernel.pattern?.k === "matmul"
      ? lowerMatmul(kernel, capabilities)
      : kernel.pattern?.k === "attention"
        ? lowerAttention(kernel, capabilities)
        : undefined;
  return built ?? lowerLoops(kernel, capabilities);
}

/** The part of `kernel` that any kernel has: loops over points of the parallel axes. */
function lowerLoops(kernel: Kernel, capabilities: Capabilities): ImpFunction {
  const { axes, stages } = normalise(kernel, capabilities.vector > 1);
  const emitter = new Emitter(kernel.buffers, capabilities.vector > 1);
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
  for (const stage of stages) lowerStage(stage, root, emitter);
  const units = axes.reduce((p, a) => dimMul(p, a.extent), dim(1));
  return finish(kernel, emitter, units, root.statements);
}

/** An inner loop; the extent of a last, shorter block depends on the unit. */
interface InnerAxis {
  readonly name: string;
  readonly extent: Dim | Expr;
}

type LoopStage = Extract<Stage, { k: "let" }> | (Omit<Extract<Stage, { k: "store" }>, "axes"> & { readonly axes: readonly InnerAxis[] });

function lowerStage(stage: LoopStage, root: Block, emitter: Emitter): void {
  if (stage.k === "let") {
    const value = emitter.emit(emitter.interner.intern(stage.value), root, undefined);
    // The let has the value's name from here on.
    root.remember(emitter.interner.intern({ k: "var", name: stage.name, type: stage.type }), false, value);
    return;
  }
  const [value, index] = [emitter.interner.intern(stage.value), emitter.interner.intern(stage.index)];
  const nest = (block: Block, depth: number): void => {
    const axis = stage.axes[depth];
    if (axis === undefined) {
      block.statements.push({
        k: "store",
        ptr: emitter.place(stage.buffer, index, block),
        offset: 0,
        value: emitter.emit(value, block, undefined),
      });
      return;
    }
    const innermost = depth === stage.axes.length - 1;
    const extent = emitter.name(
      block,
      "n",
      "k" in axis.extent ? emitter.emit(emitter.interner.intern(axis.extent), block, undefined) : emitter.size(axis.extent),
    );
    const few = !("k" in axis.extent) && (dimConstant(axis.extent) ?? 4) < 4;
    if (!innermost || few || strideOf(index, axis.name, emitter.reads) !== 1 || !emitter.canVector(value, axis.name)) {
      const deeper = stage.axes.slice(depth + 1).map((a) => a.name);
      emitter.loop(block, axis.name, int(0), extent, 1, [value, index], (inside) => nest(inside, depth + 1), deeper);
      return;
    }
    const many = emitter.name(block, "end", binary("bitand", extent, int(-4), "i32"));
    emitter.loop(block, axis.name, int(0), many, 4, [value, index], (inside) => {
      inside.statements.push({
        k: "store",
        ptr: emitter.place(stage.buffer, index, inside),
        offset: 0,
        value: vector(emitter.emit(value, inside, axis.name)),
      });
    });
    emitter.loop(block, axis.name, many, extent, 1, [], (inside) => nest(inside, depth + 1));
  };
  nest(root, 0);
}

/** A value that does not vary along the axis is the same for all four neighbours. */
function vector(value: ImpExpr): ImpExpr {
  const type = impType(value);
  return type === "f32" || type === "i32" ? { k: "splat", a: value, type: type === "f32" ? "f32x4" : "i32x4" } : value;
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
