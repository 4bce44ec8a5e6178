// What a schedule may rely on. Values of a target stand with the target (compiler/targets/*/capabilities.ts).

export interface Capabilities {
  /** Lanes of a float vector: 1 (none) or 4. */
  readonly vector: 1 | 4;
  /** Rows of a matrix-multiply tile. */
  readonly matmulRows: number;
  /** Columns of a packed operand's panels. */
  readonly panel: 8;
  /** Most buffers a kernel may have. */
  readonly maximumBuffers: number;
}

/** No vectors, no packing: what the unscheduled body says. */
export const scalarCapabilities: Capabilities = { vector: 1, matmulRows: 4, panel: 8, maximumBuffers: 64 };
