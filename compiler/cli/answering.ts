// An answer as it comes, as chat and run print it: text on standard output and a line of figures beside it, or with --json
// events, one a line. Ctrl-C ends the answer.

import type { GenerateRequest, Model } from "../../runtime/model/load.ts";
import { millisecondsText, type Terminal } from "./terminal.ts";

export interface Answer {
  readonly text: string;
  readonly tokens: number;
  /** Until the first token: reading the conversation. */
  readonly firstMilliseconds: number;
  readonly milliseconds: number;
}

/** With `json` an answer that was stopped is an error, since its events have no end. */
export async function printAnswer(
  model: Model,
  request: GenerateRequest,
  { json }: { readonly json: boolean },
  terminal: Terminal,
): Promise<Answer> {
  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.once("SIGINT", stop);
  let text = "";
  let tokens = 0;
  let first = 0;
  const begin = performance.now();
  const event = (value: Readonly<Record<string, unknown>>): void => terminal.out(JSON.stringify(value));
  try {
    const pieces = model.generate({
      ...request,
      signal: abort.signal,
      onToken: (count, milliseconds) => {
        tokens = count;
        if (count === 1) first = milliseconds;
      },
    });
    for await (const piece of pieces) {
      text += piece;
      if (json) event({ event: "piece", text: piece });
      else process.stdout.write(piece);
    }
  } catch (error) {
    if (!abort.signal.aborted || json) throw error;
  } finally {
    process.off("SIGINT", stop);
  }
  const answer: Answer = { text, tokens, firstMilliseconds: first, milliseconds: performance.now() - begin };
  if (json) event({ event: "answer", ...answer, untrained: model.untrained.length > 0 });
  else report(answer, terminal);
  return answer;
}

function report({ tokens, firstMilliseconds, milliseconds }: Answer, terminal: Terminal): void {
  process.stdout.write("\n");
  const rest = tokens > 1 ? `, then ${millisecondsText((milliseconds - firstMilliseconds) / (tokens - 1))} a token` : "";
  terminal.err(`${tokens} tokens; the first after ${millisecondsText(firstMilliseconds)}${rest}`);
}

/** Told on standard error before the first answer. */
export function tellUntrained(model: Model, terminal: Terminal): void {
  const { untrained, session } = model;
  if (untrained.length > 0)
    terminal.err(`untrained: ${untrained.length} of ${session.plan.params.length} parameters are random; the answers mean nothing`);
}
