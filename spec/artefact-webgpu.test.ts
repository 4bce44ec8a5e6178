// Artefacts for WebGPU: what is written, that it is read back as it was, what is refused, and the command line that makes
// them. Artefacts for WebAssembly are artefact.test.ts's; what the kernels do is the devices' tests'.

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { writeArtefact } from "../compiler/artefact.ts";
import { loadProgram } from "../compiler/check/index.ts";
import { compile } from "../compiler/cli/commands/compile.ts";
import { compileGraph } from "../compiler/compile.ts";
import type { Terminal } from "../compiler/cli/terminal.ts";
import { loadArtefact } from "../runtime/artefact.ts";
import { WasmDevice } from "../runtime/devices/wasm/device.ts";
import { ArtefactError } from "../runtime/errors.ts";
import { Session } from "../runtime/session.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-artefact-gpu-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const text = "graph double(x: f32[T in 1..=64, 8]) -> out: f32[T, 8] { softmax(x * 2, axis: -1) }";
const graph = loadProgram("double.uhd", { readText: () => text, config: {} }).graphs.get("double");
if (graph === undefined) throw new Error("the graph does not compile");
const compiled = compileGraph(graph, { target: "webgpu" });
const names = ["index.js", "index.ts", "kernels.wgsl.json", "manifest.json", "plan.json"];

describe("an artefact for WebGPU", () => {
  test("is written with its hashes and read back as it was", async () => {
    const target = path.join(folder, "whole");
    await writeArtefact(target, compiled);
    expect(readdirSync(target).sort()).toEqual(names);
    const loaded = await loadArtefact(target);
    expect(loaded.modules).toBeUndefined();
    expect(loaded.wgsl).toEqual(compiled.wgsl);
    expect(loaded.wgsl?.map((v) => v.features.subgroups)).toEqual([32, 8, 0]);
    for (const { kernels } of loaded.wgsl ?? []) expect(kernels.map((k) => k.name)).toEqual(loaded.plan.kernels.map((k) => k.name));
  });

  test("is refused when its kernels were altered", async () => {
    const target = path.join(folder, "altered");
    await writeArtefact(target, compiled);
    const file = path.join(target, "kernels.wgsl.json");
    writeFileSync(file, readFileSync(file, "utf8").replace("fn main", "fn nain"));
    await expect(loadArtefact(target)).rejects.toThrow("kernels.wgsl.json was altered");
  });

  test.each([
    ["another format", { format: "uhd-wasm" }, "it holds no uhd-wgsl"],
    ["a version from the future", { version: 2 }, "it has version 2; this runtime reads version 1"],
    ["no variant", { variants: [] }, "a variant of the kernels is not described"],
    ["kernels without code", { variants: [{ features: { subgroups: 0, f16: false }, kernels: [{ name: "k" }] }] }, "is not described"],
  ])("is refused with %s, though the hash is right", async (_, change, message) => {
    const target = path.join(folder, "bad");
    const broken = { ...compiled, wgsl: compiled.wgsl };
    await writeArtefact(target, broken);
    const { createHash } = await import("node:crypto");
    const bytes = JSON.stringify({ format: "uhd-wgsl", version: 1, variants: compiled.wgsl, ...change });
    writeFileSync(path.join(target, "kernels.wgsl.json"), bytes);
    const manifest = JSON.parse(readFileSync(path.join(target, "manifest.json"), "utf8")) as { files: Record<string, unknown> };
    manifest.files["kernels.wgsl.json"] = { bytes: Buffer.byteLength(bytes), sha256: createHash("sha256").update(bytes).digest("hex") };
    writeFileSync(path.join(target, "manifest.json"), JSON.stringify(manifest));
    await expect(loadArtefact(target)).rejects.toThrow(message);
    await expect(loadArtefact(target)).rejects.toBeInstanceOf(ArtefactError);
  });

  test("takes the place of one for WebAssembly, and the other way round, without leaving kernels behind", async () => {
    const target = path.join(folder, "both");
    const wasm = compileGraph(graph);
    for (const beside of [false, true]) {
      await writeArtefact(target, wasm);
      if (beside) writeFileSync(path.join(target, "notes.txt"), "mine");
      await writeArtefact(target, compiled);
      expect(readdirSync(target).sort()).toEqual([...names, ...(beside ? ["notes.txt"] : [])].sort());
      await expect(loadArtefact(target)).resolves.toMatchObject({ wgsl: compiled.wgsl });
    }
  });

  test("does not run on a device that needs other code, which says what to compile for", async () => {
    const device = await WasmDevice.create({ threads: 1 });
    await expect(Session.create(compiled, { device })).rejects.toThrow("--target wasm");
    await device.close();
  });
});

describe("uhdc compile", () => {
  const file = path.join(folder, "double.uhd");
  writeFileSync(file, text);
  const run = async (options: Partial<Parameters<typeof compile>[1]>): Promise<string> => {
    const out: string[] = [];
    const nothing = (): void => undefined;
    const terminal: Terminal = { color: false, out: (line) => void out.push(line), err: nothing, progress: nothing, done: nothing };
    await compile(file, { set: [], json: false, fuse: true, dumpAfter: [], ...options } as Parameters<typeof compile>[1], terminal);
    return out.join("\n");
  };

  test("--emit wgsl prints every kernel without features, and all variants as data", async () => {
    expect(await run({ emit: "wgsl" })).toBe(
      compiled.wgsl
        .at(-1)
        ?.kernels.map((k) => `// ${k.name}\n${k.code}`)
        .join("\n"),
    );
    const data = JSON.parse(await run({ emit: "wgsl", json: true })) as { readonly variants: unknown };
    expect(data.variants).toEqual(compiled.wgsl);
  });

  test("--target webgpu writes such an artefact, and prints its levels", async () => {
    const target = path.join(folder, "cli");
    await run({ target: "webgpu", out: target });
    expect(readdirSync(target).sort()).toEqual(names);
    expect(await run({ target: "webgpu", emit: "imp" })).toMatch(/^ {2}lanes lane: 64$/m);
  });

  test("refuses code of one target from another", async () => {
    await expect(run({ target: "webgpu", emit: "wasm" })).rejects.toThrow("give --emit wgsl");
    await expect(run({ target: "wasm", emit: "wgsl" })).rejects.toThrow("give --emit wasm");
  });
});
