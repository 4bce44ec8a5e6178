// What a machine that executes plans must offer. A session speaks to this interface alone. A binding is
// buffer + offset + size, so that one allocation (an arena) can hold many tensors. Knows nothing of
// graphs, plans or files.

/** An allocation on a device: 64-byte aligned, followed by at least 64 readable bytes. Contents start unspecified. */
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
}

/** A module's code in the variants a device may choose from. */
export interface KernelCode {
  /** WebAssembly with SIMD, and the same with relaxed SIMD. */
  readonly wasm: { readonly plain: Uint8Array; readonly relaxed?: Uint8Array };
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
    }
  /** `from.bytes` bytes; the two may overlap. */
  | { readonly k: "copy"; readonly from: Binding; readonly to: Binding };

export interface SubmitOptions {
  /** Looked at between commands and, in long ones, within: the call then rejects with `signal.reason`. */
  readonly signal?: AbortSignal | undefined;
  /** Called after each command with its place in the list and the time it took. Must not throw. */
  readonly onCommand?: ((index: number, milliseconds: number) => void) | undefined;
}

/**
 * Calls are served in the order they were made. After a failure (DeviceError) or `close`, every call but
 * `close` and `free` throws DeviceError.
 */
export interface Device extends AsyncDisposable {
  /** For people and reports: "wasm". */
  readonly kind: string;
  readonly threads: number;
  /** The most bytes that may be allocated in all. */
  readonly capacity: number;
  /** Bytes allocated now. */
  readonly used: number;
  /** Throws ResourceError when there is no room. */
  alloc(bytes: number): DeviceBuffer;
  /** Gives the memory back for later allocations. Freeing twice is an error. */
  free(buffer: DeviceBuffer): void;
  write(buffer: DeviceBuffer, offset: number, data: Uint8Array): Promise<void>;
  read(buffer: DeviceBuffer, offset: number, bytes: number): Promise<Uint8Array>;
  /**
   * The device's own memory, where it can be had: filling it saves a copy. Undefined on devices with memory of
   * their own. Valid until the next `alloc`.
   */
  view(buffer: DeviceBuffer, offset: number, bytes: number): Uint8Array | undefined;
  /** The same bytes (the same array) are loaded once. */
  load(code: KernelCode): Promise<KernelModule>;
  submit(commands: readonly Command[], options?: SubmitOptions): Promise<void>;
  /** Resolves when everything submitted before has finished. */
  sync(): Promise<void>;
  /** Frees everything. May be called twice. */
  close(): Promise<void>;
}
