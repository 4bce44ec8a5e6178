// uhdc run --prompt: a graph with a language model (graphs/llama.uhd, graphs/llava-uhd-chat.uhd, or one like them) answers one
// question, with the photos given.

import type { Artefact } from "../../../runtime/artefact.ts";
import type { Device } from "../../../runtime/device.ts";
import { load } from "../../../runtime/model/load.ts";
import type { Message } from "../../../runtime/text/chat.ts";
import type { WeightsOptions } from "../../../runtime/weights/load.ts";
import { printAnswer, tellUntrained } from "../answering.ts";
import { usageError } from "../errors.ts";
import { turnWith } from "../language-model.ts";
import { type Terminal } from "../terminal.ts";
import { bytesText } from "../../ir/text.ts";

export interface PromptOptions {
  readonly prompt?: string;
  readonly image?: readonly string[];
  readonly system?: string;
  /** Default: the first checkpoint. */
  readonly tokenizer?: string;
  readonly template?: string;
  readonly maxTokens?: number;
  readonly device: Device;
  readonly weights: WeightsOptions | undefined;
  readonly seed: number | undefined;
  readonly json: boolean;
}

export async function answerPrompt(artefact: Artefact, options: PromptOptions, terminal: Terminal): Promise<void> {
  const { weights, seed, system, prompt = "", image = [] } = options;
  const [first] = Array.isArray(weights?.from) ? (weights.from as readonly unknown[]) : [];
  const tokenizer = options.tokenizer ?? (typeof first === "string" ? first : undefined);
  if (tokenizer === undefined)
    throw usageError("--prompt needs a tokenizer: a GGUF file, or a folder with tokenizer.json, as --tokenizer PATH");
  await using model = await load({
    graph: artefact,
    vision: weights?.from,
    prefix: weights?.prefix,
    extra: weights?.extra,
    init: seed === undefined ? undefined : { seed },
    tokenizer,
    template: options.template,
    device: options.device,
    onProgress: ({ done, total }) => terminal.progress(`weights ${bytesText(done)} of ${bytesText(total)}`),
  });
  terminal.done();
  tellUntrained(model, terminal);
  const { message, images } = turnWith(prompt, image);
  const messages: Message[] = system === undefined ? [message] : [{ role: "system", content: system }, message];
  await printAnswer(model, { messages, images, maximumTokens: options.maxTokens ?? 512 }, options, terminal);
}
