// Options of the form NAME=VALUE.

import { usageError } from "./errors.ts";

/** `["width=512"]` → `{ width: "512" }`. */
export function assignments(texts: readonly string[], flag: string): Record<string, string> {
  const out: Record<string, string> = {};
  for (const text of texts) {
    const at = text.indexOf("=");
    if (at <= 0) throw usageError(`${flag} takes name=value, found "${text}"`);
    out[text.slice(0, at)] = text.slice(at + 1);
  }
  return out;
}
