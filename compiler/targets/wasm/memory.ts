// Loads and stores: addresses with their constant distances in the instruction, and the conversions between a
// buffer's element type and the types of Imp IR.

import { bytesOf } from "../../ir/dtype.ts";
import { isVector, typeOfImp } from "../../ir/imp/build.ts";
import type { ImpExpr } from "../../ir/imp/types.ts";
import { bf16FromF32, f16FromF32, f32FromBf16, f32FromF16 } from "./narrow.ts";
import { op, simd } from "./opcodes.ts";
import type { Renderer } from "./render.ts";

/** Buffers and scratch lie at this address or above: the functions rely on it (spec/artefact.md). */
export const firstAddress = 65536;

/**
 * Leaves an address on the stack and returns the constant bytes to add to it. Constant distances become the
 * instruction's offset where what is left cannot lie below 0: unlike an addition, an offset does not wrap around.
 */
function address(ptr: ImpExpr, offset: number, r: Renderer): number {
  const size = bytesOf(r.dtypeOf(ptr));
  let distance = 0;
  let at = ptr;
  for (;;) {
    if (at.k === "advance" && at.elements.k === "const" && typeof at.elements.value === "number") {
      distance += at.elements.value * size;
      at = at.ptr;
    } else if (
      at.k === "at" &&
      at.index.k === "binary" &&
      at.index.op === "add" &&
      at.index.b.k === "const" &&
      typeof at.index.b.value === "number"
    ) {
      distance += at.index.b.value * size;
      at = { ...at, index: at.index.a };
    } else break;
  }
  const far = distance > firstAddress;
  const bytes = offset * size + (far ? 0 : distance);
  r.expr(far ? ptr : at);
  if (bytes >= 0) return bytes;
  r.code.i32(bytes).op(op.i32_add);
  return 0;
}

/** Leaves what is loaded on the stack. */
export function renderLoad(e: Extract<ImpExpr, { k: "load" | "loadSplat" }>, r: Renderer): void {
  const { code } = r;
  const dtype = r.dtypeOf(e.ptr);
  if (e.k === "loadSplat" && (dtype === "f32" || dtype === "i32")) {
    const offset = address(e.ptr, e.offset, r);
    code.simdMemory(simd.v128_load32_splat, 2, offset);
    return;
  }
  if (e.k === "loadSplat") {
    renderLoad({ k: "load", ptr: e.ptr, offset: e.offset, type: e.type === "f32x4" ? "f32" : "i32" }, r);
    code.simd(e.type === "f32x4" ? simd.f32x4_splat : simd.i32x4_splat);
    return;
  }
  const vector = isVector(e.type);
  const offset = address(e.ptr, e.offset, r);
  switch (dtype) {
    case "f32":
    case "i32":
      if (vector) code.simdMemory(simd.v128_load, 2, offset);
      else code.memory(dtype === "f32" ? op.f32_load : op.i32_load, 2, offset);
      return;
    case "u8":
    case "bool":
    case "i8": {
      const signed = dtype === "i8";
      if (vector) {
        code.simdMemory(simd.v128_load32_zero, 0, offset);
        code
          .simd(signed ? simd.i16x8_extend_low_i8x16_s : simd.i16x8_extend_low_i8x16_u)
          .simd(signed ? simd.i32x4_extend_low_i16x8_s : simd.i32x4_extend_low_i16x8_u);
      } else code.memory(signed ? op.i32_load8_s : op.i32_load8_u, 0, offset);
      return;
    }
    case "f16":
    case "bf16": {
      const type = vector ? "i32x4" : "i32";
      if (vector) code.simdMemory(simd.v128_load16x4_u, 0, offset);
      else code.memory(op.i32_load16_u, 0, offset);
      const bits = r.kept(type);
      r.expr(dtype === "f16" ? f32FromF16(bits, type, r) : f32FromBf16(bits, type));
      return;
    }
    default:
      dtype satisfies never;
  }
}

/** Half of the bytes at a place as 16-bit integers, with one instruction; false where the operand is not just loaded. */
export function renderWidened(e: Extract<ImpExpr, { k: "halves" }>, r: Renderer): boolean {
  const [from] = e.args;
  if (from?.k !== "load" || e.args.length !== 1 || r.dtypeOf(from.ptr) !== "i32") return false;
  const signed = e.op === "low_i8" || e.op === "high_i8";
  const offset = address(from.ptr, from.offset, r) + (e.op === "high_i8" || e.op === "high_u8" ? 8 : 0);
  r.code.simdMemory(signed ? simd.v128_load8x8_s : simd.v128_load8x8_u, 0, offset);
  return true;
}

/** Stores the first `count` lanes of a vector, or a scalar. */
export function renderStore(ptr: ImpExpr, at: number, value: ImpExpr, count: number, r: Renderer): void {
  const { code } = r;
  const dtype = r.dtypeOf(ptr);
  const type = typeOfImp(value);
  const vector = isVector(type);
  let bits = value;
  if (dtype === "f16" || dtype === "bf16") bits = (dtype === "f16" ? f16FromF32 : bf16FromF32)(value, vector ? "i32x4" : "i32", r);
  // The lowest bit of a mask; a scalar bool is 0 or 1 already.
  if (dtype === "bool" && vector) bits = { k: "binary", op: "bitand", a: value, b: { k: "const", type: "i32x4", value: 1 }, type };
  const size = bytesOf(dtype);
  if (!vector) {
    const offset = address(ptr, at, r);
    r.expr(bits);
    code.memory(
      dtype === "f32" ? op.f32_store : dtype === "i32" ? op.i32_store : size === 1 ? op.i32_store8 : op.i32_store16,
      size === 4 ? 2 : 0,
      offset,
    );
    return;
  }
  if (size === 4 && count === 4) {
    const offset = address(ptr, at, r);
    r.expr(bits);
    code.simdMemory(simd.v128_store, 2, offset);
    return;
  }
  const local = r.temporary(type);
  r.expr(bits);
  code.set(local);
  // The low bytes of each lane, lane by lane: narrow stores wrap as scalar ones do.
  for (let lane = 0; lane < count; lane++) {
    const offset = address(ptr, at + lane, r);
    code.get(local);
    code.simdMemory(size === 4 ? simd.v128_store32_lane : size === 2 ? simd.v128_store16_lane : simd.v128_store8_lane, 0, offset);
    code.bytes.byte(lane * (size === 4 ? 1 : size === 2 ? 2 : 4));
  }
}
