// What must hold of the steps of a plan: each reads what was written before, into a place that lives long enough, and
// writes what is its own to write.

import { dimConstant, dimParse, dimProduct, DimError, type Dim } from "../dim.ts";
import type { BufferId, DimText, Plan, PlanBuffer, PlanKernel, Step } from "./types.ts";

/** By a kernel's name, what it does with each of its buffers. */
export type Accesses = ReadonlyMap<string, readonly ("read" | "write" | "update")[]>;

type Report = (message: string) => void;
/** The sizes of texts; reports, for `user`, what is wrong with them. */
type Sizes = (texts: readonly DimText[], user: string) => readonly (Dim | undefined)[];

export function checkSteps(plan: Plan, accesses: Accesses | undefined, sizes: Sizes, at: Report): void {
  const checker = new Steps(plan, accesses, sizes, at);
  for (const [i, step] of plan.prepare.entries()) checker.step(step, `prepare ${i}`, undefined);
  for (const [i, step] of plan.steps.entries()) checker.step(step, `step ${i}`, i);
  checker.end();
}

/** The number of elements, as canonical text; the shape where a size of it cannot be read. */
export function count(buffer: PlanBuffer): string {
  const shape = buffer.shape.map(readSize);
  const sizes = shape.filter((d) => d !== undefined);
  return sizes.length === shape.length ? dimProduct(sizes).text : buffer.shape.join();
}

class Steps {
  readonly #plan: Plan;
  readonly #accesses: Accesses | undefined;
  readonly #sizes: Sizes;
  readonly #at: Report;
  readonly #kernels: ReadonlyMap<string, PlanKernel>;
  /** Who wrote a buffer. */
  readonly #written = new Map<BufferId, string>();
  /** Who replaced the elements of a state in place: what it held is gone. */
  readonly #updated = new Map<BufferId, string>();

  constructor(plan: Plan, accesses: Accesses | undefined, sizes: Sizes, at: Report) {
    this.#plan = plan;
    this.#accesses = accesses;
    this.#sizes = sizes;
    this.#at = at;
    this.#kernels = new Map(plan.kernels.map((k) => [k.name, k]));
  }

  /** `index` is the step's place among those of a run; undefined in `prepare`. */
  step(step: Step, user: string, index: number | undefined): void {
    switch (step.k) {
      case "copy": {
        this.#read(step.from, user, index);
        this.#write(step.to, user, index);
        const [from, to] = [this.#plan.buffers[step.from], this.#plan.buffers[step.to]];
        // A reshaped value is a copy too: the count of elements is what must agree.
        if (from !== undefined && to !== undefined && (from.dtype !== to.dtype || count(from) !== count(to)))
          this.#at(`${user}: it copies ${from.dtype}[${from.shape.join(", ")}] to ${to.dtype}[${to.shape.join(", ")}]`);
        break;
      }
      case "dispatch":
        this.#dispatch(step, `${user} (${step.kernel})`, index);
        break;
      default:
        step satisfies never;
        this.#at(`${user}: it is neither a dispatch nor a copy`);
    }
  }

  #dispatch(step: Extract<Step, { k: "dispatch" }>, user: string, index: number | undefined): void {
    const kernel = this.#kernels.get(step.kernel);
    if (kernel === undefined) this.#at(`${user}: there is no such kernel`);
    else {
      if (step.buffers.length !== kernel.bufferCount) this.#at(`${user}: ${step.buffers.length} buffers instead of ${kernel.bufferCount}`);
      if (step.dims.length !== kernel.dims.length) this.#at(`${user}: ${step.dims.length} sizes instead of ${kernel.dims.length}`);
    }
    const sizes = this.#sizes(step.dims, user);
    this.#sizes([...step.extents, step.flops, step.bytes], user);
    if (index === undefined)
      for (const [i, size] of sizes.entries())
        if (size !== undefined && dimConstant(size) === undefined) this.#at(`${user}: the size ${step.dims[i] ?? ""} is not constant`);
    const written = kernel?.written ?? 1;
    const access =
      this.#accesses?.get(step.kernel) ??
      step.buffers.map((_, i): "read" | "write" => (i < step.buffers.length - written ? "read" : "write"));
    if (access.some((a, i) => (a === "read") !== i < step.buffers.length - written))
      this.#at(`${user}: the ${written} buffers at its end are not those that it writes`);
    const bound = new Map<BufferId, "read" | "write" | "update">();
    for (const [i, id] of step.buffers.entries()) {
      const own = access[i] ?? "read";
      const other = bound.get(id);
      // A kernel was proved to update what it reads and writes under one name; under two nothing is known.
      if (other !== undefined && (other !== "read" || own !== "read")) this.#at(`${user}: it reads and writes buffer ${id}`);
      bound.set(id, own);
    }
    for (const [id, own] of bound) if (own !== "write") this.#read(id, user, index);
    for (const [id, own] of bound) {
      if (own === "read") continue;
      this.#write(id, user, index);
      if (own !== "update") continue;
      if (this.#plan.buffers[id]?.place.k !== "state") this.#at(`${user}: it updates buffer ${id}, which is no state`);
      this.#updated.set(id, user);
    }
    if ([...bound.values()].every((own) => own === "read")) this.#at(`${user}: it writes nothing`);
  }

  #buffer(id: BufferId, user: string): PlanBuffer | undefined {
    const buffer = this.#plan.buffers[id];
    if (buffer === undefined) this.#at(`${user}: there is no buffer ${id}`);
    return buffer;
  }

  #read(id: BufferId, user: string, index: number | undefined): void {
    const buffer = this.#buffer(id, user);
    if (buffer === undefined) return;
    const { place, name } = buffer;
    const by = this.#updated.get(id);
    if (by !== undefined) this.#at(`${user}: it reads buffer ${id} (${name}), which ${by} updated in place`);
    switch (place.k) {
      case "param":
      case "constant":
        return;
      case "input":
      case "table":
      case "state":
        if (index === undefined) this.#at(`${user}: it reads ${name}, which is known in runs only`);
        return;
      case "persistent":
      case "output":
      case "arena":
        if (!this.#written.has(id)) this.#at(`${user}: it reads buffer ${id} (${name}), which nothing wrote before`);
        this.#lives(id, buffer, user, index);
        return;
      default:
        place satisfies never;
    }
  }

  #write(id: BufferId, user: string, index: number | undefined): void {
    const buffer = this.#buffer(id, user);
    if (buffer === undefined) return;
    const { place, name } = buffer;
    // A state that is its own update is written where it is.
    const kept = this.#plan.states.some((s) => s.buffer === id && s.update === id);
    const mine = index === undefined ? place.k === "persistent" : place.k === "arena" || place.k === "output" || kept;
    if (!mine) this.#at(`${user}: it writes buffer ${id} (${name}), which is of the kind ${place.k}`);
    const before = this.#written.get(id);
    if (before !== undefined) this.#at(`${user}: it writes buffer ${id} (${name}), as ${before} did`);
    this.#written.set(id, user);
    if (place.k === "arena" && index !== undefined && place.first !== index)
      this.#at(`${user}: it writes buffer ${id} (${name}), which lives from step ${place.first}`);
    this.#lives(id, buffer, user, index);
  }

  #lives(id: BufferId, { place, name }: PlanBuffer, user: string, index: number | undefined): void {
    if (place.k !== "arena") return;
    if (index === undefined) this.#at(`${user}: it uses buffer ${id} (${name}), which is in the arena of runs`);
    else if (index > place.last) this.#at(`${user}: it uses buffer ${id} (${name}), which lives to step ${place.last}`);
  }

  /** What must have been written when all steps are done. */
  end(): void {
    const { outputs, states, steps } = this.#plan;
    for (const o of outputs) {
      const place = this.#plan.buffers[o.buffer]?.place.k;
      if ((place === "output" || place === "persistent" || place === "arena") && !this.#written.has(o.buffer))
        this.#at(`output ${o.name}: nothing writes it`);
      const by = this.#updated.get(o.buffer);
      if (by !== undefined) this.#at(`output ${o.name}: it is a state that ${by} updated in place`);
    }
    for (const s of states) {
      const buffer = s.update === undefined ? undefined : this.#plan.buffers[s.update];
      if (s.update === undefined || buffer === undefined) continue;
      const made = buffer.place.k === "arena" || buffer.place.k === "output" || buffer.place.k === "persistent";
      if (made && !this.#written.has(s.update)) this.#at(`state ${s.name}: nothing writes what replaces it`);
      // Updates come after all steps.
      this.#lives(s.update, buffer, `the update of ${s.name}`, steps.length);
    }
    for (const [id, { place, name }] of this.#plan.buffers.entries())
      if (place.k === "arena" && !this.#written.has(id)) this.#at(`buffer ${id} (${name}): nothing writes it`);
  }
}

/** The size of a text; undefined when it is none. */
export function readSize(text: DimText): Dim | undefined {
  try {
    return dimParse(text);
  } catch (error) {
    if (error instanceof DimError) return undefined;
    throw error;
  }
}
