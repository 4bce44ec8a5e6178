// A graph with its weights on a device, ready to run. Loading streams each parameter to the device just
// before something needs it and gives its place back as soon as nothing does, so that packing never holds
// two copies of all weights. A run evaluates the shape code for the inputs' sizes (once for each), writes
// inputs and tables, and submits the plan's steps. What a step computes is the compiler's business.

import { bytesOf } from "../compiler/ir/dtype.ts";
import type { BoundPlan } from "../compiler/ir/plan/bind.ts";
import type { HostValue } from "../compiler/ir/plan/host.ts";
import type { Plan, PlanBuffer } from "../compiler/ir/plan/types.ts";
import { checkPlan, type Artefact } from "./artefact.ts";
import type { Binding, Device, DeviceBuffer, KernelModule } from "./device.ts";
import { WasmDevice } from "./devices/wasm/device.ts";
import type { SimdChoice } from "./devices/wasm/module.ts";
import { ArtefactError, DeviceError, InputError, OutOfMemoryError, type UhdError } from "./errors.ts";
import { checkInputs, type Inputs } from "./inputs.ts";
import { checkMemory } from "./memory.ts";
import { machineMemory } from "./platform.ts";
import { prepare, Weights } from "./prepare.ts";
import { bytesOfTensor, elementCount, tensorFromBytes, typeText, type Tensor } from "./tensor.ts";
import { Layouts, type Layout } from "./layout.ts";
import { openParams, type WeightsOptions } from "./weights/load.ts";

/** How far something long has come. `done` and `total` are bytes while loading and steps while running. */
export interface Progress {
  readonly phase: "weights" | "run";
  readonly done: number;
  readonly total: number;
}

export interface SessionOptions {
  /** Default: a WebAssembly device of its own, closed with the session. A given device stays open. */
  readonly device?: Device | undefined;
  /** For the default device: threads, the calling one included, and the SIMD variant. */
  readonly threads?: number | undefined;
  readonly simd?: SimdChoice | undefined;
  /** A checkpoint (path, bytes or tensors: spec/checkpoints.md), or one with options. */
  readonly weights?: WeightsOptions["from"] | WeightsOptions | undefined;
  /** Makes the parameters that no checkpoint gives from `seed`: see weights/init.ts. The session then says `untrained`. */
  readonly init?: { readonly seed: number } | undefined;
  /** Stops loading: `create` then rejects with `signal.reason`. */
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

export interface RunOptions {
  /** Names of the outputs that are wanted; the others stay on the device. Default: all. */
  readonly outputs?: readonly string[] | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Measure each step by itself, by the device's own clock where it has one. The run takes longer. */
  readonly profile?: boolean | undefined;
}

export interface StageTime {
  /** The plan's name for it, e.g. a module; "inputs" and "outputs" are the copies in and out, "shape" the shape code. */
  readonly stage: string;
  readonly milliseconds: number;
}

/** Bytes on the device. */
export interface MemoryUse {
  readonly weights: number;
  readonly arena: number;
}

export interface RunResult {
  readonly outputs: Readonly<Record<string, Tensor>>;
  /** In the order of the plan; together nearly `milliseconds`. */
  readonly stages: readonly StageTime[];
  readonly milliseconds: number;
  /**
   * Milliseconds of each step of the plan. A GPU runs many steps as one: unless `profile` was asked for, its time is divided
   * by the steps' estimated work.
   */
  readonly steps: readonly number[];
  /** When each step began, in milliseconds since the first one could. */
  readonly begins: readonly number[];
  /** What the shape code computed, by name, e.g. the layout of the slices. */
  readonly host: Readonly<Record<string, HostValue>>;
  /** Every symbolic size. */
  readonly sizes: Readonly<Record<string, number>>;
  readonly memory: MemoryUse;
}

export class Session implements AsyncDisposable {
  readonly plan: Plan;
  readonly device: Device;
  /** Names of the parameters that were made from a seed. Their results mean nothing. */
  readonly untrained: readonly string[];
  readonly #ownsDevice: boolean;
  readonly #module: KernelModule;
  readonly #weights: Weights;
  readonly #layouts: Layouts;
  readonly #machine: number;
  /** The block of the last run; later runs that fit in it use it again. */
  #arena: DeviceBuffer | undefined;
  #tail: Promise<unknown> = Promise.resolve();
  #closed = false;

  private constructor(plan: Plan, device: Device, ownsDevice: boolean, module: KernelModule, weights: Weights, machine: number) {
    this.plan = plan;
    this.device = device;
    this.#ownsDevice = ownsDevice;
    this.#module = module;
    this.#weights = weights;
    this.untrained = weights.untrained;
    this.#machine = machine;
    this.#layouts = new Layouts(plan, device.alignment);
  }

  /**
   * Loads kernels and weights. Throws WeightsError, SafetensorsError, GgufError, PickleError, ArtefactError,
   * ResourceError or DeviceError; whatever it throws, nothing stays allocated.
   */
  static async create(artefact: Artefact, options: SessionOptions = {}): Promise<Session> {
    const { plan } = artefact;
    const { signal } = options;
    checkPlan(plan, `plan ${plan.name}`);
    signal?.throwIfAborted();
    const params = await openParams(plan.params, weightsOptions(options.weights), options.init?.seed);
    let device: Device | undefined;
    try {
      device = options.device ?? (await WasmDevice.create({ threads: options.threads, simd: options.simd }));
      const machine = device.hostMemory ? await machineMemory() : Infinity;
      // Kernels become ready while weights are read.
      const module = await device.load({ wasm: artefact.modules, wgsl: artefact.wgsl }, { sources: sourcesOf(plan) });
      const lacking = plan.kernels.filter((k) => !module.kernels.has(k.name)).map((k) => k.name);
      if (lacking.length > 0) throw new ArtefactError(`plan ${plan.name} needs kernels its module does not have: ${lacking.join(", ")}`);
      const onBytes = (done: number, total: number): void => options.onProgress?.({ phase: "weights", done, total });
      const weights = await prepare(plan, device, module, params, {
        signal,
        onBytes,
        limit: Math.min(machine, device.capacity - device.used),
      });
      try {
        await module.ready?.();
      } catch (error) {
        weights.free(device);
        throw error;
      }
      return new Session(plan, device, options.device === undefined, module, weights, machine);
    } catch (error) {
      if (options.device === undefined) await device?.close();
      throw error;
    } finally {
      await params[Symbol.asyncDispose]();
    }
  }

  /** Bytes of the weights as they stay on the device. */
  get weightBytes(): number {
    return this.#weights.bytes;
  }

  /**
   * Runs the graph once. Runs of one session follow each other. Throws InputError for inputs that do not fit,
   * ResourceError when they need more memory than there is (before allocating), DeviceError when a kernel fails;
   * an abort rejects with `signal.reason` and leaves the session usable.
   */
  run(inputs: Inputs, options: RunOptions = {}): Promise<RunResult> {
    return this.#inOrder(() => this.#run(inputs, options));
  }

  /** What a state holds between runs; a copy. Waits for runs that were asked for. */
  readState(name: string): Promise<Tensor> {
    return this.#inOrder(async () => {
      const { at, declared, shape } = this.#state(name);
      return tensorFromBytes(
        declared.dtype,
        shape,
        await this.device.read(at.buffer, at.offset, elementCount(shape) * bytesOf(declared.dtype)),
      );
    });
  }

  /** Gives a state other contents. Waits for runs that were asked for. Throws InputError when the tensor is not of its type. */
  writeState(name: string, tensor: Tensor): Promise<void> {
    return this.#inOrder(async () => {
      const { at, declared, shape } = this.#state(name);
      const fits = tensor.dtype === declared.dtype && tensor.shape.length === shape.length && shape.every((d, i) => d === tensor.shape[i]);
      if (!fits || tensor.data.length !== elementCount(shape))
        throw new InputError(`state ${name}: expected ${typeText(declared.dtype, shape)}, found ${typeText(tensor.dtype, tensor.shape)}`);
      await this.device.write(at.buffer, at.offset, bytesOfTensor(tensor));
    });
  }

  /** The layout of a run with inputs of these sizes: sizes, shape code, memory. Nothing is allocated. */
  layout(inputShapes: Readonly<Record<string, readonly number[]>>, given: Readonly<Record<string, HostValue>> = {}): BoundPlan {
    return this.#layouts.get(inputShapes, given).bound;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#tail;
    if (this.#ownsDevice) {
      await this.device.close();
      return;
    }
    this.#weights.free(this.device);
    this.#giveBack();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #inOrder<R>(work: () => Promise<R>): Promise<R> {
    const result = this.#tail.then(() => {
      this.#check();
      return work();
    });
    this.#tail = result.catch(() => undefined);
    return result;
  }

  #state(name: string): { readonly at: Binding; readonly declared: PlanBuffer; readonly shape: readonly number[] } {
    const state = this.plan.states.find((s) => s.name === name);
    const declared = state === undefined ? undefined : this.plan.buffers[state.buffer];
    const at = state === undefined ? undefined : this.#weights.binding(state.buffer);
    if (declared === undefined || at === undefined) throw new InputError(`${this.plan.name} keeps no state ${name}`);
    return { at, declared, shape: declared.shape.map(Number) };
  }

  async #run(inputs: Inputs, options: RunOptions): Promise<RunResult> {
    const begin = performance.now();
    options.signal?.throwIfAborted();
    const unknown = options.outputs?.find((name) => !this.plan.outputs.some((o) => o.name === name));
    if (unknown !== undefined) throw new InputError(`${this.plan.name} has no output ${unknown}`);
    const given = checkInputs(this.plan, inputs);
    const layout = this.#layouts.get(given.shapes, given.integers);
    const arena = this.#provide(layout);
    try {
      return await this.#runIn(arena, layout, given, begin, options);
    } catch (error) {
      // The device may have refused the arena only when it was first used.
      if (error instanceof OutOfMemoryError) this.#giveBack();
      throw error;
    }
  }

  async #runIn(
    arena: DeviceBuffer,
    layout: Layout,
    given: ReturnType<typeof checkInputs>,
    begin: number,
    { signal, onProgress, profile, outputs: wanted }: RunOptions,
  ): Promise<RunResult> {
    const { tables } = layout;
    const shaped = performance.now();
    for (const { buffer, tensor } of given.tensors) {
      await this.device.write(arena, layout.offset(buffer), bytesOfTensor(tensor));
    }
    for (const table of tables) await this.device.write(arena, layout.offset(table.buffer), table.bytes);
    const written = performance.now();
    const commands = layout.commands(arena, this.#module, (id) => this.#binding(id, layout, arena));
    const steps: number[] = [];
    const begins: number[] = [];
    await this.device.submit(commands, {
      signal,
      profile,
      onCommand: (index, milliseconds, at) => {
        steps.push(milliseconds);
        begins.push(at);
        onProgress?.({ phase: "run", done: index + 1, total: commands.length });
      },
    });
    const computed = performance.now();
    const outputs: Record<string, Tensor> = {};
    for (const { name, buffer } of this.plan.outputs) {
      if (wanted !== undefined && !wanted.includes(name)) continue;
      const at = this.#binding(buffer, layout, arena);
      const shape = layout.shape(buffer);
      const bytes = await this.device.read(at.buffer, at.offset, layout.elementBytes(buffer));
      outputs[name] = tensorFromBytes(layout.buffer(buffer).dtype, shape, bytes);
    }
    const end = performance.now();
    return {
      outputs,
      stages: [
        { stage: "shape", milliseconds: shaped - begin },
        { stage: "inputs", milliseconds: written - shaped },
        ...layout.stages(steps),
        { stage: "outputs", milliseconds: end - computed },
      ],
      milliseconds: end - begin,
      steps: steps.slice(0, this.plan.steps.length),
      begins: begins.slice(0, this.plan.steps.length),
      host: layout.host,
      sizes: layout.bound.env,
      memory: { weights: this.#weights.bytes, arena: layout.bytes },
    };
  }

  #binding(id: number, layout: Layout, arena: DeviceBuffer): Binding {
    const kept = this.#weights.binding(id);
    if (kept !== undefined) return kept;
    return { buffer: arena, offset: layout.offset(id), bytes: layout.allocatedBytes(id) };
  }

  /** Memory for a run; grows when a run needs more, and says no before it does when there cannot be enough. */
  #provide(layout: Layout): DeviceBuffer {
    if (this.#arena !== undefined && this.#arena.bytes >= layout.bytes) return this.#arena;
    const others = this.device.used - this.#weights.bytes - (this.#arena?.bytes ?? 0);
    checkMemory(this.plan, layout, this.#weights.bytes, Math.min(this.#machine, this.device.capacity - Math.max(0, others)));
    this.#giveBack();
    this.#arena = this.device.alloc(layout.bytes);
    return this.#arena;
  }

  #giveBack(): void {
    if (this.#arena !== undefined) this.device.free(this.#arena);
    this.#arena = undefined;
  }

  #check(): void {
    const failure: UhdError | undefined = this.#closed ? new DeviceError("the session is closed") : undefined;
    if (failure !== undefined) throw failure;
  }
}

/** Where each kernel comes from: the places of the first step that runs it. */
function sourcesOf(plan: Plan): (kernel: string) => readonly string[] {
  return (kernel) => {
    const step = [...plan.prepare, ...plan.steps].find((s) => s.k === "dispatch" && s.kernel === kernel);
    return step?.k === "dispatch" ? step.sources : [];
  };
}

export function weightsOptions(weights: SessionOptions["weights"]): WeightsOptions | undefined {
  if (weights === undefined) return undefined;
  if (
    typeof weights === "string" ||
    weights instanceof Uint8Array ||
    weights instanceof Blob ||
    weights instanceof Map ||
    Array.isArray(weights)
  )
    return { from: weights };
  return weights as WeightsOptions;
}
