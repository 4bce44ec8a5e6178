// What a plan becomes when the sizes of its inputs are known: the value of every symbol, the bytes of every
// buffer, and a place in the arena for those that live there. The same function serves the runtime and
// `uhdc explain`, so what is reported is what is run. Allocates nothing.

import { dim, dimEval, dimParse, dimProduct, dimSymbols, DimError, type Dim, type DimEnv } from "../dim.ts";
import { bytesOf } from "../dtype.ts";
import { givenTypeText, misgiven } from "./given.ts";
import type { HostValue } from "./host.ts";
import { runHostProgram, type HostRun } from "./host-eval.ts";
import type { BufferId, Plan } from "./types.ts";

export interface BoundPlan {
  /** The value of every symbol: dimensions of inputs, and sizes that shape code defined. */
  readonly env: DimEnv;
  /** The shape code's run: its values by name; tables are evaluated in it (see host-eval.ts). */
  readonly run: HostRun;
  /** By BufferId. `offset` is the place in the arena, and 0 for buffers that are not there. `bytes` has the slack elements in it. */
  readonly buffers: readonly { readonly offset: number; readonly bytes: number }[];
  /** Bytes of the arena, the readable bytes behind the last buffer included. */
  readonly arenaBytes: number;
  /** Buffers in the arena begin at multiples of this many bytes. */
  readonly alignment: number;
}

/** The sizes of the inputs do not fit the plan. */
export class BindError extends Error {
  override readonly name = "BindError";
}

/** Buffers begin on cache lines where the device wants nothing coarser. */
export const cacheLine = 64;
/** Kernels may read this far past their ends. */
const slackBytes = 64;

/** What the sizes of buffers depend on; computed once a plan. */
interface Sizes {
  readonly counts: readonly Dim[];
  readonly symbols: ReadonlySet<string>;
}

const sizesByPlan = new WeakMap<Plan, Sizes>();

function sizesOf(plan: Plan): Sizes {
  const before = sizesByPlan.get(plan);
  if (before !== undefined) return before;
  const counts = plan.buffers.map((b) => dimProduct(b.shape.map((text) => dimParse(text))));
  const made = { counts, symbols: new Set(counts.flatMap((d) => dimSymbols(d))) };
  sizesByPlan.set(plan, made);
  return made;
}

/**
 * `inputShapes` by the inputs' names, and the integers and values that the plan asks for. Throws BindError when they do not fit the
 * declared shapes, bounds or limits, and HostError when shape code has no answer for them. Where no size of a buffer
 * differs from `before`'s, its places are used again: an integer that grows with every token costs its shape code and
 * nothing else. `alignment` is the device's.
 */
export function bindPlan(
  plan: Plan,
  inputShapes: Readonly<Record<string, readonly number[]>>,
  given: Readonly<Record<string, HostValue>> = {},
  before?: BoundPlan,
  alignment = cacheLine,
): BoundPlan {
  const { integers, values } = givenTo(plan, given);
  const run = runHostProgram(plan.host, { ...inputSizes(plan, inputShapes), ...integers }, values);
  const env = run.symbols;
  for (const { name, lower, upper } of plan.symbols) {
    const value = env[name];
    if (value === undefined) throw new BindError(`${plan.name}: nothing gives the size ${name}`);
    if (value < lower || value > (upper ?? Infinity))
      throw new BindError(`${plan.name}: ${name} is ${value}, outside ${lower}…${upper ?? ""}`);
  }
  for (const { value, most, says } of plan.limits) {
    const [found, limit] = [dimEval(dimParse(value), env), dimEval(dimParse(most), env)];
    if (found > limit) throw new BindError(`${plan.name}: ${says}: ${value} is ${found}, and there are ${limit}`);
  }
  const { counts, symbols } = sizesOf(plan);
  if (before?.alignment === alignment && [...symbols].every((name) => before.env[name] === env[name]))
    return { env, run, buffers: before.buffers, arenaBytes: before.arenaBytes, alignment };
  const bytes = plan.buffers.map((buffer, id) => {
    const elements = dimEval(counts[id] ?? dim(0), env) + buffer.slack;
    if (!Number.isSafeInteger(elements) || elements < 0)
      throw new BindError(`${plan.name}: ${buffer.name} would have ${elements} elements`);
    return elements * bytesOf(buffer.dtype);
  });
  const { offsets, total } = placeArena(
    plan.buffers.flatMap(({ place }, id) =>
      place.k === "arena" ? [{ id, bytes: bytes[id] ?? 0, first: place.first, last: place.last }] : [],
    ),
    alignment,
  );
  return { env, run, buffers: bytes.map((n, id) => ({ offset: offsets.get(id) ?? 0, bytes: n })), arenaBytes: total, alignment };
}

/** The integers and values that the plan asks for; bounds of integers are checked with those of all symbols. */
function givenTo(
  plan: Plan,
  given: Readonly<Record<string, HostValue>>,
): { readonly integers: DimEnv; readonly values: Readonly<Record<string, HostValue>> } {
  const types = new Map(plan.host.given?.map((g) => [g.name, g.type]));
  const names = plan.symbols.filter((s) => s.argument === true).map((s) => s.name);
  const extra = Object.keys(given).find((name) => !names.includes(name) && !types.has(name));
  if (extra !== undefined)
    throw new BindError(
      `${plan.name}: ${extra} is not an integer of the graph; there are ${[...names, ...types.keys()].join(", ") || "none"}`,
    );
  const integers: Record<string, number> = {};
  for (const name of names) {
    const value = Object.hasOwn(given, name) ? given[name] : undefined;
    if (typeof value !== "number" || !Number.isSafeInteger(value))
      throw new BindError(`${plan.name}: ${name} is an integer, found ${value === undefined ? "nothing" : JSON.stringify(value)}`);
    integers[name] = value;
  }
  const values: Record<string, HostValue> = {};
  for (const [name, type] of types) {
    const value = Object.hasOwn(given, name) ? given[name] : undefined;
    const wrong = value === undefined ? `nothing gives ${name}: ${givenTypeText(type)}` : misgiven(value, type, name);
    if (wrong !== undefined || value === undefined) throw new BindError(`${plan.name}: ${wrong ?? name}`);
    values[name] = value;
  }
  return { integers, values };
}

/** The symbols that the inputs' shapes give. Axes that are expressions are checked once their symbols are known. */
function inputSizes(plan: Plan, inputShapes: Readonly<Record<string, readonly number[]>>): DimEnv {
  const sizes: Record<string, number> = {};
  const expressions: { readonly text: string; readonly size: number; readonly input: string }[] = [];
  for (const { name, buffer } of plan.inputs) {
    const declared = plan.buffers[buffer]?.shape ?? [];
    const shape = Object.hasOwn(inputShapes, name) ? inputShapes[name] : undefined;
    if (shape?.length !== declared.length) {
      throw new BindError(
        `${plan.name}: input ${name} is [${declared.join(", ")}], found ${shape === undefined ? "nothing" : `[${shape.join(", ")}]`}`,
      );
    }
    for (const [axis, text] of declared.entries()) {
      const size = shape[axis] ?? 0;
      const [only] = dimSymbols(dimParse(text));
      if (only === text && sizes[text] === undefined) sizes[text] = size;
      else expressions.push({ text, size, input: name });
    }
  }
  for (const { text, size, input } of expressions) {
    const expected = sizeOrNothing(text, sizes);
    if (expected !== undefined && expected !== size)
      throw new BindError(`${plan.name}: input ${input} has ${size} where ${text} is ${expected}`);
  }
  return sizes;
}

/** Undefined when the text has symbols that only shape code gives. */
function sizeOrNothing(text: string, env: DimEnv): number | undefined {
  try {
    return dimEval(dimParse(text), env);
  } catch (error) {
    if (error instanceof DimError) return undefined;
    throw error;
  }
}

export interface ArenaRequest {
  readonly id: BufferId;
  readonly bytes: number;
  /** Steps between which the buffer must keep its contents, inclusive. */
  readonly first: number;
  readonly last: number;
}

/**
 * Places buffers so that no two that live at the same step overlap. Largest first, each in the tightest gap that holds
 * it: deterministic, and close to the lower bound for the plans we make.
 */
export function placeArena(
  requests: readonly ArenaRequest[],
  alignment = cacheLine,
): { readonly offsets: ReadonlyMap<BufferId, number>; readonly total: number } {
  const order = requests.toSorted((a, b) => b.bytes - a.bytes || a.first - b.first || a.id - b.id);
  const placed: { readonly start: number; readonly end: number; readonly first: number; readonly last: number }[] = [];
  const offsets = new Map<BufferId, number>();
  let total = 0;
  for (const { id, bytes, first, last } of order) {
    const size = Math.ceil((bytes + slackBytes) / alignment) * alignment;
    const neighbours = placed.filter((p) => p.first <= last && first <= p.last).sort((a, b) => a.start - b.start);
    let start = -1;
    let tightest = Infinity;
    let free = 0;
    for (const p of neighbours) {
      const gap = p.start - free;
      if (gap >= size && gap < tightest) {
        start = free;
        tightest = gap;
      }
      free = Math.max(free, p.end);
    }
    if (start < 0) start = free;
    placed.push({ start, end: start + size, first, last });
    offsets.set(id, start);
    total = Math.max(total, start + size);
  }
  return { offsets, total };
}
