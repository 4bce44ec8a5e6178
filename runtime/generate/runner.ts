// The cache's rows and the graph's runs, kept in step: what is asked about has rows for all of its tokens, and after a run
// that failed no sequence has rows that were not computed. A run takes one photo: those before the last one of all that is
// asked go ahead, each with what stands before it.

import type { Ask, Candidates, Engine } from "./engine.ts";
import type { Settings } from "./options.ts";
import { photoEnds } from "./prompt.ts";
import { CacheRows, Sequence } from "./rows.ts";

export class Runner {
  readonly engine: Engine;
  readonly rows: CacheRows;

  constructor(engine: Engine) {
    this.engine = engine;
    this.rows = new CacheRows(engine.capacity);
  }

  /** The token behind each sequence. `counters` are what random numbers depend on. */
  next(sequences: readonly Sequence[], counters: readonly Ask["counter"][], settings: Settings): Promise<readonly number[]> {
    return this.#run(sequences, counters, settings, (asks) => this.engine.next(asks, settings));
  }

  /** The likeliest tokens behind each sequence. */
  best(sequences: readonly Sequence[], settings: Settings): Promise<readonly Candidates[]> {
    return this.#run(sequences, [], settings, (asks) => this.engine.best(asks, settings));
  }

  async #run<T>(
    sequences: readonly Sequence[],
    counters: readonly Ask["counter"][],
    settings: Settings,
    run: (asks: readonly Ask[]) => Promise<T>,
  ): Promise<T> {
    const asks = sequences.map((sequence, i): Ask => ({ sequence, computed: sequence.rows.length, counter: counters[i] ?? [0, 0] }));
    const computed = asks.map((a) => a.computed);
    try {
      for (const sequence of sequences) this.rows.extend(sequence);
      for (const { ask, end } of this.#ahead(asks)) {
        settings.signal?.throwIfAborted();
        const { ids, rows } = sequences[ask] ?? new Sequence();
        const part = { sequence: new Sequence(ids.slice(0, end), rows.slice(0, end)), computed: computed[ask] ?? 0 };
        await this.engine.advance({ ...part, counter: [0, 0] }, settings);
        computed[ask] = end;
      }
      settings.signal?.throwIfAborted();
      return await run(asks.map((a, i) => ({ ...a, computed: computed[i] ?? a.computed })));
    } catch (error) {
      for (const [i, { sequence }] of asks.entries()) this.rows.release(sequence, computed[i] ?? 0);
      throw error;
    }
  }

  /** The ends of photos among the new rows, all but the last one's. */
  #ahead(asks: readonly Ask[]): readonly { readonly ask: number; readonly end: number }[] {
    const { given } = this.engine;
    const ends = asks.flatMap(({ sequence, computed }, ask) =>
      photoEnds(sequence.ids.slice(computed), given).map((end) => ({ ask, end: computed + end })),
    );
    return ends.slice(0, -1);
  }
}
