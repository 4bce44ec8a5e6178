// What a schedule may rely on. Values of a target stand with the target (compiler/targets/*/capabilities.ts).

export interface Capabilities {
  /** Lanes of a float vector: 1 (none) or 4. */
  readonly vector: 1 | 4;
  /** Rows of a matrix-multiply tile of 8 columns. */
  readonly matmulRows: number;
}

/** No vectors, no packing: what the unscheduled body says. */
export const scalarCapabilities: Capabilities = { vector: 1, matmulRows: 4 };
