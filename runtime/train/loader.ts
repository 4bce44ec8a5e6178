// Batches of samples in the order of the training, made ahead of their turn: while the device computes, the next
// records are read and tokenised, and their pictures decoded (sharp does that on threads of its own). What cannot be
// used is left out with a report, or stops the training. Does not know the graph's inputs.

import { messageOf, UhdError } from "../errors.ts";
import { decodeImage } from "../images/decode.ts";
import type { Tensor } from "../tensor.ts";
import { TrainingDataError } from "./errors.ts";
import { epochOrder } from "./order.ts";
import { picturePath, type BadRecord, type RecordFile } from "./records.ts";
import { textSample, type SampleOptions, type TextSample } from "./sample.ts";

/** Patches of the pictures that an image becomes. */
export interface CutImage {
  readonly width: number;
  readonly height: number;
  /** u8[patches, 3, p, p] */
  readonly patches: Tensor<"u8">;
}

export interface Sample extends TextSample {
  /** Undefined when the record has no picture. */
  readonly picture: CutImage | undefined;
}

export interface Batch {
  /** At most `runs` times `perRun`, those of a run next to each other. */
  readonly samples: readonly Sample[];
  /** Records of the order that were taken before and in this batch, bad ones too: where to go on. */
  readonly position: number;
  /** Records left out since the batch before. */
  readonly skipped: readonly BadRecord[];
}

export interface LoaderOptions extends SampleOptions {
  readonly images?: string | undefined;
  /** Cuts u8[height, width, 3] into patches. Throws a UhdError for an image that it does not take. */
  readonly cut: (image: Tensor<"u8">) => Promise<Tensor<"u8">>;
  readonly seed: number;
  /** Samples of one run of the graph. */
  readonly perRun: number;
  /** Runs of a batch, which is one step. */
  readonly runs: number;
  readonly onBad: "skip" | "stop";
  /** Batches made ahead. Default 2. */
  readonly ahead?: number | undefined;
}

/** Steps that the records make in one epoch when none is left out. */
export function stepsAnEpoch(records: RecordFile, batch: number): number {
  return Math.ceil(records.lengths.length / batch);
}

export class Loader {
  readonly #records: RecordFile;
  readonly #options: LoaderOptions;
  readonly #size: number;
  #position: number;
  #order: { readonly epoch: number; readonly list: readonly number[] } | undefined;
  readonly #queue: Promise<Batch>[] = [];

  /** Goes on at `position`, as a batch before had it. */
  constructor(records: RecordFile, options: LoaderOptions, position = 0) {
    this.#records = records;
    this.#options = options;
    this.#size = options.perRun * options.runs;
    this.#position = position;
  }

  /** The next batch; epochs follow each other without end. Throws TrainingDataError at a bad record when those stop it, or when no record is good. */
  async next(): Promise<Batch> {
    this.#fill();
    const batch = await this.#queue.shift();
    this.#fill();
    if (batch === undefined) throw new TrainingDataError(`${this.#records.name} has no record that can be trained on`);
    return batch;
  }

  #fill(): void {
    const last = this.#queue.at(-1);
    const tail = last === undefined ? Promise.resolve() : last.then(() => undefined);
    for (let before = tail, n = this.#queue.length; n < (this.#options.ahead ?? 2); n++) {
      const made = before.then(() => this.#batch());
      // A failure is told when its turn comes.
      made.catch(() => undefined);
      before = made.then(() => undefined);
      before.catch(() => undefined);
      this.#queue.push(made);
    }
  }

  /** A batch does not go over the end of an epoch: the rest of one is a smaller batch, as in the reference. */
  async #batch(): Promise<Batch> {
    const each = this.#records.lengths.length;
    const samples: Sample[] = [];
    const skipped: BadRecord[] = [];
    let failed = 0;
    while (samples.length < this.#size) {
      if (each === 0 || failed >= each) throw new TrainingDataError(`${this.#records.name} has no record that can be trained on`);
      if (samples.length > 0 && this.#position % each === 0) break;
      const left = each - (this.#position % each);
      const take = Math.min(this.#size - samples.length, left);
      const places = Array.from({ length: take }, (_, i) => this.#place(this.#position + i));
      this.#position += take;
      for (const made of await Promise.all(places.map((place) => this.#sample(place)))) {
        if ("reason" in made) {
          skipped.push(made);
          failed++;
        } else samples.push(made);
      }
    }
    return { samples, position: this.#position, skipped };
  }

  #place(position: number): number {
    const { lengths } = this.#records;
    const epoch = Math.floor(position / lengths.length);
    if (this.#order?.epoch !== epoch)
      this.#order = {
        epoch,
        list: epochOrder(lengths, epoch, { seed: this.#options.seed, batch: this.#options.perRun, shards: this.#options.runs }),
      };
    return this.#order.list[position % lengths.length] ?? 0;
  }

  async #sample(place: number): Promise<Sample | BadRecord> {
    const record = await this.#records.read(place);
    try {
      const text = textSample(record.messages, this.#options);
      if (record.image === undefined) return { ...text, picture: undefined };
      const file = picturePath(record.image, this.#options.images ?? ".");
      const { dtype, shape, data, width, height } = await decodeImage(file ?? record.image);
      return { ...text, picture: { width, height, patches: await this.#options.cut({ dtype, shape, data }) } };
    } catch (cause) {
      // A defect of ours is no bad record.
      if (!(cause instanceof UhdError)) throw cause;
      const bad = this.#records.problem(place, record.id, messageOf(cause));
      if (this.#options.onBad === "stop") throw new TrainingDataError(`${bad.place}: ${bad.reason}`, { cause });
      return bad;
    }
  }
}
