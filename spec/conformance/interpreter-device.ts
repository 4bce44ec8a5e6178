// A device whose kernels are interpreted: the same sessions, plans and memory as on a real one, with the code of
// each dispatch executed by a function. Rows for the Kernel IR evaluator and the Imp IR emulator are made of it.

import type { Binding, Command, Device, DeviceBuffer, KernelModule, SubmitOptions } from "../../runtime/device.ts";
import { DeviceError, ResourceError } from "../../runtime/errors.ts";

/**
 * Executes units 0 … units-1 of a kernel over its buffers' bytes, in the kernel's own buffer order. The readable bytes
 * behind a buffer are not among them: an interpreter knows what is out of range.
 */
export type ExecuteKernel = (kernel: string, buffers: readonly Uint8Array[], dims: readonly number[], units: number) => void;

const slack = 64;

class Allocation implements DeviceBuffer {
  readonly bytes: number;
  readonly memory: Uint8Array;
  constructor(bytes: number) {
    this.bytes = bytes;
    // Unspecified contents are made visible: reading before writing gives NaN and large integers.
    this.memory = new Uint8Array(bytes + slack).fill(0xff);
  }
}

export class InterpreterDevice implements Device {
  readonly kind: string;
  readonly threads = 1;
  readonly alignment = 64;
  readonly hostMemory = true;
  readonly capacity = 2 ** 31;
  readonly #kernels: ReadonlySet<string>;
  readonly #execute: ExecuteKernel;
  readonly #live = new Set<Allocation>();
  #closed = false;

  constructor(kind: string, kernels: ReadonlySet<string>, execute: ExecuteKernel) {
    this.kind = kind;
    this.#kernels = kernels;
    this.#execute = execute;
  }

  get used(): number {
    return [...this.#live].reduce((sum, a) => sum + a.bytes, 0);
  }

  alloc(bytes: number): DeviceBuffer {
    this.#check();
    if (this.used + bytes > this.capacity)
      throw new ResourceError(`${this.kind} has no room for ${bytes} bytes`, bytes, this.capacity - this.used);
    const allocation = new Allocation(bytes);
    this.#live.add(allocation);
    return allocation;
  }

  free(buffer: DeviceBuffer): void {
    if (!this.#live.delete(this.#own(buffer))) throw new DeviceError("a buffer was freed twice");
  }

  async write(buffer: DeviceBuffer, offset: number, data: Uint8Array): Promise<void> {
    this.#range({ buffer, offset, bytes: data.byteLength }).set(data);
  }

  async read(buffer: DeviceBuffer, offset: number, bytes: number): Promise<Uint8Array> {
    return this.#range({ buffer, offset, bytes }).slice();
  }

  view(): undefined {
    return undefined;
  }

  async load(): Promise<KernelModule> {
    this.#check();
    return { kernels: this.#kernels };
  }

  async submit(commands: readonly Command[], { signal, onCommand }: SubmitOptions = {}): Promise<void> {
    this.#check();
    const first = performance.now();
    for (const [i, command] of commands.entries()) {
      signal?.throwIfAborted();
      const begin = performance.now();
      if (command.k === "copy") this.#range(command.to).set(this.#range(command.from).slice());
      else
        this.#execute(
          command.kernel,
          command.bindings.map((b) => this.#range(b)),
          command.dims,
          command.units,
        );
      onCommand?.(i, performance.now() - begin, begin - first);
    }
  }

  async sync(): Promise<void> {
    this.#check();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#live.clear();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #check(): void {
    if (this.#closed) throw new DeviceError(`${this.kind} is closed`);
  }

  #own(buffer: DeviceBuffer): Allocation {
    this.#check();
    if (!(buffer instanceof Allocation)) throw new DeviceError("the buffer is of another device");
    return buffer;
  }

  #range({ buffer, offset, bytes }: Binding): Uint8Array {
    const { memory } = this.#own(buffer);
    if (offset < 0 || offset + bytes > memory.byteLength - slack)
      throw new DeviceError(`bytes ${offset} … ${offset + bytes} are outside a buffer of ${buffer.bytes}`);
    return memory.subarray(offset, offset + bytes);
  }
}
