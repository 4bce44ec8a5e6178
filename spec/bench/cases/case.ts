// What a bench is.

import type { Row } from "../rows.ts";
import type { Context } from "../versus.ts";

export interface Case {
  readonly name: string;
  /** Thread counts it runs with unless others are asked for; each in a process of its own. */
  readonly threads: readonly number[];
  readonly run: (context: Context) => Promise<readonly Row[]>;
}
