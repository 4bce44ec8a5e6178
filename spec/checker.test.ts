// The checker: real programs pass, wrong ones are refused once, at the right place, with what was expected and found,
// a note at the other end of the conflict, and a suggestion. Every code has a test here.

import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { loadProgram, type Program } from "../compiler/check/index.ts";
import { renderDiagnostics, type Diagnostic } from "../compiler/diagnostics/index.ts";
import { verifyGraph } from "../compiler/ir/graph/verify.ts";
import type { Span } from "../compiler/ir/loc.ts";
import { typeRule } from "../ops/index.ts";

const folder = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../graphs");

/** Checks files given as text; the first is the program. */
function checkFiles(files: Readonly<Record<string, string>>, config: Readonly<Record<string, string>> = {}): Program {
  const main = Object.keys(files)[0] ?? "";
  return loadProgram(main, {
    readText: (file) => {
      const text = files[file];
      if (text === undefined) throw Object.assign(new Error("no such file"), { code: "ENOENT" });
      return text;
    },
    config,
  });
}

const check = (text: string, config?: Readonly<Record<string, string>>): Program => checkFiles({ "main.uhd": text }, config);

const under = (program: Program, span: Span): string => (program.sources.get(span.file) ?? "").slice(span.start, span.end);

interface Expected {
  readonly code: string;
  /** The underlined text. */
  readonly at: string;
  readonly expected?: string | RegExp;
  readonly found?: string | RegExp;
  /** Texts that notes underline, all of them among the notes. */
  readonly notes?: readonly string[];
  readonly help?: string | RegExp;
}

function matches(program: Program, d: Diagnostic | undefined, e: Expected): void {
  const text = renderDiagnostics(program.diagnostics, program.sources, { color: false });
  expect(d, text).toBeDefined();
  if (d === undefined) return;
  expect([d.code, under(program, d.span)], text).toEqual([e.code, e.at]);
  const agrees = (value: string | undefined, wanted: string | RegExp | undefined): void => {
    if (wanted === undefined) return;
    if (typeof wanted === "string") expect(value, text).toBe(wanted);
    else expect(value, text).toMatch(wanted);
  };
  agrees(d.expected, e.expected);
  agrees(d.found, e.found);
  agrees(d.help, e.help);
  const notes = d.notes.flatMap((n) => (n.span === undefined ? [] : [under(program, n.span)]));
  expect(notes, text).toEqual(expect.arrayContaining([...(e.notes ?? [])]));
}

/** The program has exactly this error. */
function refused(text: string, expected: Expected, config?: Readonly<Record<string, string>>): void {
  const program = check(text, config);
  expect(program.diagnostics.length, renderDiagnostics(program.diagnostics, program.sources, { color: false })).toBe(1);
  matches(program, program.diagnostics[0], expected);
}

describe("the graphs", () => {
  const files = readdirSync(folder).filter((f) => f.endsWith(".uhd"));
  const expected: Readonly<Record<string, readonly string[]>> = {
    "clip-vit.uhd": ["clip_vit_layer", "clip_vit_layer_ragged", "clip_vit"],
    "llava-uhd.uhd": ["llava_uhd"],
    "llava-uhd-v1.uhd": ["llava_uhd_v1"],
    "preprocess.uhd": ["preprocess", "pictures"],
    "resampler.uhd": ["resampler"],
    "spatial-resampler.uhd": ["spatial_resampler", "roi_align"],
    "positions.uhd": ["interpolate"],
  };

  test.each(files)("%s checks without a diagnostic and elaborates to sound graphs", (file) => {
    const program = loadProgram(path.join(folder, file), { readText: (f) => readFileSync(f, "utf8") });
    expect(program.diagnostics).toEqual([]);
    expect([...program.graphs.keys()]).toEqual(expect.arrayContaining([...(expected[file] ?? [])]));
    for (const graph of program.graphs.values()) expect(verifyGraph(graph, typeRule)).toEqual([]);
  });

  test("every value of a graph knows the lines it came from, outermost call last", () => {
    const file = path.join(folder, "clip-vit.uhd");
    const program = loadProgram(file, { readText: (f) => readFileSync(f, "utf8"), config: { layers: "1" } });
    const graph = program.graphs.get("clip_vit");
    expect(graph).toBeDefined();
    for (const n of graph?.nodes ?? []) expect(n.loc.length).toBeGreaterThan(0);
    const linear = graph?.nodes.find((n) => n.kind === "op" && n.op === "quick_gelu");
    const places = (linear?.loc ?? []).map((s) => (program.sources.get(s.file) ?? "").slice(s.start, s.end));
    expect(places[0]).toBe("quick_gelu(fc1(x))");
    expect(places[1]).toBe("mlp(layer_norm2(h))");
  });
});

describe("text that is no program", () => {
  test("UHD0001: characters that mean nothing", () => {
    refused("const a = 1 $\n", { code: "UHD0001", at: "$", help: "remove it" });
    refused("const b = 'x'\n", { code: "UHD0001", at: "'", help: 'strings are written with "' });
  });

  test("UHD0002: a string without its end", () => {
    refused('const a = "abc\nconst b = 1\n', { code: "UHD0002", at: '"', expected: 'a closing "' });
  });

  test("UHD0004: a file of more than four million characters", () => {
    refused(" ".repeat(4_000_001), { code: "UHD0004", at: " ", expected: "at most 4000000" });
  });

  test("UHD0005: numbers that would not be exact", () => {
    refused("const a = 99999999999999999999", { code: "UHD0005", at: "99999999999999999999", expected: /^at most 9007199254740991$/ });
    refused("const a = 1e999", { code: "UHD0005", at: "1e999" });
  });

  test("UHD0010: what the grammar wanted, what it found, after what", () => {
    refused("fn f(x: int) -> = x", { code: "UHD0010", at: "=", found: '"="', notes: ["->"] });
    refused("const a = (1 + 2", { code: "UHD0010", at: "", expected: '")"', found: "the end of the file", notes: ["("] });
    refused("const a = f(1, ]", { code: "UHD0010", at: "]", expected: "an expression", notes: ["(", ","] });
    refused("fn f() = 1 +", { code: "UHD0010", at: "", expected: "an expression" });
  });

  test("an empty file, and one with comments only, are programs", () => {
    for (const text of ["", "\n\n", "# only\n", "\uFEFF"]) expect(check(text).diagnostics).toEqual([]);
  });
});

describe("names", () => {
  test("UHD0101: an unknown name, with the one that is meant and where that is declared", () => {
    refused("fn f(width: int) -> int = widht + 1", { code: "UHD0101", at: "widht", help: 'did you mean "width"?', notes: ["width"] });
    refused("const border = 1\nconst b = bordr", { code: "UHD0101", at: "bordr", help: 'did you mean "border"?', notes: ["border"] });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  var h = x\n  hh = x\n  h\n}", { code: "UHD0101", at: "hh", help: 'did you mean "h"?' });
    refused("fn f() = floor", { code: "UHD0101", at: "floor", help: /floor is a function/ });
  });

  test("UHD0102: a name twice, with the first place", () => {
    refused("const a = 1\nfn a() = 2", { code: "UHD0102", at: "a", notes: ["a"] });
    refused("fn f(a: int, a: int) = 1", { code: "UHD0102", at: "a" });
    refused("fn f() = { a: 1, a: 2 }", { code: "UHD0102", at: "a" });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  dim T = N\n  dim T = N\n  x\n}", { code: "UHD0102", at: "T", notes: ["T"] });
    refused("graph g(x: f32[N]) -> y: f32[N] { softmax(x, axis: 0, axis: 0) }", { code: "UHD0102", at: "axis", notes: ["axis"] });
  });

  test("UHD0102: a state is declared once and gets one new value", () => {
    const graph = (body: string): string => `graph g(x: f32[3]) -> y: f32[3] {\n  state s: f32[3]\n${body}\n  s + x\n}`;
    expect(check(graph("  s = s + x")).diagnostics).toEqual([]);
    refused(graph("  s = x\n  s = x + 1"), { code: "UHD0102", at: "s = x + 1", notes: ["s = x"] });
    refused("graph g(x: f32[3]) -> y: f32[3] {\n  repeat i in 0..2 { state s: f32[3] }\n  x\n}", { code: "UHD0102", at: "s" });
  });

  test("UHD0103: no such type", () => {
    refused("fn f(x: itn) -> int = 1", { code: "UHD0103", at: "itn", help: 'did you mean "int"?' });
    refused("type Size = int\nfn f(x: Sise) -> int = 1", { code: "UHD0103", at: "Sise", help: 'did you mean "Size"?', notes: ["Size"] });
    refused("graph g(x: f23[N]) -> y: f32[N] { x }", { code: "UHD0103", at: "f23", help: 'did you mean "f32"?', expected: /f32, f16/ });
    refused("fn f(x: f32) = 1", { code: "UHD0103", at: "f32", help: /f32\[…\]/ });
    refused("type A = [B]\ntype B = A", { code: "UHD0103", at: "A", notes: ["A"] });
  });

  test("UHD0104: no such function, operation or module", () => {
    refused("graph g(x: f32[N]) -> y: f32[N] { sofmax(x, axis: 0) }", { code: "UHD0104", at: "sofmax", help: 'did you mean "softmax"?' });
    refused("fn double(x: int) = 2 * x\nconst a = doubel(2)", {
      code: "UHD0104",
      at: "doubel",
      help: 'did you mean "double"?',
      notes: ["double"],
    });
    refused(
      "module Linear(a: int) { forward(x: f32[N, a]) -> f32[N, a] { x } }\ngraph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use l = Liner(3)\n  l(x)\n}",
      { code: "UHD0104", at: "Liner", help: 'did you mean "Linear"?', notes: ["Linear"] },
    );
  });

  test("UHD0105: no such field, place or member", () => {
    const record = "type S = { px: int, patches: int }\n";
    refused(`${record}fn f(s: S) -> int = s.pathces`, {
      code: "UHD0105",
      at: "pathces",
      help: 'did you mean "patches"?',
      notes: ["patches"],
    });
    refused(`${record}fn f() -> S = { px: 1, patchs: 2 }`, {
      code: "UHD0105",
      at: "patchs",
      help: 'did you mean "patches"?',
      notes: ["patches"],
    });
    refused("fn f(s: (int, int)) = s.2", { code: "UHD0105", at: "2", expected: ".0 to .1" });
    refused("fn f(s: int) = s.x", { code: "UHD0105", at: "x", expected: "a record", found: "int" });
    refused(
      "module M(d: int) {\n  param weight: f32[d]\n  forward(x: f32[N, d]) -> f32[N, d] { x + weight }\n}\ngraph g(x: f32[3]) -> y: f32[3] {\n  use m = M(3)\n  x + m.wieght\n}",
      { code: "UHD0105", at: "wieght", help: 'did you mean "weight"?', notes: ["weight", "M"] },
    );
  });

  test("UHD0106: no such argument", () => {
    refused("graph g(x: f32[N]) -> y: f32[N] { softmax(x, axes: 0) }", { code: "UHD0106", at: "axes", help: 'did you mean "axis"?' });
    refused("fn f(x: int) = x\nconst a = f(x: 1)", { code: "UHD0106", at: "x", expected: "no name" });
  });

  test("UHD0107: a name of another kind", () => {
    refused("graph g(x: f32[N]) -> y: f32[N] { g(x) }", { code: "UHD0107", at: "g", notes: ["g"] });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  let n = [x for i in 0..2]\n  x\n}", { code: "UHD0107", at: "x", notes: ["x"] });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  let h = x\n  h = x\n  h\n}", {
      code: "UHD0107",
      at: "h",
      help: "declare it with var",
      notes: ["h"],
    });
    refused("fn f(x: int) = softmax(x)", { code: "UHD0107", at: "softmax" });
  });

  test("UHD0111: values that nobody reads", () => {
    refused("fn f(x: int) -> int {\n  x\n  -1\n}", { code: "UHD0111", at: "x", help: /end of the first/ });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  x + 1\n  x\n}", { code: "UHD0111", at: "x + 1" });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  repeat i in 0..2 { x + 1 }\n  x\n}", { code: "UHD0111", at: "x + 1" });
    expect(check("fn f(x: int) -> int {\n  let _ = x\n  1\n}").diagnostics).toEqual([]);
  });
});

describe("shape code", () => {
  test("UHD0201: another type, with the declaration", () => {
    refused("fn f(x: int) -> int = x / 2", { code: "UHD0201", at: "x / 2", expected: "int", found: "float", notes: ["int"] });
    refused('fn f(x: int) = x\nconst a = f("a")', { code: "UHD0201", at: '"a"', expected: "int", found: "string", notes: ["x: int"] });
    refused("const a = floor(true)", { code: "UHD0201", at: "true", expected: "int or float", found: "bool" });
    refused('const a = [1, "a"]', { code: "UHD0201", at: '"a"', expected: "int", found: "string", notes: ["1"] });
    refused("fn f(x: int) = if x { 1 } else { 2 }", { code: "UHD0201", at: "x", expected: "bool", found: "int" });
    refused('fn f(x: int) = if x > 1 { 1 } else { "a" }', { code: "UHD0201", at: '"a"', expected: "int", found: "string", notes: ["1"] });
    refused('config a: int = "x"', { code: "UHD0201", at: '"x"', notes: ["int"] });
    refused("fn f(x: float) = 0..x", { code: "UHD0201", at: "x", expected: "int", found: "float" });
  });

  test("UHD0201: of a record written out only the part that is wrong", () => {
    const types = "type Size = { px: (int, int), n: int }\n";
    refused(`${types}fn f(x: float) -> Size = { px: (1, x), n: 1 }`, { code: "UHD0201", at: "x", expected: "int", found: "float" });
    refused(`${types}fn f() -> [Size] = [{ n: i } for i in 0..2]`, {
      code: "UHD0201",
      at: "{ n: i }",
      expected: "px: (int, int)",
      notes: ["px"],
    });
    refused(`${types}fn f(b: bool) -> Size = if b { { px: (1, 2), n: true } } else { { px: (1, 2), n: true } }`, {
      code: "UHD0201",
      at: "true",
      expected: "int",
      found: "bool",
      notes: ["n"],
    });
  });

  test("UHD0202: operators of other types", () => {
    refused('fn f() = 1 + "a"', { code: "UHD0202", at: '1 + "a"', found: "int + string" });
    refused("fn f(x: float) = x // 2", { code: "UHD0202", at: "x // 2", expected: "two integers", help: /floor/ });
    refused("fn f() = not 1", { code: "UHD0202", at: "not 1", expected: "bool" });
  });

  test("UHD0203: the number of arguments", () => {
    refused("fn f(a: int, b: int) = a + b\nconst c = f(1)", {
      code: "UHD0203",
      at: "f(1)",
      expected: "a: int, b: int",
      found: "1 argument",
      notes: ["f"],
    });
    refused("const a = clamp(1, 2)", { code: "UHD0203", at: "clamp(1, 2)", found: "2 arguments" });
  });

  test("UHD0204: elements of what has none", () => {
    refused("fn f(a: int) = a[0]", { code: "UHD0204", at: "a[0]", expected: "a list", found: "int" });
    refused("fn f(a: int) = [x for x in a]", { code: "UHD0204", at: "a", expected: "a list", found: "int" });
    refused("fn f(a: (int, int)) = a[0]", { code: "UHD0204", at: "a[0]", help: /\.0, \.1/ });
  });

  test("UHD0205: a pattern of another form", () => {
    refused("fn f() {\n  let (a, b) = (1, 2, 3)\n  a\n}", {
      code: "UHD0205",
      at: "(a, b)",
      expected: "(int, int, int)",
      found: "a tuple of 2",
    });
  });

  test("UHD0206: recursion needs a written result", () => {
    refused("fn f(n: int) = f(n - 1)", { code: "UHD0206", at: "f", help: /-> TYPE/ });
  });

  test("UHD0207: what must be known at compile time", () => {
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  var h = x\n  repeat i in 0..N { h = h + 1 }\n  h\n}", { code: "UHD0207", at: "0..N" });
    refused("const a = b\nconst b = a", { code: "UHD0207", at: "a", notes: ["a"] });
    const layers = "module L(d: int) { forward(x: f32[N, d]) -> f32[N, d] { x } }\n";
    refused(`${layers}graph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use l[N] = L(3)\n  l[0](x)\n}`, { code: "UHD0207", at: "N" });
  });

  test("UHD0208: shape code that fails when it is evaluated", () => {
    refused("const a = [1][3]", { code: "UHD0208", at: "[1][3]", found: /index 3 is outside a list of 1/ });
    refused("const b = 1 // 0", { code: "UHD0208", at: "1 // 0" });
    refused("const c = choose x in [1] where x > 1 minimizing x", {
      code: "UHD0208",
      at: "choose x in [1] where x > 1 minimizing x",
      found: /no candidate/,
    });
  });

  test("UHD0209: statements that shape code does not have", () => {
    refused("fn f() {\n  var a = 1\n  a\n}", { code: "UHD0209", at: "var a = 1", help: /comprehension/ });
    refused("fn f(a: int = 1) = a", { code: "UHD0209", at: "1" });
  });

  test("UHD0210: a block without a value", () => {
    refused("fn f() {\n  let a = 1\n}", { code: "UHD0210", at: "{\n  let a = 1\n}", expected: /expression/ });
  });
});

describe("tensor code", () => {
  test("UHD0301: an argument that does not fit a signature, with what set the size and the declaration", () => {
    const text = `module M(a: int) { forward(x: f32[N, a], y: f32[N, a]) -> f32[N, a] { x + y } }
graph g(u: f32[P, 3], v: f32[Q, 3]) -> out: f32[P, 3] {
  use m = M(3)
  m(u, v)
}`;
    refused(text, { code: "UHD0301", at: "v", expected: "f32[P, 3]", found: "f32[Q, 3]", notes: ["u", "N", "f32[Q, 3]", "use m = M(3)"] });
    refused(text.replace("v: f32[Q, 3]", "v: i32[P, 3]"), { code: "UHD0301", at: "v", expected: /f32/, found: "i32[P, 3]" });
    refused(text.replace("v: f32[Q, 3]", "v: f32[P]"), { code: "UHD0301", at: "v", found: "f32[P]" });
  });

  test("UHD0302: an operand that an operation does not take, both shapes told", () => {
    refused("graph g(x: f32[N, 3], w: f32[5, 4]) -> y: f32[N, 5] { linear(x, w) }", {
      code: "UHD0302",
      at: "w",
      expected: "3 (in f32[N, 3])",
      found: "4 (in f32[5, 4])",
      notes: ["x", "f32[5, 4]"],
    });
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 4] { reshape(x, [N, 4]) }", { code: "UHD0302", at: "[N, 4]", notes: ["f32[N, 3]"] });
  });

  test("UHD0303: shapes that do not broadcast", () => {
    refused("graph g(x: f32[N, 3], w: f32[N, 4]) -> y: f32[N, 4] { x * w }", {
      code: "UHD0303",
      at: "x * w",
      found: "[N, 4]",
      notes: ["x", "w", "f32[N, 3]", "f32[N, 4]"],
    });
  });

  test("UHD0304: element types that differ", () => {
    refused("graph g(x: f32[N], w: i32[N]) -> y: f32[N] { x * w }", {
      code: "UHD0304",
      at: "w",
      expected: "f32",
      found: "i32[N]",
      help: /cast/,
      notes: ["x"],
    });
    refused("graph g(x: i32[N]) -> y: i32[N] { x + 0.5 }", { code: "UHD0304", at: "0.5", found: "float" });
    refused("graph g(x: f32[2]) -> y: f32[2] {\n  table t: f16[2] = [1.0, 2.0]\n  x\n}", { code: "UHD0304", at: "f16[2]" });
  });

  test("UHD0305: a result, a let, a state or a branch of another type", () => {
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 4] { x }", {
      code: "UHD0305",
      at: "x",
      expected: "f32[N, 4]",
      found: "f32[N, 3]",
      notes: ["y: f32[N, 4]", "f32[N, 3]"],
    });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  let h: f32[4] = x\n  x\n}", { code: "UHD0305", at: "x", notes: ["f32[4]"] });
    refused("graph g(x: f32[3]) -> y: f32[3] {\n  state s: f32[4]\n  s = x\n  x\n}", {
      code: "UHD0305",
      at: "x",
      expected: "f32[4]",
      notes: ["state s: f32[4]"],
    });
    refused(
      "module M(d: int, b: bool) {\n  param w: f32[3]\n  param v: f32[4]\n  forward(x: f32[d]) -> f32[3] { if b { w } else { v } }\n}",
      {
        code: "UHD0305",
        at: "v",
        expected: "f32[3]",
        found: "f32[4]",
        notes: ["w"],
      },
    );
  });

  test("UHD0306: a tensor is wanted", () => {
    refused('graph g(x: f32[N, 3]) -> y: f32[N, 3] { softmax("a", axis: 1) }', {
      code: "UHD0306",
      at: '"a"',
      expected: "a tensor",
      found: "string",
    });
    refused("graph g(n: string) -> y: f32[3] { n }", { code: "UHD0306", at: "string", help: /config/ });
    refused("graph g(x: f32[N]) -> y: f32[N] { 1 }", { code: "UHD0306", at: "1", found: "int" });
  });

  test("UHD0307: segments", () => {
    const ragged = "module M(d: int) { forward(x: f32[T~, d]) -> f32[T, d] { x } }\n";
    refused(`${ragged}graph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use m = M(3)\n  m(x)\n}`, {
      code: "UHD0307",
      at: "x",
      notes: ["T~"],
      help: /ragged T over P/,
    });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  let s = segment(x)\n  x\n}", { code: "UHD0307", at: "x" });
    refused(
      "graph g(q: f32[P in 1..=4, n in 1..=9, 2, 8]) -> y: f32[T, 2, 8] {\n  ragged T over P = [n for _ in 0..P]\n  dim Q = 2\n  ragged U over Q = [n * P for _ in 0..Q]\n  let a = reshape(q, [T, 2, 8])\n  let b = reshape(concat(q, q, axis: 0), [U, 2, 8])\n  attention(a, b, b, scale: 1.0)\n}",
      { code: "UHD0307", at: "b", expected: /segments over P/, found: /segments over 2/, notes: ["a"] },
    );
  });

  test("UHD0308: sizes that nothing gives, and bounds", () => {
    refused("graph g(x: f32[N, 3]) -> y: f32[M, 3] { x }", { code: "UHD0308", at: "M", help: /a size comes from/ });
    refused("graph g(x: f32[rows, 3]) -> y: f32[rosw, 3] { x }", {
      code: "UHD0308",
      at: "rosw",
      help: 'did you mean "rows"?',
      notes: ["rows"],
    });
    refused("graph g(x: f32[W in 1..=9, W in 1..=9]) -> y: f32[W, W] { x }", { code: "UHD0308", at: "W in 1..=9", notes: ["W in 1..=9"] });
    refused("graph g(x: f32[W in 9..=1]) -> y: f32[W] { x }", { code: "UHD0308", at: "9..=1" });
    refused("graph g(x: f32[W in 1]) -> y: f32[W] { x }", { code: "UHD0308", at: "1", expected: "1..=20000" });
    refused("graph g(x: f32[0 - 1]) -> y: f32[2] { x }", { code: "UHD0308", at: "0 - 1" });
  });

  test("UHD0309: attributes", () => {
    refused('graph g(x: f32[N, 3]) -> y: f32[N, 3] { softmax(x, axis: "a") }', {
      code: "UHD0309",
      at: '"a"',
      expected: "int",
      found: "string",
    });
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 3] { softmax(x, axis: 7) }", { code: "UHD0309", at: "7", expected: "-2 … 1", found: "7" });
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 3] { softmax(x, axis: N) }", { code: "UHD0309", at: "N", found: "a value of each run" });
  });

  test("UHD0310: a choice between tensors that only a run can make", () => {
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 3] { if N > 3 { x } else { x * 2 } }", {
      code: "UHD0310",
      at: "N > 3",
      help: /select/,
      notes: ["x"],
    });
    expect(check("config twice: bool = false\ngraph g(x: f32[N]) -> y: f32[N] { if twice { x * 2 } else { x } }").diagnostics).toEqual([]);
  });

  test("UHD0311: places in brackets", () => {
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 3] { x[:, :, 0] }", { code: "UHD0311", at: "x[:, :, 0]", found: "f32[N, 3]" });
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 3] { x[0:1.5] }", { code: "UHD0201", at: "1.5" });
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 3] { x[::N] }", { code: "UHD0311", at: "N" });
  });

  test("a mistake in a module is told once, with the modules and the call that led there", () => {
    const program = check(`module Inner(d: int, e: int) {
  param w: f32[e, d]
  forward(x: f32[N, d]) -> f32[N, d] { linear(x, w) }
}
module Outer(d: int, e: int) {
  use first = Inner(d, e)
  use second = Inner(d, d)
  forward(x: f32[N, d]) -> f32[N, d] { second(first(x)) }
}
graph g(x: f32[N, 3]) -> y: f32[N, 3] {
  use outer[4] = Outer(3, 5)
  var h = x
  repeat i in 0..4 { h = outer[i](h) }
  h
}`);
    expect(program.diagnostics).toHaveLength(1);
    matches(program, program.diagnostics[0], {
      code: "UHD0305",
      at: "linear(x, w)",
      expected: "f32[N, 3]",
      found: "f32[N, 5]",
      notes: ["f32[N, d]", "first(x)", "use first = Inner(d, e)", "use outer[4] = Outer(3, 5)"],
    });
    expect(program.diagnostics[0]?.notes.map((n) => n.message)).toContain("in Inner(d: 3, e: 5), made here");
  });

  test("what a module's use will know is not wanted of the module alone", () => {
    const rows =
      "module M(heads: int, head: int) {\n  forward(x: f32[N, heads, head], p: i32[N]) -> f32[N, heads, head] { rope(x, p, theta: 10000.0) }\n}";
    expect(check(rows).diagnostics).toEqual([]);
    refused(`${rows}\ngraph g(x: f32[N, 2, D], p: i32[N]) -> y: f32[N, 2, D] {\n  use m = M(2, D)\n  m(x, p)\n}`, {
      code: "UHD0302",
      at: "x",
      notes: ["use m = M(2, D)"],
    });
  });

  test("a module that no graph uses is checked with symbols for its arguments", () => {
    refused("module M(d: int, e: int) {\n  param w: f32[e, d]\n  forward(x: f32[N, d]) -> f32[N, d] { linear(x, w) }\n}", {
      code: "UHD0305",
      at: "linear(x, w)",
      expected: "f32[N, d]",
      found: "f32[N, e]",
    });
  });
});

describe("modules, imports and configuration", () => {
  test("UHD0401: the file itself cannot be read; UHD0402: an import cannot", () => {
    const none = loadProgram("none.uhd", {
      readText: () => {
        throw Object.assign(new Error("ENOENT"), { code: "ENOENT" });
      },
    });
    expect(none.diagnostics.map((d) => [d.code, d.found])).toEqual([["UHD0401", "there is no such file"]]);
    refused('import { a } from "./lost.uhd"\nconst b = a', { code: "UHD0402", at: '"./lost.uhd"', found: "there is no such file" });
  });

  test("UHD0403: imports in a circle are told with the circle", () => {
    const program = checkFiles({
      "a.uhd": 'import { b } from "./b.uhd"\nconst a = b',
      "b.uhd": 'import { c } from "./c.uhd"\nconst b = c',
      "c.uhd": 'import { a } from "./a.uhd"\nconst c = a',
    });
    expect(program.diagnostics).toHaveLength(1);
    matches(program, program.diagnostics[0], { code: "UHD0403", at: '"./a.uhd"', found: "a.uhd → b.uhd → c.uhd → a.uhd" });
    expect(checkFiles({ "a.uhd": 'import { a } from "./a.uhd"' }).diagnostics.map((d) => d.code)).toEqual(["UHD0403"]);
  });

  test("UHD0404: a module that uses itself", () => {
    refused("module M(a: int) {\n  use m = M(a)\n  forward(x: f32[N, a]) -> f32[N, a] { m(x) }\n}", {
      code: "UHD0404",
      at: "use m = M(a)",
      found: "M → M",
    });
  });

  test("UHD0405: what the other file does not declare", () => {
    const program = checkFiles({ "a.uhd": 'import { widht as w } from "./b.uhd"\nconst a = w', "b.uhd": "const width = 1" });
    expect(program.diagnostics).toHaveLength(1);
    matches(program, program.diagnostics[0], { code: "UHD0405", at: "widht", help: 'did you mean "width"?', notes: ["width"] });
  });

  test("UHD0406: arguments of modules, and ways to initialise", () => {
    const m = "module M(a: int, b: int) { forward(x: f32[N, a]) -> f32[N, a] { x } }\n";
    const graph = (use: string): string => `${m}graph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use m = ${use}\n  m(x)\n}`;
    refused(graph("M(3)"), { code: "UHD0406", at: "M", expected: "a: int, b: int", found: "1 argument", notes: ["M"] });
    refused(graph("M(3, 4, 5)"), { code: "UHD0406", at: "5", found: "3 arguments", notes: ["M"] });
    refused(graph("M(3, bb: 4)"), { code: "UHD0406", at: "bb", help: 'did you mean "b"?' });
    refused("module M(a: int) {\n  param w: f32[a] ~ norml(0.02)\n}", {
      code: "UHD0406",
      at: "norml(0.02)",
      help: 'did you mean "normal"?',
    });
  });

  test("UHD0407 and UHD0408: settings from outside", () => {
    const text = 'config width: int = 8\nconfig scale: float = 0.5\nconfig on: bool = true\nconfig policy: string = "v1"\n';
    refused(
      text,
      { code: "UHD0407", at: "", found: "widht", help: 'did you mean "width"?', expected: "width, scale, on, policy" },
      { widht: "3" },
    );
    refused(text, { code: "UHD0408", at: "width", expected: "int", found: '"wide"' }, { width: "wide" });
    refused(text, { code: "UHD0408", at: "width", expected: "int", found: '"1.5"' }, { width: "1.5" });
    refused(text, { code: "UHD0408", at: "on", expected: "bool" }, { on: "1" });
    const program = check(text, { width: "12", scale: "2", on: "false", policy: "seed" });
    expect(program.diagnostics).toEqual([]);
    expect(program.configs.map((c) => [c.name, c.value, c.default])).toEqual([
      ["width", 12, "8"],
      ["scale", 2, "0.5"],
      ["on", false, "true"],
      ["policy", "seed", '"v1"'],
    ]);
  });

  test("UHD0410: parameters whose sizes are open, or one name with two types", () => {
    refused(
      "module M(a: int) {\n  param w: f32[a, 2]\n  forward(x: f32[N, a]) -> f32[N, 2] { x @ w }\n}\ngraph g(x: f32[N, D]) -> y: f32[N, 2] {\n  use m = M(D)\n  m(x)\n}",
      { code: "UHD0410", at: "f32[a, 2]", expected: "numbers", found: "f32[D, 2]", notes: ["D"] },
    );
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  state s: f32[N]\n  x + s\n}", {
      code: "UHD0410",
      at: "f32[N]",
      notes: ["N"],
      help: /most/,
    });
    refused(
      'module M(a: int) {\n  param w: f32[a] at "w"\n  param v: f32[2 * a] at "w"\n  forward(x: f32[a]) -> f32[2 * a] { concat(x + w, x, axis: 0) + v }\n}\ngraph g(x: f32[2]) -> y: f32[4] {\n  use m = M(2)\n  m(x)\n}',
      { code: "UHD0410", at: 'param v: f32[2 * a] at "w"', expected: "f32[2]", found: "f32[4]", notes: ['param w: f32[a] at "w"'] },
    );
  });
});

describe("recovery", () => {
  test("several mistakes are found in one run, in the order of the text, each once", () => {
    const program = check(`const a = bb
fn f(x: int) -> int = x / 2
fn g() = f(1, 2)
graph h(x: f32[N, 3], w: f32[5, 4]) -> y: f32[N, 3] {
  let u = linear(x, w)
  let v = u + 1
  sofmax(v, axis: 1)
}
graph i(x: f32[N]) -> y: f32[N, 2] { x }
`);
    expect(program.diagnostics.map((d) => d.code)).toEqual(["UHD0101", "UHD0201", "UHD0203", "UHD0302", "UHD0104", "UHD0305"]);
    expect(program.graphs.size).toBe(0);
  });

  test("several syntax errors are found in one run, and nothing that follows from them is told", () => {
    const program = check("const a = \nfn f(x: int -> int = x\nconst b = (1\nconst c = lost\ngraph g() {}\n");
    expect(program.diagnostics.length).toBeGreaterThanOrEqual(3);
    expect(new Set(program.diagnostics.map((d) => d.code))).toEqual(new Set(["UHD0010"]));
    expect(new Set(program.diagnostics.map((d) => d.span.line)).size).toBe(program.diagnostics.length);
  });

  test("a graph with an error does not keep the others from being elaborated", () => {
    const program = check("graph bad(x: f32[N]) -> y: f32[N] { lost }\ngraph good(x: f32[N]) -> y: f32[N] { x + 1 }");
    expect(program.diagnostics.map((d) => d.code)).toEqual(["UHD0101"]);
    expect([...program.graphs.keys()]).toEqual(["good"]);
  });

  test("a module with a wrong body still tells callers about their own mistakes", () => {
    const program = check(`module M(d: int) { forward(x: f32[N, d]) -> f32[N, d] { lost } }
graph g(x: f32[N, 3]) -> y: f32[N, 4] {
  use m = M(3)
  m(x)
}`);
    expect(program.diagnostics.map((d) => d.code)).toEqual(["UHD0101", "UHD0305"]);
  });

  test("a name whose import failed is not told again at its uses", () => {
    const program = checkFiles({ "a.uhd": 'import { x, y } from "./b.uhd"\nconst a = x + y\nconst c = x', "b.uhd": "const y = 1" });
    expect(program.diagnostics.map((d) => d.code)).toEqual(["UHD0405"]);
  });
});

describe("programs that are too deep or do not end", () => {
  const deep = 10_000;
  const many = (text: string, n = deep): string => text.repeat(n);
  const lines = (f: (i: number) => string, n = deep): string => Array.from({ length: n }, (_, i) => f(i)).join("\n");
  const last = deep - 1;

  /** One clear error, soon. */
  function ends(text: string, code: string, ms = 5000): Diagnostic | undefined {
    const started = performance.now();
    const program = check(text);
    expect(program.diagnostics.map((d) => d.code)).toEqual([code]);
    expect(performance.now() - started).toBeLessThan(ms);
    return program.diagnostics[0];
  }

  test.each([
    ["parentheses", `const a = ${many("(")}1${many(")")}`],
    ["parentheses without their ends", `const a = ${many("(")}`],
    ["blocks", `fn f() = ${many("if true { ")}1${many(" } else { 2 }")}`],
    ["lists", `const a = ${many("[")}1${many("]")}`],
    ["minus signs", `const a = ${many("-")}1`],
    ["not", `const a = ${many("not ")}true`],
    ["else if", `fn f(x: int) = ${many("if x == 1 { 1 } else ")}{ 2 }`],
    ["sums", `const a = 1${many(" + 1")}`],
    ["powers", `const a = 1${many(" ** 1")}`],
    ["calls", `fn f(x: int) = ${many("floor(")}1${many(")")}`],
    ["fields", `fn f(x: int) = x${many(".a")}`],
    ["list types", `fn f(x: ${many("[")}int${many("]")}) = x`],
    ["records", `const a = ${many("{ a: ")}1${many(" }")}`],
    ["record types", `type A = ${many("{ a: ")}int${many(" }")}`],
    ["patterns", `fn f() { let ${many("(a, ")}b${many(")")} = 1\n 2 }`],
    ["settings", `train { ${many("a { ")} ${many("}")} }`],
    ["braces", many("{")],
  ])("%s, nested 10,000 deep", (_, text) => {
    expect(ends(text, "UHD0003")?.expected).toMatch(/at most 200 levels/);
  });

  test.each([
    ["values of a block", `fn f() {\n${lines((i) => `let a${i} = ${i === 0 ? "1" : `a${i - 1} + 1`}`)}\na${last} }`],
    ["constants", lines((i) => `const a${i} = ${i === last ? "1" : `a${i + 1} + 1`}`)],
    ["functions", lines((i) => `fn f${i}(x: int) = ${i === last ? "x" : `f${i + 1}(x)`}`)],
    ["types", lines((i) => `type A${i} = ${i === last ? "int" : `[A${i + 1}]`}`)],
    [
      "modules",
      lines((i) => `module M${i}(d: int) { ${i === last ? "" : `use m = M${i + 1}(d)\n`}forward(x: f32[T, d]) -> f32[T, d] { x } }`),
    ],
  ])("%s that refer to each other, 10,000 long", (_, text) => {
    ends(text, "UHD0501", 15_000);
  });

  test("a chain of 10,000 imports", () => {
    const started = performance.now();
    const program = loadProgram("f0.uhd", {
      readText: (file) => {
        const i = Number(/^f(\d+)\.uhd$/.exec(file)?.[1]);
        return i === last ? "const x = 1" : `import { x } from "./f${i + 1}.uhd"`;
      },
    });
    expect(program.diagnostics.map((d) => [d.code, d.message])).toEqual([["UHD0501", "more than 1000 files"]]);
    expect(performance.now() - started).toBeLessThan(10_000);
  });

  test("modules that double at every level", () => {
    const letters = [..."BCDEFGHIJKLMNOPQRSTUVWXY"];
    const text = ["A", ...letters]
      .map((c, i) => {
        const next = letters[i];
        return `module ${c}1(d: int) {\n${next === undefined ? "" : `use a = ${next}1(d)\nuse b = ${next}1(d)\n`}forward(x: f32[N, d]) -> f32[N, d] { x }\n}`;
      })
      .join("\n");
    expect(ends(`${text}\ngraph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use m = A1(3)\n  m(x)\n}`, "UHD0501", 20_000)?.message).toMatch(
      /modules/,
    );
  });

  test("a block repeated too often", () => {
    const found = ends("graph g(x: f32[N]) -> y: f32[N] {\n  var h = x\n  repeat i in 0..1000000 { h = h + 1 }\n  h\n}", "UHD0501");
    expect(found?.span.line).toBe(3);
  });

  test.each([
    ["a function that calls itself for ever", "fn f(n: int) -> int = f(n + 1)\nconst a = f(1)", /^main\.uhd:1:23: f calls itself/],
    [
      "two functions that call each other",
      "fn f(n: int) -> int = g(n)\nfn g(n: int) -> int = f(n)\nconst a = f(1)",
      /^main\.uhd:[12]:23: [fg] calls itself/,
    ],
    [
      "a function that takes for ever",
      "fn f(n: int) -> int = if n < 2 { n } else { f(n - 1) + f(n - 2) }\nconst a = f(80)",
      /^main\.uhd:1:\d+: .*steps/,
    ],
    ["a range without bounds", "const a = sum([1 for i in 0..1000000000])", /too long/],
    ["a list of lists of everything", "const a = len([1 for i in 0..100000 for j in 0..100000])", /more than 20000000 elements/],
  ])("%s stops, and the place is named", (_, text, found) => {
    const d = ends(text, "UHD0208", 50_000);
    expect(d?.found).toMatch(found);
    expect(d?.span.line).toBe(text.split("\n").length);
  });

  test("recursion that ends is evaluated", () => {
    const program = check("fn f(n: int) -> int = if n < 2 { 1 } else { n * f(n - 1) }\nconfig a: int = f(10)");
    expect(program.diagnostics).toEqual([]);
    expect(program.configs[0]?.value).toBe(3628800);
  });
});

describe("what the language means", () => {
  test("choose takes the first of equal minima, in float64", () => {
    const program = check(
      "const a = choose x in [3, 1, 2] minimizing 0\nconfig b: int = a\nconfig c: int = choose x in [1, 2, 3] where x > 1 minimizing x % 2",
    );
    expect(program.configs.map((c) => c.value)).toEqual([3, 2]);
  });

  test("sizes are polynomials: equality does not depend on how they are written", () => {
    expect(check("graph g(x: f32[h, w, 6]) -> y: f32[2 * w * h, 3] {\n  reshape(x, [h * w * 2, 3])\n}").diagnostics).toEqual([]);
    refused("graph g(x: f32[h, w]) -> y: f32[h + w] { reshape(x, [h + w]) }", { code: "UHD0302", at: "[h + w]" });
  });

  test("parameters that no graph uses do not enter it", () => {
    const program = check(
      "module M(d: int, wide: bool) {\n  param a: f32[d]\n  param b: f32[d]\n  forward(x: f32[N, d]) -> f32[N, d] { x + (if wide { a } else { b }) }\n}\ngraph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use m = M(3, true)\n  m(x)\n}",
    );
    expect(program.diagnostics).toEqual([]);
    expect(program.graphs.get("g")?.nodes.flatMap((n) => (n.kind === "param" ? [n.name] : []))).toEqual(["m.a"]);
  });

  test("checkpoint names join the places of modules; an empty place adds nothing", () => {
    const program = check(
      'module L(d: int) {\n  param w: f32[d] at "weight"\n  forward(x: f32[N, d]) -> f32[N, d] { x + w }\n}\nmodule M(d: int) {\n  use l[2] = L(d) at "layers"\n  use plain = L(d) at ""\n  forward(x: f32[N, d]) -> f32[N, d] { plain(l[1](l[0](x))) }\n}\ngraph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use m = M(3) at "model.vision"\n  m(x)\n}',
    );
    expect(program.diagnostics).toEqual([]);
    expect(program.graphs.get("g")?.nodes.flatMap((n) => (n.kind === "param" ? [n.name] : []))).toEqual([
      "model.vision.layers.0.weight",
      "model.vision.layers.1.weight",
      "model.vision.weight",
    ]);
  });

  test("the train section is read and kept", () => {
    const program = check('train {\n  rate: 0.001\n  optimiser { name: "adamw" }\n}');
    expect(program.diagnostics).toEqual([]);
    expect(program.train.map((s) => s.name.name)).toEqual(["rate", "optimiser"]);
  });
});
