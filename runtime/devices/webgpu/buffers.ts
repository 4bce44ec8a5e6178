// The memory of a GPU device: GPUBuffers with books, so that what does not fit is refused before it is asked for, and the
// errors that come later are told to whoever uses the buffer. Does not know what is in them.

import type { Binding, DeviceBuffer } from "../../device.ts";
import { DeviceError, formatBytes, OutOfMemoryError, ResourceError, type DevicePlace } from "../../errors.ts";
import type { Made } from "./kernels.ts";

/** GPUBufferUsage: the constants are not global in Node. */
export const usage = { mapRead: 1, copySource: 4, copyTarget: 8, uniform: 64, storage: 128, queryResolve: 512 } as const;

/** Kernels may read this far past the end of what is bound. */
export const slack = 64;

export class GpuMemory implements DeviceBuffer {
  readonly bytes: number;
  readonly buffer: GPUBuffer;
  readonly number: number;
  freed = false;
  /** Bind groups that hold it, by their keys. */
  readonly groups = new Set<string>();
  constructor(bytes: number, buffer: GPUBuffer, number: number) {
    this.bytes = bytes;
    this.buffer = buffer;
    this.number = number;
  }
}

export class Buffers {
  readonly #gpu: GPUDevice;
  readonly #made: Made;
  readonly #capacity: number;
  #used = 0;
  #number = 0;
  /** Allocations whose errors are not known yet. */
  readonly #pending = new Set<Promise<void>>();
  #refused: OutOfMemoryError | undefined;

  constructor(gpu: GPUDevice, made: Made, capacity: number) {
    this.#gpu = gpu;
    this.#made = made;
    this.#capacity = capacity;
  }

  /** Bytes of everything that is allocated, the device's own included. */
  get used(): number {
    return this.#used;
  }

  /** For tensors. */
  alloc(bytes: number): GpuMemory {
    if (!Number.isSafeInteger(bytes) || bytes < 0) throw new RangeError(`cannot allocate ${bytes} bytes`);
    const size = Math.ceil(bytes / 4) * 4 + slack;
    return new GpuMemory(bytes, this.create(size, usage.storage | usage.copySource | usage.copyTarget, "tensors"), this.#number++);
  }

  free(memory: GpuMemory): void {
    memory.freed = true;
    this.destroy(memory.buffer);
  }

  /** Throws ResourceError when the books say that there is no room. */
  create(size: number, use: number, label: string): GPUBuffer {
    const most = Math.min(this.#gpu.limits.maxBufferSize, this.#capacity - this.#used);
    if (size > most) {
      const why = size > this.#gpu.limits.maxBufferSize ? "is the most this device allocates at once" : "of the device's memory are left";
      throw new ResourceError(`${formatBytes(size)} cannot be allocated: ${formatBytes(Math.max(0, most))} ${why}`, size, most);
    }
    this.#gpu.pushErrorScope("out-of-memory");
    const buffer = this.#gpu.createBuffer({ label, size, usage: use });
    const told = this.#gpu.popErrorScope().then(
      (error) => {
        if (error !== null) this.#refused ??= new OutOfMemoryError(`the device refused ${formatBytes(size)}: ${error.message}`, size);
      },
      // The device is lost, which is told elsewhere.
      () => undefined,
    );
    this.#pending.add(told);
    void told.then(() => this.#pending.delete(told));
    this.#made.buffers++;
    this.#used += size;
    return buffer;
  }

  destroy(buffer: GPUBuffer): void {
    this.#used -= buffer.size;
    buffer.destroy();
  }

  /** Throws the error of an allocation that the device refused after it was made; `place` is what needs it. */
  async settled(place: DevicePlace = {}): Promise<void> {
    if (this.#pending.size > 0) await Promise.all(this.#pending);
    const refused = this.#refused;
    this.#refused = undefined;
    if (refused !== undefined) throw new OutOfMemoryError(refused.message, refused.needed, place);
  }
}

/** Our own allocation, and alive. */
export function own(buffer: DeviceBuffer): GpuMemory {
  if (!(buffer instanceof GpuMemory) || buffer.freed) throw new DeviceError("a buffer was used that is freed or belongs to another device");
  return buffer;
}

/** Offset and size in whole words, as WebGPU copies them. */
export function words({ buffer, offset, bytes }: Binding): { readonly memory: GpuMemory; readonly offset: number; readonly size: number } {
  const memory = own(buffer);
  if (!(offset >= 0 && bytes >= 0 && offset + bytes <= memory.bytes) || offset % 4 !== 0)
    throw new RangeError(`bytes ${offset}…${offset + bytes} are outside a buffer of ${memory.bytes}, or not at a multiple of 4`);
  return { memory, offset, size: Math.ceil(bytes / 4) * 4 };
}
