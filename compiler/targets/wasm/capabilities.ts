// What WebAssembly offers to schedules, in its two variants, and the bytes that tell an engine's support.

import { Code, encodeModule, v128 } from "./encoder.ts";
import { simd } from "./opcodes.ts";

export interface WasmCapabilities {
  readonly target: "wasm";
  /** Lanes of a vector. */
  readonly vector: 4;
  readonly relaxed: boolean;
  /** Rows of a matrix-multiply tile of 8 columns. Measured: 4 rows of mul + add never spill, 6 rows fit with a fused multiply-add. */
  readonly matmulRows: number;
  /** Columns of a packed panel. */
  readonly panel: 8;
  /** Kernels may have any number of buffers. */
  readonly maximumBuffers: number;
}

export const plainWasm: WasmCapabilities = { target: "wasm", vector: 4, relaxed: false, matmulRows: 4, panel: 8, maximumBuffers: 64 };
export const relaxedWasm: WasmCapabilities = { ...plainWasm, relaxed: true, matmulRows: 6 };

/** A module that validates exactly where relaxed SIMD exists. */
export function relaxedProbe(): Uint8Array {
  const c = new Code(0);
  for (let i = 0; i < 3; i++) c.v128(new Uint8Array(16));
  c.simd(simd.f32x4_relaxed_madd);
  return encodeModule([{ params: [], results: [v128], body: c.body() }], false);
}
