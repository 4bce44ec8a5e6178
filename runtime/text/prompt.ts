// From a prompt with "<image>" in it to positions of the language model's input: text ids, a placeholder for each picture,
// and then the picture's visual sequence in the place of its placeholder. Does not embed anything.

import { TextError } from "../errors.ts";
import { imageToken } from "./chat.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Stands for a picture among ids; no token has it. */
export const imagePlaceholder = -200;

/**
 * Each piece between the "<image>"s is tokenised by itself, as the reference does it, and one BOS is kept, also where the
 * text begins with one. Throws TextError when `images` is not the number of image tokens.
 */
export function encodePrompt(tokenizer: Pick<Tokenizer, "encode" | "prefix" | "suffix" | "bos">, prompt: string, images: number): number[] {
  const pieces = prompt.split(imageToken);
  checkImages(pieces.length - 1, images);
  const ids = pieces.flatMap((piece, i) => {
    const inner = piece === "" ? [] : tokenizer.encode(piece, { specials: false });
    return i === 0 ? inner : [imagePlaceholder, ...inner];
  });
  const { prefix, suffix, bos } = tokenizer;
  const begun = bos !== undefined && ids[0] === bos && prefix.at(-1) === bos;
  return [...(begun ? prefix.slice(0, -1) : prefix), ...ids, ...suffix];
}

function checkImages(tokens: number, images: number): void {
  const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`;
  if (tokens === images) return;
  const more = tokens > images ? "an image token without an image" : "an image without an image token";
  throw new TextError(
    `${more}: the prompt has ${count(tokens, "image token")} and there ${images === 1 ? "is" : "are"} ${count(images, "image")}`,
  );
}

/** A run of positions that have one source. Positions count from 0 over the whole sequence. */
export type Span =
  | { readonly kind: "text"; readonly start: number; readonly ids: readonly number[] }
  /** The first `length` rows of the visual sequence of picture `image`. */
  | { readonly kind: "image"; readonly start: number; readonly image: number; readonly length: number };

export interface SequenceLayout {
  readonly length: number;
  /** What the length would be without a maximum. */
  readonly fullLength: number;
  /** In order, without gaps. None is empty. */
  readonly spans: readonly Span[];
}

export interface LayoutOptions {
  /** Positions at most; default no limit. */
  readonly maximum?: number | undefined;
  /** What becomes of more: "error" (default), or "truncate", which drops the end, as training does. */
  readonly overflow?: "error" | "truncate" | undefined;
}

/**
 * Where each id and each row of the visual sequences lies. `rows[i]` is the length of picture i's visual sequence. Throws
 * TextError when placeholders and pictures differ in number, and for a sequence over the maximum.
 */
export function layOut(ids: readonly number[], rows: readonly number[], options: LayoutOptions = {}): SequenceLayout {
  const { maximum = Infinity, overflow = "error" } = options;
  checkImages(ids.filter((id) => id === imagePlaceholder).length, rows.length);
  rows.forEach((length, i) => {
    if (!Number.isInteger(length) || length < 1) throw new TextError(`the visual sequence of image ${i} has the length ${length}`);
  });
  const whole = spansOf(ids, rows);
  const fullLength = ids.length - rows.length + rows.reduce((sum, length) => sum + length, 0);
  if (fullLength > maximum && overflow === "error")
    throw new TextError(`the prompt takes ${fullLength} positions, and the model has ${maximum}`);
  return { length: Math.min(fullLength, maximum), fullLength, spans: whole.flatMap((span) => upTo(span, maximum)) };
}

function spansOf(ids: readonly number[], rows: readonly number[]): readonly Span[] {
  const spans: Span[] = [];
  let start = 0;
  let image = 0;
  let from = 0;
  const text = (to: number): void => {
    if (to > from) spans.push({ kind: "text", start, ids: ids.slice(from, to) });
    start += to - from;
    from = to + 1;
  };
  ids.forEach((id, at) => {
    if (id !== imagePlaceholder) return;
    text(at);
    const length = rows[image] ?? 0;
    spans.push({ kind: "image", start, image, length });
    start += length;
    image++;
  });
  text(ids.length);
  return spans;
}

/** What of a span lies before `maximum`. */
function upTo(span: Span, maximum: number): readonly Span[] {
  const room = maximum - span.start;
  if (room <= 0) return [];
  return span.kind === "text" ? [{ ...span, ids: span.ids.slice(0, room) }] : [{ ...span, length: Math.min(span.length, room) }];
}

/**
 * A layout as tables: for each position its token (`imagePlaceholder` where a picture is), and its row in the visual
 * sequences of all pictures, laid one after the other whole (−1 where text is).
 */
export function layoutTables(layout: SequenceLayout, rows: readonly number[]): { readonly ids: Int32Array; readonly visual: Int32Array } {
  const ids = new Int32Array(layout.length).fill(imagePlaceholder);
  const visual = new Int32Array(layout.length).fill(-1);
  const begins = rows.map((_, i) => rows.slice(0, i).reduce((sum, length) => sum + length, 0));
  for (const span of layout.spans) {
    if (span.kind === "text") ids.set(span.ids, span.start);
    else for (let row = 0; row < span.length; row++) visual[span.start + row] = (begins[span.image] ?? 0) + row;
  }
  return { ids, visual };
}
