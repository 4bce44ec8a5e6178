// Conversations as text, and prompts with pictures as positions.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { TextError } from "../runtime/errors.ts";
import { chatTemplates, imagesOf, jinjaTemplate, plain, templateOf, vicunaV1, type Message } from "../runtime/text/chat.ts";
import { encodePrompt, imagePlaceholder, layOut, layoutTables } from "../runtime/text/prompt.ts";
import { tokenizerFromGguf } from "../runtime/text/tokenizer.ts";
import { property } from "./conformance/property.ts";
import { fixture, llamaMetadata, llamaPieces } from "./text-support.ts";

const system =
  "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions.";
const user = (content: Message<unknown>["content"]): Message<unknown> => ({ role: "user", content });
const assistant = (content: string): Message => ({ role: "assistant", content });
const picture = (image: unknown): { type: "image"; image: unknown } => ({ type: "image", image });
const say = (text: string): { type: "text"; text: string } => ({ type: "text", text });

describe("vicuna_v1", () => {
  test("opens the assistant's turn", () => {
    expect(vicunaV1.render([user("<image>\nWhat is this?")])).toBe(`${system} USER: <image>\nWhat is this? ASSISTANT:`);
  });

  test("ends each answer with </s>", () => {
    const messages = [user("Hi"), assistant("Hello."), user("Bye")];
    expect(vicunaV1.render(messages)).toBe(`${system} USER: Hi ASSISTANT: Hello.</s>USER: Bye ASSISTANT:`);
    expect(vicunaV1.render(messages.slice(0, 2), { open: false })).toBe(`${system} USER: Hi ASSISTANT: Hello.</s>`);
  });

  test("takes another system text", () => {
    expect(vicunaV1.render([{ role: "system", content: "Be brief." }, user("Hi")])).toBe("Be brief. USER: Hi ASSISTANT:");
  });

  test("has the pictures of a turn first, each on its line", () => {
    const messages = [
      user([say("Compare "), picture("a"), picture("b"), say("these.")]),
      assistant("No."),
      user([picture("c"), say("And this?")]),
    ];
    expect(vicunaV1.render(messages)).toBe(
      `${system} USER: <image>\n<image>\nCompare these. ASSISTANT: No.</s>USER: <image>\nAnd this? ASSISTANT:`,
    );
    expect(imagesOf(messages)).toEqual(["a", "b", "c"]);
  });

  test("has no empty turn", () => {
    expect(() => vicunaV1.render([user("")])).toThrow(/the turn of the user is empty/);
  });
});

describe("plain", () => {
  test("is the picture, then its caption and a newline", () => {
    expect(plain.render([user([picture(1), say("Describe.")]), assistant("A cat.")], { open: false })).toBe("<image>A cat.\n");
    expect(plain.render([user("<image>\nDescribe.")])).toBe("<image>");
  });

  test("is of one picture and one turn", () => {
    expect(() => plain.render([user("Hi")])).toThrow(new TextError("plain: the user shows one picture, and here are 0"));
    expect(() => plain.render([user([picture(1), picture(2)])])).toThrow(/here are 2/);
    expect(() => plain.render([{ role: "system", content: "x" }, user("<image>")])).toThrow(/no place for a system message/);
    expect(() => plain.render([user("<image>"), assistant("a"), user("b")])).toThrow(/has 3 turns/);
  });
});

describe("a model's own template", () => {
  test("renders SmolLM2's conversations as Jinja2 does", async () => {
    const tokenizer = await tokenizerFromGguf(fixture.byteLevel.metadata);
    const template = await templateOf(tokenizer);
    for (const { messages, open, text } of fixture.byteLevel.chats) expect(template?.render(messages, { open })).toBe(text);
  });

  test("sees the special tokens by name", async () => {
    const metadata = {
      ...llamaMetadata(llamaPieces),
      "tokenizer.chat_template": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ messages[0].content }}",
    };
    const template = await templateOf(await tokenizerFromGguf(metadata));
    expect(template?.render([user([picture(1), say("x")])])).toBe("<s>|</s>|<unk>|<image>\nx");
  });

  test("may be missing, wrong, or refuse", async () => {
    expect(await templateOf(await tokenizerFromGguf(llamaMetadata(llamaPieces)))).toBeUndefined();
    await expect(jinjaTemplate("{% for %}")).rejects.toThrow(/^the model's chat template cannot be read: /);
    const refusing = await jinjaTemplate("{{ raise_exception('only one turn') }}");
    expect(() => refusing.render([user("a")])).toThrow(new TextError("the model's chat template refuses the conversation: only one turn"));
  });
});

describe("a conversation", () => {
  const all = Object.values(chatTemplates);
  test.each([
    [[], /no turn of the user/],
    [[{ role: "system", content: "x" }], /no turn of the user/],
    [[assistant("Hi")], /message 0 is the assistant's, and it is the user's turn/],
    [[user("<image>"), user("b")], /message 1 is the user's, and it is the assistant's turn/],
    [[user("<image>"), { role: "system", content: "x" }], /message 1 is the system's/],
    [[user("<image>"), assistant("b")], /the assistant has spoken last/],
    [[{ role: "tool", content: "x" } as unknown as Message], /message 0 has the unknown role "tool"/],
    [[{ role: "user" } as unknown as Message], /message 0 has content that is neither a string nor parts/],
    [[user([{ type: "sound" } as unknown as { type: "text"; text: string }])], /message 0 has a part that is neither text nor an image/],
    [[user("a\udc00")], /message 0 is not Unicode/],
    [[{ role: "system", content: "<image>" }, user("a")], /message 0: a system message shows no picture/],
  ] as const)("that is malformed is refused by each template: %j", async (messages, message) => {
    for (const template of [...all, await jinjaTemplate("x")]) {
      const attempt = (): string => template.render(messages as readonly Message[]);
      expect(attempt).toThrow(TextError);
      expect(attempt).toThrow(message);
    }
  });
});

describe("a prompt with pictures", () => {
  const llama = tokenizerFromGguf(llamaMetadata(llamaPieces));

  test("is tokenised piece by piece, with one BOS", async () => {
    const tokenizer = await llama;
    const space = tokenizer.id("▁") ?? -1;
    const [a, the] = [tokenizer.id("▁a") ?? -1, tokenizer.id("▁the") ?? -1];
    expect(encodePrompt(tokenizer, "a<image>\nthe", 1)).toEqual([
      1,
      a,
      imagePlaceholder,
      space,
      13,
      ...tokenizer.encode("\nthe", { specials: false }).slice(2),
    ]);
    expect(encodePrompt(tokenizer, "a<image>the<image>", 2)).toEqual([1, a, imagePlaceholder, the, imagePlaceholder]);
    expect(encodePrompt(tokenizer, "<image><image>", 2)).toEqual([1, imagePlaceholder, imagePlaceholder]);
    expect(encodePrompt(tokenizer, "the", 0)).toEqual([1, the]);
    expect(encodePrompt(tokenizer, "", 0)).toEqual([1]);
  });

  test("that begins with a BOS of its own has no second", async () => {
    const tokenizer = await llama;
    expect(encodePrompt(tokenizer, "<s>a<image>", 1)).toEqual([1, tokenizer.id("▁a"), imagePlaceholder]);
  });

  test("has an EOS once, at the end, where the tokenizer adds one", async () => {
    const tokenizer = await tokenizerFromGguf({ ...llamaMetadata(llamaPieces), "tokenizer.ggml.add_eos_token": true });
    expect(encodePrompt(tokenizer, "a<image>a", 1)).toEqual([1, tokenizer.id("▁a"), imagePlaceholder, tokenizer.id("▁a"), 2]);
  });

  test("has as many image tokens as there are images", async () => {
    const tokenizer = await llama;
    expect(() => encodePrompt(tokenizer, "a<image>", 0)).toThrow(
      new TextError("an image token without an image: the prompt has 1 image token and there are 0 images"),
    );
    expect(() => encodePrompt(tokenizer, "a", 1)).toThrow(
      new TextError("an image without an image token: the prompt has 0 image tokens and there is 1 image"),
    );
  });

  test("is Unicode", async () => {
    const tokenizer = await llama;
    expect(() => encodePrompt(tokenizer, "<image>\ud800", 1)).toThrow(TextError);
  });
});

describe("the layout of a sequence", () => {
  const ids = [1, 5, imagePlaceholder, 6, imagePlaceholder];

  test("puts each picture's rows in the place of its placeholder", () => {
    expect(layOut(ids, [3, 2])).toEqual({
      length: 8,
      fullLength: 8,
      spans: [
        { kind: "text", start: 0, ids: [1, 5] },
        { kind: "image", start: 2, image: 0, length: 3 },
        { kind: "text", start: 5, ids: [6] },
        { kind: "image", start: 6, image: 1, length: 2 },
      ],
    });
  });

  test("ends at the maximum, or is refused", () => {
    expect(layOut(ids, [3, 2], { maximum: 4, overflow: "truncate" })).toEqual({
      length: 4,
      fullLength: 8,
      spans: [
        { kind: "text", start: 0, ids: [1, 5] },
        { kind: "image", start: 2, image: 0, length: 2 },
      ],
    });
    expect(layOut(ids, [3, 2], { maximum: 8 }).length).toBe(8);
    expect(() => layOut(ids, [3, 2], { maximum: 7 })).toThrow(new TextError("the prompt takes 8 positions, and the model has 7"));
  });

  test("has as many pictures as placeholders, none of them empty", () => {
    expect(() => layOut(ids, [3])).toThrow(/an image token without an image/);
    expect(() => layOut(ids, [3, 2, 1])).toThrow(/an image without an image token/);
    expect(() => layOut(ids, [3, 0])).toThrow(new TextError("the visual sequence of image 1 has the length 0"));
  });

  test("as tables says for each position which token or which row it is", () => {
    const layout = layOut(ids, [3, 2], { maximum: 7, overflow: "truncate" });
    const tables = layoutTables(layout, [3, 2]);
    expect([...tables.ids]).toEqual([1, 5, -200, -200, -200, 6, -200]);
    expect([...tables.visual]).toEqual([-1, -1, 0, 1, 2, -1, 3]);
  });

  const mixed = fc.record({
    items: fc.array(fc.oneof(fc.nat(9), fc.record({ rows: fc.integer({ min: 1, max: 4 }) })), { maxLength: 12 }),
    maximum: fc.nat(30),
  });

  test("is what replacing placeholders one by one gives, cut at the maximum", () => {
    property(mixed, ({ items, maximum }) => {
      const rows = items.flatMap((item) => (typeof item === "number" ? [] : [item.rows]));
      const layout = layOut(
        items.map((item) => (typeof item === "number" ? item : imagePlaceholder)),
        rows,
        { maximum, overflow: "truncate" },
      );
      const tables = layoutTables(layout, rows);
      let row = 0;
      const whole = items.flatMap((item) =>
        typeof item === "number" ? [[item, -1]] : Array.from({ length: item.rows }, () => [imagePlaceholder, row++]),
      );
      expect(Array.from(tables.ids, (id, at) => [id, tables.visual[at]])).toEqual(whole.slice(0, maximum));
      expect(layout.fullLength).toBe(whole.length);
    });
  });
});
