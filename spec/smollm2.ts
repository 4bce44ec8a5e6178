// Where the real checkpoint is that some tests need: SmolLM2-135M-Instruct as GGUF. examples/smollm2/fetch.mjs fetches it;
// where it is not, those tests say that they were not run.

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { TestContext } from "vitest";

export const smollm2Path =
  process.env.UHD_SMOLLM2 || fileURLToPath(new URL("../examples/smollm2/model/SmolLM2-135M-Instruct.Q4_1.gguf", import.meta.url));

/** Why there is no file; undefined when there is. */
const smollm2Missing = existsSync(smollm2Path) ? undefined : `${smollm2Path} is not there: node examples/smollm2/fetch.mjs fetches it`;

/** False, after saying so, when the test cannot run. */
export function hasSmollm2(context: TestContext, what: string): boolean {
  if (smollm2Missing === undefined) return true;
  console.warn(`${what} was not run: ${smollm2Missing}`);
  context.skip(`not run: ${smollm2Missing}`);
  return false;
}
