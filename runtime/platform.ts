// The few questions whose answers differ between Node and browsers. Node's modules are imported only
// when something needs them, under a name a bundler cannot see, so a browser bundle stays without them.

/** True in Node (and what imitates it), also in its worker threads. */
export const isNode: boolean =
  typeof process === "object" && typeof process.versions === "object" && typeof process.versions.node === "string";

/** `node:NAME`. Throws an Error that says so where there is no Node. */
export async function importNode<M>(name: string): Promise<M> {
  if (!isNode) throw new Error(`this needs Node: there is no node:${name} here`);
  const specifier = `node:${name}`;
  return (await import(/* @vite-ignore */ specifier)) as M;
}

/** How many threads the machine runs at once, as far as it tells. */
export async function hardwareThreads(): Promise<number> {
  if (isNode) {
    const os = await importNode<typeof import("node:os")>("os");
    return typeof os.availableParallelism === "function" ? os.availableParallelism() : os.cpus().length;
  }
  const { navigator } = globalThis as { readonly navigator?: { readonly hardwareConcurrency?: number } };
  return navigator?.hardwareConcurrency ?? 1;
}

/** Bytes of memory this process may use; Infinity where nobody tells (browsers). */
export async function machineMemory(): Promise<number> {
  if (!isNode) return Infinity;
  const os = await importNode<typeof import("node:os")>("os");
  // Node ≥ 20 says what the container allows; 0, undefined or an absurd number mean "no limit".
  const constrained = typeof process.constrainedMemory === "function" ? process.constrainedMemory() : 0;
  const total = os.totalmem();
  return constrained !== undefined && constrained > 0 ? Math.min(total, constrained) : total;
}

/** Resolves after timers, messages and input that were waiting have had their turn. */
export function eventLoopTurn(): Promise<void> {
  if (typeof setImmediate === "function") return new Promise((resolve) => void setImmediate(resolve));
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    Object.assign(port1, {
      onmessage: () => {
        port1.close();
        resolve();
      },
    });
    port2.postMessage(0);
  });
}
