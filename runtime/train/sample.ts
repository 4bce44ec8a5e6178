// From a conversation to what a run of a training graph is given: ids, and labels that are -100 wherever nothing is to be
// learnt. What is learnt are the assistant's answers with what ends them (vicuna_v1: "</s>"; plain: the caption and its
// newline). Works with any template and tokenizer: an answer's tokens are those between two beginnings of the text.
//
// Note [Where an answer is]
//   The text of the conversation up to an answer, and up to its end, are beginnings of the whole text. Their ids must be
//   beginnings of the whole's ids. Where they are not (a tokenizer that merges across the boundary), the place of the
//   answer is not known, and nothing of the sample is learnt, as in the reference.

import { TextError } from "../errors.ts";
import { imageToken, type ChatTemplate, type Message } from "../text/chat.ts";
import { encodePrompt, imagePlaceholder } from "../text/prompt.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** A position of which nothing is learnt. */
export const ignored = -100;

export interface TextSample {
  /** Tokens alone. */
  readonly ids: Int32Array;
  /** For each of `ids` itself (not the one after it): the id, or `ignored`. */
  readonly labels: Int32Array;
  /** How many of `ids` come before the picture; 0 when there is none. */
  readonly at: number;
  /** Labels that are not ignored. */
  readonly supervised: number;
}

export interface SampleOptions {
  readonly template: ChatTemplate;
  readonly tokenizer: Pick<Tokenizer, "encode" | "prefix" | "suffix" | "bos">;
  /** Most tokens; the rest is cut off. */
  readonly maximum: number;
}

/** Throws TextError when the template refuses the conversation, the picture is cut off, or nothing is left to learn. */
export function textSample(messages: readonly Message[], { template, tokenizer, maximum }: SampleOptions): TextSample {
  const whole = template.render(messages, { open: false });
  const images = whole.split(imageToken).length - 1;
  if (images > 1) throw new TextError(`the conversation shows ${images} pictures; one is the most`);
  const encode = (text: string): readonly number[] =>
    // What ends a text stands behind the whole only.
    encodePrompt({ ...withoutSuffix(tokenizer) }, text, text.split(imageToken).length - 1);
  const all = encode(whole);
  const learnt = new Uint8Array(all.length);
  for (const [i, { role }] of messages.entries()) {
    if (role !== "assistant") continue;
    const from = startOf(all, whole, template.render(messages.slice(0, i), { open: true }), encode);
    const to = startOf(all, whole, template.render(messages.slice(0, i + 1), { open: false }), encode);
    if (from === undefined || to === undefined)
      throw new TextError(`the tokens of answer ${(i - 1) / 2} cannot be told from those around it: nothing of it can be learnt`);
    learnt.fill(1, from, to);
  }
  const picture = all.indexOf(imagePlaceholder);
  if (picture > maximum) throw new TextError(`the picture stands behind ${picture} tokens, and ${maximum} are the most`);
  const kept = all.map((id, i) => ({ id, learnt: learnt[i] === 1 })).filter(({ id }) => id !== imagePlaceholder);
  const cut = kept.slice(0, maximum);
  const ids = Int32Array.from(cut, ({ id }) => id);
  // Nothing comes before the first token, so that it cannot be learnt, unless a picture does.
  const labels = Int32Array.from(cut, (token, i) => (token.learnt && (i > 0 || picture === 0) ? token.id : ignored));
  const supervised = labels.filter((label) => label !== ignored).length;
  if (supervised === 0)
    throw new TextError(kept.length > maximum ? `no answer begins within ${maximum} tokens` : "the conversation has no answer to learn");
  return { ids, labels, at: Math.max(0, picture), supervised };
}

function withoutSuffix({ encode, prefix, bos }: SampleOptions["tokenizer"]): SampleOptions["tokenizer"] {
  return { encode, prefix, bos, suffix: [] };
}

/** How many of `all` are the ids of `text`: see Note [Where an answer is]. */
function startOf(all: readonly number[], whole: string, text: string, encode: (text: string) => readonly number[]): number | undefined {
  if (!whole.startsWith(text)) return undefined;
  const ids = text === whole ? all : encode(text);
  return ids.length <= all.length && ids.every((id, i) => id === all[i]) ? ids.length : undefined;
}
