// The WebGPU device: a browser's GPUDevice, Dawn's in Node, or one that the caller gives. Commands of a submission are
// recorded into few command buffers; see Note [Command buffers]. Does not know plans or what kernels compute.

import type { Command, Device, DeviceBuffer, KernelCode, KernelModule, LoadOptions, SubmitOptions } from "../../device.ts";
import {
  ArtefactError,
  DeviceError,
  DeviceLostError,
  messageOf,
  OutOfMemoryError,
  ValidationError,
  type DevicePlace,
} from "../../errors.ts";
import { machineMemory } from "../../platform.ts";
import {
  describeAdapter,
  findAdapter,
  neededLimits,
  optionalFeatures,
  type GpuFeatures,
  type GpuOptions,
  type OptionalFeature,
} from "./adapter.ts";
import { Buffers, own, usage, words } from "./buffers.ts";
import { Encoder, placeOf, type EncodedList } from "./encode.ts";
import { Pipelines, type GpuModule, type Made } from "./kernels.ts";
import { Pace } from "./pace.ts";
import { Clock, mostTimed } from "./timing.ts";

export interface WebGpuDeviceOptions extends GpuOptions {
  /** One that exists already; it is destroyed with this device. */
  readonly device?: GPUDevice | undefined;
  /** Features that are not used although the adapter has them. */
  readonly hide?: readonly OptionalFeature[] | undefined;
  /** "adapter": as large buffers and bindings as the adapter has. "default": WebGPU's default limits, as on the least adapter. */
  readonly limits?: "adapter" | "default" | undefined;
  /** Bytes that may be allocated: adapters do not tell. Default: the machine's memory for one that computes on the CPU, else no limit. */
  readonly capacity?: number | undefined;
}

// Note [Command buffers]
// A run without a profile is one command buffer as long as its estimated work is short: a token of a language model is one
// submission. Longer runs are cut where about 50 ms of work have come together. One piece runs while the next one waits,
// so the device is never idle, an AbortSignal is obeyed after at most two pieces, progress is seen, and no piece runs into
// the watchdogs that reset a GPU after two seconds. What a millisecond of work is, the pieces that have run say.

/** Bytes read back at once, and what is kept for the next time. Eight times as much read no faster on a software driver. */
const readPiece = 2 ** 22;
/** Written bytes after which the queue is given time to take them: until then the host holds a copy. */
const writePiece = 2 ** 26;

export class WebGpuDevice implements Device {
  readonly kind = "webgpu";
  readonly threads = 1;
  readonly alignment = 256;
  readonly description: string;
  /** It computes on the CPU. */
  readonly software: boolean;
  /** What kernels are chosen by. */
  readonly features: GpuFeatures;
  readonly hostMemory: boolean;
  readonly capacity: number;
  /** The underlying device. */
  readonly gpu: GPUDevice;
  /** How many GPU objects were made since the beginning. */
  readonly made: Made = { buffers: 0, pipelines: 0, groups: 0 };
  readonly #buffers: Buffers;
  readonly #pipelines: Pipelines;
  readonly #encoder: Encoder;
  readonly #pace: Pace;
  /** Modules by their code's identity: many sessions of one artefact share one. */
  readonly #loaded = new WeakMap<object, GpuModule>();
  #clock: Clock | undefined;
  #staging: GPUBuffer | undefined;
  #written = 0;
  #tail: Promise<unknown> = Promise.resolve();
  #closed = false;
  #failure: DeviceError | undefined;

  private constructor(gpu: GPUDevice, options: WebGpuDeviceOptions, capacity: number) {
    const described = describeAdapter(gpu.adapterInfo, gpu.features);
    const hidden = (feature: OptionalFeature): boolean => options.hide?.includes(feature) === true;
    this.gpu = gpu;
    this.description = described.description;
    this.software = described.software;
    this.hostMemory = described.software;
    this.capacity = capacity;
    this.features = {
      subgroups: hidden("subgroups") ? 0 : described.features.subgroups,
      f16: described.features.f16 && !hidden("shader-f16"),
    };
    this.#buffers = new Buffers(gpu, this.made, capacity);
    this.#pipelines = new Pipelines(gpu, this.made, () => this.#failure);
    this.#encoder = new Encoder(gpu, this.#buffers, this.made);
    this.#pace = new Pace(described.software);
    void gpu.lost.then(({ reason, message }) => {
      if (!this.#closed) this.#failure ??= new DeviceLostError(`the device ${this.description} was lost (${reason}): ${message}`);
    });
  }

  /** Throws AdapterError where there is no adapter, or none that can run our kernels. */
  static async create(options: WebGpuDeviceOptions = {}): Promise<WebGpuDevice> {
    const gpu = options.device ?? (await openDevice(options));
    const { software } = describeAdapter(gpu.adapterInfo, gpu.features);
    return new WebGpuDevice(gpu, options, options.capacity ?? (software ? await machineMemory() : Infinity));
  }

  get used(): number {
    return this.#buffers.used;
  }

  alloc(bytes: number): DeviceBuffer {
    this.#check();
    return this.#buffers.alloc(bytes);
  }

  free(buffer: DeviceBuffer): void {
    const memory = own(buffer);
    this.#encoder.forget(memory);
    this.#buffers.free(memory);
  }

  /** Its memory is its own. */
  view(): undefined {
    return undefined;
  }

  write(buffer: DeviceBuffer, offset: number, data: Uint8Array): Promise<void> {
    return this.#serial(async () => {
      const to = words({ buffer, offset, bytes: data.byteLength });
      await this.#buffers.settled();
      this.#writeNow(to.memory.buffer, offset, data);
      this.#written += to.size;
      if (this.#written < writePiece) return;
      this.#written = 0;
      await this.#waited(this.gpu.queue.onSubmittedWorkDone());
    });
  }

  read(buffer: DeviceBuffer, offset: number, bytes: number): Promise<Uint8Array> {
    return this.#serial(async () => {
      const from = words({ buffer, offset, bytes });
      const out = new Uint8Array(bytes);
      for (let at = 0; at < bytes; at += readPiece) {
        const size = Math.min(readPiece, from.size - at);
        const staging = this.#provideStaging(size);
        await this.#buffers.settled();
        const encoder = this.gpu.createCommandEncoder();
        encoder.copyBufferToBuffer(from.memory.buffer, from.offset + at, staging, 0, size);
        this.gpu.queue.submit([encoder.finish()]);
        await this.#waited(staging.mapAsync(1, 0, size));
        out.set(new Uint8Array(staging.getMappedRange(0, size)).subarray(0, bytes - at), at);
        staging.unmap();
      }
      return out;
    });
  }

  /** Compilation goes on after this resolves: the module's `ready` says when it is done. */
  load(code: KernelCode, options: LoadOptions = {}): Promise<KernelModule> {
    return this.#serial(async () => {
      const { subgroups, f16 } = this.features;
      const fits = code.wgsl?.find((v) => (v.features.subgroups === 0 || v.features.subgroups === subgroups) && (f16 || !v.features.f16));
      if (fits === undefined)
        throw new ArtefactError(
          code.wgsl === undefined
            ? "there is no WGSL among these kernels: compile them with `uhdc compile --target webgpu`"
            : `these kernels need features that ${this.description} does not have: compile them with \`uhdc compile --target webgpu\``,
        );
      const known = this.#loaded.get(fits);
      if (known !== undefined) return known;
      const module = this.#pipelines.module(fits.kernels, options.sources);
      this.#loaded.set(fits, module);
      return module;
    });
  }

  submit(commands: readonly Command[], options: SubmitOptions = {}): Promise<void> {
    return this.#serial(() => this.#run(commands, options));
  }

  sync(): Promise<void> {
    return this.#serial(async () => {
      await this.#waited(this.gpu.queue.onSubmittedWorkDone());
      await this.#buffers.settled();
    });
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#tail.catch(() => undefined);
    this.gpu.destroy();
    await this.gpu.lost;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #run(commands: readonly Command[], options: SubmitOptions): Promise<void> {
    const { signal } = options;
    signal?.throwIfAborted();
    const list = await this.#encoder.list(commands);
    this.#check();
    await this.#buffers.settled(placeOfAll(commands));
    this.#encoder.writeArguments(list);
    if (options.profile === true) await this.#profiled(commands, list, options);
    else await this.#inPieces(commands, list, options);
  }

  /** See Note [Command buffers]. */
  async #inPieces(commands: readonly Command[], list: EncodedList, { signal, onCommand }: SubmitOptions): Promise<void> {
    const start = performance.now();
    const submitted: Promise<void>[] = [];
    let before: Promise<void> = Promise.resolve();
    let last = start;
    try {
      for (const { first, end, work } of this.#pace.pieces(commands)) {
        signal?.throwIfAborted();
        const done = this.#submitPiece(commands, list, first, end);
        const told = Promise.all([before, done]).then(() => {
          const now = performance.now();
          this.#pace.learn(work, now - last);
          if (onCommand !== undefined) report(commands, first, end, last - start, now - last, work, onCommand);
          last = now;
        });
        submitted.push(done, told);
        // The piece before this one; this one runs meanwhile.
        await before;
        before = told;
      }
      await before;
    } finally {
      // What was submitted uses buffers that the caller may give back.
      await Promise.allSettled(submitted);
    }
  }

  /** Resolves when the commands have run. */
  async #submitPiece(commands: readonly Command[], list: EncodedList, first: number, end: number): Promise<void> {
    await this.#scoped(commands.slice(first, end), list, first, async () => {
      const encoder = this.gpu.createCommandEncoder();
      this.#record(encoder, list, first, end);
      this.gpu.queue.submit([encoder.finish()]);
      await this.gpu.queue.onSubmittedWorkDone();
    });
  }

  #record(encoder: GPUCommandEncoder, { items, offsets }: EncodedList, first: number, end: number): void {
    let pass: GPUComputePassEncoder | undefined;
    for (let i = first; i < end; i++) {
      const item = items[i];
      if (item === undefined) continue;
      if (item.k === "dispatch") {
        this.#encoder.dispatch((pass ??= encoder.beginComputePass()), item, offsets[i] ?? 0);
      } else {
        pass?.end();
        pass = undefined;
        this.#encoder.copy(encoder, item);
      }
    }
    pass?.end();
  }

  /** Each command measured: by the device's clock, or one by one by ours. */
  async #profiled(commands: readonly Command[], list: EncodedList, { signal, onCommand }: SubmitOptions): Promise<void> {
    const start = performance.now();
    const clock = this.gpu.features.has("timestamp-query") ? (this.#clock ??= new Clock(this.gpu, this.#buffers)) : undefined;
    await this.#buffers.settled();
    const step = clock === undefined ? 1 : mostTimed;
    for (let first = 0; first < commands.length; first += step) {
      signal?.throwIfAborted();
      const items = list.items.slice(first, first + step);
      const begin = performance.now() - start;
      if (clock === undefined) {
        await this.#submitPiece(commands, list, first, first + 1);
        onCommand?.(first, performance.now() - start - begin, begin);
        continue;
      }
      const times = await this.#scoped(commands.slice(first, first + step), list, first, () =>
        clock.run(
          items,
          (pass, item, i) => this.#encoder.dispatch(pass, item, list.offsets[first + i] ?? 0),
          (encoder, item) => this.#encoder.copy(encoder, item),
        ),
      );
      for (const [i, time] of times.entries()) onCommand?.(first + i, time.end - time.begin, begin + time.begin);
    }
  }

  /** Does `work`, and turns what the device says against it into an error that names the command. */
  async #scoped<T>(commands: readonly Command[], list: EncodedList, first: number, work: () => Promise<T>): Promise<T> {
    const place = placeOfAll(commands);
    const { gpu } = this;
    gpu.pushErrorScope("out-of-memory");
    gpu.pushErrorScope("validation");
    const result = work();
    const [invalid, exhausted] = [gpu.popErrorScope(), gpu.popErrorScope()];
    try {
      const [value, validation, memory] = await Promise.all([result, invalid, exhausted]);
      if (this.#failure !== undefined) throw this.#failure;
      if (validation !== null) throw new ValidationError(validation.message, {}, await this.#blame(list, first, commands));
      if (memory !== null) throw new OutOfMemoryError(memory.message, 0, place);
      return value;
    } catch (error) {
      throw await this.#explained(error, place);
    }
  }

  /** The first command that the device does not take by itself. */
  async #blame(list: EncodedList, first: number, commands: readonly Command[]): Promise<DevicePlace> {
    for (const [i, command] of commands.entries()) {
      this.gpu.pushErrorScope("validation");
      const encoder = this.gpu.createCommandEncoder();
      this.#record(encoder, list, first + i, first + i + 1);
      encoder.finish();
      if ((await this.gpu.popErrorScope()) !== null) return placeOf(command);
    }
    return placeOfAll(commands);
  }

  /** `error`, or the loss of the device where that is why it came. */
  async #explained(error: unknown, place: DevicePlace = {}): Promise<unknown> {
    if (error instanceof ValidationError || error instanceof OutOfMemoryError) return error;
    // The news of a loss may come just after the failures it causes.
    for (let turns = 0; turns < 20 && this.#failure === undefined && !this.#closed; turns++) await new Promise((r) => setTimeout(r, 1));
    if (this.#failure === undefined)
      return error instanceof DeviceError ? error : new DeviceError(messageOf(error), { cause: error }, place);
    if (place.kernel === undefined || this.#failure.place.kernel !== undefined) return this.#failure;
    this.#failure = new DeviceLostError(this.#failure.message, { cause: error }, place);
    return this.#failure;
  }

  async #waited<T>(promise: Promise<T>): Promise<T> {
    try {
      const value = await promise;
      this.#check();
      return value;
    } catch (error) {
      throw await this.#explained(error);
    }
  }

  /** Whole words; what is behind the data is filled with zeros. */
  #writeNow(buffer: GPUBuffer, offset: number, data: Uint8Array): void {
    const whole = data.byteLength - (data.byteLength % 4);
    const plain = data.buffer instanceof ArrayBuffer ? (data as Uint8Array<ArrayBuffer>) : new Uint8Array(data);
    if (whole > 0) this.gpu.queue.writeBuffer(buffer, offset, plain, 0, whole);
    if (whole === data.byteLength) return;
    const last = new Uint8Array(4);
    last.set(plain.subarray(whole));
    this.gpu.queue.writeBuffer(buffer, offset + whole, last);
  }

  #provideStaging(size: number): GPUBuffer {
    const before = this.#staging;
    if (before !== undefined && before.size >= size) return before;
    this.#staging = this.#buffers.create(Math.max(2 ** 16, 2 ** Math.ceil(Math.log2(size))), usage.mapRead | usage.copyTarget, "results");
    if (before !== undefined) this.#buffers.destroy(before);
    return this.#staging;
  }

  #check(): void {
    if (this.#closed) throw new DeviceError("the device is closed");
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Runs `work` after everything asked for before. */
  #serial<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(() => {
      this.#check();
      return work();
    });
    this.#tail = result.catch(() => undefined);
    return result;
  }
}

async function openDevice(options: WebGpuDeviceOptions): Promise<GPUDevice> {
  const { adapter } = await findAdapter(options);
  const limits = options.limits === "default" ? neededLimits : { ...neededLimits, ...largest(adapter.limits) };
  return adapter.requestDevice({
    requiredFeatures: optionalFeatures.filter((f) => adapter.features.has(f) && options.hide?.includes(f) !== true),
    requiredLimits: limits,
  });
}

/** Sizes that kernels do not depend on. */
function largest({ maxBufferSize, maxStorageBufferBindingSize }: GPUSupportedLimits): Record<string, number> {
  return { maxBufferSize, maxStorageBufferBindingSize };
}

/** The first command, and how many more there are. */
function placeOfAll(commands: readonly Command[]): DevicePlace {
  const first = commands.find((c) => c.k === "dispatch");
  if (first === undefined) return {};
  const { kernel, sources } = placeOf(first);
  return { kernel: commands.length > 1 ? `${kernel ?? ""} or one of ${commands.length - 1} after it` : kernel, sources };
}

/** Divides a piece's time by the commands' estimated work. */
function report(
  commands: readonly Command[],
  first: number,
  end: number,
  begin: number,
  milliseconds: number,
  work: number,
  onCommand: NonNullable<SubmitOptions["onCommand"]>,
): void {
  let at = begin;
  for (let i = first; i < end; i++) {
    const command = commands[i];
    const share = command === undefined ? 0 : (Pace.work(command) / work) * milliseconds;
    onCommand(i, share, at);
    at += share;
  }
}
