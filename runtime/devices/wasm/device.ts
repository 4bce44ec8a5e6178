// The WebAssembly device: one linear memory of up to 4 GiB and every thread running the same kernels on
// it. The main thread takes part in the work and never blocks in it: it gives the event loop a turn every
// few milliseconds, also inside a long dispatch, which is when an AbortSignal can fire. Does not know
// plans; sizes and addresses are all it sees. The protocol with the workers is in control.ts.

import type { Binding, Command, Device, DeviceBuffer, KernelCode, KernelModule, SubmitOptions } from "../../device.ts";
import { ArtefactError, DeviceError, formatBytes, messageOf, ResourceError, type UhdError } from "../../errors.ts";
import { eventLoopTurn, hardwareThreads } from "../../platform.ts";
import { argumentsAddress, control, controlAddress, controlWords, heapAddress, maximumArguments } from "./control.ts";
import { alignment, alignUp, Heap } from "./heap.ts";
import { chooseVariant, type SimdChoice } from "./module.ts";
import { Team } from "./team.ts";
import { spawnWorker, type SpawnWorker } from "./workers.ts";

export interface WasmDeviceOptions {
  /** Threads, the calling one included; default: as many as the machine runs at once, at most 16. */
  readonly threads?: number | undefined;
  readonly simd?: SimdChoice | undefined;
  /** How to start a thread; for environments where a data: or blob: script may not run. */
  readonly spawn?: SpawnWorker | undefined;
}

const page = 65536;
/** Memory grows in steps of this many pages (16 MiB). */
const growth = 256;
/** Longest stay away from the event loop, in milliseconds (a single unit may exceed it). */
const patience = 12;
/** How much a thread takes at once, in milliseconds: short enough for balance and for new, faster code to be picked up. */
const chunkTime = 0.15;
/** Below this much work (in milliseconds of one thread) waking others costs more than it saves. */
const worthSharing = 0.03;
/** NEXT counts past the last unit by a chunk a thread and must stay an i32. */
const maximumUnits = 2 ** 24;
/** What one thread does per millisecond, roughly: operations and bytes. */
const speed = { flops: 20e6, bytes: 8e6 } as const;

type KernelFunction = (args: number, begin: number, end: number, scratch: number) => void;

class WasmBuffer implements DeviceBuffer {
  readonly bytes: number;
  readonly address: number;
  freed = false;
  constructor(address: number, bytes: number) {
    this.address = address;
    this.bytes = bytes;
  }
}

class WasmModule implements KernelModule {
  readonly kernels: ReadonlySet<string>;
  /** Kernel name → number known to all threads. */
  readonly numbers: ReadonlyMap<string, number>;
  constructor(numbers: ReadonlyMap<string, number>) {
    this.numbers = numbers;
    this.kernels = new Set(numbers.keys());
  }
}

/** A dispatch in progress. */
interface Job {
  readonly run: KernelFunction;
  readonly units: number;
  readonly chunk: number;
  readonly shared: boolean;
  /** The next unit, of an unshared job. */
  next: number;
  open: boolean;
}

export class WasmDevice implements Device {
  readonly kind = "wasm";
  readonly threads: number;
  readonly alignment = alignment;
  readonly hostMemory = true;
  readonly capacity: number;
  readonly #memory: WebAssembly.Memory;
  readonly #heap: Heap;
  readonly #team: Team | undefined;
  readonly #simd: SimdChoice;
  readonly #words: Int32Array;
  readonly #functions: KernelFunction[] = [];
  /** Modules by their bytes' identity: many sessions of one artefact share one. */
  readonly #loaded = new WeakMap<Uint8Array, KernelModule>();
  /** Kernels that have run: the first chunk of a new one is a single unit, so that compiling starts at once. */
  readonly #warm = new Set<number>();
  #scratch: { address: number; stride: number } = { address: 0, stride: 0 };
  #tail: Promise<unknown> = Promise.resolve();
  #closed = false;
  #trap: DeviceError | undefined;

  private constructor(memory: WebAssembly.Memory, pages: number, team: Team | undefined, simd: SimdChoice) {
    this.#memory = memory;
    this.#heap = new Heap(heapAddress, pages * page);
    this.capacity = pages * page - heapAddress;
    this.#team = team;
    this.threads = 1 + (team?.size ?? 0);
    this.#simd = simd;
    this.#words = new Int32Array(memory.buffer, controlAddress, controlWords);
  }

  /** Starts the threads. Throws DeviceError when they or the memory cannot be had. */
  static async create(options: WasmDeviceOptions = {}): Promise<WasmDevice> {
    const wanted = options.threads ?? Math.min(16, await hardwareThreads());
    if (!Number.isInteger(wanted) || wanted < 1 || wanted > 256)
      throw new RangeError(`threads must be an integer from 1 to 256, found ${wanted}`);
    // Without isolation headers a browser has no shared memory; one thread on a plain memory always works.
    const threads = typeof SharedArrayBuffer === "function" ? wanted : 1;
    const { memory, pages } = newMemory(threads > 1);
    const team = threads > 1 ? await Team.start(memory, threads - 1, options.spawn ?? spawnWorker) : undefined;
    return new WasmDevice(memory, pages, team, options.simd ?? "auto");
  }

  get used(): number {
    return this.#heap.used;
  }

  alloc(bytes: number): DeviceBuffer {
    this.#check();
    const address = this.#heap.alloc(bytes);
    try {
      this.#grow(this.#heap.top);
    } catch (error) {
      this.#heap.free(address);
      throw error;
    }
    return new WasmBuffer(address, bytes);
  }

  free(buffer: DeviceBuffer): void {
    const own = this.#own(buffer);
    own.freed = true;
    if (!this.#closed) this.#heap.free(own.address);
  }

  /** Only of shared memory: a plain one is detached when it grows, which may be while a caller still fills the view. */
  view(buffer: DeviceBuffer, offset: number, bytes: number): Uint8Array | undefined {
    const bytesThere = this.#bytes(buffer, offset, bytes);
    return this.#team === undefined ? undefined : bytesThere;
  }

  #bytes(buffer: DeviceBuffer, offset: number, bytes: number): Uint8Array {
    this.#check();
    const own = this.#own(buffer);
    if (!(offset >= 0 && bytes >= 0 && offset + bytes <= own.bytes)) {
      throw new RangeError(`bytes ${offset}…${offset + bytes} are outside a buffer of ${own.bytes}`);
    }
    return new Uint8Array(this.#memory.buffer, own.address + offset, bytes);
  }

  write(buffer: DeviceBuffer, offset: number, data: Uint8Array): Promise<void> {
    return this.#serial(async () => this.#bytes(buffer, offset, data.byteLength).set(data));
  }

  read(buffer: DeviceBuffer, offset: number, bytes: number): Promise<Uint8Array> {
    return this.#serial(async () => new Uint8Array(this.#bytes(buffer, offset, bytes)));
  }

  /** Throws ArtefactError for a module that does not fit, DeviceError for one this engine cannot run. */
  load(code: KernelCode): Promise<KernelModule> {
    return this.#serial(async () => {
      const { wasm } = code;
      if (wasm === undefined)
        throw new ArtefactError("there is no WebAssembly code among these kernels: compile them with `uhdc compile --target wasm`");
      const known = this.#loaded.get(wasm.plain);
      if (known !== undefined) return known;
      const bytes = chooseVariant(wasm, this.#simd, this.#team !== undefined);
      const module = await WebAssembly.compile(bytes);
      const names = WebAssembly.Module.exports(module)
        .filter((e) => e.kind === "function")
        .map((e) => e.name);
      let instance: WebAssembly.Instance;
      try {
        instance = await WebAssembly.instantiate(module, { env: { memory: this.#memory } });
      } catch (cause) {
        throw new ArtefactError(`the kernels do not fit this runtime: ${messageOf(cause)}`, { cause });
      }
      const first = this.#functions.length;
      this.#functions.push(...names.map((name) => instance.exports[name] as KernelFunction));
      await this.#team?.load(module, first, names);
      const loaded = new WasmModule(new Map(names.map((name, i) => [name, first + i])));
      this.#loaded.set(wasm.plain, loaded);
      return loaded;
    });
  }

  submit(commands: readonly Command[], options: SubmitOptions = {}): Promise<void> {
    return this.#serial(() => this.#run(commands, options));
  }

  sync(): Promise<void> {
    return this.#serial(async () => undefined);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    // What runs now sees the flag at its next turn; only then may the workers go.
    await this.#tail.catch(() => undefined);
    await this.#team?.terminate();
    this.#functions.length = 0;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #run(commands: readonly Command[], { signal, onCommand }: SubmitOptions): Promise<void> {
    signal?.throwIfAborted();
    const words = this.#words;
    if (this.#team !== undefined) Atomics.store(words, control.RUNNING, 1);
    const first = performance.now();
    let turn = first;
    try {
      for (const [index, command] of commands.entries()) {
        const start = performance.now();
        if (command.k === "copy") {
          this.#copy(command.from, command.to);
        } else {
          const job = this.#start(command);
          while (!this.#advance(job, turn + patience)) {
            await eventLoopTurn();
            turn = performance.now();
            if (signal?.aborted === true || this.#closed) await this.#cancel(job);
            this.#check();
            signal?.throwIfAborted();
          }
        }
        const now = performance.now();
        onCommand?.(index, now - start, start - first);
        if (now > turn + patience) {
          await eventLoopTurn();
          turn = performance.now();
          this.#check();
          signal?.throwIfAborted();
        }
      }
    } catch (error) {
      // What exactly failed in a worker comes as a message, which is on its way.
      for (let turns = 0; turns < 20 && error === this.#trap && this.#team !== undefined && this.#team.failure === undefined; turns++)
        await eventLoopTurn();
      throw error === this.#trap && this.#team?.failure !== undefined ? this.#team.failure : error;
    } finally {
      if (this.#team !== undefined) Atomics.store(words, control.RUNNING, 0);
    }
  }

  #copy(from: Binding, to: Binding): void {
    if (from.bytes !== to.bytes) throw new RangeError(`a copy of ${from.bytes} bytes into ${to.bytes}`);
    this.#bytes(to.buffer, to.offset, to.bytes).set(this.#bytes(from.buffer, from.offset, from.bytes));
  }

  /** Writes the arguments and opens the job to the other threads. */
  #start(command: Extract<Command, { k: "dispatch" }>): Job {
    const number = command.module instanceof WasmModule ? command.module.numbers.get(command.kernel) : undefined;
    const run = number === undefined ? undefined : this.#functions[number];
    if (number === undefined || run === undefined) throw new DeviceError(`kernel ${command.kernel} is not loaded on this device`);
    const { bindings, dims, units } = command;
    if (!Number.isInteger(units) || units < 0 || units > maximumUnits)
      throw new DeviceError(`kernel ${command.kernel}: ${units} units of work cannot be dispatched`);
    if (bindings.length + dims.length > maximumArguments)
      throw new DeviceError(`kernel ${command.kernel} has more than ${maximumArguments} arguments`);
    const args = new Int32Array(this.#memory.buffer, argumentsAddress, bindings.length + dims.length);
    for (const [i, b] of bindings.entries()) {
      const own = this.#own(b.buffer);
      if (!(b.offset >= 0 && b.offset + b.bytes <= own.bytes))
        throw new DeviceError(`kernel ${command.kernel}: binding ${i} leaves its buffer`);
      args[i] = own.address + b.offset;
    }
    for (const [i, d] of dims.entries()) {
      if (!Number.isInteger(d) || Math.abs(d) > 0x7fffffff)
        throw new DeviceError(`kernel ${command.kernel}: the size ${d} does not fit a 32-bit integer`);
      args[bindings.length + i] = d;
    }
    this.#provideScratch(command.scratch);
    const time = Math.max(command.flops / speed.flops, command.bytes / speed.bytes);
    const shared = this.#team !== undefined && units > 1 && time > worthSharing;
    // At least four chunks a thread, so that the last ones end together.
    const balanced = Math.ceil(units / (4 * this.threads));
    const timed = time > 0 ? Math.floor((units * chunkTime) / time) : units;
    let chunk = Math.max(1, shared ? Math.min(balanced, timed) : timed);
    if (!this.#warm.has(number)) {
      this.#warm.add(number);
      chunk = Math.max(1, Math.min(chunk, Math.ceil(units / 64)));
    }
    const job: Job = { run, units, chunk, shared, next: 0, open: shared };
    if (shared) {
      const words = this.#words;
      words[control.FUNCTION] = number;
      words[control.ARGUMENTS] = argumentsAddress;
      words[control.UNITS] = units;
      words[control.CHUNK] = chunk;
      words[control.SCRATCH] = this.#scratch.address;
      words[control.SCRATCH_STRIDE] = this.#scratch.stride;
      Atomics.store(words, control.NEXT, 0);
      Atomics.add(words, control.GENERATION, 1);
      if (Atomics.load(words, control.SLEEPERS) > 0) Atomics.notify(words, control.GENERATION);
    }
    return job;
  }

  /** Works on `job` until it is finished (true) or the time `until` has come (false). */
  #advance(job: Job, until: number): boolean {
    if (job.shared && !job.open) return this.#join(job, until);
    const words = this.#words;
    const scratch = this.#scratch.address;
    try {
      for (;;) {
        const begin = job.shared ? Atomics.add(words, control.NEXT, job.chunk) : job.next;
        job.next = begin + job.chunk;
        if (begin >= job.units) break;
        job.run(argumentsAddress, begin, Math.min(begin + job.chunk, job.units), scratch);
        if (performance.now() > until && (job.shared || job.next < job.units)) return false;
      }
    } catch (cause) {
      this.#trap = new DeviceError(`a kernel failed: ${messageOf(cause)}`, { cause });
      if (job.shared) Atomics.store(words, control.NEXT, job.units);
    }
    if (!job.shared) {
      if (this.#trap !== undefined) throw this.#trap;
      return true;
    }
    return this.#join(job, until);
  }

  /** Closes the job and waits, until `until`, for the threads that still work on it. */
  #join(job: Job, until: number): boolean {
    const words = this.#words;
    if (job.open) {
      Atomics.add(words, control.GENERATION, 1);
      job.open = false;
    }
    for (let spins = 0; Atomics.load(words, control.ACTIVE) > 0; spins++) {
      if ((spins & 255) === 255 && performance.now() > until) return false;
    }
    if (this.#trap !== undefined) throw this.#trap;
    if (Atomics.load(words, control.TRAPPED) === 1) {
      this.#trap = new DeviceError("a kernel failed in a worker thread");
      throw this.#trap;
    }
    return true;
  }

  /** Takes the remaining units away and waits until no thread works on `job` any more. */
  async #cancel(job: Job): Promise<void> {
    if (!job.shared) return;
    Atomics.store(this.#words, control.NEXT, job.units);
    while (this.#team?.failure === undefined && !this.#join(job, performance.now() + patience)) await eventLoopTurn();
  }

  #provideScratch(bytes: number): void {
    const stride = alignUp(bytes);
    if (stride <= this.#scratch.stride) return;
    if (this.#scratch.stride > 0) this.#heap.free(this.#scratch.address);
    this.#scratch = { address: 0, stride: 0 };
    const address = this.#heap.alloc(stride * this.threads);
    this.#grow(this.#heap.top);
    this.#scratch = { address, stride };
  }

  #grow(end: number): void {
    const missing = Math.ceil((end - this.#memory.buffer.byteLength) / page);
    if (missing <= 0) return;
    const room = (this.capacity + heapAddress - this.#memory.buffer.byteLength) / page;
    try {
      this.#memory.grow(Math.min(room, Math.ceil(missing / growth) * growth));
    } catch (cause) {
      const bytes = missing * page;
      throw new ResourceError(`the memory could not grow by ${formatBytes(bytes)}: the machine has no more`, bytes, 0, { cause });
    }
  }

  #own(buffer: DeviceBuffer): WasmBuffer {
    if (!(buffer instanceof WasmBuffer) || buffer.freed)
      throw new DeviceError("a buffer was used that is freed or belongs to another device");
    return buffer;
  }

  #check(): void {
    const failure: UhdError | undefined = this.#closed ? new DeviceError("the device is closed") : (this.#trap ?? this.#team?.failure);
    if (failure !== undefined) throw failure;
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

/** As large an address space as the engine reserves: 4 GiB, or less on small machines. */
function newMemory(shared: boolean): { readonly memory: WebAssembly.Memory; readonly pages: number } {
  let cause: unknown;
  for (const pages of [65536, 32768, 16384]) {
    try {
      return { memory: new WebAssembly.Memory({ initial: heapAddress / page, maximum: pages, shared }), pages };
    } catch (error) {
      cause = error;
    }
  }
  throw new DeviceError(`no WebAssembly memory can be made: ${messageOf(cause)}`, { cause });
}
