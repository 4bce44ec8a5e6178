// Turns commands into what a command encoder takes: a pipeline, a bind group and an offset of arguments for each dispatch.
// Everything made for a command is kept, so that running the same commands again creates nothing. Does not submit.

import type { Command } from "../../device.ts";
import { DeviceError, formatBytes, placeText, ResourceError, type DevicePlace } from "../../errors.ts";
import { own, slack, usage, words, type Buffers, type GpuMemory } from "./buffers.ts";
import { GpuModule, type Made, type Pipeline } from "./kernels.ts";

/** Dynamic offsets are multiples of this. */
const slot = 256;
/** Workgroups along one axis. */
const mostGroups = 65535;
/** Bind groups that are kept, used or not. */
const mostKept = 4096;

export interface EncodedDispatch {
  readonly k: "dispatch";
  readonly command: DispatchCommand;
  readonly pipeline: Pipeline;
  readonly group: GPUBindGroup;
  readonly memories: readonly GpuMemory[];
  /** Workgroups along x and y; x is 0 where there is nothing to do. */
  readonly x: number;
  readonly y: number;
  /** The number of units and the sizes. */
  readonly args: Int32Array;
}

export interface EncodedCopy {
  readonly k: "copy";
  readonly from: ReturnType<typeof words>;
  readonly to: ReturnType<typeof words>;
}

export type Encoded = EncodedDispatch | EncodedCopy;

export type DispatchCommand = Extract<Command, { k: "dispatch" }>;

/** Commands of one submission, and where the arguments of each lie. */
export interface EncodedList {
  readonly items: readonly Encoded[];
  readonly offsets: readonly number[];
  /** Bytes of all arguments. */
  readonly bytes: number;
}

/** The arguments of a submission's dispatches: one uniform buffer, written where it differs from what is there. */
class Arguments {
  readonly #gpu: GPUDevice;
  readonly #buffers: Buffers;
  #buffer: GPUBuffer | undefined;
  #shadow = new Int32Array(0);

  constructor(gpu: GPUDevice, buffers: Buffers) {
    this.#gpu = gpu;
    this.#buffers = buffers;
  }

  /** True when the buffer is another one than before. */
  provide(bytes: number): boolean {
    const { size } = this.#buffer ?? { size: 0 };
    if (size >= bytes && size > 0) return false;
    const before = this.#buffer;
    this.#buffer = this.#buffers.create(Math.max(2 * size, bytes, 256 * slot), usage.uniform | usage.copyTarget, "arguments");
    if (before !== undefined) this.#buffers.destroy(before);
    this.#shadow = new Int32Array(this.#buffer.size / 4);
    return true;
  }

  get buffer(): GPUBuffer {
    if (this.#buffer === undefined) throw new DeviceError("arguments were used before there were any");
    return this.#buffer;
  }

  write({ items, offsets }: EncodedList): void {
    let first = Infinity;
    let end = 0;
    for (const [i, item] of items.entries()) {
      if (item.k !== "dispatch") continue;
      const at = (offsets[i] ?? 0) / 4;
      for (let a = 0; a < item.args.length; a++) {
        const value = item.args[a] ?? 0;
        if (this.#shadow[at + a] === value) continue;
        this.#shadow[at + a] = value;
        first = Math.min(first, at + a);
        end = Math.max(end, at + a + 1);
      }
    }
    if (end > first) this.#gpu.queue.writeBuffer(this.buffer, 4 * first, this.#shadow, first, end - first);
  }
}

export class Encoder {
  readonly #gpu: GPUDevice;
  readonly #buffers: Buffers;
  readonly #made: Made;
  readonly #arguments: Arguments;
  #commands = new WeakMap<Command, Encoded>();
  #lists = new WeakMap<readonly Command[], EncodedList>();
  readonly #groups = new Map<string, { readonly group: GPUBindGroup; readonly memories: readonly GpuMemory[] }>();
  /** Copies within one buffer go through it. */
  #bounce: GPUBuffer | undefined;

  constructor(gpu: GPUDevice, buffers: Buffers, made: Made) {
    this.#gpu = gpu;
    this.#buffers = buffers;
    this.#made = made;
    this.#arguments = new Arguments(gpu, buffers);
  }

  /** Throws DeviceError or ResourceError that names the command's kernel. Waits for the pipelines that are still being made. */
  async list(commands: readonly Command[]): Promise<EncodedList> {
    const known = this.#lists.get(commands);
    if (known !== undefined) {
      for (const item of known.items) checkAlive(item);
      return known;
    }
    const offsets: number[] = [];
    let bytes = 0;
    let bounced = 0;
    for (const c of commands) {
      offsets.push(bytes);
      if (c.k === "dispatch") bytes += Math.ceil((4 * (1 + c.dims.length)) / slot) * slot;
      else if (c.from.buffer === c.to.buffer) bounced = Math.max(bounced, c.from.bytes + 4);
    }
    if (this.#arguments.provide(bytes)) this.#forgetAll();
    this.#provideBounce(bounced);
    const items: Encoded[] = [];
    for (const command of commands) {
      const before = this.#commands.get(command);
      if (before !== undefined) checkAlive(before);
      const item = before ?? this.#encode(command);
      this.#commands.set(command, item);
      items.push(item);
      if (item.k === "dispatch" && item.pipeline.made === undefined) await item.pipeline.promise;
    }
    const made = { items, offsets, bytes };
    this.#lists.set(commands, made);
    return made;
  }

  writeArguments(list: EncodedList): void {
    this.#arguments.write(list);
  }

  dispatch(pass: GPUComputePassEncoder, item: EncodedDispatch, offset: number): void {
    if (item.x === 0 || item.pipeline.made === undefined) return;
    pass.setPipeline(item.pipeline.made);
    pass.setBindGroup(0, item.group, [offset]);
    pass.dispatchWorkgroups(item.x, item.y, 1);
  }

  copy(encoder: GPUCommandEncoder, { from, to }: EncodedCopy): void {
    if (from.size === 0) return;
    if (from.memory !== to.memory) {
      encoder.copyBufferToBuffer(from.memory.buffer, from.offset, to.memory.buffer, to.offset, from.size);
    } else if (this.#bounce !== undefined) {
      encoder.copyBufferToBuffer(from.memory.buffer, from.offset, this.#bounce, 0, from.size);
      encoder.copyBufferToBuffer(this.#bounce, 0, to.memory.buffer, to.offset, from.size);
    }
  }

  /** A buffer is gone: what holds it will not be used again. */
  forget(memory: GpuMemory): void {
    for (const key of memory.groups) this.#drop(key);
  }

  #drop(key: string): void {
    for (const memory of this.#groups.get(key)?.memories ?? []) memory.groups.delete(key);
    this.#groups.delete(key);
  }

  #forgetAll(): void {
    this.#commands = new WeakMap();
    this.#lists = new WeakMap();
    for (const key of this.#groups.keys()) this.#drop(key);
  }

  #provideBounce(bytes: number): void {
    if (bytes <= (this.#bounce?.size ?? 0)) return;
    const before = this.#bounce;
    this.#bounce = this.#buffers.create(Math.ceil(bytes / slot) * slot, usage.copySource | usage.copyTarget, "copies");
    if (before !== undefined) this.#buffers.destroy(before);
  }

  #encode(command: Command): Encoded {
    if (command.k === "copy") {
      if (command.from.bytes !== command.to.bytes) throw new RangeError(`a copy of ${command.from.bytes} bytes into ${command.to.bytes}`);
      return { k: "copy", from: words(command.from), to: words(command.to) };
    }
    const { module, kernel, dims, units } = command;
    const place = placeOf(command);
    const pipeline = module instanceof GpuModule ? module.pipelines.get(kernel) : undefined;
    if (pipeline === undefined) throw new DeviceError("it is not loaded on this device", {}, place);
    const x = Math.min(units, mostGroups);
    const y = x === 0 ? 0 : Math.ceil(units / x);
    if (!Number.isInteger(units) || units < 0 || y > mostGroups)
      throw new DeviceError(`${units} units of work cannot be dispatched`, {}, place);
    const wrong = dims.find((d) => !Number.isInteger(d) || Math.abs(d) > 0x7fffffff);
    if (wrong !== undefined) throw new DeviceError(`the size ${wrong} does not fit a 32-bit integer`, {}, place);
    const expected = pipeline.kernel.bindings.length;
    if (command.bindings.length !== expected)
      throw new DeviceError(`it has ${expected} buffers and was given ${command.bindings.length}`, {}, place);
    const memories = command.bindings.map((b) => own(b.buffer));
    return {
      k: "dispatch",
      command,
      pipeline,
      group: this.#group(command, pipeline, memories),
      memories,
      x,
      y,
      args: Int32Array.of(units, ...dims),
    };
  }

  #group(command: DispatchCommand, pipeline: Pipeline, memories: readonly GpuMemory[]): GPUBindGroup {
    const most = this.#gpu.limits.maxStorageBufferBindingSize;
    const ranges = command.bindings.map((b, i) => {
      const memory = memories[i] ?? own(b.buffer);
      if (!(b.offset >= 0 && b.offset + b.bytes <= memory.bytes))
        throw new DeviceError(`binding ${i} leaves its buffer`, {}, placeOf(command));
      const bytes = Math.ceil(b.bytes / 4) * 4;
      if (bytes > most) {
        throw new ResourceError(
          `${placeText(placeOf(command)) ?? "a command"} works on ${formatBytes(bytes)} at once, and this device binds ${formatBytes(most)}`,
          bytes,
          most,
        );
      }
      return { offset: b.offset, size: Math.min(bytes + slack, most, memory.buffer.size - b.offset) };
    });
    const key = `${pipeline.kernel.bindings.join()}:${command.dims.length}:${ranges.map((r, i) => `${memories[i]?.number ?? -1},${r.offset},${r.size}`).join(";")}`;
    const before = this.#groups.get(key);
    if (before !== undefined) return before.group;
    const group = this.#gpu.createBindGroup({
      label: command.kernel,
      layout: pipeline.groupLayout,
      entries: [
        ...ranges.map((range, binding) => ({
          binding,
          resource: { buffer: memories[binding]?.buffer ?? this.#arguments.buffer, ...range },
        })),
        {
          binding: ranges.length,
          resource: { buffer: this.#arguments.buffer, offset: 0, size: Math.ceil((4 * (1 + command.dims.length)) / 16) * 16 },
        },
      ],
    });
    this.#made.groups++;
    for (const oldest of this.#groups.keys()) {
      if (this.#groups.size < mostKept) break;
      this.#drop(oldest);
    }
    this.#groups.set(key, { group, memories });
    for (const memory of memories) memory.groups.add(key);
    return group;
  }
}

export function placeOf(command: Command): DevicePlace {
  return command.k === "dispatch" ? { kernel: command.kernel, sources: command.sources } : {};
}

function checkAlive(item: Encoded): void {
  const memories = item.k === "dispatch" ? item.memories : [item.from.memory, item.to.memory];
  for (const memory of memories) own(memory);
}
