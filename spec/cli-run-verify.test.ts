// `uhdc run --verify`: every value that a kernel writes is compared with what the references make of what the kernel read, so
// what is wrong is told where it is made, and nothing else is.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { isWrong, verificationText, type VerifiedValue } from "../compiler/cli/verified.ts";
import { verify } from "../compiler/cli/verifying.ts";
import { compileGraph } from "../compiler/compile.ts";
import type { Graph, ValueId } from "../compiler/ir/graph/types.ts";
import { unwatched } from "../compiler/watched.ts";
import { Session } from "../runtime/session.ts";
import type { Tensor } from "../runtime/tensor.ts";
import { smallGraph, uhdc } from "./cli-support.ts";
import { graphOf } from "./graphs-support.ts";

const folder = mkdtempSync(path.join(tmpdir(), "uhd-verify-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const photo = "examples/photos/rocket.jpg";
const asked = ["--image", photo, "--init", "seeded:1", "--device", "wasm", "-o", path.join(folder, "out")];

describe("uhdc run --verify", () => {
  test.each([[[]], [["--no-fuse"]], [["--quantise", "int8"]]])("finds the small graph right: %j", { timeout: 120_000 }, async (more) => {
    const { code, stdout, stderr } = await uhdc(["run", ...smallGraph, ...asked, "--verify", "--json", ...more]);
    expect(stderr).toBe("");
    expect(code).toBe(0);
    const { verified, outputs } = JSON.parse(stdout) as {
      readonly verified: readonly VerifiedValue[];
      readonly outputs: Readonly<Record<string, unknown>>;
    };
    expect(Object.keys(outputs)).toEqual(["visual"]);
    expect(verified.length).toBeGreaterThan(15);
    expect(new Set(verified.map((v) => v.op))).toContain("attention");
    expect(verified.filter(isWrong)).toEqual([]);
    // It compares: sums in f32 are not those in f64.
    expect(verified.filter((v) => v.error > 0).length).toBeGreaterThan(5);
    for (const v of verified) expect(v.at).toMatch(/^graphs\/.*\.uhd:\d+:\d+$/);
  });

  test("knows what states held when the run began, after a run before it", async () => {
    const file = path.join(folder, "sum.uhd");
    writeFileSync(
      file,
      "graph sum(x: f32[8]) -> total: f32[8] {\n  state before: f32[8]\n  let total = before + exp(x)\n  before = total\n  total\n}\n",
    );
    const args = ["run", file, "--input", "seeded:1", "--device", "wasm", "-o", path.join(folder, "sum"), "--json", "--verify"];
    const totals: number[] = [];
    for (const more of [[], ["--profile"]]) {
      const { code, stdout, stderr } = await uhdc([...args, ...more]);
      expect([code, stderr]).toEqual([0, ""]);
      const report = JSON.parse(stdout) as {
        readonly verified: readonly VerifiedValue[];
        readonly outputs: { readonly total: { most: number } };
      };
      expect(report.verified.length).toBeGreaterThan(0);
      expect(report.verified.filter(isWrong)).toEqual([]);
      totals.push(report.outputs.total.most);
    }
    // With a profile it is the second run that is looked at.
    expect((totals[1] ?? 0) / (totals[0] ?? 1)).toBeCloseTo(2, 5);
  });

  test("needs the program, and kernels", async () => {
    const refused = async (args: readonly string[], message: string): Promise<void> => {
      const result = await uhdc(["run", ...args, "--verify"]);
      expect([result.code, result.stdout]).toEqual([2, ""]);
      expect(result.stderr).toContain(message);
    };
    await refused(
      [...smallGraph, "--image", photo, "--init", "seeded:1", "--device", "reference"],
      "--device reference is what --verify compares",
    );
    await refused([folder, "--image", photo, "--init", "seeded:1"], "is compiled already: --verify takes the .uhd file");
  });
});

const text = `import { Linear } from "./layers.uhd"
graph g(x: f32[N in 1..=64, 8]) -> y: f32[N, 4] {
  use first = Linear(8, 16)
  use second = Linear(16, 4)
  softmax(second(gelu(first(x)) * 2) * 3, axis: -1)
}
`;

function unreachable(): never {
  throw new Error("there is no value");
}

describe("verify", () => {
  const graph = graphOf("graphs/g.uhd", "g", {}, { "graphs/g.uhd": text });
  const x: Tensor = { dtype: "f32", shape: [5, 8], data: Float32Array.from({ length: 40 }, (_, i) => Math.cos(i)) };
  const given = { inputs: { x }, shapes: { x: [5, 8] }, given: {} };

  /** What verify says when a device had written `change` of what it wrote. */
  async function found(source: Graph, change: (id: ValueId, tensor: Tensor, place: number) => Tensor): Promise<readonly VerifiedValue[]> {
    const compiled = compileGraph(source, { watch: true });
    await using session = await Session.create(compiled, { threads: 1, init: { seed: 1 } });
    const { outputs } = await session.run({ x });
    const { own, values } = unwatched(outputs);
    expect(Object.keys(own)).toEqual(["y"]);
    expect(values.size).toBeGreaterThan(2);
    const changed = new Map([...values].map(([id, tensor], i) => [id, change(id, tensor, i)]));
    return verify({ graph: compiled.graph, plan: compiled.plan, given, states: new Map(), values: changed, weights: undefined, seed: 1 });
  }

  const times = (t: Tensor, at: number, factor: number): Tensor =>
    t.dtype === "f32" ? { ...t, data: Float32Array.from(t.data as Float32Array, (v, i) => (i === at ? v * factor : v)) } : t;

  test("names the value that is wrong, and none before it", async () => {
    const right = await found(graph, (_, t) => t);
    expect(right.filter(isWrong)).toEqual([]);
    for (const place of right.keys()) {
      const values = await found(graph, (_, t, i) => (i === place ? times(t, 3, NaN) : t));
      expect(values.findIndex(isWrong)).toBe(place);
      expect(values[place]?.error).toBe(Infinity);
    }
    const little = await found(graph, (_, t, i) => (i === 0 ? { ...t, data: (t.data as Float32Array).map((v) => v * 1.001) } : t));
    expect(little.findIndex(isWrong)).toBe(0);
    expect(little[0]?.error).toBeCloseTo(0.001, 5);
    expect(verificationText(little)).toMatch(/^wrong: \d of \d+ values are not .*; the first is of \w+ at graphs\/.*:\n +error/);
  });

  test("a kernel that is wrong is found in what it wrote, and not in what is made of that", async () => {
    // The device runs another program than the one that is meant: the mistake of a compiler.
    const other = graphOf("graphs/g.uhd", "g", {}, { "graphs/g.uhd": text.replace("* 2", "* 2.02") });
    const [meant, made] = [compileGraph(graph, { watch: true }), compileGraph(other, { watch: true })];
    await using session = await Session.create(made, { threads: 1, init: { seed: 1 } });
    const { values } = unwatched((await session.run({ x })).outputs);
    const verified = await verify({ graph: meant.graph, plan: meant.plan, given, states: new Map(), values, weights: undefined, seed: 1 });
    expect(verified.filter(isWrong)).toMatchObject([{ at: expect.stringMatching(/^graphs\/g\.uhd:5:/) as string }]);
    expect(isWrong(verified.at(-1) ?? verified[0] ?? unreachable())).toBe(false);
  });

  test.each(["f16", "bf16"])("values of %s are not wrong for being rounded", async (dtype) => {
    const source = `graph g(x: f32[N in 1..=64, 8]) -> y: ${dtype}[N, 8] { cast(exp(x), "${dtype}") }\n`;
    const values = await unfused(graphOf("graphs/g.uhd", "g", {}, { "graphs/g.uhd": source }));
    expect(values.map((v) => v.dtype)).toEqual(["f32", dtype]);
    expect(values.filter(isWrong)).toEqual([]);
    // The reference of cast rounds too, and to the same number.
    expect(values[1]?.error).toBe(0);
    expect(values[0]?.error).toBeGreaterThan(0);
  });

  test("sums that cancel are not wrong for it", async () => {
    const centred = graphOf(
      "graphs/g.uhd",
      "g",
      {},
      {
        "graphs/g.uhd":
          "graph g(x: f32[N in 1..=64, 8]) -> y: f32[N] { let m = x - mean(x, axes: [1], keep: true)\n  reduce_sum(m, axes: [1], keep: false) }\n",
      },
    );
    const values = await unfused(centred);
    expect(values.filter(isWrong)).toEqual([]);
    expect(values.at(-1)).toMatchObject({ op: "reduce_sum" });
    expect(values.at(-1)?.error).toBeGreaterThan(0);
  });

  async function unfused(source: Graph): Promise<readonly VerifiedValue[]> {
    const compiled = compileGraph(source, { watch: true, fuse: false });
    await using session = await Session.create(compiled, { threads: 1, init: { seed: 1 } });
    const { values } = unwatched((await session.run({ x })).outputs);
    return verify({ graph: compiled.graph, plan: compiled.plan, given, states: new Map(), values, weights: undefined, seed: 1 });
  }
});
