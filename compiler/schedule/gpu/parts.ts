// What the GPU schedules share. Decides nothing.

import { dimConstant, type Dim } from "../../ir/dim.ts";
import { binary, int, typeOfImp } from "../../ir/imp/build.ts";
import type { ImpExpr } from "../../ir/imp/types.ts";
import type { KernelBuffer, Stage } from "../../ir/kernel/types.ts";
import type { Block, Emitter } from "../emit.ts";

type Store = Extract<Stage, { k: "store" }>;

/** Stores four neighbours along `axis`, whose value in `block` is the first of them. Expressions are interned. */
export function storeVector(emitter: Emitter, block: Block, s: Pick<Store, "buffer" | "index" | "value">, axis: string): void {
  const ptr = emitter.place(s.buffer, s.index, block);
  block.statements.push({ k: "store", ptr, offset: 0, value: wide(emitter.emit(s.value, block, axis)) });
}

/** A value that does not vary along the axis is the same for all four neighbours. */
function wide(value: ImpExpr): ImpExpr {
  const type = typeOfImp(value);
  if (type === "bool") {
    const lane: ImpExpr = { k: "convert", a: value, type: "i32" };
    return { k: "splat", a: lane, type: "i32x4" };
  }
  return type === "f32" || type === "i32" ? { k: "splat", a: value, type: type === "f32" ? "f32x4" : "i32x4" } : value;
}

export const variable = (name: string): ImpExpr => ({ k: "var", name, type: "i32" });

/** A name for scratch that no buffer has. */
export function unusedName(buffers: readonly KernelBuffer[], wanted: string): string {
  return buffers.reduce((name, b) => (b.name.startsWith(name) ? `${b.name}_` : name), wanted);
}

/** Where `point` is along each extent, the last varying fastest. */
export function placesOf(emitter: Emitter, block: Block, point: ImpExpr, extents: readonly Dim[]): readonly ImpExpr[] {
  const out: ImpExpr[] = [];
  let rest = point;
  for (const [i, extent] of [...extents.entries()].reverse()) {
    if (i === 0) out.unshift(rest);
    else if (dimConstant(extent) === 1) out.unshift(int(0));
    else {
      const by = emitter.size(extent);
      out.unshift(emitter.name(block, "place", binary("mod", rest, by)));
      rest = emitter.name(block, "rest", binary("div", rest, by));
    }
  }
  return out;
}

export function exp(a: ImpExpr): ImpExpr {
  return { k: "unary", op: "exp", a, type: typeOfImp(a) };
}
