// The answers to several conversations, which go through the weights together: each step computes one row of each, or the
// prompt of one that has just come. One that is done makes room for the next.

import type { TextStream } from "../text/stream.ts";
import type { Settings } from "./options.ts";
import { Sequence } from "./rows.ts";
import type { Runner } from "./runner.ts";

/** A piece of the answer to one of several conversations. */
export interface BatchPiece {
  /** Which conversation, from 0. */
  readonly conversation: number;
  readonly text: string;
}

interface Answering {
  readonly conversation: number;
  readonly sequence: Sequence;
  readonly stream: TextStream;
  /** Rows that the whole answer may take: so many are kept free for it. */
  readonly most: number;
  tokens: number;
}

/** `ends` are the ids that end an answer, `stream` makes text of an answer's ids. */
export async function* batch(
  runner: Runner,
  prompts: readonly (readonly number[])[],
  settings: Settings,
  ends: readonly number[],
  stream: () => TextStream,
): AsyncGenerator<BatchPiece, void, undefined> {
  const { rows, engine } = runner;
  const { signal, onToken, maximumTokens } = settings;
  let active: Answering[] = [];
  let [conversation, steps] = [0, 0];
  try {
    if (maximumTokens === 0) return;
    for (;;) {
      for (; active.length < engine.sequences; conversation++) {
        const ids = prompts[conversation];
        const taken = active.reduce((sum, a) => sum + a.most, 0);
        const most = Math.min(rows.capacity, (ids?.length ?? 0) + maximumTokens);
        if (ids === undefined || taken + most > rows.capacity) break;
        active.push({ conversation, sequence: new Sequence(ids), stream: stream(), most, tokens: 0 });
      }
      if (active.length === 0) return;
      signal?.throwIfAborted();
      const started = performance.now();
      const next = await runner.next(
        active.map((a) => a.sequence),
        active.map((a) => [a.tokens, a.conversation]),
        settings,
      );
      onToken?.(++steps, performance.now() - started);
      const going: Answering[] = [];
      for (const [i, a] of active.entries()) {
        const id = next[i] ?? -1;
        const ended = ends.includes(id);
        let text = ended ? "" : a.stream.push(id);
        if (!ended) a.sequence.ids.push(id);
        a.tokens++;
        if (ended || a.stream.stopped !== undefined || a.tokens === maximumTokens || a.sequence.ids.length > rows.capacity) {
          text += a.stream.end();
          rows.cut(a.sequence, 0);
        } else going.push(a);
        if (text !== "") yield { conversation: a.conversation, text };
      }
      active = going;
    }
  } finally {
    for (const a of active) rows.cut(a.sequence, 0);
  }
}
