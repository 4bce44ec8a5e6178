// A browser's Worker on Node's threads, as far as wllama needs one: scripts from Blobs, messages, and workers that start
// workers. Scripts see no `process` and no `require`, so that they take the way they take in a browser.

import { resolveObjectURL } from "node:buffer";
import { Worker as Thread } from "node:worker_threads";

// In each worker before its script. `workerData.shim` is this text, for the workers it starts.
const shim = `
const { parentPort, Worker: Thread, workerData } = require("node:worker_threads");
const { resolveObjectURL } = require("node:buffer");
Object.assign(globalThis, { self: globalThis, WorkerGlobalScope: function () {}, name: workerData.name, location: { href: "blob:" } });
globalThis.postMessage = (data, list) => parentPort.postMessage(data, Array.isArray(list) ? list : list?.transfer);
const listeners = [];
globalThis.addEventListener = (kind, listener) => void (kind === "message" && listeners.push(listener));
parentPort.on("message", (data) => { for (const f of [globalThis.onmessage, ...listeners]) f?.({ data }); });
globalThis.Worker = (${workerClass.toString()})(Thread, resolveObjectURL, workerData.shim);
`;

/** Sent to workers as text: it uses nothing but its arguments. */
function workerClass(Start: typeof Thread, blobOf: typeof resolveObjectURL, text: string): unknown {
  return class {
    onmessage: ((event: { readonly data: unknown }) => void) | undefined;
    onerror: ((error: unknown) => void) | undefined;
    readonly thread: Promise<Thread>;
    constructor(from: string | URL | Blob, options: { readonly name?: string } = {}) {
      this.thread = (async () => {
        const code = await (from instanceof Blob ? from : (blobOf(String(from)) as unknown as Blob)).text();
        const script = `${text}\n(function (process, require, module, exports, __filename) {\n${code}\n}).call(globalThis);`;
        const thread = new Start(script, { eval: true, workerData: { shim: text, name: options.name } });
        thread.on("message", (data) => this.onmessage?.({ data }));
        thread.on("error", (error) => this.onerror?.(error));
        return thread;
      })();
    }
    postMessage(data: unknown, list?: readonly ArrayBuffer[] | { readonly transfer?: readonly ArrayBuffer[] }): void {
      const transfer = Array.isArray(list) ? list : (list as { readonly transfer?: readonly ArrayBuffer[] } | undefined)?.transfer;
      void this.thread.then((thread) => thread.postMessage(data, transfer as never));
    }
    terminate(): void {
      void this.thread.then((thread) => thread.terminate());
    }
  };
}

/** Makes this process look enough like a page. */
export function installWebWorkers(): void {
  const scope = globalThis as unknown as Record<string, unknown>;
  scope["Worker"] = workerClass(Thread, resolveObjectURL, shim);
  scope["crossOriginIsolated"] = true;
  scope["document"] ??= { baseURI: "file:///" };
  scope["navigator"] ??= { hardwareConcurrency: 2, userAgent: "Node" };
}
