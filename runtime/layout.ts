// Everything a run needs to know that follows from the sizes of its inputs: symbols, tables, places of
// buffers, commands. Computed once for each combination of sizes and kept for the last few, so that a
// service which sees the same sizes again does no shape code. Does not touch a device.

import { bindPlan, cacheLine, type BoundPlan } from "../compiler/ir/plan/bind.ts";
import { tableData } from "../compiler/ir/plan/host-eval.ts";
import { dimParse, dimSymbols, type DimEnv } from "../compiler/ir/dim.ts";
import { bytesOf } from "../compiler/ir/dtype.ts";
import type { HostValue } from "../compiler/ir/plan/host.ts";
import { placeBlock } from "../compiler/ir/plan/memory.ts";
import type { BufferId, Plan, PlanBuffer, Step } from "../compiler/ir/plan/types.ts";
import { commandOf, sizeOf } from "./command.ts";
import type { Binding, Command, DeviceBuffer, KernelModule } from "./device.ts";
import { ArtefactError, InputError, messageOf } from "./errors.ts";
import { elementCount, typeText } from "./tensor.ts";

/** Layouts that are kept. */
const kept = 8;

export class Layouts {
  readonly #plan: Plan;
  readonly #alignment: number;
  /** Least recently used first. */
  readonly #layouts = new Map<string, Layout>();

  constructor(plan: Plan, alignment: number) {
    this.#plan = plan;
    this.#alignment = alignment;
  }

  /** Throws InputError when the shape code finds no answer for these sizes. */
  get(inputShapes: Readonly<Record<string, readonly number[]>>, given: Readonly<Record<string, HostValue>> = {}): Layout {
    const key = JSON.stringify([this.#plan.inputs.map(({ name }) => inputShapes[name]), given]);
    const layout =
      this.#layouts.get(key) ?? new Layout(this.#plan, inputShapes, given, [...this.#layouts.values()].at(-1), this.#alignment);
    this.#layouts.delete(key);
    this.#layouts.set(key, layout);
    for (const oldest of this.#layouts.keys()) {
      if (this.#layouts.size <= kept) break;
      this.#layouts.delete(oldest);
    }
    return layout;
  }
}

interface KnownCommands {
  readonly arena: DeviceBuffer;
  readonly list: readonly Command[];
  /** The sizes they were made for. */
  readonly env: DimEnv;
}

export class Layout {
  readonly plan: Plan;
  readonly bound: BoundPlan;
  /** Bytes of the block that holds the arena, inputs, outputs and tables. */
  readonly bytes: number;
  readonly #offsets: ReadonlyMap<BufferId, number>;
  /** The commands of a layout with the same places, until this one's are made. */
  #known: KnownCommands | undefined;
  #tables: readonly { readonly buffer: BufferId; readonly bytes: Uint8Array }[] | undefined;
  #commands: Omit<KnownCommands, "env"> | undefined;

  /** What is the same as in `before` is taken from there: a token more changes few commands and no place. */
  constructor(
    plan: Plan,
    inputShapes: Readonly<Record<string, readonly number[]>>,
    given: Readonly<Record<string, HostValue>> = {},
    before?: Layout,
    alignment = cacheLine,
  ) {
    this.plan = plan;
    try {
      this.bound = bindPlan(plan, inputShapes, given, before?.bound, alignment);
    } catch (cause) {
      throw unfit(plan, cause);
    }
    if (before !== undefined && before.bound.buffers === this.bound.buffers) {
      const made = before.#commands;
      this.#known = made === undefined ? undefined : { ...made, env: before.bound.env };
      this.#offsets = before.#offsets;
      this.bytes = before.bytes;
      return;
    }
    const { offsets, bytes } = placeBlock(plan, this.bound);
    this.#offsets = offsets;
    this.bytes = bytes;
  }

  /** What shape code puts on the device; computed when it is first asked for, since it may be large. */
  get tables(): readonly { readonly buffer: BufferId; readonly bytes: Uint8Array }[] {
    try {
      this.#tables ??= this.plan.buffers.flatMap((buffer, id) => {
        const table = buffer.place.k === "table" ? this.plan.tables[buffer.place.table] : undefined;
        if (table === undefined) return [];
        const data = tableData(table, this.bound.run);
        return [{ buffer: id, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) }];
      });
    } catch (cause) {
      throw unfit(this.plan, cause);
    }
    return this.#tables;
  }

  /** What the shape code computed, by name. */
  get host(): Readonly<Record<string, HostValue>> {
    return this.bound.run.values;
  }

  buffer(id: BufferId): PlanBuffer {
    const buffer = this.plan.buffers[id];
    if (buffer === undefined) throw new ArtefactError(`plan ${this.plan.name} has no buffer ${id}`);
    return buffer;
  }

  shape(id: BufferId): readonly number[] {
    return this.buffer(id).shape.map((text) => sizeOf(text, this.bound.env));
  }

  /** Bytes of the tensor in a buffer. */
  elementBytes(id: BufferId): number {
    return elementCount(this.shape(id)) * bytesOf(this.buffer(id).dtype);
  }

  /** Bytes of a buffer, the elements that kernels may touch beyond the tensor included. */
  allocatedBytes(id: BufferId): number {
    const buffer = this.buffer(id);
    return this.elementBytes(id) + buffer.slack * bytesOf(buffer.dtype);
  }

  /** Where in the block a buffer lies. */
  offset(id: BufferId): number {
    const offset = this.#offsets.get(id);
    if (offset === undefined) throw new ArtefactError(`buffer ${this.buffer(id).name} has no place in the arena`);
    return offset;
  }

  /** The steps as commands, and the states' updates after them. Kept as long as the block stays where it is. */
  commands(arena: DeviceBuffer, module: KernelModule, bind: (id: BufferId) => Binding): readonly Command[] {
    if (this.#commands?.arena === arena) return this.#commands.list;
    const { env } = this.bound;
    const known = this.#known?.arena === arena ? this.#known : undefined;
    const changed = new Set(known === undefined ? [] : Object.keys(env).filter((name) => env[name] !== known.env[name]));
    this.#known = undefined;
    const updates = this.plan.states.flatMap((s): Step[] =>
      s.update === undefined || s.update === s.buffer ? [] : [{ k: "copy", from: s.update, to: s.buffer }],
    );
    const list = [...this.plan.steps, ...updates].map((step, i) => {
      const same = known?.list[i];
      return same !== undefined && !stepSymbols(step).some((name) => changed.has(name))
        ? same
        : commandOf(this.plan, step, module, env, bind);
    });
    this.#commands = { arena, list };
    return list;
  }

  /** Times of steps, added up by stage in the order stages begin. */
  stages(steps: readonly number[]): readonly { readonly stage: string; readonly milliseconds: number }[] {
    const sums = new Map<string, number>();
    for (const [i, milliseconds] of steps.entries()) {
      const step = this.plan.steps[i];
      const stage = step?.k === "dispatch" ? step.stage : step === undefined ? "state" : "copies";
      sums.set(stage, (sums.get(stage) ?? 0) + milliseconds);
    }
    return [...sums].map(([stage, milliseconds]) => ({ stage, milliseconds }));
  }

  /** The largest value of a run, for messages. */
  largest(): { readonly name: string; readonly type: string; readonly bytes: number } {
    let best = { name: "", type: "", bytes: -1 };
    for (const id of this.#offsets.keys()) {
      const bytes = this.allocatedBytes(id);
      if (bytes > best.bytes) best = { name: this.buffer(id).name, type: typeText(this.buffer(id).dtype, this.shape(id)), bytes };
    }
    return best;
  }
}

function unfit(plan: Plan, cause: unknown): InputError {
  return new InputError(`${plan.name} cannot run on these sizes: ${messageOf(cause)}`, { cause });
}

const symbolsOfSteps = new WeakMap<Step, readonly string[]>();

/** The sizes that a step's command depends on besides its buffers. */
function stepSymbols(step: Step): readonly string[] {
  if (step.k === "copy") return [];
  const before = symbolsOfSteps.get(step);
  if (before !== undefined) return before;
  const made = [...new Set([...step.dims, step.flops, step.bytes].flatMap((text) => dimSymbols(dimParse(text))))];
  symbolsOfSteps.set(step, made);
  return made;
}
