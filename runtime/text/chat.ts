// Conversations as the text a model was trained on. Two templates are built in, those of the LLaVA family; a model's own is
// a Jinja program, run by `@huggingface/jinja`, which is loaded when the first one is. A picture becomes the text "<image>"
// here: what stands in its place is prompt.ts's matter.

import { messageOf, TextError } from "../errors.ts";
import type { Picture } from "../images/picture.ts";
import { checkUnicode } from "./stream.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** What stands for a picture in text. */
export const imageToken = "<image>";

export interface TextPart {
  readonly type: "text";
  readonly text: string;
}

/** `image` is whatever the application has for a picture; it is handed back in order. */
export interface ImagePart<I = Picture> {
  readonly type: "image";
  readonly image: I;
}

export type Role = "system" | "user" | "assistant";

/**
 * One turn. A string is taken as it is, with any "<image>" in it. Of parts, the pictures come first, each followed by a
 * newline, then the texts: so the reference orders a turn.
 */
export interface Message<I = Picture> {
  readonly role: Role;
  readonly content: string | readonly (TextPart | ImagePart<I>)[];
}

export interface RenderOptions {
  /** End with the beginning of the assistant's next turn. Default true. */
  readonly open?: boolean | undefined;
}

export interface ChatTemplate {
  readonly name: string;
  /** Throws TextError for unknown roles, for turns out of order and for what the template refuses. */
  render(messages: readonly Message<unknown>[], options?: RenderOptions): string;
}

/** The pictures in the parts of a conversation, in the order of their tokens. */
export function imagesOf<I>(messages: readonly Message<I>[]): readonly I[] {
  return messages.flatMap(({ content }) =>
    typeof content === "string" ? [] : content.flatMap((part) => (part.type === "image" ? [part.image] : [])),
  );
}

interface Turn {
  readonly role: Role;
  readonly text: string;
}

const vicunaSystem =
  "A chat between a curious user and an artificial intelligence assistant. " +
  "The assistant gives helpful, detailed, and polite answers to the user's questions.";

/** Vicuna's, version 1: what the second stage is trained with. A system message replaces the usual one. */
export const vicunaV1: ChatTemplate = {
  name: "vicuna_v1",
  render(messages, options) {
    const { system, turns } = conversation(messages, options);
    const empty = turns.findIndex(({ text }) => text === "");
    if (empty >= 0)
      throw new TextError(`vicuna_v1: the turn of the ${turns[empty]?.role ?? ""} is empty, which is how an open turn is written`);
    const spoken = turns.map(({ role, text }) => (role === "user" ? `USER: ${text} ` : `ASSISTANT: ${text}</s>`));
    return `${system ?? vicunaSystem} ${spoken.join("")}${isOpen(options) ? "ASSISTANT:" : ""}`;
  },
};

/** A picture and its caption: what the first stage is trained with. What the user says beside the picture is left out. */
export const plain: ChatTemplate = {
  name: "plain",
  render(messages, options) {
    const { system, turns } = conversation(messages, options);
    const [user, caption] = turns;
    if (system !== undefined) throw new TextError("plain: there is no place for a system message");
    if (turns.length > 2)
      throw new TextError(`plain: there is one picture and one caption, and the conversation has ${turns.length} turns`);
    const pictures = (user?.text.split(imageToken).length ?? 1) - 1;
    if (pictures !== 1) throw new TextError(`plain: the user shows one picture, and here are ${pictures}`);
    return imageToken + (caption === undefined ? "" : `${caption.text}\n`);
  },
};

export const chatTemplates: Readonly<Record<string, ChatTemplate>> = { vicuna_v1: vicunaV1, plain };

/** `import * as jinja from "@huggingface/jinja"`: pass it where a bundler has to see the import. */
export interface JinjaLibrary {
  readonly Template: new (source: string) => { render(values: Record<string, unknown>): string };
}

export interface JinjaOptions {
  /** The texts of special tokens, by the names that templates use: `bos_token`, `eos_token`, … */
  readonly tokens?: Readonly<Record<string, string>> | undefined;
  readonly library?: JinjaLibrary | undefined;
}

/** A model's own template. Throws TextError when it is not Jinja. */
export async function jinjaTemplate(source: string, options: JinjaOptions = {}): Promise<ChatTemplate> {
  const { Template } = options.library ?? (await loadJinja());
  const attempt = <T>(what: string, run: () => T): T => {
    try {
      return run();
    } catch (cause) {
      throw new TextError(`the model's chat template ${what}: ${messageOf(cause)}`, { cause });
    }
  };
  const template = attempt("cannot be read", () => new Template(source));
  return {
    name: "the model's chat template",
    render(messages, renderOptions) {
      const { system, turns } = conversation(messages, renderOptions);
      const list = [
        ...(system === undefined ? [] : [{ role: "system", content: system }]),
        ...turns.map(({ role, text }) => ({ role, content: text })),
      ];
      return attempt("refuses the conversation", () =>
        template.render({ ...options.tokens, messages: list, add_generation_prompt: isOpen(renderOptions) }),
      );
    },
  };
}

/** The template that came with a tokenizer, if one did. */
export async function templateOf(
  tokenizer: Pick<Tokenizer, "chatTemplate" | "token" | "bos" | "eos" | "unk" | "pad">,
  options: Pick<JinjaOptions, "library"> = {},
): Promise<ChatTemplate | undefined> {
  if (tokenizer.chatTemplate === undefined) return undefined;
  const tokens: Record<string, string> = {};
  for (const name of ["bos", "eos", "unk", "pad"] as const) {
    const id = tokenizer[name];
    const token = id === undefined ? undefined : tokenizer.token(id);
    if (token !== undefined) tokens[`${name}_token`] = token;
  }
  return jinjaTemplate(tokenizer.chatTemplate, { ...options, tokens });
}

async function loadJinja(): Promise<JinjaLibrary> {
  try {
    // Through a variable, so that a browser bundle does not try to contain it.
    const specifier = "@huggingface/jinja";
    return (await import(/* @vite-ignore */ specifier)) as JinjaLibrary;
  } catch (cause) {
    throw new TextError(`chat templates are run by the package "@huggingface/jinja", which cannot be loaded: ${messageOf(cause)}`, {
      cause,
    });
  }
}

const isOpen = (options: RenderOptions | undefined): boolean => options?.open ?? true;

/** An optional system message, then user and assistant in turn; before an open turn the user has spoken. */
function conversation(
  messages: readonly Message<unknown>[],
  options: RenderOptions | undefined,
): { readonly system: string | undefined; readonly turns: readonly Turn[] } {
  const all = messages.map((message, at) => turnOf(message, at));
  const [first] = all;
  const system = first?.role === "system" ? first.text : undefined;
  const turns = system === undefined ? all : all.slice(1);
  if (turns.length === 0) throw new TextError("the conversation has no turn of the user");
  turns.forEach(({ role }, i) => {
    const due = i % 2 === 0 ? "user" : "assistant";
    const at = messages.length - turns.length + i;
    if (role !== due) throw new TextError(`message ${at} is the ${role}'s, and it is the ${due}'s turn`);
  });
  if (isOpen(options) && turns.at(-1)?.role === "assistant") throw new TextError("the assistant has spoken last: there is no turn to open");
  return { system, turns };
}

function turnOf(message: Message<unknown>, at: number): Turn {
  const { role, content } = message;
  if (role !== "system" && role !== "user" && role !== "assistant")
    throw new TextError(`message ${at} has the unknown role ${JSON.stringify(role)}`);
  const text = typeof content === "string" ? content : joined(content, at);
  checkUnicode(text, `message ${at}`);
  if (role === "system" && text.includes(imageToken)) throw new TextError(`message ${at}: a system message shows no picture`);
  return { role, text };
}

function joined(parts: readonly (TextPart | ImagePart<unknown>)[], at: number): string {
  if (!Array.isArray(parts)) throw new TextError(`message ${at} has content that is neither a string nor parts`);
  let pictures = "";
  let text = "";
  for (const part of parts as readonly (TextPart | ImagePart<unknown>)[]) {
    if (part.type === "image") pictures += `${imageToken}\n`;
    else if (part.type === "text" && typeof part.text === "string") text += part.text;
    else throw new TextError(`message ${at} has a part that is neither text nor an image`);
  }
  return pictures + text;
}
