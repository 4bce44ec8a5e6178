// The worker threads of one device: starting them, giving them modules, and noticing when one dies.
// Jobs do not pass through here: they go through shared memory (control.ts).

import { DeviceError } from "../../errors.ts";
import { control, controlAddress, controlWords } from "./control.ts";
import { workerSource } from "./worker-source.ts";
import type { SpawnWorker, WorkerHandle } from "./workers.ts";

type Message =
  | { readonly k: "start"; readonly id: number; readonly memory: WebAssembly.Memory; readonly thread: number }
  | {
      readonly k: "load";
      readonly id: number;
      readonly module: WebAssembly.Module;
      readonly first: number;
      readonly kernels: readonly string[];
    };

/** What a worker says: see worker-source.ts. */
type Answer =
  | { readonly k: "done"; readonly id: number }
  | { readonly k: "failed"; readonly id: number; readonly message: string }
  | { readonly k: "trapped"; readonly message: string };

export class Team {
  readonly #words: Int32Array;
  readonly #workers: WorkerHandle[] = [];
  readonly #waiting = new Map<number, { left: number; resolve(): void; reject(error: Error): void }>();
  #messages = 0;
  #failure: DeviceError | undefined;

  private constructor(memory: WebAssembly.Memory) {
    this.#words = new Int32Array(memory.buffer, controlAddress, controlWords);
  }

  /** Starts `size` threads on `memory`. Throws DeviceError when one does not start. */
  static async start(memory: WebAssembly.Memory, size: number, spawn: SpawnWorker): Promise<Team> {
    const team = new Team(memory);
    try {
      for (let i = 0; i < size; i++) {
        team.#workers.push(
          await spawn(workerSource, {
            onMessage: (message) => team.#answer(message as Answer),
            onFailure: (reason) => team.#fail(new DeviceError(`a worker thread failed: ${reason}`)),
          }),
        );
      }
      await team.#all((id, thread) => ({ k: "start", id, memory, thread }));
    } catch (cause) {
      await team.terminate();
      throw cause instanceof DeviceError ? cause : new DeviceError(`worker threads cannot be started: ${String(cause)}`, { cause });
    }
    return team;
  }

  get size(): number {
    return this.#workers.length;
  }

  /** Why the team can no longer be used, if so. */
  get failure(): DeviceError | undefined {
    return this.#failure;
  }

  /** Makes the kernels of `module` known to every thread as numbers first, first + 1, … */
  load(module: WebAssembly.Module, first: number, kernels: readonly string[]): Promise<void> {
    return this.#all((id) => ({ k: "load", id, module, first, kernels }));
  }

  async terminate(): Promise<void> {
    const workers = this.#workers.splice(0);
    await Promise.all(workers.map((w) => w.terminate()));
    this.#fail(new DeviceError("the device is closed"));
  }

  /** Posts a message to every thread and waits for all answers. Threads are numbered from 1. */
  async #all(message: (id: number, thread: number) => Message): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const id = ++this.#messages;
    const answered = new Promise<void>((resolve, reject) => this.#waiting.set(id, { left: this.#workers.length, resolve, reject }));
    for (const [i, worker] of this.#workers.entries()) {
      worker.hold(true);
      worker.post(message(id, i + 1));
    }
    // A thread that spins or waits returns to its event loop when it sees this number; the change of
    // GENERATION (still even: no job) ends a wait that has just begun.
    Atomics.store(this.#words, control.MESSAGES, id);
    Atomics.add(this.#words, control.GENERATION, 2);
    Atomics.notify(this.#words, control.GENERATION);
    try {
      await answered;
    } finally {
      for (const worker of this.#workers) worker.hold(false);
    }
  }

  #answer(answer: Answer): void {
    switch (answer.k) {
      case "done": {
        const entry = this.#waiting.get(answer.id);
        if (entry === undefined || --entry.left > 0) return;
        this.#waiting.delete(answer.id);
        entry.resolve();
        return;
      }
      case "failed":
        this.#fail(new DeviceError(`a worker thread could not load the kernels: ${answer.message}`));
        return;
      case "trapped":
        this.#fail(new DeviceError(`a kernel failed in a worker thread: ${answer.message}`));
        return;
      default:
        answer satisfies never;
    }
  }

  #fail(error: DeviceError): void {
    this.#failure ??= error;
    for (const entry of this.#waiting.values()) entry.reject(this.#failure);
    this.#waiting.clear();
  }
}
