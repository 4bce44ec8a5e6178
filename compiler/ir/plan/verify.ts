// What must hold of a plan, checked when it is made. Collects every violation as a sentence; an empty list means the
// plan is sound. It finds all that runtime/artefact.ts refuses when it loads a plan, and more: the order of writes and
// reads, lifetimes, sizes. Does not check shape code, nor what kernels do.

import { dimConstant, dimSymbols, type Dim } from "../dim.ts";
import { isDType } from "../dtype.ts";
import { checkSteps, count, readSize, type Accesses } from "./verify-steps.ts";
import type { BufferId, DimText, Plan, PlanBuffer } from "./types.ts";

/**
 * Every violation in `plan`. `accesses` gives, by a kernel's name, what it does with each of its buffers; without it
 * the last buffer of every kernel is the one that is written.
 */
export function verifyPlan(plan: Plan, accesses?: Accesses): readonly string[] {
  const wrong: string[] = [];
  const at = (message: string): void => void wrong.push(`plan ${plan.name}: ${message}`);
  if ((plan.format as string) !== "uhd-plan" || (plan.version as number) !== 1) at("it is not a uhd-plan of version 1");
  const checker = new Checker(plan, at);
  checker.symbols();
  for (const [id, buffer] of plan.buffers.entries()) checker.buffer(id, buffer);
  checker.tables();
  checker.entries();
  checker.kernels();
  checkSteps(plan, accesses, (texts, user) => checker.sizes(texts, user), at);
  return wrong;
}

class Checker {
  readonly #plan: Plan;
  readonly #at: (message: string) => void;
  readonly #symbols: ReadonlySet<string>;
  readonly #read = new Map<DimText, Dim | undefined>();

  constructor(plan: Plan, at: (message: string) => void) {
    this.#plan = plan;
    this.#at = at;
    this.#symbols = new Set(plan.symbols.map((s) => s.name));
  }

  symbols(): void {
    const { symbols, inputs, states, buffers, host } = this.#plan;
    if (this.#symbols.size !== symbols.length) this.#at("a symbol is declared twice");
    const given = new Set([
      ...host.bindings.filter((b) => b.symbol).map((b) => b.name),
      ...symbols.filter((s) => s.argument === true).map((s) => s.name),
    ]);
    // An input's size that is a symbol alone gives the symbol its value.
    for (const { buffer } of [...inputs, ...states]) for (const text of buffers[buffer]?.shape ?? []) given.add(text);
    for (const s of symbols) {
      if (!Number.isSafeInteger(s.lower) || !((s.upper ?? s.lower) >= s.lower))
        this.#at(`symbol ${s.name} has no values: ${s.lower}..${s.upper ?? ""}`);
      if (!given.has(s.name)) this.#at(`symbol ${s.name} is neither a dimension of an input nor defined by shape code`);
    }
    for (const [i, l] of this.#plan.limits.entries()) this.sizes([l.value, l.most], `limit ${i}`);
  }

  /** The size of a text, once it is known to be one over `names`. */
  #size(text: DimText, user: string, names: ReadonlySet<string> = this.#symbols): Dim | undefined {
    if (!this.#read.has(text)) this.#read.set(text, readSize(text));
    const size = this.#read.get(text);
    if (size === undefined) this.#at(`${user}: ${JSON.stringify(text)} is no size`);
    else for (const name of dimSymbols(size)) if (!names.has(name)) this.#at(`${user}: symbol ${name} is not declared`);
    return size;
  }

  sizes(texts: readonly DimText[], user: string): readonly (Dim | undefined)[] {
    return texts.map((text) => this.#size(text, user));
  }

  buffer(id: BufferId, b: PlanBuffer): void {
    const user = `buffer ${id} (${b.name})`;
    if (!isDType(b.dtype)) this.#at(`${user}: ${String(b.dtype)} is no element type`);
    if (!Number.isSafeInteger(b.slack) || b.slack < 0) this.#at(`${user}: ${b.slack} elements of slack`);
    const shape = this.sizes(b.shape, user);
    const constant = shape.map((d) => (d === undefined ? undefined : dimConstant(d)));
    for (const [i, size] of constant.entries()) if ((size ?? 0) < 0) this.#at(`${user}: size ${b.shape[i] ?? ""} is negative`);
    switch (b.place.k) {
      case "param":
      case "persistent":
      case "state":
      case "constant": {
        for (const [i, size] of constant.entries())
          if (size === undefined) this.#at(`${user}: it is kept between runs, and its size ${b.shape[i] ?? ""} is not constant`);
        const count = constant.reduce<number>((n, size) => n * (size ?? NaN), 1);
        if (b.place.k === "constant" && b.place.data.length !== count && !Number.isNaN(count))
          this.#at(`${user}: ${b.place.data.length} numbers do not fill the shape`);
        break;
      }
      case "table":
        if (this.#plan.tables[b.place.table] === undefined) this.#at(`${user}: there is no table ${b.place.table}`);
        break;
      case "arena": {
        const { first, last } = b.place;
        if (!Number.isSafeInteger(first) || first < 0 || !Number.isSafeInteger(last) || last < first)
          this.#at(`${user}: it lives from step ${first} to step ${last}`);
        break;
      }
      case "input":
      case "output":
        break;
      default:
        b.place satisfies never;
        this.#at(`${user}: it has no place`);
    }
  }

  tables(): void {
    for (const [i, t] of this.#plan.tables.entries()) {
      this.sizes(t.shape, `table ${i} (${t.name})`);
      const users = this.#plan.buffers.filter((b) => b.place.k === "table" && b.place.table === i);
      if (users.length !== 1) this.#at(`table ${i} (${t.name}): ${users.length} buffers hold it`);
      if (users.some((b) => b.dtype !== t.dtype || b.shape.join() !== t.shape.join()))
        this.#at(`table ${i} (${t.name}): it is not what its buffer holds`);
    }
  }

  entries(): void {
    const { inputs, outputs, params, states } = this.#plan;
    const own = (kind: string, list: readonly { readonly name: string; readonly buffer: BufferId }[], places: readonly string[]): void => {
      const names = new Set<string>();
      for (const { name, buffer } of list) {
        const place = this.#plan.buffers[buffer]?.place.k;
        if (place === undefined) this.#at(`${kind} ${name}: there is no buffer ${buffer}`);
        else if (!places.includes(place)) this.#at(`${kind} ${name}: buffer ${buffer} is of the kind ${place}`);
        if (names.has(name)) this.#at(`${kind} ${name}: there are two of this name`);
        names.add(name);
      }
      for (const place of places) {
        const held = new Set(list.map((e) => e.buffer));
        if (kind === "output") continue;
        for (const [id, b] of this.#plan.buffers.entries())
          if (b.place.k === place && !held.has(id)) this.#at(`buffer ${id} (${b.name}): no ${kind} fills it`);
      }
    };
    own("input", inputs, ["input"]);
    own("param", params, ["param"]);
    own("state", states, ["state"]);
    own("output", outputs, ["output", "input", "param", "persistent", "constant", "state", "table"]);
    for (const { name, buffer, dtype, shape } of params) {
      const held = this.#plan.buffers[buffer];
      if (held !== undefined && (held.dtype !== dtype || held.shape.join() !== shape.join()))
        this.#at(`param ${name}: it is not what its buffer holds`);
    }
    for (const s of states) {
      const [to, from] = [this.#plan.buffers[s.buffer], s.update === undefined ? undefined : this.#plan.buffers[s.update]];
      if (s.update === undefined) continue;
      if (from === undefined) this.#at(`state ${s.name}: there is no buffer ${s.update}`);
      else if (to !== undefined && (from.dtype !== to.dtype || count(from) !== count(to)))
        this.#at(`state ${s.name}: what replaces it has another type`);
    }
  }

  kernels(): void {
    const names = new Set<string>();
    for (const k of this.#plan.kernels) {
      if (names.has(k.name)) this.#at(`kernel ${k.name}: there are two of this name`);
      names.add(k.name);
      const dims = new Set(k.dims);
      if (dims.size !== k.dims.length) this.#at(`kernel ${k.name}: a size is named twice`);
      if (!Number.isSafeInteger(k.bufferCount) || k.bufferCount < 1) this.#at(`kernel ${k.name}: ${k.bufferCount} buffers`);
      if (k.written !== undefined && (!Number.isSafeInteger(k.written) || k.written < 1 || k.written > k.bufferCount))
        this.#at(`kernel ${k.name}: ${k.written} of ${k.bufferCount} buffers are written`);
      for (const text of [k.units, k.scratch]) this.#size(text, `kernel ${k.name}`, dims);
    }
  }
}
