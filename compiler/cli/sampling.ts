// The options of the command line that say how tokens are chosen, and what they come to in the runtime. A value out of
// range is refused with what it may be.

import { InvalidArgumentError, Option } from "commander";
import { ranges, type GenerateOptions } from "../../runtime/generate/options.ts";

export interface SamplingOptions {
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly seed?: number;
  readonly beams?: number;
}

function within(range: { readonly says: string; readonly holds: (x: number) => boolean }): (text: string) => number {
  return (text) => {
    const value = text.trim() === "" ? NaN : Number(text);
    if (!range.holds(value)) throw new InvalidArgumentError(`expected ${range.says}, found "${text}"`);
    return value;
  };
}

/** Options of a command that answers. */
export const samplingOptions = (): readonly Option[] => [
  new Option("--temperature <t>", "draw tokens at random: below 1 the likely ones more, above 1 less; 0 takes the likeliest").argParser(
    within(ranges.temperature),
  ),
  new Option("--top-k <k>", "draw among the k likeliest tokens").argParser(within(ranges.topK)),
  new Option("--top-p <p>", "draw among the likeliest tokens that have this probability together").argParser(within(ranges.topP)),
  new Option("--min-p <p>", "draw among tokens with at least this part of the likeliest one's probability").argParser(within(ranges.minP)),
  new Option("--repetition-penalty <r>", "above 1, tokens that the conversation has become less likely").argParser(
    within(ranges.repetitionPenalty),
  ),
  new Option("--seed <n>", "draw the same tokens each time").argParser(within(ranges.seed)),
  new Option("--beams <n>", "search with n beams instead of drawing; the answer comes in one piece").argParser(within(ranges.numBeams)),
];

/** Whether they ask for more than the likeliest token each time. */
export function asksForMore(options: SamplingOptions): boolean {
  const { temperature, topK, topP, minP, repetitionPenalty, seed, beams } = options;
  return [temperature, topK, topP, minP, repetitionPenalty, seed, beams].some((x) => x !== undefined);
}

export function generateOptionsOf(options: SamplingOptions): GenerateOptions {
  const { temperature, topK, topP, minP, repetitionPenalty, seed, beams: numBeams } = options;
  return { temperature, topK, topP, minP, repetitionPenalty, seed, numBeams };
}
