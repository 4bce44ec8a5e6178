// Photos on the command line: uhdc chat --image and /image, uhdc run --prompt. The models are tiny and untrained, and the
// command line says so; what they answer is what load() answers.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compileGraph } from "../compiler/compile.ts";
import { load } from "../runtime/model/load.ts";
import { encodeSafetensors } from "../runtime/weights/safetensors.ts";
import { uhdc, type CliResult } from "./cli-support.ts";
import { graphOf } from "./graphs-support.ts";
import { fixture } from "./text-support.ts";

const photo = "examples/photos/astronaut-portrait.jpg";
const other = "examples/photos/rocket.jpg";
const sizes = { width: 48, head_width: 16, heads: 3, kv_heads: 1, llama_layers: 2, ffn: 64, vocabulary: 800, tied: true, context: 256 };
const eyes = { layers: 1, vit_width: 32, vit_heads: 2, vit_hidden: 48, vit_side: 4, resampler_side: 2, embedding_table: false };
const set = (config: Readonly<Record<string, unknown>>): readonly string[] =>
  Object.entries(config).flatMap(([name, value]) => ["--set", `${name}=${String(value)}`]);

let folder = "";

beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), "uhd-model-cli-"));
  const model = path.join(folder, "tiny");
  mkdirSync(model);
  const config = {
    ...{ model_type: "llama", hidden_size: 48, num_attention_heads: 3, num_key_value_heads: 1, head_dim: 16, num_hidden_layers: 2 },
    ...{ intermediate_size: 64, vocab_size: 800, rms_norm_eps: 1e-5, max_position_embeddings: 256, tie_word_embeddings: true },
  };
  writeFileSync(path.join(model, "config.json"), JSON.stringify(config));
  writeFileSync(path.join(model, "tokenizer.model"), Buffer.from(fixture.scored.prefixed.model, "base64"));
  const norm = { dtype: "f32", shape: [48], data: new Float32Array(48).fill(1) } as const;
  writeFileSync(path.join(model, "model.safetensors"), Buffer.concat(encodeSafetensors(new Map([["model.norm.weight", norm]]))));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const model = (): string => path.join(folder, "tiny");
const chat = (args: readonly string[], input = ""): Promise<CliResult> =>
  uhdc(["chat", model(), "--template", "vicuna_v1", "--system", "Be brief.", "--max-tokens", "5", "--init", "seeded:1", ...args], {
    input,
  });

interface Event {
  readonly event: "piece" | "answer";
  readonly text: string;
  readonly tokens?: number;
  readonly untrained?: boolean;
}

const eventsOf = (text: string): readonly Event[] =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Event);

describe("uhdc chat with photos", () => {
  test("answers what load() answers, as events, and says that it is untrained", async () => {
    const { code, stdout, stderr } = await chat(["--image", photo, "--prompt", "What is this?", "--json", ...set(eyes)]);
    expect(stderr).toMatch(/untrained: \d+ of \d+ parameters are random; the answers mean nothing/);
    expect(code).toBe(0);
    const events = eventsOf(stdout);
    expect(events.at(-1)).toMatchObject({ event: "answer", tokens: 5, untrained: true });
    const graph = compileGraph(graphOf("graphs/llava-uhd-chat.uhd", "llava_uhd_chat", { ...sizes, ...eyes, theta: 10000, eps: 1e-5 }));
    await using loaded = await load({ graph, model: model(), template: "vicuna_v1", init: { seed: 1 } });
    let text = "";
    const messages = [{ role: "system", content: "Be brief." } as const, { role: "user", content: "<image>\nWhat is this?" } as const];
    for await (const piece of loaded.generate({ messages, images: [photo], maximumTokens: 5 })) text += piece;
    expect(events.at(-1)?.text).toBe(text);
    expect(
      events
        .slice(0, -1)
        .map((e) => e.text)
        .join(""),
    ).toBe(text);
  });

  test("draws and searches for an answer as it does for text", async () => {
    const ask = async (...args: readonly string[]): Promise<string> => {
      const { code, stdout, stderr } = await chat(["--image", photo, "--prompt", "What is this?", ...set(eyes), ...args]);
      expect(code, stderr).toBe(0);
      return stdout.trim();
    };
    const drawn = await ask("--temperature", "2", "--top-p", "0.99", "--seed", "4");
    expect(await ask("--temperature", "2", "--top-p", "0.99", "--seed", "4")).toBe(drawn);
    expect(await ask("--beams", "3")).not.toBe("");
    const both = await chat(["--image", photo, "--prompt", "x", "--beams", "2", "--temperature", "0.5", ...set(eyes)]);
    expect(both.code).toBe(2);
    expect(both.stderr).toContain("--beams searches for the likeliest answer: it goes without --temperature");
  });

  test("shows photos with /image, one with each turn, and begins anew with /reset", async () => {
    const turns = [`/image ${photo}`, "What is this?", `/image ${other}`, "And this?", "/reset", `/image ${photo}`, "What is this?"];
    const { code, stdout, stderr } = await chat(
      ["--image", photo, "--json", ...set({ ...eyes, context: 256 })],
      ["/reset", ...turns, ""].join("\n"),
    );
    expect(stderr).toContain("1 to be shown");
    expect(code).toBe(0);
    const answers = eventsOf(stdout).filter(({ event }) => event === "answer");
    expect(answers).toHaveLength(3);
    expect(answers[2]?.text).toBe(answers[0]?.text);
  });

  test("refuses photos for a model that does not see, bad photos, and commands that are not there", async () => {
    const blind = await uhdc(["chat", model(), "--template", "vicuna_v1", "--image", photo, "--prompt", "What?"]);
    expect(blind.code).toBe(1);
    expect(blind.stderr).toContain("has no projector, so its language model does not see");
    const text = await chat([], `/image ${photo}\nWhat is this?\n`);
    expect(text.code).toBe(1);
    expect(text.stderr).toContain("llama takes no images");
    const bad = await chat(["--image", "package.json", "--prompt", "What?", ...set(eyes)]);
    expect(bad.code).toBe(1);
    expect(bad.stderr).toContain("package.json: not a JPEG, PNG or WebP file");
    const unknown = await chat([], "/show me\n");
    expect(unknown.code).toBe(1);
    expect(unknown.stderr).toContain("there is no /show");
    const tokens = await chat(["--image", photo, "--prompt", "<image> <image>", ...set(eyes)]);
    expect(tokens.code).toBe(1);
    expect(tokens.stderr).toContain("an image token without an image");
  });
});

describe("uhdc run --prompt", () => {
  const graph = ["run", "graphs/llava-uhd-chat.uhd", ...set({ ...sizes, ...eyes })];
  const asked = ["--prompt", "What is this?", "--template", "vicuna_v1", "--system", "Be brief.", "--max-tokens", "5"];

  test("prints the answer of a graph with a language model, with several photos or none", async () => {
    const one = await uhdc([...graph, ...asked, "--image", photo, "--tokenizer", model(), "--init", "seeded:1"]);
    expect(one.stderr).toContain("untrained: ");
    expect(one.code).toBe(0);
    expect(one.stdout.trim()).not.toBe("");
    const two = await uhdc([...graph, ...asked, "--image", photo, other, "--weights", model(), "--init", "seeded:1", "--json"]);
    expect(two.code).toBe(0);
    expect(eventsOf(two.stdout).at(-1)).toMatchObject({ event: "answer", untrained: true, tokens: 5 });
    const none = await uhdc([...graph, ...asked, "--tokenizer", model(), "--init", "seeded:1"]);
    expect(none.code).toBe(0);
  });

  test("needs a tokenizer, of the graph's vocabulary, and weights; without a prompt, a photo", async () => {
    const refused = async (args: readonly string[], code: number, message: string): Promise<void> => {
      const result = await uhdc([...graph, ...args]);
      expect(result.stderr).toContain(message);
      expect(result.code).toBe(code);
    };
    await refused([...asked, "--init", "seeded:1"], 2, "--prompt needs a tokenizer");
    await refused([...asked, "--tokenizer", model()], 1, "no weights were given");
    await refused(
      [...asked, "--tokenizer", model(), "--init", "seeded:1", "--set", "vocabulary=700"],
      1,
      "the tokenizer has 800 tokens and the model only 700",
    );
    await refused(["--init", "seeded:1"], 2, "give a photo with --image FILE");
    await refused(["--init", "seeded:1", "--image", photo, "--max-tokens", "5"], 2, "go with --prompt");
    await refused(["--init", "seeded:1", "--image", photo], 1, "ask a language model with --prompt");
  });
});
