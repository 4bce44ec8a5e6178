// Asks a trained model every question of a split and compares its answers, letter by letter, with what is right; and how
// sure the share of right answers is. Trains nothing.

import { readFileSync } from "node:fs";
import path from "node:path";
import { randomStream } from "../../runtime/train/random.ts";
import type { TestItem } from "./dataset.ts";
import { Reader } from "./reader.ts";

export interface Answered extends TestItem {
  readonly given: string;
  readonly right: boolean;
}

export interface EvaluateOptions {
  /** The .uhd file. */
  readonly graph: string;
  readonly config: Readonly<Record<string, string>>;
  /** The trained parameters. */
  readonly model: string;
  /** Of the data: questions, images, tokenizer. */
  readonly folder: string;
  readonly split: string;
  readonly onAnswer?: (done: number, of: number) => void;
}

export async function evaluate({ graph, config, model, folder, split, onAnswer }: EvaluateOptions): Promise<readonly Answered[]> {
  const items = JSON.parse(readFileSync(path.join(folder, `${split}.questions.json`), "utf8")) as readonly TestItem[];
  await using reader = await Reader.open({ graph, config, model, tokenizer: path.join(folder, "tokenizer") });
  const answered: Answered[] = [];
  for (const item of items) {
    const given = await reader.answer(path.join(folder, "images", item.image), item.question);
    answered.push({ ...item, given, right: given === item.answer });
    onAnswer?.(answered.length, items.length);
  }
  return answered;
}

export interface Score {
  readonly questions: number;
  /** Share of right answers, and the bounds of its 95% interval. */
  readonly share: number;
  readonly low: number;
  readonly high: number;
}

/** The interval is of the bootstrap over pictures: the questions about one picture are not independent. */
export function score(answered: readonly Answered[], resamples = 1000): Score {
  const byImage = new Map<string, { right: number; all: number }>();
  for (const { image, right } of answered) {
    const sum = byImage.get(image) ?? { right: 0, all: 0 };
    byImage.set(image, { right: sum.right + (right ? 1 : 0), all: sum.all + 1 });
  }
  const pictures = [...byImage.values()];
  const shareOf = (list: readonly { readonly right: number; readonly all: number }[]): number => {
    const all = list.reduce((n, p) => n + p.all, 0);
    return all === 0 ? 0 : list.reduce((n, p) => n + p.right, 0) / all;
  };
  const random = randomStream(1, "bootstrap");
  const shares = Array.from({ length: pictures.length === 0 ? 0 : resamples }, () =>
    shareOf(pictures.map(() => pictures[random.below(pictures.length)] ?? { right: 0, all: 0 })),
  ).sort((a, b) => a - b);
  const bound = (share: number): number => shares[Math.round(share * (shares.length - 1))] ?? 0;
  return { questions: answered.length, share: shareOf(pictures), low: bound(0.025), high: bound(0.975) };
}

/** Below this many pixels a capital cannot be read. */
export const illegible = 5;

/** Scores of what the questions are about; "small" is text that is illegible once the image is shrunk to a native picture. */
export function scores(answered: readonly Answered[]): Readonly<Record<string, Score>> {
  const small = answered.filter((a) => a.about === "read" && (a.native ?? Infinity) < illegible);
  const kinds = [...new Set(answered.map((a) => a.about))].sort();
  return {
    all: score(answered),
    ...Object.fromEntries(kinds.map((kind) => [kind, score(answered.filter((a) => a.about === kind))])),
    small: score(small),
  };
}
