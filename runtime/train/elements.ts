// The elements of a JSON list, or the lines of a file with one JSON value a line, found without holding all of it at once.
// Does not check that an element is JSON: one that is not is given like any other, as long as its brackets close.

import type { ByteSource } from "../weights/bytes.ts";
import { TrainingDataError } from "./errors.ts";

export interface JsonElement {
  /** Place among all elements, from 0. */
  readonly index: number;
  /** Bytes of the file: [start, end). */
  readonly start: number;
  readonly end: number;
  /** The line it begins in, from 1. */
  readonly line: number;
}

export interface FoundElement {
  readonly element: JsonElement;
  /** Its text. Bytes that are not UTF-8 become U+FFFD. */
  readonly text: () => string;
}

const piece = 1 << 20;
/** An element of more bytes is a file that lacks a bracket. */
const largest = 1 << 28;

const code = (c: string): number => c.charCodeAt(0);
const [open, close, brace, endBrace, comma, quote, backslash, newline] = ["[", "]", "{", "}", ",", '"', "\\", "\n"].map(code);

/**
 * Lists are told from lines by the first character that is not space. `onBytes` sees every byte of the file in order.
 * Throws TrainingDataError for a list that does not end, or goes on after its end.
 */
export async function* jsonElements(source: ByteSource, onBytes: (bytes: Uint8Array) => void): AsyncGenerator<FoundElement> {
  const scan = new Scan(source.name);
  const buffer = new Uint8Array(piece);
  for (let at = 0; at < source.size; at += piece) {
    const bytes = buffer.subarray(0, Math.min(piece, source.size - at));
    await source.read(at, bytes);
    onBytes(bytes);
    yield* scan.take(bytes, at);
  }
  yield* scan.end();
}

class Scan {
  readonly #name: string;
  /** Undefined until something other than space has come. */
  #list: boolean | undefined;
  #index = 0;
  #line = 1;
  /** Brackets open inside the element. */
  #depth = 0;
  #inString = false;
  #escaped = false;
  #ended = false;
  /** The element that has begun: its place, and its bytes as far as they were in earlier pieces. */
  #start: { readonly at: number; readonly line: number } | undefined;
  #before: Uint8Array[] = [];
  /** Its last byte that is not space. */
  #last = 0;

  constructor(name: string) {
    this.#name = name;
  }

  *take(bytes: Uint8Array, at: number): Generator<FoundElement> {
    let from = 0;
    for (let i = 0; i < bytes.length; i++) {
      const c = bytes[i];
      const space = c === 0x20 || c === 0x09 || c === 0x0d || c === newline;
      // A byte order mark before everything is no element.
      if (at === 0 && i < 3 && (c === 0xef || c === 0xbb || c === 0xbf) && this.#start === undefined && this.#list === undefined) continue;
      if (this.#list === undefined) {
        if (c === newline) this.#line++;
        if (space) continue;
        this.#list = c === open;
        if (this.#list) continue;
      }
      if (this.#ended && !space) throw this.#broken("goes on after the end of its list");
      const ends = this.#list ? this.#endsInList(c) : c === newline;
      if (ends) {
        if (this.#start !== undefined) yield this.#finish(bytes.subarray(from, i));
        else if (this.#list && (c === comma || this.#index > 0)) throw this.#broken("has a comma without a record");
        from = i + 1;
      } else if (!space || this.#inString) {
        if (this.#start === undefined) {
          this.#start = { at: at + i, line: this.#line };
          from = i;
        }
        this.#last = at + i;
      }
      if (c === newline) this.#line++;
    }
    if (this.#start === undefined) return;
    this.#before.push(bytes.slice(from));
    if (at + bytes.length - this.#start.at > largest) throw this.#broken(`has a record of over ${largest} bytes`, this.#start.line);
  }

  *end(): Generator<FoundElement> {
    if (this.#list === true && !this.#ended) throw this.#broken("ends within its list", this.#start?.line);
    if (this.#start !== undefined) yield this.#finish(new Uint8Array(0));
  }

  /** Whether the byte, a comma or the closing bracket of the list, ends what has begun. */
  #endsInList(c: number | undefined): boolean {
    if (this.#inString) {
      if (this.#escaped) this.#escaped = false;
      else if (c === backslash) this.#escaped = true;
      // JSON has no line breaks in strings: a quote that is missing harms one element and no more.
      else if (c === quote || c === newline) this.#inString = false;
      return false;
    }
    if (c === quote) this.#inString = true;
    else if (c === open || c === brace) this.#depth++;
    else if (c === close && this.#depth === 0) {
      this.#ended = true;
      return true;
    } else if ((c === close || c === endBrace) && this.#depth > 0) this.#depth--;
    else if (c === comma && this.#depth === 0) return true;
    return false;
  }

  #finish(rest: Uint8Array): FoundElement {
    const { at: start, line } = this.#start ?? { at: 0, line: 0 };
    const end = this.#last + 1;
    const bytes = Buffer.concat([...this.#before, rest]).subarray(0, end - start);
    this.#start = undefined;
    this.#before = [];
    this.#depth = 0;
    const element = { index: this.#index++, start, end, line };
    return { element, text: () => bytes.toString("utf8") };
  }

  #broken(what: string, line = this.#line): TrainingDataError {
    return new TrainingDataError(`${this.#name} ${what} (line ${line})`);
  }
}
