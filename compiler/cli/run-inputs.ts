// What a run is given on the command line: a photo, tensors of safetensors and other checkpoints by their names, random
// tensors, and the integers and lists of the graph. Reads and compares; runs nothing.

import { InputError } from "../../runtime/errors.ts";
import { decodeImage, type Photo } from "../../runtime/images/decode.ts";
import { withChannels } from "../../runtime/images/picture.ts";
import { checkInputs, type Inputs } from "../../runtime/inputs.ts";
import { arrays, elementCount, tensorFromBytes, typeText, type Tensor } from "../../runtime/tensor.ts";
import { randomStream } from "../../runtime/train/random.ts";
import { openCheckpoint } from "../../runtime/weights/checkpoint.ts";
import { seededBytes } from "../../runtime/weights/init.ts";
import { bytesOf, type DType } from "../ir/dtype.ts";
import { bindPlan } from "../ir/plan/bind.ts";
import type { HostValue } from "../ir/plan/host.ts";
import type { Plan } from "../ir/plan/types.ts";
import { CliError, usageError } from "./errors.ts";
import { givenSizes } from "./sizes.ts";
import { seeded } from "./weights.ts";

export interface InputOptions {
  readonly image?: readonly string[];
  /** Files, and `seeded:N` for what no file has. */
  readonly input?: readonly string[];
  /** NAME=VALUE, each. */
  readonly size: readonly string[];
}

export interface RunInputs {
  readonly inputs: Inputs;
  /** Of the tensors among them. */
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  /** The integers and lists among them. */
  readonly given: Readonly<Record<string, HostValue>>;
  readonly photo: { readonly path: string; readonly picture: Photo } | undefined;
}

/** Whether anything is given that a graph is run on, a prompt aside. */
export function hasInputs({ image = [], input = [], size }: InputOptions): boolean {
  return image.length + input.length + size.length > 0;
}

/** Throws CliError, ImageError, InputError, or what a file is refused with. */
export async function runInputs(plan: Plan, options: InputOptions): Promise<RunInputs> {
  const [path, ...others] = options.image ?? [];
  if (others.length > 0) throw usageError(`a run takes one photo, and here are ${others.length + 1}; with --prompt there may be several`);
  const tensors = new Map<string, Tensor>();
  let photo: RunInputs["photo"];
  if (path !== undefined) {
    const { name, channels } = photoInput(plan);
    photo = { path, picture: await decodeImage(path) };
    tensors.set(name, withChannels(photo.picture, channels));
  }
  const { files, seed } = sources(options.input ?? []);
  await readTensors(plan, files, tensors);
  const left = plan.inputs.filter(({ name }) => !tensors.has(name));
  if (left.length > 0 && seed === undefined) {
    const hint = takesText(plan) ? "  help: ask a language model with --prompt" : help;
    throw new CliError(1, `${plan.name} needs ${left.map((i) => typed(plan, i)).join(", ")}\n${hint}`);
  }
  const { shapes, given } = givenSizes(plan, { size: options.size, known: knownSizes(plan, tensors) });
  // Refuses sizes out of their bounds before anything is made of them.
  bindPlan(plan, shapes, given);
  for (const { name, buffer } of left) {
    const dtype = plan.buffers[buffer]?.dtype;
    if (dtype !== undefined && seed !== undefined) tensors.set(name, randomTensor(name, dtype, shapes[name] ?? [], seed));
  }
  const inputs = { ...Object.fromEntries(tensors), ...given };
  const checked = checkInputs(plan, inputs);
  return { inputs, shapes: checked.shapes, given: checked.integers, photo };
}

const help =
  "  help: give tensors of these names with --input FILE (safetensors), or try it with random ones: --input seeded:1 --size NAME=VALUE";

const takesText = (plan: Plan): boolean => plan.inputs.some(({ name }) => name === "ids" || name === "rows");

const typed = (plan: Plan, { name, buffer }: Plan["inputs"][number]): string =>
  `${name}: ${typeText(plan.buffers[buffer]?.dtype ?? "", plan.buffers[buffer]?.shape ?? [])}`;

function sources(input: readonly string[]): { readonly files: readonly string[]; readonly seed: number | undefined } {
  const seeds = input.flatMap((text) => seeded(text) ?? []);
  if (seeds.length > 1) throw usageError("--input takes one seeded:N");
  return { files: input.filter((text) => seeded(text) === undefined), seed: seeds[0] };
}

/** Adds the tensors of files, each of which must be an input. */
async function readTensors(plan: Plan, files: readonly string[], into: Map<string, Tensor>): Promise<void> {
  if (files.length === 0) return;
  const checkpoint = await openCheckpoint(files);
  try {
    for (const [name, stored] of checkpoint.tensors) {
      const declared = plan.buffers[plan.inputs.find((i) => i.name === name)?.buffer ?? -1];
      const found = typeText(stored.dtype.toLowerCase(), stored.shape);
      if (declared === undefined) {
        const names = plan.inputs.map((i) => i.name);
        throw new CliError(
          1,
          `${checkpoint.name} has ${name}: ${found}, and ${plan.name} has no such input; it has ${names.join(", ") || "none"}`,
        );
      }
      if (into.has(name)) throw usageError(`${name} is the photo's already: --input has it too`);
      const dtype = dtypeOf(stored.dtype);
      if (dtype !== declared.dtype)
        throw new InputError(`${checkpoint.name}: ${name} is ${found}; ${plan.name} takes ${typeText(declared.dtype, declared.shape)}`);
      const bytes = new Uint8Array(elementCount(stored.shape) * bytesOf(dtype));
      await stored.read(0, bytes);
      into.set(name, tensorFromBytes(dtype, stored.shape, bytes));
    }
  } finally {
    await checkpoint.close();
  }
}

/** Of safetensors' name for it; undefined for one that the language has not. */
function dtypeOf(name: string): DType | undefined {
  const lower = name.toLowerCase();
  return Object.hasOwn(arrays, lower) ? (lower as DType) : undefined;
}

/** Sizes that the shapes of tensors tell. */
function knownSizes(plan: Plan, tensors: ReadonlyMap<string, Tensor>): Readonly<Record<string, number>> {
  const symbols = new Set(plan.symbols.map((s) => s.name));
  const known: Record<string, number> = {};
  for (const { name, buffer } of plan.inputs) {
    for (const [axis, text] of (plan.buffers[buffer]?.shape ?? []).entries()) {
      const size = tensors.get(name)?.shape[axis];
      if (symbols.has(text) && size !== undefined) known[text] ??= size;
    }
  }
  return known;
}

/** Standard normal numbers, bytes of every value. */
function randomTensor(name: string, dtype: DType, shape: readonly number[], seed: number): Tensor {
  const count = elementCount(shape);
  const bytes = new Uint8Array(count * bytesOf(dtype));
  switch (dtype) {
    case "f32":
    case "f16":
    case "bf16":
      seededBytes(seed, `input ${name}`, { kind: "normal", std: 1 }, dtype, 0, bytes);
      break;
    case "u8": {
      const random = randomStream(seed, `input ${name}`);
      for (let i = 0; i < count; i++) bytes[i] = random.below(256);
      break;
    }
    case "bool":
    case "i8":
    case "i32":
      // What would be an index out of its range, or a length that fits nothing, is not made up.
      throw new CliError(1, `${name}: ${typeText(dtype, shape)} is not made from a seed: give it with --input FILE`);
    default:
      return dtype satisfies never;
  }
  return tensorFromBytes(dtype, shape, bytes);
}

/** The one input that can hold a photo. */
function photoInput(plan: Plan): { readonly name: string; readonly channels: number } {
  const found = plan.inputs.flatMap(({ name, buffer: id }) => {
    const { dtype, shape = [] } = plan.buffers[id] ?? {};
    const channels = Number(shape[2]);
    return dtype === "u8" && shape.length === 3 && [3, 4].includes(channels) ? [{ name, channels }] : [];
  });
  const [only, ...others] = found;
  if (only !== undefined && others.length === 0) return only;
  const all = plan.inputs.map((i) => typed(plan, i));
  const instead = takesText(plan) ? "ask a language model with --prompt" : "give tensors with --input FILE";
  throw new CliError(
    1,
    `--image fills an input u8[height, width, 3 or 4], and ${plan.name} has ${all.join(", ") || "no input"}; ${instead}`,
  );
}
