// The cache's rows and the graph's runs, kept in step: what is asked about has rows for all of its tokens, and after a run
// that failed no sequence has rows that were not computed.

import type { Ask, Candidates, Engine } from "./engine.ts";
import type { Settings } from "./options.ts";
import { CacheRows, type Sequence } from "./rows.ts";

export class Runner {
  readonly engine: Engine;
  readonly rows: CacheRows;

  constructor(engine: Engine) {
    this.engine = engine;
    this.rows = new CacheRows(engine.capacity);
  }

  /** The token behind each sequence. `counters` are what random numbers depend on. */
  next(sequences: readonly Sequence[], counters: readonly Ask["counter"][], settings: Settings): Promise<readonly number[]> {
    return this.#run(sequences, counters, (asks) => this.engine.next(asks, settings));
  }

  /** The likeliest tokens behind each sequence. */
  best(sequences: readonly Sequence[], settings: Settings): Promise<readonly Candidates[]> {
    return this.#run(sequences, [], (asks) => this.engine.best(asks, settings));
  }

  async #run<T>(
    sequences: readonly Sequence[],
    counters: readonly Ask["counter"][],
    run: (asks: readonly Ask[]) => Promise<T>,
  ): Promise<T> {
    const asks = sequences.map((sequence, i): Ask => ({ sequence, computed: sequence.rows.length, counter: counters[i] ?? [0, 0] }));
    try {
      for (const sequence of sequences) this.rows.extend(sequence);
      return await run(asks);
    } catch (error) {
      for (const { sequence, computed } of asks) this.rows.release(sequence, computed);
      throw error;
    }
  }
}
