// What the WGSL target takes and gives: the features a variant of the kernels relies on, and a rendered kernel. Knows
// nothing of devices or of how text is made (see render.ts).

/** What an adapter offers beyond WebGPU's core that kernels may rely on. */
export interface WgslFeatures {
  /** Invocations of a subgroup: kernels may rely on exactly this size. 0: no subgroup operations. */
  readonly subgroups: 0 | 4 | 8 | 16 | 32 | 64;
  /** The `shader-f16` feature. */
  readonly f16: boolean;
}

/** The core alone: such kernels run on every adapter. */
export const coreFeatures: WgslFeatures = { subgroups: 0, f16: false };

/** A kernel as a shader module of its own, whose entry point is `main`. */
export interface WgslKernel {
  readonly name: string;
  readonly code: string;
  /** Invocations of a workgroup, along x. */
  readonly lanes: number;
  /**
   * How each storage buffer is bound, in the order of the function's buffers: bindings 0 … of group 0. A uniform buffer
   * follows them, of i32 numbers: how many units there are, then the function's dims in their order, padded to 16 bytes.
   */
  readonly bindings: readonly ("read" | "read_write")[];
  readonly requires: readonly ("subgroups" | "shader-f16")[];
}

export interface WgslOptions {
  readonly features: WgslFeatures;
  /** Names of buffers that are never bound to memory which the same dispatch may write. */
  readonly readOnly: ReadonlySet<string>;
}
