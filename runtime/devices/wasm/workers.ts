// Starts threads: worker_threads in Node, Web Workers in browsers, behind one small handle.
// Knows nothing of kernels or jobs.

import { importNode, isNode } from "../../platform.ts";

export interface WorkerHandle {
  post(message: unknown): void;
  /** Whether a pending answer of this worker keeps the process alive. */
  hold(held: boolean): void;
  terminate(): Promise<void>;
}

export interface WorkerEvents {
  onMessage(message: unknown): void;
  /** The thread ended by itself or could not start. Not called after `terminate`. */
  onFailure(reason: string): void;
}

/** Starts `source` (a self-contained script) as a thread. */
export type SpawnWorker = (source: string, events: WorkerEvents) => Promise<WorkerHandle>;

async function spawnNode(source: string, events: WorkerEvents): Promise<WorkerHandle> {
  const { Worker } = await importNode<typeof import("node:worker_threads")>("worker_threads");
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`), { name: "uhd" });
  let ended = false;
  worker.on("message", (message) => events.onMessage(message));
  worker.on("error", (error) => {
    if (!ended) events.onFailure(error.message);
    ended = true;
  });
  worker.on("exit", (code) => {
    if (!ended) events.onFailure(`it ended with code ${code}`);
    ended = true;
  });
  return {
    post: (message) => worker.postMessage(message),
    hold: (held) => (held ? worker.ref() : worker.unref()),
    async terminate() {
      ended = true;
      await worker.terminate();
    },
  };
}

/** What of the browser's Worker is used. */
interface WebWorker {
  postMessage(message: unknown): void;
  terminate(): void;
  onmessage: ((event: { readonly data: unknown }) => void) | null;
  onerror: ((event: { readonly message?: string }) => void) | null;
}

async function spawnWeb(source: string, events: WorkerEvents): Promise<WorkerHandle> {
  const { Worker } = globalThis as unknown as { readonly Worker?: new (url: string) => WebWorker };
  if (Worker === undefined) throw new Error("this environment has no Worker");
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url);
  worker.onmessage = (event) => events.onMessage(event.data);
  worker.onerror = (event) => events.onFailure(event.message ?? "it could not be started");
  return {
    post: (message) => worker.postMessage(message),
    hold: () => undefined,
    async terminate() {
      worker.terminate();
      URL.revokeObjectURL(url);
    },
  };
}

export const spawnWorker: SpawnWorker = (source, events) => (isNode ? spawnNode(source, events) : spawnWeb(source, events));
