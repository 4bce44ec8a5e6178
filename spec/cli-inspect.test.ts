// `uhdc inspect` and `uhdc convert`: what they say of each kind of checkpoint, what they write, and that a command that
// fails or is stopped leaves nothing behind. And `uhdc run` with weights that are not safetensors.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { loadArtefact } from "../runtime/artefact.ts";
import { bytesOfTensor, type Tensor } from "../runtime/tensor.ts";
import { defaultInit, seededElements } from "../runtime/weights/init.ts";
import { openSafetensors, writeSafetensors } from "../runtime/weights/safetensors.ts";
import { builtFolder, root, smallGraph, uhdc } from "./cli-support.ts";
import { arrayPair, Bytes, gguf, pair, stringPair, u32Pair } from "./gguf-writer.ts";
import { hasSmollm2, smollm2Path } from "./smollm2.ts";
import { dict, pickle, tensor, zip } from "./zip-writer.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-inspect-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const inFolder = (name: string): string => path.join(folder, name);
const f32s = (...values: readonly number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);

/** A LLaMA of one head, whose queries have one column. */
const small = gguf({
  pairs: [
    stringPair("general.architecture", "llama"),
    u32Pair("llama.attention.head_count", 1),
    pair("large", "u64", (o) => o.u64(2n ** 60n)),
    arrayPair("tokenizer.ggml.tokens", "string", 2, (o) => o.text("a").text("b")),
    stringPair("evil", "\u001b[2Jgone\u202e"),
  ],
  tensors: [
    { name: "blk.0.attn_q.weight", shape: [4, 1], type: 0, data: f32s(1, 3, 2, 70_000) },
    {
      name: "token_embd.weight",
      shape: [1, 32],
      type: 8,
      data: new Bytes()
        .u8(0, 0x3c)
        .bytes(Array.from({ length: 32 }, (_, i) => i))
        .done(),
    },
    { name: "counts", shape: [2], type: 26, data: new Uint8Array(Int32Array.of(-1, 5).buffer) },
  ],
});
writeFileSync(inFolder("small.gguf"), small);
const archive = zip([
  { name: "m/data.pkl", data: pickle("\x80\x02", dict({ "w.x": tensor("0", 4, 0, [2, 2], [1, 2], "HalfStorage") }), ".") },
  { name: "m/data/0", data: new Uint8Array(Uint16Array.of(0x3c00, 0x4000, 0x4200, 0x4400).buffer) },
]);
writeFileSync(inFolder("small.bin"), archive);

async function tensorsOf(file: string): Promise<Record<string, { dtype: string; shape: readonly number[]; bytes: Uint8Array }>> {
  await using opened = await openSafetensors(file);
  const out: Record<string, { dtype: string; shape: readonly number[]; bytes: Uint8Array }> = {};
  for (const [name, { dtype, shape, begin, end }] of opened.tensors) {
    const bytes = new Uint8Array(end - begin);
    await opened.source.read(begin, bytes);
    out[name] = { dtype, shape, bytes };
  }
  return out;
}

const floats = (bytes: Uint8Array | undefined): number[] => [...new Float32Array((bytes ?? new Uint8Array()).slice().buffer)];

describe("uhdc inspect", () => {
  test("lists tensors, types, metadata and totals of GGUF, with both names", async () => {
    const { code, stdout, stderr } = await uhdc(["inspect", inFolder("small.gguf")]);
    expect(stderr).toBe("");
    expect(code).toBe(0);
    expect(stdout).toMatch(/small\.gguf: gguf, 3 tensors \(1 F32, 1 Q8_0, 1 I32\), 38 parameters, 58 B\n/);
    expect(stdout).toMatch(/general\.architecture +llama\n/);
    expect(stdout).toMatch(/large +1152921504606846976\n/);
    expect(stdout).toMatch(/tokenizer\.ggml\.tokens +2 × string\n/);
    expect(stdout).toMatch(/model\.layers\.0\.self_attn\.q_proj\.weight +F32 +\[4, 1\] +16 B +blk\.0\.attn_q\.weight\n/);
    expect(stdout).toMatch(/model\.embed_tokens\.weight +Q8_0 +\[1, 32\] +34 B +token_embd\.weight\n/);
    // Nothing of the file reaches the terminal as a command.
    expect(stdout).not.toMatch(/[\u001b\u202e]/);
    expect(stdout).toContain("\\u{1b}[2Jgone\\u{202e}");
  });

  test("gives the same as data", async () => {
    const { code, stdout } = await uhdc(["inspect", inFolder("small.gguf"), "--json"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      ok: true,
      format: "gguf",
      total: { tensors: 3, elements: 38, bytes: 58 },
      metadata: { large: "1152921504606846976", "tokenizer.ggml.tokens": { items: "string", length: 2 } },
      tensors: [
        { name: "model.layers.0.self_attn.q_proj.weight", dtype: "F32", shape: [4, 1], bytes: 16, nameInFile: "blk.0.attn_q.weight" },
        { name: "model.embed_tokens.weight", dtype: "Q8_0", shape: [1, 32], bytes: 34 },
        { name: "counts", dtype: "I32", shape: [2], bytes: 8 },
      ],
    });
  });

  test("knows PyTorch archives, safetensors with metadata, and Hugging Face folders with their model", async () => {
    expect((await uhdc(["inspect", inFolder("small.bin")])).stdout).toMatch(
      /: pytorch, 1 tensors \(1 F16\), 4 parameters[^]*w\.x +F16 +\[2, 2\] +8 B/,
    );
    const hf = inFolder("hf");
    mkdirSync(hf);
    await writeSafetensors(path.join(hf, "model.safetensors"), new Map([["a", { dtype: "i32", shape: [], data: Int32Array.of(1) }]]), {
      by: "us",
    });
    writeFileSync(path.join(hf, "config.json"), '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}');
    const { stdout } = await uhdc(["inspect", hf]);
    expect(stdout).toMatch(/: safetensors, 1 tensors \(1 I32\), 1 parameters, 4 B\narchitectures: LlamaForCausalLM\nmodel: llama\n/);
    expect(stdout).toMatch(/by +us\n/);
    writeFileSync(path.join(hf, "config.json"), "{");
    const broken = await uhdc(["inspect", hf]);
    expect([broken.code, broken.stdout]).toEqual([1, ""]);
    expect(broken.stderr).toMatch(/config\.json: cannot be read/);
  });

  test("lists the parameters of an artefact", async () => {
    const out = inFolder("artefact");
    expect((await uhdc(["compile", ...smallGraph, "-o", out])).code).toBe(0);
    const { plan } = await loadArtefact(out);
    const { stdout } = await uhdc(["inspect", out, "--json"]);
    const found = JSON.parse(stdout) as {
      readonly format: string;
      readonly graph: string;
      readonly tensors: readonly { readonly name: string }[];
    };
    expect([found.format, found.graph]).toEqual(["artefact", plan.name]);
    expect(found.tensors.map((t) => t.name)).toEqual(plan.params.map((p) => p.name));
  }, 120_000);

  test("says what is wrong in one line, with exit code 1", async () => {
    writeFileSync(inFolder("cut.gguf"), small.subarray(0, 100));
    const evil = pickle("\x80\x02cos\nsystem\n(", "X", new Uint8Array([2, 0, 0, 0]), "ls", "tR.");
    writeFileSync(inFolder("evil.pt"), zip([{ name: "m/data.pkl", data: evil }]));
    for (const [name, message] of [
      ["cut.gguf", /cut\.gguf is not a valid GGUF file: /],
      ["evil.pt", /m\/data\.pkl of .*evil\.pt is refused: it asks for os\.system/],
      ["none", /none cannot be opened: ENOENT/],
      [".", /holds neither model\.safetensors\.index\.json nor /],
    ] as const) {
      const { code, stdout, stderr } = await uhdc(["inspect", inFolder(name)]);
      expect([code, stdout]).toEqual([1, ""]);
      expect(stderr).toMatch(message);
      expect(stderr.trim().split("\n").length).toBe(1);
    }
  });
});

describe("uhdc convert", () => {
  test("writes GGUF as safetensors, in Hugging Face's names and order, blocks as f32", async () => {
    const out = inFolder("plain.safetensors");
    const { code, stdout, stderr } = await uhdc(["convert", inFolder("small.gguf"), "-o", out]);
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/plain\.safetensors: 3 tensors, 38 parameters, 152 B, in /);
    const tensors = await tensorsOf(out);
    expect(Object.keys(tensors).sort()).toEqual(["counts", "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"]);
    expect(floats(tensors["model.layers.0.self_attn.q_proj.weight"]?.bytes)).toEqual([1, 2, 3, 70_000]);
    expect(floats(tensors["model.embed_tokens.weight"]?.bytes)).toEqual(Array.from({ length: 32 }, (_, i) => i));
    expect(tensors["counts"]).toMatchObject({ dtype: "I32", shape: [2] });
  });

  test("changes the dtype of floats only, and says what became infinite", async () => {
    const out = inFolder("half.safetensors");
    const { code, stderr } = await uhdc(["convert", inFolder("small.gguf"), "-o", out, "--dtype", "f16"]);
    expect(code).toBe(0);
    expect(stderr).toBe("warning: infinite in f16, which ends at 65504: model.layers.0.self_attn.q_proj.weight\n");
    const tensors = await tensorsOf(out);
    expect(
      Object.values(tensors)
        .map((t) => t.dtype)
        .sort(),
    ).toEqual(["F16", "F16", "I32"]);
    const { bytes } = tensors["model.layers.0.self_attn.q_proj.weight"] ?? { bytes: new Uint8Array() };
    expect([...new Uint16Array(bytes.slice().buffer)]).toEqual([0x3c00, 0x4000, 0x4200, 0x7c00]);
  });

  test("joins several checkpoints and renames what names begin with", async () => {
    const out = inFolder("joined.safetensors");
    const args = ["--rename", "model.=", "--rename", "model.layers.=blocks/", "--dtype", "bf16", "--json"];
    const { code, stdout } = await uhdc(["convert", inFolder("small.gguf"), inFolder("small.bin"), "-o", out, ...args]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, tensors: 4, infinite: [] });
    const tensors = await tensorsOf(out);
    expect(Object.keys(tensors).sort()).toEqual(["blocks/0.self_attn.q_proj.weight", "counts", "embed_tokens.weight", "w.x"]);
    // The archive has it transposed.
    expect([...new Uint16Array((tensors["w.x"]?.bytes ?? new Uint8Array()).slice().buffer)]).toEqual([0x3f80, 0x4040, 0x4000, 0x4080]);
  });

  test("refuses two tensors of one name, and blocks that cannot be read, and leaves what was there", async () => {
    const out = inFolder("kept.safetensors");
    writeFileSync(out, "kept");
    writeFileSync(inFolder("iq4.gguf"), gguf({ tensors: [{ name: "a", shape: [32], type: 20, data: new Uint8Array(18) }] }));
    for (const [args, message] of [
      [[inFolder("small.gguf"), "--rename", "model.layers.0.self_attn.q_proj.weight=counts"], /two tensors would have one name: counts/],
      [[inFolder("iq4.gguf")], /tensor a of .* is IQ4_NL, which cannot be read/],
      [[inFolder("small.gguf"), inFolder("small.gguf")], /has tensors that a file before it has too/],
    ] as const) {
      const { code, stdout, stderr } = await uhdc(["convert", ...args, "-o", out]);
      expect([code, stdout]).toEqual([1, ""]);
      expect(stderr).toMatch(message);
      expect(readFileSync(out, "utf8")).toBe("kept");
    }
    expect(readdirSync(folder).filter((name) => name.includes(".tmp"))).toEqual([]);
    expect((await uhdc(["convert", inFolder("small.gguf"), "-o", out, "--rename", "model"])).code).toBe(2);
    const nowhere = await uhdc(["convert", inFolder("small.gguf"), "-o", inFolder("no/such.safetensors")]);
    expect(nowhere.code).toBe(1);
    expect(nowhere.stderr).toMatch(/such\.safetensors cannot be written: ENOENT/);
  });

  test("of SmolLM2-135M gives its 134,515,008 parameters, and nothing when it is stopped", async (context) => {
    if (!hasSmollm2(context, "converting SmolLM2-135M")) return;
    const out = inFolder("smol.safetensors");
    const { stdout } = await uhdc(["convert", smollm2Path, "-o", out, "--dtype", "bf16", "--json"]);
    expect(JSON.parse(stdout)).toMatchObject({ tensors: 272, elements: 134_515_008, bytes: 269_030_016, infinite: [] });
    rmSync(out);
    const child = spawn(process.execPath, [path.join(builtFolder(), "compiler/cli/uhdc.js"), "convert", smollm2Path, "-o", out], {
      cwd: root,
      stdio: ["ignore", "ignore", "pipe"],
    });
    const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
    // As soon as it writes.
    while (child.exitCode === null && !readdirSync(folder).some((name) => name.endsWith(".tmp")))
      await new Promise((r) => setTimeout(r, 2));
    child.kill("SIGINT");
    expect(await ended).toBe(1);
    expect(readdirSync(folder).filter((name) => name.startsWith("smol.safetensors"))).toEqual([]);
  }, 60_000);
});

describe("uhdc run", () => {
  test("takes the same weights from safetensors, GGUF and a PyTorch archive, and gives the same", async () => {
    const artefact = inFolder("artefact");
    if (!existsSync(artefact)) expect((await uhdc(["compile", ...smallGraph, "-o", artefact])).code).toBe(0);
    const { plan } = await loadArtefact(artefact);
    const weights = new Map<string, Tensor>();
    for (const { name, shape, init } of plan.params) {
      const data = new Float32Array(shape.reduce((n, d) => n * d, 1));
      seededElements(5, name, init ?? defaultInit, 0, data);
      weights.set(name, { dtype: "f32", shape, data });
    }
    await writeSafetensors(inFolder("weights.safetensors"), weights);
    const list = [...weights];
    writeFileSync(
      inFolder("weights.gguf"),
      gguf({ tensors: list.map(([name, t]) => ({ name, shape: t.shape, type: 0, data: bytesOfTensor(t) })) }),
    );
    const strides = (shape: readonly number[]): number[] => shape.map((_, i) => shape.slice(i + 1).reduce((n, d) => n * d, 1));
    const program = dict(
      Object.fromEntries(list.map(([name, t], i) => [name, tensor(String(i), t.data.length, 0, t.shape, strides(t.shape))])),
    );
    const entries = list.map(([, t], i) => ({ name: `m/data/${i}`, data: bytesOfTensor(t) }));
    writeFileSync(inFolder("weights.pth"), zip([{ name: "m/data.pkl", data: pickle("\x80\x02", program, ".") }, ...entries]));
    const outputs = [];
    for (const name of ["weights.safetensors", "weights.gguf", "weights.pth"]) {
      const out = inFolder(`ran-${name}`);
      const result = await uhdc([
        "run",
        artefact,
        "--image",
        "examples/photos/rocket.jpg",
        "--weights",
        inFolder(name),
        "-o",
        out,
        "--json",
      ]);
      expect(result.stderr).toBe("");
      expect(JSON.parse(result.stdout)).toMatchObject({ untrained: false });
      outputs.push((await tensorsOf(path.join(out, "visual.safetensors")))["visual"]?.bytes);
    }
    expect(outputs[0]?.length).toBeGreaterThan(0);
    expect(outputs[1]).toEqual(outputs[0]);
    expect(outputs[2]).toEqual(outputs[0]);
  }, 120_000);
});
