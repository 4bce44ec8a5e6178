// What a schedule may rely on. Values of a target stand with the target (compiler/targets/*/capabilities.ts).

export interface Capabilities {
  /** Lanes of a float vector: 1 (none) or 4. */
  readonly vector: 1 | 4;
  /** Rows of a matrix-multiply tile of 8 columns, on targets where a unit is one thread. */
  readonly matmulRows: number;
  /** There where a unit is a workgroup of invocations that run in step. */
  readonly gpu?: GpuCapabilities;
}

export interface GpuCapabilities {
  /** Invocations of a subgroup, exactly; 0 where there are no subgroup operations. */
  readonly subgroups: 0 | 4 | 8 | 16 | 32 | 64;
}

/** No vectors, no packing: what the unscheduled body says. */
export const scalarCapabilities: Capabilities = { vector: 1, matmulRows: 4 };

/** Columns of a panel of a packed operand. One number a target: the panels lie in memory that all its variants share. */
export const cpuPanel = 8;
export const gpuPanel = 32;
