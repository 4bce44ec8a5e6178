// uhdc chat: a language model answers. One question with --prompt, or a conversation, one line a turn. The model's
// graph is graphs/llama.uhd at the checkpoint's sizes. Ctrl-C stops the answer; at the prompt it ends the program.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline/promises";
import { LanguageModel } from "../../../runtime/generate.ts";
import { Session } from "../../../runtime/session.ts";
import type { ChatTemplate, Message } from "../../../runtime/text/chat.ts";
import type { Tokenizer } from "../../../runtime/text/tokenizer.ts";
import { loadProgram } from "../../check/index.ts";
import { compileGraph } from "../../compile.ts";
import { CliError, usageError } from "../errors.ts";
import { chooseTemplate, describeModel, languageModelGraph } from "../language-model.ts";
import { bytesText, millisecondsText, type Terminal } from "../terminal.ts";

export interface ChatOptions {
  readonly prompt?: string;
  readonly system?: string;
  readonly template?: string;
  readonly maxTokens: number;
  readonly context?: number;
  readonly threads?: number;
  readonly ignoreExtra: boolean;
  readonly json: boolean;
}

interface Answer {
  readonly text: string;
  readonly tokens: number;
  /** Until the first token: reading the conversation. */
  readonly firstMilliseconds: number;
  readonly milliseconds: number;
}

export async function chat(model: string, options: ChatOptions, terminal: Terminal): Promise<void> {
  if (options.json && options.prompt === undefined) throw usageError("--json goes with --prompt");
  if (options.threads === 0) throw usageError("--threads takes 1 or more");
  const { config, tokenizer, context: trained } = await describeModel(model);
  const template = await chooseTemplate(tokenizer, options.template);
  // The cache is as long as the context and made at the start, so it is short unless more is asked for.
  const context = options.context ?? Math.min(trained, 2048);
  if (context > trained) throw usageError(`--context ${context} is more than the model was trained for, ${trained}`);
  const file = languageModelGraph();
  const program = loadProgram(file, { readText: (name) => readFileSync(name, "utf8"), config: { ...config, context: String(context) } });
  const graph = program.graphs.get("llama");
  if (graph === undefined)
    throw new CliError(1, `${file}: ${program.diagnostics.map((d) => d.message).join("; ") || "it has no graph llama"}`);
  const compiled = compileGraph(graph);
  const session = await Session.create(compiled, {
    // A tensor that the graph has no use for may be one that the model does not work without.
    weights: { from: model, extra: options.ignoreExtra ? "ignore" : "refuse" },
    threads: options.threads,
    onProgress: ({ done, total }) => terminal.progress(`weights ${bytesText(done)} of ${bytesText(total)}`),
  });
  terminal.done();
  await using language = await languageModel(session, tokenizer, template);
  const messages: Message[] = options.system === undefined ? [] : [{ role: "system", content: options.system }];
  if (options.prompt !== undefined) {
    const answer = await reply(language, [...messages, { role: "user", content: options.prompt }], options, terminal);
    if (options.json) terminal.out(JSON.stringify(answer, null, 2));
    return;
  }
  await converse(language, messages, options, terminal);
}

async function languageModel(session: Session, tokenizer: Tokenizer, template: ChatTemplate): Promise<LanguageModel> {
  try {
    return LanguageModel.create(session, tokenizer, template);
  } catch (error) {
    await session.close();
    throw error;
  }
}

async function converse(language: LanguageModel, messages: Message[], options: ChatOptions, terminal: Terminal): Promise<void> {
  const live = process.stdin.isTTY === true;
  const lines = createInterface({ input: process.stdin, output: live ? process.stderr : undefined, prompt: "> ", terminal: live });
  if (live) lines.prompt();
  for await (const line of lines) {
    if (line.trim() !== "") {
      messages.push({ role: "user", content: line });
      const { text } = await reply(language, messages, options, terminal);
      messages.push({ role: "assistant", content: text });
    }
    if (live) lines.prompt();
  }
}

/** Prints the answer as it comes, unless it is wanted as data. */
async function reply(language: LanguageModel, messages: readonly Message[], options: ChatOptions, terminal: Terminal): Promise<Answer> {
  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.once("SIGINT", stop);
  let text = "";
  let tokens = 0;
  let first = 0;
  const begin = performance.now();
  try {
    const pieces = language.generate(messages, {
      maximumTokens: options.maxTokens,
      signal: abort.signal,
      onToken: (count, milliseconds) => {
        tokens = count;
        if (count === 1) first = milliseconds;
      },
    });
    for await (const piece of pieces) {
      text += piece;
      if (!options.json) process.stdout.write(piece);
    }
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    if (options.json) throw error;
  } finally {
    process.off("SIGINT", stop);
  }
  const milliseconds = performance.now() - begin;
  if (!options.json) {
    process.stdout.write("\n");
    const rest = tokens > 1 ? `, then ${millisecondsText((milliseconds - first) / (tokens - 1))} a token` : "";
    terminal.err(`${tokens} tokens; the first after ${millisecondsText(first)}${rest}`);
  }
  return { text, tokens, firstMilliseconds: first, milliseconds };
}
