// Writes a command's results all together: each under a temporary name first, and renamed when all are complete. A
// command that is stopped or fails leaves what was there before.

import { existsSync } from "node:fs";
import { mkdir, open, rename, rm } from "node:fs/promises";
import path from "node:path";
import { codeOf } from "./common.ts";
import { CliError } from "./errors.ts";

/** `files` by name, each in parts. Makes the folder when there is none. Throws CliError, or the signal's reason. */
export async function writeFiles(
  folder: string,
  files: ReadonlyMap<string, readonly Uint8Array[]>,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const made = existsSync(folder) ? undefined : folder;
  const temporary = (name: string): string => path.join(folder, `.${name}.${process.pid}.tmp`);
  try {
    await mkdir(folder, { recursive: true });
    for (const [name, parts] of files) {
      const handle = await open(temporary(name), "w");
      try {
        for (const part of parts) {
          signal.throwIfAborted();
          await handle.writeFile(part);
        }
      } finally {
        await handle.close();
      }
    }
    signal.throwIfAborted();
    for (const name of files.keys()) await rename(temporary(name), path.join(folder, name));
    return [...files.keys()].map((name) => path.join(folder, name));
  } catch (cause) {
    for (const name of files.keys()) await rm(temporary(name), { force: true }).catch(() => undefined);
    if (made !== undefined) await rm(made, { recursive: true, force: true }).catch(() => undefined);
    if (signal.aborted) throw signal.reason;
    throw new CliError(1, `${folder}: cannot be written (${codeOf(cause)})`, { cause });
  }
}
