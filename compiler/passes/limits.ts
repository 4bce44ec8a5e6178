// What kernels of a target may bind, where it limits that. Passes and fusion keep to it.

export interface BindingLimits {
  /** Buffers of a kernel, the one it writes included. */
  readonly buffers: number;
  /** Bytes of a buffer. */
  readonly bytes: number;
}
