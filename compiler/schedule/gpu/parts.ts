// What the GPU schedules share. Decides nothing.

import { typeOfImp } from "../../ir/imp/build.ts";
import type { ImpExpr } from "../../ir/imp/types.ts";
import type { Stage } from "../../ir/kernel/types.ts";
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
