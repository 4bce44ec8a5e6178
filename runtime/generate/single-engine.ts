// Drivers of the graphs with one sequence, whose cache is filled from its beginning, and which give the likeliest token alone:
// graphs/llama.uhd, and graphs like graphs/uhd-tiny.uhd, which take a photo among the ids. Decide nothing.

import { InputError } from "../errors.ts";
import type { Session } from "../session.ts";
import type { Tensor } from "../tensor.ts";
import { chosen, ints, NewRows, photoNames, photosOf, type Ask, type Candidates, type Engine } from "./engine.ts";
import type { Settings } from "./options.ts";
import type { GivenRows, Takes } from "./prompt.ts";

interface SingleSizes {
  readonly capacity: number;
  readonly vocabulary: number;
}

abstract class SingleSequence implements Engine {
  readonly capacity: number;
  readonly vocabulary: number;
  readonly sequences = 1;
  readonly candidates = 0;
  readonly samples = false;
  abstract readonly width: number | undefined;
  abstract readonly photos: Takes["photos"];
  given: GivenRows = new Map();
  readonly #session: Session;

  constructor(session: Session, { capacity, vocabulary }: SingleSizes) {
    this.#session = session;
    this.capacity = capacity;
    this.vocabulary = vocabulary;
  }

  /** The graph's inputs for these rows behind `past` others. */
  protected abstract inputs(fresh: NewRows, past: number): Readonly<Record<string, Tensor | number>>;

  async next(asks: readonly Ask[], settings: Settings): Promise<readonly number[]> {
    const tokens: number[] = [];
    for (const ask of asks) tokens.push(chosen(this.#session, await this.#run(ask, settings, ["next"])));
    return tokens;
  }

  best(): Promise<readonly Candidates[]> {
    throw new InputError(`${this.#session.plan.name} has no candidates for a search`);
  }

  async advance(ask: Ask, settings: Settings): Promise<void> {
    await this.#run(ask, settings, []);
  }

  async #run({ sequence, computed }: Ask, { signal }: Settings, outputs: readonly string[]): Promise<number | undefined> {
    const fresh = new NewRows(this);
    for (const id of sequence.ids.slice(computed)) fresh.push(id);
    const result = await this.#session.run(this.inputs(fresh, computed), { signal, outputs });
    return result.outputs["next"]?.data[0];
  }
}

/** graphs/llama.uhd */
export class OneSequence extends SingleSequence {
  readonly width: number;
  readonly photos = undefined;

  constructor(session: Session, { width, ...sizes }: SingleSizes & { readonly width: number }) {
    super(session, sizes);
    this.width = width;
  }

  protected inputs(fresh: NewRows, past: number): Readonly<Record<string, Tensor | number>> {
    return { rows: ints(fresh.rows), given: fresh.given, past };
  }
}

/** Ids, and a photo whose visual sequence stands before id `at`. */
export class OnePhoto extends SingleSequence {
  readonly width = undefined;
  readonly photos: Takes["photos"];

  constructor(session: Session, sizes: SingleSizes) {
    super(session, sizes);
    this.photos = photosOf(session, { ids: [1] }, { at: 0, past: 0 });
  }

  protected inputs(fresh: NewRows, past: number): Readonly<Record<string, Tensor | number>> {
    const at = fresh.ids.findIndex((id) => id < 0);
    return { [photoNames.image]: fresh.image, ids: ints(fresh.ids.filter((id) => id >= 0)), at: Math.max(0, at), past };
  }
}
