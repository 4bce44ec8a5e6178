// Writes what `uhdc train` and the evaluation need: pictures, conversations about them in the LLaVA family's JSON, and a
// tokenizer of characters. The same arguments give the same bytes.

import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { characterOfByte } from "../../runtime/text/definition.ts";
import { makeScene, renderScene, type Question, type Sort, type Split } from "./scene.ts";

/** Printable ASCII and the newline, behind two specials. */
const characters = [..."\n", ...Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i))];
const special = (id: number, content: string) => ({
  id,
  content,
  special: true,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
});

/** A turn of the user ends with a newline, one of the assistant with "</s>". */
const chatTemplate =
  "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'user' %}{{ '\\n' }}{% else %}{{ '</s>' }}{% endif %}{% endfor %}";

export async function writeTokenizer(folder: string): Promise<void> {
  const vocab = Object.fromEntries(characters.map((c, i) => [characterOfByte[c.charCodeAt(0)] ?? c, i + 2]));
  const tokenizer = {
    version: "1.0",
    added_tokens: [special(0, "<s>"), special(1, "</s>")],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
    model: { type: "BPE", vocab, merges: [] },
  };
  await mkdir(folder, { recursive: true });
  await writeFile(path.join(folder, "tokenizer.json"), `${JSON.stringify(tokenizer, null, 1)}\n`);
  await writeFile(
    path.join(folder, "tokenizer_config.json"),
    `${JSON.stringify({ bos_token: "<s>", eos_token: "</s>", chat_template: chatTemplate }, null, 1)}\n`,
  );
}

export interface TestItem extends Question {
  readonly image: string;
}

/** `NAME.json` for training, `NAME.questions.json` for evaluation, and the pictures in `images/NAME`. NAME: "small" or the split. */
export async function writeSplit(folder: string, split: Split, count: number, seed: number, sort: Sort = "plain"): Promise<void> {
  const name = sort === "plain" ? split : sort;
  const images = path.join(folder, "images", name);
  await mkdir(images, { recursive: true });
  const records: object[] = [];
  const items: TestItem[] = [];
  // A few at once: drawing happens on threads of its own.
  for (let from = 0; from < count; from += 16) {
    const some = Array.from({ length: Math.min(16, count - from) }, (_, i) => from + i);
    await Promise.all(
      some.map(async (i) => {
        const scene = makeScene(split, seed, i, sort);
        const image = `${name}/${i}.png`;
        await writeFile(path.join(folder, "images", image), await renderScene(scene));
        records[i] = {
          id: `${name}-${i}`,
          image,
          conversations: scene.questions.flatMap((q, n) => [
            { from: "human", value: n === 0 ? `<image>\n${q.question}` : q.question },
            { from: "gpt", value: q.answer },
          ]),
        };
      }),
    );
    for (const i of some) items.push(...makeScene(split, seed, i, sort).questions.map((q) => ({ ...q, image: `${name}/${i}.png` })));
  }
  await writeFile(path.join(folder, `${name}.json`), `[\n${records.map((r) => JSON.stringify(r)).join(",\n")}\n]\n`);
  await writeFile(path.join(folder, `${name}.questions.json`), `${JSON.stringify(items)}\n`);
}
