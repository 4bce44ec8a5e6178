// Names of the results that watch.ts adds to a graph. Loads nothing of the compiler.

import type { ValueId } from "./ir/graph/types.ts";

const prefix = "%";

/** The result that holds a value; no name of the language begins so. */
export const watchedName = (id: ValueId): string => `${prefix}${id}`;

/** The results of a watched graph, apart: those it has by itself, and the others by the values they are. */
export function unwatched<T>(outputs: Readonly<Record<string, T>>): {
  readonly own: Readonly<Record<string, T>>;
  readonly values: ReadonlyMap<ValueId, T>;
} {
  const isWatched = (name: string): boolean => name.startsWith(prefix);
  const entries = Object.entries(outputs);
  return {
    own: Object.fromEntries(entries.filter(([name]) => !isWatched(name))),
    values: new Map(entries.flatMap(([name, value]) => (isWatched(name) ? [[Number(name.slice(prefix.length)), value] as const] : []))),
  };
}
