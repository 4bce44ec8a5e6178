// Compiled kernels of one GPU device. Pipelines are made at the same time as each other and as weights are uploaded; the
// same WGSL text is compiled once. Does not dispatch.

import type { KernelModule, LoadOptions, WgslKernelCode } from "../../device.ts";
import { messageOf, ValidationError, type DeviceError } from "../../errors.ts";

/** GPUShaderStage.COMPUTE: the constant is not global in Node. */
const compute = 4;

/** A kernel's pipeline, made or being made. */
export interface Pipeline {
  readonly kernel: WgslKernelCode;
  readonly groupLayout: GPUBindGroupLayout;
  /** Rejects with ValidationError. */
  readonly promise: Promise<GPUComputePipeline>;
  /** Once it is made. */
  readonly made: GPUComputePipeline | undefined;
}

interface Layouts {
  readonly group: GPUBindGroupLayout;
  readonly pipeline: GPUPipelineLayout;
}

/** How many objects of each kind were made, for those who want to see that runs make none. */
export interface Made {
  buffers: number;
  pipelines: number;
  groups: number;
}

export class GpuModule implements KernelModule {
  readonly kernels: ReadonlySet<string>;
  readonly pipelines: ReadonlyMap<string, Pipeline>;
  constructor(pipelines: ReadonlyMap<string, Pipeline>) {
    this.pipelines = pipelines;
    this.kernels = new Set(pipelines.keys());
  }
  async ready(): Promise<void> {
    await Promise.all([...this.pipelines.values()].map((p) => p.promise));
  }
}

export class Pipelines {
  readonly #gpu: GPUDevice;
  readonly #made: Made;
  /** What to throw instead where the device has failed. */
  readonly #failure: () => DeviceError | undefined;
  readonly #layouts = new Map<string, Layouts>();
  readonly #byCode = new Map<string, Pipeline>();

  constructor(gpu: GPUDevice, made: Made, failure: () => DeviceError | undefined) {
    this.#gpu = gpu;
    this.#made = made;
    this.#failure = failure;
  }

  /** Starts all compilations and returns at once. */
  module(kernels: readonly WgslKernelCode[], sources: LoadOptions["sources"]): GpuModule {
    return new GpuModule(new Map(kernels.map((k) => [k.name, this.#pipeline(k, sources?.(k.name))])));
  }

  #pipeline(kernel: WgslKernelCode, sources: readonly string[] | undefined): Pipeline {
    const key = `${kernel.bindings.join()}\n${kernel.code}`;
    const before = this.#byCode.get(key);
    if (before !== undefined) return before;
    const { group, pipeline: layout } = this.#layoutOf(kernel.bindings);
    const promise = this.#compile(kernel, layout, sources);
    const pipeline: { -readonly [K in keyof Pipeline]: Pipeline[K] } = { kernel, groupLayout: group, promise, made: undefined };
    promise.then(
      (made) => (pipeline.made = made),
      // Whoever needs the kernel gets the error; a kernel that nobody runs must not end the process. Compiling it again may go well.
      () => this.#byCode.delete(key),
    );
    this.#byCode.set(key, pipeline);
    return pipeline;
  }

  async #compile(kernel: WgslKernelCode, layout: GPUPipelineLayout, sources: readonly string[] | undefined): Promise<GPUComputePipeline> {
    // The scope takes the module's errors, which the pipeline's error repeats.
    this.#gpu.pushErrorScope("validation");
    const module = this.#gpu.createShaderModule({ label: kernel.name, code: kernel.code });
    const refused = this.#gpu.popErrorScope();
    this.#made.pipelines++;
    try {
      const made = await this.#gpu.createComputePipelineAsync({ label: kernel.name, layout, compute: { module, entryPoint: "main" } });
      await refused;
      return made;
    } catch (cause) {
      await refused.catch(() => null);
      const failure = this.#failure();
      if (failure !== undefined) throw failure;
      const { messages } = await module.getCompilationInfo();
      const errors = messages.filter((m) => m.type === "error").map((m) => `line ${m.lineNum}:${m.linePos} of its WGSL: ${m.message}`);
      const why = errors.length > 0 ? errors.slice(0, 3).join("; ") : messageOf(cause);
      throw new ValidationError(`the device refused it: ${why}`, { cause }, { kernel: kernel.name, sources });
    }
  }

  /** Layouts are explicit: the arguments are at an offset that each dispatch gives. */
  #layoutOf(bindings: WgslKernelCode["bindings"]): Layouts {
    const key = bindings.join();
    const before = this.#layouts.get(key);
    if (before !== undefined) return before;
    const group = this.#gpu.createBindGroupLayout({
      label: key,
      entries: [
        ...bindings.map((access, binding): GPUBindGroupLayoutEntry => ({
          binding,
          visibility: compute,
          buffer: { type: access === "read" ? "read-only-storage" : "storage" },
        })),
        { binding: bindings.length, visibility: compute, buffer: { type: "uniform", hasDynamicOffset: true } },
      ],
    });
    const made = { group, pipeline: this.#gpu.createPipelineLayout({ label: key, bindGroupLayouts: [group] }) };
    this.#layouts.set(key, made);
    return made;
  }
}
