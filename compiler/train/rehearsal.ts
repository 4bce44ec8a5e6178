// What a training step would hold in memory if some forward values were computed again: its kernels played through, each
// with the bytes it writes and the work it is. Quick, so that many choices can be tried; the memory that is told in the end
// is that of the plan (budget.ts). Makes no graph.

import { dimEval, dimParse } from "../ir/dim.ts";
import type { ValueId } from "../ir/graph/types.ts";
import { cacheLine, type BoundPlan } from "../ir/plan/bind.ts";
import type { BufferId, Plan } from "../ir/plan/types.ts";
import type { BuiltKernel } from "../fuse/kernels.ts";

/** A forward value that is written and that the backward pass reads. */
export interface Saved {
  readonly value: ValueId;
  readonly buffer: BufferId;
  /** Its place among the steps. */
  readonly step: number;
}

export interface Played {
  /** The most bytes that values of a run hold at a time, for each of the sizes. */
  readonly peaks: readonly number[];
  /** Work of what is done again, over all of the sizes: operations, and bytes as operations. */
  readonly work: number;
}

interface Action {
  readonly reads: readonly BufferId[];
  readonly writes: readonly BufferId[];
  readonly forward: boolean;
  readonly work: number;
}

/** What the copy of a byte takes of the time of an operation on a CPU: see the speeds in runtime/devices/wasm/device.ts. */
const workOfByte = 2.5;

export class Rehearsal {
  /** In the order in which they are made. */
  readonly saved: readonly Saved[];
  readonly #actions: readonly Action[];
  /** The action that makes a forward value of the arena; -1 of all others. */
  readonly #makers: Int32Array;
  readonly #isSaved: Uint8Array;
  readonly #sizes: readonly Float64Array[];
  /** Forward values that are in memory whatever is dropped. */
  readonly #always: readonly ValueId[];

  /** `kernels` are those of the plan's steps, in order; the steps behind them are copies. */
  constructor(plan: Plan, kernels: readonly BuiltKernel[], forward: ReadonlySet<ValueId>, runs: readonly BoundPlan[]) {
    const inArena = (id: BufferId): boolean => plan.buffers[id]?.place.k === "arena";
    const made = kernels.map((k) => k.operands.filter((_, i) => k.kernel.buffers[i]?.access !== "read"));
    this.#actions = plan.steps.map((step, i): Action => {
      if (step.k === "copy") return { reads: [step.from].filter(inArena), writes: [step.to].filter(inArena), forward: false, work: 0 };
      const isRead = (at: number): boolean => kernels[i]?.kernel.buffers[at]?.access === "read";
      const [flops, bytes] = [dimParse(step.flops), dimParse(step.bytes)];
      return {
        reads: step.buffers.filter((b, at) => isRead(at) && inArena(b)),
        writes: step.buffers.filter((b, at) => !isRead(at) && inArena(b)),
        forward: made[i]?.every((o) => forward.has(o.k === "pack" ? o.of : o.id)) === true,
        work: runs.reduce((sum, { env }) => sum + dimEval(flops, env) + workOfByte * dimEval(bytes, env), 0),
      };
    });
    const count = plan.buffers.length;
    this.#makers = new Int32Array(count).fill(-1);
    this.#isSaved = new Uint8Array(count);
    for (const [i, a] of this.#actions.entries()) if (a.forward) for (const b of a.writes) this.#makers[b] = i;
    // What is copied out at the end, or becomes a state, is there whatever the backward pass does.
    const pinned = new Set(plan.steps.flatMap((s) => (s.k === "copy" ? [s.from] : [])));
    for (const s of plan.states) if (s.update !== undefined) pinned.add(s.update);
    for (const b of pinned) this.#makers[b] = -1;
    for (const a of this.#actions) if (!a.forward) for (const b of a.reads) if ((this.#makers[b] ?? -1) >= 0) this.#isSaved[b] = 1;
    const values = plan.steps.flatMap((step, i) =>
      step.k === "copy"
        ? []
        : step.buffers.flatMap((buffer, at) => {
            const operand = kernels[i]?.operands[at];
            const isWritten = kernels[i]?.kernel.buffers[at]?.access !== "read";
            return isWritten && operand?.k === "value" && forward.has(operand.id) ? [{ value: operand.id, buffer, step: i }] : [];
          }),
    );
    this.saved = values.filter(({ buffer }) => this.#isSaved[buffer] === 1);
    this.#always = values.filter(({ buffer }) => this.#makers[buffer] === -1).map(({ value }) => value);
    this.#sizes = runs.map(({ buffers, alignment }) =>
      Float64Array.from(buffers, ({ bytes }) => Math.ceil((bytes + cacheLine) / alignment) * alignment),
    );
  }

  /** Nothing is dropped: 1 stands for a buffer whose value is. */
  nothing(): Uint8Array {
    return new Uint8Array(this.#makers.length);
  }

  /** The forward values that are in memory when the backward pass reads them. */
  kept(dropped: Uint8Array): ReadonlySet<ValueId> {
    return new Set([...this.#always, ...this.saved.flatMap((s) => (dropped[s.buffer] === 1 ? [] : [s.value]))]);
  }

  play(dropped: Uint8Array): Played {
    const count = this.#makers.length;
    // A copy has the number of its original and `count`.
    const first = new Int32Array(2 * count).fill(-1);
    const last = new Int32Array(2 * count);
    const again = new Uint8Array(count);
    let time = 0;
    let work = 0;
    const touch = (b: number): void => {
      if ((first[b] ?? -1) < 0) first[b] = time;
      last[b] = time;
    };
    const now = (b: BufferId): number => (again[b] === 1 ? b + count : b);
    const makerOf = (b: BufferId): number => this.#makers[b] ?? -1;
    const isMissing = (b: BufferId): boolean => makerOf(b) >= 0 && again[b] === 0 && (this.#isSaved[b] === 0 || dropped[b] === 1);
    const makeAgain = (wanted: BufferId): void => {
      const todo: BufferId[] = [];
      const open = [wanted];
      for (let b = open.pop(); b !== undefined; b = open.pop()) {
        if (!isMissing(b)) continue;
        again[b] = 1;
        todo.push(b);
        for (const r of this.#actions[makerOf(b)]?.reads ?? []) open.push(r);
      }
      for (const b of todo.sort((x, y) => makerOf(x) - makerOf(y))) {
        const made = this.#actions[makerOf(b)];
        for (const r of made?.reads ?? []) touch(now(r));
        touch(b + count);
        work += made?.work ?? 0;
        time++;
      }
    };
    for (const a of this.#actions) {
      if (!a.forward) for (const r of a.reads) if (isMissing(r)) makeAgain(r);
      for (const r of a.reads) touch(a.forward ? r : now(r));
      for (const w of a.writes) touch(w);
      time++;
    }
    return { peaks: this.#sizes.map((sizes) => peak(sizes, first, last, time)), work };
  }
}

function peak(sizes: Float64Array, first: Int32Array, last: Int32Array, time: number): number {
  const changes = new Float64Array(time + 1);
  for (let b = 0; b < first.length; b++) {
    const from = first[b] ?? -1;
    if (from < 0) continue;
    const bytes = sizes[b % sizes.length] ?? 0;
    changes[from] = (changes[from] ?? 0) + bytes;
    const end = (last[b] ?? from) + 1;
    changes[end] = (changes[end] ?? 0) - bytes;
  }
  let [held, most] = [0, 0];
  for (const change of changes) most = Math.max(most, (held += change));
  return most;
}
