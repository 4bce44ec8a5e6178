// How an answer is chosen: the options, with the names of Hugging Face's GenerationConfig, and what they come to. A value
// out of range is an error, never brought into range.

import { InputError } from "../errors.ts";

export interface GenerateOptions {
  /** Most tokens of the answer. Default 1024; the context's end is an end too. */
  readonly maximumTokens?: number | undefined;
  /** The answer ends before the first of these. A search is cut there when it is done. */
  readonly stop?: readonly string[] | undefined;
  /** Looked at before each token and while one is computed: the iteration then throws `signal.reason`. */
  readonly signal?: AbortSignal | undefined;
  /** Told after each token: how many there are, and the milliseconds the last one took. The first is the prompt's. */
  readonly onToken?: ((count: number, milliseconds: number) => void) | undefined;

  /** Draw tokens at random. Default: true when temperature, topK, topP, minP or seed is given (and temperature is not 0). */
  readonly doSample?: boolean | undefined;
  /** Divides the logits. Default 1; 0 is the likeliest token. */
  readonly temperature?: number | undefined;
  /** Only the k likeliest tokens, and those that tie with the last of them. Default: all. */
  readonly topK?: number | undefined;
  /** Only the least set of the likeliest tokens with this probability together, ties with the last included. Default 1. */
  readonly topP?: number | undefined;
  /** Only tokens that are at least this probable, as a part of the likeliest one's probability. Default 0. */
  readonly minP?: number | undefined;
  /** Logits of tokens that the conversation has are divided by this, or multiplied where they are negative. Default 1. */
  readonly repetitionPenalty?: number | undefined;
  /** A whole number: the same seed gives the same answer. Default: another each time. */
  readonly seed?: number | undefined;

  /** Beams of a search; 1 is none. The answer then comes in one piece. Default 1. */
  readonly numBeams?: number | undefined;
  /** Scores are divided by the length to this power: above 0 longer answers win. Default 1. */
  readonly lengthPenalty?: number | undefined;
  /**
   * When a search ends that has `numBeams` answers: at once (true); when the best beam as it is could not be better
   * (false, the default); or when it could not at any length ("never").
   */
  readonly earlyStopping?: boolean | "never" | undefined;
}

/** Options with every value, checked. */
export interface Settings {
  readonly maximumTokens: number;
  readonly stop: readonly string[] | undefined;
  readonly signal: AbortSignal | undefined;
  readonly onToken: ((count: number, milliseconds: number) => void) | undefined;
  readonly sample: boolean;
  readonly temperature: number;
  /** Infinity for all. */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  /** Two words of 32 bits, the low one first. */
  readonly seed: readonly [number, number];
  readonly numBeams: number;
  readonly lengthPenalty: number;
  readonly earlyStopping: boolean | "never";
}

interface Range {
  readonly says: string;
  readonly holds: (x: number) => boolean;
}

const positive = (x: number): boolean => x > 0 && x < Infinity;
const whole = (x: number, least: number): boolean => Number.isSafeInteger(x) && x >= least;

/** What each number may be. The command line reads this too. */
export const ranges = {
  maximumTokens: { says: "a whole number from 0 up", holds: (x) => whole(x, 0) },
  temperature: { says: "a number above 0, or 0 for the likeliest token", holds: (x) => x === 0 || positive(x) },
  topK: { says: "a whole number from 1 up, or 0 for all", holds: (x) => whole(x, 0) },
  topP: { says: "a number above 0 and up to 1", holds: (x) => x > 0 && x <= 1 },
  minP: { says: "a number from 0 to 1", holds: (x) => x >= 0 && x <= 1 },
  repetitionPenalty: { says: "a number above 0", holds: positive },
  seed: { says: "a whole number from 0 up to 9007199254740991", holds: (x) => whole(x, 0) },
  numBeams: { says: "a whole number from 1 up", holds: (x) => whole(x, 1) },
  lengthPenalty: { says: "a number", holds: (x) => Number.isFinite(x) },
} as const satisfies Readonly<Record<string, Range>>;

type Numbers = keyof typeof ranges;

/** Throws InputError that names the option and what it may be. */
export function settingsOf(options: GenerateOptions): Settings {
  const number = (name: Numbers, fallback: number): number => {
    const value = options[name] ?? fallback;
    const range: Range = ranges[name];
    if (typeof value !== "number" || !(range.holds(value) || value === fallback))
      throw new InputError(`${name} is ${String(value)}: expected ${range.says}`);
    return value;
  };
  const temperature = number("temperature", 1);
  const numBeams = number("numBeams", 1);
  const asked = [options.temperature, options.topK, options.topP, options.minP, options.seed].some((x) => x !== undefined);
  const sample = temperature > 0 && (options.doSample ?? (asked && numBeams === 1));
  if (options.doSample === true && temperature === 0)
    throw new InputError("temperature is 0, which is the likeliest token: doSample wants one above 0");
  if (sample && numBeams > 1)
    throw new InputError(`numBeams is ${numBeams}: a search takes the likeliest tokens, so it goes without doSample`);
  const { earlyStopping = false } = options;
  const topK = number("topK", 0);
  return {
    maximumTokens: number("maximumTokens", 1024),
    stop: options.stop,
    signal: options.signal,
    onToken: options.onToken,
    sample,
    temperature: temperature === 0 ? 1 : temperature,
    topK: topK === 0 ? Infinity : topK,
    topP: number("topP", 1),
    minP: number("minP", 0),
    repetitionPenalty: number("repetitionPenalty", 1),
    seed: wordsOf(options.seed === undefined ? randomSeed() : number("seed", 0)),
    numBeams,
    lengthPenalty: number("lengthPenalty", 1),
    earlyStopping,
  };
}

function wordsOf(seed: number): readonly [number, number] {
  return [seed | 0, Math.floor(seed / 2 ** 32) | 0];
}

function randomSeed(): number {
  const [low = 0, high = 0] = crypto.getRandomValues(new Uint32Array(2));
  return (high & 0x1fffff) * 2 ** 32 + low;
}
