// What a machine that executes plans must offer. A session speaks to this interface alone. A binding is
// buffer + offset + size, so that one allocation (an arena) can hold many tensors. Knows nothing of
// graphs, plans or files.

/** An allocation on a device: aligned as the device says, followed by at least 64 readable bytes. Contents start unspecified. */
export interface DeviceBuffer {
  readonly bytes: number;
}

/** `bytes` bytes of `buffer` from `offset`. */
export interface Binding {
  readonly buffer: DeviceBuffer;
  readonly offset: number;
  readonly bytes: number;
}

/** Kernels that were loaded together. */
export interface KernelModule {
  readonly kernels: ReadonlySet<string>;
  /** Resolves when all kernels can run without delay; rejects with the first one's error. Without it they can from the start. */
  ready?(): Promise<void>;
}

/** WebAssembly with SIMD, and the same with relaxed SIMD. */
export interface WasmCode {
  readonly plain: Uint8Array;
  readonly relaxed?: Uint8Array;
}

/** A kernel as a WGSL module of its own with the entry point `main`. */
export interface WgslKernelCode {
  readonly name: string;
  readonly code: string;
  /** Invocations of a workgroup. */
  readonly lanes: number;
  /** How bindings 0 … of group 0 are declared; a uniform buffer follows: how many units there are, then the sizes, as i32. */
  readonly bindings: readonly ("read" | "read_write")[];
  readonly requires: readonly ("subgroups" | "shader-f16")[];
}

/** Kernels for adapters that have these features: subgroups of exactly this size (0: none), 16-bit floats. */
export interface WgslVariant {
  readonly features: { readonly subgroups: 0 | 4 | 8 | 16 | 32 | 64; readonly f16: boolean };
  readonly kernels: readonly WgslKernelCode[];
}

/** A plan's kernels for the targets it was compiled for, in the variants a device may choose from. */
export interface KernelCode {
  readonly wasm?: WasmCode | undefined;
  /** Best first. */
  readonly wgsl?: readonly WgslVariant[] | undefined;
}

export interface LoadOptions {
  /** Where a kernel comes from, for errors: `file:line:column` chains. */
  readonly sources?: ((kernel: string) => readonly string[]) | undefined;
}

/** One piece of work. Commands of one submission run in order, each seeing what those before it wrote. */
export type Command =
  | {
      readonly k: "dispatch";
      readonly module: KernelModule;
      readonly kernel: string;
      /** In the order of the kernel's own buffers, then its sizes in the order of its `dims`. */
      readonly bindings: readonly Binding[];
      readonly dims: readonly number[];
      /** Independent units of work; they may run in any order and at the same time. */
      readonly units: number;
      /** Bytes of private memory each thread needs. */
      readonly scratch: number;
      /** Operations and bytes moved, as estimates: only speed depends on them. */
      readonly flops: number;
      readonly bytes: number;
      /** Where it comes from, for errors: `file:line:column` chains. */
      readonly sources?: readonly string[];
    }
  /** `from.bytes` bytes, and up to three more, to the next multiple of 4; the two may overlap. */
  | { readonly k: "copy"; readonly from: Binding; readonly to: Binding };

export interface SubmitOptions {
  /** Looked at between commands and, in long ones, within: the call then rejects with `signal.reason`. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Called after each command with its place in the list, the time it took, and when it began, in milliseconds since
   * the call. Must not throw. A device that runs many commands as one divides the time of all by their estimated work.
   */
  readonly onCommand?: ((index: number, milliseconds: number, begin: number) => void) | undefined;
  /** Measure each command by itself, by the device's own clock where it has one. Slower. */
  readonly profile?: boolean | undefined;
}

/**
 * Calls are served in the order they were made. After a failure (DeviceError) or `close`, every call but
 * `close` and `free` throws DeviceError.
 */
export interface Device extends AsyncDisposable {
  /** For people and reports: "wasm", "webgpu". */
  readonly kind: string;
  /** What exactly it is, e.g. an adapter's name. */
  readonly description?: string;
  readonly threads: number;
  /** Where allocations, and bindings within them, begin: multiples of this many bytes, itself a multiple of 64. */
  readonly alignment: number;
  /** Whether its memory is the machine's, so that there is no more than the machine has. */
  readonly hostMemory: boolean;
  /** The most bytes that may be allocated in all. */
  readonly capacity: number;
  /** Bytes allocated now. */
  readonly used: number;
  /** Throws ResourceError when there is no room. */
  alloc(bytes: number): DeviceBuffer;
  /** Gives the memory back for later allocations. Freeing twice is an error. */
  free(buffer: DeviceBuffer): void;
  /** `offset` is a multiple of 4. Up to three bytes behind the data, to the next multiple of 4, become unspecified. */
  write(buffer: DeviceBuffer, offset: number, data: Uint8Array): Promise<void>;
  /** `offset` is a multiple of 4. */
  read(buffer: DeviceBuffer, offset: number, bytes: number): Promise<Uint8Array>;
  /**
   * The device's own memory, where it can be had: filling it saves a copy. Undefined on devices with memory of
   * their own. Valid until the next `alloc`.
   */
  view(buffer: DeviceBuffer, offset: number, bytes: number): Uint8Array | undefined;
  /** The same code (the same array) is loaded once. Throws ArtefactError where there is none for this device. */
  load(code: KernelCode, options?: LoadOptions): Promise<KernelModule>;
  submit(commands: readonly Command[], options?: SubmitOptions): Promise<void>;
  /** Resolves when everything submitted before has finished. */
  sync(): Promise<void>;
  /** Frees everything. May be called twice. */
  close(): Promise<void>;
}
