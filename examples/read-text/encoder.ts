// Trains UHD-tiny's visual encoder, and its resampler, on native pictures cut out of the training split's scenes: which letters
// and which colour each patch shows (encoder.uhd). Every patch teaches something, so that minutes do what questions would take
// days for. Asks no questions; the parameters it leaves are where the training of the whole model begins.

import { readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import sharp from "sharp";
import { loadProgram } from "../../compiler/check/index.ts";
import { compileTraining } from "../../compiler/train/index.ts";
import { checkSettings, latestCheckpoint, writeTrainingCheckpoint } from "../../runtime/train/checkpoint.ts";
import { ignored } from "../../runtime/train/sample.ts";
import { randomStream } from "../../runtime/train/random.ts";
import { Trainer } from "../../runtime/train/trainer.ts";
import { writeSafetensors } from "../../runtime/weights/safetensors.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import { letters } from "./glyphs.ts";
import { colours, makeScene, native, renderScene, type Scene } from "./scene.ts";

export interface EncoderOptions {
  readonly config: Readonly<Record<string, string>>;
  /** Parameters to begin with; what it lacks is made from the seed. */
  readonly from?: string | undefined;
  readonly seed: number;
  readonly steps: number;
  /** Scenes of a step; each gives eight pictures. */
  readonly scenes: number;
  readonly threads?: number | undefined;
  /** A folder: checkpoints, and model.safetensors when the last step is done. A training that is there is gone on with. */
  readonly out: string;
  /** Saves what is done and ends: `trainEncoder` then gives undefined. */
  readonly signal?: AbortSignal | undefined;
  readonly onStep?: (step: number, figures: EncoderFigures) => void;
}

/** Of a step's patches that show a letter: the share of which it was found, and the colour. */
export interface EncoderFigures {
  readonly loss: number;
  readonly letters: number;
  readonly colours: number;
}

const patch = 14;
const side = native / patch;
/** Pictures cut out of one scene. */
const cuts = 8;

export interface Cut {
  /** RGB, native × native. */
  readonly pixels: Uint8Array;
  /** Of each patch, row by row. */
  readonly left: Int32Array;
  readonly right: Int32Array;
  readonly colour: Int32Array;
}

/** Steps between checkpoints. */
const every = 250;

/** The file with the parameters that are to be used; undefined when it was told to stop before the last step. */
export async function trainEncoder(options: EncoderOptions): Promise<string | undefined> {
  const { seed, scenes, steps, out, from } = options;
  const file = "examples/read-text/encoder.uhd";
  const program = loadProgram(file, { readText: (f) => readFileSync(f, "utf8"), config: options.config });
  const [problem] = program.diagnostics;
  if (problem !== undefined) throw new Error(`${file}: ${problem.message}`);
  await mkdir(out, { recursive: true });
  await using trainer = await Trainer.create(compileTraining(program), { init: { seed }, weights: from, steps, threads: options.threads });
  const settings = { config: JSON.stringify(options.config), seed: String(seed), scenes: String(scenes), steps: String(steps) };
  const { found, damaged } = await latestCheckpoint(out);
  if (found === undefined && damaged.length > 0) throw new Error(`no checkpoint of ${out} can be used: ${damaged.join("; ")}`);
  if (found !== undefined) {
    checkSettings(found, settings);
    await trainer.restore(found.tensors);
  }
  let saved = trainer.stepsDone;
  const save = async (): Promise<void> => {
    const step = trainer.stepsDone;
    if (step > saved) await writeTrainingCheckpoint(out, { step, position: step * scenes, skipped: 0, settings }, await trainer.tensors());
    saved = step;
  };
  let next = picturesOf(seed, trainer.stepsDone, scenes);
  while (trainer.stepsDone < steps) {
    if (options.signal?.aborted === true) {
      await Promise.all([next, save()]);
      return undefined;
    }
    const now = await next;
    next = picturesOf(seed, trainer.stepsDone + 1, scenes);
    const result = await trainer.step({
      pictures: { dtype: "u8", shape: [now.length, native, native, 3], data: joined(pixelsOf(now), Uint8Array) },
      left: labels(now, "left"),
      right: labels(now, "right"),
      colour: labels(now, "colour"),
    });
    options.onStep?.(result.step, { loss: result.loss, ...shares(now, result.outputs) });
    if (result.step % every === 0) await save();
  }
  await next;
  const used = (name: string): boolean => name.startsWith("vision_model.") || name.startsWith("model.");
  const encoder = new Map<string, Tensor>([...(await trainer.tensors())].filter(([name]) => used(name)));
  const model = path.join(out, "model.safetensors");
  await writeSafetensors(model, encoder, { graph: "encode" });
  return model;
}

const pixelsOf = (cut: readonly Cut[]): readonly Uint8Array[] => cut.map((c) => c.pixels);

function labels(cut: readonly Cut[], name: "left" | "right" | "colour"): Tensor<"i32"> {
  const parts = cut.map((c) => c[name]);
  return { dtype: "i32", shape: [cut.length * side * side], data: joined(parts, Int32Array) };
}

function joined<A extends Uint8Array | Int32Array>(parts: readonly A[], of: new (n: number) => A): A {
  const all = new of(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    all.set(p, at);
    at += p.length;
  }
  return all;
}

function shares(cut: readonly Cut[], outputs: Readonly<Record<string, Tensor>>): Omit<EncoderFigures, "loss"> {
  const count = (names: readonly ["left" | "right" | "colour", none: number][]): number => {
    let [right, all] = [0, 0];
    for (const [name, none] of names) {
      const found = outputs[`${name}_found`]?.data ?? [];
      for (const [i, c] of cut.entries())
        for (const [j, wanted] of c[name].entries()) {
          if (wanted === none || wanted === ignored) continue;
          all++;
          if (found[i * side * side + j] === wanted) right++;
        }
    }
    return all === 0 ? 1 : right / all;
  };
  const none = letters.length;
  return {
    letters: count([
      ["left", none],
      ["right", none],
    ]),
    colours: count([["colour", Object.keys(colours).length]]),
  };
}

/** Those of one step: of crowded scenes with strings of the training split, the same whenever they are asked for. */
export async function picturesOf(seed: number, step: number, scenes: number): Promise<readonly Cut[]> {
  const numbers = Array.from({ length: scenes }, (_, i) => step * scenes + i);
  return (await Promise.all(numbers.map((index) => cutScene(seed, index)))).flat();
}

async function cutScene(seed: number, index: number): Promise<readonly Cut[]> {
  const scene = makeScene("train", 1_000 + seed, index, "crowded");
  const random = randomStream(seed, `cuts/${index}`);
  const places = Array.from({ length: cuts }, () => {
    // Most of them around a text: what shows none teaches little.
    const text = random.below(8) === 0 ? undefined : scene.texts[random.below(Math.max(1, scene.texts.length))];
    const near = (middle: number): number => Math.round(middle - native / 2 + (random.next() / 2 ** 32 - 0.5) * (native - 16));
    return text === undefined
      ? { x: random.below(scene.width) - native / 2, y: random.below(scene.height) - native / 2 }
      : { x: near(text.x + text.width / 2), y: near(text.y + text.height / 2) };
  });
  const { data, info } = await sharp(Buffer.from(await renderScene(scene)))
    .removeAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  return places.map(({ x, y }) => {
    const cut = cutAt(scene, data, info.width, info.height, x, y);
    // Of what shows no letter some is enough: else nothing but its frequency is learnt for a long time.
    for (let i = 0; i < side * side; i++)
      if (cut.left[i] === letters.length && cut.right[i] === letters.length && random.below(8) > 0)
        cut.left[i] = cut.right[i] = cut.colour[i] = ignored;
    return cut;
  });
}

/** Beyond the scene's edge the picture is grey. */
export function cutAt(scene: Scene, data: Uint8Array, width: number, height: number, x: number, y: number): Cut {
  const pixels = new Uint8Array(native * native * 3).fill(128);
  for (let row = Math.max(0, -y); row < Math.min(native, height - y); row++) {
    const [from, to] = [Math.max(0, -x), Math.min(native, width - x)];
    if (from < to)
      pixels.set(data.subarray(3 * ((y + row) * width + x + from), 3 * ((y + row) * width + x + to)), 3 * (row * native + from));
  }
  const filled = (value: number): Int32Array => new Int32Array(side * side).fill(value);
  const names = Object.keys(colours);
  const cut = { pixels, left: filled(letters.length), right: filled(letters.length), colour: filled(names.length) };
  for (const text of scene.texts)
    for (const [i, [cx, cy]] of text.centres.entries()) {
      const [column, row] = [(text.x + cx - x) / patch, (text.y + cy - y) / patch];
      if (column < 0 || row < 0 || column >= side || row >= side) continue;
      const at = Math.floor(row) * side + Math.floor(column);
      (column % 1 < 0.5 ? cut.left : cut.right)[at] = letters.indexOf(text.text[i] ?? "");
      cut.colour[at] = names.indexOf(text.colour);
    }
  return cut;
}
