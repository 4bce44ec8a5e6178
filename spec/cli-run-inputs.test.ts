// `uhdc run` on tensors: read from files by their names, or made from a seed, with the integers and lists of the graph.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { encodeSafetensors } from "../runtime/weights/safetensors.ts";
import { openCheckpoint } from "../runtime/weights/checkpoint.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { uhdc, type CliResult } from "./cli-support.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-inputs-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => path.join(folder, name);

const text = `import { Linear } from "${path.resolve("graphs/layers.uhd")}"
graph gated(x: f32[N in 1..=256, 8], scale: f32[8]) -> (y: f32[N, 4], gate: f32[N, 4]) {
  use value = Linear(8, 4)
  use wide = Linear(8, 4)
  let gate = sigmoid(wide(x * scale))
  (value(x) * gate, gate)
}
`;
const segments = `graph segments(x: f32[N in 0..=64, 2, 8], lengths: [int], past: int in 0..=9) -> y: f32[T, 2, 8] {
  dim P = len(lengths)
  ragged T over P = lengths
  let rows = x[0:T]
  attention(rows, rows, rows, scale: 1) + past
}
`;

function write(name: string, tensors: Readonly<Record<string, Tensor>>): string {
  writeFileSync(at(name), Buffer.concat(encodeSafetensors(new Map(Object.entries(tensors)), {})));
  return at(name);
}

const f32 = (shape: readonly number[], of: (i: number) => number): Tensor<"f32"> => ({
  dtype: "f32",
  shape,
  data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => of(i)),
});
const x = f32([10, 8], (i) => Math.sin(i));
const scale = f32([8], (i) => 1 + i / 8);

async function numbers(file: string, name: string): Promise<readonly number[]> {
  const checkpoint = await openCheckpoint(file);
  try {
    const stored = checkpoint.tensors.get(name);
    if (stored === undefined) throw new Error(`${file} has no ${name}`);
    const bytes = new Uint8Array(stored.shape.reduce((a, b) => a * b, 4));
    await stored.read(0, bytes);
    return [...new Float32Array(bytes.buffer)];
  } finally {
    await checkpoint.close();
  }
}

const run = (args: readonly string[]): Promise<CliResult> => uhdc(["run", ...args, "--init", "seeded:1", "--device", "wasm"]);

async function refused(args: readonly string[], code: number, ...messages: readonly string[]): Promise<void> {
  const result = await run([...args, "-o", at("refused")]);
  for (const message of messages) expect(result.stderr).toContain(message);
  expect([result.code, result.stdout]).toEqual([code, ""]);
}

beforeAll(() => {
  writeFileSync(at("gated.uhd"), text);
  writeFileSync(at("segments.uhd"), segments);
});

describe("uhdc run --input", () => {
  test("runs a graph on tensors of files, as the reference does, and tells the range of what comes out", async () => {
    const files = [write("x.safetensors", { x }), write("scale.safetensors", { scale })];
    const result = await run([at("gated.uhd"), "--input", ...files, "-o", at("wasm"), "--json"]);
    expect(result.stderr).toBe("");
    const report = JSON.parse(result.stdout) as Record<string, unknown> & {
      readonly outputs: { readonly y: { least: number; most: number } };
    };
    expect(report).toMatchObject({
      image: null,
      inputs: { x: { dtype: "f32", shape: [10, 8] }, scale: { dtype: "f32", shape: [8] } },
      outputs: { y: { dtype: "f32", shape: [10, 4], notFinite: 0 }, gate: { shape: [10, 4] } },
      tokens: null,
      files: [path.join(at("wasm"), "outputs.safetensors")],
    });
    const y = await numbers(at("wasm/outputs.safetensors"), "y");
    expect([report.outputs.y.least, report.outputs.y.most]).toEqual([Math.min(...y), Math.max(...y)]);
    const reference = await uhdc([
      "run",
      at("gated.uhd"),
      "--input",
      ...files,
      "-o",
      at("ref"),
      "--init",
      "seeded:1",
      "--device",
      "reference",
    ]);
    expect(reference.code).toBe(0);
    const wanted = await numbers(at("ref/outputs.safetensors"), "y");
    const scaleOfY = Math.max(...wanted.map(Math.abs));
    expect(scaleOfY).toBeGreaterThan(1e-3);
    // Sums of eight products in f32.
    for (const [i, value] of y.entries()) expect(Math.abs(value - (wanted[i] ?? NaN))).toBeLessThan(1e-6 * scaleOfY);
  });

  test("makes what no file has from a seed: the same for the same seed, on a compiled folder too", async () => {
    const file = write("only-x.safetensors", { x });
    expect((await uhdc(["compile", at("gated.uhd"), "-o", at("compiled")])).code).toBe(0);
    const outputs = async (graph: string, seed: number, out: string, more: readonly string[] = []): Promise<Buffer> => {
      const result = await run([graph, "--input", file, `seeded:${seed}`, "-o", at(out), ...more]);
      expect(result.stderr).not.toContain("error");
      expect(result.code).toBe(0);
      expect(result.stdout).toMatch(/^x +f32\[10, 8\]\nscale +f32\[8\]\ny +f32\[10, 4\], from -?\d.* to \d.*\n/);
      return readFileSync(at(`${out}/outputs.safetensors`));
    };
    const one = await outputs(at("gated.uhd"), 1, "one");
    expect((await outputs(at("compiled"), 1, "again")).equals(one)).toBe(true);
    expect((await outputs(at("gated.uhd"), 2, "other")).equals(one)).toBe(false);
  });

  test("gives the graph its integers and lists by --size, and measures its kernels", async () => {
    const least = async (past: number): Promise<number> => {
      const args = [at("segments.uhd"), "--input", "seeded:3", "--size", "N=7", "--size", "lengths=[2,3]", "--size", `past=${past}`];
      const result = await run([...args, "-o", at("segments"), "--json", "--profile"]);
      expect(result.stderr).toBe("");
      const report = JSON.parse(result.stdout) as {
        readonly outputs: { readonly y: { readonly shape: readonly number[]; readonly least: number } };
        readonly profile: readonly { readonly kernel: string; readonly milliseconds: number }[];
      };
      expect(report.outputs.y.shape).toEqual([5, 2, 8]);
      expect(report.profile.map(({ kernel }) => kernel)).toContain("attention_0");
      for (const { milliseconds } of report.profile) expect(milliseconds).toBeGreaterThan(0);
      return report.outputs.y.least;
    };
    expect((await least(5)) - (await least(1))).toBeCloseTo(4, 5);
  });

  test("counts what is not finite", async () => {
    const data = x.data.slice();
    data[3] = NaN;
    const file = write("nan.safetensors", { x: { ...x, data }, scale });
    const { stdout } = await run([at("gated.uhd"), "--input", file, "-o", at("nan")]);
    expect(stdout).toMatch(/^y +f32\[10, 4\], from .* to .*, 4 NaN or infinite$/m);
  });

  test("refuses inputs that are missing, unknown, or of another type or size", async () => {
    const graph = at("gated.uhd");
    const own = write("own.safetensors", { x });
    await refused([graph], 2, "give a photo with --image FILE, tensors with --input FILE");
    await refused([graph, "--input", own], 1, "gated needs scale: f32[8]", "--input seeded:1");
    await refused([graph, "--input", "seeded:1"], 2, "gated needs the size of N: give --size N=…");
    await refused([graph, "--input", "seeded:1", "--size", "N=257"], 1, "N is 257, outside 1…256");
    await refused([graph, "--input", "seeded:1", "seeded:2", "--size", "N=2"], 2, "--input takes one seeded:N");
    await refused([graph, "--input", own, "seeded:1", "--size", "N=9"], 2, "--size N=9: the inputs have 10");
    await refused([graph, "--input", write("y.safetensors", { y: x })], 1, "y: f32[10, 8], and gated has no such input; it has x, scale");
    const ids: Tensor = { dtype: "i32", shape: [10, 8], data: new Int32Array(80) };
    await refused([graph, "--input", write("i.safetensors", { x: ids })], 1, "x is i32[10, 8]; gated takes f32[N, 8]");
    await refused([graph, "--input", write("s.safetensors", { x: f32([10, 7], () => 0), scale })], 1, "x: axis 1 of f32[N, 8] must be 8");
    await refused([graph, "--input", at("none.safetensors")], 1, "none.safetensors");
    writeFileSync(at("cut.safetensors"), readFileSync(own).subarray(0, 90));
    await refused([graph, "--input", at("cut.safetensors")], 1, "cut.safetensors");
    await refused([graph, "--image", "examples/photos/rocket.jpg"], 1, "--image fills an input u8[height, width, 3 or 4], and gated has x");
    await refused([graph, "--prompt", "Hello", "--input", own], 2, "--input and --size are for runs without --prompt");
  });

  test("does not make indices up", async () => {
    writeFileSync(at("rows.uhd"), "graph rows(ids: i32[N in 1..=9], t: f32[4, 3]) -> y: f32[N, 3] { gather(t, ids) }\n");
    await refused(
      [at("rows.uhd"), "--input", "seeded:1", "--size", "N=2"],
      1,
      "ids: i32[2] is not made from a seed: give it with --input FILE",
    );
  });
});
