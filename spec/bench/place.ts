// Where the benches are, and where they say what they do. Standard output is for results.

import { existsSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

/** The project's folder: the benches run from a bundle, so it is looked for upwards. */
export const root = ((): string => {
  for (let folder = path.dirname(fileURLToPath(import.meta.url)); ; folder = path.dirname(folder)) {
    if (existsSync(path.join(folder, "spec/bench/peers/package.json"))) return folder;
    if (folder === path.dirname(folder)) throw new Error("the project's folder is not above the bench's bundle");
  }
})();

export function log(text: string): void {
  process.stderr.write(`${text}\n`);
}
