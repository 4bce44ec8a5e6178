// The sizes of a run as the command line gives them: --image-size, and --size for dimensions, integers and lists. Knows
// plans alone; the compiler is not loaded for it.

import { dimEval, dimParse, dimSymbols, type DimEnv } from "../ir/dim.ts";
import { givenTypeText, misgiven, type GivenType } from "../ir/plan/given.ts";
import { runHostProgram } from "../ir/plan/host-eval.ts";
import type { HostValue } from "../ir/plan/host.ts";
import type { Plan, PlanBuffer } from "../ir/plan/types.ts";
import { assignments } from "./assignments.ts";
import { usageError } from "./errors.ts";

export interface GivenSizes {
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  /** Integers of a run, and its values of shape code. */
  readonly given: Readonly<Record<string, HostValue>>;
}

export interface SizeOptions {
  /** WIDTHxHEIGHT of the image input. */
  readonly imageSize?: string;
  /** NAME=VALUE, each. */
  readonly size: readonly string[];
  /** Sizes that are known without: of tensors that are there. */
  readonly known?: Readonly<Record<string, number>>;
}

/** Every input's shape and every integer and list of a run. Throws CliError for what is missing, unknown or of another type. */
export function givenSizes(plan: Plan, options: SizeOptions): GivenSizes {
  const { known = {} } = options;
  const wanted = inputSymbols(plan);
  const given: Record<string, number> = Object.fromEntries(Object.entries(known).filter(([name]) => wanted.includes(name)));
  const values: Record<string, HostValue> = {};
  if (options.imageSize !== undefined) {
    const { W, H } = imageSize(options.imageSize);
    const [rows, columns] = imageInput(plan)?.shape ?? [];
    if (rows === undefined || columns === undefined)
      throw usageError(`${plan.name} has no input u8[height, width, channels]; give sizes with --size NAME=VALUE`);
    Object.assign(given, { [rows]: H, [columns]: W });
  }
  for (const [name, text] of Object.entries(assignments(options.size, "--size"))) {
    const type = plan.host.given?.find((g) => g.name === name)?.type;
    if (type !== undefined) {
      values[name] = givenValue(name, text, type);
      continue;
    }
    if (!/^\d{1,12}$/.test(text)) throw usageError(`--size ${name} takes a whole number, found "${text}"`);
    if (!wanted.includes(name)) throw usageError(`${plan.name} has no input dimension ${name}; it has ${wanted.join(", ") || "none"}`);
    if (known[name] !== undefined && known[name] !== Number(text))
      throw usageError(`--size ${name}=${text}: the inputs have ${known[name]}`);
    given[name] = Number(text);
  }
  const lists = (plan.host.given ?? []).filter((g) => values[g.name] === undefined).map((g) => g.name);
  const missing = [...wanted.filter((name) => given[name] === undefined), ...lists];
  if (missing.length > 0) {
    const image = imageInput(plan) === undefined ? "" : "--image-size WIDTHxHEIGHT or ";
    throw usageError(`${plan.name} needs the size of ${missing.join(", ")}: give ${image}${missing.map((m) => `--size ${m}=…`).join(" ")}`);
  }
  // Shapes of inputs may also use sizes that shape code defines.
  const sizes = runHostProgram(plan.host, given, values).symbols;
  return {
    shapes: Object.fromEntries(plan.inputs.map(({ name, buffer }) => [name, shapeOf(plan.buffers[buffer], sizes)])),
    given: {
      ...values,
      ...Object.fromEntries(plan.symbols.flatMap(({ name, argument }) => (argument === true ? [[name, given[name] ?? 0] as const] : []))),
    },
  };
}

/** "672x1008" → { W: 672, H: 1008 }. */
function imageSize(text: string): { readonly W: number; readonly H: number } {
  const match = /^(\d{1,6})[x×](\d{1,6})$/.exec(text);
  if (match === null) throw usageError(`--image-size takes WIDTHxHEIGHT in pixels, found "${text}"`);
  return { W: Number(match[1]), H: Number(match[2]) };
}

/** A list of a run, from JSON. */
function givenValue(name: string, text: string, type: GivenType): HostValue {
  try {
    const value = JSON.parse(text) as HostValue;
    const wrong = misgiven(value, type, name);
    if (wrong === undefined) return value;
    throw usageError(`--size ${wrong}`);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw usageError(`--size ${name} takes ${givenTypeText(type)} as JSON, found "${text}"`);
  }
}

/** Of the sizes of a run. */
export function shapeOf(buffer: PlanBuffer | undefined, env: DimEnv): readonly number[] {
  return (buffer?.shape ?? []).map((text) => dimEval(dimParse(text), env));
}

/** The input that holds a photo. */
function imageInput(plan: Plan): PlanBuffer | undefined {
  return plan.inputs.map(({ buffer }) => plan.buffers[buffer]).find((b) => b?.dtype === "u8" && b.shape.length === 3);
}

/** Symbols of the inputs' shapes that shape code does not define, in their order, and the integers of a run. */
function inputSymbols(plan: Plan): readonly string[] {
  const defined = new Set(plan.host.bindings.filter((b) => b.symbol).map((b) => b.name));
  const found = plan.inputs.flatMap(({ buffer }) => (plan.buffers[buffer]?.shape ?? []).flatMap((text) => dimSymbols(dimParse(text))));
  const integers = plan.symbols.flatMap((s) => (s.argument === true ? [s.name] : []));
  return [...new Set([...found, ...integers])].filter((name) => !defined.has(name));
}
