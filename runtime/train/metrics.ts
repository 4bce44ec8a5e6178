// What a training tells of its steps: one JSON object a line. A training that goes on from a checkpoint takes back the
// lines of the steps that it does again. Node only.

import { appendFile, readFile, rename, writeFile } from "node:fs/promises";
import { messageOf } from "../errors.ts";
import { isRecord } from "../json.ts";
import { TrainingDataError } from "./errors.ts";

export interface StepMetrics {
  readonly step: number;
  readonly epoch: number;
  readonly loss: number;
  /** Null in a step that was skipped because its gradients were not finite. */
  readonly gradientNorm: number | null;
  /** The factor of the loss, where it is scaled. */
  readonly lossScale?: number;
  readonly learningRate: number;
  readonly samples: number;
  /** Of text, the supervised ones among them. */
  readonly tokens: number;
  readonly supervised: number;
  readonly milliseconds: number;
}

export class MetricsFile {
  readonly file: string;
  readonly #lines: StepMetrics[];

  private constructor(file: string, lines: readonly StepMetrics[]) {
    this.file = file;
    this.#lines = [...lines];
  }

  /** Keeps the lines of steps 1…`step` that are in the file; the rest goes. */
  static async open(file: string, step: number): Promise<MetricsFile> {
    const text = step === 0 ? "" : await readFile(file, "utf8").catch(() => "");
    const kept = text.split("\n").flatMap((line) => {
      const metrics = parseLine(line);
      return metrics !== undefined && metrics.step <= step ? [metrics] : [];
    });
    const temporary = `${file}.${process.pid}.tmp`;
    try {
      await writeFile(temporary, kept.map((m) => `${JSON.stringify(m)}\n`).join(""));
      await rename(temporary, file);
    } catch (cause) {
      throw new TrainingDataError(`${file} cannot be written: ${messageOf(cause)}`, { cause });
    }
    return new MetricsFile(file, kept);
  }

  /** Of all steps so far. */
  get steps(): readonly StepMetrics[] {
    return this.#lines;
  }

  async add(metrics: StepMetrics): Promise<void> {
    this.#lines.push(metrics);
    try {
      await appendFile(this.file, `${JSON.stringify(metrics)}\n`);
    } catch (cause) {
      throw new TrainingDataError(`${this.file} cannot be written: ${messageOf(cause)}`, { cause });
    }
  }
}

/** Undefined for what is no such line: the last one of a process that was killed may be cut. */
function parseLine(line: string): StepMetrics | undefined {
  try {
    const json: unknown = JSON.parse(line);
    return isRecord(json) && typeof json.step === "number" && typeof json.loss === "number" ? (json as unknown as StepMetrics) : undefined;
  } catch {
    return undefined;
  }
}
