// The largest batches that a training can meet, before its first step: of records with the most patches, with the most
// tokens, and with the most of both, taken as if one batch could draw them together. Pictures' headers are read, their
// pixels are not. Records that cannot be used are passed over: the training tells them when their turn comes.

import { dimEval, dimParse } from "../ir/dim.ts";
import { bindPlan } from "../ir/plan/bind.ts";
import type { Plan } from "../ir/plan/types.ts";
import type { RunSizes } from "../train/budget.ts";
import { loadSharp } from "../../runtime/images/decode.ts";
import { picturePath, type RecordFile } from "../../runtime/train/records.ts";
import { textSample, type SampleOptions } from "../../runtime/train/sample.ts";
import { CliError } from "./errors.ts";

/** What of a sample decides the sizes of its batch. */
interface SampleSize {
  readonly tokens: number;
  /** Before which token its picture stands. */
  readonly at: number;
  readonly picture: readonly [width: number, height: number] | undefined;
  readonly patches: number;
}

export interface SizesOptions extends SampleOptions {
  readonly images?: string | undefined;
  /** Samples of one run. */
  readonly perRun: number;
  /** The plan that cuts images: its patches are counted by its shape code. */
  readonly cutter: Plan;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Records whose headers are read at once. */
const together = 16;

/** Throws CliError when no record tells a size. */
export async function largestBatches(records: RecordFile, options: SizesOptions): Promise<readonly RunSizes[]> {
  const found: SampleSize[] = [];
  const total = records.lengths.length;
  for (let from = 0; from < total; from += together) {
    const places = Array.from({ length: Math.min(together, total - from) }, (_, i) => from + i);
    for (const size of await Promise.all(places.map((place) => sizeOf(records, place, options)))) if (size !== undefined) found.push(size);
    options.onProgress?.(Math.min(total, from + together), total);
  }
  if (found.length === 0) throw new CliError(1, `${records.name} has no record whose size can be told: give sizes with --size`);
  const mean = (of: (s: SampleSize) => number): number => Math.max(1, found.reduce((sum, s) => sum + of(s), 0) / found.length);
  const [patches, tokens] = [mean((s) => s.patches), mean((s) => s.tokens)];
  const orders: readonly ((s: SampleSize) => number)[] = [
    (s) => s.patches / patches + s.tokens / tokens,
    (s) => s.patches + s.tokens / (1e3 * tokens),
    (s) => s.tokens + s.patches / (1e3 * patches),
  ];
  const batches = orders.map((order) => batchOf(found.toSorted((a, b) => order(b) - order(a)).slice(0, options.perRun), options.cutter));
  return [...new Map(batches.map((b) => [JSON.stringify(b), b])).values()];
}

async function sizeOf(records: RecordFile, place: number, options: SizesOptions): Promise<SampleSize | undefined> {
  try {
    const { messages, image } = await records.read(place);
    const { ids, at } = textSample(messages, options);
    if (image === undefined) return { tokens: ids.length, at, picture: undefined, patches: 0 };
    const { width, height } = await headerOf(picturePath(image, options.images ?? ".") ?? image);
    return { tokens: ids.length, at, picture: [width, height], patches: patchesOf(options.cutter, width, height) };
  } catch {
    // What is wrong with the record is said when its turn comes.
    return undefined;
  }
}

/** Width and height as they are after the picture is turned upright. */
async function headerOf(file: string): Promise<{ readonly width: number; readonly height: number }> {
  const sharp = await loadSharp();
  const { autoOrient } = await sharp(file, { limitInputPixels: false, pages: 1 }).metadata();
  return autoOrient;
}

function patchesOf(cutter: Plan, width: number, height: number): number {
  const [input, output] = [cutter.inputs[0], cutter.outputs[0]];
  const { env } = bindPlan(cutter, { [input?.name ?? "image"]: [height, width, 3] });
  const shape = cutter.buffers[output?.buffer ?? -1]?.shape ?? [];
  return dimEval(dimParse(shape[0] ?? "0"), env);
}

function batchOf(samples: readonly SampleSize[], cutter: Plan): RunSizes {
  const patch = cutter.buffers[cutter.outputs[0]?.buffer ?? -1]?.shape.slice(1).map(Number) ?? [];
  const tokens = samples.reduce((sum, s) => sum + s.tokens, 0);
  const patches = samples.reduce((sum, s) => sum + s.patches, 0);
  return {
    shapes: { patches: [patches, ...patch], ids: [tokens], labels: [tokens] },
    given: {
      images: samples.flatMap((s) => (s.picture === undefined ? [] : [[...s.picture]])),
      samples: samples.map((s) => ({ tokens: s.tokens, images: s.picture === undefined ? [] : [s.at] })),
    },
  };
}
