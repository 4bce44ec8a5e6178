// The token ids of an answer by beam search. The first run is of the prompt alone; from then on the beams go through the
// weights together.

import { Answers, continuationCount, continuations, type Beam } from "./beams.ts";
import type { Settings } from "./options.ts";
import type { Sequence } from "./rows.ts";
import type { Runner } from "./runner.ts";

/** `prompt` keeps its tokens and gets their rows; the beams' own rows are given back. `ends` are the ids that end an answer. */
export async function search(runner: Runner, prompt: Sequence, settings: Settings, ends: readonly number[]): Promise<readonly number[]> {
  const { rows } = runner;
  const { numBeams, maximumTokens, signal, onToken } = settings;
  const begin = prompt.ids.length;
  const answers = new Answers<readonly number[]>(settings);
  let beams: readonly Beam<Sequence>[] = [{ state: prompt, score: 0 }];
  const replace = (next: readonly Beam<Sequence>[]): void => {
    for (const { state } of beams) if (state !== prompt) rows.cut(state, 0);
    beams = next;
  };
  try {
    let done = false;
    for (let length = 1; length <= maximumTokens && !done && room(runner, beams); length++) {
      signal?.throwIfAborted();
      const started = performance.now();
      const candidates = await runner.best(
        beams.map((b) => b.state),
        settings,
      );
      const steps = continuations(beams, candidates, continuationCount(numBeams, ends.length));
      const going: Beam<Sequence>[] = [];
      for (const [rank, { beam, id, score }] of steps.entries()) {
        const state = beams[beam]?.state;
        if (state === undefined || going.length === numBeams) break;
        // An end counts only among the best, as if it took a beam's place.
        if (!ends.includes(id)) going.push({ state: rows.fork(state, id), score });
        else if (rank < numBeams) answers.add(state.ids.slice(begin), score, length);
      }
      done = answers.isDone(steps[0]?.score ?? -Infinity, length) || going.length === 0;
      replace(going);
      onToken?.(length, performance.now() - started);
    }
    if (!done)
      for (const { state, score } of beams) if (state !== prompt) answers.add(state.ids.slice(begin), score, state.ids.length - begin);
    return answers.best?.state ?? [];
  } finally {
    replace([]);
  }
}

/** Whether the cache has a row for every token that a step computes. */
function room({ rows }: Runner, beams: readonly Beam<Sequence>[]): boolean {
  return beams.reduce((sum, { state }) => sum + state.ids.length - state.rows.length, 0) <= rows.free;
}
