// The options that say where weights come from, as run and chat share them.

import { usageError } from "./errors.ts";

/** The seed of `--init seeded:N`. */
export function seedOf(init: string | undefined): number | undefined {
  if (init === undefined) return undefined;
  const seed = seeded(init);
  if (seed === undefined) throw usageError(`--init takes seeded:N with a whole number N, found "${init}"`);
  return seed;
}

/** N of `seeded:N`; undefined for any other text. */
export function seeded(text: string): number | undefined {
  const match = /^seeded:(\d{1,9})$/.exec(text);
  return match === null ? undefined : Number(match[1]);
}

/** `PREFIX` or `FROM=TO`, each. */
export function prefixOf(texts: readonly string[]): Readonly<Record<string, string>> | undefined {
  if (texts.length === 0) return undefined;
  return Object.fromEntries(texts.map((text) => [text.split("=")[0] ?? "", text.includes("=") ? text.slice(text.indexOf("=") + 1) : ""]));
}
