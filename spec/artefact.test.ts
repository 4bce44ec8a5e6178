// What `uhdc compile` writes, and that it is enough: the artefact runs with the runtime's package alone, typed and
// named, and nothing of the compiler gets into an application's bundle. And the levels that it prints instead.

import { createHash } from "node:crypto";
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { build } from "esbuild";
import { Project, ts } from "ts-morph";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ArtefactWriteError, writeArtefact } from "../compiler/artefact.ts";
import { printGraph } from "../compiler/ir/graph/print.ts";
import { parseGraph } from "../compiler/ir/graph/parse.ts";
import type { Plan } from "../compiler/ir/plan/types.ts";
import { loadArtefact } from "../runtime/artefact.ts";
import { ArtefactError } from "../runtime/errors.ts";
import { installRuntime, root, smallGraph, uhdc } from "./cli-support.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-artefact-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const artefact = path.join(folder, "app/llava");
const names = ["index.js", "index.ts", "kernels.plain.wasm", "kernels.relaxed.wasm", "manifest.json", "plan.json"];

beforeAll(async () => {
  const { code, stderr } = await uhdc(["compile", ...smallGraph, "-o", artefact]);
  expect(stderr).toBe("");
  expect(code).toBe(0);
  installRuntime(path.join(folder, "app"));
}, 120_000);

describe("an artefact", () => {
  test("has a manifest with every loaded file's size and hash", () => {
    expect(readdirSync(artefact).sort()).toEqual(names);
    const manifest = JSON.parse(readFileSync(path.join(artefact, "manifest.json"), "utf8")) as {
      readonly format: string;
      readonly name: string;
      readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>;
    };
    expect(manifest).toMatchObject({ format: "uhd-artefact", version: 1, name: "llava_uhd" });
    expect(Object.keys(manifest.files).sort()).toEqual(["kernels.plain.wasm", "kernels.relaxed.wasm", "plan.json"]);
    for (const [name, { bytes, sha256 }] of Object.entries(manifest.files)) {
      const content = readFileSync(path.join(artefact, name));
      expect(content.byteLength).toBe(bytes);
      expect(createHash("sha256").update(content).digest("hex")).toBe(sha256);
    }
  });

  test("is the same, byte for byte, when it is compiled again", async () => {
    const again = path.join(folder, "again");
    await uhdc(["compile", ...smallGraph, "-o", again]);
    for (const name of names) expect(readFileSync(path.join(again, name)).equals(readFileSync(path.join(artefact, name)))).toBe(true);
  });

  test("runs with the runtime's package alone, and names its outputs", () => {
    const program = path.join(folder, "app/main.js");
    writeFileSync(
      program,
      `import { llavaUhd } from "./llava/index.js";
       const session = await llavaUhd({ init: { seed: 3 }, threads: 1 });
       const data = Uint8Array.from({ length: 90 * 70 * 3 }, (_, i) => (i * 7) % 256);
       const outputs = await session.run({ image: { dtype: "u8", shape: [70, 90, 3], data } });
       await session[Symbol.asyncDispose]();
       const { visual } = outputs;
       console.log(JSON.stringify({ names: Object.keys(outputs), shape: visual.shape, finite: visual.data.every(Number.isFinite) }));`,
    );
    const { status, stdout, stderr } = spawnSync(process.execPath, [program], { encoding: "utf8" });
    expect(stderr).toBe("");
    expect(status).toBe(0);
    // One picture, four tokens of width 64.
    expect(JSON.parse(stdout)).toEqual({ names: ["visual"], shape: [4, 64], finite: true });
  });

  test("gives TypeScript the types of its inputs and outputs", () => {
    const project = new Project({
      compilerOptions: {
        strict: true,
        skipLibCheck: true,
        noEmit: true,
        target: ts.ScriptTarget.ES2022,
        lib: ["lib.es2023.d.ts", "lib.esnext.disposable.d.ts", "lib.dom.d.ts"],
        module: ts.ModuleKind.ESNext,
        moduleResolution: ts.ModuleResolutionKind.Bundler,
        allowImportingTsExtensions: true,
        types: ["node"],
        typeRoots: [path.join(root, "node_modules/@types")],
        paths: { uhd: [path.join(root, "runtime/index.ts")] },
      },
    });
    const user = (body: string): readonly string[] => {
      const file = project.createSourceFile(
        path.join(folder, "app/user.ts"),
        `import { llavaUhd, type LlavaUhdInputs } from "./llava/index.ts";
         export async function use(image: LlavaUhdInputs["image"]) {
           const session = await llavaUhd({ init: { seed: 1 } });
           ${body}
         }`,
        { overwrite: true },
      );
      return file.getPreEmitDiagnostics().map((d) => ts.flattenDiagnosticMessageText(d.compilerObject.messageText, " "));
    };
    expect(user("const { visual } = await session.run({ image }); const data: Float32Array = visual.data; return data;")).toEqual([]);
    expect(user("return session.run({ picture: image });").join()).toMatch(/'picture' does not exist in type 'LlavaUhdInputs'/);
    expect(user("const { hidden } = await session.run({ image }); return hidden;").join()).toMatch(/'hidden' does not exist/);
    expect(user("return session.run({ image: { dtype: 'f32', shape: [], data: new Float32Array() } });").join()).toMatch(/not assignable/);
  }, 120_000);

  test("bundles for a browser with nothing of the compiler but the plan's own code", async () => {
    const result = await build({
      absWorkingDir: root,
      entryPoints: [path.join(artefact, "index.ts")],
      bundle: true,
      platform: "browser",
      format: "esm",
      alias: { uhd: path.join(root, "runtime/index.ts") },
      metafile: true,
      write: false,
      logLevel: "silent",
    });
    const ours = Object.keys(result.metafile.inputs).filter((file) => /^(compiler|ops|runtime|graphs)\//.test(file));
    expect(ours).toContain("runtime/session.ts");
    const compiler = ours.filter((file) => !file.startsWith("runtime/"));
    expect(compiler.filter((file) => !/^compiler\/ir\/(dim\.ts|dtype\.ts|plan\/)/.test(file))).toEqual([]);
    expect(Object.keys(result.metafile.inputs).filter((file) => file.includes("node_modules"))).toEqual([]);
  });

  test.each(["plan.json", "kernels.plain.wasm", "kernels.relaxed.wasm"])("is refused when %s was altered by one bit", async (name) => {
    const copy = path.join(folder, `altered-${name}`);
    cpSync(artefact, copy, { recursive: true });
    const bytes = readFileSync(path.join(copy, name));
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
    writeFileSync(path.join(copy, name), bytes);
    await expect(loadArtefact(copy)).rejects.toThrow(`${name} was altered`);
    await expect(loadArtefact(copy)).rejects.toBeInstanceOf(ArtefactError);
    const { code, stderr } = await uhdc([
      "run",
      copy,
      "--image",
      "examples/photos/rocket.jpg",
      "--init",
      "seeded:1",
      "-o",
      path.join(folder, "no"),
    ]);
    expect(stderr).toMatch(`${name} was altered`);
    expect(code).toBe(1);
  });
});

describe("writing an artefact", () => {
  const parts = (name: string) => {
    const plan = JSON.parse(readFileSync(path.join(artefact, "plan.json"), "utf8")) as Plan;
    return { plan: { ...plan, name }, modules: { plain: new Uint8Array([1]), relaxed: new Uint8Array([2]) } };
  };

  test("that fails leaves the old one whole, and no other file", async () => {
    const target = path.join(folder, "kept");
    cpSync(artefact, target, { recursive: true });
    // A plan that names a buffer it does not have: the typed module cannot be made.
    const broken = { ...parts("broken"), plan: { ...parts("broken").plan, outputs: [{ name: "none", buffer: 9999 }] } };
    await expect(writeArtefact(target, broken)).rejects.toBeInstanceOf(ArtefactWriteError);
    // A folder is where the second file is about to be written: with files of the user's beside it, and without.
    writeFileSync(path.join(target, "notes.txt"), "mine");
    mkdirSync(path.join(target, `.kernels.plain.wasm.${process.pid}.tmp`));
    await expect(writeArtefact(target, parts("other"))).rejects.toBeInstanceOf(ArtefactWriteError);
    expect(readdirSync(target).sort()).toEqual([...names, "notes.txt"].sort());
    const whole = path.join(folder, "whole");
    cpSync(artefact, whole, { recursive: true });
    mkdirSync(`${whole}.${process.pid}.tmp`);
    await expect(writeArtefact(whole, parts("other"))).rejects.toBeInstanceOf(ArtefactWriteError);
    await expect(loadArtefact(whole)).resolves.toMatchObject({ plan: { name: "llava_uhd" } });
    // A file is where the folder would be.
    const taken = path.join(folder, "taken");
    writeFileSync(taken, "a file");
    await expect(writeArtefact(taken, parts("other"))).rejects.toBeInstanceOf(ArtefactWriteError);
    expect(readFileSync(taken, "utf8")).toBe("a file");
    await expect(loadArtefact(target)).resolves.toMatchObject({ plan: { name: "llava_uhd" } });
    expect(readdirSync(folder).filter((name) => /\.(tmp|old)$/.test(name))).toEqual([]);
  });

  test("replaces an artefact, and keeps files beside it that are not its own", async () => {
    const target = path.join(folder, "replaced");
    await writeArtefact(target, parts("first"));
    await writeArtefact(target, parts("second"));
    expect(readdirSync(target).sort()).toEqual(names);
    writeFileSync(path.join(target, "visual.safetensors"), "mine");
    await writeArtefact(target, parts("third"));
    expect(readdirSync(target).sort()).toEqual([...names, "visual.safetensors"].sort());
    await expect(loadArtefact(target)).resolves.toMatchObject({ plan: { name: "third" } });
  });

  test("refuses to overwrite a file that is not an artefact's", async () => {
    const target = path.join(folder, "mine");
    mkdirSync(target);
    writeFileSync(path.join(target, "index.ts"), "// my own");
    await expect(writeArtefact(target, parts("other"))).rejects.toThrow(/has a file index\.ts that is not an artefact's/);
    expect(readFileSync(path.join(target, "index.ts"), "utf8")).toBe("// my own");
    expect(readdirSync(target)).toEqual(["index.ts"]);
  });
});

describe("uhdc compile", () => {
  const graph = ["compile", ...smallGraph];

  test("summarises what it wrote as data", async () => {
    const { code, stdout } = await uhdc([...graph, "-o", path.join(folder, "summary"), "--json"]);
    expect(code).toBe(0);
    const summary = JSON.parse(stdout) as {
      readonly files: readonly { readonly name: string; readonly bytes: number; readonly sha256: string }[];
      readonly kernels: readonly string[];
      readonly milliseconds: { readonly total: number };
    };
    expect(summary.files.map((f) => f.name).sort()).toEqual(names);
    for (const { name, bytes, sha256 } of summary.files) {
      const content = readFileSync(path.join(folder, "summary", name));
      expect(content.byteLength).toBe(bytes);
      expect(createHash("sha256").update(content).digest("hex")).toBe(sha256);
    }
    expect(summary.kernels.length).toBeGreaterThan(5);
    expect(summary.milliseconds.total).toBeGreaterThan(0);
  });

  test("prints the graph so that it can be read back", async () => {
    const { code, stdout } = await uhdc([...graph, "--emit", "graph"]);
    expect(code).toBe(0);
    expect(printGraph(parseGraph(stdout)).trim()).toBe(stdout.trim());
  });

  test.each([
    ["kernel", /^kernel "matmul_\d+" \{/m],
    ["imp", /matmul_\d+/],
    ["plan", /matmul_\d+/],
  ])("prints the level %s", async (level, pattern) => {
    const { code, stdout, stderr } = await uhdc([...graph, "--emit", level]);
    expect(stderr).toBe("");
    expect(code).toBe(0);
    expect(stdout).toMatch(pattern);
    const data = JSON.parse((await uhdc([...graph, "--emit", level, "--json"])).stdout) as {
      readonly level: string;
      readonly text: string;
    };
    expect(data.level).toBe(level);
    expect(data.text.trimEnd()).toBe(stdout.trimEnd());
  });

  test("writes WebAssembly to standard output, the bytes of the artefact", async () => {
    const { code, bytes } = await uhdc([...graph, "--emit", "wasm"]);
    expect(code).toBe(0);
    expect(WebAssembly.validate(new Uint8Array(bytes))).toBe(true);
    expect(bytes.equals(readFileSync(path.join(artefact, "kernels.plain.wasm")))).toBe(true);
  });

  test("shows the program after a pass on standard error, and still writes", async () => {
    const out = path.join(folder, "dumped");
    const { code, stderr } = await uhdc([...graph, "--dump-after", "decompose", "--dump-after", "fuse", "-o", out]);
    expect(code).toBe(0);
    expect(stderr).toMatch(/^# after decompose\n/);
    expect(stderr).toMatch(/^# after fuse\nkernel /m);
    expect(existsSync(path.join(out, "manifest.json"))).toBe(true);
  });

  test.each([
    ["nowhere to write", [], /say where the artefact goes with -o FOLDER/],
    ["both -o and --emit", ["-o", "x", "--emit", "plan"], /give -o or --emit, not both/],
    ["a level that is not one", ["--emit", "llvm"], /Allowed choices are graph, kernel, imp, plan, wasm/],
    ["gas that is not a number", ["--emit", "plan", "--fusion-gas", "lots"], /expected a whole number, found "lots"/],
    [
      "a pass that is not one",
      ["--dump-after", "decompse"],
      /no pass "decompse" ran; did you mean "decompose"\?\nThe passes, in order: decompose, /,
    ],
    ["a setting that is not one", ["--emit", "plan", "--set", "layers"], /--set takes name=value, found "layers"/],
  ])("refuses %s as a mistake of the command line", async (_, args, message) => {
    const { code, stdout, stderr } = await uhdc([...graph, ...args]);
    expect(stderr).toMatch(message);
    expect(code).toBe(2);
    expect(stdout).toBe("");
  });
});
