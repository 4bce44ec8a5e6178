// When the commands of a submission began and how long they took, by the device's own clock: a compute pass for each
// dispatch with a timestamp at both ends, and empty passes around copies. Slower than one pass for all, so only for profiles.

import { usage, type Buffers } from "./buffers.ts";
import type { Encoded, EncodedDispatch, EncodedCopy } from "./encode.ts";

/** Queries in one set: WebGPU's limit. */
const mostQueries = 4096;
/** Commands that one submission can measure. */
export const mostTimed = mostQueries / 2;

export class Clock {
  readonly #gpu: GPUDevice;
  readonly #set: GPUQuerySet;
  readonly #resolved: GPUBuffer;
  readonly #staging: GPUBuffer;

  constructor(gpu: GPUDevice, buffers: Buffers) {
    this.#gpu = gpu;
    this.#set = gpu.createQuerySet({ type: "timestamp", count: mostQueries });
    this.#resolved = buffers.create(8 * mostQueries, usage.queryResolve | usage.copySource, "times");
    this.#staging = buffers.create(8 * mostQueries, usage.mapRead | usage.copyTarget, "times for the host");
  }

  /** Records `items`, each measured, and submits them. Gives each item's begin and end in milliseconds of the device's clock. */
  async run(
    items: readonly Encoded[],
    dispatch: (pass: GPUComputePassEncoder, item: EncodedDispatch, index: number) => void,
    copy: (encoder: GPUCommandEncoder, item: EncodedCopy) => void,
  ): Promise<readonly { readonly begin: number; readonly end: number }[]> {
    const encoder = this.#gpu.createCommandEncoder();
    const at = (begin: number, end: number): GPUComputePassDescriptor => ({
      timestampWrites: { querySet: this.#set, beginningOfPassWriteIndex: begin, endOfPassWriteIndex: end },
    });
    for (const [i, item] of items.entries()) {
      if (item.k === "dispatch") {
        const pass = encoder.beginComputePass(at(2 * i, 2 * i + 1));
        dispatch(pass, item, i);
        pass.end();
      } else {
        encoder.beginComputePass({ timestampWrites: { querySet: this.#set, endOfPassWriteIndex: 2 * i } }).end();
        copy(encoder, item);
        encoder.beginComputePass({ timestampWrites: { querySet: this.#set, beginningOfPassWriteIndex: 2 * i + 1 } }).end();
      }
    }
    const count = 2 * items.length;
    encoder.resolveQuerySet(this.#set, 0, count, this.#resolved, 0);
    encoder.copyBufferToBuffer(this.#resolved, 0, this.#staging, 0, 8 * count);
    this.#gpu.queue.submit([encoder.finish()]);
    await this.#staging.mapAsync(1, 0, 8 * count);
    const times = new BigUint64Array(this.#staging.getMappedRange(0, 8 * count).slice(0));
    this.#staging.unmap();
    const zero = times.reduce((a, b) => (b < a ? b : a), times[0] ?? 0n);
    const milliseconds = (i: number): number => Number((times[i] ?? zero) - zero) / 1e6;
    return items.map((_, i) => ({ begin: milliseconds(2 * i), end: Math.max(milliseconds(2 * i), milliseconds(2 * i + 1)) }));
  }
}
