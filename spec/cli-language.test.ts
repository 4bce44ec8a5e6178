// uhdc check, fmt and shape as a user runs them: child processes, with what they print where and how they end.

import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { builtFolder, root } from "./cli-support.ts";

const uhdc = path.join(builtFolder(), "compiler/cli/uhdc.js");
let folder = "";

beforeEach(() => {
  if (folder !== "") rmSync(folder, { recursive: true, force: true });
  folder = mkdtempSync(path.join(tmpdir(), "uhd-cli-"));
});

afterAll(() => {
  if (folder !== "") rmSync(folder, { recursive: true, force: true });
});

interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs uhdc in the folder of the test, or of the project. */
function run(
  args: readonly string[],
  { input = "", cwd = folder, env = {} }: { input?: string; cwd?: string; env?: Record<string, string> } = {},
): Ended {
  const { NO_COLOR: _none, FORCE_COLOR: _force, ...rest } = process.env;
  const ended = spawnSync(process.execPath, [uhdc, ...args], { cwd, input, encoding: "utf8", env: { ...rest, ...env } });
  return { code: ended.status, out: ended.stdout, err: ended.stderr };
}

const write = (name: string, text: string): void => {
  writeFileSync(path.join(folder, name), text);
};
const read = (name: string): string => readFileSync(path.join(folder, name), "utf8");

/** The .uhd files of a folder and those inside it. */
function graphsOf(of: string): readonly string[] {
  return readdirSync(of, { recursive: true, encoding: "utf8" })
    .filter((f) => f.endsWith(".uhd"))
    .map((f) => path.join(of, f));
}

const good = "config width: int = 8\n\nfn double(x: int) -> int = 2 * x\n\ngraph g(x: f32[N, width]) -> y: f32[N, width] { x + 1 }\n";
const bad = "fn f(width: int) -> int = widht + 1\nconst a = 1 + true\n";

describe("uhdc", () => {
  test("--help lists the commands with examples and exit codes, on standard output", () => {
    const { code, out, err } = run(["--help"]);
    expect([code, err]).toEqual([0, ""]);
    for (const word of ["check", "fmt", "shape", "compile", "run", "explain", "Examples:", "Exit codes:"]) expect(out).toContain(word);
  });

  test.each(["check", "fmt", "shape"])("%s --help has examples", (command) => {
    const { code, out } = run([command, "--help"]);
    expect(code).toBe(0);
    expect(out).toMatch(new RegExp(`Examples:\\n.*uhdc ${command} `));
  });

  test.each([[[]], [["chekc"]], [["check"]], [["check", "--jsno", "a.uhd"]], [["shape", "a.uhd"]]])(
    "%j is a wrong command line: exit code 2",
    (args) => {
      const { code, out, err } = run(args);
      expect(code).toBe(2);
      expect(out).toBe("");
      expect(err).not.toBe("");
    },
  );

  test("a misspelt command is told the one that is meant", () => {
    expect(run(["chekc"]).err).toMatch(/check/);
  });
});

describe("uhdc check", () => {
  test("a sound file: exit code 0, and its graphs", () => {
    write("a.uhd", good);
    expect(run(["check", "a.uhd"])).toEqual({ code: 0, out: "", err: "a.uhd: ok (graphs: g)\n" });
  });

  test("a wrong file: exit code 1; each error with its place, the line, a caret, and help", () => {
    write("a.uhd", bad);
    const { code, out, err } = run(["check", "a.uhd"]);
    expect([code, out]).toEqual([1, ""]);
    expect(err).toContain("a.uhd:1:27: error[UHD0101]: there is nothing named widht");
    expect(err).toContain(" 1 | fn f(width: int) -> int = widht + 1\n   |                           ^^^^^\n");
    expect(err).toContain('help: did you mean "width"?');
    expect(err).toContain("a.uhd:2:11: error[UHD0202]");
    expect(err).toContain("expected: two numbers, two lists or two strings\n     found: int + bool");
    expect(err.trimEnd().endsWith("2 errors")).toBe(true);
  });

  test("--json gives the same as data, on standard output alone", () => {
    write("a.uhd", bad);
    const { code, out, err } = run(["check", "--json", "a.uhd"]);
    expect([code, err]).toEqual([1, ""]);
    const found = JSON.parse(out) as { ok: boolean; diagnostics: Record<string, unknown>[] };
    expect(found.ok).toBe(false);
    expect(found.diagnostics).toHaveLength(2);
    expect(found.diagnostics[0]).toMatchObject({
      severity: "error",
      code: "UHD0101",
      file: "a.uhd",
      line: 1,
      column: 27,
      endColumn: 32,
      start: 26,
      end: 31,
      help: 'did you mean "width"?',
      notes: [{ message: "width is declared here", span: { file: "a.uhd", line: 1, column: 6 } }],
    });
    expect(found.diagnostics[1]).toMatchObject({ expected: "two numbers, two lists or two strings", found: "int + bool" });
    write("b.uhd", good);
    const fine = run(["check", "--json", "b.uhd"]);
    expect(fine.code).toBe(0);
    expect(JSON.parse(fine.out)).toEqual({ ok: true, files: [{ file: "b.uhd", graphs: ["g"], functions: ["double"] }], diagnostics: [] });
  });

  test("an error in a file that several import is told once", () => {
    write("lib.uhd", "const a = lost\n");
    write("a.uhd", 'import { a } from "./lib.uhd"\nconst b = a\n');
    write("b.uhd", 'import { a } from "./lib.uhd"\nconst b = a\n');
    const { code, err } = run(["check", "a.uhd", "b.uhd", "lib.uhd"]);
    expect(code).toBe(1);
    expect(err.match(/UHD0101/g)).toHaveLength(1);
  });

  test("a missing file, a folder, and a missing import: exit code 1 and one clear error", () => {
    const missing = run(["check", "none.uhd"]);
    expect([missing.code, missing.err]).toEqual([1, "none.uhd: cannot be read (no such file)\n"]);
    expect(run(["check", "."]).err).toMatch(/it is a folder/);
    write("a.uhd", 'import { x } from "./none.uhd"\n');
    const { code, err } = run(["check", "a.uhd"]);
    expect(code).toBe(1);
    expect(err).toMatch(/a\.uhd:1:19: error\[UHD0402\]: none\.uhd cannot be read/);
    expect(err.match(/error\[/g)).toHaveLength(1);
  });

  test("recursion 10,000 deep and a cyclic import each give one clear error", () => {
    write("deep.uhd", `const a = ${"(".repeat(10_000)}1${")".repeat(10_000)}\n`);
    const deep = run(["check", "deep.uhd"]);
    expect(deep.code).toBe(1);
    expect(deep.err.match(/error\[/g)).toEqual(["error["]);
    expect(deep.err).toContain("nested too deeply");
    write("a.uhd", 'import { b } from "./b.uhd"\nconst a = b\n');
    write("b.uhd", 'import { a } from "./a.uhd"\nconst b = a\n');
    const cyclic = run(["check", "a.uhd"]);
    expect(cyclic.code).toBe(1);
    expect(cyclic.err).toContain("found: a.uhd → b.uhd → a.uhd");
  });

  test("--set overrides a config; a wrong value or name is an error, a malformed one a wrong command line", () => {
    write("a.uhd", good);
    expect(run(["check", "a.uhd", "--set", "width=16"]).code).toBe(0);
    const wrong = run(["check", "a.uhd", "--set", "width=wide"]);
    expect([wrong.code, wrong.err]).toEqual([1, expect.stringContaining("UHD0408")]);
    const unknown = run(["check", "a.uhd", "--set", "wdith=16"]);
    expect([unknown.code, unknown.err]).toEqual([1, expect.stringContaining('did you mean "width"?')]);
    expect(run(["check", "a.uhd", "--set", "width"]).code).toBe(2);
  });

  test("colour only where it is wanted, never with NO_COLOR", () => {
    write("a.uhd", bad);
    const escape = "\u001b[";
    expect(run(["check", "a.uhd"]).err).not.toContain(escape);
    expect(run(["check", "a.uhd"], { env: { FORCE_COLOR: "1" } }).err).toContain(escape);
    expect(run(["check", "a.uhd"], { env: { FORCE_COLOR: "1", NO_COLOR: "1" } }).err).not.toContain(escape);
  });

  test("all graphs of the project check", () => {
    const graphs = graphsOf(path.join(root, "graphs"));
    const { code, err } = run(["check", ...graphs], { cwd: root });
    expect(code, err).toBe(0);
    expect(err).toContain("graphs/llava-uhd.uhd: ok (graphs: llava_uhd)");
  });
});

describe("uhdc fmt", () => {
  test("formats in place, says so, and changes nothing the second time", () => {
    write("a.uhd", "const   a=1 # one\n\n\n\nconst b = [ 1,2 ]\n");
    expect(run(["fmt", "a.uhd"])).toEqual({ code: 0, out: "", err: "a.uhd: formatted\n" });
    expect(read("a.uhd")).toBe("const a = 1 # one\n\nconst b = [1, 2]\n");
    expect(run(["fmt", "a.uhd"])).toEqual({ code: 0, out: "", err: "" });
    expect(readdirSync(folder)).toEqual(["a.uhd"]);
  });

  test("--check changes nothing and ends with 1 where a file is not formatted", () => {
    write("a.uhd", "const   a=1\n");
    expect(run(["fmt", "--check", "a.uhd"])).toEqual({ code: 1, out: "", err: "a.uhd: not formatted\n" });
    expect(read("a.uhd")).toBe("const   a=1\n");
    write("b.uhd", "const a = 1\n");
    expect(run(["fmt", "--check", "b.uhd"]).code).toBe(0);
  });

  test("- formats standard input to standard output", () => {
    expect(run(["fmt", "-"], { input: "const   a=1" })).toEqual({ code: 0, out: "const a = 1\n", err: "" });
  });

  test("a file with a syntax error is left as it was, with the error; the others are formatted", () => {
    write("a.uhd", "const a = (\n");
    write("b.uhd", "const   b=1\n");
    const { code, err } = run(["fmt", "a.uhd", "b.uhd"]);
    expect(code).toBe(1);
    expect(err).toContain("a.uhd:1:12: error[UHD0010]");
    expect(read("a.uhd")).toBe("const a = (\n");
    expect(read("b.uhd")).toBe("const b = 1\n");
  });

  test("the graphs of the project are formatted", () => {
    const graphs = graphsOf(path.join(root, "graphs"));
    expect(run(["fmt", "--check", ...graphs], { cwd: root })).toEqual({ code: 0, out: "", err: "" });
  });
});

describe("uhdc shape", () => {
  const shape = (args: readonly string[], input = ""): Ended => run(["shape", ...args], { cwd: root, input });

  test("prints what a shape function gives as JSON", () => {
    const { code, out, err } = shape(["graphs/slicing.uhd", "paper", "1920", "1080"]);
    expect([code, err]).toEqual([0, ""]);
    expect(JSON.parse(out)).toMatchObject({
      grid: [3, 2],
      slice: { px: [364, 308], patches: [26, 22] },
      overview: { px: [448, 252], patches: [32, 18] },
      tokens: 448,
    });
  });

  test("takes strings, and JSON for lists, tuples and records", () => {
    expect(JSON.parse(shape(["graphs/slicing.uhd", "by_policy", "v1", "672", "1008"]).out)).toMatchObject({ grid: [2, 3], tokens: 1008 });
    expect(JSON.parse(shape(["graphs/slicing.uhd", "grids", "[2, 3]"]).out)).toEqual([
      [1, 2],
      [2, 1],
      [1, 3],
      [3, 1],
    ]);
  });

  test("--batch reads an argument list a line and prints a result a line", () => {
    const { code, out } = shape(["graphs/slicing.uhd", "v1", "--batch"], "672 1008\n\n300 1200\n");
    expect(code).toBe(0);
    const rows = out.trimEnd().split("\n");
    expect(rows.map((r) => (JSON.parse(r) as { grid: unknown }).grid)).toEqual([
      [2, 3],
      [1, 4],
    ]);
  });

  test("a wrong line of a batch is named, and what came before is printed", () => {
    const { code, out, err } = shape(["graphs/slicing.uhd", "v1", "--batch"], "672 1008\n300 tall\n");
    expect(code).toBe(2);
    expect(out.trimEnd().split("\n")).toHaveLength(1);
    expect(err).toContain("<stdin>:2: v1: argument 2 (H) is int, found tall");
  });

  test("wrong function, number or type of arguments: exit code 2", () => {
    expect(shape(["graphs/slicing.uhd", "papre", "1", "1"])).toMatchObject({
      code: 2,
      err: expect.stringContaining('did you mean "paper"?') as string,
    });
    expect(shape(["graphs/slicing.uhd", "paper", "1"])).toMatchObject({
      code: 2,
      err: expect.stringContaining("W: int, H: int") as string,
    });
    expect(shape(["graphs/slicing.uhd", "paper", "1", "1.5"])).toMatchObject({
      code: 2,
      err: expect.stringContaining("H) is int") as string,
    });
  });

  test("shape code that fails: exit code 1, with its place", () => {
    const { code, err } = shape(["graphs/slicing.uhd", "by_policy", "papier", "10", "10"]);
    expect(code).toBe(1);
    expect(err).toMatch(/graphs\/slicing\.uhd:\d+:\d+: choose found no candidate/);
  });

  test("a file with an error is not evaluated: exit code 1 and the error", () => {
    write("a.uhd", bad);
    const { code, out, err } = run(["shape", "a.uhd", "f", "1"]);
    expect([code, out]).toEqual([1, ""]);
    expect(err).toContain("UHD0101");
  });

  test("constants follow --set", () => {
    write("a.uhd", "config k: int = 2\n\nfn times(x: int) -> int = k * x\n");
    expect(run(["shape", "a.uhd", "times", "21"]).out).toBe("42\n");
    expect(run(["shape", "a.uhd", "times", "21", "--set", "k=3"]).out).toBe("63\n");
  });

  test("a reader that goes away is no error", async () => {
    const child = spawn(process.execPath, [uhdc, "shape", "graphs/slicing.uhd", "paper", "--batch"], {
      cwd: root,
      stdio: ["pipe", "pipe", "pipe"],
    });
    let err = "";
    child.stderr.on("data", (d: Buffer) => (err += d.toString()));
    child.stdin.on("error", () => undefined);
    child.stdout.once("data", () => child.stdout.destroy());
    child.stdin.end("1920 1080\n".repeat(5000));
    const code = await new Promise((resolve) => child.on("close", resolve));
    expect([code, err]).toEqual([0, ""]);
  });
});
