// What WebAssembly offers to schedules, in its two variants, and the bytes that tell an engine's support.

import type { Capabilities } from "../../schedule/capabilities.ts";
import { Code, encodeModule, v128 } from "./encoder.ts";
import { simd } from "./opcodes.ts";

// Rows of a tile, measured: 4 rows of mul + add never spill, 6 rows fit with a fused multiply-add.
export const plainWasm: Capabilities = { vector: 4, matmulRows: 4 };
/** With relaxed SIMD's fused multiply-add. */
export const relaxedWasm: Capabilities = { ...plainWasm, matmulRows: 6 };

/** A module that validates exactly where relaxed SIMD exists. */
export function relaxedProbe(): Uint8Array {
  const c = new Code(0);
  for (let i = 0; i < 3; i++) c.v128(new Uint8Array(16));
  c.simd(simd.f32x4_relaxed_madd);
  return encodeModule([{ params: [], results: [v128], body: c.body() }], false);
}
