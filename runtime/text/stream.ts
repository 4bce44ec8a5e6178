// Text from token ids, as they come. A piece is given out as soon as it is certain: when its characters are whole, and
// when it cannot be the beginning of a stop string. However the tokens are cut, the pieces join to the same text, which is
// also what `Tokenizer.decode` gives. Does not know where ids come from.
//
// Note [Bytes that are not UTF-8]
//   become U+FFFD, one for each longest part that could have begun a character, as browsers do it. SentencePiece and the
//   Rust library put one for each byte of such a part.

import { TextError } from "../errors.ts";

/** What a stream needs of a tokenizer. */
export interface TokenBytes {
  /** Throws TextError for an id that is not in the vocabulary. */
  bytes(id: number): Uint8Array;
  readonly specials: ReadonlySet<number>;
  readonly stripsSpace: boolean;
}

export interface StreamOptions {
  /** Leave special tokens (BOS, EOS, …) out. Default true. */
  readonly skipSpecials?: boolean | undefined;
  /** The text ends before the first of these; the string itself is not given out. */
  readonly stop?: readonly string[] | undefined;
  /** This text continues another, so that a space at its beginning belongs to it. Default false. */
  readonly continues?: boolean | undefined;
}

/** Only lone surrogates have this property where a pattern sees code points. */
const surrogate = /\p{Surrogate}/u;

/** Throws TextError that says where a lone surrogate is: such a string is not Unicode and has no UTF-8. */
export function checkUnicode(text: string, what: string): void {
  const found = surrogate.exec(text);
  if (found === null) return;
  const code = found[0].charCodeAt(0).toString(16).toUpperCase();
  throw new TextError(`${what} is not Unicode: there is half of a surrogate pair, U+${code}, at index ${found.index}`);
}

export class TextStream {
  readonly #tokens: TokenBytes;
  readonly #skipSpecials: boolean;
  readonly #stop: readonly string[];
  readonly #utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  /** The end of the text so far, while it may be the beginning of a stop string. */
  #held = "";
  /** A space at the beginning is still to be left out. */
  #stripping: boolean;
  #stopped: string | undefined;
  #ended = false;

  constructor(tokens: TokenBytes, options: StreamOptions = {}) {
    this.#tokens = tokens;
    this.#skipSpecials = options.skipSpecials ?? true;
    this.#stop = options.stop ?? [];
    this.#stripping = tokens.stripsSpace && options.continues !== true;
    for (const stop of this.#stop) {
      if (stop === "") throw new TextError("a stop string is empty");
      checkUnicode(stop, "a stop string");
    }
  }

  /** The stop string that ended the text, once one did. */
  get stopped(): string | undefined {
    return this.#stopped;
  }

  /** What has become certain with one more token; often "". After a stop string nothing comes any more. */
  push(id: number): string {
    if (this.#ended) throw new TextError("the text has ended: no token can follow");
    const bytes = this.#tokens.bytes(id);
    if (this.#stopped !== undefined || (this.#skipSpecials && this.#tokens.specials.has(id))) return "";
    return this.#certain(this.#utf8.decode(bytes, { stream: true }), false);
  }

  /** What was held back. An unfinished character becomes U+FFFD. */
  end(): string {
    if (this.#ended) return "";
    this.#ended = true;
    const last = this.#utf8.decode();
    return this.#stopped === undefined ? this.#certain(last, true) : "";
  }

  #certain(more: string, last: boolean): string {
    let text = this.#held + more;
    if (this.#stripping && text !== "") {
      if (text.startsWith(" ")) text = text.slice(1);
      this.#stripping = false;
    }
    const end = firstStop(text, this.#stop);
    if (end !== undefined) {
      this.#stopped = end.stop;
      this.#held = "";
      return text.slice(0, end.at);
    }
    const kept = last ? 0 : beginsStop(text, this.#stop);
    this.#held = text.slice(text.length - kept);
    return text.slice(0, text.length - kept);
  }
}

/** The stop string that is complete first, and the longest of those that are complete at the same place. */
function firstStop(text: string, stops: readonly string[]): { readonly stop: string; readonly at: number } | undefined {
  let best: { readonly stop: string; readonly at: number } | undefined;
  for (const stop of stops) {
    const at = text.indexOf(stop);
    if (at < 0) continue;
    const sooner = best === undefined ? 1 : best.at + best.stop.length - (at + stop.length);
    if (best === undefined || sooner > 0 || (sooner === 0 && at < best.at)) best = { stop, at };
  }
  return best;
}

/** How many characters at the end of `text` may be the beginning of a stop string. */
function beginsStop(text: string, stops: readonly string[]): number {
  let most = 0;
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > most; length--) {
      if (text.endsWith(stop.slice(0, length))) most = length;
    }
  }
  return most;
}

/** The text of `ids` in pieces that are not empty. Ends with the ids, or at a stop string; then no more ids are taken. */
export async function* streamText(
  tokens: TokenBytes,
  ids: AsyncIterable<number> | Iterable<number>,
  options: StreamOptions = {},
): AsyncGenerator<string, void, undefined> {
  const stream = new TextStream(tokens, options);
  for await (const id of ids) {
    const piece = stream.push(id);
    if (piece !== "") yield piece;
    if (stream.stopped !== undefined) break;
  }
  const rest = stream.end();
  if (rest !== "") yield rest;
}
