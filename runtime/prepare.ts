// Brings parameters to the device and runs the plan's `prepare` steps on them. The order is by need: a
// parameter is read just before the first step that uses it, and its place is reused after the last one,
// unless a run uses it too. What stays gets its place as late: compiler/memory/largest-first.ts says why. Reading goes straight into the device's memory where that is possible.

import { bytesOf } from "../compiler/ir/dtype.ts";
import { isKept, keptBytes, stepBuffers, usesOf, weightsMemory } from "../compiler/ir/plan/memory.ts";
import type { BufferId, Plan, PlanBuffer, PlanParam, Step } from "../compiler/ir/plan/types.ts";
import { commandOf } from "./command.ts";
import type { Binding, Device, DeviceBuffer, KernelModule } from "./device.ts";
import { ArtefactError, formatBytes, ResourceError } from "./errors.ts";
import { arrays, elementCount, typeText } from "./tensor.ts";
import type { ParamSource } from "./weights/load.ts";

/** Elements read at once: 4 MiB of f32. A multiple of what any dtype needs to stay aligned. */
const chunk = 1 << 20;

interface PrepareOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called as parameters are read, with bytes. */
  readonly onBytes?: ((done: number, total: number) => void) | undefined;
  /** Bytes there are on the device. */
  readonly limit: number;
}

/** The buffers that stay on the device between runs: parameters, what was made of them, constants, states. */
export class Weights {
  /** Bytes of all of them, padding included. */
  readonly bytes: number;
  readonly untrained: readonly string[];
  readonly #places: ReadonlyMap<BufferId, DeviceBuffer>;

  constructor(places: ReadonlyMap<BufferId, DeviceBuffer>, untrained: readonly string[]) {
    this.#places = places;
    this.untrained = untrained;
    this.bytes = [...places.values()].reduce((sum, b) => sum + b.bytes, 0);
  }

  binding(id: BufferId): Binding | undefined {
    const buffer = this.#places.get(id);
    return buffer === undefined ? undefined : { buffer, offset: 0, bytes: buffer.bytes };
  }

  free(device: Device): void {
    for (const buffer of this.#places.values()) device.free(buffer);
  }
}

function bufferOf(plan: Plan, id: BufferId): PlanBuffer {
  const buffer = plan.buffers[id];
  if (buffer === undefined) throw new ArtefactError(`plan ${plan.name} has no buffer ${id}`);
  return buffer;
}

/** Loads, prepares, and gives what stays. Frees everything it allocated when it throws. */
export async function prepare(
  plan: Plan,
  device: Device,
  module: KernelModule,
  source: ParamSource,
  options: PrepareOptions,
): Promise<Weights> {
  const { peak } = weightsMemory(plan);
  if (peak > options.limit) {
    const largest = plan.buffers.filter(isKept).reduce((a, b) => (keptBytes(a) >= keptBytes(b) ? a : b));
    throw new ResourceError(
      `the weights of ${plan.name} need ${formatBytes(peak)} and there are ${formatBytes(options.limit)}; ` +
        `the largest is ${largest.name}, ${typeText(largest.dtype, largest.shape)}, ${formatBytes(keptBytes(largest))}`,
      peak,
      options.limit,
    );
  }
  const uses = usesOf(plan);
  const params = new Map(plan.params.map((p) => [p.buffer, p]));
  const total = plan.params.reduce((n, p) => n + (uses.has(p.buffer) ? elementCount(p.shape) * bytesOf(p.dtype) : 0), 0);
  const places = new Map<BufferId, DeviceBuffer>();
  const filled = new Set<BufferId>();
  let done = 0;

  /** The buffer's place, with its contents where it has any of its own. */
  const ready = async (id: BufferId): Promise<DeviceBuffer> => {
    const buffer = bufferOf(plan, id);
    const place = places.get(id) ?? device.alloc(keptBytes(buffer));
    places.set(id, place);
    if (filled.has(id)) return place;
    filled.add(id);
    const param = params.get(id);
    if (param !== undefined) {
      await fill(param, place, device, source, options.signal, (bytes) => options.onBytes?.((done += bytes), total));
    } else if (buffer.place.k === "constant") {
      await device.write(place, 0, constantBytes(buffer, buffer.place.data));
    } else if (buffer.place.k === "state") {
      await device.write(place, 0, new Uint8Array(place.bytes));
    }
    return place;
  };

  try {
    for (const [i, step] of plan.prepare.entries()) {
      options.signal?.throwIfAborted();
      const bindings = new Map<BufferId, Binding>();
      // What stays goes below what does not, so that this leaves a hole at the top, which the next step fills.
      for (const id of stepBuffers(step))
        if (uses.get(id)?.kept === true && !places.has(id)) places.set(id, device.alloc(keptBytes(bufferOf(plan, id))));
      for (const id of stepBuffers(step)) {
        const buffer = await ready(id);
        bindings.set(id, { buffer, offset: 0, bytes: buffer.bytes });
      }
      await device.submit([prepareCommand(plan, step, module, bindings)], { signal: options.signal });
      for (const id of new Set(stepBuffers(step))) {
        const use = uses.get(id);
        const place = places.get(id);
        if (place === undefined || use === undefined || use.kept || use.last !== i) continue;
        device.free(place);
        places.delete(id);
      }
    }
    for (const [id, use] of uses) if (use.kept) await ready(id);
    return new Weights(places, source.untrained);
  } catch (error) {
    for (const place of places.values()) device.free(place);
    throw error;
  }
}

function prepareCommand(
  plan: Plan,
  step: Step,
  module: KernelModule,
  bindings: ReadonlyMap<BufferId, Binding>,
): ReturnType<typeof commandOf> {
  return commandOf(plan, step, module, {}, (id) => {
    const binding = bindings.get(id);
    if (binding === undefined) throw new ArtefactError(`plan ${plan.name} has no place for buffer ${id}`);
    return binding;
  });
}

function constantBytes(buffer: PlanBuffer, data: readonly number[]): Uint8Array {
  const count = keptBytes(buffer) / bytesOf(buffer.dtype) - buffer.slack;
  if (data.length !== count) throw new ArtefactError(`constant ${buffer.name} has ${data.length} values instead of ${count}`);
  const elements = new arrays[buffer.dtype](new ArrayBuffer(count * bytesOf(buffer.dtype)), 0, count);
  elements.set(data);
  return new Uint8Array(elements.buffer);
}

async function fill(
  param: PlanParam,
  place: DeviceBuffer,
  device: Device,
  source: ParamSource,
  signal: AbortSignal | undefined,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const width = bytesOf(param.dtype);
  const count = elementCount(param.shape);
  let staging: Uint8Array | undefined;
  for (let first = 0; first < count; first += chunk) {
    signal?.throwIfAborted();
    const bytes = Math.min(chunk, count - first) * width;
    const direct = device.view(place, first * width, bytes);
    if (direct !== undefined) {
      await source.read(param, first, direct);
    } else {
      staging ??= new Uint8Array(Math.min(chunk, count) * width);
      await source.read(param, first, staging.subarray(0, bytes));
      await device.write(place, first * width, staging.subarray(0, bytes));
    }
    onBytes(bytes);
  }
}
