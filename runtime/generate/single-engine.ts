// Driver of graphs/llama.uhd and its like: one sequence of text, whose cache is filled from its beginning, and the likeliest
// token alone. Decides nothing.

import { InputError } from "../errors.ts";
import type { Session } from "../session.ts";
import { chosen, ints, NewRows, type Ask, type Candidates, type Engine } from "./engine.ts";
import type { Settings } from "./options.ts";
import type { GivenRows } from "./prompt.ts";

export class OneSequence implements Engine {
  readonly capacity: number;
  readonly vocabulary: number;
  readonly width: number;
  readonly sequences = 1;
  readonly candidates = 0;
  readonly samples = false;
  readonly photos = undefined;
  given: GivenRows = new Map();
  readonly #session: Session;

  constructor(session: Session, sizes: { readonly capacity: number; readonly vocabulary: number; readonly width: number }) {
    this.#session = session;
    this.capacity = sizes.capacity;
    this.vocabulary = sizes.vocabulary;
    this.width = sizes.width;
  }

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
    const inputs = { rows: ints(fresh.rows), given: fresh.given, past: computed };
    const result = await this.#session.run(inputs, { signal, outputs });
    return result.outputs["next"]?.data[0];
  }
}
