// examples/chat as an application has it: the runtime's package, an artefact, a checkpoint, and nothing of the compiler. The
// artefact and the checkpoint are one folder, which `uhdc compile --model` makes of a Hugging Face folder.

import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { encodeSafetensors } from "../runtime/weights/safetensors.ts";
import { installRuntime, root, uhdc } from "./cli-support.ts";
import { generatedWeights, graphOf } from "./graphs-support.ts";
import { fixture } from "./text-support.ts";

let app = "";
let model = "";

const eyes = { layers: 1, vit_width: 32, vit_heads: 2, vit_hidden: 48, vit_side: 4, resampler_side: 2, embedding_table: false };

beforeAll(async () => {
  // Inside node_modules, so that the application finds the packages that the runtime asks for.
  const cache = path.join(root, "node_modules/.cache");
  mkdirSync(cache, { recursive: true });
  app = mkdtempSync(path.join(cache, "uhd-example-"));
  installRuntime(app);
  cpSync(path.join(root, "examples/chat/chat.mjs"), path.join(app, "chat.mjs"));
  model = path.join(app, "tiny");
  mkdirSync(model);
  const sizes = { width: 48, head_width: 16, heads: 3, kv_heads: 1, llama_layers: 1, ffn: 64, vocabulary: 800, tied: true, context: 512 };
  const config = {
    ...{ model_type: "llama", hidden_size: 48, num_attention_heads: 3, num_key_value_heads: 1, head_dim: 16, num_hidden_layers: 1 },
    ...{ intermediate_size: 64, vocab_size: 800, rms_norm_eps: 1e-5, max_position_embeddings: 512, tie_word_embeddings: true },
  };
  const chat_template =
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}";
  writeFileSync(path.join(model, "config.json"), JSON.stringify(config));
  writeFileSync(path.join(model, "tokenizer_config.json"), JSON.stringify({ chat_template }));
  writeFileSync(path.join(model, "tokenizer.model"), Buffer.from(fixture.scored.prefixed.model, "base64"));
  const graph = graphOf("graphs/llava-uhd-chat.uhd", "llava_uhd_chat", { ...sizes, ...eyes });
  writeFileSync(path.join(model, "model.safetensors"), Buffer.concat(encodeSafetensors(generatedWeights(graph))));
  const settings = Object.entries(eyes).flatMap(([name, value]) => ["--set", `${name}=${String(value)}`]);
  const made = await uhdc(["compile", "graphs/llava-uhd-chat.uhd", "--model", model, ...settings, "-o", model]);
  expect(made.stderr).toBe("");
  expect(made.code).toBe(0);
}, 60_000);

afterAll(() => rmSync(app, { recursive: true, force: true }));

test("a conversation with photos needs the runtime, an artefact and a checkpoint", { timeout: 60_000 }, () => {
  const photo = path.join(root, "examples/photos/astronaut-portrait.jpg");
  const ask = (input: string): { readonly status: number | null; readonly stdout: string; readonly stderr: string } =>
    spawnSync(process.execPath, ["chat.mjs", model], { cwd: app, input, encoding: "utf8" });
  const { status, stdout, stderr } = ask(`@${photo} What is this?\nAnd this?\n`);
  expect(stderr).toBe("");
  expect(status).toBe(0);
  // Random weights say anything, but with the photo not the same.
  expect(stdout.trim().length).toBeGreaterThan(0);
  expect(ask("What is this?\n").stdout).not.toBe(stdout);
  const bad = ask("@nowhere.jpg What is this?\n");
  expect(bad.status).toBe(1);
  expect(bad.stderr).toContain("ImageError: nowhere.jpg");
});
