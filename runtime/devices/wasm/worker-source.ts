// The program of a worker, as text. It is text, and not a file of its own, so that the same bytes start
// from the TypeScript sources under a test runner, from the built package, and from a bundle in a browser,
// with no second file to find: Node gets it as a data: URL, a browser as a Blob. It is plain JavaScript
// without imports, and no tool that rewrites functions (coverage, minifiers) can break it.
// It speaks the protocol of control.ts.

import { control, controlAddress, controlWords, spin } from "./control.ts";

export const workerSource = `
const W = ${JSON.stringify(control)};
const SPIN = ${JSON.stringify(spin)};
const functions = [];
let port, words, memory, thread = 0, handled = 0, seen = 0;

function explain(error) {
  return error instanceof Error ? error.name + ": " + error.message : String(error);
}

function job() {
  const run = functions[words[W.FUNCTION]];
  const args = words[W.ARGUMENTS];
  const units = words[W.UNITS];
  const chunk = words[W.CHUNK];
  const scratch = words[W.SCRATCH] + thread * words[W.SCRATCH_STRIDE] | 0;
  for (;;) {
    const begin = Atomics.add(words, W.NEXT, chunk);
    if (begin >= units) return;
    run(args, begin, Math.min(begin + chunk, units), scratch);
  }
}

// Serves jobs until a message waits to be handled.
function serve() {
  let idleSince = 0;
  let turns = 0;
  while (Atomics.load(words, W.MESSAGES) === handled) {
    const generation = Atomics.load(words, W.GENERATION);
    if ((generation & 1) === 1 && generation !== seen) {
      seen = generation;
      Atomics.add(words, W.ACTIVE, 1);
      if (Atomics.load(words, W.GENERATION) === generation) {
        try {
          job();
        } catch (error) {
          Atomics.store(words, W.NEXT, words[W.UNITS]);
          Atomics.store(words, W.TRAPPED, 1);
          port.postMessage({ k: "trapped", message: explain(error) });
        }
      }
      Atomics.sub(words, W.ACTIVE, 1);
      turns = 0;
    } else if ((++turns & 127) === 0) {
      const now = performance.now();
      if (turns === 128) idleSince = now;
      if (now - idleSince > (Atomics.load(words, W.RUNNING) === 1 ? SPIN.running : SPIN.idle)) {
        Atomics.add(words, W.SLEEPERS, 1);
        Atomics.wait(words, W.GENERATION, generation);
        Atomics.sub(words, W.SLEEPERS, 1);
        turns = 0;
      }
    }
  }
}

function handle(message) {
  handled++;
  try {
    if (message.k === "start") {
      memory = message.memory;
      thread = message.thread;
      words = new Int32Array(memory.buffer, ${controlAddress}, ${controlWords});
    } else if (message.k === "load") {
      const instance = new WebAssembly.Instance(message.module, { env: { memory } });
      message.kernels.forEach((name, i) => { functions[message.first + i] = instance.exports[name]; });
    }
    port.postMessage({ k: "done", id: message.id });
  } catch (error) {
    port.postMessage({ k: "failed", id: message.id, message: explain(error) });
  }
  if (words) serve();
}

function begin(p) {
  port = p;
  port.onmessage = (event) => handle(event.data);
}

if (typeof process === "object" && process && process.versions && process.versions.node) {
  import("node:worker_threads").then((threads) => begin(threads.parentPort));
} else {
  begin(self);
}
`;
