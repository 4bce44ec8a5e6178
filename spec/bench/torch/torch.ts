// PyTorch as a peer: a Python that is named by UHD_PYTHON runs a script that answers a command a line. Installs nothing.

import { spawn } from "node:child_process";
import path from "node:path";
import { createInterface } from "node:readline";
import { root } from "../place.ts";

export interface Torch extends AsyncDisposable {
  /** One line of JSON, as the script answers it. */
  ask(command: string): Promise<unknown>;
}

/** Throws where there is no Python, and when a command is asked that the script does not survive. */
export async function openTorch(script: string, args: readonly string[], python = process.env["UHD_PYTHON"]): Promise<Torch> {
  if (python === undefined || python === "") throw new Error("UHD_PYTHON names no Python with torch");
  const child = spawn(python, [path.join(root, script), ...args], { stdio: ["pipe", "pipe", "pipe"] });
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => void (said += chunk.toString()));
  const ended = new Promise<string>((resolve) => {
    child.on("error", (error) => resolve(error.message));
    child.on("close", (code) => resolve(said.trim().split("\n").at(-1) || `it ended with ${String(code)}`));
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ask = async (command: string): Promise<unknown> => {
    child.stdin.write(`${command}\n`);
    const line = await Promise.race([lines.next(), ended.then((why) => ({ done: true as const, value: why }))]);
    if (line.done === true) throw new Error(`${script}: ${await ended}`);
    return JSON.parse(line.value) as unknown;
  };
  // A write to a process that ended is told by what it said.
  child.stdin.on("error", () => undefined);
  return {
    ask,
    [Symbol.asyncDispose]: async () => {
      child.stdin.end();
      await ended;
    },
  };
}
