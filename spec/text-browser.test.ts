// Text in a browser's environment: the packages are not in the bundle, an application hands them in.

import path from "node:path";
import { fileURLToPath } from "node:url";
import vm from "node:vm";
import * as jinja from "@huggingface/jinja";
import * as tokenizers from "@huggingface/tokenizers";
import { build } from "esbuild";
import { beforeAll, describe, expect, test } from "vitest";
import { fixture } from "./text-support.ts";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
let code = "";

beforeAll(async () => {
  const { outputFiles } = await build({
    absWorkingDir: root,
    entryPoints: ["runtime/index.ts"],
    bundle: true,
    platform: "browser",
    format: "iife",
    globalName: "uhd",
    target: "es2022",
    write: false,
    logLevel: "silent",
  });
  code = outputFiles[0]?.text ?? "";
});

/** Runs `body`, an async function's text, with the bundle as `uhd` and without Node. */
async function inBrowser(body: string): Promise<unknown> {
  const { metadata } = fixture.byteLevel;
  const context = vm.createContext({ TextDecoder, TextEncoder, URL, Blob, jinja, tokenizers, metadata });
  vm.runInContext(code, context);
  return JSON.parse((await vm.runInContext(`(async () => JSON.stringify(await (async () => { ${body} })()))()`, context)) as string);
}

describe("in a browser's environment", () => {
  test("text goes in and out with the packages that are handed in", async () => {
    const body = `
      const tokenizer = await uhd.tokenizerFromGguf(metadata, { library: tokenizers });
      const template = await uhd.templateOf(tokenizer, { library: jinja });
      const prompt = template.render([{ role: "user", content: "Héllo 👍" }]);
      const ids = uhd.encodePrompt(tokenizer, prompt, 0);
      let text = "";
      for await (const piece of uhd.streamText(tokenizer, ids)) text += piece;
      return [tokenizer.decode(ids) === prompt, text];`;
    expect(await inBrowser(body)).toEqual([
      true,
      "system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\nuser\nHéllo 👍\nassistant\n",
    ]);
  });

  test("what is missing is said", async () => {
    const body = `return Promise.all([
      uhd.tokenizerFromGguf(metadata).catch(String),
      uhd.jinjaTemplate("x").catch(String),
      uhd.loadTokenizer("folder").catch(String),
    ]);`;
    expect(await inBrowser(body)).toEqual([
      expect.stringMatching(/^TextError: text is tokenised with the package "@huggingface\/tokenizers", which cannot be loaded: /),
      expect.stringMatching(/^TextError: chat templates are run by the package "@huggingface\/jinja", which cannot be loaded: /),
      expect.stringMatching(/^TextError: folder\/tokenizer_config\.json cannot be read: this needs Node/),
    ]);
  });
});
