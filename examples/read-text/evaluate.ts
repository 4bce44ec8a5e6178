// Asks a trained model every question of a split and compares its answers, letter by letter, with what is right; and how
// sure the share of right answers is. Greedy decoding through the graph's cache. Trains nothing.

import { readFileSync } from "node:fs";
import path from "node:path";
import { loadProgram } from "../../compiler/check/index.ts";
import { compileGraph } from "../../compiler/compile.ts";
import { decodeImage } from "../../runtime/images/decode.ts";
import { Session } from "../../runtime/session.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import { templateOf } from "../../runtime/text/chat.ts";
import { encodePrompt, imagePlaceholder } from "../../runtime/text/prompt.ts";
import { loadTokenizer, type Tokenizer } from "../../runtime/text/tokenizer.ts";
import { randomStream } from "../../runtime/train/random.ts";
import type { TestItem } from "./dataset.ts";

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

/** Most letters of an answer. */
const longest = 16;
const none: Tensor<"u8"> = { dtype: "u8", shape: [0, 0, 3], data: new Uint8Array(0) };

export async function evaluate(options: EvaluateOptions): Promise<readonly Answered[]> {
  const program = loadProgram(options.graph, { readText: (file) => readFileSync(file, "utf8"), config: options.config });
  const graph = program.graphs.get("uhd_tiny");
  if (graph === undefined) throw new Error(`${options.graph} has no graph uhd_tiny: ${program.diagnostics[0]?.message ?? ""}`);
  const tokenizer = await loadTokenizer(path.join(options.folder, "tokenizer"));
  const template = await templateOf(tokenizer);
  if (template === undefined) throw new Error("the tokenizer has no chat template");
  const items = JSON.parse(readFileSync(path.join(options.folder, `${options.split}.questions.json`), "utf8")) as readonly TestItem[];
  await using session = await Session.create(compileGraph(graph), { weights: options.model });
  const answered: Answered[] = [];
  for (const item of items) {
    const { dtype, shape, data } = await decodeImage(path.join(options.folder, "images", item.image));
    const prompt = template.render([{ role: "user", content: `<image>\n${item.question}` }], { open: true });
    const given = await answer(session, tokenizer, { dtype, shape, data }, prompt);
    answered.push({ ...item, given, right: given === item.answer });
    options.onAnswer?.(answered.length, items.length);
  }
  return answered;
}

async function answer(session: Session, tokenizer: Tokenizer, image: Tensor<"u8">, prompt: string): Promise<string> {
  const all = encodePrompt(tokenizer, prompt, 1);
  const at = all.indexOf(imagePlaceholder);
  let ids = all.filter((id) => id !== imagePlaceholder);
  let [past, picture] = [0, image];
  const letters: number[] = [];
  while (letters.length < longest) {
    const input = { dtype: "i32", shape: [ids.length], data: Int32Array.from(ids) } as const;
    const { outputs, sizes } = await session.run({ image: picture, ids: input, at: past === 0 ? at : 0, past });
    const next = outputs.next?.data[0] ?? 0;
    if (next === tokenizer.eos) break;
    letters.push(next);
    past += ids.length + (past === 0 ? (sizes["S"] ?? 0) : 0);
    [ids, picture] = [[next], none];
  }
  return tokenizer.decode(letters);
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
