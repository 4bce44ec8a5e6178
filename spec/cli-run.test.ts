// `uhdc run`: what it prints and writes, that weights come from where they are said to come from, and that stopping it
// leaves nothing behind.

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { run, type RunOptions } from "../compiler/cli/commands/run.ts";
import type { Terminal } from "../compiler/cli/terminal.ts";
import type { Plan } from "../compiler/ir/plan/types.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { defaultInit, seededElements } from "../runtime/weights/init.ts";
import { openSafetensors, writeSafetensors } from "../runtime/weights/safetensors.ts";
import { smallGraph, uhdc } from "./cli-support.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-run-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const inFolder = (name: string): string => path.join(folder, name);
const photo = "examples/photos/rocket.jpg";

interface Report {
  readonly tokens: number;
  readonly pictures: number;
  readonly layout: { readonly grid: readonly number[]; readonly pictures: readonly { readonly px: readonly number[] }[] };
  readonly image: { readonly width: number; readonly height: number } | null;
  readonly inputs: Readonly<Record<string, { readonly dtype: string; readonly shape: readonly number[] }>>;
  readonly outputs: Readonly<Record<string, { readonly dtype: string; readonly shape: readonly number[] }>>;
  readonly untrained: boolean;
  readonly parameters: { readonly total: number; readonly untrained: number };
  readonly milliseconds: { readonly weights: number; readonly run: number; readonly stages: readonly { readonly stage: string }[] };
  readonly memory: { readonly weights: number; readonly arena: number };
  readonly files: readonly string[];
}

async function runJson(args: readonly string[]): Promise<Report> {
  const result = await uhdc(["run", ...args, "--json"]);
  expect(result.stderr).toBe("");
  expect(result.code).toBe(0);
  return JSON.parse(result.stdout) as Report;
}

/** The bytes of the visual sequence that a run wrote. */
const visual = (out: string): Buffer => {
  const bytes = readFileSync(path.join(out, "visual.safetensors"));
  // Without the header, which names the image and says "untrained".
  return bytes.subarray(8 + Number(bytes.readBigUInt64LE(0)));
};

/** The weights of seed 7 for an artefact: the encoder's, and the others. */
function checkpoints(artefact: string, prefix: string): [Map<string, Tensor>, Map<string, Tensor>] {
  const plan = JSON.parse(readFileSync(inFolder(`${artefact}/plan.json`), "utf8")) as Plan;
  const files: [Map<string, Tensor>, Map<string, Tensor>] = [new Map(), new Map()];
  for (const { name, shape, init } of plan.params) {
    const data = new Float32Array(shape.reduce((x, y) => x * y, 1));
    seededElements(7, name, init ?? defaultInit, 0, data);
    files[name.startsWith("vision_model") ? 0 : 1].set(`${prefix}${name}`, { dtype: "f32", shape, data });
  }
  return files;
}

beforeAll(async () => {
  const { code, stderr } = await uhdc(["compile", ...smallGraph, "-o", inFolder("artefact")]);
  expect(stderr).toBe("");
  expect(code).toBe(0);
}, 120_000);

describe("uhdc run", () => {
  test("prints grid, pictures, tokens and times, says untrained, and writes the visual sequence and a contact sheet", async () => {
    const out = inFolder("printed");
    const { code, stdout, stderr } = await uhdc(["run", ...smallGraph, "--image", photo, "--init", "seeded:1", "-o", out]);
    expect(stderr).toMatch(/^device: (?:wasm, \d+ threads?|webgpu, .+): .+\n$/);
    expect(code).toBe(0);
    expect(stdout).toMatch(/photo +examples\/photos\/rocket\.jpg, 640×427/);
    expect(stdout).toMatch(/grid +2×1\n/);
    expect(stdout).toMatch(/pictures +3: 2 slices of \d+×\d+ px \(\d+×\d+ patches\), overview of \d+×\d+ px/);
    expect(stdout).toMatch(/untrained: all \d+ parameters are random, from seed 1/);
    expect(stdout).toMatch(/compile [\d.]+ m?s/);
    expect(stdout).toMatch(/clip-vit/);
    expect(readdirSync(out).sort()).toEqual(["contact-sheet.png", "visual.safetensors"]);
    await using file = await openSafetensors(path.join(out, "visual.safetensors"));
    // 3 pictures of 2 × 2 tokens, a comma and a newline.
    expect(file.tensors.get("visual")).toMatchObject({ dtype: "F32", shape: [14, 64] });
    const sheet = await sharp(path.join(out, "contact-sheet.png")).metadata();
    expect(sheet.format).toBe("png");
    expect(sheet.width).toBeGreaterThan(sheet.height);
  });

  test("gives the same as data", async () => {
    const out = inFolder("data");
    const report = await runJson([...smallGraph, "--image", photo, "--init", "seeded:1", "-o", out]);
    expect(report).toMatchObject({ pictures: 3, untrained: true, layout: { grid: [2, 1] } });
    expect(report.parameters.untrained).toBe(report.parameters.total);
    expect(report.milliseconds.stages.map((s) => s.stage)).toContain("clip-vit");
    expect(report.files).toEqual([path.join(out, "visual.safetensors"), path.join(out, "contact-sheet.png")]);
    expect(report.memory.weights).toBeGreaterThan(0);
    const values = new Float32Array(new Uint8Array(visual(out)).buffer);
    expect(values.every(Number.isFinite)).toBe(true);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    expect(report.outputs).toEqual({ visual: { dtype: "f32", shape: [14, 64], least, most, notFinite: 0 } });
    expect(report.inputs).toEqual({ image: { dtype: "u8", shape: [report.image?.height, report.image?.width, 3] } });
    expect(new Set(values).size).toBeGreaterThan(values.length / 2);
  });

  test("gives the same numbers from an artefact, on any number of threads, and from RGBA", async () => {
    const common = ["--image", photo, "--init", "seeded:7"];
    await runJson([...smallGraph, ...common, "-o", inFolder("file"), "--threads", "1"]);
    await runJson([inFolder("artefact"), ...common, "-o", inFolder("loaded"), "--threads", "2"]);
    await runJson([...smallGraph, "--set", "channels=4", ...common, "-o", inFolder("rgba")]);
    expect(visual(inFolder("loaded")).equals(visual(inFolder("file")))).toBe(true);
    expect(visual(inFolder("rgba")).equals(visual(inFolder("file")))).toBe(true);
    await runJson([...smallGraph, "--image", photo, "--init", "seeded:8", "-o", inFolder("other")]);
    expect(visual(inFolder("other")).equals(visual(inFolder("file")))).toBe(false);
  });

  test("takes weights from several files, and is then not untrained", async () => {
    const files = checkpoints("artefact", "checkpoint.");
    await writeSafetensors(inFolder("vision.safetensors"), files[0]);
    files[1].set("checkpoint.head", { dtype: "f32", shape: [1], data: new Float32Array(1) });
    await writeSafetensors(inFolder("rest.safetensors"), files[1]);
    const weights = ["--weights", inFolder("vision.safetensors"), inFolder("rest.safetensors"), "--weights-prefix", "checkpoint."];
    const base = [inFolder("artefact"), "--image", photo, "-o", inFolder("weighted")];
    const refused = await uhdc(["run", ...base, ...weights]);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/not used by the graph \(1.*: head/);
    expect(existsSync(inFolder("weighted"))).toBe(false);
    const report = await runJson([...base, ...weights, "--ignore-extra"]);
    expect(report.untrained).toBe(false);
    await runJson([inFolder("artefact"), "--image", photo, "--init", "seeded:7", "-o", inFolder("seeded")]);
    expect(visual(inFolder("weighted")).equals(visual(inFolder("seeded")))).toBe(true);
  });

  test("takes the separators out of a language model's folder, as the README says", async () => {
    const table = [...smallGraph, "--set", "embedding_table=true", "--set", "vocabulary=29900"];
    await uhdc(["compile", ...table, "-o", inFolder("table")]);
    const files = checkpoints("table", "");
    expect(files[1].has("model.embed_tokens.weight")).toBe(true);
    mkdirSync(inFolder("vicuna-uhd"));
    writeFileSync(inFolder("vicuna-uhd/config.json"), "{}");
    await writeSafetensors(
      inFolder("clip.safetensors"),
      files[0].set("logit_scale", { dtype: "f32", shape: [1], data: new Float32Array(1) }),
    );
    await writeSafetensors(inFolder("vicuna-uhd/model.safetensors"), files[1]);
    const weights = ["--weights", inFolder("clip.safetensors"), inFolder("vicuna-uhd"), "--ignore-extra"];
    const report = await runJson([...table, "--image", photo, ...weights, "-o", inFolder("tabled")]);
    expect(report.untrained).toBe(false);
    const values = new Float32Array(new Uint8Array(visual(inFolder("tabled"))).buffer);
    const comma = files[1].get("model.embed_tokens.weight")?.data.subarray(29_892 * 64, 29_893 * 64);
    // Behind the four tokens of the first slice.
    expect(values.subarray(4 * 64, 5 * 64)).toEqual(comma);
    const refused = await uhdc(["run", ...smallGraph, "--image", photo, ...weights, "-o", inFolder("tableless")]);
    expect(refused.stderr).toMatch(/missing \(1\): separators\.weight/);
    expect(refused.code).toBe(1);
  });

  test("without weights says how to go on", async () => {
    const { code, stdout, stderr } = await uhdc(["run", ...smallGraph, "--image", photo, "-o", inFolder("none")]);
    expect(code).toBe(1);
    expect(stdout).toBe("");
    expect(stderr).toMatch(/^llava_uhd has \d+ parameters and no weights were given\n {2}help: .*--weights.*--init seeded:1/);
    expect(existsSync(inFolder("none"))).toBe(false);
  });

  test.each([
    ["an --init of another form", ["--init", "ones"], /--init takes seeded:N/],
    ["no threads", ["--init", "seeded:1", "--threads", "0"], /--threads takes 1 or more/],
    ["an unknown option", ["--init", "seeded:1", "--thread", "2"], /unknown option '--thread'/],
    ["an unknown device", ["--init", "seeded:1", "--device", "abacus"], /Allowed choices are auto, webgpu, wasm, reference/],
    ["a graph that is not there", ["--init", "seeded:1", "--graph", "llava"], /has no graph "llava"; it has llava_uhd/],
  ])("refuses %s as a mistake of the command line", async (_, args, message) => {
    const { code, stderr } = await uhdc(["run", ...smallGraph, "--image", photo, "-o", inFolder("usage"), ...args]);
    expect(stderr).toMatch(message);
    expect(code).toBe(2);
    expect(existsSync(inFolder("usage"))).toBe(false);
  });

  test.each(["weights", "step", "verified"])("stopped by Ctrl-C at its %s, it leaves no file and says so", async (stage) => {
    const out = inFolder(`stopped-${stage}`);
    const lines: string[] = [];
    const terminal: Terminal = {
      color: false,
      out: (text) => lines.push(text),
      err: (text) => lines.push(text),
      progress: (text) => {
        if (text.startsWith(stage)) process.emit("SIGINT");
      },
      done: () => undefined,
    };
    const [file = "", ...settings] = smallGraph;
    const set = settings.filter((s) => s !== "--set");
    const common = { image: [photo], out, set, json: false, fuse: true, weightsPrefix: [], ignoreExtra: false, size: [] } as const;
    const options: RunOptions = { ...common, init: "seeded:1", device: "wasm", profile: false, verify: stage === "verified" };
    await expect(run(file, options, terminal)).rejects.toMatchObject({ name: "AbortError" });
    expect(lines).toEqual([]);
    expect(existsSync(out)).toBe(false);
  });
});
